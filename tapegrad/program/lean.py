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

from tapegrad.program.form import Swept
from tapegrad.program.placing import Placed, placed
from tapegrad.program.workspace import Workspace
from tapegrad.sweeps import FORWARD, TANGENT, VALUES, callbacks

# A smaller arena is made for programs with at least so many numbers.
FROM = 1 << 17
# The most runs in a group: where values alone or with tangents are wanted, and where a gradient is. A group needs all
# of its arrays at once, so that small groups take less memory; and where places are used again they are no slower
# (measured with 1, 2, 4, 8 and 32 on arrays of 20,000 and 300,000 numbers).
_GROUP, _GROUP_BACK = 1, 4


class Lean(Swept):
    """A program in a smaller arena. It is replayed as a `Program` is.

    Args:
        program: the program.
        new: its code and steps with the places of the smaller arena.
        most: the most runs in a group.
    """

    def __init__(self, program: Any, new: Placed, most: int) -> None:
        super().__init__(
            new.code, new.steps, program.structure, program.shapes, program.leaves,
            None if program.scalar is None else new.owners.moved(program.scalar, new.to), program.calls,
            program.decided, program.sweeps,
        )  # fmt: skip
        # The program refers to this, so this must not keep the program alive.
        self._whole = weakref.ref(program)
        self._new, self._most = new, most
        self._groups = new.flags(np.zeros(0, np.uint8), program, most)
        self._flags: dict[tuple[int, ...], np.ndarray] = {}
        self._seed: int | None = None

    @property
    def whole(self) -> Any:
        """The program in its own arena."""
        return self._whole()

    @property
    def nbytes(self) -> int:
        """What it takes in memory, without workspaces."""
        flags = sum(flags.nbytes for flags in list(self._flags.values()))
        return self.code.nbytes + self.steps.nbytes + self._groups.nbytes + flags

    def seed(self, has_aux: bool) -> int:
        """As `Form.seed`."""
        if self._seed is None:
            place = self.whole.seed(has_aux)
            last = place == self.whole.code.size
            self._seed = self.code.size if last else self._new.owners.moved(place, self._new.to)
        return self._seed

    def push(self, workspace: Workspace, along: dict[int, np.ndarray]) -> int:
        """Compute values, and the tangents that follow from those of inputs, by number. Returns as `sweep` does."""
        sweeps, side, v, t = self.sweeps, self.code.side, workspace.values, workspace.put_tangents(along)
        self.whole.prepare(FORWARD)
        self.whole.prepare(TANGENT)
        flags, room = self.flags(tuple(sorted(along))), workspace.scratch
        for low, high in zip(self._new.chunks, self._new.chunks[1:], strict=False):
            steps = self.steps[low:high]
            failed = int(sweeps.run(sweeps.frame(steps, side, flags, v, v, room, -1, VALUES)))
            if failed >= 0:
                return low + failed
            sweeps.tangent(steps, side, flags, v, t, room)
            if self.calls:
                callbacks.check(room)
        return -1

    def flags(self, wrt: tuple[int, ...]) -> np.ndarray:
        """As `Swept.flags`."""
        known = self._flags.get(wrt)
        if known is None:
            known = self._flags[wrt] = self._new.flags(self.whole.flags(wrt), self.whole, self._most)
        return known


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
        """As `Form.sweep`."""
        if self._lean is None:
            return int(self.program.sweep(workspace, *how))
        return self._lean.push(workspace, self._along)

    def tangent(self, workspace: Workspace) -> list[np.ndarray | None]:
        """The tangents of the outputs, after a sweep."""
        if self._lean is None:
            found: list[np.ndarray | None] = self.program.push_in(workspace, workspace.values, self._along)
            return found
        return self._lean.code.derivatives_in(workspace.tangents)
