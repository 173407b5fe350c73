"""What all hooks have in common: when a check is due, and what to do about a wrong gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from gc_hooks.check import CheckOptions
from gc_hooks.errors import GradientMismatch
from gc_hooks.hooks.environment import read_environment
from gc_hooks.hooks.options import HookOptions
from gc_hooks.hooks.recorder import CheckRecorder, warn
from gc_hooks.quick_check import Glance, finds_the_same
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import plural
from gc_hooks.report.verdict import Verdict
from gc_hooks.reporters import choose_reporters
from gc_hooks.schedule import Drifting, full_and_periodic, never
from gc_hooks.slopes.probes import Depth, joint

Self = TypeVar("Self", bound="HookBase")


class CheckPlan(NamedTuple):
    """How much a check looks at: ``quick`` asks first whether all is as the check before found it."""

    probes: Depth | None = None
    quick: bool = False


FULL = CheckPlan()

MOST_LISTED = 5
"""Checks whose verdicts are listed one by one at the end: more do not fit on a line."""


class HookBase:
    """Base class of `gc_hooks.GradCheckHook` and of the hooks of other frameworks.

    At each step a hook asks `_due`, makes the check inside of ``self._recorder.record(step)``, and calls `_act_on`.
    """

    def __init__(self, options: HookOptions) -> None:
        self._environment = environment = read_environment()
        log_dir, writer = options.log_dir, options.writer
        if environment.log_dir is not None:
            log_dir, writer = environment.log_dir, None
        self.should_stop = False
        self.calls = 0
        self._on_fail = options.on_fail
        self._recorder = CheckRecorder(choose_reporters(options.reporters, log_dir, writer), options.seed)
        self._check_options = options.for_check(pictures=self._recorder.wants_pictures)
        self._glance = Glance()
        self._can_glance = options.method is None  # a method of the user's choice measures every check
        self._known: CheckReport | None = None  # the report that told of a bug, while checks find the same
        self._began = math.nan  # time.perf_counter() at the first call
        self._latest: Any = None  # what the last step handed in, for a check at the end
        # A user's schedule may have a state and is asked once a call; ours can be asked about the next call as well.
        self._is_foreseeable = options.schedule is None or environment.schedule is not None
        self._full, self._periodic = full_and_periodic(options.schedule, options.after, options.every)
        if environment.schedule is not None:
            self._full, self._periodic = environment.schedule, never
        # None where no check at the end stands in for one that was not reached.
        self._after = options.after if options.schedule is environment.schedule is None else None
        if isinstance(self._full, Drifting):
            self._full = partial(self._full, moved=self._moved)
        for warning in environment.warnings:
            warn(warning)
        if environment.message and not self._recorder.say(environment.message):
            warn(environment.message)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the last step handed in: a copy, or a hook that was saved and loaded, goes on with its own."""
        return {**vars(self), "_latest": None}

    @property
    def reports(self) -> list[CheckReport]:
        """Return the reports of all checks so far."""
        return self._recorder.reports

    @property
    def share(self) -> float:
        """Return the hook's share of the time since its first call, between 0 and 1."""
        return 0.0 if math.isnan(self._began) else self._recorder.seconds / (time.perf_counter() - self._began)

    def close(self) -> None:
        """Close what this hook opened."""
        self._recorder.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._latest = None  # an exception ends the training, and must not wait for a check at the end
        self.close()

    def _current_params(self) -> Any:
        """Return the parameters of the present call, for a schedule that looks at them."""
        raise NotImplementedError

    def _moved(self) -> float:
        """Return how far the parameters are from those of the last check."""
        return self._recorder.drift.since_attempt(self._current_params())

    def _due(self, step: int) -> CheckPlan | None:
        """Count this call, and return the check that is due at it, if one is."""
        call = self.calls
        self.calls = call + 1
        if call == 0 and math.isnan(self._began):
            self._began = time.perf_counter()
        try:
            is_known = self._can_glance and self._known is not None
            if self._full(call):
                return CheckPlan(quick=is_known)
            if self._periodic(call):
                # A period has to stay cheap: a glance where there can be one; by a method that was asked for, one
                # direction through all parameters, and more only on suspicion.
                was_good = self._can_glance and bool(self.reports) and self.reports[-1].ok
                probes = None if self._check_options.method is None else joint
                return CheckPlan(probes, quick=is_known or was_good)
        except Exception:
            self._full = self._periodic = never
            with self._recorder.record(step, "The schedule (it is not asked again)"):
                raise
        return None

    def _may_be_due(self) -> bool:
        """Return whether a check may be due at the next call."""
        return not self._is_foreseeable or self._full(self.calls) or self._periodic(self.calls)

    def _options_for(self, plan: CheckPlan, step: int, seed: int) -> CheckOptions:
        return replace(self._check_options, probes=plan.probes, step=step, seed=seed)

    def _forget(self) -> None:
        """Forget what checks of other parameters have found."""
        self._glance, self._known = Glance(takes_complex=self._glance.takes_complex), None

    def _answer(
        self, plan: CheckPlan, glance: Callable[[Glance], CheckReport | None], whole: Callable[[], CheckReport]
    ) -> CheckReport:
        """Return the answer to "is the gradient the slope of the loss?", at little cost where the plan allows it."""
        report = glance(self._glance) if plan.quick else None
        if report is None:
            report = self._glance.before = whole()
        return report

    def _compared(self, report: CheckReport) -> CheckReport:
        """Return the report of a check, marked where it finds the bug that one before it has told in full."""
        known = self._known
        if known is not None and finds_the_same(report, known):
            report = replace(report, as_at=known.step, diagnoses=known.diagnoses)
            return report.noted(f"The diagnoses are those of the check at step {known.step}.")
        self._known = report if report.verdict > Verdict.INCONCLUSIVE else None
        return report

    def _act_on(self, report: CheckReport, stop: Callable[[str], None] | None = None) -> None:
        """Do what the user wants where a gradient looks wrong; ``stop`` ends the training."""
        if report.verdict < Verdict.DOUBLE_CHECK:
            return
        if callable(self._on_fail):
            self._on_fail(report)
        elif self._on_fail == "raise":
            raise GradientMismatch(str(report), report)
        elif self._on_fail == "stop":
            self.should_stop = True
            if stop is not None:  # a loop of the user's looks at should_stop
                stop(f"gradient check, {report.headline}")
        elif report.as_at is None:  # once is enough
            warn(f"The gradient looks wrong. {report.headline}.")

    def _is_early_end(self) -> bool:
        """Return whether the training was too short for the check after N, and not because this hook ended it."""
        return self._after is not None and 0 < self.calls <= self._after and not self.should_stop

    @property
    def _ended(self) -> str:
        return f"The training ended after {plural(self.calls, 'step')}"

    @property
    def _early_end_note(self) -> str:
        return f"{self._ended}, before the check after {self._after}: checked at the end."

    def _verdicts(self) -> str:
        """Return the verdict of each check, and of many how often there was each, the worst first."""
        if len(self.reports) <= MOST_LISTED:
            return ", ".join(f"{report.verdict} at {report.step}" for report in self.reports)
        steps: dict[Verdict, list[int]] = {}
        for report in self.reports:
            steps.setdefault(report.verdict, []).append(report.step)
        told = []
        for verdict, found in sorted(steps.items(), reverse=True):
            where = f"at {found[0]}" if len(found) == 1 else f"from {found[0]} to {found[-1]}"
            told.append(f"{len(found)} {verdict} {where}")
        return ", ".join(told)

    def _sum_up(self) -> None:
        """Say how many checks there were and what they have cost, and warn of those that were not reached."""
        count = plural(len(self.reports), "check")
        if self.reports and not any(report.parameters for report in self.reports):
            self._recorder.say(
                f"gradient check: nothing was checked in this run ({count}), for the reason given above."
            )
        elif self.reports:
            self._recorder.say(f"gradient check: {count} ({self._verdicts()}), {self.share:.1%} of the training time")
        elif not (self.calls or self._environment.off):
            self._recorder.say("gradient check: no step was seen, so that nothing was checked.")
        missed = [str(call) for call in self._environment.calls or () if call >= self.calls > 0]
        if missed and not (self.should_stop or self._environment.off):
            not_made = f"GC_HOOKS_AT asks for checks at {', '.join(missed)}: they were not made"
            warn(f"{self._ended}, and {not_made}. Try smaller numbers, such as GC_HOOKS_AT=0,1,500.")
