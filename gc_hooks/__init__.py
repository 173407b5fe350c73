"""A smoke detector for hand-written backpropagation: is the gradient that the training uses the slope of its loss?"""

from gc_hooks import adapters, nn
from gc_hooks.check import check_gradients
from gc_hooks.derivatives import check_hessian, check_jacobian
from gc_hooks.errors import (
    GradCheckError,
    GradCheckWarning,
    GradientMismatch,
    InvalidProblem,
    MissingDependency,
    NondeterministicLoss,
)
from gc_hooks.hooks.hook import GradCheckHook
from gc_hooks.layerwise import check_layers
from gc_hooks.report import CheckReport
from gc_hooks.report.comparison import Basis, Comparison
from gc_hooks.report.diagnosis import Diagnosis
from gc_hooks.report.verdict import Status, Tolerance, Verdict
from gc_hooks.reporters import ConsoleReporter, JsonlReporter, Log, Reporter, TensorBoardReporter, read_jsonl, read_log
from gc_hooks.schedule import any_of, at, drift, every, first, logspaced
from gc_hooks.slopes.methods import Estimate, Method, central, complex_step, fixed_step, reference
from gc_hooks.slopes.probes import entries, joint, per_parameter
from gc_hooks.testing import assert_gradients
from gc_hooks.training import Callback, TrainState

__version__ = "0.1.0"

__all__ = [
    "Basis", "Callback", "CheckReport", "Comparison", "ConsoleReporter", "Diagnosis", "Estimate", "GradCheckError",
    "GradCheckHook", "GradCheckWarning", "GradientMismatch", "InvalidProblem", "JsonlReporter", "Log", "Method",
    "MissingDependency", "NondeterministicLoss", "Reporter", "Status", "TensorBoardReporter", "Tolerance", "TrainState",
    "Verdict", "adapters", "any_of", "assert_gradients", "at", "central", "check_gradients", "check_hessian",
    "check_jacobian", "check_layers", "complex_step", "drift", "entries", "every", "first", "fixed_step", "joint",
    "logspaced", "nn", "per_parameter", "read_jsonl", "read_log", "reference",
]  # fmt: skip


def __dir__() -> list[str]:
    """List the public names only, so that completion shows what users need."""
    return [*__all__, "__all__", "__doc__", "__file__", "__name__", "__path__", "__version__"]
