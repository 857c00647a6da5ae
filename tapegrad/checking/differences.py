"""Slopes of functions of one number, by differences, with an estimate of their own error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_EPS = float(np.finfo(np.float64).eps)
# How many steps there are, and each in proportion to the one before: not a half, with which all steps may be multiples
# of a period. Where they do not do, as the function is not defined that far or varies faster, the next are smaller.
_STEPS = 8
_RATIO = 0.45
_SMALLER = 2.0**-8
_GOOD = 1e-8
_NOISE = 1e-12
# The first step: a thirtieth of the size of the argument.
STEP = 2.0**-5


class Slope(NamedTuple):
    """The derivative of a function at 0, element by element.

    Attributes:
        value: central differences at eight steps, extrapolated to step 0; NaN where the function has no number nearby.
        error: how far off that may be.
        left, right: the differences on either side, at a small step.
        kink: where those two differ and smaller steps bring them no closer.
    """

    value: np.ndarray
    error: np.ndarray
    left: np.ndarray
    right: np.ndarray
    kink: np.ndarray


def slope(f: Callable[[float], np.ndarray], step: float = STEP) -> Slope:
    """f'(0), by Richardson's extrapolation of central differences.

    Of all columns of the extrapolation, each element takes the number that agrees best with its neighbours (C. Ridders,
    Advances in Engineering Software 4, 75, 1982). Where steps leave the domain of f (NaN, infinity), or their numbers
    do not agree, smaller ones are taken.

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
            # No difference at all, where larger steps showed one, is one lost to rounding.
            lost = (other == 0.0) & (error < 1e-2 * np.abs(value))
            better = ~(other_error >= error) & ~lost
            value, error = np.where(better, other, value), np.where(better, other_error, error)
        left, right, bend = _sides(f, center, h * _SMALLER)
        *_, closer = _sides(f, center, h * _SMALLER**2)
        size = np.maximum(np.abs(left), np.abs(right))
        noise = _EPS * (np.abs(center) + size * h) / (h * _SMALLER**2)
        # Of a smooth function the sides come closer in proportion to the step; noise drives them apart.
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
