"""What a function that returns loss and gradients together has returned, taken apart by positions."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from gc_hooks.errors import InvalidProblem


def part(results: Any, position: int, what: str) -> Any:
    """What stands in one place of it.

    Raises
    ------
    InvalidProblem
        There is no such place.
    """
    try:
        return results[position]
    except (LookupError, TypeError):
        count = f" of {len(results)} items" if hasattr(results, "__len__") else ""
        raise InvalidProblem(
            f"The function returned a {type(results).__name__}{count}, with no place {position} for the {what}. This "
            "usually means that it returns them in another order or in another number; counting begins at 0. Try "
            "print(function(params)), and loss= and grads= with what is seen there."
        ) from None


def loss_among(results: Any, position: int) -> Any:
    """What stands where the loss should.

    Raises
    ------
    InvalidProblem
        It is a gradient, or several.
    """
    value = part(results, position, "loss")
    if not (isinstance(value, (Mapping, list, tuple)) or (isinstance(value, np.ndarray) and value.size > 1)):
        return value
    scalars = [place for place, result in enumerate(results) if isinstance(result, Real)]
    raise InvalidProblem(
        f"In place {position} of what the function returned, where the loss should stand, stands a "
        f"{type(value).__name__}. This usually means that the gradients come first. Try "
        f"loss={scalars[0] if scalars else 1}, grads={position}."
    )
