"""Loops of which a tape keeps the first state in place of all steps, and how a sweep passes them.

On the tape stands a row for each number of the state after the loop, which says nothing: sweeps go round these rows,
and have the loop carry adjoints or tangents. To go back, its steps are taken again. States are kept before some
blocks of steps, by the schedule of `revolve`, and a block at a time is recorded on a tape of its own, and swept.
Memory is balanced between the two: of n steps, some sqrt(n) states are kept, and as many steps recorded at a time,
unless that is more than the limit of memory allows.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapegrad.adjoint import revolve
from tapegrad.errors import OperationError, UnsupportedError
from tapegrad.njit import memory as tapes
from tapegrad.njit.memory import FIRST, Tape, taken
from tapegrad.njit.sweeps import forward, reverse
from tapegrad.program.memory import memory

# The bytes of a row, its adjoint included; and how many rows are recorded at least before they are swept, so that what
# Python does for each block is little.
_ROW, _WORTH = 32, 1 << 14


def sweep_back(tape: Tape, first: int, last: int) -> None:
    """Carry the adjoints of the rows from `last` - 1 down to `first` to those that these depend on."""
    for loop in reversed(tape.loops):
        tape.sweep(reverse, loop.end, last)
        loop.back(tape.adjoints)
        last = loop.first
    tape.sweep(reverse, first, last)


def sweep_on(tape: Tape, first: int, last: int) -> None:
    """Compute the tangents of the rows from `first` on, up to `last`."""
    for loop in tape.loops:
        tape.sweep(forward, first, loop.first)
        loop.along(tape.adjoints)
        first = loop.end
    tape.sweep(forward, first, last)


def go(stretch: Any, address: int, given: tuple[Any, ...]) -> None:
    """Take the steps of a loop, and keep it on the tape that has this address, on none where that is 0. Called by
    compiled code, which then appends the rows of the state after the loop.

    Raises OperationError where a step changes an array among its arguments, and what it raises.
    """
    like, args, running, values, whole, rows, arg_rows, n = given
    (compiled,) = stretch.overloads.values()
    before = _State(values.copy(), whole.copy())
    # Recorded arrays are copied by the compiled code, which looks whether they are changed; others are not.
    if compiled.entry_point(0, like, running, values, whole, np.empty_like(rows), 0, n) or _differ(running, args):
        raise OperationError(
            "checkpointed_loop: step changes an array that it is given as an argument, so that it could not be taken "
            "again: make the array a part of the state"
        )
    if not address:
        return
    tape = tapes.growing(address)
    if tape is None:
        raise UnsupportedError("checkpointed_loop: no gradient of it can be taken within compiled code")
    after = _State(values.copy(), whole.copy())
    tape.loops.append(Loop(compiled.entry_point, tape.length, n, like, args, before, after, rows, arg_rows))


def _differ(x: Any, y: Any) -> bool:
    if isinstance(x, tuple):
        return any(map(_differ, x, y))
    return isinstance(x, np.ndarray) and x.tobytes() != y.tobytes()


class _State:
    """A state between two steps, flat."""

    def __init__(self, values: np.ndarray, whole: np.ndarray) -> None:
        self.values, self.whole = values, whole

    def copy(self) -> _State:
        return _State(self.values.copy(), self.whole.copy())

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, _State)
        # To the last bit: it is the same code, run with the same numbers.
        return self.values.tobytes() == other.values.tobytes() and np.array_equal(self.whole, other.whole)


class Loop:
    """A loop on a tape: its steps, the state before the first and after the last.

    Attributes: `first` and `end`, the rows of the state after the loop.
    """

    def __init__(
        self, entry: Any, first: int, n: int, like: Any, args: Any, begin: _State, end: _State,
        rows: np.ndarray, arg_rows: np.ndarray,
    ) -> None:  # fmt: skip
        self._entry, self._n, self._like, self._args, self._begin, self._end = entry, n, like, args, begin, end
        self._rows, self._arg_rows = rows, arg_rows
        self.first, self.end = first, first + len(rows)
        self._count = len(rows) + len(arg_rows)
        self._cost = 0

    def _take(self, tape: Tape | None, state: _State, start: int, stop: int) -> np.ndarray:
        """Take steps, which changes the state; returns the rows of the last."""
        rows = np.zeros(len(state.values), np.int64)
        address = 0
        if tape is not None:
            tape.begin()
            address = tape.address
        try:
            self._entry(address, self._like, self._args, state.values, state.whole, rows, start, stop)
        except MemoryError:
            if tape is not None and tape.failed is not None and not isinstance(tape.failed, MemoryError):
                raise tape.failed from None
            raise
        return rows

    def _block(self, tape: Tape) -> int:
        """How many steps are recorded at a time."""
        if not self._cost:
            self._take(tape, self._begin.copy(), 0, 1)
            self._cost = max(1, tape.length - FIRST - self._count)
        of_state = 8 * (len(self._begin.values) + len(self._begin.whole))
        balanced = math.isqrt(self._n * of_state // (_ROW * self._cost))
        worth = (_WORTH + self._count) // self._cost
        most = memory.limit // 4 // (_ROW * self._cost)
        return max(1, min(max(balanced, worth), most, self._n))

    def back(self, adjoints: np.ndarray) -> None:
        """Carry the adjoints of the state after the loop to the state before it, and to the arguments of the steps."""
        passed = adjoints[self.first : self.end].copy()
        if not passed.any():
            return
        with taken(True) as tape:
            block = self._block(tape)
            blocks = -(-self._n // block)
            of_state = 8 * max(1, len(self._begin.values) + len(self._begin.whole))
            passage = _Back(self, tape, passed)
            passage.go(block, min(blocks, max(2, memory.limit // 4 // of_state)))
        np.add.at(adjoints, self._rows, passage.passed)
        np.add.at(adjoints, self._arg_rows, passage.of_args)

    def along(self, tangents: np.ndarray) -> None:
        """Carry tangents from the state before the loop, and from the arguments of the steps, to the state after it."""
        passed, of_args = tangents[self._rows], tangents[self._arg_rows]
        if passed.any() or of_args.any():
            with taken(True) as tape:
                block, state = self._block(tape), self._begin.copy()
                for start in range(0, self._n, block):
                    rows = self._take(tape, state, start, min(self._n, start + block))
                    found = tape.cleared(tape.length)
                    found[FIRST : FIRST + self._count] = np.concatenate([passed, of_args])
                    sweep_on(tape, FIRST + self._count, tape.length)
                    passed = found[rows]
                check(state, self._end)
        tangents[self.first : self.end] = passed


class _Back:
    """One passage back over a loop. `passed` are the adjoints of the state that it has come to, `of_args` those of the
    arguments from all steps gone over."""

    def __init__(self, loop: Loop, tape: Tape, passed: np.ndarray) -> None:
        self._loop, self._tape, self.passed = loop, tape, passed
        self.of_args = np.zeros(len(loop._arg_rows))
        # The state after the steps that are gone over next.
        self._after = loop._end

    def go(self, block: int, places: int) -> None:
        """Go over all steps by blocks, with places for so many states before blocks."""
        loop = self._loop
        state, kept = loop._begin.copy(), [loop._begin] * places
        for what, a, b in revolve.schedule(-(-loop._n // block), places):
            if what == "keep":
                kept[a] = state.copy()
            elif what == "take":
                state = kept[a].copy()
            elif what == "go":
                loop._take(None, state, a * block, b * block)
            else:
                self._over(state, a * block, min(loop._n, (a + 1) * block))

    def _over(self, state: _State, start: int, stop: int) -> None:
        """Go over steps, the state being before the first."""
        loop, tape, before = self._loop, self._tape, state.copy()
        m = len(before.values)
        try:
            rows = loop._take(tape, state, start, stop)
        except MemoryError:
            # They leave more rows than the first step did.
            middle = (start + stop) // 2
            if middle == start:
                raise
            half = before.copy()
            loop._take(None, half, start, middle)
            self._over(half, middle, stop)
            self._over(before, start, middle)
            return
        check(state, self._after)
        length = tape.length
        adjoints = tape.cleared(length)
        np.add.at(adjoints, rows, self.passed)
        adjoints[0] = 0.0
        sweep_back(tape, FIRST + loop._count, length)
        self.passed = adjoints[FIRST : FIRST + m].copy()
        self.of_args += adjoints[FIRST + m : FIRST + loop._count]
        self._after = before


def check(state: _State, before: _State) -> None:
    """Raise OperationError where steps that were taken again came to another state than before."""
    if state != before:
        raise OperationError(
            "checkpointed_loop: the steps gave other numbers when they were taken again for the gradient; step must "
            "depend on nothing but its arguments, and not on random numbers, say"
        )
