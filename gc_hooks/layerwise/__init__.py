"""Check a network layer by layer: each backward on its own, for its parameters and its input."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.check import CheckOptions, check_gradients
from gc_hooks.errors import GradCheckError
from gc_hooks.layer_view import INPUT, LayerView
from gc_hooks.layerwise.foreign import foreign_views
from gc_hooks.layerwise.pairs import Names
from gc_hooks.layerwise.twin import explained
from gc_hooks.nn.layers import Layer
from gc_hooks.nn.model import Sequential
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Comparison
from gc_hooks.report.diagnosis import Code, Diagnosis, agree, listed
from gc_hooks.report.verdict import Verdict


def check_layers(
    layers: Sequential | Iterable[Any],
    inputs: Array,
    *,
    params: str | Sequence[str] = (),
    grads: str | Sequence[str] = (),
    skip: str | Sequence[str] = (),
    **options: object,
) -> dict[str, CheckReport]:
    """Check each layer's backward alone: a bug in one does not show in the others.

    Parameters
    ----------
    layers : nn.Sequential, or list of objects
        A model of `gc_hooks.nn`, or layers from inputs to outputs with ``forward(inputs)`` and ``backward(upstream)``;
        ``forward_pass`` and ``backward_pass``, ``fprop`` and ``bprop`` will do. Copies are run.
    inputs : ndarray, (N, ...)
        What the first layer gets; the others get what the one before makes of it.
    params, grads : str or list of str, optional
        The attributes of the layers that hold parameters, and their gradients: arrays, dicts, lists or tuples. By
        default those whose names belong together: ``params`` and ``grads``, ``W`` and ``dW``, ``weights`` and
        ``dweights``, ``W`` and ``grad_W`` or ``W_grad``; and what backward returns beside the gradient of its input.
    skip : str or list of str, optional
        Arrays that are no parameters, by the names in the report.
    **options
        As for `check_gradients`: method, probes, tolerance, seed and the limits, for each layer.

    Returns
    -------
    dict of str to CheckReport
        By the layer's place and class, in their order. The gradient for the layer's input is judged under the name
        "input", beside those of its parameters; a note says where its backward stands. A layer that raises, or that
        cannot be copied, is INCONCLUSIVE with the reason, and the others are checked all the same.

    Raises
    ------
    InvalidProblem
        There are no layers, one lacks forward or backward, or no layer has the names in params= or grads=.

    Notes
    -----
    The loss is ``sum(R * outputs)`` with random normal numbers R, so that R is what backward gets as the upstream
    gradient. Costs what `check_gradients` costs, for each layer and with that layer as the loss.

    Of anybody's layer, every array is tried: one that changes the outputs, has no gradient, and does not change by
    itself in a forward pass, as running statistics do, is in ``report.unjudged``, and the report is never GOOD. Every
    call begins from the same state, so that what a layer draws or carries along is the same each time. Gradients that
    are all 1/N of the slope, N being the length of the batch, are a convention that a note tells, unless another of the
    layers does not follow it.

    Examples
    --------
    >>> from gc_hooks import nn
    >>> model = nn.Sequential([nn.Dense(3, 4), nn.Tanh(), nn.Dense(4, 2)])
    >>> {name: report.verdict.name for name, report in check_layers(model, np.ones((5, 3))).items()}
    {'1 Dense': 'GOOD', '2 Tanh': 'GOOD', '3 Dense': 'GOOD'}
    """
    if not isinstance(layers, Sequential):
        layers = list(layers)
        if layers and all(isinstance(layer, Layer) for layer in layers):
            layers = Sequential(layers)
    if isinstance(layers, Sequential):
        return check_layer_views(layers.pieces(inputs), **options)
    names = Names(*[(given,) if isinstance(given, str) else tuple(given) for given in (params, grads, skip)])
    with np.errstate(all="ignore"):
        views = foreign_views(layers, inputs, names)
    return check_layer_views(views, **options)


def check_layer_views(views: Iterable[LayerView], **options: Any) -> dict[str, CheckReport]:
    """Check each layer of a network that has been taken apart, where it has parameters or a real input."""
    CheckOptions(**options)  # a wrong option is no failure of a layer
    reports: dict[str, CheckReport] = {}
    divided: dict[str, CheckReport] = {}
    whole: list[str] = []
    for view in views:
        if view.point or view.unjudged or view.failure:
            reports[view.name] = _checked(view, options)
            again = _as_divided(view, reports[view.name], options)
            if again is not None:
                divided[view.name] = again
            elif any(c.verdict is Verdict.GOOD and c.backprop_norm for c in _own(reports[view.name])):
                whole += [view.name] * bool(view.batch)
    if not whole:
        return {**reports, **divided}
    for name in divided:
        reports[name] = reports[name].noted(
            f"It divides the gradients of its parameters by the length of the batch, and {listed(whole)} "
            f"{agree(whole, 'does', 'do')} not: one of the two is wrong. Try to divide in the loss alone."
        )
    return reports


def _checked(view: LayerView, options: dict[str, Any]) -> CheckReport:
    """Return the report of one layer, INCONCLUSIVE with the reason where it could not be checked."""
    reason = view.failure
    if view.point:
        try:
            with explained("The check"):
                return _check_layer(view, options)
        except GradCheckError as error:
            reason = str(error)
    notes = (*view.notes, f"Not checked. {reason}") if reason else view.notes
    return CheckReport({}, notes=notes, seed=options.get("seed", 0), unjudged=view.unjudged)


def _as_divided(view: LayerView, report: CheckReport, options: dict[str, Any]) -> CheckReport | None:
    """Check a layer as one that divides its own gradients by the length of the batch, where more is right then."""
    wrong = [c for c in _own(report) if c.verdict > Verdict.INCONCLUSIVE]
    for length in view.batch:
        if any(math.isclose(c.measured_norm, length * c.backprop_norm, rel_tol=1e-3) for c in wrong):

            def backward(point: Mapping[str, Array], upstream: Array, length: int = length) -> dict[str, Any]:
                grads = view.backward(point, upstream)
                return {name: grad if name == INPUT or grad is None else length * grad for name, grad in grads.items()}

            again = _checked(replace(view, backward=backward), options)
            if sum(c.verdict > Verdict.INCONCLUSIVE for c in _own(again)) < len(wrong):
                return again.noted(
                    f"The layer divides the gradients of its parameters by the length of the batch, {length}, and that "
                    "for its input not. They were judged as divided. This usually means a loss that is not divided. "
                    f"Try to divide in one of the two only: if the loss divides too, they are 1/{length} of what they "
                    "should be."
                )
    return None


def _own(report: CheckReport) -> list[Comparison]:
    """Return the comparisons of a layer's parameters, without that of its input."""
    return [comparison for name, comparison in report.parameters.items() if name != INPUT]


def _check_layer(view: LayerView, options: dict[str, Any]) -> CheckReport:
    outputs = np.asarray(view.forward(view.point))
    upstream = np.asarray(np.random.default_rng(options.get("seed", 0)).standard_normal(outputs.shape))
    report = check_gradients(
        lambda params: np.sum(upstream * view.forward(params)),
        view.point,
        lambda params: view.backward(params, upstream),
        **options,
    )
    if view.where:
        report = report.noted(f"Its backward: {view.where}.")
    diagnoses = list(report.diagnoses)
    # Backward is linear in the upstream gradient: of zeros it makes zeros.
    nonzero = []
    for name, grad in view.backward(view.point, 0.0 * upstream).items():
        if grad is not None and np.any(np.asarray(grad) != 0):
            nonzero.append(name)
    if nonzero:
        message = f"For an upstream gradient of zeros the layer's backward does not give zeros, for {listed(nonzero)}."
        advice = (
            "This usually means a buffer that is added to and never set to zero, or something added that does not come "
            "from above (a penalty inside the layer). Try to write = where it says +=."
        )
        diagnoses.append(Diagnosis(Code.NOT_LINEAR, tuple(nonzero), message, advice=advice))
    return replace(report.noted(*view.notes), diagnoses=tuple(diagnoses), unjudged=view.unjudged)


def layers_at_fault(reports: dict[str, CheckReport], views: Iterable[LayerView]) -> Iterator[Diagnosis]:
    """Yield a diagnosis for each layer whose own backward is wrong, from the loss down; not for blocks around it."""
    where = {view.name: view.where for view in views}
    named: list[str] = []
    for name, report in reversed(reports.items()):
        wrong = [c.name for c in report.parameters.values() if c.verdict > Verdict.INCONCLUSIVE]
        # A block "2 Sequential" around a wrong layer "2.1 Dense" is wrong too, and comes after it here.
        if not wrong or any(other.startswith(f"{name.split()[0]}.") for other in named):
            continue
        named.append(name)
        evidence = f"The difference there is {report.difference:.1e}."
        for diagnosis in report.diagnoses:
            if diagnosis.code not in (Code.UNEXPLAINED, Code.OTHER_LOSS):
                evidence += f" {diagnosis.message}"
        what = " and ".join("its input" if key == INPUT else key for key in wrong)
        message = f"Checked alone, the backward of layer {name} ({where[name]}) is wrong for {what}."
        yield Diagnosis(Code.LAYER, tuple(wrong), message, evidence, "Try that function first.", layer=name)
