"""The report of a check: the one document that everything downstream reads."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, NoReturn

import numpy as np

from gc_hooks.errors import GradCheckError
from gc_hooks.report.comparison import Basis, Comparison, EntryComparison, state
from gc_hooks.report.diagnosis import Diagnosis, plural
from gc_hooks.report.plots import ParameterPlot, StepCurve
from gc_hooks.report.text import Rows, html_table, markdown_list, markdown_table, markdown_text, text_table
from gc_hooks.report.verdict import Status, Tolerance, Verdict

SCHEMA = 1
"""A reader passes over fields that it does not know, and refuses a higher number."""

BANDS = Tolerance().bands
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
        The classic ratio over all parameters, ``||g - n|| / (||g|| + ||n||)``, and its error bar. A summary only: a
        wrong bias is diluted by a large weight matrix, so the verdict is the worst of the parameters'.
    loss : float
        Value of the loss at the point, penalty included.
    step : int
    method : str
        How the slopes were measured.
    seed : int
        With it the check can be repeated.
    evaluations, complex_evaluations, gradients : int
        Calls of the loss that the check has cost, how many of them were complex, and calls of the gradient function.
    seconds : float
    penalty_share : float
        ``||penalty's part|| / ||whole slope||`` over all parameters; NaN unless the penalty was handed in apart.
    moved : float
        How far the weights are from where the first check saw them, ``||w - w0|| / ||w0||``; NaN outside a hook.
    asked : tuple of str
        The questions that were asked, with their answers.
    unasked : tuple of str
        The questions that could not be asked, with the reason.
    notes : tuple of str
    bands : tuple of float
        ``good``, ``certain`` and ``worry`` of the tolerance that was judged by.
    pictures : dict of str to Picture
        For the eye, where a reporter draws: measured entries, directions, weights.
    curve : StepCurve or None
        The error against the step size, along a direction through all parameters.

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
    bands: tuple[float, ...] = BANDS
    pictures: dict[str, ParameterPlot] = field(default_factory=dict)
    curve: StepCurve | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst of the parameters' verdicts; without a parameter nothing was shown."""
        return max((comparison.verdict for comparison in self.parameters.values()), default=Verdict.INCONCLUSIVE)

    @property
    def ok(self) -> bool:
        """Whether every parameter is GOOD."""
        return self.verdict is Verdict.GOOD

    def __bool__(self) -> NoReturn:
        raise TypeError(
            "A report is neither true nor false: a gradient can be good, wrong, or impossible to tell. Try report.ok "
            "(everything is good) or report.verdict."
        )

    @property
    def worst_first(self) -> list[Comparison]:
        """The parameters, the worst verdict and the largest difference first."""
        return sorted(self.parameters.values(), key=lambda c: (-c.verdict, -_finite_or_large(c.difference)))

    def noted(self, *notes: str) -> CheckReport:
        """The same with more notes."""
        return replace(self, notes=(*self.notes, *notes)) if notes else self

    @property
    def headline(self) -> str:
        """The check in one line.

        Examples
        --------
        >>> CheckReport({}, step=3).headline
        'step 3: INCONCLUSIVE'
        """
        parts = [f"step {self.step}: {self.verdict}"]
        unlike = [c for c in self.parameters.values() if c.verdict is Verdict.WORRY and math.isnan(c.difference)]
        if unlike:
            parts.append(f"{plural(len(unlike), 'parameter')} not comparable")
        elif self.stated:
            parts.append(f"difference {self.stated}")
        failing = [c.name for c in self.worst_first if c.verdict > Verdict.GOOD]
        if failing:
            parts.append(f"{len(failing)} of {plural(len(self.parameters), 'parameter')}: {_listed(failing)}")
        elif self.parameters:
            parts.append(f"{plural(len(self.parameters), 'parameter')}, {plural(self.evaluations, 'evaluation')}")
            parts.append(f"{self.seconds:.2g} s")
        return ", ".join(parts)

    @property
    def stated(self) -> str:
        """The difference over all parameters for a person, in the manner of theirs."""
        compared = list(self.parameters.values())
        bound = self.verdict <= Verdict.INCONCLUSIVE and any(c.is_bound for c in compared)
        least = _least(compared) if any(c.is_one_sided for c in compared) else None
        return state(self.difference, self.error, least, bound=bound)

    def rows(self) -> list[tuple[str, ...]]:
        """The table that a person reads, worst first; the columns are `HEADER`."""
        return [_row(comparison) for comparison in self.worst_first]

    def _tabled(self, table: Callable[[Sequence[str], Rows], str]) -> list[str]:
        """The rows as a table; none where a check failed and has no parameter to show."""
        return [table(HEADER, self.rows())] if self.parameters else []

    @property
    def findings(self) -> list[str]:
        """The diagnoses in sentences."""
        return [f"{d.code}: {d}" for d in self.diagnoses]

    @property
    def remarks(self) -> list[str]:
        """Everything that is said in sentences, the diagnoses first."""
        return [*self.findings, *self.circumstances]

    @property
    def circumstances(self) -> list[str]:
        """What was asked, how far the weights have moved, what was noticed."""
        told = []
        if math.isfinite(self.penalty_share):
            told.append(f"The penalty makes up {self.penalty_share:.2g} of the gradient.")
        if math.isfinite(self.moved) and self.moved > 0:
            told.append(f"The weights have moved by {self.moved:.2g} of their norm since the first check.")
        return [*told, *self.asked, *self.caveats]

    @property
    def caveats(self) -> list[str]:
        """What is told of a good check too: what could not be asked, and what was noticed."""
        return [*(f"Not asked: {question}" for question in self.unasked), *self.notes]

    def __str__(self) -> str:
        return "\n".join([f"gradient check, {self.headline}", *self._tabled(text_table), *self.remarks])

    def to_markdown(self) -> str:
        """The report for TensorBoard's text dashboard, or for a bug report."""
        found, remarks = (markdown_list(texts) for texts in (self.findings, self.circumstances))
        parts = [f"**{markdown_text(self.headline)}**", found, *self._tabled(markdown_table), remarks]
        return "\n\n".join(filter(None, parts)) + "\n"

    def _repr_html_(self) -> str:
        remarks = "".join(f"<li>{escape(remark)}</li>" for remark in self.remarks)
        return f"<p><b>{escape(self.headline)}</b></p>{''.join(self._tabled(html_table))}<ul>{remarks}</ul>"

    def to_json(self) -> str:
        """The report as one line of standard JSON; numbers that are not finite become strings.

        Examples
        --------
        >>> report = CheckReport({}, step=3)
        >>> CheckReport.from_json(report.to_json()).step
        3
        """
        document = {"schema": SCHEMA, "verdict": self.verdict.name, **_to_plain(self)}
        return json.dumps(document, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> CheckReport:
        """Read back what `to_json` wrote.

        Raises
        ------
        GradCheckError
            The text is no report, or one of a newer version.
        """
        try:
            document = json.loads(text)
            if document["schema"] <= SCHEMA:
                return cls(**_from_plain(document))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise GradCheckError(f"This is not the JSON of a gradient check's report: {text[:60]!r}.") from error
        raise GradCheckError(
            f"The report has schema {document['schema']}, this version of gc_hooks reads up to {SCHEMA}. It was "
            "written by a newer version: try to upgrade gc_hooks."
        )


def _finite_or_large(difference: float) -> float:
    return difference if math.isfinite(difference) else 2.0


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _least(compared: list[Comparison]) -> float:
    """What the classic ratio over all parameters certainly is: norms add in squares."""
    known = [c for c in compared if math.isfinite(c.difference) and math.isfinite(c.backprop_norm + c.measured_norm)]
    parts = (c.at_least * (c.backprop_norm + c.measured_norm) for c in known)
    size = math.hypot(*(c.backprop_norm for c in known)) + math.hypot(*(c.measured_norm for c in known))
    return math.hypot(*parts) / size if size > 0 else 0.0


def _row(comparison: Comparison) -> tuple[str, ...]:
    return (
        comparison.name,
        "x".join(map(str, comparison.shape)) or "number",
        str(comparison.verdict),
        comparison.stated,
        "; ".join(filter(None, (_wrong_entries(comparison), comparison.note))),
    )


def _wrong_entries(comparison: Comparison) -> str:
    """How many entries are wrong, and the one that differs most."""
    if comparison.verdict is Verdict.GOOD or not comparison.worst:
        return ""
    worst = comparison.worst[0]
    entry = f"backprop {worst.backprop:.4g}, measured {worst.measured:.4g}"
    if comparison.size == 1:
        return entry
    entry = f"{list(worst.index)} {entry}"
    if comparison.wrong:
        return f"{comparison.wrong} of {_looked_at(comparison)} wrong, most {entry}"
    return f"most {entry} ± {worst.error:.0e}" if comparison.verdict is Verdict.INCONCLUSIVE else ""


def _looked_at(comparison: Comparison) -> str:
    return str(comparison.size) if comparison.exact else f"{comparison.measured} entries looked at"


def _to_plain(value: Any) -> Any:
    """Enums by name or value, tuples as lists, and no number that JSON does not know."""
    if isinstance(value, float) and math.isfinite(value):  # first, for there are most of these
        return value
    if dataclasses.is_dataclass(value):
        return {field.name: _to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    if isinstance(value, Verdict):
        return value.name
    if isinstance(value, (Status, Basis)):
        return value.value
    plain = value.item() if isinstance(value, np.generic) else value
    return str(plain) if isinstance(plain, float) and not math.isfinite(plain) else plain


def _from_plain(document: dict[str, Any]) -> dict[str, Any]:
    """The fields of a report; those that a newer writer of the same schema added are passed over."""
    fields = _known(CheckReport, document)
    fields["parameters"] = {name: _comparison(item) for name, item in document["parameters"].items()}
    fields["pictures"] = {name: _plot(item) for name, item in document.get("pictures", {}).items()}
    fields["curve"] = _curve(document.get("curve"))
    fields["diagnoses"] = tuple(Diagnosis(**_known(Diagnosis, item)) for item in document["diagnoses"])
    return fields


def _comparison(item: dict[str, Any]) -> Comparison:
    fields = _known(Comparison, item)
    fields["verdict"] = Verdict[item["verdict"]]
    fields["status"] = Status(item["status"])
    fields["basis"] = Basis(item["basis"])
    fields["worst"] = tuple(EntryComparison(**_known(EntryComparison, entry)) for entry in item["worst"])
    return Comparison(**fields)


def _plot(item: dict[str, Any]) -> ParameterPlot:
    return ParameterPlot(**_known(ParameterPlot, item) | {"curve": _curve(item.get("curve"))})


def _curve(item: dict[str, Any] | None) -> StepCurve | None:
    return None if item is None else StepCurve(**_known(StepCurve, item))


def _known(kind: Any, item: dict[str, Any]) -> dict[str, Any]:
    """The items that are fields of a dataclass; lists become tuples and spelled-out numbers floats again."""
    kinds = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    return {name: _read(kinds[name], value) for name, value in item.items() if name in kinds}


def _read(kind: str, value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_read("float" if kind == "tuple[float, ...]" else "", item) for item in value)
    return float(value) if kind == "float" else value
