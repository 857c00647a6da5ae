"""Places of a smaller arena for a program, in which long arrays take places that others have left."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from typing import Any, NamedTuple

import numpy as np

from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import (
    ELEMENTWISE,
    INSIDE,
    LAST,
    OPCODE,
    OUT,
    A,
    B,
    group_flag,
    operand_spans,
    place_result,
    record,
)
from tapegrad.ops.way_back import reads_back
from tapegrad.program.code import Code
from tapegrad.program.loops import last_readers
from tapegrad.sweeps.analysis import group, relocate
from tapegrad.sweeps.owners import Owners, owners, translate
from tapegrad.tape import LEAF

# A smaller arena is made if it has at most this share of the numbers.
SHARE = 0.75
# Results of at least so many numbers get places of others. All others have their own, as inputs and constants have.
LONG = 1 << 10
# How many results make a chunk.
_CHUNK = 1 << 16
# In front of a step whose result takes places of others: forward it does nothing, back it sets adjoints to zero.
CLEAR = LEAF + RUN


class Placed(NamedTuple):
    """A program in a smaller arena.

    Attributes:
        code: its code with the places of that arena.
        steps: its steps, short runs expanded, likewise.
        chunks: the number of the first step of each chunk, and at the end how many steps there are.
        clear: the position in the side array of the record of all steps CLEAR, -1 where there are none.
        owners, to: where results begin in the program's own arena, and here.
    """

    code: Code
    steps: np.ndarray
    chunks: list[int]
    clear: int
    owners: Owners
    to: np.ndarray

    def flags(self, known: np.ndarray, program: Any, most: int) -> np.ndarray:
        """Flags of a program, with groups of `most` runs."""
        flags = np.zeros(len(self.code.side), np.uint8)
        flags[: len(known)] = known
        # Places of the program's own arena tell what depends on what.
        group(program.steps, program.code.side, flags, most)
        if self.clear >= 0:
            # As inside a group the sweep takes it for done.
            flags[group_flag(self.clear)] = INSIDE
        return flags


def placed(program: Any, most: int, back: bool) -> Placed | None:
    """A program in a smaller arena, for groups of `most` runs; None where that would save little.

    With `back`, what the reverse sweep reads stays, and steps are put in that clear adjoints.
    """
    code, steps = program.code, program.steps
    found = owners(code.rows[:, OUT])
    runs = np.flatnonzero((steps[:, OPCODE] >= RUN) & (steps[:, B] >= LONG))
    own = found.of(steps[runs, OUT].astype(np.int64))
    # For the result of each row, the last step that reads it; as many as there are steps where it must stay.
    last = np.full(len(code.rows), -1)
    last_readers(steps, code.side, *found, last)
    if back:
        last[read_back(program, found)] = len(steps)
    for output in code.outputs:
        if output.place is not None and output.layout.size:
            last[found.of(np.array([output.place]))] = len(steps)
    chunks = _chunks(program, most)
    begins = np.searchsorted(chunks, runs, "right") - 1
    ends = np.searchsorted(chunks, np.maximum(last[own], runs), "right") - 1
    to, size, again = _places(code, own, begins, ends)
    if size > SHARE * code.size:
        return None
    smaller, moved = moved_code(program, found, to, size)
    if not back:
        return Placed(smaller, moved, chunks.tolist(), -1, found, to)
    clear = len(smaller.side)
    side = np.append(smaller.side, record(ELEMENTWISE, 0, 0, [], []))
    made = np.zeros((int(again.sum()), steps.shape[1]), np.uint32)
    made[:, OPCODE], made[:, OUT], made[:, A], made[:, B] = CLEAR, to[own[again]], clear, code.rows[own[again], B]
    moved = np.ascontiguousarray(np.insert(moved, chunks[begins[again]], made, axis=0))
    return Placed(dataclasses.replace(smaller, side=side), moved, [], clear, found, to)


def read_back(program: Any, found: Owners) -> np.ndarray:
    """The rows whose results the reverse sweep reads."""
    code, steps = program.code, program.steps
    kept = np.zeros((len(TABLE), 2), bool)
    opcodes = steps[:, OPCODE].astype(np.int64)
    kinds = np.unique(opcodes % RUN)
    for op in kinds.tolist():
        operands, result = reads_back(TABLE[op])
        kept[op] = any(operands), result
    read = [found.of(steps[kept[opcodes % RUN, 1], OUT].astype(np.int64))]
    scalar = steps[(opcodes < RUN) & kept[opcodes % RUN, 0]]
    read.append(found.of(scalar[:, A:].astype(np.int64).reshape(-1)))
    for i in np.flatnonzero((opcodes >= RUN) & kept[opcodes % RUN, 0]).tolist():
        operands, _ = reads_back(TABLE[int(opcodes[i]) - RUN])
        slots = [x for x, low, high in operand_spans(code.side, int(steps[i, A])) if high > low]
        wanted = [x for j, x in enumerate(slots) if operands[min(j, len(operands) - 1)]]
        read.append(found.of(np.array(wanted, np.int64)))
    return np.concatenate(read)


def _chunks(program: Any, most: int) -> np.ndarray:
    """The number of the first step of each chunk, and at the end how many steps there are."""
    code, steps = program.code, program.steps
    flags = np.zeros(len(code.side), np.uint8)
    group(steps, code.side, flags, most)
    inside = np.zeros(len(steps), bool)
    runs = np.flatnonzero(steps[:, OPCODE] >= RUN)
    inside[runs] = np.isin(flags[group_flag(steps[runs, A].astype(np.int64))], (INSIDE, LAST))
    total = np.cumsum(np.where(steps[:, OPCODE] >= RUN, steps[:, B], 1).astype(np.int64))
    found, begun = [0], 0
    for i in np.flatnonzero(~inside)[1:].tolist():
        if total[i - 1] - begun >= _CHUNK:
            found.append(i)
            begun = int(total[i - 1])
    return np.array([*found, len(steps)])


def _places(
    code: Code, own: np.ndarray, begins: np.ndarray, ends: np.ndarray
) -> tuple[np.ndarray, int, np.ndarray]:
    """For each row the new place of its result, and how many numbers the arena has then.

    Rows `own` have long results, which are needed from chunk `begins` up to chunk `ends`. Where there is a choice, a
    result is put where it leaves the least room. Returns also which of these take places that others have had.
    """
    rows = code.rows
    counts = np.where((rows[:, OPCODE] == LEAF) | (rows[:, OPCODE] >= RUN), rows[:, B], 1).astype(np.int64)
    fixed = np.ones(len(rows), bool)
    fixed[own] = False
    to = np.cumsum(np.where(fixed, counts, 0)) - np.where(fixed, counts, 0)
    free = Free(int(counts[fixed].sum()))
    leaving: dict[int, list[tuple[int, int]]] = {}
    done, again = 0, np.zeros(len(own), bool)
    for i, (row, n, begin, end) in enumerate(
        zip(own.tolist(), counts[own].tolist(), begins.tolist(), ends.tolist(), strict=True)
    ):
        while done < begin:
            for place, size in leaving.pop(done, ()):
                free.give(place, size)
            done += 1
        top = free.top
        to[row] = place = free.take(n)
        again[i] = place < top
        leaving.setdefault(end, []).append((place, n))
    return to, free.top, again


class Free:
    """The stretches of an arena that are not in use: from starts[i] up to stops[i], and from `top` on."""

    def __init__(self, top: int) -> None:
        self.top = top
        self.starts: list[int] = []
        self.stops: list[int] = []

    def take(self, n: int) -> int:
        """The first of n places."""
        room = [stop - start for start, stop in zip(self.starts, self.stops, strict=True)]
        fits = [i for i, size in enumerate(room) if size >= n]
        if not fits:
            # The last stretch, if nothing in use follows it, is made longer.
            start = self.top
            if self.stops and self.stops[-1] == self.top:
                start = self.starts.pop()
                self.stops.pop()
            self.top = start + n
            return start
        i = min(fits, key=room.__getitem__)
        start = self.starts[i]
        if room[i] == n:
            del self.starts[i], self.stops[i]
        else:
            self.starts[i] += n
        return start

    def give(self, place: int, n: int) -> None:
        """Give places back."""
        i, stop = bisect_left(self.starts, place), place + n
        if i < len(self.starts) and self.starts[i] == stop:
            stop = self.stops[i]
            del self.starts[i], self.stops[i]
        if i and self.stops[i - 1] == place:
            self.stops[i - 1] = stop
        else:
            self.starts.insert(i, place)
            self.stops.insert(i, stop)


def moved_code(program: Any, found: Any, to: np.ndarray, size: int) -> tuple[Code, np.ndarray]:
    """The code and the steps of a program with other places."""
    code = program.code
    rows, side, steps = code.rows.copy(), code.side.copy(), program.steps.copy()
    rows[:, OUT] = to
    runs = rows[:, OPCODE] >= RUN
    side[place_result(rows[runs, A].astype(np.int64))] = to[runs]
    relocate(rows, side, *found, to)
    scalar = steps[:, OPCODE] < RUN
    for column in range(OUT, steps.shape[1]):
        which = slice(None) if column == OUT else scalar
        places = steps[which, column].astype(np.int64)
        translate(places, *found, to)
        steps[which, column] = places
    outputs = tuple(o if o.place is None else o._replace(place=found.moved(o.place, to)) for o in code.outputs)
    return dataclasses.replace(code, rows=rows, side=side, size=size, outputs=outputs, labels={}), steps
