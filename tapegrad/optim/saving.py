"""Keeping what an optimiser has to know to go on later."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from tapegrad.errors import DataError, DTypeError, ShapeError, StructureError
from tapegrad.optim.archive import read_arrays, write_arrays
from tapegrad.optim.runs import Lengths, blocks, columns, merged

_WANTED = ["hyper", "kind", "state", "steps"]
# In place of a rate that is a schedule, and of that of a group that has none of its own. NaN would not equal itself.
_NO_RATE = -1.0


class Saved:
    """The methods of optimisers that save and load."""

    steps: int
    lr: Any
    groups: list[Any]
    _rows: int
    _state: np.ndarray | None
    _of: Lengths
    _target: Any

    def state_dict(self) -> dict[str, np.ndarray]:
        """What it takes to go on later: kind, number of steps, constants (a row for each group, where there are
        several), state, which runs of it are of which group, and "lr", the rates of the optimiser and of its groups. A
        schedule is not part of it: there "lr" is -1, as for a group that has no rate of its own."""
        state = np.zeros((self._rows, 0)) if self._state is None else columns(self._state, self._of)
        hyper = np.array([list(group.hyper.values()) for group in self.groups], np.float64)
        saved = {
            "kind": np.array(type(self).__name__),
            "steps": np.array(self.steps),
            "hyper": hyper if len(self.groups) > 1 else hyper[0],
            "state": state,
            "lr": self.saved_rates(),
        }
        if len(self.groups) > 1:
            saved["runs"] = np.array(merged(self._of), np.int64).reshape(-1, 2)
        return saved

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take up a state from `state_dict`, and the learning rates where they are numbers. Schedules of this optimiser
        stay, and so do its rates where the state has none, as those of earlier versions. Nothing is changed if the
        state does not fit.

        Raises StructureError for another kind of optimiser, other groups or other entries, ShapeError for other sizes,
        DTypeError for a state that is not of these parameters' dtype, DataError for numbers that no optimiser has.
        """
        self.check_names(list(saved))
        kind, hyper, state = str(saved["kind"]), np.asarray(saved["hyper"]), np.asarray(saved["state"])
        if kind != type(self).__name__:
            raise StructureError(f"the saved state is of {kind}, this is {type(self).__name__}")
        steps = check_steps(saved["steps"])
        if hyper.dtype.kind != "f" or not (np.isfinite(hyper).all() and (hyper >= 0.0).all()):
            raise DataError(f"the constants of a saved optimiser are numbers from 0 on, not {hyper!r}")
        if state.dtype not in (np.float64, np.float32):
            raise DTypeError(f"the saved state must be float64 or float32, it is {state.dtype}")
        shape = (len(self.groups), len(self.groups[0].hyper))
        if hyper.shape != (shape if len(self.groups) > 1 else shape[1:]) or state.ndim != 2 or (
            state.shape[0] != self._rows
        ):  # fmt: skip
            raise ShapeError(
                f"the saved state has constants of shape {hyper.shape} and shape {state.shape}; expected "
                f"{shape if len(self.groups) > 1 else shape[1:]} and ({self._rows}, n)"
            )
        of = self._check_runs(saved.get("runs"), state.shape[1])
        self._check_given(state)
        self.set_rates(saved.get("lr"))
        self.steps = steps
        for group, constants in zip(self.groups, hyper.reshape(shape).tolist(), strict=True):
            group.hyper.update(zip(group.hyper, constants, strict=True))
        self._state, self._of = (blocks(state, of), of) if state.shape[1] else (None, ())
        self._target = None

    def saved_rates(self) -> np.ndarray:
        """The rates as `state_dict` has them: of the optimiser, and of each group."""
        rates = [self.lr, *(group.lr for group in self.groups)]
        return np.array([_NO_RATE if lr is None or callable(lr) else float(lr) for lr in rates])

    def set_rates(self, saved: Any) -> None:
        """Take up rates from `saved_rates`; None where there are none. Raises ShapeError, DataError."""
        if saved is None:
            return
        rates, holders = np.asarray(saved), [self, *self.groups]
        if rates.shape != (len(holders),):
            raise ShapeError(f"the saved learning rates have shape {rates.shape}, expected ({len(holders)},)")
        if rates.dtype.kind != "f" or not np.all((rates == _NO_RATE) | (np.isfinite(rates) & (rates >= 0.0))):
            raise DataError(f"the learning rates of a saved optimiser are numbers from 0 on, not {rates!r}")
        for holder, lr in zip(holders, rates.tolist(), strict=True):
            if lr != _NO_RATE and not callable(holder.lr):
                holder.lr = lr

    def _check_runs(self, runs: Any, size: int) -> Lengths:
        if (runs is None) != (len(self.groups) == 1):
            raise StructureError(
                f"the saved state is of {'one group' if runs is None else 'several groups'}, this optimiser has "
                f"{len(self.groups)}"
            )
        if runs is None:
            return ((size, 0),)
        runs = np.asarray(runs)
        if runs.ndim != 2 or runs.shape[1] != 2 or runs.dtype.kind != "i" or (runs < 0).any():
            raise DataError(f"the runs of a saved optimiser are lengths and groups, not {runs!r}")
        if runs[:, 0].sum() != size and size:
            raise DataError(f"the runs of a saved optimiser have {runs[:, 0].sum()} parameters, its state {size}")
        if (runs[:, 1] >= len(self.groups)).any():
            raise StructureError(f"the saved state has more groups than the {len(self.groups)} of this optimiser")
        return tuple((int(length), int(group)) for length, group in runs)

    def _check_given(self, state: np.ndarray) -> None:
        """Raise ShapeError or DTypeError where a state is not of the parameters that the optimiser was made with."""
        p = self._numbers()
        if p is None or not state.shape[1]:
            return
        if state.shape[1] != p.size:
            raise ShapeError(f"the saved state is of {state.shape[1]} parameters, these are {p.size}")
        if state.dtype != p.dtype:
            raise DTypeError(f"the saved state is {state.dtype}, these parameters are {p.dtype}")

    def _numbers(self) -> np.ndarray | None:
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write `state_dict` to an .npz file."""
        write_arrays(path, self.state_dict())

    def load(self, path: str | os.PathLike[str]) -> None:
        """Read what `save` wrote. Raises DataError, and what `load_state_dict` raises."""
        self.load_state_dict(read_arrays(path, self.check_names))

    def check_names(self, names: list[str]) -> None:
        """Raise StructureError unless these are the names of a saved optimiser's entries."""
        if sorted(set(names) - {"runs", "lr"}) != _WANTED:
            raise StructureError(f"a saved optimiser has the entries {_WANTED}, found {sorted(names)[:20]}")


def check_steps(saved: Any) -> int:
    """The number of steps of a saved optimiser. Raises DataError for anything else."""
    steps = np.asarray(saved)
    if steps.shape or steps.dtype.kind not in "iu" or steps < 0:
        raise DataError(f"a saved optimiser has made a whole number of steps, from 0 on, not {steps!r}")
    return int(steps)
