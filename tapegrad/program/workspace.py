"""The arrays that one replay of a program needs for itself: arenas, scratch, and the frames to call sweeps with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.program.code import Code
from tapegrad.program.memory import memory
from tapegrad.sweeps import scratch


class Workspace:
    """The numbers of one replay. A program has as many as there are replays at the same time.

    Args:
        code: the code of the program.
        shapes: the shape of each input.
        leaves: for each input its number among the leaves of the arguments.
        values: an arena to begin with; a new one if not given.
    """

    def __init__(
        self, code: Code, shapes: Sequence[tuple[int, ...]], leaves: Sequence[int], values: np.ndarray | None = None
    ) -> None:
        self.values = code.arena() if values is None else values
        memory.add(self.values.nbytes)
        self.scratch = scratch(code.dtype)
        self.frames: dict[Any, Any] = {}
        # What the short way through a call keeps in this workspace: see `recording.direct`.
        self.view: Any = None
        # For each input a view of its numbers, to be filled, and its number among the leaves.
        self.feeds = [
            (self.values[at : at + n].reshape(shape), leaf)
            for (at, n), shape, leaf in zip(code.spans, shapes, leaves, strict=True)
        ]
        self._adjoints: np.ndarray | None = None
        self._tangents: np.ndarray | None = None
        self._gradients: list[np.ndarray] = []
        self._shapes = shapes
        self._spans = code.spans
        self._lanes = np.zeros((0, 0), code.dtype)
        self._swept: tuple[bool, Any] = (False, None)

    @property
    def adjoints(self) -> np.ndarray:
        """An adjoint for each number of the arena; made when a gradient is first wanted."""
        if self._adjoints is None:
            self._adjoints = np.zeros(len(self.values), self.values.dtype)
            memory.add(self._adjoints.nbytes)
        return self._adjoints

    @property
    def tangents(self) -> np.ndarray:
        """A tangent for each number of the arena; made when a derivative along a direction is first wanted."""
        if self._tangents is None:
            self._tangents = np.zeros(len(self.values), self.values.dtype)
            memory.add(self._tangents.nbytes)
        return self._tangents

    def put_tangents(self, along: dict[int, np.ndarray]) -> np.ndarray:
        """The tangents, those of inputs set to what is given by number, else to zero. Those of constants are zero, and
        a sweep sets all others."""
        t = self.tangents
        for number, (start, n) in enumerate(self._spans):
            t[start : start + n] = np.reshape(along[number], -1) if number in along else 0.0
        return t

    @property
    def used(self) -> bool:
        """Whether it was ever swept."""
        return bool(self.frames) or self.view is not None

    @property
    def swept_back(self) -> bool:
        """Whether adjoints were ever computed."""
        return self._adjoints is not None

    @property
    def gradients(self) -> list[np.ndarray]:
        """Views of the adjoints of the inputs."""
        if not self._gradients:
            adjoints = self.adjoints
            windows = zip(self._spans, self._shapes, strict=True)
            self._gradients = [adjoints[at : at + n].reshape(shape) for (at, n), shape in windows]
        return self._gradients

    @property
    def nbytes(self) -> int:
        """What it takes in memory."""
        arrays = (self.values, self.scratch, self._lanes, self._adjoints, self._tangents)
        return sum(array.nbytes for array in arrays if array is not None)

    def fill(self, leaves: Sequence[Any]) -> None:
        """Put new numbers in the place of the inputs."""
        for window, i in self.feeds:
            window[...] = leaves[i]

    def bring_in(self) -> None:
        """Have the inputs in the arena, so that they can be changed there between two sweeps. They are, unless a form
        reads them where they stand."""

    def lanes(self, count: int, wide: bool, back: bool, parts: Any, inputs: int) -> np.ndarray:
        """An array for the adjoints or tangents of several directions, zero wherever a sweep does not write.

        Its shape is (lanes, places) for a wide program, which does a sweep for each lane, else (places, lanes). The
        same memory is returned again and again.
        """
        n = len(self.values)
        shape = (count, n) if wide else (n, count)
        # A tangent sweep overwrites the tangents of all results of its part, so only those of inputs must be set to
        # zero. But a sweep of another part would not overwrite all of them, so for that a new array is made.
        if self._lanes.shape != shape or self._swept[0] != back or self._swept[1] is not parts:
            self._lanes, self._swept = np.zeros(shape, self.values.dtype), (back, parts)
            memory.add(self._lanes.nbytes)
        d = self._lanes.T if wide else self._lanes
        d[: n if back else inputs] = 0.0
        return self._lanes
