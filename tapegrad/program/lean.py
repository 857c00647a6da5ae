"""Programs over smaller arenas, in which places are used again, for replays that keep nothing but results.

In a program's own arena every number has a place of its own, and everybody who analyses a program, or looks at a
replay, relies on that. For the value alone, or the derivative along one direction computed beside it, a long array is
needed no longer than until its last reader is done; for the gradient, until the reverse sweep has read it, if it does.
So for these a second version of the steps is made, in which the result of a long run takes places that others have
left. Memory that is used again is also in the processor's cache, and need not be provided by the system, which for long
arrays takes longer than the sweep itself.

Steps are placed in *chunks*: all that a chunk reads and writes stays in place until the chunk is done. So groups, which
are swept block by block, and values with tangents, which are swept chunk by chunk, are as they would be without this.

On the way back, the adjoints of a result that has taken places of others are in use from its last reader to the step
that made it. Then a step CLEAR sets them to zero for those who had the places before.
"""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.program.placing import Placed, placed
from tapegrad.program.workspace import Workspace
from tapegrad.sweeps import ADJOINTS, FORWARD, SEED, TANGENT, TASKS, VALUES, callbacks
from tapegrad.tape import EXPECT

# A smaller arena is made for programs with at least so many numbers.
FROM = 1 << 17
# The most runs in a group: where values alone or with tangents are wanted, and where a gradient is. A group needs all
# of its arrays at once, so that small groups take less memory; and where places are used again they are no slower
# (measured with 1, 2, 4, 8 and 32 on arrays of 20,000 and 300,000 numbers).
_GROUP, _GROUP_BACK = 1, 4


class Lean:
    """A program in a smaller arena. It is replayed as a `Program` is.

    Args:
        program: the program.
        new: its code and steps with the places of the smaller arena.
        most: the most runs in a group.
    """

    def __init__(self, program: Any, new: Placed, most: int) -> None:
        self.code, self.steps, self.calls, self.structure = new.code, new.steps, program.calls, program.structure
        self.shapes, self.sweeps, self.decided = program.shapes, program.sweeps, program.decided
        self.scalar = None if program.scalar is None else new.owners.moved(program.scalar, new.to)
        self.guards = np.flatnonzero(self.steps[:, 0] == EXPECT)
        # The program refers to this, so this must not keep the program alive.
        self._whole = weakref.ref(program)
        self._new, self._most = new, most
        self._groups = new.flags(np.zeros(0, np.uint8), program, most)
        self._flags: dict[tuple[int, ...], np.ndarray] = {}
        self._seed: int | None = None
        self.workspaces: list[Workspace] = []

    @property
    def whole(self) -> Any:
        """The program in its own arena."""
        return self._whole()

    @property
    def nbytes(self) -> int:
        """What it takes in memory, without workspaces."""
        flags = sum(flags.nbytes for flags in list(self._flags.values()))
        return self.code.nbytes + self.steps.nbytes + self._groups.nbytes + flags

    def take(self) -> Workspace:
        """A workspace that nobody else uses until it is given back."""
        try:
            return self.workspaces.pop()
        except IndexError:
            return Workspace(self.code, self.shapes, self.whole.leaves)

    def give(self, workspace: Workspace) -> None:
        """Give a workspace back."""
        self.workspaces.append(workspace)

    def seed(self, has_aux: bool) -> int:
        """As `Program.seed`."""
        if self._seed is None:
            place = self.whole.seed(has_aux)
            last = place == self.whole.code.size
            self._seed = self.code.size if last else self._new.owners.moved(place, self._new.to)
        return self._seed

    def sweep(self, workspace: Workspace, tasks: int, seed: int, wrt: tuple[int, ...] | None) -> int:
        """As `Program.sweep`."""
        key = (wrt, bool(tasks & ADJOINTS))
        frame = workspace.frames.get(key)
        if frame is None:
            frame = workspace.frames[key] = self.new_frame(workspace, tasks, seed, wrt)
        frame.words[SEED], frame.words[TASKS] = seed, tasks
        return int(self.sweeps.run(frame))

    def new_frame(self, workspace: Workspace, tasks: int, seed: int, wrt: tuple[int, ...] | None) -> Any:
        """As `Program.new_frame`."""
        self.whole.prepare(FORWARD)
        v, back = workspace.values, bool(tasks & ADJOINTS)
        d = workspace.adjoints if back else v
        flags = self._groups if not back else self._flags_for(self.code.wanted if wrt is None else wrt)
        return self.sweeps.frame(self.steps, self.code.side, flags, v, d, workspace.scratch, seed, tasks)

    def push(self, workspace: Workspace, along: dict[int, np.ndarray]) -> int:
        """Compute values, and the tangents that follow from those of inputs, by number. Returns as `sweep` does."""
        sweeps, side, v, t = self.sweeps, self.code.side, workspace.values, workspace.put_tangents(along)
        self.whole.prepare(FORWARD)
        self.whole.prepare(TANGENT)
        flags, room = self._flags_for(tuple(sorted(along))), workspace.scratch
        for low, high in zip(self._new.chunks, self._new.chunks[1:], strict=False):
            steps = self.steps[low:high]
            failed = int(sweeps.run(sweeps.frame(steps, side, flags, v, v, room, -1, VALUES)))
            if failed >= 0:
                return low + failed
            sweeps.tangent(steps, side, flags, v, t, room)
            if self.calls:
                callbacks.check(room)
        return -1

    def _flags_for(self, wrt: tuple[int, ...]) -> np.ndarray:
        known = self._flags.get(wrt)
        if known is None:
            known = self._flags[wrt] = self._new.flags(self.whole.flags(wrt), self.whole, self._most)
        return known

    def result(self, workspace: Workspace) -> Any:
        """All that the function returned, after a sweep."""
        return pytree.unflatten(self.structure, [o.read(workspace.values) for o in self.code.outputs])


def lean(program: Any, back: bool) -> Lean | None:
    """A program in a smaller arena, for gradients if `back`, else for results and derivatives along a direction; None
    where that would save little."""
    most = _GROUP_BACK if back else _GROUP
    new = placed(program, most, back)
    return None if new is None else Lean(program, new, most)


class Pushing:
    """Replays of a program that compute tangents beside values, in a smaller arena where there is one.

    Args:
        program: the program.
        along: the tangents of inputs, by number.
    """

    def __init__(self, program: Any, along: dict[int, np.ndarray]) -> None:
        self.program, self._along, self._lean = program, along, program.smaller(back=False)
        of = self._lean or program
        self.steps, self.guards, self.seed = of.steps, of.guards, of.seed
        self.take, self.give, self.result = of.take, of.give, of.result

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
