"""Up to which size integers are exact on a tape, and what that means for arithmetic and comparisons of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np

# Above these, floats leave integers out. A result that is rounded to such a number was at least as large as it, so what
# is not above the limit is exact.
_LIMITS = {np.dtype(np.float64): 2**53 - 1, np.dtype(np.float32): 2**24 - 1}
# Sums and products of a few numbers up to these are exact.
_SMALL = {np.dtype(np.float64): 2**24, np.dtype(np.float32): 2**11}


def limit(dtype: np.dtype) -> int:
    """The largest integer that a tape of this dtype takes as one."""
    return _LIMITS[dtype]


def small(dtype: np.dtype) -> int:
    """An integer whose square, and sums of many such squares, are exact on a tape of this dtype."""
    return _SMALL[dtype]


def bound_of(op: Callable[..., Any], a: int, b: int) -> int:
    """How large op(x, y) may be for |x| <= a and |y| <= b, all being integers."""
    if op in (operator.add, operator.sub):
        return a + b
    if op is operator.mul:
        return a * b
    return max(a, b)


def comparison(op: Callable[..., Any], c: Any, most: int) -> int | None:
    """The integer i for which op(n, c) is op(n, i) for every integer n with |n| <= most; None where all are alike.

    >>> comparison(operator.gt, 2.5, 100), comparison(operator.lt, 2.5, 100), comparison(operator.eq, 2.5, 100)
    (2, 3, None)
    """
    if isinstance(c, float | np.floating) and not math.isfinite(c):
        return None
    if op in (operator.eq, operator.ne):
        i = int(c) if c == math.floor(c) else None
    else:
        i = math.floor(c) if op in (operator.gt, operator.le) else math.ceil(c)
    return None if i is None or abs(i) > most + 1 else i
