"""What a style is: a name, a group, and a function that makes its loss and its parameters."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

PURE, IN_PLACE = False, True


@dataclass(frozen=True)
class Style:
    """A manner of writing a forward pass.

    ``write(rng)`` returns the loss, its parameters and whether the loss reads them in place; and, for what is attached
    by an adapter, a function that makes the keywords of `check_gradients` from gradients.
    """

    name: str
    group: str
    write: Callable[[np.random.Generator], tuple[Any, ...]]

    def written(self):
        """Return loss, parameters, in place or not, and the function that attaches gradients."""
        loss, params, in_place, *attach = self.write(np.random.default_rng(zlib.crc32(self.name.encode())))
        if attach:
            return loss, params, in_place, attach[0]
        keywords = {"loss": loss, "params": params, "in_place": in_place}
        return loss, params, in_place, lambda grads: {**keywords, "grads": grads}


STYLES: dict[str, Style] = {}


def style(write):
    """Add a function to the collection; its group is its module."""
    add(write.__name__, write.__module__.rpartition(".")[2], write)
    return write


def add(name, group, write):
    assert name not in STYLES, f"two styles are called {name}"
    STYLES[name] = Style(name, group, write)
