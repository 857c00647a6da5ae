"""A step length along a direction that satisfies the strong Wolfe conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

# How much of the slope the value must fall by, and how much flatter the function must be.
_DECREASE, _CURVATURE = 1e-4, 0.9


class Point(NamedTuple):
    """A step length: the value there, the gradient, and the slope along the direction."""

    t: float
    value: float
    gradient: Any
    slope: float


def strong_wolfe(
    at: Callable[[float], Point], start: Point, t: float, reach: float, tolerance: float, most: int = 25
) -> tuple[Point, int]:
    """A step length t with f(t) ≤ f(0) + c₁ t f'(0) and |f'(t)| ≤ -c₂ f'(0), and how often the function was evaluated.

    Args:
        at: the function along the direction.
        start: its point at 0, where the slope is negative.
        t: the length to try first.
        reach: the largest component of the direction.
        tolerance: an interval in which no parameter moves more is not divided further.
        most: how many intervals are tried.

    If none is found, the best point is returned.

    Source: Nocedal and Wright, Numerical Optimization, 2nd ed., 2006, algorithms 3.5 and 3.6, with cubic interpolation
    safeguarded as in M. Schmidt's minFunc.
    """

    def too_high(point: Point) -> bool:
        return point.value > start.value + _DECREASE * point.t * start.slope

    def flat_enough(point: Point) -> bool:
        return abs(point.slope) <= -_CURVATURE * start.slope

    # First go on until there is a point on the other side of a minimum.
    before, now = start, at(t)
    evaluated, tried = 1, 0
    while tried < most:
        if too_high(now) or (tried > 1 and now.value >= before.value):
            break
        if flat_enough(now):
            return now, evaluated
        if now.slope >= 0.0:
            break
        further = _cubic(before, now, now.t + 0.01 * (now.t - before.t), now.t * 10.0)
        before, now = now, at(further)
        evaluated, tried = evaluated + 1, tried + 1
    else:
        before = start
    # Then divide the interval between them.
    low, high = (before, now) if before.value <= now.value else (now, before)
    close = False
    while tried < most:
        left, right = min(low.t, high.t), max(low.t, high.t)
        if (right - left) * reach < tolerance:
            break
        t = _cubic(low, high, left, right)
        margin = 0.1 * (right - left)
        if min(right - t, t - left) < margin:
            # Near an end twice in succession, or at one: a tenth away from it at least.
            if close or t >= right or t <= left:
                t = right - margin if abs(t - right) < abs(t - left) else left + margin
                close = False
            else:
                close = True
        else:
            close = False
        now = at(t)
        evaluated, tried = evaluated + 1, tried + 1
        if too_high(now) or now.value >= low.value:
            high = now
            # The new end may be lower than the other one, where it is not low enough for the way it went.
            low, high = (low, high) if low.value <= high.value else (high, low)
            continue
        if flat_enough(now):
            return now, evaluated
        if now.slope * (high.t - low.t) >= 0.0:
            high = low
        low = now
    return low, evaluated


def _cubic(one: Point, other: Point, low: float, high: float) -> float:
    """Where the cubic through two points with these slopes is lowest, between bounds; their middle if nowhere."""
    if one.t > other.t:
        one, other = other, one
    a = one.slope + other.slope - 3.0 * (one.value - other.value) / (one.t - other.t) if one.t != other.t else np.nan
    square = a * a - one.slope * other.slope
    if not square >= 0.0:
        return (low + high) / 2.0
    b = math.sqrt(square)
    t = other.t - (other.t - one.t) * ((other.slope + b - a) / (other.slope - one.slope + 2.0 * b))
    return min(max(t, low), high)
