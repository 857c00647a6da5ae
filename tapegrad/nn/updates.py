"""What compiled training does after each batch of a pass: note the loss, add up gradients, update the parameters."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.compiled import Frame
from tapegrad.nn.module import Module
from tapegrad.optim import loops
from tapegrad.optim.optimizer import Optimizer
from tapegrad.optim.runs import Update


class Updates:
    """The updates of one pass over some batches.

    Args:
        optimizer: the rates of its next steps are asked for by `begin`.
        model: which of its parameters are of which group is asked for now.
        batches: how many there are.
        every: of how many batches an update takes the mean gradient; the last of the pass may take fewer.
        limits: of the gradient, as `loops` has them; only asked for where gradients are added up.
        watch: whether updates end at a loss that is not finite.
    """

    def __init__(
        self, optimizer: Optimizer, model: Module, batches: int, every: int, limits: np.ndarray, watch: bool
    ) -> None:
        self.optimizer = optimizer
        self._runs = optimizer.runs_of_model(model)
        self._rates = np.zeros((-(-batches // every), len(self._runs)))
        self._every = every
        self.losses = np.full(batches, np.nan)
        self._limits = limits
        self._total = np.zeros(model.flat.size if every > 1 else 0, model.dtype)
        tally = dict.fromkeys(range(loops.BEFORE + 1), 0)
        tally |= {loops.EVERY: every, loops.LAST: batches - 1, loops.WATCH: watch, loops.FAULT: -1}
        tally[loops.BEFORE] = optimizer.steps
        self._tally = np.array([tally[i] for i in sorted(tally)], np.int64)
        self._bound: Update | None = None

    @property
    def done(self) -> int:
        """How many updates were made."""
        return int(self._tally[loops.UPDATES])

    @property
    def whole(self) -> bool:
        """Whether no gradient is waiting for those of other batches."""
        return not self._tally[loops.SEEN]

    @property
    def fault(self) -> int | None:
        """The number of the batch whose loss was not finite, if there was one and they were watched."""
        found = int(self._tally[loops.FAULT])
        return None if found < 0 else found

    def begin(self, batches: int) -> None:
        """Ask for the rates of the next batches."""
        next_ones = self._rates[self.done : self.done + batches // self._every + 1]
        next_ones[:] = self.optimizer.rates(self._runs, len(next_ones))

    def bind(self, p: np.ndarray, g: np.ndarray) -> None:
        """Work on parameters and a gradient that stand there."""
        self._bound = self.optimizer.bind(p, g, self._runs)

    def changed(self) -> list[np.ndarray]:
        """The arrays that a batch changes, besides the parameters. `bind` comes first."""
        assert self._bound is not None
        return [self._bound.state, self._total, self._tally]

    def frame(self, values: np.ndarray, adjoints: np.ndarray, loss: int, batch: int) -> tuple[int, Frame]:
        """The address and the arguments of what is called after each batch of so many samples, whose loss stands at a
        place. `bind` comes first."""
        assert self._bound is not None
        self._tally[loops.LOSS], self._tally[loops.BATCH] = loss, batch
        kernels, words = self._bound.table()
        g = adjoints[: self.size]
        after: Any = loops.finish_batch
        frame = after.frame(
            kernels, words, self._rates, values, g, self._total, self._limits, self.losses, self._tally, 0.0, 1
        )
        return after.call_address(frame, values.dtype), frame

    @property
    def size(self) -> int:
        """How many parameters there are."""
        assert self._bound is not None
        return self._bound.size
