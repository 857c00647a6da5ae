"""The directions that a dense matrix of derivatives is computed along, and how it is read from replays."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.sweeps import VALUES, callbacks

# Up to so many numbers of a replay are collected by one call of NumPy.
_AT_ONCE = 4096
# How often it is tried how long sweeps take.
_LAPS = 3


class Directions:
    """Unit vectors: a column of the matrix for each number of the inputs, or, from the outputs back, a row for each
    number of the outputs.

    Args:
        inputs, outputs: their shapes.
        back: whether derivatives are taken from the outputs back.
        dtype: of the unit vectors.
        most: up to so many directions are constants of a program, and one replay computes all.
        width: if there are more, they are arguments, and a replay computes so many.

    Attributes:
        sources, targets: the shapes of what a direction is of, and of the derivatives along it.
        count, size: how many directions there are, and how many numbers along each.
    """

    def __init__(
        self, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]], back: bool, dtype: Any, most: int,
        width: int,
    ) -> None:  # fmt: skip
        self.back, self.dtype = back, dtype
        self.sources, self.targets = (outputs, inputs) if back else (inputs, outputs)
        self.count, self.size = (sum(map(math.prod, shapes)) for shapes in (self.sources, self.targets))
        # Whether one replay computes all.
        self.constant = self.count <= most
        self.width = self.count if self.constant else min(width, self.count)

    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of the seeds that are arguments."""
        return [] if self.constant else [*self.sources] * self.width

    def seeds(self, first: int) -> list[np.ndarray]:
        """The unit vectors of the lanes of a replay, beginning with the direction `first`."""
        found = []
        for direction in range(first, first + self.width):
            at = 0
            for shape in self.sources:
                n = math.prod(shape)
                seed = np.zeros(n, self.dtype)
                if at <= direction < at + n:
                    seed[direction - at] = 1.0
                found.append(seed.reshape(shape))
                at += n
        return found

    def matrix(self, form: Any, workspace: Any) -> np.ndarray:
        """The matrix, (outputs, inputs), from what a program computes that was replayed with the first seeds."""
        values = workspace.values
        found = np.zeros((self.count, self.size), values.dtype)
        # Where the seeds of all directions stand, lane by lane. Inputs keep their places, so other seeds are put there
        # for the next replay, and nothing else is filled in anew.
        spans = [] if self.constant else form.code.spans[-len(self.sources) * self.width :]
        standing = np.array([at + i for at, n in spans for i in range(n)], np.int64).reshape(self.width, -1)
        lanes = np.arange(self.width)
        for first in range(0, self.count, self.width):
            if first:
                workspace.bring_in()
                values[standing[lanes, first - self.width + lanes]] = 0.0
                lanes = lanes[: self.count - first]
                values[standing[lanes, first + lanes]] = 1.0
                failed = form.sweep(workspace, VALUES, -1, None)
                assert failed < 0, "guards hold again at the same arguments"
                if form.calls:
                    callbacks.check(workspace.scratch)
            self._collect(form, values, found[first : first + len(lanes)])
        return found if self.back else found.T

    @property
    def replays(self) -> int:
        """How many replays compute the matrix."""
        return -(-self.count // max(1, self.width))

    def seconds_by_sweeps(self, program: Any, inputs: tuple[int, ...]) -> float:
        """What the interpreter takes for the matrix, a program's Jacobian with respect to inputs."""
        workspace, each = program.take(), []
        try:
            for _ in range(_LAPS):
                started = time.perf_counter()
                program.sweep(workspace, VALUES, -1, None)
                program.jacobian(workspace, program.code.output_places, inputs, self.back)
                each.append(time.perf_counter() - started)
        finally:
            program.give(workspace)
        return min(each)

    def _collect(self, form: Any, values: np.ndarray, rows: np.ndarray) -> None:
        outputs, many = form.code.outputs, len(self.targets)
        if self.width * self.size <= _AT_ONCE:
            if form.positions is None:
                # What is constant is zero, as the number behind all others is.
                zero = len(values) - 1
                places = [np.full(math.prod(o.shape), zero) if o.places is None else o.places for o in outputs]
                form.positions = np.concatenate(places).reshape(self.width, self.size)
            values.take(form.positions[: len(rows)], out=rows)
            return
        for lane, row in enumerate(rows):
            at = 0
            for output in outputs[lane * many : (lane + 1) * many]:
                n = math.prod(output.shape)
                if output.place is not None:
                    row[at : at + n].reshape(output.shape)[...] = output.window(values)
                at += n
