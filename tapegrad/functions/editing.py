"""Arrays with elements put in, taken out, or chosen by a condition. Which ones is a matter of plain numbers: where a
condition is computed from Values, a guard holds replays to what was found."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from tapegrad.errors import ShapeError, TapeFullError
from tapegrad.functions.choosing import truths
from tapegrad.functions.indexing import take
from tapegrad.functions.joining import concatenate, values
from tapegrad.functions.registry import implements, only_default, plain_indices, refuse
from tapegrad.layout import normalize_axes, normalize_axis
from tapegrad.value import Value, gather_flat

refuse(
    "a Value cannot be changed in place; write np.where(condition, new, v)",
    np.place, np.putmask, np.copyto,
)  # fmt: skip
refuse(
    "a Value cannot be changed in place; write np.where(np.eye(n, dtype=bool), new, v)", np.fill_diagonal
)
refuse(
    "a Value cannot be changed in place; write np.where(np.arange(n) == indices, new, v), with shapes that broadcast",
    np.put, np.put_along_axis,
)  # fmt: skip


@implements(np.append)
def append(arr: Any, values_: Any, axis: Any = None) -> Value:
    """Two arrays joined along an axis; flattened first where none is given."""
    x, y = values("append", arr, values_)
    return concatenate([x, y], axis)


@implements(np.insert)
def insert(arr: Any, obj: Any, values_: Any, axis: Any = None) -> Value:
    """With elements put in before the positions that `obj` names."""
    x, new = values("insert", arr, values_)
    x, axis = (x.reshape(-1), 0) if axis is None else (x, normalize_axis(axis, x.ndim, "insert"))
    obj, n = plain_indices(obj, "insert"), x.shape[axis]
    new = new.reshape((1,) * (x.ndim - new.ndim) + new.shape)
    if not isinstance(obj, slice) and np.ndim(obj) == 0:
        new = np.moveaxis(new, 0, axis)
        count = new.shape[axis]
    elif isinstance(obj, slice):
        count = len(range(*obj.indices(n)))
    else:
        count = int(np.sum(obj)) if np.asarray(obj).dtype == bool else np.size(obj)
        count = new.shape[axis] if count == 1 else count
    new = np.broadcast_to(new, (*x.shape[:axis], count, *x.shape[axis + 1 :]))
    order = np.insert(np.arange(n), obj, n + np.arange(count))
    return take(concatenate([x, new], axis), order, axis)


@implements(np.delete)
def delete(arr: Any, obj: Any, axis: Any = None) -> Value:
    """Without the elements that `obj` names."""
    if not isinstance(arr, Value):
        return np.delete(arr, plain_indices(obj, "delete"), axis)
    x, axis = (arr.reshape(-1), 0) if axis is None else (arr, normalize_axis(axis, arr.ndim, "delete"))
    return take(x, np.delete(np.arange(x.shape[axis]), plain_indices(obj, "delete")), axis)


@implements(np.resize)
def resize(a: Any, new_shape: Any) -> Value:
    """Another shape of any size, filled with repeated copies."""
    shape = tuple(map(operator.index, new_shape if np.iterable(new_shape) else (new_shape,)))
    if any(n < 0 for n in shape):
        raise ShapeError(f"resize: lengths must not be negative: {shape}")
    if math.prod(shape) >= 2**31:
        raise TapeFullError(f"resize: an array of shape {shape} is larger than any tape (2147483648 slots)")
    if not a.size:
        return values("resize", a, np.zeros(shape, a.dtype))[1]
    return gather_flat(a, np.resize(np.arange(a.size), shape))


def _chosen(condition: Any) -> np.ndarray:
    return np.flatnonzero(truths(condition))


@implements(np.compress)
def compress(condition: Any, a: Any, axis: Any = None, out: Any = None) -> Any:
    """The elements along an axis at which the condition holds."""
    only_default("compress", out=out)
    if np.ndim(condition) != 1:
        raise ShapeError(f"compress: the condition must have one axis, not shape {np.shape(condition)}")
    return np.take(a, _chosen(condition), axis)


@implements(np.extract)
def extract(condition: Any, arr: Any) -> Any:
    """The elements at which the condition holds, of the flattened arrays."""
    return np.take(np.ravel(arr), _chosen(condition))


@implements(np.trim_zeros)
def trim_zeros(filt: Any, trim: str = "fb", axis: Any = None) -> Value:
    """Without the zeros at the front ("f") and back ("b") of axes. What is zero is a guard in a recording."""
    (x,) = values("trim_zeros", filt)
    found = np.argwhere(truths(x))
    parts, axes = [], normalize_axes(axis, x.ndim, "trim_zeros")
    for i, n in enumerate(x.shape):
        if i not in axes:
            parts.append(slice(None))
            continue
        first, last = (int(found[:, i].min()), int(found[:, i].max()) + 1) if len(found) else (n, n)
        trims = trim.lower()
        parts.append(slice(first if "f" in trims else 0, (last if len(found) else 0) if "b" in trims else n))
    return x[tuple(parts)]
