"""Saving and loading: a training that is stopped and resumed goes on as if it had not been, bit for bit.

A file is a plain ``.npz`` of arrays and one JSON text, without pickle, which could run code when it is loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem, require
from gc_hooks.nn.chain import prefixed
from gc_hooks.nn.model import Sequential
from gc_hooks.nn.trainer import Trainer

STANDING = "standing"  # name in the file of the JSON text, as bytes: where the training stands


def save_training(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Write all that a training needs to go on: parameters, model and optimiser state, random states, history.

    Call it after ``fit``, or from a callback (``on_batch_end`` or ``on_epoch_end``), also in the middle of an epoch.
    What callbacks remember (`EarlyStopping`, a hook's reports) and the configuration are not saved.

    Raises
    ------
    OSError
        The file cannot be written; the one that was there is untouched.

    Examples
    --------
    >>> import tempfile
    >>> from gc_hooks.nn import Dense, MeanSquaredError, SGD
    >>> data = np.ones((4, 2)), np.zeros(4)
    >>> first, second = (Trainer(Sequential([Dense(2, 1)]), MeanSquaredError(), SGD(0.1)) for _ in range(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     history = first.fit(*data, epochs=2)
    ...     save_training(first, f"{folder}/run.npz")
    ...     load_training(second, f"{folder}/run.npz")
    >>> second.step, bool(np.all(second.model.params["dense1.W"] == first.model.params["dense1.W"]))
    (2, True)
    """
    optimizer = trainer.optimizer
    standing = trainer.standing()
    standing |= {"optimizer": type(optimizer).__name__, "learning_rate": float(optimizer.learning_rate)}
    arrays = {
        **_model_arrays(trainer.model),
        **prefixed("optimizer/", optimizer.state),
        "batch_loss": np.array(trainer.history.batch_loss),
        STANDING: np.frombuffer(json.dumps(standing).encode(), np.uint8),
    }
    _write(Path(path), arrays)


def load_training(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Bring a trainer to where another one was saved; it is built in the same way, with any seed.

    The next ``fit`` continues from there: with the rest of an epoch that was broken off, which counts as one of its
    ``epochs``. Give it the same data and batch size then, and ``epochs`` less ``trainer.state.epoch``.

    Raises
    ------
    InvalidProblem
        The file is damaged, is not a checkpoint, or belongs to another model or optimiser. The trainer is unchanged.
    OSError
        The file cannot be read.
    """
    arrays = _read(Path(path))
    require(
        STANDING in arrays,
        f"{path} holds a model without its training. It was probably written by save_model. Try load_model.",
    )
    standing = json.loads(arrays[STANDING].tobytes())
    _check_model(path, arrays, trainer.model)
    optimizer, saved = trainer.optimizer, standing["optimizer"]
    require(
        saved == type(optimizer).__name__,
        f"{path} was saved with the optimiser {saved}, and the trainer has {type(optimizer).__name__}. "
        f"Try a trainer with {saved}, or load_model for the parameters alone.",
    )
    # All that can be refused has been; from here on the trainer changes.
    _fill_model(arrays, trainer.model)
    optimizer.learning_rate = standing["learning_rate"]
    optimizer.state.clear()
    for name, array in arrays.items():
        if name.startswith("optimizer/"):
            optimizer.state[name.removeprefix("optimizer/")] = array
    trainer.go_on_from(standing, arrays["batch_loss"].tolist())


def save_model(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model's parameters and its state, such as running statistics; the errors are those of `save_training`."""
    _write(Path(path), _model_arrays(model))


def load_model(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Read a model's arrays into a model of the same layers and precision, also from the file of a training.

    The errors are those of `load_training`.
    """
    arrays = _read(Path(path))
    _check_model(path, arrays, model)
    _fill_model(arrays, model)


def _model_arrays(model: Sequential) -> dict[str, Array]:
    return {**prefixed("params/", model.params), **prefixed("state/", model.state)}


def _check_model(path: str | os.PathLike[str], arrays: Params, model: Sequential) -> None:
    """Refuse a file whose arrays differ from the model's in names, shapes or types."""
    expected = {name: f"{array.dtype} {array.shape}" for name, array in _model_arrays(model).items()}
    found = {name: f"{array.dtype} {array.shape}" for name, array in arrays.items() if name[:6] in ("params", "state/")}
    different = [name for name in expected | found if expected.get(name) != found.get(name)]
    if different:
        first = different[0]
        raise InvalidProblem(
            f"{path} does not belong to this model: {first.partition('/')[2]} is {found.get(first, 'missing')} in the "
            f"file and {expected.get(first, 'missing')} in the model ({len(different)} such differences). It was "
            "probably saved with other layers, sizes or precision. Try to build the model as it was then."
        )


def _fill_model(arrays: Params, model: Sequential) -> None:
    for name, array in _model_arrays(model).items():
        array[...] = arrays[name]


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write a file beside the path and move it there when it is complete, so that a crash loses nothing old."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Array]:
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as error:  # a damaged archive fails in many ways: zipfile, zlib and NumPy errors
            raise InvalidProblem(
                f"{path} cannot be read as a checkpoint: {error}. It may be another file, or a copy that broke off. "
                "Try the file that save_training wrote, or an older one."
            ) from error
