"""Views: other shapes, orders and parts of the same numbers.

Nothing here is recorded, but for the copy that some reshaping takes.
"""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np

from tapegrad.errors import ShapeError, TapeFullError
from tapegrad.functions.choosing import where
from tapegrad.functions.registry import implements, is_flags, to_value
from tapegrad.layout import Layout, broadcast_shapes, broadcast_strides, normalize_axes, normalize_axis
from tapegrad.value import Value, view


@implements(np.reshape)
def reshape(x: Any, /, shape: Any = None, order: str = "C", *, newshape: Any = None, copy: Any = None) -> Value:
    """Another shape of the same size."""
    shape = newshape if shape is None else shape
    return x.reshape(shape, order=order)


@implements(np.ravel)
def ravel(x: Any, order: str = "C") -> Value:
    """One axis of all elements, in row-major order, or column-major ("F")."""
    return x.reshape(-1, order=order)


@implements(np.transpose, np.permute_dims)
def transpose(x: Any, axes: Any = None) -> Value:
    """The axes in another order, reversed by default."""
    return x.transpose(axes)


@implements(np.swapaxes)
def swapaxes(x: Any, axis1: int, axis2: int) -> Value:
    """Two axes exchanged."""
    a, b = (normalize_axis(i, x.ndim, "swapaxes") for i in (axis1, axis2))
    order = list(range(x.ndim))
    order[a], order[b] = b, a
    return x.transpose(order)


@implements(np.moveaxis)
def moveaxis(x: Any, source: Any, destination: Any) -> Value:
    """Axes moved to other places."""
    sources = [source] if isinstance(source, int) else list(source)
    places = [destination] if isinstance(destination, int) else list(destination)
    sources = [normalize_axis(a, x.ndim, "moveaxis") for a in sources]
    order = [a for a in range(x.ndim) if a not in sources]
    for place, a in sorted(zip((normalize_axis(p, x.ndim, "moveaxis") for p in places), sources, strict=True)):
        order.insert(place, a)
    return x.transpose(order)


@implements(np.expand_dims)
def expand_dims(x: Any, axis: Any) -> Value:
    """With new axes of length 1."""
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    ndim = x.ndim + len(axes)
    places = normalize_axes(axes, ndim, "expand_dims")
    rest = iter(x.shape)
    return x.reshape(tuple(1 if i in places else next(rest) for i in range(ndim)))


@implements(np.squeeze)
def squeeze(x: Any, axis: Any = None) -> Value:
    """Without axes of length 1."""
    axes = [i for i, n in enumerate(x.shape) if n == 1] if axis is None else normalize_axes(axis, x.ndim, "squeeze")
    if any(x.shape[a] != 1 for a in axes):
        raise ShapeError(f"squeeze: axis {axis} of shape {x.shape} is not of length 1")
    return x[tuple(0 if i in axes else slice(None) for i in range(x.ndim))] if axes else x


@implements(np.broadcast_to)
def broadcast_to(x: Any, shape: Any, subok: bool = False) -> Value:
    """Shown as a larger shape; nothing is copied."""
    x = to_value(x, "broadcast_to")
    shape = tuple(shape) if np.iterable(shape) else (shape,)
    if not all(isinstance(n, int | np.integer) and not isinstance(n, bool) and n >= 0 for n in shape):
        raise ShapeError(f"broadcast_to: a shape is made of integers that are not negative, not {shape}")
    shape = tuple(int(n) for n in shape)
    if broadcast_shapes([x.shape, shape], "broadcast_to") != shape:
        raise ShapeError(f"broadcast_to: shape {x.shape} cannot be shown as {shape}")
    if math.prod(shape) >= 2**48:
        raise TapeFullError(f"broadcast_to: an array of shape {shape} is larger than any tape (2147483648 slots)")
    return view(x, x._slot, Layout(shape, broadcast_strides(x._layout, shape)) if shape else None)


@implements(np.flip)
def flip(x: Any, axis: Any = None) -> Value:
    """Reversed along axes."""
    axes = normalize_axes(axis, x.ndim, "flip")
    return x[tuple(slice(None, None, -1) if i in axes else slice(None) for i in range(x.ndim))]


@implements(np.diagonal)
def diagonal(x: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Value:
    """A diagonal, as the last axis. A view."""
    a, b = (normalize_axis(i, x.ndim, "diagonal") for i in (axis1, axis2))
    if a == b:
        raise ShapeError(f"diagonal: axes {axis1} and {axis2} are the same")
    rows = (slice(builtins.max(-offset, 0), None), slice(builtins.max(offset, 0), None))
    x = x[tuple(rows[0] if i == a else rows[1] if i == b else slice(None) for i in range(x.ndim))]
    layout = x._layout_or_scalar()
    kept = [i for i in range(x.ndim) if i not in (a, b)]
    shape = (*(layout.shape[i] for i in kept), builtins.min(layout.shape[a], layout.shape[b]))
    strides = (*(layout.strides[i] for i in kept), layout.strides[a] + layout.strides[b])
    return view(x, x._slot, Layout(shape, strides))


def _triangle(function: Any) -> Any:
    def handler(x: Value, k: int = 0) -> Value:
        return where(function(np.ones(x.shape[-2:], bool), k), x, False if is_flags(x) else 0.0)

    handler.__doc__ = f"np.{function.__name__}."
    return handler


for _function in (np.tril, np.triu):
    implements(_function)(_triangle(_function))


@implements(np.split)
def split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Value]:
    """Views of consecutive parts; a number of parts must divide the axis."""
    n = x.shape[normalize_axis(axis, x.ndim, "split")]
    if np.ndim(indices_or_sections) == 0 and n % indices_or_sections:
        raise ShapeError(f"split: an axis of length {n} has no {indices_or_sections} equal parts; see np.array_split")
    return array_split(x, indices_or_sections, axis)


@implements(np.array_split)
def array_split(x: Any, indices_or_sections: Any, axis: int = 0) -> list[Value]:
    """Views of consecutive parts of about equal length."""
    places = np.array_split(np.arange(x.shape[axis]), indices_or_sections)
    before = (slice(None),) * normalize_axis(axis, x.ndim, "split")
    return [x[(*before, slice(int(p[0]), int(p[-1]) + 1) if len(p) else slice(0, 0))] for p in places]


implements(np.shape)(lambda x: x.shape)
implements(np.ndim)(lambda x: x.ndim)
implements(np.size)(lambda x, axis=None: x.size if axis is None else x.shape[axis])


def _like(function: Any) -> Any:
    def handler(x: Value, *args: Any, dtype: Any = None, shape: Any = None, **kwargs: Any) -> np.ndarray:
        return function(x.shape if shape is None else shape, *args, dtype=dtype or x.dtype)

    handler.__doc__ = f"np.{function.__name__} of the shape and dtype of a Value."
    return handler


implements(np.zeros_like)(_like(np.zeros))
implements(np.ones_like)(_like(np.ones))
implements(np.empty_like)(_like(np.empty))
implements(np.common_type)(lambda *args: np.common_type(*(np.zeros(0, x.dtype) for x in args)))
implements(np.result_type)(lambda *args: np.result_type(*(a.dtype if isinstance(a, Value) else a for a in args)))
