"""Which forward passes can the reference trace? Some two hundred manners of writing one, and every layer of ``nn``.

Run it with ``python tests/benchmarks/coverage.py --least 0.9``. Each style in the folder ``styles`` is checked with its
true gradient, and with one array of that doubled. The truth is found here, entry by entry: by complex step where the
code lets complex numbers through, else by central differences of order six, and each is held against the other. The
exit status is 1 after a wrong verdict, or where the reference serves too few styles.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse
import io
import re
import sys
import warnings
from collections import Counter
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.styles import STYLES
from gc_hooks import Verdict, check_gradients

STEP = 2.0**-12
AHEAD = {1: 3 / 4, 2: -3 / 20, 3: 1 / 60}
"""Weights of a central difference whose error is of the order of the step's sixth power."""

AGREE = 1e-8
"""How far two ways to the truth may differ, relative to an array's gradient; a gradient is GOOD up to 1e-7."""

VANISHING = 1e-6
"""An array whose gradient is smaller than this part of the whole is not the one that is doubled."""

REFERENCE = "reference"


# --- the truth --------------------------------------------------------------------------------------------------------


class Unsure(AssertionError):
    """Two ways to the true gradient do not agree: the style stands on a kink, or is broken."""


class Line:
    """All parameters as one vector, whatever their structure, and the loss as a function of it."""

    def __init__(self, loss, params, in_place):
        self.loss, self.params, self.in_place = loss, params, in_place
        self.leaves = [np.asarray(leaf) for leaf in leaves(params)]
        self.point = np.concatenate([leaf.ravel() for leaf in self.leaves]).astype(np.float64)
        self.cuts = np.cumsum([leaf.size for leaf in self.leaves])[:-1]

    def parts(self, vector):
        return np.split(vector, self.cuts)

    def structured(self, vector):
        """Return the vector in the structure of the parameters; numbers stay numbers."""
        return rebuilt(self.params, iter(self.parts(vector)))

    def __call__(self, vector):
        if not self.in_place:
            return np.squeeze(self.loss(self.structured(vector)))[()]
        try:
            self._write(vector)
            return np.squeeze(self.loss())[()]
        finally:
            self._write(self.point)

    def _write(self, vector):
        for leaf, part in zip(self.leaves, self.parts(vector), strict=True):
            leaf[...] = part.reshape(leaf.shape)


def leaves(params):
    if isinstance(params, dict):
        params = list(params.values())
    if not isinstance(params, (list, tuple)):
        return [params]
    return [leaf for part in params for leaf in leaves(part)]


def rebuilt(params, parts):
    if isinstance(params, dict):
        return {name: rebuilt(part, parts) for name, part in params.items()}
    if isinstance(params, (list, tuple)):
        return type(params)(rebuilt(part, parts) for part in params)
    part = next(parts)
    return part.reshape(params.shape) if isinstance(params, np.ndarray) else part[0].item()


def true_gradient(style):
    """Return the gradient of a style as one vector, and the way by which it was found."""
    with quiet(), patch.object(np, "float32", np.float64):
        line = Line(*style.written()[:3])
        central = by_central(line, STEP)
        try:
            found, way = by_complex_step(line), "complex step"
            check_agreement(line, found, central)
        except Exception:  # complex numbers do not come through: comparisons, abs(), float(), arrays of real numbers
            found, way = central, "central"
            check_agreement(line, found, by_central(line, STEP / 2))
    return found, way


def by_complex_step(line, step=1e-30):
    if line.in_place:
        raise TypeError("the user's arrays hold real numbers")
    slopes = np.zeros(line.point.size)
    with warnings.catch_warnings():
        warnings.simplefilter("error", np.exceptions.ComplexWarning)
        for index in range(line.point.size):
            moved = line.point.astype(np.complex128)
            moved[index] += 1j * step
            slopes[index] = np.imag(line(moved)) / step
    return slopes


def by_central(line, step):
    slopes = np.zeros(line.point.size)
    for index in range(line.point.size):
        for steps, weight in AHEAD.items():
            for side in (-1, 1):
                moved = line.point.copy()
                moved[index] += side * steps * step
                slopes[index] += side * weight * line(moved) / step
    return slopes


def check_agreement(line, one, other):
    whole = np.linalg.norm(one)
    for first, second in zip(line.parts(one), line.parts(other), strict=True):
        apart, limit = np.linalg.norm(first - second), AGREE * (np.linalg.norm(first) + 1e-2 * whole)
        if not apart <= limit:
            raise Unsure(f"{apart:.1e} between two ways to the truth, at most {limit:.1e} expected")


# --- the verdicts -----------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """What became of one style."""

    style: Any
    truth: str
    right: Any
    doubled: Any
    which: int
    seconds: float
    unchanged: bool

    @property
    def traced(self):
        return self.right.method == REFERENCE

    @property
    def why_not(self):
        """Return the notes that say why the reference was not used."""
        return [note for note in self.right.notes if REFERENCE in note]

    @property
    def faults(self):
        """Yield what is wrong with the verdicts, or was changed by the check."""
        if not self.unchanged:
            yield "its parameters or its loss are not what they were before the check"
        for name, comparison in self.right.parameters.items():
            if comparison.verdict > Verdict.INCONCLUSIVE:
                yield f"accused although right: {name} {comparison.verdict}, {comparison.difference:.1e}"
        for position, (name, comparison) in enumerate(self.doubled.parameters.items()):
            if position == self.which and comparison.verdict is Verdict.GOOD:
                yield f"GOOD although doubled: {name}, {comparison.difference:.1e}"
            if position != self.which and comparison.verdict > Verdict.INCONCLUSIVE:
                yield f"accused beside a doubled one: {name} {comparison.verdict}, {comparison.difference:.1e}"


def examine(style):
    """Check one style with its true gradient, and with one array of it doubled."""
    gradient, way = true_gradient(style)
    with quiet():
        loss, params, in_place, attach = style.written()
        line = Line(loss, params, in_place)
        parts = line.parts(gradient)
        sizes = [np.linalg.norm(part) for part in parts]
        which = max(k for k, size in enumerate(sizes) if size > VANISHING * np.linalg.norm(gradient))
        wrong = np.concatenate([part * (2 if k == which else 1) for k, part in enumerate(parts)])
        before = footprint(line)
        start = perf_counter()
        right = check_gradients(**attach(line.structured(gradient)))
        seconds = perf_counter() - start
        doubled = check_gradients(**attach(line.structured(wrong)))
        unchanged = footprint(line) == before
    assert len(right.parameters) == len(doubled.parameters) == len(parts), "an array was lost on its way"
    return Result(style, way, right, doubled, which, seconds, unchanged)


def footprint(line):
    """Return the bits of the parameters, and of the loss, with its type."""
    bits = [leaf.tobytes() for leaf in line.leaves]  # before the loss is asked, for which they are written
    value = line(line.point)
    return bits, type(value), float(value)


@contextmanager
def quiet():
    """Keep to itself what a loss prints; errors of floating point are expected, and NumPy's old matrices are in use."""
    with redirect_stdout(io.StringIO()), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        yield


# --- the table --------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--least", type=float, default=0.0, help="share of the styles that the reference must serve")
    parser.add_argument("--only", default="", help="a part of the names of styles, or a group")
    options = parser.parse_args()
    results, faults = [], []
    print(f"{'style':52}{'truth':14}{'method':14}{'right':14}{'doubled':14}{'seconds':>8}")
    for style in STYLES.values():
        if options.only not in style.name and options.only != style.group:
            continue
        try:
            result = examine(style)
        except ModuleNotFoundError as error:
            print(f"{style.name:52}left out: {error}")
        except Exception as error:  # one that breaks the check itself must not hide the others
            faults.append(f"{style.name}: raised {type(error).__name__}: {error}")
            print(f"{style.name:52}raised {type(error).__name__}", flush=True)
        else:
            results.append(result)
            faults += [f"{style.name}: {fault}" for fault in result.faults]
            print_row(result)
    too_few = print_groups(results, options.least)
    print(f"\nwrong verdicts: {len(faults)}", *faults, sep="\n  ")
    sys.exit(1 if faults or too_few else 0)


def print_row(result):
    right, doubled = result.right, list(result.doubled.parameters.values())[result.which].verdict
    print(
        f"{result.style.name:52}{result.truth:14}{right.method:14}{right.verdict!s:14}{doubled!s:14}"
        f"{result.seconds:8.3f}",
        flush=True,
    )
    for note in () if result.traced else result.why_not:
        print(f"    {note}")


def print_groups(results, least):
    """Print how many styles of each group were traced; return whether these are too few, of strangers or of nn."""
    all_of = Counter(result.style.group for result in results)
    traced = Counter(result.style.group for result in results if result.traced)
    unsure = Counter(result.style.group for result in results if result.right.verdict is Verdict.INCONCLUSIVE)
    print(f"\n{'group':16}{'styles':>8}{'traced':>8}{'inconclusive':>14}")
    for group, count in all_of.items():
        print(f"{group:16}{count:8}{traced[group]:8}{unsure[group]:14}")
    refused = [result.why_not for result in results if not result.traced]
    with_line = sum(any(re.search(r"\.py:\d+", note) for note in notes) for notes in refused)
    print(f"refused: {len(refused)}, with a reason: {sum(map(bool, refused))}, with a line of code: {with_line}")
    shares = {}
    for whose, groups in (("strangers", all_of.keys() - {"nn"}), ("nn", all_of.keys() & {"nn"})):
        count = sum(all_of[group] for group in groups)
        if count:
            shares[whose] = sum(traced[group] for group in groups) / count
            print(f"traced of {count} styles, {whose}: {shares[whose]:.1%}")
    return any(share < least for share in shares.values())


if __name__ == "__main__":
    main()
