"""Arrays in parts, turned, mirrored, broadcast and in windows: all of it views."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np

from tapegrad.errors import OperationError, ShapeError, UnsupportedError
from tapegrad.functions.joining import values
from tapegrad.functions.registry import each, if_there, implements, only_default, plain_indices, to_value
from tapegrad.functions.shapes import broadcast_to, split
from tapegrad.layout import Layout, normalize_axis
from tapegrad.value import Value, view


@implements(np.hsplit)
def hsplit(x: Any, indices_or_sections: Any) -> list[Value]:
    """Parts along the second axis, or the only one."""
    _at_least(x, 1, "hsplit")
    return split(x, indices_or_sections, 1 if x.ndim > 1 else 0)


@implements(np.vsplit)
def vsplit(x: Any, indices_or_sections: Any) -> list[Value]:
    """Parts along the first of two axes or more."""
    _at_least(x, 2, "vsplit")
    return split(x, indices_or_sections, 0)


@implements(np.dsplit)
def dsplit(x: Any, indices_or_sections: Any) -> list[Value]:
    """Parts along the third axis."""
    _at_least(x, 3, "dsplit")
    return split(x, indices_or_sections, 2)


def _at_least(x: Value, ndim: int, what: str) -> None:
    if x.ndim < ndim:
        raise ShapeError(f"{what}: shape {x.shape} has fewer than {ndim} axes")


@implements(*if_there("unstack"))
def unstack(x: Any, /, *, axis: int = 0) -> tuple[Value, ...]:
    """The parts at each position of an axis, without that axis."""
    _at_least(x, 1, "unstack")
    before = (slice(None),) * normalize_axis(axis, x.ndim, "unstack")
    return tuple(x[(*before, i)] for i in range(x.shape[len(before)]))


@implements(np.matrix_transpose)
def matrix_transpose(x: Any, /) -> Value:
    """The last two axes exchanged."""
    _at_least(x, 2, "matrix_transpose")
    return cast(Value, np.swapaxes(x, -1, -2))


@implements(np.rollaxis)
def rollaxis(x: Any, axis: int, start: int = 0) -> Value:
    """An axis moved to stand before another."""
    axis = normalize_axis(axis, x.ndim, "rollaxis")
    start = start + x.ndim if start < 0 else start
    if not 0 <= start <= x.ndim:
        raise ShapeError(f"rollaxis: start {start} is out of range for an array of {x.ndim} dimensions")
    return cast(Value, np.moveaxis(x, axis, start - 1 if axis < start else start))


@implements(np.fliplr)
def fliplr(x: Any) -> Value:
    """The columns in reverse order."""
    _at_least(x, 2, "fliplr")
    return cast(Value, x[:, ::-1])


@implements(np.flipud)
def flipud(x: Any) -> Value:
    """The rows in reverse order."""
    _at_least(x, 1, "flipud")
    return cast(Value, x[::-1])


@implements(np.rot90)
def rot90(x: Any, k: int = 1, axes: Any = (0, 1)) -> Value:
    """Turned by right angles, from the first axis towards the second."""
    a, b = (normalize_axis(axis, x.ndim, "rot90") for axis in axes)
    if a == b:
        raise ShapeError(f"rot90: axes {axes} are the same")
    if k % 2:
        x = np.swapaxes(x, a, b)
    flipped = {0: (), 1: (a,), 2: (a, b), 3: (b,)}[k % 4]
    return cast(Value, np.flip(x, flipped)) if flipped else x


@implements(np.broadcast_arrays)
def broadcast_arrays(*args: Any, subok: bool = False) -> tuple[Any, ...]:
    """All shown in their common shape."""
    shape = np.broadcast_shapes(*map(np.shape, args))
    return tuple(np.broadcast_to(x, shape) for x in args)


@implements(np.meshgrid)
def meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: str = "xy") -> tuple[Any, ...]:
    """Coordinates of a grid from those along each axis."""
    if indexing not in ("xy", "ij"):
        raise OperationError(f"meshgrid: indexing is 'xy' or 'ij', not {indexing!r}")
    n = len(xi)
    found = [np.reshape(x, (1,) * i + (-1,) + (1,) * (n - i - 1)) for i, x in enumerate(xi)]
    if indexing == "xy" and n > 1:
        found[:2] = [np.swapaxes(x, 0, 1) for x in found[:2]]
    return tuple(found) if sparse else broadcast_arrays(*found)


@implements(np.ix_)
def ix_(*args: Any) -> tuple[np.ndarray, ...]:
    """Indices of a grid; truth values and integers of Values are held by guards."""
    return np.ix_(*(plain_indices(x, "ix_") for x in args))


@implements(np.lib.stride_tricks.sliding_window_view)
def sliding_window_view(
    x: Any, window_shape: Any, axis: Any = None, *, subok: bool = False, writeable: bool = False
) -> Value:
    """All windows of a shape, as new last axes. A view, of which nothing is copied."""
    if writeable:
        raise UnsupportedError("sliding_window_view: a Value cannot be written to, so writeable must be False")
    lengths = tuple(window_shape) if np.iterable(window_shape) else (window_shape,)
    if axis is None:
        axes = tuple(range(x.ndim))
    else:
        axes = tuple(normalize_axis(a, x.ndim, "sliding_window_view") for a in (axis if np.iterable(axis) else (axis,)))
    if len(axes) != len(lengths):
        raise ShapeError(f"sliding_window_view: {len(lengths)} lengths of windows for {len(axes)} axes")
    layout = x._layout_or_scalar()
    shape = list(x.shape)
    for a, n in zip(axes, lengths):
        shape[a] -= n - 1
        if n < 0 or shape[a] < 1:
            raise ShapeError(f"sliding_window_view: a window of {n} does not fit axis {a} of shape {x.shape}")
    strides = (*layout.strides, *(layout.strides[a] for a in axes))
    return view(x, x._slot, Layout((*shape, *map(int, lengths)), strides))


@implements(np.full)
def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C", *, device: Any = None) -> Any:
    """With `like=` of a Value: a number or Value shown in a shape."""
    return broadcast_to(to_value(fill_value, "full"), shape)


@implements(np.full_like)
def full_like(
    a: Any, fill_value: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None, *,
    device: Any = None,
) -> Any:  # fmt: skip
    """Of the shape of a Value: a plain array of a number, or another Value shown in that shape."""
    shape = a.shape if shape is None else shape
    if isinstance(fill_value, Value):
        return broadcast_to(fill_value, shape)
    return np.full(shape, fill_value, dtype or a.dtype)


@implements(np.array, np.asarray, np.asanyarray, np.ascontiguousarray, np.asfortranarray, np.require)
def array(x: Any, dtype: Any = None, *args: Any, out: Any = None, ndmin: int = 0, **kwargs: Any) -> Value:
    """With `like=` of a Value: nested lists of Values as one Value."""
    only_default("array", out=out)
    (found,) = values("array", x) if any(isinstance(part, Value) for part in each(x)) else (to_value(x, "array"),)
    found = found if dtype is None else found.astype(dtype)
    return cast(Value, np.reshape(found, (1,) * (ndmin - found.ndim) + found.shape))


for _function in (
    np.zeros, np.ones, np.empty, np.eye, np.identity, np.arange, np.tri, np.fromfunction, np.fromiter, np.frombuffer,
    np.fromstring, np.fromfile, np.loadtxt, np.genfromtxt,
):  # fmt: skip
    # With `like=` of a Value, a plain array.
    implements(_function)(_function)


@implements(np.apply_over_axes)
def apply_over_axes(func: Any, a: Any, axes: Any) -> Any:
    """A function of an array and an axis, again and again; axes that it takes away are put back with length 1."""
    for axis in (axes,) if np.ndim(axes) == 0 else axes:
        i = normalize_axis(axis, a.ndim, "apply_over_axes")
        found = func(a, i)
        wanted = a.ndim
        a = found if np.ndim(found) == wanted else np.expand_dims(found, i)
        if np.ndim(a) != wanted:
            raise ShapeError(f"apply_over_axes: the function returned an array of shape {np.shape(found)}")
    return a


@implements(np.apply_along_axis)
def apply_along_axis(func1d: Any, axis: Any, arr: Any, *args: Any, **kwargs: Any) -> Any:
    """A function of each line along an axis; what it returns, of one shape, stands in the place of that axis."""
    axis = normalize_axis(axis, arr.ndim, "apply_along_axis")
    lines = np.moveaxis(arr, axis, -1)
    before = lines.shape[:-1]
    if not math.prod(before):
        raise ShapeError("apply_along_axis: there are no lines, so what the function returns is not known")
    found = [func1d(lines[index], *args, **kwargs) for index in np.ndindex(*before)]
    joined = np.stack([np.stack(x) if isinstance(x, list | tuple) else x for x in found])
    result = joined.reshape(before + joined.shape[1:])
    # The axes that the function has returned stand where the line stood.
    new = joined.ndim - 1
    order = [*range(axis), *range(len(before), len(before) + new), *range(axis, len(before))]
    return np.transpose(result, order) if order else result


# Indices follow from the shape alone.
for _of_shape in (np.tril_indices_from, np.triu_indices_from, np.diag_indices_from):
    implements(_of_shape)(lambda arr, *args, f=_of_shape, **kwargs: f(np.empty(arr.shape, bool), *args, **kwargs))
