"""The report of a check: the one document that everything downstream reads, its texts, and its JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from functools import cache, partial
from html import escape
from typing import Any, NoReturn, get_args, get_origin, get_type_hints

import numpy as np

from gc_hooks.errors import GradCheckError
from gc_hooks.report.comparison import Comparison, Reason, state
from gc_hooks.report.diagnosis import Diagnosis, listed, plural, spoken
from gc_hooks.report.plots import ParameterPlot, StepCurve
from gc_hooks.report.text import (
    html_cells,
    html_table,
    markdown_list,
    markdown_table,
    markdown_text,
    spelt_out,
    text_table,
    worst_entry,
)
from gc_hooks.report.verdict import Tolerance, Verdict

SCHEMA = 1
"""A reader passes over fields that it does not know, and refuses a higher number."""

field_types = cache(get_type_hints)
"""The types of a dataclass's fields by their names; to find them takes longer than to read a small report."""

HEADER = ("parameter", "shape", "verdict", "difference", "what was seen")


@dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes
    ----------
    parameters : dict of str to Comparison
        In the order in which they were handed in.
    diagnoses : tuple of Diagnosis
    difference, error : float
        The classic ratio over all parameters, ``||g - n|| / (||g|| + ||n||)``, and its error. A large weight matrix
        hides a wrong bias in it, so the verdict is the worst one of the parameters.
    loss : float
        At the point, penalty included.
    step, seed : int
        The seed repeats the check.
    method : str
        How the slopes were measured.
    evaluations, complex_evaluations, gradients : int
        Calls of the loss, how many of them were complex, and calls of the gradient function.
    seconds : float
    penalty_share : float
        ``||penalty's part|| / ||measured gradient||``; NaN unless the penalty was handed in separately.
    moved : float
        ``||w - w0|| / ||w0||`` against the first check of this hook; NaN outside a hook.
    asked, unasked : tuple of str
        The questions of a hook with their answers, and those that could not be asked, with the reasons.
    notes : tuple of str
    bands : tuple of float
        ``good``, ``certain`` and ``worry`` of the tolerance.
    pictures : dict of str to ParameterPlot
        Measured entries, directions and weights; empty unless a reporter draws.
    curve : StepCurve or None
        The error against the step size, along a direction through all parameters.
    as_at : int or None
        In a hook, the step of the check that told in full of the bug that this one has found again; None for all
        other checks.
    unjudged : tuple of str
        Arrays of the model that look like parameters and were not compared. With any of them no report is GOOD.
    untested : tuple of str
        Parameters that were compared, and have no gradient here: where these are whole matrices or most of all
        entries, ``coverage`` and a note say so.

    Examples
    --------
    >>> from gc_hooks import check_gradients
    >>> report = check_gradients(lambda w: w**2, 3.0, 6.0)
    >>> report.verdict, report.ok
    (<Verdict.GOOD: 0>, True)
    """

    parameters: dict[str, Comparison]
    diagnoses: tuple[Diagnosis, ...] = ()
    difference: float = math.nan
    error: float = math.nan
    loss: float = math.nan
    step: int = 0
    method: str = ""
    seed: int = 0
    evaluations: int = 0
    complex_evaluations: int = 0
    gradients: int = 0
    seconds: float = 0.0
    penalty_share: float = math.nan
    moved: float = math.nan
    asked: tuple[str, ...] = ()
    unasked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    bands: tuple[float, ...] = Tolerance().bands
    pictures: dict[str, ParameterPlot] = field(default_factory=dict)
    curve: StepCurve | None = None
    as_at: int | None = None
    unjudged: tuple[str, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Return the worst verdict of all parameters; INCONCLUSIVE at best where some, or all, were not judged."""
        verdicts = [comparison.verdict for comparison in self.parameters.values()]
        if self.unjudged or not verdicts:
            verdicts.append(Verdict.INCONCLUSIVE)
        return max(verdicts)

    @property
    def ok(self) -> bool:
        """Return whether every parameter is GOOD, and none was left out."""
        return self.verdict is Verdict.GOOD

    def __bool__(self) -> NoReturn:
        raise TypeError("A report is neither true nor false. Try report.ok (everything is good) or report.verdict.")

    @property
    def worst_first(self) -> list[Comparison]:
        """Return the parameters by verdict, the worst first, and then by difference; NaN counts as the largest one."""
        return sorted(self.parameters.values(), key=lambda c: (-c.verdict, -np.nan_to_num(c.difference, nan=math.inf)))

    @property
    def failing(self) -> list[str]:
        """Return the names of the parameters that are not GOOD, the worst first."""
        return [comparison.name for comparison in self.worst_first if comparison.verdict > Verdict.GOOD]

    @property
    def stated(self) -> str:
        """Return the difference over all parameters in the form of `Comparison.stated`."""
        compared = list(self.parameters.values())
        if self.verdict <= Verdict.INCONCLUSIVE:  # a parameter that is accused is not just bounded
            return state(self.difference, self.error, bound=any(c.is_bound for c in compared))
        if not any(c.is_one_sided for c in compared):
            return state(self.difference, self.error)
        # The classic ratio is ||g - n|| / (||g|| + ||n||) with norms over all parameters, which add in squares.
        table = np.array([(c.backprop_norm, c.measured_norm, c.at_least, c.difference) for c in compared])
        backprop, measured, at_least, _ = table[np.isfinite(table).all(axis=1)].T
        total = math.hypot(*backprop) + math.hypot(*measured)
        return state(self.difference, self.error, math.hypot(*(at_least * (backprop + measured))) / (total or 1.0))

    @property
    def headline(self) -> str:
        """Return the check in one line."""
        parts = [f"step {self.step}: {self.verdict}"]
        incomparable = [c for c in self.parameters.values() if c.verdict is Verdict.WORRY and math.isnan(c.difference)]
        if self.as_at is not None:
            now = "" if incomparable else f", now {self.difference:.1e}"
            bugs = ", ".join(dict.fromkeys(diagnosis.named for diagnosis in self.diagnoses))
            where = "" if len(self.failing) == len(self.parameters) else f" in {listed(self.failing, 4)}"
            return f"{parts[0]} as at step {self.as_at}{now}: {bugs}{where}"
        if incomparable:
            parts.append(f"{plural(len(incomparable), 'parameter')} not comparable")
        elif self.stated:  # that of the other parameters alone would look like the difference of all
            parts.append(f"difference {self.stated}")
        count = plural(len(self.parameters), "parameter")
        if self.failing:
            parts.append(f"{len(self.failing)} of {count}: {listed(self.failing, 4)}")
        elif self.parameters:
            parts.append(f"{count}, {plural(self.evaluations, 'evaluation')}, {self.seconds:.2g} s")
        return ", ".join(parts)

    def rows(self, entries: int | None = None) -> list[tuple[str, ...]]:
        """Return the rows of the table, worst parameter first; its columns are `HEADER`.

        The worst entry stands in the first ``entries`` rows, by default in all of them.
        """
        rows: list[tuple[str, ...]] = []
        for comparison in self.worst_first:
            shape = "x".join(map(str, comparison.shape)) or "number"
            worst = worst_entry(comparison) if entries is None or len(rows) < entries else ""
            seen = "; ".join(filter(None, (worst, comparison.note)))
            rows.append((spoken(comparison.name), shape, str(comparison.verdict), comparison.stated, seen))
        return rows

    @property
    def findings(self) -> list[str]:
        """Return each diagnosis as a sentence after its code."""
        return list(map("{0.code}: {0}".format, self.diagnoses))

    @property
    def untested(self) -> tuple[str, ...]:
        """Return the parameters that the loss gives no gradient here, so that a wrong backward could not show.

        A vector alone (a bias in front of a normalisation) is rightly so: there have to be whole matrices among them,
        or most of all entries.
        """
        without = [c for c in self.parameters.values() if c.reason is Reason.NO_GRADIENT]
        size, whole = sum(c.size for c in without), sum(c.size for c in self.parameters.values())
        if 2 * size <= whole and all(c.is_vector for c in without):
            return ()
        return tuple(comparison.name for comparison in without)

    @property
    def coverage(self) -> str:
        """Return what of the model was judged, in one line; empty where that is all of it."""
        untested, whole = self.untested, len(self.parameters) + len(self.unjudged)
        parts = [f"Judged: {len(self.parameters) - len(untested)} of {plural(whole, 'array')}"]
        if self.unjudged:
            parts.append(f"not {listed(self.unjudged)}")
        if untested:
            parts.append(f"nothing was tested of {listed(untested)}")
        return f"{'; '.join(parts)}." if len(parts) > 1 else ""

    @property
    def circumstances(self) -> list[str]:
        """Return what was asked, how far the weights have moved, and the caveats."""
        sentences = []
        if math.isfinite(self.penalty_share):
            sentences.append(f"The penalty makes up {self.penalty_share:.2g} of the gradient.")
        if 0 < self.moved < math.inf:
            sentences.append(f"The weights have moved by {self.moved:.2g} of their norm since the first check.")
        return [*sentences, *self.asked, *self.caveats]

    @property
    def caveats(self) -> list[str]:
        """Return what has to be said of a good check too: what was not judged or not asked, and the notes."""
        coverage = [self.coverage] if self.coverage else []
        return [*coverage, *map("Not asked: {}".format, self.unasked), *self.notes]

    @property
    def remarks(self) -> list[str]:
        """Return all sentences, the diagnoses first."""
        return [*self.findings, *self.circumstances]

    def __str__(self) -> str:
        return "\n".join([f"gradient check, {self.headline}", *self._table(text_table), *self.remarks])

    def to_markdown(self) -> str:
        """Return the report in markdown, for TensorBoard's text dashboard or a bug report."""
        findings, circumstances = markdown_list(self.findings), markdown_list(self.circumstances)
        parts = [f"**{markdown_text(self.headline)}**", findings, *self._table(markdown_table), circumstances]
        return "\n\n".join(filter(None, parts)) + "\n"

    def _repr_html_(self) -> str:
        table = "".join(self._table(html_table))
        return f"<p><b>{escape(self.headline)}</b></p>{table}<ul>{html_cells('li', self.remarks)}</ul>"

    def _table(self, write: Callable[[Sequence[str], Iterable[Sequence[str]]], str]) -> list[str]:
        return [write(HEADER, self.rows())] if self.parameters else []

    def noted(self, *notes: str) -> CheckReport:
        """Return a copy with more notes."""
        return replace(self, notes=(*self.notes, *notes))

    def to_json(self) -> str:
        """Return the report as one line of standard JSON; numbers that are not finite become text."""
        document = {"schema": SCHEMA, "verdict": self.verdict.name, **encode(self)}
        # Half a character is spelt out as JSON spells any: what reads it gets the half character back.
        return spelt_out(json.dumps(document, allow_nan=False, ensure_ascii=False))

    @classmethod
    def from_json(cls, text: str, *, pictures: bool = True) -> CheckReport:
        """Return the report that `to_json` wrote; without its pictures and curve, reading is several times faster.

        Raises
        ------
        GradCheckError
            The text is not a report, or it is one of a newer version.
        """
        try:
            document = json.loads(text)
            if not pictures:
                document.update(pictures={}, curve=None)
            if document["schema"] <= SCHEMA:
                report: CheckReport = decode(cls, document)
                return report
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise GradCheckError(f"This is not the JSON of a gradient check's report: {text[:60]!r}.") from error
        schema = f"The report has schema {document['schema']}, this version of gc_hooks reads up to {SCHEMA}"
        raise GradCheckError(f"{schema}. It was written by a newer one: try to upgrade gc_hooks.")


def page_texts(report: CheckReport) -> dict[str, Any]:
    """Return the texts that the page of TensorBoard shows beside the figures of a report.

    ``facts`` stand beside the verdict, ``summary`` below it where there is no diagnosis, ``sentences`` at the end.
    """
    spent = plural(report.evaluations, "evaluation")
    facts = [f"step {report.step}", f"loss {report.loss:.3g}", f"{spent}, {report.seconds:.2g} s"]
    if report.stated:
        facts.insert(1, f"difference {report.stated}")
    summary = f"Not good: {listed(report.failing)}."
    if not report.parameters:
        summary = next(iter(report.notes), "Nothing was checked.")
    elif report.ok:
        summary = f"Backprop's gradient is the slope of the loss, in {plural(len(report.parameters), 'parameter')}."
    how = f"Measured by {report.method or 'nothing'}; seed {report.seed}; {spent} of the loss"
    how += f", {report.complex_evaluations} of them complex, {report.gradients} of the gradient."
    return {"stated": report.stated, "facts": facts, "summary": summary, "sentences": [*report.remarks, how]}


def encode(value: object) -> Any:
    """Return a value as ``json.dumps`` takes it: fields and verdicts by name, enums by value, NaN and inf as text.

    >>> encode((Verdict.GOOD, np.int64(3), float("nan")))
    ['GOOD', 3, 'nan']
    """
    if isinstance(value, float):  # first: a report with pictures is mostly numbers
        return value if math.isfinite(value) else str(float(value))  # standard JSON has no NaN and no infinity
    if isinstance(value, Verdict):
        return value.name
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return encode(value.item())
    if isinstance(value, (list, tuple)):
        return list(map(encode, value))
    if is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, dict):
        return {key: encode(item) for key, item in value.items()}
    return value


def decode(kind: Any, value: Any) -> Any:
    """Return the value of a type that `encode` made this JSON of; unknown fields of a dataclass are passed over.

    JSON that does not belong to the type is a ValueError, TypeError, KeyError, AttributeError or OverflowError.
    """
    if kind is float:
        number = float(value)  # also of a text: NaN and infinity
        # Whole numbers stay whole: the rows of a plot hold positions beside slopes.
        return value if type(value) is int and abs(value) < 2**53 else number
    if kind in (str, int, bool):
        # What counts may be any number: a training can count its steps in halves.
        if not isinstance(value, (int, float) if kind is int else kind) or (kind is int and not math.isfinite(value)):
            raise TypeError(f"{value!r} is no {kind.__name__}")
        return value
    if kind is Verdict:
        return Verdict[value]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is tuple:  # tuple[X, ...]
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is not a list")
        return tuple(map(partial(decode, arguments[0]), value))
    if origin is dict:
        return {key: decode(arguments[1], item) for key, item in value.items()}
    if origin is not None:  # X | None
        return None if value is None else decode(arguments[0], value)
    if issubclass(kind, Enum):
        return kind(value)
    types = field_types(kind)
    return kind(**{name: decode(types[name], value[name]) for name in types.keys() & value.keys()})
