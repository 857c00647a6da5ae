"""Dropout: random zeros in training."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.functions.normalization import check_probability, dropout_mask, next_state
from tapegrad.nn.buffers import Buffer
from tapegrad.nn.init import Rng
from tapegrad.nn.module import Module
from tapegrad.ops.random import HALF
from tapegrad.tape import current_tape, recording_tape
from tapegrad.value import Value


class Dropout(Module):
    """In training each number is 0 with probability p, and otherwise divided by 1 - p; in evaluation it is as it is.

    Args:
        p: the probability, from 0 to 1.
        rng: a seed, or a generator from which one is drawn; a random one by default. Two layers with one seed have the
            same zeros: give them one generator.

    Other numbers are zero at every call: in replays of recordings and in compiled steps of `Training` too. They follow
    from a seed and a count of calls, which are the buffer `state`: so training that goes on from what `state_dict`
    gave has the zeros that it would have had.

    Raises ValueError for p out of range.

    >>> layer = Dropout(0.5, rng=0)
    >>> layer(np.ones(8))
    array([0., 0., 0., 2., 2., 0., 2., 2.])
    >>> layer(np.ones(8))
    array([2., 2., 0., 0., 2., 2., 2., 0.])
    >>> layer.eval()(np.ones(3))
    array([1., 1., 1.])
    """

    def __init__(self, p: float = 0.5, *, rng: Rng = None) -> None:
        check_probability(p)
        self.p = p
        self.state: Any = Buffer(np.append(np.random.default_rng(rng).integers(0, HALF, 2), [0, 0]))

    def forward(self, x: Any) -> Any:
        # It may have been changed since.
        check_probability(self.p)
        if not self.training or self.p == 0.0:
            return x
        if not isinstance(x, Value):
            x = np.asarray(x)
            x = x if x.dtype.kind == "f" else x.astype(float)
        state = self.state
        self.state = next_state(state)
        tape = x.tape if isinstance(x, Value) else current_tape(x.dtype)
        mask = dropout_mask(state, np.shape(x), self.p, tape)
        return x * (mask if isinstance(x, Value) or recording_tape() is not None else mask.data)

    def describe(self) -> str:
        return f"p={self.p}"
