"""A Numba function as a Python function of Values: each call runs it once, and writes what it did on their tape.

Whatever works on recordings follows from that: replays, compiled programs, sparse matrices, second derivatives. What
the function compared is guarded, so that a replay notices where it would go another way, and has the function run anew.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import DTypeError
from tapegrad.functions import stack
from tapegrad.njit.memory import FIRST, taken
from tapegrad.njit.results import mapped
from tapegrad.njit.runs import function
from tapegrad.ops import BY_NAME
from tapegrad.ops.record import COLUMNS, OPCODE, OUT, A, B, C
from tapegrad.tape import LEAF
from tapegrad.tape.writing import extend
from tapegrad.value import Value, handle

_COPY = BY_NAME["copy"].opcode


class Recordable:
    """A Numba function that can be called with Values. Pickled, it is that function."""

    keeps_attached = True

    def __init__(self, dispatcher: Any) -> None:
        self._function = function(dispatcher)
        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(self, name, getattr(dispatcher, name))

    def __reduce__(self) -> Any:
        return recordable, (self._function.dispatcher,)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        args = self._function.bound(args, kwargs)
        values = _values(args)
        if not values:
            return self._function.dispatcher(*args)
        tape = values[0]._tape
        if tape.dtype != np.float64:
            if not tape.recording:
                raise DTypeError(f"{self._function.name} is a Numba function, which is recorded in float64")
            # The recording is made again in float64.
            tape.too_narrow = True
        tape.evaluate()
        floats = [_is_float(x) for x in args]
        plain = [_numbers(x) for x in args]
        slots = np.concatenate([[0] * FIRST, *[_slots(x) for x, f in zip(args, floats, strict=True) if f]])
        with taken(False) as made:
            returned, given = self._function.run(made, False, plain, floats)
            length = made.length
            links, numbers = made.links[:length].astype(np.int64), made.numbers[:length, 0].copy()
        slots = slots.astype(np.int64)
        assert len(slots) == FIRST + sum(np.size(x) for x in given)
        return _written(tape, values[0], slots, links, numbers, returned)


def _values(args: Sequence[Any]) -> list[Value]:
    found: list[Value] = []
    for x in args:
        found += [x] if isinstance(x, Value) else _values(x) if isinstance(x, tuple) else []
    return found


def _is_float(x: Any) -> bool:
    """Whether there are Values of floats in an argument."""
    if isinstance(x, tuple):
        return any(map(_is_float, x))
    return isinstance(x, Value) and not x._is_integer and not (x.size and x._tape.kind(x._slot))


def _numbers(x: Any) -> Any:
    """An argument with plain numbers in place of Values; integers among these are guarded."""
    if isinstance(x, tuple):
        parts = [_numbers(y) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    if not isinstance(x, Value):
        return x
    if x._is_integer:
        return int(x)
    kind = x._tape.kind(x._slot) if x.size else ""
    if kind:
        return np.asarray(x.data).astype(bool if kind == "b" else np.int64)[()]
    if x._layout is None:
        return float(x._tape.values[x._tape.locate(x._slot)])
    return np.array(x._window(x._tape.values), np.float64)


def _slots(x: Any) -> np.ndarray:
    """The slots of the floats in an argument; -1 for numbers that are no Values."""
    if isinstance(x, tuple):
        return np.concatenate([np.zeros(0, np.int64), *map(_slots, x)])
    if isinstance(x, Value):
        if x._layout is None:
            return np.array([x._slot])
        return x._slot + np.ravel(x._layout.offsets()) if x.size else np.zeros(0, np.int64)
    if isinstance(x, float | np.floating) or (isinstance(x, np.ndarray) and x.dtype.kind == "f"):
        return np.full(np.size(x), -1)
    return np.zeros(0, np.int64)


def _written(
    tape: Any, like: Value, slots: np.ndarray, links: np.ndarray, numbers: np.ndarray, returned: Any
) -> Any:
    """Write a run on a tape; returns what the function returned, with Values.

    `slots` are those of row 0 and of the inputs, -1 for inputs that are constants.
    """
    count = len(slots)
    outside = np.flatnonzero(slots < 0)
    new, own = links[count:], numbers[count:]
    total = len(outside) + len(new)
    first = tape.top
    if total > 0:
        # Slots are known before they are taken, because taking them may end a page.
        slots = slots.copy()
        slots[outside] = first + np.arange(len(outside))
        where = np.concatenate([slots, first + len(outside) + np.arange(len(new))])
        rows = np.zeros((total, COLUMNS), np.int64)
        rows[:, OUT] = first + np.arange(total)
        rows[: len(outside), OPCODE], rows[: len(outside), B] = LEAF, 1
        after = rows[len(outside) :]
        after[:, OPCODE] = new[:, 3]
        after[:, [A, B, C]] = where[new[:, :3]]
        leaf = new[:, 3] == LEAF
        after[leaf] = np.stack([np.full(leaf.sum(), LEAF), after[leaf, OUT], np.zeros(leaf.sum(), np.int64),
                                np.ones(leaf.sum(), np.int64), np.zeros(leaf.sum(), np.int64)], axis=1)  # fmt: skip
        known = np.concatenate([numbers[outside], own[leaf]])
        page = extend(tape, rows, known)
    else:
        where, page = slots, tape.page

    def value(row: int) -> Value:
        found = handle(tape, int(where[row]), None)
        found._page = page if row >= count or slots[row] >= first else tape.pin(int(where[row]))
        return found

    def recorded(values: Any, rows: Any) -> Any:
        if isinstance(rows, np.ndarray):
            if not rows.any():
                return np.array(values)
            parts = [value(r) if r else float(x) for x, r in zip(values.reshape(-1), rows.reshape(-1), strict=True)]
            return stack(parts).reshape(values.shape)
        return value(rows) if rows else float(values)

    return mapped(returned, recorded)


@functools.cache
def recordable(dispatcher: Any) -> Recordable:
    """A Numba function that can be called with Values; the same one each time."""
    return Recordable(dispatcher)
