"""Reductions over axes, the running sum, and the softmax family that rests on them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.functions.registry import implements, numbers_for_numbers, only_default, to_value
from tapegrad.layout import Layout, merge_axes, normalize_axes, normalize_axis
from tapegrad.ops import BY_NAME
from tapegrad.value import Value, apply, contiguous, structured


def _split(layout: Layout, axes: tuple[int, ...]) -> list[int] | None:
    """A layout as (outer, n, inner) and their strides, where n runs over `axes`; None where that takes a copy."""
    if axes and axes != tuple(range(axes[0], axes[-1] + 1)):
        return None
    first, last = (axes[0], axes[-1] + 1) if axes else (len(layout.shape), len(layout.shape))
    sizes, strides = [], []
    for part in (slice(0, first), slice(first, last), slice(last, None)):
        shape, (steps,) = merge_axes(layout.shape[part], [layout.strides[part]])
        if len(shape) > 1:
            return None
        sizes.append(shape[0])
        strides.append(steps[0])
    return [*sizes, *strides]


def reduce(name: str, x: Any, axis: Any, keepdims: bool = False, sign: int = 1, cumulative: bool = False) -> Value:
    """Record a reduction, or what goes along an axis and keeps it (`cumulative`); see `tapegrad.ops.reduction`."""
    x = to_value(x, name)
    layout = x._layout_or_scalar()
    ndim = len(layout.shape)
    axes = normalize_axes(axis, ndim, name)
    kept = tuple(i for i in range(ndim) if i not in axes)
    if layout.size == 0 and BY_NAME[name].needs_elements and 0 in [layout.shape[a] for a in axes]:
        raise ShapeError(f"{name} of no elements: shape {layout.shape}, axis {axis}")
    parts = _split(layout, axes) if layout.size else None
    if parts is None:
        x = contiguous(x.transpose(*kept, *axes)) if ndim else x
        n = math.prod(layout.shape[a] for a in axes)
        outer = math.prod(layout.shape[a] for a in kept)
        parts = [outer, n, 1, n, 1, 1]
    shape = layout.shape if cumulative else tuple(layout.shape[i] for i in kept)
    result = structured(name, x._tape, shape, [x], [*parts, sign])
    if keepdims and ndim:
        return result.reshape(tuple(1 if i in axes else n for i, n in enumerate(layout.shape)))
    return result


def _count(x: Value, axis: Any, what: str) -> int:
    return math.prod(x.shape[a] for a in normalize_axes(axis, x.ndim, what))


@implements(np.sum, (np.add, "reduce"))
def sum(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Sum over axes."""
    only_default("sum", dtype=dtype, out=out)
    return reduce("sum", x, axis, keepdims is True)


@implements(np.mean)
def mean(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Mean over axes."""
    only_default("mean", dtype=dtype, out=out)
    return reduce("sum", x, axis, keepdims is True) / float(_count(x, axis, "mean"))


@implements(np.average)
def average(x: Any, axis: Any = None, weights: Any = None, *, keepdims: Any = False) -> Value:
    """Mean, or weighted mean, over axes."""
    if weights is None:
        return mean(x, axis, keepdims=keepdims)
    if np.ndim(weights) == 1 and isinstance(axis, int) and np.shape(weights) == np.shape(x)[axis : axis + 1 or None]:
        weights = np.reshape(weights, [-1 if i == axis % np.ndim(x) else 1 for i in range(np.ndim(x))])
        weights = weights * np.ones(np.shape(x), x.dtype)
    if np.shape(weights) != np.shape(x):
        raise ShapeError(f"average: weights of shape {np.shape(weights)} for an array of shape {np.shape(x)}")
    return sum(x * weights, axis, keepdims=keepdims) / np.sum(weights, axis, keepdims=keepdims is True)


@implements(np.var)
def var(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False) -> Value:
    """Variance over axes: sum((x - mean)^2) / (n - ddof)."""
    only_default("var", dtype=dtype, out=out)
    deviation = x - mean(x, axis, keepdims=True)
    return reduce("sum", deviation**2, axis, keepdims is True) / float(_count(x, axis, "var") - ddof)


@implements(np.std)
def std(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False) -> Value:
    """Standard deviation over axes."""
    return apply(BY_NAME["sqrt"], (var(x, axis, dtype, out, ddof, keepdims),))


@implements(np.prod, (np.multiply, "reduce"))
def prod(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Product over axes. Exact at zeros, in its derivative too."""
    only_default("prod", dtype=dtype, out=out)
    return reduce("prod", x, axis, keepdims is True)


@implements(np.max, np.amax, (np.maximum, "reduce"))
def max(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Largest element over axes; ties share the derivative equally."""
    only_default("max", out=out)
    return reduce("max", x, axis, keepdims is True)


@implements(np.min, np.amin, (np.minimum, "reduce"))
def min(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Smallest element over axes; ties share the derivative equally."""
    only_default("min", out=out)
    return reduce("max", x, axis, keepdims is True, sign=-1)


@implements(np.ptp)
def ptp(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Largest minus smallest over axes."""
    return max(x, axis, out, keepdims) - min(x, axis, out, keepdims)


@numbers_for_numbers
def logsumexp(x: Any, axis: Any = None, keepdims: bool = False) -> Value:
    """ln sum e^x over axes, without overflow.

    >>> round(logsumexp(Value([1000.0, 1000.0])).item() - 1000.0, 9)
    0.693147181
    """
    return reduce("logsumexp", x, axis, keepdims)


@implements(np.linalg.norm)
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Value:
    """The 2-norm over axes (Frobenius for matrices), or the 1- or infinity-norm of vectors; derivative 0 at 0."""
    if ord in (None, 2, "fro") and not (ord == 2 and axis is None and np.ndim(x) == 2):
        return reduce("norm", x, axis, keepdims)
    if ord in (1, np.inf) and (isinstance(axis, int) or (axis is None and np.ndim(x) == 1)):
        return (sum if ord == 1 else max)(np.abs(x), axis, keepdims=keepdims)
    raise UnsupportedError(f"np.linalg.norm with ord={ord!r} on a Value of {np.ndim(x)} dimensions is not supported")


@implements(np.cumsum)
def cumsum(x: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Value:
    """Running sum along an axis; of the flattened array where none is given."""
    only_default("cumsum", dtype=dtype, out=out)
    x = to_value(x, "cumsum")
    if axis is None or x.ndim == 0:
        x, axis = x.reshape(-1), 0
    axis = normalize_axis(axis, x.ndim, "cumsum")
    if _split(x._layout_or_scalar(), (axis,)) is None:
        x = contiguous(x)
    return reduce("cumsum", x, axis, cumulative=True)


@numbers_for_numbers
def softmax(x: Any, axis: int = -1) -> Value:
    """e^x_i / sum_j e^x_j along an axis.

    >>> softmax(Value([0.0, 0.0])).tolist()
    [0.5, 0.5]
    """
    return apply(BY_NAME["exp"], (log_softmax(x, axis),))


@numbers_for_numbers
def log_softmax(x: Any, axis: int = -1) -> Value:
    """x_i - ln sum_j e^x_j along an axis, without overflow.

    >>> log_softmax(Value([1000.0, 0.0])).tolist()
    [0.0, -1000.0]
    """
    x = to_value(x, "log_softmax")
    return x - reduce("logsumexp", x, axis, keepdims=True)
