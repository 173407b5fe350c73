"""What all hooks have in common: when a check is due, making it, and acting on it, whoever hands in the numbers."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TypeVar

from gc_hooks._typing import Schedule
from gc_hooks.check import check_options
from gc_hooks.errors import GradientMismatch, InvalidProblem
from gc_hooks.hooks.environment import EnvironmentSettings, read_environment
from gc_hooks.hooks.recorder import Ask, CheckRecorder, warn
from gc_hooks.report import CheckReport
from gc_hooks.report.diagnosis import plural
from gc_hooks.report.verdict import Tolerance, Verdict
from gc_hooks.schedule import Drifting, never, whole_and_periodic
from gc_hooks.slopes.estimate import Method
from gc_hooks.slopes.probes import joint

Self = TypeVar("Self", bound="HookBase")


class HookBase:
    """The base of `gc_hooks.GradCheckHook`, which describes the arguments, and of the hooks of other frameworks."""

    def __init__(
        self,
        *,
        after: int | None = 1000,
        every: int | None = None,
        schedule: Schedule | None = None,
        log_dir: str | os.PathLike[str] | None = None,
        writer: Any = None,
        reporters: Sequence[Any] | None = None,
        method: Method | None = None,
        tolerance: Tolerance = Tolerance(),
        on_fail: str | Callable[[CheckReport], object] = "warn",
        max_evaluations: int | None = None,
        max_seconds: float | None = None,
        seed: int = 0,
    ) -> None:
        from gc_hooks.reporters import chosen_reporters

        if not callable(on_fail):
            check_choice("on_fail", on_fail, ("warn", "raise", "stop"))
        if log_dir is not None and writer is not None:
            raise InvalidProblem(
                f"{type(self).__name__} got both log_dir and writer: give the one that the checks should go to."
            )
        check_options(method, tolerance, max_evaluations, max_seconds)
        switches = read_environment()
        if switches.log_dir is not None:
            log_dir, writer = switches.log_dir, None
        self._off = switches.off
        self.should_stop = False
        self.calls = 0
        self._began = math.nan
        self._on_fail = on_fail
        self._recorder = CheckRecorder(chosen_reporters(reporters, log_dir, writer), seed)
        self._options: dict[str, Any] = {
            "method": method,
            "tolerance": tolerance,
            "max_evaluations": max_evaluations,
            "max_seconds": max_seconds,
            "pictures": self._recorder.wants_pictures,
        }
        self._set_schedule(schedule, after, every, switches)
        self._tell_switches(switches)

    def _set_schedule(
        self, schedule: Schedule | None, after: int | None, every: int | None, switches: EnvironmentSettings
    ) -> None:
        self._whole, self._periodic = whole_and_periodic(schedule, after, every)
        self._after = after if schedule is None else None
        self._asked_for = switches.calls or ()
        self._foreseeable = schedule is None or switches.schedule is not None
        if switches.schedule is not None:
            self._whole, self._periodic, self._after = switches.schedule, never, None
        if isinstance(self._whole, Drifting):
            whole = self._whole
            self._whole = lambda call: whole(call, lambda: self._recorder.movement.since_attempt(self._weights()))

    def _tell_switches(self, switches: EnvironmentSettings) -> None:
        for trouble in switches.troubles:
            warn(trouble)
        if switches.told and not self._recorder.tell("say", switches.told):
            warn(switches.told)  # nobody is there to say it

    @property
    def reports(self) -> list[CheckReport]:
        """The reports of all checks so far."""
        return self._recorder.reports

    @property
    def share(self) -> float:
        """The hook's share of the time since its first call, between 0 and 1."""
        return 0.0 if math.isnan(self._began) else self._recorder.seconds / (time.perf_counter() - self._began)

    def close(self) -> None:
        """Close what this hook opened."""
        self._recorder.tell("close")

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._break_off()
        self.close()

    def _break_off(self) -> None:
        """An exception is on its way out: no long check any more."""

    def _weights(self) -> Any:
        """The parameters of the call under way, for a schedule that looks at them."""
        raise NotImplementedError

    def _is_due(self, step: int) -> bool:
        """Count the call, and ask the schedule."""
        call = self.calls
        self.calls = call + 1
        try:
            # A period is kept affordable: one direction through everything, which opens up on suspicion.
            if self._whole(call):
                self._options["probes"] = None
            elif self._periodic(call):
                self._options["probes"] = joint
            else:
                return False
            return True
        except Exception as error:
            self._whole = self._periodic = never
            self._recorder.failed(step, "The schedule (it is not asked again)", error)
            return False
        finally:
            if not call and math.isnan(self._began):
                self._began = time.perf_counter()

    def _may_be_due(self) -> bool:
        """Whether the next call may be due; a schedule that is not ours is not asked twice."""
        return not self._foreseeable or self._whole(self.calls) or self._periodic(self.calls)

    @property
    def _quick_check(self) -> bool:
        """Whether a periodic check follows a good one, and may leave out what was just asked."""
        return self._options["probes"] is joint and bool(self.reports) and self.reports[-1].ok

    def _check(
        self, step: int, params: Any, ask: Ask, stop: Callable[[str], None] | None = None, same: bool = False
    ) -> None:
        """Make a check, and do what the user asked for when a gradient looks wrong."""
        report = self._recorder.check(step, params, ask, same)
        if report.verdict < Verdict.DOUBLE_CHECK:
            return
        if callable(self._on_fail):
            self._on_fail(report)
        elif self._on_fail == "raise":
            raise GradientMismatch(str(report), report)
        elif self._on_fail == "stop":
            self.should_stop = True
            if stop is not None:  # a loop of one's own looks at should_stop
                stop(f"gradient check, {report.headline}")
        else:
            warn(f"The gradient looks wrong. {report.headline}.")

    def _never_reached(self) -> bool:
        """Whether the training was too short for the check after N, and not because this hook ended it."""
        return self._after is not None and 0 < self.calls <= self._after and not self.should_stop

    def _ended_early(self) -> str:
        return f"{self._ended}, before the check after {self._after}: checked at the end."

    @property
    def _ended(self) -> str:
        return f"The training ended after {plural(self.calls, 'step')}"

    def _sum_up(self) -> None:
        """Tell how many checks there were, and what they have cost."""
        last = ", ".join(f"{report.verdict} at {report.step}" for report in self.reports[-5:])
        if last:
            text = (
                f"gradient check: {plural(len(self.reports), 'check')} ({last}), {self.share:.1%} of the training time"
            )
            self._recorder.tell("say", text)
        missed = [str(call) for call in self._asked_for if call >= self.calls > 0]
        if missed and not (self.should_stop or self._off):
            warn(
                f"{self._ended}, and GC_HOOKS_AT asks for checks at {', '.join(missed)}: "
                "they were not made. Try smaller numbers, such as GC_HOOKS_AT=0,1,500."
            )

    def _start_over(self) -> None:
        """Another model: its first call is call 0, and its weights are where it begins."""
        self.calls = 0
        self._recorder.movement.forget()
        self._recorder.tell("say", "gradient check: another model, which is checked from its own first step on.")


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not among those that are known.

    Raises
    ------
    InvalidProblem
    """
    if value not in choices:
        raise InvalidProblem(f"{name}={value!r} is not known. Try one of {', '.join(map(repr, choices))}.")
