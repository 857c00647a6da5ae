"""The short way through a call: arguments that are arrays and floats, one program, values and gradient.

Most calls are of this kind, and what they cost besides the sweep is what users notice. So everything that does not
change from one call to the next is looked up once, and a call that is of any other kind takes the long way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.program import Program, Workspace
from tapegrad.sweeps import ADJOINTS, SEED, TASKS, VALUES


class Direct:
    """Value and gradient of one program, as a function of leaves that are all inputs.

    Args:
        program: returns one number, which depends on the inputs, and calls no Python functions.
        scalars: for each leaf, whether it is a float, not an array.
        chosen: the inputs that are differentiated, all that are wanted or some.
        windows: as `Program.sweep` takes them.
        single: whether the gradient is that of the only input chosen, not a list.
    """

    __slots__ = ("_chosen", "_leaves", "_place", "_run", "_single", "_windows", "program")

    def __init__(
        self, program: Program, scalars: Sequence[bool], chosen: Sequence[int], windows: Any, single: bool
    ) -> None:
        code = program.code
        assert program.scalar is not None
        self.program = program
        self._place = program.scalar
        dtypes = [np.dtype(x) for x in (np.float64, np.float32)]
        (own,) = [d for d in dtypes if d == code.dtype]
        # What each leaf must be: its class, and for an array its dtype and shape.
        self._leaves: list[tuple[Any, Any, Any, int]] = [
            (float, None, None, at) if scalar else (np.ndarray, own, shape, at)
            for scalar, shape, (at, _) in zip(scalars, program.shapes, code.spans, strict=True)
        ]
        self._chosen = [(self._leaves[w][0] is float, code.spans[w][0], w) for w in chosen]
        self._single = single
        self._windows = windows
        program.seed(has_aux=False)
        self._run = program.sweeps.sweep.prepare(code.dtype)

    def _view(self, workspace: Workspace) -> Any:
        """A workspace as a call needs it. Single numbers are read and written through memory views, which is faster."""
        frame = self.program.frame(workspace, VALUES | ADJOINTS, self._place, self._windows)
        views = memoryview(workspace.values.data), memoryview(workspace.adjoints.data)
        made = frame.arguments, frame.words, [window for window, _ in workspace.feeds], workspace.gradients, *views
        workspace.views[self] = made
        return made

    def __call__(self, leaves: Sequence[Any]) -> Any:
        """(value, gradient); None where the leaves are not of the kind expected, or another branch is to be taken."""
        if len(leaves) != len(self._leaves):
            return None
        for x, (kind, dtype, shape, _) in zip(leaves, self._leaves):
            if x.__class__ is not kind or (kind is not float and (x.dtype is not dtype or x.shape != shape)):
                return None
        workspace = self.program.take()
        view = workspace.views.get(self) or self._view(workspace)
        arguments, words, windows, gradients, values, adjoints = view
        words[SEED], words[TASKS] = self._place, VALUES | ADJOINTS
        for x, (kind, _, _, at), window in zip(leaves, self._leaves, windows):
            if kind is float:
                values[at] = x
            else:
                window[...] = x
        result = None
        if self._run(*arguments) == 0 and words[0] < 0:
            chosen = self._chosen
            if self._single:
                scalar, at, w = chosen[0]
                gradient: Any = adjoints[at] if scalar else gradients[w].copy()
            else:
                gradient = [adjoints[at] if scalar else gradients[w].copy() for scalar, at, w in chosen]
            result = values[self._place], gradient
        self.program.give(workspace)
        return result
