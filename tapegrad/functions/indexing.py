"""Indexing by arrays: gathering, sorting, masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import IntegerInputError, ShapeError, UnsupportedError
from tapegrad.functions.choosing import order_along
from tapegrad.functions.registry import implements, only_default, structured, to_value
from tapegrad.layout import normalize_axis
from tapegrad.tape import Tape
from tapegrad.value import Value, as_value, contiguous, leaf


def _gather(x: Value, indices: Value, outer: int, size: int, inner: int, shape: Sequence[int]) -> Value:
    if x.dtype == np.float32 and size > 2**24:
        raise ShapeError(f"a float32 tape cannot index {size} elements: whole numbers above 2**24 are not exact there")
    params = [outer, size, inner, indices.size]
    return structured("gather", x._tape, shape, [contiguous(x), contiguous(indices)], params)


def _gather_flat(x: Value, places: np.ndarray) -> Value:
    return _gather(x, _whole_numbers(x._tape, places), 1, x.size, 1, places.shape)


def _whole_numbers(tape: Tape, array: np.ndarray) -> Value:
    return leaf(tape, array)


@implements("advanced_index")
def advanced_index(x: Value, parts: tuple[Any, ...]) -> Value:
    """x[parts] where a part is an array of indices or flags."""
    parts = tuple(_flags(p) if isinstance(p, Value) else np.asarray(p) if isinstance(p, list) else p for p in parts)
    for p in parts:
        if isinstance(p, np.ndarray) and p.dtype.kind not in "iub" and p.size:
            raise IntegerInputError(f"index arrays must be integers or booleans, not {p.dtype}")
    if any(isinstance(p, Value) for p in parts):
        return _index_by_values(x, parts)
    if len(parts) == 1 and isinstance(parts[0], np.ndarray) and parts[0].dtype.kind in "iu" and x.ndim > 1:
        index = parts[0]
        n = x.shape[0]
        if index.size and not (-n <= index.min() and index.max() < n):
            raise IndexError(f"an index is out of range for axis 0 of size {n}")
        inner = math.prod(x.shape[1:])
        return _gather(x, _whole_numbers(x._tape, index), 1, n, inner, (*index.shape, *x.shape[1:]))
    places = np.arange(x.size).reshape(x.shape)[tuple(p.astype(int) if _empty(p) else p for p in parts)]
    return _gather_flat(x, places)


def _empty(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.size == 0 and part.dtype.kind == "f"


def _flags(index: Value) -> Any:
    """What a Value means as an index: flags, by their numbers, which a guard holds; or integers on the tape."""
    kind = index._tape.kind(index._slot) if index.size else "i"
    if kind == "b":
        return index.numpy() != 0.0
    if kind != "i":
        raise IntegerInputError(
            "a Value of floats cannot index: an index on the tape is a comparison, or an array that was given as "
            "integers; else write int(v) for one number, v.numpy().astype(int) for more"
        )
    return index


def _index_by_values(x: Value, parts: tuple[Any, ...]) -> Value:
    # Indices that are numbers on the tape, one for each leading axis: replays may change them.
    if not all(isinstance(p, Value | np.ndarray | int | np.integer) for p in parts) or len(parts) > x.ndim:
        raise UnsupportedError("index Values go with other index arrays for the leading axes, not with slices")
    if len(parts) == 1:
        (index,) = parts
        return _gather(x, index, 1, x.shape[0], math.prod(x.shape[1:]), (*index.shape, *x.shape[1:]))
    flat: Any = 0.0
    for n, part in zip(x.shape, parts, strict=False):
        index = as_value(np.asarray(part, x.dtype) if not isinstance(part, Value) else part, x._tape, "index")
        ok = np.logical_and(index >= -n, index < n)
        flat = flat * float(n) + np.where(ok, np.where(index < 0, index + float(n), index), np.nan)
    size = math.prod(x.shape[: len(parts)])
    rest = x.shape[len(parts) :]
    return _gather(x, flat, 1, size, math.prod(rest), (*flat.shape, *rest))


@implements(np.take)
def take(x: Any, indices: Any, axis: Any = None, out: Any = None, mode: str = "raise") -> Value:
    """Elements by index along an axis; of the flattened array where none is given."""
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
        indices = _whole_numbers(x._tape, given)
    before, after = x.shape[:axis], x.shape[axis + 1 :]
    return _gather(x, indices, math.prod(before), x.shape[axis], math.prod(after), (*before, *indices.shape, *after))


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
    return _gather(x, order, 1, x.size, 1, x.shape) if x.size else x


@implements(np.take_along_axis)
def take_along_axis(x: Any, indices: Any, axis: Any = -1) -> Value:
    """Elements by an index array of the same number of axes."""
    places = np.arange(x.size).reshape(x.shape)
    return _gather_flat(x, np.take_along_axis(places, np.asarray(indices), axis))


@implements(np.roll)
def roll(x: Any, shift: Any, axis: Any = None) -> Value:
    """Rolled along an axis or several, each by a shift of its own; flattened for it where none is given."""
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
