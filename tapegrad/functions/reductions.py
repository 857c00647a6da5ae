"""Reductions over axes, the running sum, and the softmax family that rests on them."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple, cast

import numpy as np

from tapegrad.errors import OperationError, ShapeError
from tapegrad.functions.registry import (
    implements,
    is_flags,
    keeps,
    numbers_for_numbers,
    only_default,
    own_dtype,
    to_value,
)
from tapegrad.layout import Layout, broadcast_shapes, dense, flags, merge_axes, normalize_axes, normalize_axis
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


def count_along(x: Value, axis: Any, what: str) -> int:
    """How many elements are reduced to one."""
    return math.prod(x.shape[a] for a in normalize_axes(axis, x.ndim, what))


def _begun(result: Any, operation: Any, initial: Any) -> Value:
    """A reduction with one number more."""
    if np.ndim(initial):
        raise ShapeError(f"initial is one number, and not of shape {np.shape(initial)}")
    return cast(Value, operation(result, initial))


def is_given(x: Any) -> bool:
    """Whether an argument was given: NumPy passes a marker of its own where it was not."""
    return x is not None and x is not np._NoValue


def masked(x: Any, mask: Any, other: Any) -> Value:
    """x where a mask holds, and elsewhere what makes no difference."""
    if mask is None or mask is True or mask is np._NoValue:
        return x
    if broadcast_shapes([x.shape, np.shape(mask)], "where") != x.shape:
        raise ShapeError(f"where: a mask of shape {np.shape(mask)} is larger than the array, of shape {x.shape}")
    return cast(Value, np.where(mask, x, other))


@implements(np.sum)
def sum(
    x: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = None,
    where: Any = None,
) -> Value:
    """Sum over axes, of the elements at which `where` holds, beginning with `initial`."""
    if dtype is not None or out is not None:
        own("sum", x, dtype, out)
    found = reduce("sum", masked(x, where, False if is_flags(x) else 0.0), axis, keeps(keepdims))
    return _begun(found, np.add, initial) if is_given(initial) else found


def own(what: str, x: Any, dtype: Any, out: Any) -> None:
    """Refuse `out`, and a dtype that is not that of a Value."""
    if dtype is not None:
        own_dtype(what, dtype, to_value(x, what))
    only_default(what, out=out)


@implements(np.prod)
def prod(
    x: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = None,
    where: Any = None,
) -> Value:
    """Product over axes. Exact at zeros, in its derivative too."""
    own("prod", x, dtype, out)
    found = reduce("prod", masked(x, where, True if is_flags(x) else 1.0), axis, keeps(keepdims))
    return _begun(found, np.multiply, initial) if is_given(initial) else found


def _extreme(x: Any, axis: Any, keepdims: Any, initial: Any, where: Any, sign: int) -> Value:
    name, larger = ("max", np.maximum) if sign > 0 else ("min", np.minimum)
    if not is_given(initial):
        if not (where is None or where is True or where is np._NoValue):
            raise OperationError(f"{name}: there is no neutral element, so `where` needs `initial`")
        return reduce("max", x, axis, keeps(keepdims), sign=sign)
    x = masked(x, where, initial)
    if not count_along(x, axis, name):
        # A sum of nothing has the shape of the result.
        return cast(Value, sum(x, axis, keepdims=keepdims) + initial)
    return _begun(reduce("max", x, axis, keeps(keepdims), sign=sign), larger, initial)


@implements(np.max, np.amax)
def max(
    x: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None, where: Any = None
) -> Value:
    """Largest element over axes; ties share the derivative equally."""
    only_default("max", out=out)
    return _extreme(x, axis, keepdims, initial, where, 1)


@implements(np.min, np.amin)
def min(
    x: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None, where: Any = None
) -> Value:
    """Smallest element over axes; ties share the derivative equally."""
    only_default("min", out=out)
    return _extreme(x, axis, keepdims, initial, where, -1)


def along_first_axis(reduction: Any) -> Any:
    """The `reduce` of a ufunc: as the function of its kind, but along the first axis where none is given."""

    def handler(x: Any, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: Any = False, **rest: Any) -> Any:
        what = f"{reduction.__name__.strip('_')} as the reduce of a ufunc"
        only_default(what, dtype=dtype, out=out)
        for name, neutral in (("initial", None), ("where", True)):
            if rest.get(name) is neutral or rest.get(name) is np._NoValue:
                rest.pop(name, None)
        if rest and reduction not in (sum, prod, max, min):
            only_default(what, **rest)
        return reduction(x, None if not np.ndim(x) and axis in (0, -1) else axis, keepdims=keepdims, **rest)

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
    x = to_value(x, "cumsum")
    own("cumsum", x, dtype, out)
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
