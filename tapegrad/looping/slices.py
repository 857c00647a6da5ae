"""From the instructions that one step has left on a tape to a program of that step.

What the step reads from before is a constant, and becomes one of the program, or is taken from around it, and becomes
an input that is the same in all steps. What follows from the number of the step alone is known for all steps: so it is
known whether a guard on it will hold, and what is taken by it from an array outside becomes an input that each step has
of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.looping.body import Part, finished, shape_of
from tapegrad.ops import BY_NAME, RUN, TABLE
from tapegrad.ops.record import OPCODE, OUT, A, B, operand_spans, parameters, record_length
from tapegrad.program import Program
from tapegrad.program.again import moved_steps
from tapegrad.sweeps.analysis import EACH, reach
from tapegrad.sweeps.owners import owners
from tapegrad.tape import EXPECT, LEAF, Tape, writing
from tapegrad.tape.collect import Mark
from tapegrad.value import Value, handle

_GATHER = BY_NAME["gather"].opcode + RUN


class NotALoopError(Exception):
    """What a step does cannot be one program for all steps."""


class Given(NamedTuple):
    """An input of a step as it was called: where it stands on the tape, how many numbers, and whether they are floats.

    `known` gives the number of each step, where that is known.
    """

    place: int
    size: int
    smooth: bool
    known: Callable[[], np.ndarray] | None = None


class Taken(NamedTuple):
    """What each step takes from an array outside: that array's first place, its shape (outer, size, inner), and which
    element of the middle axis each step takes; or the number of the input that says so."""

    place: int
    shape: tuple[int, int, int]
    which: np.ndarray | int


class Slice(NamedTuple):
    """The program of a step, and what it takes from around it besides its inputs.

    The inputs are `outside`, (place, size) each, then those given before the carry, then `taken`, then the carry.
    `held` are numbers from around it on which it has guards: their places, and what they are.
    """

    program: Program
    outside: list[tuple[int, int]]
    taken: list[Taken]
    held: dict[int, float]

    @property
    def gathered(self) -> int:
        """How many numbers have the arrays from around that the step takes elements of."""
        code = self.program.code
        ends = sum(n for _, n in code.spans[: len(self.outside)])
        runs = code.rows[code.rows[:, OPCODE] == _GATHER, A].tolist()
        return sum(parameters(code.side, k)[1] for k in runs if operand_spans(code.side, k)[0][0] < ends)

    def alike(self, other: Slice) -> bool:
        """Whether two calls of a step have recorded the same."""
        a, b = self.program.code, other.program.code
        same = self.outside == other.outside and len(self.taken) == len(other.taken) and a.outputs == b.outputs
        same = same and self.held == other.held and all(
            x.place == y.place and x.shape == y.shape and np.array_equal(x.which, y.which)
            for x, y in zip(self.taken, other.taken, strict=True)
        )
        if not same or not np.array_equal(a.rows, b.rows) or a.constants.tobytes() != b.constants.tobytes():
            return False
        if len(self.program.calls) != len(other.program.calls):
            return False
        # Calls are numbered anew each time.
        numbers = dict(zip(sorted(self.program.calls), sorted(other.program.calls), strict=True))
        side = a.side.copy()
        for row in a.rows[np.isin(a.rows[:, OPCODE], [row.opcode + RUN for row in TABLE if row.opaque])]:
            at = int(row[A]) + int(record_length(side, int(row[A]))) - len(parameters(side, int(row[A])))
            side[at] = numbers[int(side[at])]
        return np.array_equal(side, b.side) and all(
            self.program.calls[x].alike(other.program.calls[y]) for x, y in numbers.items()
        )


class Step:
    """The instructions of one step.

    Args:
        tape: where they are.
        begun: how far the tape was before the inputs were put on it.
        ready: and before the step was called.
        before, carry: its inputs.
        outputs: Values on the tape, dense, or arrays and numbers.
    """

    def __init__(
        self, tape: Tape, begun: Mark, ready: Mark, before: Sequence[Given], carry: Sequence[Given],
        outputs: Sequence[Any],
    ) -> None:  # fmt: skip
        tape.flush()
        self.tape, self.begun = tape, begun
        self.before, self.carry, self.outputs = before, carry, outputs
        self.code = tape.code[ready.length : tape.length].copy()
        self.side = tape.side
        self.places = [tape.locate(y._slot) if isinstance(y, Value) else None for y in outputs]
        slots = np.array([*tape.constants.values(), *tape.zeros.values()], np.int64)
        self._constants = {tape.locate(slot) for slot in slots.tolist()}
        self._arrays = {tape.locate(slot) for slot in tape.arrays.values()}
        self._known: dict[int, Any] = {}
        self.taken: list[Taken] = []
        self._taken_at: list[tuple[int, int]] = []
        self._held: dict[int, float] = {}

    def slice(self) -> Slice:
        """Its program. Raises NotALoopError."""
        self._find_known()
        self._check_guards()
        self._take()
        self._drop_unused()
        outside, constants = self._read_outside()
        return Slice(self._program(outside, constants), outside, self.taken, self._held)

    # What is known for all steps

    def _number(self, place: int) -> Any:
        found = self._known.get(place)
        if found is None and place in self._constants:
            found = self._known[place] = float(self.tape.values[place])
        return found

    def _find_known(self) -> None:
        """Compute what follows from known numbers alone, for all steps."""
        if not np.isin(self.code[:, OPCODE], (EXPECT, _GATHER)).any():
            # Nobody asks. There may be very many steps.
            return
        self._known = {x.place: x.known() for x in self.before if x.known is not None}
        if not self._known:
            return
        for op, out, *read in self.code.tolist():
            if op in (LEAF, EXPECT) or op >= RUN:
                continue
            row: Any = TABLE[op]
            ufunc = getattr(row, "ufunc", None)
            if ufunc is None:
                continue
            operands = [self._number(place) for place in read[: row.arity]]
            if any(x is None for x in operands):
                continue
            with np.errstate(all="ignore"):
                self._known[out] = np.asarray(ufunc(*operands), self.tape.dtype)

    def _check_guards(self) -> None:
        guards = self.code[:, OPCODE] == EXPECT
        for _, _, a, b, _ in self.code[guards].tolist():
            found, expected = self._number(a), self.tape.values[b]
            if found is None and a < self.begun.slots:
                # It comes from around, so it is the same in all steps, and a guard before the loop holds for them.
                self._held[a] = float(expected)
            elif found is None or not np.all(found == expected):
                raise NotALoopError
        self.code = self.code[~guards]

    def _take(self) -> None:
        """Make what a known index takes from an array outside an input of its own."""
        kept = np.ones(len(self.code), bool)
        inputs = {x.place: number for number, x in enumerate(self.before) if x.size == 1 and not x.smooth}
        for i in np.flatnonzero(self.code[:, OPCODE] == _GATHER).tolist():
            k, out = int(self.code[i, A]), int(self.code[i, OUT])
            (x, low, high), (at, _, _) = operand_spans(self.side, k)
            outer, size, inner, count = parameters(self.side, k)
            if count != 1 or x >= self.begun.slots or (low, high) != (x, x + outer * size * inner):
                continue
            index: Any = self._number(at)
            if index is not None and np.ndim(index) == 1:
                if not np.all((index >= -size) & (index < size) & (index == np.floor(index))):
                    raise NotALoopError
                index = index.astype(np.int64) % size
            elif at in inputs:
                index = inputs[at]
            else:
                continue
            self.taken.append(Taken(x, (outer, size, inner), index))
            self._taken_at.append((out, outer * inner))
            kept[i] = False
        self.code = self.code[kept]

    # What is left

    def _drop_unused(self) -> None:
        mark = np.zeros(self.tape.slots + 1, np.uint8)
        for y, place in zip(self.outputs, self.places, strict=True):
            if place is not None:
                mark[place : place + y.size] = 1
        rows = np.empty(len(self.code), np.int64)
        self.code = np.ascontiguousarray(self.code)
        found = rows[reach(self.code, self.side, *EACH, mark, np.zeros(0, np.uint8), len(self.code), rows) :]
        self.code = self.code[found]
        used = [k for k, (out, n) in enumerate(self._taken_at) if mark[out : out + n].any()]
        self.taken, self._taken_at = [self.taken[k] for k in used], [self._taken_at[k] for k in used]

    def _read_outside(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """What is read of before: stretches of results, and those of constants, as (place, size)."""
        scalar = (self.code[:, OPCODE] < RUN) & (self.code[:, OPCODE] != LEAF)
        places = self.code[scalar, A:].reshape(-1).astype(np.int64)
        spans = [(p, p + 1) for p in np.unique(places[places < self.begun.slots]).tolist()]
        for k in self.code[self.code[:, OPCODE] >= RUN, A].tolist():
            spans += [(low, high) for _, low, high in operand_spans(self.side, int(k)) if low < high]
        spans += [(p, p + y.size) for y, p in zip(self.outputs, self.places, strict=True) if p is not None]
        spans = sorted((low, high) for low, high in spans if low < self.begun.slots)
        starts = self.tape.code[: self.begun.length, OUT]
        rows = np.searchsorted(starts, [low for low, _ in spans], "right") - 1
        found: list[list[int]] = []
        for (low, high), row in zip(spans, rows.tolist(), strict=True):
            if found and found[-1][2] == row and low <= found[-1][1]:
                found[-1][1] = max(found[-1][1], high)
            else:
                found.append([low, high, row])
        outside: list[tuple[int, int]] = []
        constants: list[tuple[int, int]] = []
        for low, high, row in found:
            first = int(starts[row])
            own = constants if first in self._constants or first in self._arrays else outside
            own.append((low, high - low))
        return outside, constants

    def _program(self, outside: list[tuple[int, int]], constants: list[tuple[int, int]]) -> Program:
        tape, own = Tape(self.tape.dtype, recording=True), self.tape
        given = [*outside, *((x.place, x.size) for x in self.before), *self._taken_at,
                 *((x.place, x.size) for x in self.carry)]  # fmt: skip
        smooth = [*[True] * len(outside), *(x.smooth for x in self.before), *[True] * len(self.taken),
                  *(x.smooth for x in self.carry)]  # fmt: skip
        parts = [Part(n, s) for (_, n), s in zip(given, smooth, strict=True)]
        to = {place: tape.leaf(np.zeros(n), n, s) for (place, n), s in zip(given, smooth, strict=True)}
        leaves = self.code[self.code[:, OPCODE] == LEAF]
        for place, n in [*constants, *leaves[:, [OUT, B]].tolist()]:
            numbers = own.values[place : place + n]
            to[place] = tape.constant(float(numbers[0])) if n == 1 else tape.leaf(numbers.copy(), n, False)
        steps = np.ascontiguousarray(self.code[self.code[:, OPCODE] != LEAF])
        wide = steps[:, OPCODE] >= RUN
        counts = np.where(wide, steps[:, B], 1).astype(np.int64)
        tape.flush()
        new = tape.allocate(int(counts.sum())) + np.cumsum(counts) - counts
        starts = np.array([*to, *steps[:, OUT].tolist()], np.int64)
        slots = np.array([*to.values(), *new.tolist()], np.int64)
        order = np.argsort(starts, kind="stable")
        found, moved = owners(starts[order]), slots[order]
        side = self.side[:0]
        if wide.any():
            first, last = int(steps[wide, A].min()), int(steps[wide, A].max())
            side = self.side[first : last + int(record_length(self.side, last))].copy()
            steps[wide, A] -= first
        writing.write(tape, *moved_steps(steps, side, found, moved, new, tape.side_length), [])
        tape.calls |= own.calls
        tape.derived = own.derived
        outputs = []
        for y, place in zip(self.outputs, self.places, strict=True):
            if place is None:
                numbers = np.asarray(y, tape.dtype).reshape(-1)
                slot = tape.leaf(numbers if numbers.size > 1 else float(numbers[0]), numbers.size, False)
            else:
                slot = found.moved(place, moved)
            outputs.append(handle(tape, slot, shape_of(int(np.size(y)))))
        program = finished(tape, parts, outputs)
        if program.foreign:
            raise NotALoopError
        return program


def outside_on(tape: Tape, place: int, layout: Any) -> Value:
    """What steps read at a place of a tape, as a Value. It holds a page of its own: whoever made these numbers may hold
    them no longer, and what is recorded next could have the tape forget them."""
    slot = int(tape.addresses.slots_of(np.array([place]))[0])
    value = handle(tape, slot, layout)
    if not tape.recording:
        value._page = tape.pin(slot)
    return value


def taken_from(whole: Value, index: Any) -> Value:
    """The elements of the middle axis of an array that steps take, step by step along the first axis of the result,
    which is shown with one axis."""
    if not isinstance(index, Value) and index[0] != index[-1]:
        by = int(index[1] - index[0])
        if (np.diff(index) == by).all():
            # A slice takes no gather, and none on the way back.
            end = int(index[-1]) + (1 if by > 0 else -1)
            return whole[:, int(index[0]) : None if end < 0 else end : by].transpose(1, 0, 2).reshape(-1)
    return np.take(whole, index, 1).transpose(1, 0, 2).reshape(-1)
