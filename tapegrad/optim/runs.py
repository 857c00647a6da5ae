"""An optimiser's kernel, ready to be called on a vector: once for each run of parameters of one group."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tapegrad.compiled import Compiled, interpreted
from tapegrad.compiled.callable import address_of
from tapegrad.compiled.frames import float_bits
from tapegrad.optim.groups import Run

_INTERPRETED = interpreted()
# Where a frame has the addresses of the parameters and of the gradient, and the rate and the step.
_PARAMETERS, _GRADIENT, _RATE, _STEP = 2, 4, -2, -1


class Update:
    """The update of a vector of parameters by a gradient, both of which stand somewhere.

    Args:
        kernel: the optimiser's loop.
        p, g: parameters and gradient, contiguous.
        runs: the parts of the vector that are updated.
        state: (rows, size of all runs), one block after another for the runs.
        hypers: the constants of each group.
    """

    def __init__(
        self, kernel: Compiled, p: np.ndarray, g: np.ndarray, runs: Sequence[Run], state: np.ndarray,
        hypers: Sequence[np.ndarray],
    ) -> None:  # fmt: skip
        self.kernel, self.runs, self.state, self.hypers = kernel, tuple(runs), state, hypers
        self.dtype, self.size = p.dtype, p.size
        self._lay_out(p, g)

    def _lay_out(self, p: np.ndarray, g: np.ndarray) -> None:
        self.frames = []
        rows, numbers, at = self.state.shape[0], self.state.reshape(-1), 0
        for start, stop, group in self.runs:
            size = (stop - start) * rows
            block = numbers[at : at + size].reshape(rows, stop - start)
            self.frames.append(self.kernel.frame(p[start:stop], g[start:stop], block, self.hypers[group], 0.0, 1))
            at += size

    def point(self, p: np.ndarray, g: np.ndarray) -> None:
        """Let parameters and gradient stand elsewhere. They must be as long as before, and of the same dtype."""
        if _INTERPRETED:
            self._lay_out(p, g)
            return
        first, second, itemsize = address_of(p), address_of(g), p.itemsize
        for frame, run in zip(self.frames, self.runs):
            frame.words[_PARAMETERS] = first + run.start * itemsize
            frame.words[_GRADIENT] = second + run.start * itemsize

    def run(self, rates: Sequence[float], step: int) -> None:
        """Update once: a rate for each run, and the number of the update, from 1 on."""
        for frame, rate in zip(self.frames, rates):
            frame.words[_RATE], frame.words[_STEP] = float_bits(rate), step
            self.kernel.run(frame, self.dtype)

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """The address of the kernel for each run, and the words of the frames, for compiled code to call."""
        if not self.frames:
            return np.zeros(0, np.int64), np.zeros((0, 2), np.int64)
        words = np.array([frame.words for frame in self.frames], np.int64)
        for frame, row in zip(self.frames, words):
            if _INTERPRETED:
                frame.words = row
        return np.array([self.kernel.call_address(frame, self.dtype) for frame in self.frames], np.int64), words


# The state has one contiguous block for each run, as the kernel wants it: (rows, length of the run), one after another.
# It is kept in files as (rows, all). Which runs it is of is said by their (length, group).

Lengths = tuple[tuple[int, int], ...]


def merged(of: Lengths) -> Lengths:
    """The same with neighbours of one group as one: parameters between them may be in none."""
    found: list[tuple[int, int]] = []
    for length, group in of:
        if found and found[-1][1] == group:
            found[-1] = found[-1][0] + length, group
        else:
            found.append((length, group))
    return tuple(found)


def columns(state: np.ndarray, of: Lengths) -> np.ndarray:
    """A state in blocks as one with a column for each parameter."""
    rows, numbers, at, parts = state.shape[0], state.reshape(-1), 0, []
    for length, _ in of:
        parts.append(numbers[at : at + rows * length].reshape(rows, length))
        at += rows * length
    return np.concatenate(parts, axis=1) if parts else state.copy()


def blocks(state: np.ndarray, of: Lengths) -> np.ndarray:
    """The opposite of `columns`."""
    made, rows, at = np.empty_like(state, order="C"), state.shape[0], 0
    numbers = made.reshape(-1)
    for length, _ in of:
        numbers[rows * at : rows * (at + length)] = state[:, at : at + length].reshape(-1)
        at += length
    return made
