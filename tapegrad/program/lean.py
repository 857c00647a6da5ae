"""A program over a smaller arena, in which places are used again, for replays that keep nothing but results.

In a program's own arena every number has a place of its own, and everybody who analyses a program, or goes back over a
replay, relies on that. For the value alone, or the derivative along one direction computed beside it, a long array is
needed no longer than until its last reader is done. So for these a second version of the steps is made, in which the
result of a long run takes places that others have left. Memory that is used again is also in the processor's cache, and
need not be provided by the system, which for long arrays takes longer than the sweep itself.

Steps are swept in *chunks*: all that a chunk reads and writes stays in place until the chunk is done.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.ops import RUN
from tapegrad.ops.record import INSIDE, LAST, OPCODE, OUT, A, B, group_flag, place_result
from tapegrad.program.code import Code
from tapegrad.program.loops import last_readers
from tapegrad.program.workspace import Workspace
from tapegrad.sweeps import TANGENT, VALUES, callbacks
from tapegrad.sweeps.analysis import group, relocate
from tapegrad.sweeps.owners import owners, translate
from tapegrad.tape import LEAF

# A smaller arena is made for programs with at least so many numbers, if it has at most this share of them.
FROM, SHARE = 1 << 17, 0.75
# Results of at least so many numbers get places of others. All others have their own, as inputs and constants have.
LONG = 1 << 10
# The most runs in a group, which is swept as a whole, and how many results make a chunk.
_GROUP, _CHUNK = 4, 1 << 16


class Lean:
    """A program in a smaller arena. It is replayed as a `Program` is.

    Args:
        program: the program.
        code: its code with the places of the smaller arena.
        steps: its steps, short runs expanded, likewise.
        chunks: the number of the first step of each chunk, and at the end how many steps there are.
    """

    def __init__(self, program: Any, code: Code, steps: np.ndarray, chunks: Sequence[int]) -> None:
        self.code, self.steps, self.calls, self.structure = code, steps, program.calls, program.structure
        self._program, self._chunks = program, chunks
        # Groups were found with the places of the program, which tell what depends on what.
        self._groups = np.zeros(len(code.side), np.uint8)
        group(program.steps, program.code.side, self._groups, _GROUP)
        self._flags: dict[tuple[int, ...], np.ndarray] = {}
        self.workspaces: list[Workspace] = []

    def take(self) -> Workspace:
        """A workspace that nobody else uses until it is given back."""
        try:
            return self.workspaces.pop()
        except IndexError:
            return Workspace(self.code, self._program.shapes, self._program.leaves)

    def give(self, workspace: Workspace) -> None:
        """Give a workspace back."""
        self.workspaces.append(workspace)

    def sweep(self, workspace: Workspace, tasks: int, seed: int, wrt: tuple[int, ...] | None) -> int:
        """Compute the values, over the inputs that the workspace was filled with. Returns the instruction that failed,
        or -1. The other arguments are those of `Program.sweep`."""
        sweeps, v = self._program.sweeps, workspace.values
        frame = workspace.frames.get(None)
        if frame is None:
            frame = sweeps.frame(self.steps, self.code.side, self._groups, v, v, workspace.scratch, -1, VALUES)
            workspace.frames[None] = frame
        return int(sweeps.run(frame))

    def push(self, workspace: Workspace, along: dict[int, np.ndarray]) -> int:
        """Compute values, and the tangents that follow from those of inputs, by number. Returns as `sweep` does."""
        sweeps, side, v, t = self._program.sweeps, self.code.side, workspace.values, workspace.put_tangents(along)
        self._program.prepare(TANGENT)
        flags, room = self._flags_for(tuple(sorted(along))), workspace.scratch
        for low, high in zip(self._chunks, self._chunks[1:], strict=False):
            steps = self.steps[low:high]
            failed = int(sweeps.run(sweeps.frame(steps, side, flags, v, v, room, -1, VALUES)))
            if failed >= 0:
                return int(low + failed)
            sweeps.tangent(steps, side, flags, v, t, room)
            if self.calls:
                callbacks.check(room)
        return -1

    def _flags_for(self, wrt: tuple[int, ...]) -> np.ndarray:
        known = self._flags.get(wrt)
        if known is None:
            known = self._program.flags(wrt).copy()
            group(self._program.steps, self._program.code.side, known, _GROUP)
            self._flags[wrt] = known
        return known

    def result(self, workspace: Workspace) -> Any:
        """All that the function returned, after a sweep."""
        return pytree.unflatten(self.structure, [o.read(workspace.values) for o in self.code.outputs])


class Pushing:
    """Replays of a program that compute tangents beside values, in a smaller arena where there is one.

    Args:
        program: the program.
        along: the tangents of inputs, by number.
    """

    def __init__(self, program: Any, along: dict[int, np.ndarray]) -> None:
        self.program, self._along, self._lean = program, along, program.smaller()
        of = self._lean or program
        self.steps, self.take, self.give, self.result = of.steps, of.take, of.give, of.result

    def sweep(self, workspace: Workspace, *how: Any) -> int:
        """As `Program.sweep`."""
        if self._lean is None:
            return int(self.program.sweep(workspace, *how))
        return self._lean.push(workspace, self._along)

    def tangent(self, workspace: Workspace) -> list[np.ndarray | None]:
        """The tangents of the outputs, after a sweep."""
        if self._lean is None:
            found: list[np.ndarray | None] = self.program.push_in(workspace, workspace.values, self._along)
            return found
        return self._lean.code.derivatives_in(workspace.tangents)


def lean(program: Any) -> Lean | None:
    """A program in a smaller arena; None where that would save little."""
    code, steps = program.code, program.steps
    found = owners(code.rows[:, OUT])
    runs = np.flatnonzero((steps[:, OPCODE] >= RUN) & (steps[:, B] >= LONG))
    own = found.of(steps[runs, OUT].astype(np.int64))
    # For the result of each row, the last step that reads it.
    last = np.full(len(code.rows), -1)
    last_readers(steps, code.side, *found, last)
    for output in code.outputs:
        if output.place is not None and output.layout.size:
            last[found.of(np.array([output.place]))] = len(steps)
    chunks = _chunks(program)
    ends = np.searchsorted(chunks, np.maximum(last[own], runs), "right") - 1
    to, size = _placed(code, own, np.searchsorted(chunks, runs, "right") - 1, ends)
    if size > SHARE * code.size:
        return None
    return Lean(program, *_moved(program, found, to, size), chunks.tolist())


def _chunks(program: Any) -> np.ndarray:
    """The number of the first step of each chunk, and at the end how many steps there are."""
    code, steps = program.code, program.steps
    flags = np.zeros(len(code.side), np.uint8)
    group(steps, code.side, flags, _GROUP)
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


def _placed(code: Code, own: np.ndarray, first: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, int]:
    """For each row the new place of its result, and how many numbers the arena has then.

    Rows `own` have long results, which are needed from chunk `first` up to chunk `ends`. Where there is a choice, a
    result is put where it leaves the least room.
    """
    rows = code.rows
    counts = np.where((rows[:, OPCODE] == LEAF) | (rows[:, OPCODE] >= RUN), rows[:, B], 1).astype(np.int64)
    fixed = np.ones(len(rows), bool)
    fixed[own] = False
    to = np.cumsum(np.where(fixed, counts, 0)) - counts
    free = _Free(int(counts[fixed].sum()))
    leaving: dict[int, list[tuple[int, int]]] = {}
    done = 0
    for row, n, begin, end in zip(own.tolist(), counts[own].tolist(), first.tolist(), ends.tolist(), strict=True):
        while done < begin:
            for place, size in leaving.pop(done, ()):
                free.give(place, size)
            done += 1
        to[row] = place = free.take(n)
        leaving.setdefault(end, []).append((place, n))
    return to, free.top


class _Free:
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


def _moved(program: Any, found: Any, to: np.ndarray, size: int) -> tuple[Code, np.ndarray]:
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
