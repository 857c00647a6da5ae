"""Slopes of functions of one number, by differences, with an estimate of their own error."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

_EPS = float(np.finfo(np.float64).eps)
# How often a step is halved, and how much smaller it is where the function has no value at a step.
_HALVINGS = 9
_SMALLER = 2.0**-8
# The first step: a thirtieth of the size of the argument.
STEP = 2.0**-5


class Slope(NamedTuple):
    """The derivative of a function at 0, element by element.

    Attributes:
        value: central differences at nine steps, extrapolated to step 0; NaN where the function has no number nearby.
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
    Advances in Engineering Software 4, 75, 1982). Where a step leaves the domain of f (NaN, infinity), smaller ones are
    taken.

    >>> found = slope(lambda t: np.array([np.exp(t), abs(t)]))
    >>> found.value.round(9).tolist(), found.kink.tolist()
    ([1.0, 0.0], [False, True])
    """
    with np.errstate(all="ignore"):
        center = f(0.0)
        value, error = _extrapolated(f, step)
        for _ in range(3):
            if np.all(np.isfinite(error)):
                break
            step *= _SMALLER
            other, other_error = _extrapolated(f, step)
            better = ~(other_error >= error)
            value, error = np.where(better, other, value), np.where(better, other_error, error)
        left, right, bend = _sides(f, center, step * _SMALLER)
        *_, small = _sides(f, center, step * _SMALLER * _SMALLER)
        size = np.maximum(np.abs(left), np.abs(right))
        noise = _EPS * (np.abs(center) + size * step) / (step * _SMALLER * _SMALLER)
        # Of a smooth function the sides come closer in proportion to the step; noise drives them apart.
        kink = (np.abs(small) > 1e-3 * size + 100.0 * noise) & (small / bend > 0.3) & (small / bend < 3.0)
        return Slope(np.where(np.isfinite(error), value, np.nan), error, left, right, kink)


def _sides(f: Callable[[float], np.ndarray], center: np.ndarray, h: float) -> tuple[np.ndarray, ...]:
    left, right = (center - f(-h)) / h, (f(h) - center) / h
    return left, right, right - left


def _extrapolated(f: Callable[[float], np.ndarray], step: float) -> tuple[np.ndarray, np.ndarray]:
    best: np.ndarray | None = None
    least: np.ndarray = np.zeros(0)
    previous: list[np.ndarray] = []
    for k in range(_HALVINGS):
        h = step * 0.5**k
        after, before = f(h), f(-h)
        column = [(after - before) / (2.0 * h)]
        noise = _EPS * np.maximum(np.abs(after), np.abs(before)) / h
        for m in range(1, k + 1):
            column.append((4.0**m * column[m - 1] - previous[m - 1]) / (4.0**m - 1.0))
            apart = np.maximum(np.abs(column[m] - column[m - 1]), np.abs(column[m] - previous[m - 1]))
            error = np.where(np.isfinite(apart), apart + noise, np.inf)
            if best is None:
                best, least = column[m], error
            better = error < least
            best, least = np.where(better, column[m], best), np.where(better, error, least)
        previous = column
    assert best is not None
    return best, least
