"""Does what a loop handed in belong together? What one call keeps, so that the next can tell where the hook stands.

A hook in the wrong place sees a right gradient beside a loss that it does not belong to. Then every parameter is wrong,
and the bug is not in backward. With the parameters, the gradient and the reference of the call before, most such places
can be told exactly: each is a statement about numbers, and it holds in every entry or it is not made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.arrays.large import LARGE
from gc_hooks.arrays.norms import norm
from gc_hooks.arrays.tree import flatten, rebuild
from gc_hooks.errors import GradCheckError
from gc_hooks.hooks.questions import OwnStep, reset
from gc_hooks.isolation.undoing import undone_by
from gc_hooks.problem import BudgetSpent, put_back
from gc_hooks.problem.validate import build_problem, parameter_arrays
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import Code, Diagnosis
from gc_hooks.report.verdict import Verdict
from gc_hooks.tracing import NotTraceable, Tracer
from gc_hooks.tracing.confirm import confirmed_reference

SAME, ROUNDINGS = 1e-6, 1000
"""How far, relatively, two gradients may be apart that are taken for one; or so many roundings of their precision."""
ALIKE = 1e-3
"""How far, relatively, a gradient may be from a multiple of another. Two calls with one batch and a small step have
gradients that differ by less: nothing follows from them then."""
LEAST_MULTIPLE, NEAR_ONE = 0.01, 1e-3
"""Multiples of the gradient before that are a momentum, from the first on; so near to 1 they are a sum."""


@dataclass(frozen=True)
class Kept:
    """What is known of one call at the next: copies, by the names of the parameters."""

    call: int
    params: dict[str, Array]
    grads: dict[str, Array]  # the buffers, where there are any; in float64
    reference: dict[str, Array]  # the true gradient there, where it had to be traced


def keep(call: int, own: OwnStep, report: CheckReport) -> Kept | None:
    """Return what the next call may need; traces the gradient where this one was wrong, at the price of one.

    None where the copies would be large.
    """
    params = {name: np.array(array) for name, array in _arrays(own).items() if array.size < LARGE}
    if len(params) < len(_arrays(own)):
        return None
    reference = _reference(own) if report.verdict > Verdict.INCONCLUSIVE else {}
    return Kept(call, params, _buffers(own), reference)


def misplaced(own: OwnStep, report: CheckReport, before: Kept) -> Diagnosis | None:
    """Return what the gradient of this call is in truth, with the call before; None where that is not known.

    Asked where every parameter is wrong that has a gradient. Costs two references.
    """
    names = tuple(name for name, comparison in report.parameters.items() if comparison.is_accused)
    if not names or any(c.verdict is Verdict.GOOD and c.backprop_norm > 0 for c in report.parameters.values()):
        return None
    grads, arrays = _buffers(own), _arrays(own)
    within = max(SAME, *(ROUNDINGS * float(np.finfo(array.dtype).eps) for array in arrays.values()))
    true = _reference(own)
    if _is_multiple(grads, true, within):  # of this call's own gradient: then that is the bug
        return None
    # With one batch in all calls both are true of one another. Before the first backward there is no gradient yet.
    had_gradient = any(map(np.any, before.grads.values()))
    if before.reference and _apart(grads, before.reference) <= within:
        is_late = had_gradient and _fits_at(own, grads, before.params, within)
        return _diagnosis(Code.AFTER_THE_UPDATE if is_late else Code.STALE, names)
    factor = _multiple(grads, true, before.grads, within)
    if factor is not None:
        return _diagnosis(Code.ACCUMULATED if abs(factor - 1) <= NEAR_ONE else Code.MOMENTUM, names, factor)
    if _fits_at(own, grads, before.params, within):
        return _diagnosis(Code.AFTER_THE_UPDATE, names)
    return None


def is_misplacement(report: CheckReport) -> bool:
    """Return whether a check has found that loss and gradient do not belong together."""
    return any(diagnosis.code in SEEN for diagnosis in report.diagnoses)


def _arrays(own: OwnStep) -> dict[str, Array]:
    return parameter_arrays(own.params, own.in_place)


def _buffers(own: OwnStep) -> dict[str, Array]:
    """Return copies of the gradients that were handed in as arrays, by the names of the parameters."""
    problem = build_problem(own.loss, own.params, own.grads, in_place=own.in_place, is_known=True)
    return {name: np.array(gradient, np.float64) for name, gradient in problem.grads.items()}


def _reference(own: OwnStep) -> dict[str, Array]:
    """Return the true gradient of this call's loss, by the names of the parameters; empty where it cannot be traced."""
    zeros = rebuild(own.params, {name: np.zeros(np.shape(leaf)) for name, leaf in flatten(own.params).items()})
    with reset(own) as (loss, _):
        problem = build_problem(loss, own.params, zeros, in_place=own.in_place, penalty=own.penalty)
        try:
            reference, _, _ = confirmed_reference(Tracer(problem), np.random.default_rng(0))
        except (NotTraceable, BudgetSpent, GradCheckError):
            return {}
        finally:
            put_back(problem.live or {}, problem.home or {})
    return reference.gradients


def _fits_at(own: OwnStep, grads: Mapping[str, Array], params: Mapping[str, Array], within: float) -> bool:
    """Return whether the gradient is that of the loss at other parameters."""
    arrays = _arrays(own)
    if arrays.keys() != params.keys() or all(np.array_equal(arrays[name], params[name]) for name in arrays):
        return False
    if not own.in_place:
        moved = own._replace(params=rebuild(own.params, dict(params)))
        return _apart(grads, _reference(moved)) <= within
    home = {name: np.array(array) for name, array in arrays.items()}
    with undone_by(partial(_write, arrays, home)):
        _write(arrays, params)
        return _apart(grads, _reference(own)) <= within


def _write(arrays: Mapping[str, Array], values: Mapping[str, Array]) -> None:
    for name, array in arrays.items():
        array[...] = values[name]


def _apart(one: Mapping[str, Array], other: Mapping[str, Array]) -> float:
    """Return how far, relatively, two gradients are apart; infinite where they are of other parameters."""
    if one.keys() != other.keys():
        return math.inf
    size = norm(_joined(other))
    return norm(_joined(one) - _joined(other)) / size if size else math.inf


def _multiple(
    grads: Mapping[str, Array], reference: Mapping[str, Array], before: Mapping[str, Array], within: float
) -> float | None:
    """Return how many times the gradient before has been added to the true one; None where that is not what it is."""
    if not grads.keys() == reference.keys() == before.keys():
        return None
    excess, earlier = _joined(grads) - _joined(reference), _joined(before)
    size = float(np.vdot(earlier, earlier))
    factor = float(np.vdot(earlier, excess)) / size if size else 0.0
    fits = norm(excess - factor * earlier) <= within * norm(_joined(grads))
    return factor if fits and LEAST_MULTIPLE < factor < 1 + NEAR_ONE else None


def _is_multiple(grads: Mapping[str, Array], true: Mapping[str, Array], within: float) -> bool:
    """Return whether a gradient is nearly a multiple of the true one of the same call."""
    if grads.keys() != true.keys():
        return False
    one, other = _joined(grads), _joined(true)
    size = float(np.vdot(other, other))
    return bool(
        size and norm(one - float(np.vdot(one, other)) / size * other) <= ALIKE * norm(one) + within * norm(one)
    )


def _joined(arrays: Mapping[str, Array]) -> Array:
    return np.concatenate([np.ravel(arrays[name]) for name in sorted(arrays)])


SEEN = {
    Code.STALE: "The gradient is that of the call before: of its samples, at its parameters.",
    Code.ACCUMULATED: "The gradient is this step's plus that of the call before.",
    Code.MOMENTUM: "The gradient is this step's plus {:.3g} times that of the call before.",
    Code.AFTER_THE_UPDATE: "The gradient is right at the parameters of the call before, and not at those of this call.",
}
ADVICE = {
    Code.STALE: "This usually means that the hook is called before backward. Try hook.on_step between backward and the "
    "update.",
    Code.ACCUMULATED: "This usually means a buffer that is not set to zero at each step. Try grads[...] = 0 before "
    "backward, or = for +=.",
    Code.MOMENTUM: "This usually means that the velocity of the optimiser was handed in. Try the gradient that "
    "backward has computed.",
    Code.AFTER_THE_UPDATE: "This usually means that the hook is called after the update. Try hook.on_step between "
    "backward and the update.",
}


def _diagnosis(code: Code, names: tuple[str, ...], factor: float = 1.0) -> Diagnosis:
    return Diagnosis(code, names, SEEN[code].format(factor), "Nothing speaks against backward itself.", ADVICE[code])
