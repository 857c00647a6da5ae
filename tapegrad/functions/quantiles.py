"""Quantiles: sorted on the tape, so that replays need no guard."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from tapegrad.errors import OperationError, ShapeError, UnsupportedError
from tapegrad.functions.choosing import where
from tapegrad.functions.indexing import sort
from tapegrad.functions.joining import values
from tapegrad.functions.reductions import sum
from tapegrad.functions.registry import implements, only_default
from tapegrad.layout import normalize_axes
from tapegrad.value import Value, gather


def _quantile(a: Any, q: Any, axis: Any, keepdims: Any, method: str, what: str, leave_nan: bool) -> Value:
    """The quantiles q of a over axes; those of several q stand along axes in front."""
    a, level = values(what, a, q if isinstance(q, Value) else q.tolist())
    if not np.all(np.logical_and(np.greater_equal(q, 0.0), np.less_equal(q, 1.0))):
        raise OperationError(f"{what}: what is asked for must be in the range from 0 to 1, or 0 to 100 of percentiles")
    axes = normalize_axes(axis, a.ndim, what)
    others = [i for i in range(a.ndim) if i not in axes]
    shape, n = tuple(a.shape[i] for i in others), math.prod(a.shape[i] for i in axes)
    kept = tuple(1 if i in axes else length for i, length in enumerate(a.shape))
    result = level.shape + (kept if keepdims and keepdims is not np._NoValue else shape)
    if not n and what in ("quantile", "percentile"):
        raise ShapeError(f"{what} of no elements: shape {a.shape}, over axes {axes}")
    if not n:
        return values(what, a, np.full(result, np.nan, a.dtype))[1]
    lines = sort(a.transpose(*others, *axes).reshape(-1, n) if a.ndim else a.reshape(1, 1), -1)
    count = lines.shape[0]
    wide = level.reshape(-1, 1)
    if leave_nan:
        # NaN stands behind all numbers.
        numbers = sum(lines == lines, -1)
        top: Any = np.maximum(numbers - 1.0, 0.0)
        place: Any = _place_by_count(top, wide, method, what)
        empty = numbers == 0.0
    else:
        top = n - 1.0
        place = _place(n, q, wide, method, what)
        place = np.broadcast_to(place, (wide.shape[0], count))
        empty = lines[:, -1] != lines[:, -1]
    low = np.floor(place)
    share = place - low
    # Elements of all lines, counted one after the other. The numbers that they stand at have no derivative.
    start = (np.arange(count) * n).astype(a.dtype)
    flat = lines.reshape(-1)

    def at(index: Any) -> Any:
        (index,) = values(what, flat, index)[1:]
        return gather(flat, index, 1, flat.size, 1, index.shape)

    first, last = at(start + low), at(start + np.minimum(low + 1.0, top))
    # An infinite neighbour that takes no part makes no NaN.
    gap = last - first if isinstance(q, Value) else where(np.equal(share, 0.0), 0.0, last - first)
    found = first + share * gap
    return cast(Value, where(empty, np.nan, found).reshape(result))


def _place(n: int, q: Any, level: Value, method: str, what: str) -> Any:
    """Where in an ascending line of n numbers the quantiles are, also between two."""
    if not isinstance(q, Value):
        # The quantile of 0, 1, 2, ... is where it is to be found, by any method.
        quantile: Any = np.quantile
        places = quantile(np.arange(n, dtype=float), np.asarray(q, float).reshape(-1), method=method)
        return places.astype(level.dtype).reshape(-1, 1)
    return _place_by_count(n - 1.0, level, method, what)


def _place_by_count(last: Any, level: Any, method: str, what: str) -> Value:
    if method != "linear":
        raise UnsupportedError(
            f"np.{what} with method={method!r} is not supported on a Value that may hold NaN, or for q that is a "
            "Value: leave out NaN by indexing, and pass plain q, or take method='linear'"
        )
    return cast(Value, level * last)


def _check(what: str, out: Any, weights: Any) -> None:
    only_default(what, out=out)
    if weights is not None:
        raise UnsupportedError(
            f"np.{what} with weights= is not supported on a Value: sort it, and find the place by np.interp of "
            "np.cumsum(weights[np.argsort(v)])"
        )


def _family(name: str, scale: float, leave_nan: bool) -> Any:
    def handler(
        a: Any, q: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, method: str = "linear",
        keepdims: Any = False, *, weights: Any = None,
    ) -> Value:  # fmt: skip
        _check(name, out, weights)
        q = q if isinstance(q, Value) else np.asarray(q)
        return _quantile(a, q / scale if scale != 1.0 else q, axis, keepdims, method, name, leave_nan)

    handler.__doc__ = f"np.{name}, of which q may be a Value too where the method is linear."
    return handler


def _middle(name: str, leave_nan: bool) -> Any:
    def handler(
        a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = False
    ) -> Value:
        only_default(name, out=out)
        return _quantile(a, np.asarray(0.5), axis, keepdims, "linear", name, leave_nan)

    handler.__doc__ = f"np.{name}: the element in the middle, or the mean of the two there."
    return handler


implements(np.quantile)(_family("quantile", 1.0, False))
implements(np.percentile)(_family("percentile", 100.0, False))
implements(np.nanquantile)(_family("nanquantile", 1.0, True))
implements(np.nanpercentile)(_family("nanpercentile", 100.0, True))
implements(np.median)(_middle("median", False))
implements(np.nanmedian)(_middle("nanmedian", True))
