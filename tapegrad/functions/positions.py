"""Positions and counts: plain integers, to which guards hold replays. `np.interp` finds its positions on the tape."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from tapegrad.errors import IntegerInputError, OperationError, ShapeError
from tapegrad.functions.choosing import argsort, isfinite, where
from tapegrad.functions.indexing import sort
from tapegrad.functions.joining import concatenate, values
from tapegrad.functions.registry import implements, only_default, plain_indices, refuse, to_value
from tapegrad.layout import normalize_axis
from tapegrad.value import Value, as_value, contiguous, gather, leaf, structured

refuse(
    "counts have no derivative, and edges that depend on numbers are not for one tape: with plain edges, write "
    "np.bincount(np.digitize(x, edges) - 1, weights=w), where x is plain or w a Value, or a smooth density instead",
    np.histogram, np.histogram2d, np.histogramdd, np.histogram_bin_edges,
)  # fmt: skip
refuse(
    "it is about positions alone; pass it plain integers, by v.astype(int)", np.ravel_multi_index, np.unravel_index
)


def positions_in(a: Any, v: Value, side: str = "left") -> Value:
    """How many of the numbers `a`, which ascend, are less than each of v ("right": at most), counted on the tape.

    By halving: each round looks at one number for each of v. NaN stands behind all numbers.
    """
    if side not in ("left", "right"):
        raise OperationError(f"side is 'left' or 'right', not {side!r}")
    a = contiguous(as_value(a, v._tape, "searchsorted"))
    n = a.size
    found: Any = as_value(np.zeros(v.shape, v.dtype)[()], v._tape, "searchsorted")
    step = 1 << max(n.bit_length() - 1, 0)
    while step and n:
        looked = np.minimum(found + (step - 1.0), n - 1.0)
        number = gather(a, looked, 1, n, 1, v.shape)
        before = np.less(number, v) if side == "left" else np.less_equal(number, v)
        before = np.logical_or(before, np.logical_and(v != v, np.logical_or(number == number, side == "right")))
        found = where(np.logical_and(before, found + float(step) <= n), found + float(step), found)
        step //= 2
    return cast(Value, found)


@implements(np.searchsorted)
def searchsorted(a: Any, v: Any, side: Any = "left", sorter: Any = None) -> Any:
    """Where numbers are to be put into an array that ascends, as plain integers."""
    if np.ndim(a) != 1:
        raise ShapeError(f"searchsorted: numbers are searched for in one axis, not in shape {np.shape(a)}")
    a, v = values("searchsorted", a, v)
    a = a if sorter is None else a[plain_indices(sorter, "searchsorted")]
    found = positions_in(a, v, {"l": "left", "r": "right"}.get(side, side))
    return found.astype(int)


@implements(np.digitize)
def digitize(x: Any, bins: Any, right: Any = False) -> Any:
    """The number of the bin that each number is in; bins ascend or descend."""
    x, bins = values("digitize", x, bins)
    if bins.ndim != 1:
        raise ShapeError(f"digitize: bins have one axis, not shape {bins.shape}")
    if bins.size > 1 and np.all(bins[1:] <= bins[:-1]) and not np.all(bins[1:] == bins[:-1]):
        return bins.size - searchsorted(bins[::-1], x, "right" if right else "left")
    if bins.size > 1 and not np.all(bins[1:] >= bins[:-1]):
        raise OperationError("digitize: bins must ascend or descend")
    return searchsorted(bins, x, "left" if right else "right")


@implements(np.bincount)
def bincount(x: Any, /, weights: Any = None, minlength: int = 0) -> Any:
    """How often each integer occurs, as plain numbers; or the sums of the weights that stand beside it, as a Value."""
    if np.ndim(x) != 1:
        raise ShapeError(f"bincount: integers are in one axis, not in shape {np.shape(x)}")
    if not isinstance(x, Value) and np.asarray(x).dtype.kind not in "iub":
        raise IntegerInputError(f"bincount: integers are counted, not {np.asarray(x).dtype}")
    if not isinstance(weights, Value):
        return np.bincount(plain_indices(x, "bincount"), weights, minlength)
    if np.shape(x) != weights.shape:
        raise ShapeError(f"bincount: weights of shape {weights.shape} for integers of shape {np.shape(x)}")
    if isinstance(x, Value):
        plain_kind = x._tape.kind(x._slot) if x.size else "i"
        if not plain_kind:
            raise IntegerInputError("bincount: integers are counted, not floats: write v.astype(int)")
        # A guard on the length only where it is not known before.
        size = 0 if not x.size or np.max(x) < minlength else int(np.max(x)) + 1
        negative = bool(x.size) and bool(np.any(x < 0.0))
    else:
        x = np.asarray(x)
        size, negative = (int(x.max()) + 1, bool(x.min() < 0)) if x.size else (0, False)
        x = leaf(weights._tape, x)
    if negative:
        raise OperationError("bincount: integers must not be negative")
    size = max(size, minlength)
    if not weights.size:
        return np.zeros(size, weights.dtype)
    return structured(
        "scatter", weights._tape, (size,), [contiguous(weights), contiguous(x)], [1, size, 1, weights.size]
    )


@implements(np.partition)
def partition(a: Any, kth: Any, axis: Any = -1, kind: Any = None, order: Any = None) -> Value:
    """Sorted along an axis: then every element stands where it would, and not only those that are asked for."""
    only_default("partition", order=order)
    _check_places(a, kth, axis, "partition")
    return sort(a, axis)


@implements(np.argpartition)
def argpartition(a: Any, kth: Any, axis: Any = -1, kind: Any = None, order: Any = None) -> Any:
    """The positions of the elements in ascending order."""
    only_default("argpartition", order=order)
    _check_places(a, kth, axis, "argpartition")
    return argsort(a, axis)


def _check_places(a: Any, kth: Any, axis: Any, what: str) -> None:
    n = a.size if axis is None else a.shape[normalize_axis(axis, a.ndim, what)]
    places = np.atleast_1d(kth)
    if not n:
        return
    if places.dtype.kind not in "iu" or (places < -n).any() or (places >= n).any():
        raise OperationError(f"{what}: kth={kth} is out of range for {n} elements")


@implements(np.lexsort)
def lexsort(keys: Any, axis: int = -1) -> Any:
    """The order by several keys, the last of which counts most."""
    if not len(keys):
        raise OperationError("lexsort: there are no keys")
    if len({np.shape(key) for key in keys}) > 1:
        raise ShapeError(f"lexsort: keys of shapes {' and '.join(str(np.shape(key)) for key in keys)} differ")
    order: Any = None
    taken: Any = np.take_along_axis
    for key in keys:
        key = to_value(key, "lexsort") if not isinstance(key, Value) else key
        if order is None:
            order = argsort(key, axis) if key.ndim else np.zeros((), int)
        elif key.ndim:
            order = taken(order, argsort(taken(key, order, axis), axis), axis)
    return order


@implements(np.interp)
def interp(x: Any, xp: Any, fp: Any, left: Any = None, right: Any = None, period: Any = None) -> Value:
    """Straight lines through the points (xp, fp), at x; `left` and `right` beyond them. Any of these may be Values.

    Between which points x lies is found on the tape, so that replays need no guard. At a point the slope is that of the
    line on its right. Raises ShapeError where xp and fp are not one axis of one length.
    """
    given = [z for z in (x, xp, fp, left, right) if z is not None]
    x, xp, fp, *ends = values("interp", *given)
    if xp.ndim != 1 or xp.shape != fp.shape or not xp.size:
        raise ShapeError(f"interp: xp of shape {xp.shape} and fp of shape {fp.shape} must be one axis of one length")
    if period is not None:
        if period == 0:
            raise OperationError("interp: the period must not be 0")
        period = abs(period)
        x, xp = np.remainder(x, period), np.remainder(xp, period)
        order = argsort(xp)
        xp, fp = xp[order], fp[order]
        xp = concatenate([xp[-1:] - period, xp, xp[:1] + period])
        fp = concatenate([fp[-1:], fp, fp[:1]])
        left = right = None
    n = xp.size
    first = fp[0] if left is None else ends[0]
    last = fp[-1] if right is None else ends[-1]
    if n == 1:
        return where(x < xp[0], first, where(x > xp[0], last, where(x == x, fp[0], x)))
    j = np.clip(positions_in(xp, x, "right") - 1.0, 0.0, n - 2.0)

    def at(a: Value, index: Any) -> Value:
        return gather(a, index, 1, n, 1, x.shape)

    begin = at(xp, j)
    slope = (at(fp, j + 1.0) - at(fp, j)) / (at(xp, j + 1.0) - begin)
    line = slope * (x - begin) + at(fp, j)
    # The last point is met exactly, with the slope of the line that ends there.
    line = where(x == xp[-1], fp[-1] + where(isfinite(slope), slope, 0.0) * (x - xp[-1]), line)
    return where(x < xp[0], first, where(x > xp[-1], last, line))
