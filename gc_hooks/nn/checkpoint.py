"""Saving and loading: a training that is stopped and resumed goes on as if it had not been, bit for bit.

A file is a plain ``.npz`` of arrays and one JSON text, without pickle, which could run code when it is loaded.
"""

from __future__ import annotations

import copy
import glob
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gc_hooks._typing import Array, Params
from gc_hooks.errors import InvalidProblem, require
from gc_hooks.isolation.undoing import run_all
from gc_hooks.nn.chain import prefixed
from gc_hooks.nn.model import Sequential
from gc_hooks.nn.trainer import Trainer

STANDING = "standing"  # name in the file of the JSON text, as bytes: where the training stands
KNOWN = ("params/", "state/", "optimizer/", "batch_loss", STANDING)  # how names in a file begin
ABANDONED = 3600.0  # seconds after which a file that is half written is taken for that of a save that was killed


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
        The file is damaged, is not a checkpoint, or belongs to another model or optimiser. The trainer is as it was.
    OSError
        The file cannot be read.
    """
    try:
        steps = _steps_of_loading(trainer, Path(path))
    except InvalidProblem as error:
        raise InvalidProblem(f"{error} The trainer is as it was.") from error
    try:
        run_all(steps)
    except BaseException:  # a Ctrl-C comes through when all is loaded
        run_all(steps)
        raise


def _steps_of_loading(trainer: Trainer, path: Path) -> list[Sequence[Any]]:
    """Return what loading will do, functions with their arguments, after all that can be refused has been."""
    arrays = _read(path)
    require(
        STANDING in arrays,
        f"{path} holds a model without its training. It was probably written by save_model. Try load_model.",
    )
    _check_model(path, arrays, trainer.model)
    standing = _read_standing(path, arrays, trainer)
    optimizer, state = (
        trainer.optimizer,
        {name.removeprefix("optimizer/"): array for name, array in arrays.items() if name.startswith("optimizer/")},
    )
    require(
        standing["optimizer"] == type(optimizer).__name__,
        f"{path} was saved with the optimiser {standing['optimizer']}, and the trainer has {type(optimizer).__name__}. "
        f"Try a trainer with {standing['optimizer']}, or load_model for the parameters alone.",
    )
    _check_optimizer(path, state, trainer, standing["step"])

    def set_optimizer() -> None:
        optimizer.learning_rate = standing["learning_rate"]
        optimizer.state.clear()
        optimizer.state.update(state)

    return [
        (_fill_model, arrays, trainer.model),
        (set_optimizer,),
        (trainer.go_on_from, standing, arrays["batch_loss"].tolist()),
    ]


Number = (int, float)
FIGURES = {str: Number}
STATE_OF_GENERATOR: dict[Any, Any] = {str: object}
UNDER_WAY = {
    "orders": STATE_OF_GENERATOR,
    "masks": STATE_OF_GENERATOR,
    "plan": {str: int},
    "sizes": [int],
    "figures": [FIGURES],
}
FORM = {
    "step": int,
    "epoch": int,
    "history": {str: [Number]},
    "under_way": UNDER_WAY,
    "optimizer": str,
    "learning_rate": Number,
}
"""What the JSON text has to be: a class, a list of such, or a dictionary with certain keys or any."""


def _has_form(value: Any, form: Any) -> bool:
    if isinstance(form, list):
        return isinstance(value, list) and all(_has_form(item, form[0]) for item in value)
    if not isinstance(form, dict):
        return isinstance(value, form) and not isinstance(value, bool)
    if not isinstance(value, dict):
        return False
    if str in form:  # any keys
        return all(_has_form(item, form[str]) for item in value.values())
    return value.keys() == form.keys() and all(_has_form(value[key], form[key]) for key in form)


def _read_standing(path: Path, arrays: Params, trainer: Trainer) -> dict[str, Any]:
    """Return where the training stood; refuse a text that would fail now or in the next ``fit``."""
    try:
        standing: dict[str, Any] = json.loads(arrays[STANDING].tobytes())
    except (ValueError, RecursionError) as error:
        raise _unusable(path, f"its text is no JSON ({type(error).__name__})") from error
    for key in FORM:
        if not (isinstance(standing, dict) and _has_form(standing.get(key), FORM[key])):
            raise _unusable(path, f"{key} is missing in its text, or has another form")
    epoch, losses = standing["under_way"], arrays.get("batch_loss")
    for key in ("orders", "masks"):
        try:
            bits = type(np.random.default_rng().bit_generator)()
            bits.state = epoch[key]
        except Exception as error:
            raise _unusable(path, f"the random state {key} belongs to another kind of generator") from error
    columns = {tuple(figures) for figures in epoch["figures"]}
    wrong = {
        "step or epoch": standing["step"] < 0 or standing["epoch"] < 0,
        "learning_rate": not 0 <= standing["learning_rate"] <= sys.float_info.max,
        "batch_loss": losses is None or losses.dtype.kind != "f" or losses.shape != (standing["step"],),
        "sizes or figures": len(epoch["sizes"]) != len(epoch["figures"]) or len(columns) > 1,
        "plan": bool(epoch["plan"] or epoch["sizes"]) and epoch["plan"].keys() != {"samples", "batch_size", "shuffle"},
        "sizes": any(size < 1 for size in epoch["sizes"]) or sum(epoch["sizes"]) > epoch["plan"].get("samples", 0),
        "history": any(len(figures) != standing["epoch"] for figures in standing["history"].values()),
    }
    for what, is_wrong in wrong.items():
        if is_wrong:
            raise _unusable(path, f"{what} is missing, or does not fit the rest")
    return standing


def _check_optimizer(path: Path, state: dict[str, Array], trainer: Trainer, step: int) -> None:
    """Refuse an optimiser's state that is not of the form that one step gives it."""
    twin = copy.deepcopy(trainer.optimizer)
    twin.state.clear()
    params = {name: np.zeros_like(array) for name, array in trainer.model.params.items()}
    if step or state:
        twin.step(params, {name: np.zeros_like(array) for name, array in params.items()})
    expected, found = _forms(twin.state), _forms(state)
    different = [name for name in expected | found if expected.get(name) != found.get(name)]
    if different:
        raise _unusable(path, f"the optimiser's {different[0]} is missing, unknown or of another shape or type")


def _unusable(path: Path, why: str) -> InvalidProblem:
    return InvalidProblem(
        f"{path} cannot be read as a checkpoint: {why}. This usually means a file that was changed after it was saved, "
        "or that another version wrote. Try the file that save_training wrote, or an older one."
    )


def save_model(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Write a model's parameters and its state, such as running statistics; the errors are those of `save_training`."""
    _write(Path(path), _model_arrays(model))


def load_model(model: Sequential, path: str | os.PathLike[str]) -> None:
    """Read a model's arrays into a model of the same layers and precision, also from the file of a training.

    The errors are those of `load_training`.
    """
    arrays = _read(Path(path))
    _check_model(path, arrays, model)
    run_all([(_fill_model, arrays, model)])


def _model_arrays(model: Sequential) -> dict[str, Array]:
    return {**prefixed("params/", model.params), **prefixed("state/", model.state)}


def _forms(arrays: Mapping[str, Array]) -> dict[str, str]:
    return {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}


def _check_model(path: str | os.PathLike[str], arrays: Params, model: Sequential) -> None:
    """Refuse a file whose arrays differ from the model's in names, shapes or types."""
    expected = _forms(_model_arrays(model))
    found = {name: form for name, form in _forms(arrays).items() if name[:6] in ("params", "state/")}
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
    path = path.resolve()  # through a symbolic link, which stays one
    for remains in path.parent.glob(f".{glob.escape(path.name)}.*[0-9].partial"):
        with suppress(OSError):  # of a save that was killed; another that is still at work touches its own
            if time.time() - remains.stat().st_mtime > ABANDONED:
                remains.unlink()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Array]:
    """Return the arrays of a file; one with others than a checkpoint's is refused before they are read."""
    with path.open("rb") as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                unknown = [name for name in arrays.files if not name.startswith(KNOWN)]
                if unknown:
                    raise ValueError(f"it holds {unknown[0]!r}, which is no part of one")
                return dict(arrays)
        except Exception as error:  # a damaged archive fails in many ways: zipfile, zlib and NumPy errors
            raise InvalidProblem(
                f"{path} cannot be read as a checkpoint: {error}. It may be another file, or a copy that broke off. "
                "Try the file that save_training wrote, or an older one."
            ) from error
