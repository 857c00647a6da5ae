"""A derivative at arguments that are held: a program of these, and of tangents or cotangents, replayed for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import GuardError
from tapegrad.native import choice
from tapegrad.program import Program
from tapegrad.sweeps import VALUES


class Held:
    """A derivative program and the arguments that it is to be replayed at.

    It computes again what the function computes, and keeps nothing but the arguments. That they take the branch that
    this is the program of was seen when they were given.

    Args:
        program: its last inputs are tangents or cotangents.
        leaves: all that it takes; those that are arguments are copied.
        seeds: how many are tangents or cotangents.
        results: how many of its last outputs are the derivative; None for all.
        how: how programs are carried out; see `tapegrad.native.choice`.
    """

    def __init__(self, program: Program, leaves: Sequence[Any], seeds: int, results: int | None, how: str) -> None:
        self.program, self._how = program, how
        outputs = len(program.code.outputs)
        self._first = outputs - (outputs if results is None else results)
        # Whoever gave them may change them before the next replay.
        own = leaves[: len(leaves) - seeds]
        self._leaves = [x.copy() if isinstance(x, np.ndarray) else x for x in own]
        self._shapes = program.shapes[len(program.shapes) - seeds :]

    def __call__(self, seeds: Sequence[np.ndarray | None]) -> list[np.ndarray | None]:
        """The derivative along tangents, or of outputs times cotangents; None stands for zero, on either side."""
        program, dtype = self.program, self.program.code.dtype
        program.used = True
        given = [np.zeros(shape, dtype) if s is None else s for s, shape in zip(seeds, self._shapes, strict=True)]
        # What was compiled meanwhile rounds otherwise, which a guard on a number may notice.
        for form in (choice.form_of(program, self._how), program):
            workspace = form.take()
            try:
                workspace.fill([*self._leaves, *given])
                if form.sweep(workspace, VALUES, -1, None) < 0:
                    found = form.code.outputs[self._first :]
                    return [None if o.place is None else o.window(workspace.values).copy() for o in found]
            finally:
                form.give(workspace)
        raise GuardError("a derivative took another branch at the arguments that it was made for")
