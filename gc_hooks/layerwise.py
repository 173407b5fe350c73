"""Check a network layer by layer: each backward on its own, for its parameters and its input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.check import check_gradients
from gc_hooks.layer_view import INPUT, LayerView, layer_views
from gc_hooks.nn.model import Sequential
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import Code, Diagnosis, listed
from gc_hooks.report.verdict import Verdict


def check_layers(layers: Sequential | Iterable[Any], inputs: Array, **options: object) -> dict[str, CheckReport]:
    """Check each layer's backward alone: a bug in one does not show in the others.

    Parameters
    ----------
    layers : nn.Sequential, or list of objects
        A model of `gc_hooks.nn`, or layers from inputs to outputs with ``forward(inputs)`` and ``backward(upstream)``,
        which may return the gradients of their parameters as a second value, and ``params`` and ``grads`` as twin
        dicts or lists. Copies are run.
    inputs : ndarray, (N, ...)
        What the first layer gets; the others get what the one before makes of it.
    **options
        As for `check_gradients`: method, probes, tolerance, seed and the limits, for each layer.

    Returns
    -------
    dict of str to CheckReport
        By the layer's place and class, in their order. The gradient for the layer's input is judged under the name
        "input", beside those of its parameters; a note says where its backward stands.

    Raises
    ------
    InvalidProblem
        There are no layers, or one lacks forward or backward.

    Notes
    -----
    The loss is ``sum(R * outputs)`` with random normal numbers R, so that R is what backward gets as the upstream
    gradient. Costs what `check_gradients` costs, for each layer and with that layer as the loss.

    Examples
    --------
    >>> from gc_hooks import nn
    >>> model = nn.Sequential([nn.Dense(3, 4), nn.Tanh(), nn.Dense(4, 2)])
    >>> {name: report.verdict.name for name, report in check_layers(model, np.ones((5, 3))).items()}
    {'1 Dense': 'GOOD', '2 Tanh': 'GOOD', '3 Dense': 'GOOD'}
    """
    if isinstance(layers, Sequential):
        return check_layer_views(layers.pieces(inputs), **options)
    return check_layer_views(layer_views(layers, inputs), **options)


def check_layer_views(views: Iterable[LayerView], **options: object) -> dict[str, CheckReport]:
    """Check each layer of a network that has been taken apart, where it has parameters or a real input."""
    return {view.name: _check_layer(view, options) for view in views if view.point}


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
