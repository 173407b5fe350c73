"""Name the bug of a Jacobian: one that explains every wrong row, or what is wrong with its entries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from gc_hooks._typing import Array
from gc_hooks.derivatives.gauge import Along, Gauge
from gc_hooks.derivatives.linear import Layout
from gc_hooks.derivatives.rows import Entry, Judged, Located
from gc_hooks.report.diagnosis import Code, Diagnosis, agree, joined, plural, spoken

FITS = 1e-6
"""Relative to a row: how near a repaired row has to come."""

ALIKE = 1e-6
"""Relative: factors that are one number."""

MOST_EXCHANGED = 500
"""Wrong rows among which exchanged ones are looked for."""


class Names:
    """How rows and columns are called in a sentence."""

    def __init__(self, outputs: Layout, inputs: Layout, what: str = "Jacobian") -> None:
        self.outputs, self.inputs, self.what = outputs, inputs, what

    def rows(self, rows: Iterable[int]) -> str:
        """Name outputs by their place: "output 7", "outputs 2, 3 and 4 more"."""
        rows = list(dict.fromkeys(map(int, rows)))
        return f"{agree(rows, 'output', 'outputs')} {joined(map(self._row, rows))}"

    def _row(self, row: int) -> str:
        name, index = self.outputs.place(row)
        place = str(index[0]) if len(index) == 1 else str(list(index))
        if len(self.outputs.shapes) == 1:
            return place
        return f"{spoken(name)}[{place.strip('[]')}]" if index else spoken(name)

    def columns(self, columns: Iterable[int]) -> str:
        """Name parameters by their place: "theta[2]", "W[0, 1] and b[3]"."""
        return joined(map(self.column, dict.fromkeys(map(int, columns))))

    def column(self, column: int) -> str:
        name, index = self.inputs.place(column)
        return f"{spoken(name)}{list(index)}" if index else spoken(name)

    def parameters(self, columns: Iterable[int]) -> tuple[str, ...]:
        """Return the parameters to which columns belong."""
        return tuple(dict.fromkeys(self.inputs.place(int(column))[0] for column in columns))

    def entry(self, entry: Entry) -> str:
        return f"the slope of output {self._row(entry.row)} by {self.column(entry.column)}"


def diagnose(
    gauge: Gauge, alongs: Sequence[Along], judged: Judged, located: Located, names: Names
) -> Iterator[Diagnosis]:
    """Yield what explains the wrong rows: the first that explains all of them, or else what their entries show."""
    whole = tuple(names.inputs.shapes)
    wrong = judged.wrong
    for found in (
        _not_finite(alongs, wrong, names, whole),
        _scaled(alongs, judged, located, names, whole),
        _transposed(gauge, alongs, judged, names, whole),
        _shifted(alongs, judged, names, whole),
        _rows_exchanged(alongs, judged, names, whole),
        _columns_exchanged(gauge, located, names),
    ):
        if found is not None:
            yield found
            return
    entries = list(located.entries)
    for columns, diagnosis in _columns(entries, names):
        yield diagnosis
        entries = [entry for entry in entries if entry.column not in columns]
    yield from _pattern([e for e in entries if (e.given == 0) != e.is_zero], gauge, names)
    rest = [entry for entry in entries if (entry.given == 0) == entry.is_zero]
    if rest:
        worst = max(rest, key=lambda entry: abs(entry.given - entry.measured))
        count = "One entry" if len(rest) == 1 else f"{len(rest)} entries"
        message = f"{count} of the {names.what} {agree(rest, 'is', 'are')} wrong, "
        message += f"in {names.rows(e.row for e in rest)}{_on_a_diagonal(rest)}."
        evidence = f"{_sentence(names.entry(worst))} is {worst.given:.6g} and measured {worst.measured:.6g}"
        evidence += f" ± {worst.error:.0e}."
        advice = "This usually means that one term of the derivative is wrong. Try to derive that entry again by hand."
        yield Diagnosis(Code.SINGLE_ENTRIES, names.parameters(e.column for e in rest), message, evidence, advice)
    if len(located.unexplained):
        rows = located.unexplained
        message = f"{_sentence(names.rows(rows))} {agree(rows, 'has', 'have')} a wrong row, in many of its entries."
        worst_row = int(rows[np.argmax(judged.difference[rows])])
        evidence = f"Along a random direction row {worst_row} gives {alongs[0].given[worst_row]:.6g}, measured "
        evidence += f"{alongs[0].slopes[worst_row]:.6g}."
        advice = "This usually means that the derivative of this output is wrong as a whole. Try to derive it again."
        yield Diagnosis(Code.ROWS, whole, message, evidence, advice)


def _on_a_diagonal(entries: Sequence[Entry]) -> str:
    """Say where they stand if that is one diagonal."""
    offsets = {entry.column - entry.row for entry in entries}
    if len(entries) < 3 or len(offsets) > 1:
        return ""
    offset = offsets.pop()
    if not offset:
        return ": all of them on the diagonal"
    return f": all of them {plural(abs(offset), 'place')} {'right of' if offset > 0 else 'left of'} the diagonal"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _not_finite(alongs: Sequence[Along], wrong: Array, names: Names, whole: tuple[str, ...]) -> Diagnosis | None:
    rows = [row for row in wrong if not np.isfinite(alongs[0].given[row])]
    if not rows:
        return None
    message = f"The {names.what} is not finite in {names.rows(rows)}, and the function and its slope are."
    advice = "This usually means 0/0 or a logarithm of zero in the derivative. Try np.isfinite on its parts."
    return Diagnosis(Code.NOT_FINITE, whole, message, advice=advice)


def _fits(given: Array, expected: Array, alongs: Sequence[Along], judged: Judged, rows: Array, factor: Array) -> bool:
    """Return whether what is given along all directions is what is expected of it."""
    errors = np.stack([along.errors[rows] for along in alongs]) * (1 + np.abs(factor))
    return bool(np.all(np.abs(given - expected) <= errors + FITS * judged.sizes[rows] * (1 + np.abs(factor))))


def _scaled(
    alongs: Sequence[Along], judged: Judged, located: Located, names: Names, whole: tuple[str, ...]
) -> Diagnosis | None:
    """Name a factor, for all rows, for some rows, or one for each row."""
    wrong = judged.wrong
    given = np.stack([along.given[wrong] for along in alongs])
    slopes = np.stack([along.slopes[wrong] for along in alongs])
    squares = np.sum(slopes * slopes, axis=0)
    if not np.all(squares > 0):
        return None
    factors = np.sum(given * slopes, axis=0) / squares
    if not _fits(given, factors * slopes, alongs, judged, wrong, factors) or np.any(np.abs(factors) < ALIKE):
        return None
    # An entry that stands alone in its row is a wrong entry as well as a factor of the row.
    in_first_row = [entry for entry in located.entries if entry.row == wrong[0]]
    rows_that_matter = np.flatnonzero(judged.sizes > 0)
    is_all = len(wrong) == len(rows_that_matter)
    if len(wrong) == 1 and not is_all and len(in_first_row) == 1:
        return None
    factor = float(np.median(factors))
    code = Code.SIGN if abs(factor + 1) <= ALIKE else Code.SCALED
    where = f"The {names.what}" if is_all else f"The row of {names.rows(wrong)}"
    if len(wrong) > 1 and not is_all:
        where = f"In the rows of {names.rows(wrong)} the {names.what}"
    if np.ptp(factors) <= ALIKE * abs(factor):
        if code is Code.SIGN:
            message = f"{where} has the wrong sign."
            advice = "This usually means residuals of data - model with the derivative of model - data. Try a minus."
        else:
            message = f"{where} is {factor:.6g} times the slope."
            advice = "This usually means a weight, a mean or an inner derivative that only one of the two has. Try "
            advice += f"to divide by {factor:.6g}."
        return Diagnosis(code, whole, message, advice=advice)
    if len(alongs) < 2 or len(wrong) < 2:
        return None
    some = ", ".join(f"{names.rows([row])}: {value:.4g}" for row, value in list(zip(wrong, factors, strict=True))[:4])
    message = f"Each wrong row of the {names.what} has a factor of its own ({some})."
    advice = "This usually means weights of the outputs (1/sigma, a scale for each row) that only one of the two has. "
    advice += "Try to multiply each row by its weight."
    return Diagnosis(Code.LINE_FACTORS, whole, message, advice=advice)


def _transposed(
    gauge: Gauge, alongs: Sequence[Along], judged: Judged, names: Names, whole: tuple[str, ...]
) -> Diagnosis | None:
    """Name a square Jacobian whose transpose is right."""
    linear = gauge.linear
    if linear.matrix is None or linear.shape[0] != linear.shape[1] or linear.shape[0] < 2:
        return None
    rows = np.arange(linear.shape[0])
    turned = np.stack([linear.transposed_times(along.vector) for along in alongs])
    slopes = np.stack([along.slopes for along in alongs])
    sizes = np.linalg.norm(turned, axis=0) + np.linalg.norm(slopes, axis=0)
    errors = np.stack([along.errors for along in alongs])
    if not np.all(np.abs(turned - slopes) <= errors + FITS * np.maximum(sizes, judged.sizes[rows])):
        return None
    message = f"The transpose of the {names.what} is right."
    advice = "This usually means rows for parameters where each output has a row: J[i, j] is the slope of output i by "
    advice += "parameter j. Try jacobian.T."
    return Diagnosis(Code.TRANSPOSED, whole, message, advice=advice)


def _shifted(alongs: Sequence[Along], judged: Judged, names: Names, whole: tuple[str, ...]) -> Diagnosis | None:
    """Name rows that are right one place further on."""
    given = np.stack([along.given for along in alongs])
    slopes = np.stack([along.slopes for along in alongs])
    errors = np.stack([along.errors for along in alongs])
    if len(judged.wrong) < 3 or len(alongs) < 2:
        return None
    for shift in (1, -1):
        moved = np.roll(slopes, shift, axis=1)
        bars = errors + np.roll(errors, shift, axis=1)
        near = np.abs(given - moved) <= bars + FITS * np.maximum(judged.sizes, np.roll(judged.sizes, shift))
        rows = np.flatnonzero(~near.all(axis=0))
        if set(rows) <= {0, len(judged.sizes) - 1}:
            words = "later" if shift == 1 else "earlier"
            message = f"The rows of the {names.what} stand one place {words} than their outputs."
            advice = "This usually means an index that is off by one, in time or in space. Try "
            advice += f"jacobian[{'1:' if shift == 1 else ':-1'}] beside function(p)[{':-1' if shift == 1 else '1:'}]."
            return Diagnosis(Code.SHIFTED, whole, message, advice=advice)
    return None


def _rows_exchanged(alongs: Sequence[Along], judged: Judged, names: Names, whole: tuple[str, ...]) -> Diagnosis | None:
    """Name rows that stand in each other's place."""
    wrong = judged.wrong
    if not 1 < len(wrong) <= MOST_EXCHANGED or len(alongs) < 2:
        return None
    given = np.stack([along.given[wrong] for along in alongs])
    slopes = np.stack([along.slopes[wrong] for along in alongs])
    found = _permutation(given, slopes, FITS * judged.sizes[wrong])
    if found is None:
        return None
    message = f"In the {names.what} the rows of {names.rows(wrong)} are exchanged."
    evidence = f"The row of {names.rows(wrong[:1])} is that of {names.rows(wrong[found[:1]])}."
    advice = "This usually means outputs that the function stacks in another order. Try the same order in both."
    return Diagnosis(Code.SWAPPED, whole, message, evidence, advice)


def _columns_exchanged(gauge: Gauge, located: Located, names: Names) -> Diagnosis | None:
    """Name columns that stand in each other's place, where all of them were measured."""
    wrong = np.unique([entry.column for entry in located.entries]).astype(int)
    if located.columns is None or len(wrong) < 2 or len(located.columns) < 2:
        return None
    given, measured = gauge.linear.columns(list(wrong)), located.columns[:, wrong]
    found = _permutation(given, measured, FITS * (np.linalg.norm(given, axis=0) + np.linalg.norm(measured, axis=0)))
    if found is None:
        return None
    message = f"In the {names.what} the columns of {names.columns(wrong)} are exchanged."
    evidence = f"The column of {names.column(int(wrong[0]))} is that of {names.column(int(wrong[found[0]]))}."
    advice = "This usually means parameters that are unpacked in another order. Try the same order in both."
    return Diagnosis(Code.SWAPPED, names.parameters(wrong), message, evidence, advice)


def _permutation(given: Array, measured: Array, bars: Array) -> list[int] | None:
    """Return for each column the one of the measured ones that it is; None unless they are these in another order."""
    found = []
    for column in range(given.shape[1]):
        apart = np.max(np.abs(measured - given[:, [column]]), axis=0)
        fits = np.flatnonzero(apart <= bars + bars[column])
        if len(fits) != 1 or fits[0] == column:
            return None
        found.append(int(fits[0]))
    return found if len(set(found)) == len(found) else None


def _columns(entries: Sequence[Entry], names: Names) -> Iterator[tuple[set[int], Diagnosis]]:
    """Yield columns that are wrong in three rows or more, those of one parameter with one factor together."""
    by_column: dict[int, list[Entry]] = defaultdict(list)
    for entry in entries:
        by_column[entry.column].append(entry)
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for column, found in sorted(by_column.items()):
        if len(found) >= 3 and 2 * len(found) * len(by_column) >= len(entries):
            alike[names.inputs.place(column)[0], _factor_of(found)].append(column)
    for (name, factor), columns in alike.items():
        found = [entry for column in columns for entry in by_column[column]]
        message = (
            f"The {agree(columns, 'column', 'columns')} of {names.columns(columns)} {agree(columns, 'is', 'are')} "
        )
        message += f"wrong, in {names.rows(entry.row for entry in found)}."
        advice = "This usually means that the derivative by this parameter is wrong. Try to derive it again."
        if factor == "0":
            evidence = f"{agree(columns, 'It is', 'They are')} zero, and the slope is not."
            advice = "This usually means a parameter that was forgotten in the derivative. Try to add its column."
        elif factor:
            evidence = f"{agree(columns, 'It is', 'They are')} {factor} times the slope."
        else:
            worst = max(found, key=lambda entry: abs(entry.given - entry.measured))
            evidence = f"{_sentence(names.entry(worst))} is {worst.given:.6g} and measured {worst.measured:.6g}."
        yield set(columns), Diagnosis(Code.COLUMNS, (name,), message, evidence, advice)


def _factor_of(found: Sequence[Entry]) -> str:
    """Return the one factor of a column, to four digits; empty where there is none."""
    given, measured = np.array([entry.given for entry in found]), np.array([entry.measured for entry in found])
    square = float(measured @ measured)
    if not square:
        return ""
    factor = float(given @ measured) / square
    bars = (1 + abs(factor)) * (np.array([entry.error for entry in found]) + FITS * np.abs(measured))
    return f"{factor:.4g}" if np.all(np.abs(given - factor * measured) <= bars) else ""


def _pattern(entries: Sequence[Entry], gauge: Gauge, names: Names) -> Iterator[Diagnosis]:
    """Yield entries that are zero and should not be, and the other way round."""
    missing = [entry for entry in entries if entry.given == 0]
    extra = [entry for entry in entries if entry.given != 0]
    stored = "has no entry" if gauge.linear.is_sparse else "is zero"
    if missing:
        worst = max(missing, key=lambda entry: abs(entry.measured))
        message = f"The {names.what} {stored} at {plural(len(missing), 'place')} where the slope is not zero."
        evidence = f"{_sentence(names.entry(worst))} is measured {worst.measured:.6g} ± {worst.error:.0e}."
        advice = "This usually means a neighbour that was forgotten in the pattern. Try to add that entry."
        yield Diagnosis(Code.PATTERN, names.parameters(e.column for e in missing), message, evidence, advice)
    if extra:
        worst = max(extra, key=lambda entry: abs(entry.given))
        message = f"The {names.what} has {plural(len(extra), 'place')} that should be zero."
        evidence = f"{_sentence(names.entry(worst))} is {worst.given:.6g}, and measured as zero."
        advice = "This usually means an index that points to the wrong column. Try to print that row's columns."
        yield Diagnosis(Code.PATTERN, names.parameters(e.column for e in extra), message, evidence, advice)
