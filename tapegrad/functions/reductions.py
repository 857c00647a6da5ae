"""Reductions over axes, the running sum, and the softmax family that rests on them."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from tapegrad.errors import ShapeError
from tapegrad.functions.registry import implements, keeps, numbers_for_numbers, only_default, to_value
from tapegrad.layout import Layout, dense, flags, merge_axes, normalize_axes, normalize_axis
from tapegrad.ops import BY_NAME
from tapegrad.ops.record import STRUCTURED, record
from tapegrad.value import Value, apply, contiguous, handle, of_truths


def _split(layout: Layout, axes: tuple[int, ...]) -> list[int] | None:
    """A layout as three axes (outer, n, inner) and their strides, where n is all of `axes`; None if it needs a copy."""
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


class _Reduction(NamedTuple):
    """How a reduction is recorded. Where `order` is not None, the operand is first transposed to that order of axes
    and copied."""

    order: tuple[int, ...] | None
    opcode: int
    n: int
    record: list[int]
    layout: Layout | None
    # The result with `keepdims`: the axes that were reduced have length 1.
    kept: Layout | None


@functools.lru_cache(1 << 10)
def _reduction(name: str, layout: Layout, axes: tuple[int, ...], sign: int, cumulative: bool) -> _Reduction:
    """How a reduction is recorded, which depends on the operand's layout alone. Programs repeat themselves, so this is
    remembered."""
    row, shape, truths = BY_NAME[name], layout.shape, of_truths(BY_NAME[name], [layout])
    if row.needs_elements and layout.size == 0 and 0 in [shape[a] for a in axes]:
        raise ShapeError(f"{name} of no elements: shape {shape}, over axes {axes}")
    others = tuple(i for i in range(len(shape)) if i not in axes)
    order, parts = None, _split(layout, axes) if layout.size else None
    if parts is None:
        order = (*others, *axes)
        n = math.prod(shape[a] for a in axes)
        parts = [math.prod(shape[a] for a in others), n, 1, n, 1, 1]
        layout = dense([shape[a] for a in order])
    result = shape if cumulative else tuple(shape[i] for i in others)
    n = math.prod(result)
    numbers = record(STRUCTURED, 0, n, [(0, *layout.reach)], [*parts, sign])
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape))
    layouts = [dense(lengths) if lengths else None for lengths in (result, kept)]
    if truths:
        layouts = [flags(layout) for layout in layouts]
    return _Reduction(order, row.opcode, n, numbers, *layouts)


def reduce(name: str, x: Any, axis: Any, keepdims: bool = False, sign: int = 1, cumulative: bool = False) -> Value:
    """Record a reduction; or, with `cumulative`, an operation along an axis whose result has the operand's shape. See
    `tapegrad.ops.reduction`."""
    x = to_value(x, name)
    layout = x._layout_or_scalar()
    axes = normalize_axes(axis, len(layout.shape), name)
    order, opcode, n, numbers, result, kept = _reduction(name, layout, axes, sign, cumulative)
    if order and name == "sum" and (parts := _neighbours(axes))[1:]:
        # Sums may be taken one after the other, and then nothing is copied.
        for part in reversed(parts):
            x = reduce(name, x, part)
        return x.reshape(kept.shape) if keepdims and kept else x
    if order:
        x = contiguous(x.transpose(order))
    return handle(x._tape, x._tape.run_like(opcode, n, numbers, (x._slot,)), kept if keepdims else result)


def _neighbours(axes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Axes in groups of those that follow each other."""
    groups: list[tuple[int, ...]] = []
    for axis in axes:
        if groups and groups[-1][-1] == axis - 1:
            groups[-1] += (axis,)
        else:
            groups.append((axis,))
    return groups


def _count(x: Value, axis: Any, what: str) -> int:
    return math.prod(x.shape[a] for a in normalize_axes(axis, x.ndim, what))


@implements(np.sum)
def sum(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Sum over axes."""
    if dtype is not None or out is not None:
        only_default("sum", dtype=dtype, out=out)
    return reduce("sum", x, axis, keeps(keepdims))


@implements(np.mean)
def mean(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Mean over axes."""
    only_default("mean", dtype=dtype, out=out)
    return reduce("sum", x, axis, keeps(keepdims)) / float(_count(x, axis, "mean"))


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
    return sum(x * weights, axis, keepdims=keepdims) / np.sum(weights, axis, keepdims=keeps(keepdims))


@implements(np.var)
def var(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False) -> Value:
    """Variance over axes: sum((x - mean)^2) / (n - ddof)."""
    only_default("var", dtype=dtype, out=out)
    deviation = x - mean(x, axis, keepdims=True)
    return reduce("sum", deviation**2, axis, keeps(keepdims)) / float(_count(x, axis, "var") - ddof)


@implements(np.std)
def std(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False) -> Value:
    """Standard deviation over axes; derivative 0 where all elements are equal."""
    only_default("std", dtype=dtype, out=out)
    deviation = x - mean(x, axis, keepdims=True)
    count = _count(x, axis, "std")
    if not count or count <= ddof:
        return apply(BY_NAME["sqrt"], (var(x, axis, ddof=ddof, keepdims=keepdims),))
    return reduce("norm", deviation, axis, keeps(keepdims)) / math.sqrt(count - ddof)


@implements(np.prod)
def prod(x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Product over axes. Exact at zeros, in its derivative too."""
    only_default("prod", dtype=dtype, out=out)
    return reduce("prod", x, axis, keeps(keepdims))


@implements(np.max, np.amax)
def max(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Largest element over axes; ties share the derivative equally."""
    only_default("max", out=out)
    return reduce("max", x, axis, keeps(keepdims))


@implements(np.min, np.amin)
def min(x: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Value:
    """Smallest element over axes; ties share the derivative equally."""
    only_default("min", out=out)
    return reduce("max", x, axis, keeps(keepdims), sign=-1)


def along_first_axis(reduction: Any) -> Any:
    """The `reduce` of a ufunc: as the function of its kind, but along the first axis where none is given."""

    def handler(x: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: Any = False, **rest: Any) -> Any:
        only_default(f"{reduction.__name__} as the reduce of a ufunc", dtype=dtype, out=out, **rest)
        return reduction(x, axis if np.ndim(x) else None, keepdims=keepdims)

    return handler


for _ufunc, _reduction_of in {np.add: sum, np.multiply: prod, np.maximum: max, np.minimum: min}.items():
    implements((_ufunc, "reduce"))(along_first_axis(_reduction_of))


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


@implements(np.cumsum)
def cumsum(x: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Value:
    """Running sum along an axis; of the flattened array where no axis is given."""
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
