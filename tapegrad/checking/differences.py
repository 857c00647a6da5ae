"""Slopes of functions of one number, by differences, with an estimate of their own error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_EPS = float(np.finfo(np.float64).eps)
# An extrapolation takes this many steps, each this fraction of the one before. The fraction is not 1/2: with it, all
# steps can be multiples of the period of a function, which then looks constant.
_STEPS = 8
_RATIO = 0.45
# Where the function is not defined as far as the first step, or varies too fast for it, the extrapolation is done again
# with a first step that is smaller by this factor.
_SMALLER = 2.0**-8
# An estimated error is good enough if it is at most _GOOD times the largest slope plus _NOISE times the largest value
# of the function.
_GOOD = 1e-8
_NOISE = 1e-12
# The first step, relative to the size of the argument.
STEP = 2.0**-5


class Slope(NamedTuple):
    """The derivative of a function at 0, element by element.

    Attributes:
        value: central differences at eight steps, extrapolated to step 0; NaN where the function is not finite nearby.
        error: an estimate of the error of `value`.
        left, right: the difference quotients on either side of 0, at a small step.
        kink: whether those two differ, and do so by as much when the step is made smaller.
    """

    value: np.ndarray
    error: np.ndarray
    left: np.ndarray
    right: np.ndarray
    kink: np.ndarray


def slope(f: Callable[[float], np.ndarray], step: float = STEP) -> Slope:
    """f'(0), by Richardson's extrapolation of central differences.

    The extrapolation makes a table of estimates, and each element of the result is the estimate that agrees best with
    its neighbours in the table (C. Ridders, Advances in Engineering Software 4, 75, 1982). Where f is NaN or infinite
    at some of the steps, or the estimates do not agree, the extrapolation is done again with smaller steps.

    >>> found = slope(lambda t: np.array([np.exp(t), abs(t)]))
    >>> found.value.round(9).tolist(), found.kink.tolist()
    ([1.0, 0.0], [False, True])
    """
    with np.errstate(all="ignore"):
        center = f(0.0)
        small = _NOISE * np.max(np.abs(center), initial=0.0)
        value, error = _extrapolated(f, step)
        h = step
        for _ in range(3):
            if np.all(error <= _GOOD * np.max(np.abs(value), initial=0.0) + small):
                break
            h *= _SMALLER
            other, other_error = _extrapolated(f, h)
            # Where larger steps gave a slope and these give exactly 0, the difference was lost to rounding.
            lost = (other == 0.0) & (error < 1e-2 * np.abs(value))
            better = ~(other_error >= error) & ~lost
            value, error = np.where(better, other, value), np.where(better, other_error, error)
        left, right, bend = _sides(f, center, h * _SMALLER)
        *_, closer = _sides(f, center, h * _SMALLER**2)
        size = np.maximum(np.abs(left), np.abs(right))
        noise = _EPS * (np.abs(center) + size * h) / (h * _SMALLER**2)
        # With a smaller step, left and right of a smooth function come closer in proportion to the step, and rounding
        # drives them apart. So there is a kink where their distance stays about the same.
        kink = (np.abs(closer) > 1e-3 * size + 100.0 * noise) & (closer / bend > 0.3) & (closer / bend < 3.0)
        return Slope(np.where(np.isfinite(error), value, np.nan), error, left, right, kink)


def _sides(f: Callable[[float], np.ndarray], center: np.ndarray, h: float) -> tuple[np.ndarray, ...]:
    left, right = (center - f(-h)) / h, (f(h) - center) / h
    return left, right, right - left


def _extrapolated(f: Callable[[float], np.ndarray], step: float) -> tuple[np.ndarray, np.ndarray]:
    best: np.ndarray | None = None
    least: np.ndarray = np.zeros(0)
    previous: list[np.ndarray] = []
    r = _RATIO**-2
    for k in range(_STEPS):
        h = step * _RATIO**k
        after, before = f(h), f(-h)
        column = [(after - before) / (2.0 * h)]
        noise = _EPS * np.maximum(np.abs(after), np.abs(before)) / h
        for m in range(1, k + 1):
            column.append((r**m * column[m - 1] - previous[m - 1]) / (r**m - 1.0))
            apart = np.maximum(np.abs(column[m] - column[m - 1]), np.abs(column[m] - previous[m - 1]))
            error = np.where(np.isfinite(apart), apart + noise, np.inf)
            if best is None:
                best, least = column[m], error
            better = error < least
            best, least = np.where(better, column[m], best), np.where(better, error, least)
        previous = column
    assert best is not None
    return best, least
