"""Layer by layer: each backward on its own, for its parameters and its input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.check import check_gradients
from gc_hooks.layer_view import INPUT, LayerView, layer_views
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import Diagnosis, listed
from gc_hooks.report.verdict import Verdict


def check_layers(layers: Any, inputs: Array, **options: Any) -> dict[str, CheckReport]:
    """Check each layer's backward alone: a bug in one does not show in the others.

    Parameters
    ----------
    layers : nn.Sequential, or list of objects
        A model of `gc_hooks.nn`, or layers from inputs to outputs with ``forward(inputs)`` and ``backward(upstream)``,
        which may hand over the gradients of their parameters as a second value, and ``params`` and ``grads`` as twin
        dicts or lists. Copies are run.
    inputs : ndarray, (N, ...)
        What the first layer gets; the others get what the one before makes of it.
    **options
        As for `check_gradients`: method, probes, tolerance, seed and the limits, for each layer.

    Returns
    -------
    dict of str to CheckReport
        By the layer's place and class, in their order. In each, the gradient for the layer's input is judged beside
        those of its parameters, under the name "input"; a note says where its backward stands.

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
    pieces = layers.pieces(inputs) if hasattr(layers, "pieces") else layer_views(layers, inputs)
    return check_layer_views(pieces, **options)


def check_layer_views(pieces: Iterable[LayerView], **options: Any) -> dict[str, CheckReport]:
    """The same for a network that has been taken apart."""
    return {piece.name: _check(piece, options) for piece in pieces if piece.point}


def _check(piece: LayerView, options: dict[str, Any]) -> CheckReport:
    outputs = np.asarray(piece.forward(piece.point))
    upstream = np.asarray(np.random.default_rng(options.get("seed", 0)).standard_normal(outputs.shape))
    report = check_gradients(
        lambda p: np.sum(upstream * piece.forward(p)),
        piece.point,
        lambda p: piece.backward(p, upstream),
        **options,
    )
    report = report.noted(*([f"Its backward: {piece.where}."] if piece.where else []), *piece.notes)
    return replace(report, diagnoses=(*report.diagnoses, *_nothing_from_nothing(piece, upstream)))


def _nothing_from_nothing(piece: LayerView, upstream: Array) -> Iterator[Diagnosis]:
    """Backward is linear in what comes from above: of zeros it makes zeros."""
    grads = piece.backward(piece.point, 0.0 * upstream)
    moved = [name for name, grad in grads.items() if grad is not None and np.any(np.asarray(grad) != 0)]
    if moved:
        yield Diagnosis(
            "not_linear",
            tuple(moved),
            f"For an upstream gradient of zeros the layer's backward does not give zeros, for {listed(moved)}.",
            advice="This usually means a buffer that is added to and never set to zero, or something added that does "
            "not come from above (a penalty inside the layer). Try to write = where it says +=.",
        )


def layers_at_fault(reports: dict[str, CheckReport], pieces: Iterable[LayerView]) -> Iterator[Diagnosis]:
    """A diagnosis for each layer whose own backward is wrong, from the loss down, but not for a block around it."""
    where = {piece.name: piece.where for piece in pieces}
    named: list[str] = []
    for name, report in reversed(reports.items()):
        wrong = [key for key, comparison in report.parameters.items() if comparison.verdict > Verdict.INCONCLUSIVE]
        if wrong and not any(other.startswith(f"{name.split()[0]}.") for other in named):
            named.append(name)
            what = " and ".join("its input" if key == INPUT else key for key in wrong)
            explained = " ".join(d.message for d in report.diagnoses if d.code not in ("unexplained", "other_loss"))
            yield Diagnosis(
                "layer",
                tuple(wrong),
                f"Checked alone, the backward of layer {name} ({where[name]}) is wrong for {what}.",
                f"The difference there is {report.difference:.1e}. {explained}".strip(),
                "Try that function first.",
            )
