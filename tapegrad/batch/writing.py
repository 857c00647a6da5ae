"""A program written for many inputs at once: each of its numbers becomes one number a lane.

Lanes are the last axis of every array, and follow each other in the arena. So what was at place p + i of a result is at
place q + i * lanes, where the result begins at q; an operand that was a view stays one, with its strides times the
number of lanes; and an instruction on numbers becomes an instruction on arrays of as many numbers as there are lanes.
Only what depends on batched inputs is written so. All else is computed once, and shown to each lane.

Operations over whole arrays say in their rows how they are carried out in lanes (`batched`). For one that does not say
so it is written lane by lane, which is right for every operation, and slow.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.errors import UnsupportedError
from tapegrad.functions import stack
from tapegrad.layout import Layout, dense
from tapegrad.ops import RUN, TABLE, Elementwise
from tapegrad.ops.record import (
    DENSE,
    ELEMENTWISE,
    OPCODE,
    OUT,
    STRUCTURED,
    UNIFORM,
    A,
    B,
    operand_places,
    operand_spans,
    parameters,
    record,
)
from tapegrad.program import Program
from tapegrad.sweeps.owners import owners
from tapegrad.tape import EXPECT, LEAF, Tape, views_of
from tapegrad.value import Value, apply, as_value, contiguous, handle, leaf


class Guard(NamedTuple):
    """What a guard of a program compares, written in lanes.

    Attributes:
        found: the numbers that replays find: one a lane, or one for all lanes.
        expected: the number that was found when the program was recorded.
    """

    found: Value
    expected: float


class Written(NamedTuple):
    """What was written.

    Attributes:
        outputs: for each output of the program what it returns: a Value with lanes as its last axis if `batched`, a
            Value without, or a plain constant.
        batched: which outputs have lanes.
        guards: the guards of the program, in order.
    """

    outputs: list[Any]
    batched: list[bool]
    guards: list[Guard]


def write_lanes(program: Program, tape: Tape, inputs: Sequence[Value], batched: Sequence[bool], lanes: int) -> Written:
    """Append a program to a tape for many lanes at once.

    `inputs` are Values on that tape for the inputs of the program; those that are `batched` have one axis more than the
    program's, the last, with a number for each lane. No guard is written: the caller has to see to them.
    """
    writer = _Writer(program, tape, lanes)
    for number, (x, own) in enumerate(zip(inputs, batched, strict=True)):
        writer.put(number, contiguous(x), own)
    writer.write()
    tape.calls |= program.calls
    # Constants are not where the function would record them.
    tape.spliced = True
    found = [writer.output(o) for o in program.code.outputs]
    return Written([y for y, _ in found], [own for _, own in found], writer.guards)


class _Writer:
    """Writes one program. Results are known by the number of their row in the code."""

    def __init__(self, program: Program, tape: Tape, lanes: int) -> None:
        self.code, self.tape, self.lanes = program.code, tape, lanes
        rows = self.code.rows
        self._owners = owners(rows[:, OUT])
        self._starts = rows[:, OUT].astype(np.int64).tolist()
        # For each row the slot where its result begins, and whether it has lanes.
        self._to = [0] * len(rows)
        self._wide = [False] * len(rows)
        self.guards: list[Guard] = []
        # Outside of a recording the tape forgets what nobody holds.
        self._held: list[Any] = []
        self._records: dict[Any, list[int]] = {}
        # What a guard expects is one of the constants.
        self._arena = self.code.arena() if len(self.code.guards) else np.zeros(0)

    def put(self, row: int, x: Value, batched: bool) -> None:
        """What a row makes is a dense Value."""
        self._held.append(x)
        self._to[row], self._wide[row] = x._slot, batched

    def _slot(self, row: int, place: int) -> int:
        """The slot of the first lane of the number at a place, in the result of a row."""
        return self._to[row] + (place - self._starts[row]) * (self.lanes if self._wide[row] else 1)

    def write(self) -> None:
        """Write all instructions."""
        code, tape = self.code, self.tape
        self._constants()
        rows = code.rows.astype(np.int64)
        scalar = rows[:, OPCODE] < RUN
        made_by = np.where(scalar[:, None], self._owners.of(rows[:, A:]), 0).tolist()
        self._find_operands(rows[~scalar, A])
        page, held = None, self._held
        for i, (op, _, a, b, c) in enumerate(rows.tolist()):
            if tape.page is not page:
                page = tape.page
                held.append(page)
            if op == LEAF:
                continue
            if op >= RUN:
                self._run(i, op - RUN, a, b)
            elif op == EXPECT:
                self._guard(made_by[i], a, b)
            else:
                self._scalar(i, op, (a, b, c), made_by[i])

    def _constants(self) -> None:
        at, rows = 0, self.code.rows
        for row in (self.code.inputs + np.flatnonzero(rows[self.code.inputs :, OPCODE] == LEAF)).tolist():
            n = int(rows[row, B])
            numbers = self.code.constants[at : at + n]
            at += n
            self.put(row, as_value(float(numbers[0]), self.tape, "a constant") if n == 1 else leaf(self.tape, numbers),
                     False)  # fmt: skip

    def _find_operands(self, starts: np.ndarray) -> None:
        """Find which row has made each operand of the instructions over many elements."""
        self._of_runs: dict[int, list[int]] = {}
        if not len(starts):
            return
        at, number = operand_places(self.code.side, starts)
        made_by = self._owners.of(self.code.side[at]).tolist()
        for record_, owner in zip(starts[number].tolist(), made_by, strict=True):
            self._of_runs.setdefault(record_, []).append(owner)

    # Instructions

    def _scalar(self, i: int, op: int, places: Sequence[int], made_by: Sequence[int]) -> None:
        tape, lanes, arity = self.tape, self.lanes, TABLE[op].arity
        slots = [self._slot(o, p) for p, o in zip(places, made_by)]
        wide = tuple([self._wide[o] for o in made_by[:arity]])
        if True not in wide:
            self._to[i] = tape.scalar(op, *slots)
            return
        known = self._records.get((op, wide))
        if known is None:
            params = [1, lanes]
            for own in wide:
                params += [DENSE, 1] if own else [UNIFORM, 0]
            spans = [(0, 0, lanes if own else 1) for own in wide]
            known = self._records[op, wide] = record(ELEMENTWISE, 0, lanes, spans, params)
        self._to[i], self._wide[i] = tape.run_like(op, lanes, known, slots[:arity]), True

    def _guard(self, made_by: Sequence[int], a: int, b: int) -> None:
        found = made_by[0]
        layout = dense((self.lanes,)) if self._wide[found] else None
        self.guards.append(Guard(handle(self.tape, self._slot(found, a), layout), float(self._arena[b])))

    def _run(self, i: int, opcode: int, k: int, count: int) -> None:
        operation: Any = TABLE[opcode]
        spans, made_by = operand_spans(self.code.side, k), self._of_runs.get(k, [])
        params = parameters(self.code.side, k)
        wide = [self._wide[o] for o in made_by]
        slots = [self._slot(o, p) for (p, _, _), o in zip(spans, made_by, strict=True)]
        if not any(wide) or not count:
            kind = ELEMENTWISE if isinstance(operation, Elementwise) else STRUCTURED
            own = [(s, low - p, high - p) for s, (p, low, high) in zip(slots, spans, strict=True)]
            self._to[i] = self.tape.run(opcode, kind, count, own, params)
            return
        said = views_of(operation, params)
        if isinstance(operation, Elementwise):
            assert said is not None
            result = apply(operation, [self._shown(*x, True) for x in zip(slots, said[0], wide, strict=True)])
        elif said is not None and operation.batched is not None:
            operands = [self._shown(*x, False) for x in zip(slots, said[0], wide, strict=True)]
            result = operation.batched(params, self.lanes, *operands)
            result = self._lane_by_lane(operation, params, slots, spans, wide, count) if result is None else result
        else:
            result = self._lane_by_lane(operation, params, slots, spans, wide, count)
        result = contiguous(result)
        if result.size != count * self.lanes:
            raise UnsupportedError(
                f"{operation.name}: its rule `batched` returned {result.size} numbers for {self.lanes} lanes of {count}"
            )
        self.put(i, result, True)

    def _shown(self, slot: int, layout: Layout, wide: bool, broadcast: bool) -> Value:
        """An operand as a Value; one that is not batched has an axis of length 1 in place of the lanes if `broadcast`,
        else no such axis."""
        if wide:
            n = self.lanes
            return handle(self.tape, slot, Layout((*layout.shape, n), (*(s * n for s in layout.strides), 1)))
        if broadcast:
            return handle(self.tape, slot, Layout((*layout.shape, 1), (*layout.strides, 0)))
        return handle(self.tape, slot, layout if layout.shape else None)

    def _lane_by_lane(
        self, operation: Any, params: list[int], slots: list[int], spans: list[Any], wide: list[bool], count: int
    ) -> Value:
        made = []
        for lane in range(self.lanes):
            operands = []
            for slot, (p, low, high), own in zip(slots, spans, wide, strict=True):
                if own and high > low:
                    # All that the operand touches, in order, so that its strides are what the record says.
                    first = slot + (low - p) * self.lanes + lane
                    of_lane = contiguous(handle(self.tape, first, Layout((high - low,), (self.lanes,))))
                    self._held.append(of_lane)
                    slot = of_lane._slot - (low - p)
                operands.append((slot, low - p, high - p))
            result = self.tape.run(operation.opcode, STRUCTURED, count, operands, params)
            made.append(handle(self.tape, result, dense((count,))))
        return stack(made, -1)

    def output(self, o: Any) -> tuple[Any, bool]:
        """An output of the program, and whether it has lanes."""
        if o.place is None:
            return (np.zeros(o.shape, self.tape.dtype) if isinstance(o.constant, Value) else o.constant), False
        row = int(self._owners.of(np.array([o.place]))[0])
        slot, layout = self._slot(row, o.place), Layout(o.layout.shape, o.layout.strides)
        return self._shown(slot, layout, self._wide[row], False), self._wide[row]
