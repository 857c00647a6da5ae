"""`debug`: a block in which NaN and infinities raise, and the lines of what is recorded are noted."""

from __future__ import annotations

import contextlib
from typing import Any

from tapegrad.debugging import checks
from tapegrad.tape import lines
from tapegrad.tape.ambient import ambient, set_recording


class debug(contextlib.ContextDecorator):
    """A block in which a NaN or an infinity raises NonFiniteError, which says where it began.

    The error names the first instruction that made it, forward or on the way back, the line of your code that recorded
    this, and the numbers that it was made of. Its attribute `report` has the same as a `Blame`. A NaN that was given,
    in an argument or a constant, is told as such.

    Within the block, numbers of Values are checked where they are looked at (`v.data`, `v.item()`, `print(v)`, `if v`)
    and where gradients are accumulated (`v.backward()`), and results of recorded functions and of their derivatives
    when they are returned. So what does no harm raises nothing: log(0) in a branch that `np.where` did not take, or
    exp(1000) in 1 / (1 + exp(-x)). The lines of what is recorded are noted, for this and for listings; they stay with a
    recording when the block is left. Outside of such blocks nothing is checked or noted, and nothing costs time.

    Of this thread only. Also a decorator, for functions that are to be run in such a block.

    Args:
        anywhere: whether NaN and infinities count that reach no result.
        infinity: whether infinities count; otherwise NaN alone.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> with tg.debug():
    ...     x = tg.Value([3.0, 0.0], label="x")
    ...     try:
    ...         np.sum(np.log(x - 1.0)).item()
    ...     except tg.errors.NonFiniteError as error:
    ...         print(error.report.what, error.report.text, error.report.index)
    NaN v[...] = ln v[...]  (2) (1,)
    """

    def __init__(self, *, anywhere: bool = False, infinity: bool = True) -> None:
        self.anywhere, self.infinity = anywhere, infinity
        self._before: list[Any] = []

    def __enter__(self) -> debug:
        checks.install()
        self._before.append((ambient.debugging, lines.begin(_tapes())))
        ambient.debugging = self
        set_recording(ambient.recording)
        return self

    def __exit__(self, *_: Any) -> None:
        ambient.debugging, noting = self._before.pop()
        set_recording(ambient.recording)
        lines.end(_tapes(), noting)
        checks.remove()


def _tapes() -> list[Any]:
    recording = ambient.recording
    return [*ambient.tapes.values(), *([] if recording is None else [recording])]
