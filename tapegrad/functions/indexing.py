"""What gathers elements by index arrays: taking, sorting, rolling."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapegrad.errors import IntegerInputError, ShapeError, UnsupportedError
from tapegrad.functions.choosing import order_along
from tapegrad.functions.registry import implements, only_default, to_value
from tapegrad.layout import normalize_axis
from tapegrad.value import Value, gather, gather_flat, leaf


@implements(np.take)
def take(x: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Value:
    """Elements by index along an axis; of the flattened array where no axis is given."""
    only_default("take", out=out)
    x = to_value(x, "take")
    if mode != "raise":
        raise UnsupportedError(f"np.take with mode={mode!r} is not supported on a Value")
    if axis is None:
        return x.reshape(-1)[indices if isinstance(indices, Value) else np.asarray(indices)]
    axis = normalize_axis(axis, x.ndim, "take")
    if not isinstance(indices, Value):
        n, given = x.shape[axis], np.asarray(indices)
        if given.dtype.kind not in "iub" and given.size:
            raise IntegerInputError(f"take: indices must be integers, not {given.dtype}")
        if given.size and not (-n <= given.min() and given.max() < n):
            raise IndexError(f"take: an index is out of range for axis {axis} of size {n}")
        indices = leaf(x._tape, given)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    return gather(x, indices, math.prod(before), x.shape[axis], math.prod(after), (*before, *indices.shape, *after))


@implements(np.sort)
def sort(x: Any, axis: Any = -1) -> Value:
    """Sorted along an axis, by the order of the numbers."""
    x = to_value(x, "sort")
    x = x if axis is not None else x.reshape(-1)
    axis = normalize_axis(-1 if axis is None else axis, x.ndim, "sort")
    # Where each line begins, and how far apart its elements are: the order itself is on the tape, so replays sort anew.
    places = np.arange(x.size).reshape(x.shape)
    start = np.take(places, [0], axis) if x.size else places
    step = math.prod(x.shape[axis + 1 :])
    order: Any = start + order_along(x, axis) * float(step)
    return gather(x, order, 1, x.size, 1, x.shape) if x.size else x


@implements(np.take_along_axis)
def take_along_axis(x: Any, indices: Any, axis: Any = -1) -> Value:
    """Elements by an index array of the same number of axes."""
    places = np.arange(x.size).reshape(x.shape)
    return gather_flat(x, np.take_along_axis(places, np.asarray(indices), axis))


@implements(np.roll)
def roll(x: Any, shift: Any, axis: Any = None) -> Value:
    """Rolled along an axis or several, each by a shift of its own. Without an axis, the flattened array is rolled."""
    if np.asarray(shift).dtype.kind not in "iub" or np.ndim(shift) > 1:
        raise IntegerInputError(f"roll: a shift must be an integer, or a sequence of integers, not {shift!r}")
    if axis is None:
        return roll(x.reshape(-1), shift, 0).reshape(x.shape)
    try:
        pairs = [(int(by), along) for by, along in np.broadcast(shift, axis)]
    except ValueError:
        raise ShapeError(f"roll: {np.size(shift)} shifts do not go with {np.size(axis)} axes") from None
    for by, along in pairs:
        n = x.shape[normalize_axis(along, x.ndim, "roll")]
        x = take(x, (np.arange(n) - by) % n, along) if n else x
    return x


@implements(np.repeat)
def repeat(x: Any, repeats: Any, axis: Any = None) -> Value:
    """Every element repeated along an axis."""
    x = x.reshape(-1) if axis is None else x
    axis = normalize_axis(0 if axis is None else axis, x.ndim, "repeat")
    return take(x, np.repeat(np.arange(x.shape[axis]), repeats), axis)
