"""What can be replayed: a program in its own arena, in a smaller one, or as machine code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.ops.record import OPCODE
from tapegrad.program.code import Code
from tapegrad.program.workspace import Workspace
from tapegrad.sweeps import ADJOINTS, FORWARD, SEED, TASKS
from tapegrad.tape import EXPECT


class Form:
    """One form of a program, with the workspaces of its replays that are not in use.

    Args:
        code: the code, with the places of this form's arena.
        steps: what is replayed.
        structure: how the outputs are nested.
        shapes, leaves: for each input its shape, and its number among the leaves of the arguments.
        scalar: the place of the only result, where that is one number.
        calls: Python functions that instructions call, by number.
        decided: the integers among the arguments that guards hold to a number, by leaf.
        sweeps: the compiled sweeps for its dtype.

    Attributes:
        guards: which steps are guards.
        positions: where the entries of a matrix stand that the results make up, kept by whoever asks for it.
    """

    def __init__(
        self, code: Code, steps: np.ndarray, structure: Any, shapes: Sequence[tuple[int, ...]], leaves: Sequence[int],
        scalar: int | None, calls: dict[int, Any], decided: dict[int, int], sweeps: Any,
    ) -> None:  # fmt: skip
        self.code, self.steps, self.structure = code, steps, structure
        self.shapes, self.leaves, self.scalar = shapes, leaves, scalar
        self.calls, self.decided, self.sweeps = calls, decided, sweeps
        self.guards = np.flatnonzero(steps[:, OPCODE] == EXPECT)
        self.positions: np.ndarray | None = None
        self.workspaces: list[Workspace] = []

    @property
    def whole(self) -> Any:
        """The program in its own arena."""
        raise NotImplementedError

    def take(self) -> Workspace:
        """A workspace that nobody else uses until it is given back."""
        # Taking the last of a list is one step, which no other thread can come between.
        try:
            return self.workspaces.pop()
        except IndexError:
            return self._workspace()

    def _workspace(self) -> Workspace:
        return Workspace(self.code, self.shapes, self.leaves)

    def give(self, workspace: Workspace) -> None:
        """Give a workspace back."""
        self.workspaces.append(workspace)

    def seed(self, has_aux: bool) -> int:
        """The place of the number whose gradient is wanted, with `has_aux` the first of (number, aux); the kernels of
        the reverse sweep are compiled or loaded.

        Raises NonScalarError, StructureError, DTypeError where there is none.
        """
        raise NotImplementedError

    def sweep(self, workspace: Workspace, tasks: int, seed: int, wrt: tuple[int, ...] | None) -> int:
        """One compiled call, over the inputs that the workspace was filled with.

        Adjoints are those with respect to the inputs numbered by `wrt`; None for those wanted when it was recorded.
        Returns the step that failed, or -1.
        """
        raise NotImplementedError

    def result(self, workspace: Workspace) -> Any:
        """All that the function returned, after a sweep."""
        return pytree.unflatten(self.structure, [o.read(workspace.values) for o in self.code.outputs])


class Swept(Form):
    """A form that the interpreter sweeps."""

    # The flags of a sweep for values alone.
    _groups: np.ndarray

    def sweep(self, workspace: Workspace, tasks: int, seed: int, wrt: tuple[int, ...] | None) -> int:
        """As `Form.sweep`."""
        return int(self.sweeps.run(self.frame(workspace, tasks, seed, wrt)))

    def frame(self, workspace: Workspace, tasks: int, seed: int, wrt: tuple[int, ...] | None) -> Any:
        """What a sweep is called with."""
        key = (wrt, bool(tasks & ADJOINTS))
        frame = workspace.frames.get(key)
        if frame is None:
            frame = workspace.frames[key] = self.new_frame(workspace, tasks, seed, wrt)
        frame.words[SEED], frame.words[TASKS] = seed, tasks
        return frame

    def new_frame(self, workspace: Workspace, tasks: int, seed: int, wrt: tuple[int, ...] | None) -> Any:
        """A new frame, which is not kept in the workspace."""
        self.whole.prepare(FORWARD)
        v, back = workspace.values, bool(tasks & ADJOINTS)
        d = workspace.adjoints if back else v
        flags = self.flags(self.code.wanted if wrt is None else wrt) if back else self._groups
        return self.sweeps.frame(self.steps, self.code.side, flags, v, d, workspace.scratch, seed, tasks)

    def flags(self, wrt: tuple[int, ...]) -> np.ndarray:
        """The flags with which a sweep computes the gradient with respect to these inputs alone."""
        raise NotImplementedError
