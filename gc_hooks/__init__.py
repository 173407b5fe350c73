"""A smoke detector for hand-written backpropagation: is the gradient that the training uses the slope of its loss?"""

from gc_hooks import adapters, nn
from gc_hooks.callbacks import Callback, TrainState
from gc_hooks.check import check_gradients
from gc_hooks.diagnosis import Diagnosis
from gc_hooks.errors import (
    GradCheckError,
    GradCheckWarning,
    GradientMismatch,
    InvalidProblem,
    MissingDependency,
    NondeterministicLoss,
)
from gc_hooks.hook import GradCheckHook
from gc_hooks.judging.comparison import Basis, Comparison
from gc_hooks.judging.verdict import Tolerance, Verdict
from gc_hooks.measuring.estimate import Estimate, Status
from gc_hooks.methods import central, complex_step, fixed_step
from gc_hooks.probes import entries, joint, per_parameter
from gc_hooks.report import CheckReport
from gc_hooks.reporters import ConsoleReporter, JsonlReporter, Log, TensorBoardReporter, read_jsonl, read_log
from gc_hooks.rules.layerwise import check_layers
from gc_hooks.schedule import any_of, at, drift, every, first, logspaced
from gc_hooks.testing import assert_gradients

__version__ = "0.1.0"

__all__ = [
    "Basis",
    "Callback",
    "CheckReport",
    "Comparison",
    "ConsoleReporter",
    "Diagnosis",
    "Estimate",
    "GradCheckError",
    "GradCheckHook",
    "GradCheckWarning",
    "GradientMismatch",
    "InvalidProblem",
    "JsonlReporter",
    "Log",
    "MissingDependency",
    "NondeterministicLoss",
    "Status",
    "TensorBoardReporter",
    "Tolerance",
    "TrainState",
    "Verdict",
    "adapters",
    "any_of",
    "assert_gradients",
    "at",
    "central",
    "check_gradients",
    "check_layers",
    "complex_step",
    "drift",
    "entries",
    "every",
    "first",
    "fixed_step",
    "joint",
    "logspaced",
    "nn",
    "per_parameter",
    "read_jsonl",
    "read_log",
]
