"""The methods of ufuncs: `reduce`, `accumulate`, `reduceat`, `outer`, `at`.

Those of sums, products and extrema have operations of their own, see `reductions`. For all others the ufunc is applied
to parts of the array, in the order that NumPy says.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from tapegrad.errors import InPlaceError, ShapeError
from tapegrad.functions.joining import concatenate, stack, values
from tapegrad.functions.nans import nanmax, nanmin
from tapegrad.functions.reductions import along_first_axis, cumsum, logsumexp, reduce
from tapegrad.functions.registry import implements, only_default, plain_indices
from tapegrad.layout import normalize_axes, normalize_axis
from tapegrad.value import Value

_ASSOCIATIVE = {
    np.add, np.multiply, np.maximum, np.minimum, np.fmax, np.fmin, np.logaddexp, np.logaddexp2, np.hypot,
    np.logical_and, np.logical_or, np.logical_xor,
}  # fmt: skip

implements((np.fmax, "reduce"))(along_first_axis(nanmax))
implements((np.fmin, "reduce"))(along_first_axis(nanmin))
implements((np.logaddexp, "reduce"))(along_first_axis(logsumexp))


def _norm(x: Any, axis: Any, keepdims: Any) -> Value:
    return reduce("norm", x, axis, keepdims)


implements((np.hypot, "reduce"))(along_first_axis(_norm))


@implements((None, "reduce"))
def reduce_by(
    ufunc: Any,
    x: Any,
    axis: Any = 0,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = None,
    where: Any = True,
) -> Any:
    """A ufunc of two operands between the elements along an axis, from the first to the last."""
    only_default(f"{ufunc.__name__}.reduce", dtype=dtype, out=out, initial=initial, where=None if where is True else 0)
    axes = normalize_axes(axis, x.ndim, f"{ufunc.__name__}.reduce")
    if len(axes) > 1 and ufunc not in _ASSOCIATIVE:
        raise ShapeError(f"{ufunc.__name__}.reduce: the order matters, so it goes along one axis, not {axis}")
    result = x
    for a in reversed(axes):
        if not x.shape[a]:
            raise ShapeError(f"{ufunc.__name__}.reduce of no elements: shape {x.shape}, over axis {a}")
        result = functools.reduce(ufunc, _along(result, a))
    return np.reshape(result, [1 if i in axes else n for i, n in enumerate(x.shape)]) if keepdims else result


@implements((None, "accumulate"))
def accumulate(ufunc: Any, x: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Any:
    """What `reduce` gives for the elements up to each along an axis."""
    only_default(f"{ufunc.__name__}.accumulate", dtype=dtype, out=out)
    axis = normalize_axis(axis, x.ndim, f"{ufunc.__name__}.accumulate")
    if ufunc is np.add:
        return cumsum(x, axis)
    if ufunc not in _ASSOCIATIVE:
        parts = _along(x, axis)
        for i in range(1, len(parts)):
            parts[i] = ufunc(parts[i - 1], parts[i])
        return stack(parts, axis) if parts else x
    # In few steps over whole arrays: each doubles the number of elements that a result stands for.
    before, step = (slice(None),) * axis, 1
    while step < x.shape[axis]:
        first, last = x[(*before, slice(None, -step))], x[(*before, slice(step, None))]
        x = concatenate([x[(*before, slice(None, step))], ufunc(first, last)], axis)
        step *= 2
    return x


@implements((None, "reduceat"))
def reduceat(ufunc: Any, x: Any, indices: Any, axis: Any = 0, dtype: Any = None, out: Any = None) -> Any:
    """What `reduce` gives for the elements from each index to the next, or for one where the next is not larger."""
    only_default(f"{ufunc.__name__}.reduceat", dtype=dtype, out=out)
    axis = normalize_axis(axis, x.ndim, f"{ufunc.__name__}.reduceat")
    starts, n = np.asarray(plain_indices(indices, "reduceat")), x.shape[axis]
    if starts.size and not (starts.min() >= 0 and starts.max() < n):
        raise IndexError(f"{ufunc.__name__}.reduceat: an index is out of range for axis {axis} of size {n}")
    parts = []
    for start, stop in zip(starts, [*starts[1:], n]):
        part = x[(slice(None),) * axis + (slice(int(start), max(int(start) + 1, int(stop))),)]
        parts.append(ufunc.reduce(part, axis=axis))
    return stack(parts, axis)


@implements((None, "outer"))
def outer(ufunc: Any, x: Any, y: Any, **kwargs: Any) -> Any:
    """The ufunc of all pairs of elements."""
    x, y = values(f"{ufunc.__name__}.outer", x, y)
    return ufunc(x.reshape(*x.shape, *(1,) * y.ndim), y, **kwargs)


@implements((None, "at"))
def at(ufunc: Any, x: Any, indices: Any, *rest: Any) -> Any:
    """Refused: it changes an array in place."""
    name = ufunc.__name__
    advice = "a + np.bincount(indices, weights=v, minlength=len(a))" if name == "add" else "np.where(chosen, new, a)"
    raise InPlaceError(f"np.{name}.at changes an array in place, and Values do not change so: write {advice}")


def _along(x: Value, axis: int) -> list[Any]:
    return [x[(slice(None),) * axis + (i,)] for i in range(x.shape[axis])]
