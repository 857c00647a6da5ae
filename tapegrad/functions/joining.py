"""Joining arrays and scalars: concatenate, stack, pad, tile."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.functions.registry import holds_value, implements, is_flags, only_default, to_value
from tapegrad.functions.shapes import diagonal
from tapegrad.layout import normalize_axis
from tapegrad.value import Value, as_value, contiguous, gather_flat, structured, tape_of


@implements(np.concatenate)
def concatenate(arrays: Sequence[Any], axis: Any = 0, out: Any = None, dtype: Any = None, casting: Any = None) -> Value:
    """Arrays joined along an axis; flattened first where it is None."""
    only_default("concatenate", out=out, dtype=dtype)
    tape = tape_of(arrays)
    values = [as_value(x, tape, "concatenate") for x in arrays]
    if axis is None:
        values, axis = [x.reshape(-1) for x in values], 0
    if any(x.ndim == 0 for x in values):
        raise ShapeError("concatenate: scalars cannot be joined; use np.stack")
    axis = normalize_axis(axis, values[0].ndim, "concatenate")
    first = values[0].shape
    for x in values:
        if x.ndim != len(first) or x.shape[:axis] + x.shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ShapeError(f"concatenate: shapes {first} and {x.shape} differ off axis {axis}")
    shape = list(first)
    shape[axis] = builtins.sum(x.shape[axis] for x in values)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    rows = [x.shape[axis] * inner for x in values]
    params = [outer, builtins.sum(rows), *rows]
    return structured("concatenate", tape, shape, [contiguous(x) for x in values], params)


@implements(np.stack)
def stack(arrays: Any, axis: int = 0, out: Any = None, *, dtype: Any = None, casting: Any = None) -> Value:
    """Arrays or scalars of one shape joined along a new axis; nested lists and object arrays of scalars too.

    >>> a, b = Value(1.0), Value(2.0)
    >>> stack([a, b]).shape
    (2,)
    >>> stack([[a, b], [b, a]]).shape
    (2, 2)

    Plain numbers and arrays give a plain array.
    """
    only_default("stack", out=out, dtype=dtype)
    if not holds_value(arrays):
        return np.stack(arrays, axis)  # type: ignore[return-value]
    if isinstance(arrays, Value):
        arrays = list(arrays)
    arrays = [stack(x) if isinstance(x, list | tuple) or _is_objects(x) else x for x in arrays]
    if not arrays:
        raise ShapeError("stack: there is nothing to stack")
    tape = tape_of(arrays)
    values = [as_value(x, tape, "stack") for x in arrays]
    shapes = {x.shape for x in values}
    if len(shapes) > 1:
        raise ShapeError(f"stack: shapes {' and '.join(map(str, sorted(shapes)))} differ")
    axis = normalize_axis(axis, values[0].ndim + 1, "stack")
    return concatenate([x.reshape(*x.shape[:axis], 1, *x.shape[axis:]) for x in values], axis)


def _is_objects(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == object


@implements(np.atleast_1d)
def atleast_1d(*arrays: Any) -> Any:
    """With at least one axis."""
    values = [to_value(x, "atleast_1d") for x in arrays]
    values = [x.reshape(1) if x.ndim == 0 else x for x in values]
    return values[0] if len(values) == 1 else tuple(values)


@implements(np.atleast_2d)
def atleast_2d(*arrays: Any) -> Any:
    """With at least two axes."""
    values = [to_value(x, "atleast_2d") for x in arrays]
    values = [x.reshape((1,) * (2 - x.ndim) + x.shape) if x.ndim < 2 else x for x in values]
    return values[0] if len(values) == 1 else tuple(values)


@implements(np.vstack)
def vstack(arrays: Sequence[Any], *, dtype: Any = None, casting: Any = None) -> Value:
    """Joined as rows."""
    return concatenate([x if np.ndim(x) > 1 else np.reshape(x, (1, -1)) for x in arrays], 0)


@implements(np.hstack)
def hstack(arrays: Sequence[Any], *, dtype: Any = None, casting: Any = None) -> Value:
    """Joined along the second axis, or the only one."""
    arrays = [np.reshape(x, (1,)) if np.ndim(x) == 0 else x for x in arrays]
    return concatenate(arrays, 0 if np.ndim(arrays[0]) == 1 else 1)


@implements(np.column_stack)
def column_stack(arrays: Sequence[Any]) -> Value:
    """Joined as columns."""
    return concatenate([x if np.ndim(x) > 1 else np.reshape(x, (-1, 1)) for x in arrays], 1)


@implements(np.pad)
def pad(x: Any, pad_width: Any, mode: str = "constant", *, constant_values: Any = 0.0) -> Value:
    """Padded with a constant on either side of every axis."""
    if mode != "constant" or np.ndim(constant_values):
        raise UnsupportedError(f"np.pad on a Value takes mode='constant' and one number, not mode={mode!r}")
    widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2))
    number = bool if is_flags(x) else x.dtype
    if (widths < 0).any():
        raise ShapeError(f"pad: widths must not be negative: {pad_width}")
    for axis, (before, after) in enumerate(widths):
        parts = [x]
        for at, n in ((0, int(before)), (2, int(after))):
            if n:
                shape = (*x.shape[:axis], n, *x.shape[axis + 1 :])
                parts.insert(at, np.full(shape, constant_values, number))
        x = concatenate(parts, axis) if len(parts) > 1 else x
    return x


@implements(np.tile)
def tile(x: Any, reps: Any) -> Value:
    """Repeated as a whole along axes."""
    reps = (reps,) if np.ndim(reps) == 0 else tuple(reps)
    if any(n < 0 for n in reps):
        raise ShapeError(f"tile: repetitions must not be negative, they are {reps}")
    x = x.reshape((1,) * (len(reps) - x.ndim) + x.shape)
    reps = (1,) * (x.ndim - len(reps)) + reps
    for axis, n in enumerate(reps):
        x = concatenate([x] * n, axis) if n > 1 else x if n else x[(slice(None),) * axis + (slice(0, 0),)]
    return x


@implements(np.diag)
def diag(x: Any, k: int = 0) -> Value:
    """A matrix's diagonal, or a matrix with a vector on its diagonal."""
    if x.ndim == 2:
        return diagonal(x, k)
    n = x.shape[0] + abs(k)
    rows = np.arange(x.shape[0])
    places = np.full((n, n), x.shape[0])
    places[rows + builtins.max(-k, 0), rows + builtins.max(k, 0)] = rows
    return gather_flat(concatenate([x, np.zeros(1, bool if is_flags(x) else x.dtype)]), places)
