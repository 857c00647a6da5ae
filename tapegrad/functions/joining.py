"""Joining arrays and scalars: concatenate, stack, pad, tile."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from tapegrad.errors import ShapeError
from tapegrad.functions.registry import each, holds_value, implements, is_flags, only_default, own_dtype
from tapegrad.functions.shapes import diagonal
from tapegrad.layout import normalize_axis
from tapegrad.value import Value, as_value, contiguous, gather_flat, structured, tape_of


@implements(np.concatenate)
def concatenate(arrays: Sequence[Any], axis: Any = 0, out: Any = None, dtype: Any = None, casting: Any = None) -> Value:
    """Arrays joined along an axis; flattened first where it is None."""
    only_default("concatenate", out=out)
    tape = tape_of(arrays)
    parts = [as_value(x, tape, "concatenate") for x in arrays]
    own_dtype("concatenate", dtype, parts[0])
    if axis is None:
        parts, axis = [x.reshape(-1) for x in parts], 0
    if any(x.ndim == 0 for x in parts):
        raise ShapeError("concatenate: scalars cannot be joined; use np.stack")
    axis = normalize_axis(axis, parts[0].ndim, "concatenate")
    first = parts[0].shape
    for x in parts:
        if x.ndim != len(first) or x.shape[:axis] + x.shape[axis + 1 :] != first[:axis] + first[axis + 1 :]:
            raise ShapeError(f"concatenate: shapes {first} and {x.shape} differ off axis {axis}")
    shape = list(first)
    shape[axis] = builtins.sum(x.shape[axis] for x in parts)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    rows = [x.shape[axis] * inner for x in parts]
    params = [outer, builtins.sum(rows), *rows]
    return structured("concatenate", tape, shape, [contiguous(x) for x in parts], params)


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
    only_default("stack", out=out)
    if not holds_value(arrays):
        return np.stack(arrays, axis)  # type: ignore[return-value]
    if isinstance(arrays, Value):
        arrays = list(arrays)
    arrays = [stack(x) if isinstance(x, list | tuple) or _is_objects(x) else x for x in arrays]
    if not arrays:
        raise ShapeError("stack: there is nothing to stack")
    tape = tape_of(arrays)
    parts = [as_value(x, tape, "stack") for x in arrays]
    own_dtype("stack", dtype, parts[0])
    shapes = {x.shape for x in parts}
    if len(shapes) > 1:
        raise ShapeError(f"stack: shapes {' and '.join(map(str, sorted(shapes)))} differ")
    axis = normalize_axis(axis, parts[0].ndim + 1, "stack")
    return concatenate([x.reshape(*x.shape[:axis], 1, *x.shape[axis:]) for x in parts], axis)


def values(what: str, *given: Any) -> list[Any]:
    """Operands, one of which is or holds a Value, as Values of its tape; lists that hold Values are stacked."""
    tape = tape_of([x for x in each(given) if isinstance(x, Value)])
    return [as_value(stack(x) if isinstance(x, list | tuple) and holds_value(x) else x, tape, what) for x in given]


def _is_objects(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == object


def _at_least(shape_of: Any) -> Any:
    def handler(*arrays: Any) -> Any:
        found = [np.reshape(x, shape_of(np.shape(x))) for x in arrays]
        return found[0] if len(found) == 1 else tuple(found)

    return handler


def _in_three(shape: tuple[int, ...]) -> tuple[int, ...]:
    return {0: (1, 1, 1), 1: (1, *shape, 1), 2: (*shape, 1)}.get(len(shape), shape)


for _function, _shape_of in {
    np.atleast_1d: lambda shape: shape or (1,),
    np.atleast_2d: lambda shape: (1,) * (2 - len(shape)) + shape,
    np.atleast_3d: _in_three,
}.items():
    implements(_function)(_at_least(_shape_of))


@implements(np.vstack)
def vstack(arrays: Sequence[Any], *, dtype: Any = None, casting: Any = None) -> Value:
    """Joined as rows."""
    return concatenate([x if x.ndim > 1 else x.reshape(1, -1) for x in values("vstack", *arrays)], 0)


@implements(np.hstack)
def hstack(arrays: Sequence[Any], *, dtype: Any = None, casting: Any = None) -> Value:
    """Joined along the second axis, or the only one."""
    parts = [x if x.ndim else x.reshape(1) for x in values("hstack", *arrays)]
    return concatenate(parts, 0 if parts[0].ndim == 1 else 1)


@implements(np.column_stack)
def column_stack(arrays: Sequence[Any]) -> Value:
    """Joined as columns."""
    return concatenate([x if x.ndim > 1 else x.reshape(-1, 1) for x in values("column_stack", *arrays)], 1)


@implements(np.dstack)
def dstack(arrays: Sequence[Any]) -> Value:
    """Joined along the third axis."""
    return concatenate([x.reshape(_in_three(x.shape)) for x in values("dstack", *arrays)], 2)


@implements(np.block)
def block(arrays: Any) -> Value:
    """One array of blocks in nested lists: the innermost are joined along the last axis, those around them before."""

    def depth(x: Any) -> int:
        return 1 + builtins.max(map(depth, x), default=0) if isinstance(x, list) else 0

    deep, tape = depth(arrays), tape_of([*each(arrays)])
    ndim = builtins.max(deep, *(np.ndim(x) for x in each(arrays)))

    def joined(x: Any, level: int) -> Any:
        if isinstance(x, list) != (level > 0):
            raise ShapeError("block: lists are not nested equally deep")
        if level == 0:
            return as_value(x, tape, "block").reshape((1,) * (ndim - np.ndim(x)) + np.shape(x))
        return concatenate([joined(part, level - 1) for part in x], axis=-level)

    return cast(Value, joined(arrays, deep))


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


@implements(np.diagflat)
def diagflat(x: Any, k: int = 0) -> Value:
    """A matrix with the flattened array on its diagonal."""
    return diag(x.reshape(-1), k)


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
