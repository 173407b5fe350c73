"""The types that more than one module speaks of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""An array of floating-point (or, along a complex step, complex) numbers."""

Params: TypeAlias = Mapping[str, Array]
"""The one currency inside: a name for every array, such as ``{"dense1.W": ...}``."""

Loss: TypeAlias = Callable[..., Any]
"""A function of the parameters (of nothing, when it reads the user's own arrays) that returns one number."""

Schedule: TypeAlias = Callable[[int], bool]
"""Is a check due? Asked with the number of calls that the hook has had before this one."""

Batch: TypeAlias = tuple[Array, Array]
"""Inputs and targets; rows are samples."""

RandomState: TypeAlias = Mapping[str, Any]
"""What ``numpy.random.Generator.bit_generator.state`` returns."""

Generator: TypeAlias = np.random.Generator
