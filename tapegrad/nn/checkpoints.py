"""Keeping a training in one file, from which it goes on bit for bit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tapegrad.errors import DataError, OperationError, StructureError, TapegradError
from tapegrad.nn.callbacks import Callback
from tapegrad.nn.history import History
from tapegrad.optim.archive import read_arrays, write_arrays

if TYPE_CHECKING:
    from tapegrad.nn.history import Row

# The generators whose state can be kept.
_GENERATORS = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_KIND = "tapegrad training 1"


class Checkpoint(Callback):
    """Write the whole training to a file after each epoch: `Training.save`. `fit(..., resume=path)` goes on from there.

    Args:
        path: the file, written whole or not at all. "{epoch}" in it stands for the epoch's number.
        every: it is written after each epoch whose number this divides.
        monitor: write only where this number of the epoch is the lowest so far ("accuracy": the highest).

    Other callbacks are called before it, and what they remember is kept too.

    Raises OperationError unless `every` is positive; StructureError where the rows have no such number.
    """

    late = True

    def __init__(self, path: str | os.PathLike[str], every: int = 1, monitor: str | None = None) -> None:
        if every < 1:
            raise OperationError(f"a checkpoint is written every epoch or more seldom, not every {every!r}")
        self.path, self.epochs, self.monitor = path, every, monitor
        self._best = np.inf

    def on_epoch(self, training: Any, row: Row) -> None:
        if self.monitor is not None:
            if self.monitor not in row:
                raise StructureError(f"Checkpoint looks at {self.monitor!r}, the epoch has {', '.join(row)}")
            found = -row[self.monitor] if self.monitor.endswith("accuracy") else row[self.monitor]
            if not found < self._best:
                return
            # Noted before, so that the file says it too.
            self._best = found
        elif int(row["epoch"]) % self.epochs:
            return
        training.save(os.fspath(self.path).replace("{epoch}", str(int(row["epoch"]))))

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"best": np.array(self._best)}

    def load_state_dict(self, saved: Mapping[str, np.ndarray]) -> None:
        self._best = float(saved["best"])


def write_training(path: str | os.PathLike[str], training: Any, callbacks: Iterable[Callback]) -> None:
    """Write model, optimiser, history, the generator of the order, and what callbacks remember."""
    parts = {"model": training.model.state_dict(), "optimizer": training.optimizer.state_dict()}
    parts |= {_name(i, callback): callback.state_dict() for i, callback in enumerate(callbacks)}
    arrays = {f"{part}.{name}": array for part, saved in parts.items() for name, array in saved.items()}
    generator = training.generator.bit_generator.state
    write_arrays(
        path,
        arrays | {
            "kind": np.array(_KIND),
            "history": np.array(json.dumps(training.history.rows)),
            "generator": np.array(json.dumps(generator, default=_listed)),
        },
    )  # fmt: skip


def _listed(x: Any) -> Any:
    return x.tolist()


def read_training(path: str | os.PathLike[str], training: Any, callbacks: Iterable[Callback]) -> None:
    """Take up what `write_training` has written. Nothing is changed unless all of it fits.

    Raises FileNotFoundError, DataError, and what `load_state_dict` of the model and the optimiser raise.
    """
    where = os.fspath(path)

    def check(names: list[str]) -> None:
        if not {"kind", "history", "generator"} <= set(names):
            raise StructureError(f"{where} is no checkpoint of a training: it has the entries {sorted(names)[:8]}")

    arrays = read_arrays(path, check)
    if str(arrays["kind"]) != _KIND:
        raise StructureError(f"{where}: expected {_KIND!r}, found {str(arrays['kind'])[:40]!r}")
    history = _history(arrays["history"], where)
    generator = _generator(arrays["generator"], where)

    def part(name: str) -> dict[str, np.ndarray]:
        prefix = f"{name}."
        return {key[len(prefix) :]: array for key, array in arrays.items() if key.startswith(prefix)}

    steps: list[tuple[Any, dict[str, np.ndarray]]] = [
        (callback, part(_name(i, callback))) for i, callback in enumerate(callbacks)
    ]
    steps = [(callback, saved) for callback, saved in steps if saved]
    steps += [(training.model, part("model")), (training.optimizer, part("optimizer"))]
    before = [(holder, holder.state_dict()) for holder, _ in steps]
    try:
        for holder, saved in steps:
            _load(holder, saved, where)
    except BaseException:
        for holder, own in before:
            holder.load_state_dict(own)
        raise
    training.history, training.generator = history, generator


def _name(i: int, callback: Callback) -> str:
    return f"callback{i}{type(callback).__name__}"


def _load(holder: Any, saved: dict[str, np.ndarray], where: str) -> None:
    try:
        holder.load_state_dict(saved)
    except TapegradError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{where}: this is no state of a {type(holder).__name__}: {error!r}") from None


def _history(text: np.ndarray, where: str) -> History:
    rows = _json(text, where)
    if not isinstance(rows, list) or not all(
        isinstance(row, dict) and all(isinstance(x, int | float) for x in row.values()) for row in rows
    ):
        raise DataError(f"{where}: the history is no list of rows of numbers")
    return History(rows)


def _generator(text: np.ndarray, where: str) -> np.random.Generator:
    state = _json(text, where)
    name = state.get("bit_generator") if isinstance(state, dict) else None
    if name not in _GENERATORS:
        raise DataError(f"{where}: there is no generator of random numbers {str(name)[:40]!r}")
    made = getattr(np.random, name)()
    try:
        made.state = state
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise DataError(f"{where}: this is no state of {name}: {error}") from None
    return np.random.Generator(made)


def _json(text: np.ndarray, where: str) -> Any:
    try:
        return json.loads(str(text))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: expected JSON, {error}") from None
