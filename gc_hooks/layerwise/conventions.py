"""How people call things in their layers: the two passes, the outputs, and a gradient beside its parameter."""

from __future__ import annotations

import re
from collections.abc import Iterable

PASSES = (
    ("forward", "backward"),
    ("forward_pass", "backward_pass"),
    ("forward_propagation", "backward_propagation"),
    ("forward_prop", "backward_prop"),
    ("forward_prop", "back_prop"),
    ("fprop", "bprop"),
    ("feedforward", "backprop"),
    ("forward", "backprop"),
    ("forward", "back"),
    ("__call__", "backward"),
)
"""The methods of a layer, the first pair that it has."""

OUTPUTS = ("output", "outputs", "out", "y", "Y", "a", "A", "activation", "activations", "z", "Z", "h")
"""Where a forward that returns nothing leaves its result."""

BELOW = (
    "dinputs",
    "dinput",
    "dx",
    "dX",
    "din",
    "input_grad",
    "grad_input",
    "grad_inputs",
    "input_gradient",
)
"""Where a backward that returns nothing leaves the gradient for its inputs."""

TRAINING = re.compile("^(is_?)?train", re.IGNORECASE)
"""An argument that forward cannot do without: whether it is the training that runs."""

LETTERS = ("d", "dld", "djd", "dcd", "ded", "dlossd", "g")
"""Before a name: ``dW``, ``dL_dW``, ``gW``."""

WORDS = ("grad", "grads", "gradient", "gradients", "nabla", "partial", "gradwrt", "gradof")
"""Before or behind a name, with an underscore or not: ``grad_W`` and ``W_grad``."""

CHANGES = ("delta", "deltas")
"""The same, of a gradient or of the last step."""

PARAMETERS = {"param", "parameter", "weight", "variable", "theta", "data", "value", "val"}
GRADIENTS = {"grad", "gradient"}
"""Words that belong together by themselves."""


def gradient_name(name: str, others: Iterable[str]) -> str | None:
    """Return which of other names is that of the gradient; a spelling in the same case is preferred.

    >>> gradient_name("W", ["b", "dw", "dW"]), gradient_name("weights", ["dweights"])
    ('dW', 'dweights')
    >>> gradient_name("params", ["param_grads"]), gradient_name("parameters", ["gradients"]), gradient_name("x", ["y"])
    ('param_grads', 'gradients', None)
    """
    found = []
    for position, other in enumerate(others):
        rank = _rank(name, other)
        if rank is not None:
            found.append((*rank, position, other))
    return min(found)[-1] if found else None


def is_parameter_word(name: str) -> bool:
    """Return whether a name says by itself that it holds parameters."""
    return _plain(name) in PARAMETERS


def is_gradient_word(name: str) -> bool:
    """Return whether a name says by itself that it holds gradients, or those of the parameters."""
    return _plain(name) in GRADIENTS or any(_plain(name) == word + mark for word in PARAMETERS for mark in GRADIENTS)


def _rank(name: str, other: str) -> tuple[int, bool] | None:
    """Return how far a name is from being that of a parameter's gradient: the kind of mark, and another case."""
    plain, marked = _plain(name), other.replace("_", "").lower()
    stems = [marked.removeprefix(mark) for mark in WORDS] + [marked.removesuffix(mark) for mark in WORDS]
    # After the words, because they may also mean a step or a difference; the last ones mean that more often.
    stems += [marked.removeprefix(mark) for mark in (*LETTERS, *CHANGES)] + [
        marked.removesuffix(mark) for mark in CHANGES
    ]
    for rank, stem in enumerate(stems):
        if stem and stem != marked and stem.rstrip("s") == plain:
            return rank, name.strip("_") not in other
    if plain in PARAMETERS and _plain(other) in GRADIENTS:
        return len(stems), False
    return None


def _plain(name: str) -> str:
    """Return a name without underscores, capitals, "get" and the plural's s."""
    return name.replace("_", "").lower().removeprefix("get").rstrip("s")
