"""Forward passes as strangers write them, each in its own manner; ``coverage.py`` runs them."""

from benchmarks.styles import (
    algebra,
    arrays,
    buffers,
    images,
    in_place,
    layers_of_nn,
    losses,
    networks,
    parameters,
    precision,
    python,
    science,
    sequences,
)
from benchmarks.styles.collection import STYLES, Style

__all__ = [
    "STYLES",
    "Style",
    "algebra",
    "arrays",
    "buffers",
    "images",
    "in_place",
    "layers_of_nn",
    "losses",
    "networks",
    "parameters",
    "precision",
    "python",
    "science",
    "sequences",
]
