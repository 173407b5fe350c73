"""Saving and loading: a training that is stopped and resumed goes on as if it had not been, bit for bit.

A file is a plain ``.npz`` of arrays and one JSON text, without pickle. It is written beside its place and moved there
when it is whole, so that what was saved before survives whatever happens.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem
from gc_hooks.nn.model import Sequential
from gc_hooks.nn.trainer import Trainer

STANDING = "standing"
"""The name under which the JSON text is kept."""


def save_training(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Write all that a training needs to go on: parameters, model and optimiser state, random states, history.

    Also in the middle of an epoch: call it from a callback (``on_batch_end`` or ``on_epoch_end``), or after ``fit``.
    What callbacks remember (`EarlyStopping`, a hook's reports) and the configuration are not in it.

    Parameters
    ----------
    trainer : Trainer
    path : str or path
        Replaced when the new file is whole, and not before.

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
    standing = {
        **trainer.standing(),
        "optimizer": type(optimizer).__name__,
        "learning_rate": float(optimizer.learning_rate),
    }
    arrays = {
        **_model_arrays(trainer.model),
        **_prefixed("optimizer", optimizer.state),
        "batch_loss": np.array(trainer.history.batch_loss),
        STANDING: np.frombuffer(json.dumps(standing).encode(), np.uint8),
    }
    _write(Path(path), arrays)


def load_training(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Bring a trainer to where another one was saved; it is built in the same way, whatever its seed.

    The next ``fit`` goes on from there: with what is left of a broken epoch, which counts as one of its ``epochs``.
    Give it the same data and batch size then, and ``epochs`` less ``trainer.state.epoch``.

    Raises
    ------
    InvalidProblem
        The file is damaged or no checkpoint, or belongs to another model or optimiser. The trainer is as it was.
    OSError
        The file cannot be read.
    """
    arrays = _read(Path(path))
    if STANDING not in arrays:
        raise InvalidProblem(
            f"{path} holds a model without its training: there is no optimiser and no random state in it. It was "
            "probably written by save_model. Try load_model, or a file of save_training."
        )
    standing = json.loads(arrays[STANDING].tobytes())
    _check_model(path, arrays, trainer.model)
    optimizer = trainer.optimizer
    if standing["optimizer"] != type(optimizer).__name__:
        raise InvalidProblem(
            f"{path} was saved with the optimiser {standing['optimizer']}, and the trainer has "
            f"{type(optimizer).__name__}. What one remembers means nothing to the other. Try a trainer with "
            f"{standing['optimizer']}, or load_model for the parameters alone."
        )
    _fill_model(arrays, trainer.model)
    optimizer.learning_rate = standing["learning_rate"]
    optimizer.state.clear()
    optimizer.state.update(_under("optimizer", arrays))
    trainer.go_on_from(standing, arrays["batch_loss"].tolist())


def save_model(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model's parameters and its state, such as running statistics.

    Raises
    ------
    OSError
        The file cannot be written; the one that was there is untouched.
    """
    _write(Path(path), _model_arrays(model))


def load_model(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Read them back into a model of the same layers and precision; from the file of a whole training too.

    Raises
    ------
    InvalidProblem
        The file is damaged or no checkpoint, or belongs to another model. The model is as it was.
    OSError
        The file cannot be read.
    """
    arrays = _read(Path(path))
    _check_model(path, arrays, model)
    _fill_model(arrays, model)


def _model_arrays(model: Sequential) -> dict[str, Array]:
    return {**_prefixed("params", model.params), **_prefixed("state", model.state)}


def _prefixed(prefix: str, arrays: Params) -> dict[str, Array]:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _under(prefix: str, arrays: Params) -> dict[str, Array]:
    return {name.removeprefix(f"{prefix}/"): a for name, a in arrays.items() if name.startswith(f"{prefix}/")}


def _check_model(path: str | os.PathLike[str], arrays: Params, model: Sequential) -> None:
    saved = {name: array for name, array in arrays.items() if name.startswith(("params/", "state/"))}
    unlike = _unlike(saved, _model_arrays(model))
    if unlike:
        raise InvalidProblem(
            f"{path} does not belong to this model: {unlike[0]} ({len(unlike)} such differences). It was "
            "probably saved with other layers, other sizes or in another precision. Try to build the model as "
            "it was then."
        )


def _unlike(saved: Params, held: Params) -> list[str]:
    names = [*held, *(name for name in saved if name not in held)]
    pairs = [(name.partition("/")[2], _shape(saved.get(name)), _shape(held.get(name))) for name in names]
    return [f"{name} is {there} in the file and {here} in the model" for name, there, here in pairs if there != here]


def _shape(array: Array | None) -> str:
    return "missing" if array is None else f"{array.dtype} {array.shape}"


def _fill_model(arrays: Params, model: Sequential) -> None:
    for prefix, held in (("params", model.params), ("state", model.state)):
        for name, array in _under(prefix, arrays).items():
            held[name][...] = array


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
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
        except Exception as error:  # a damaged archive fails in ways of all kinds
            raise InvalidProblem(
                f"{path} cannot be read as a checkpoint: {error}. It may be another file, or a copy that broke off. "
                "Try the file that save_training wrote, or an older one."
            ) from error
