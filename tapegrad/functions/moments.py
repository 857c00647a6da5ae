"""Means, variances and covariances."""

from __future__ import annotations

import builtins
import math
from typing import Any, cast

import numpy as np

from tapegrad.errors import OperationError, ShapeError
from tapegrad.functions.joining import concatenate, values
from tapegrad.functions.reductions import count_along, is_given, masked, own, reduce, sum
from tapegrad.functions.registry import implements, keeps, own_dtype, to_value
from tapegrad.layout import normalize_axes
from tapegrad.value import Value


def _number(x: Any, mask: Any, axis: Any, what: str) -> Any:
    """How many elements are reduced to one, an array where a mask leaves other numbers of them."""
    if mask is None or mask is True or mask is np._NoValue:
        return float(count_along(x, axis, what))
    return np.sum(np.where(np.broadcast_to(mask, x.shape), 1.0, 0.0).astype(x.dtype), axis, keepdims=True)


@implements(np.mean)
def mean(
    x: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = None
) -> Value:
    """Mean over axes, of the elements at which `where` holds."""
    own("mean", x, dtype, out)
    if not is_given(where) or where is True:
        return reduce("sum", x, axis, keeps(keepdims)) / float(count_along(x, axis, "mean"))
    found = sum(x, axis, keepdims=True, where=where) / _number(x, where, axis, "mean")
    return found if keeps(keepdims) else _without(found, axis)


def _without(x: Value, axis: Any) -> Value:
    """Without the axes of length 1 that a reduction has kept."""
    axes = normalize_axes(axis, x.ndim, "squeeze")
    return x[tuple(0 if i in axes else slice(None) for i in range(x.ndim))]


@implements(np.var)
def var(
    x: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    ddof: Any = 0,
    keepdims: Any = False,
    *,
    where: Any = None,
    mean: Any = None,
    correction: Any = None,
) -> Value:
    """Variance over axes: sum((x - mean)^2) / (n - ddof), of the elements at which `where` holds."""
    own("var", x, dtype, out)
    spread, count = _deviations(x, axis, where, mean, "var")
    found = reduce("sum", spread**2, axis, True) / _freedom(count, _correction(ddof, correction))
    return found if keeps(keepdims) else _without(found, axis)


@implements(np.std)
def std(
    x: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    ddof: Any = 0,
    keepdims: Any = False,
    *,
    where: Any = None,
    mean: Any = None,
    correction: Any = None,
) -> Value:
    """Standard deviation over axes; derivative 0 where all elements are equal."""
    own("std", x, dtype, out)
    spread, count = _deviations(x, axis, where, mean, "std")
    freedom = _freedom(count, _correction(ddof, correction))
    size: Any = reduce("norm", spread, axis, True) if spread.size else reduce("sum", spread, axis, True)
    found = size / (math.sqrt(freedom) if isinstance(freedom, float) else np.sqrt(freedom))
    return found if keeps(keepdims) else _without(found, axis)


def _deviations(x: Any, axis: Any, where: Any, middle: Any, what: str) -> tuple[Value, Any]:
    x = to_value(x, what)
    if not is_given(middle):
        middle = mean(x, axis, keepdims=True, where=where)
    return masked(x - middle, where, 0.0), _number(x, where, axis, what)


def _correction(ddof: Any, correction: Any) -> Any:
    if not is_given(correction):
        return ddof
    if ddof:
        raise OperationError("ddof and correction are two names of one thing: give one of them")
    return correction


def _freedom(count: Any, ddof: Any) -> Any:
    """n - ddof; NaN instead of a negative number, and 0 for none, by which NumPy divides as well."""
    if isinstance(count, float) and not isinstance(ddof, Value):
        return builtins.max(count - ddof, 0.0)
    return np.maximum(count - ddof, 0.0)


@implements(np.average)
def average(
    x: Any, axis: Any = None, weights: Any = None, returned: Any = False, *, keepdims: Any = False
) -> Any:
    """Mean, or weighted mean, over axes; with `returned`, the sums of weights as well."""
    given = [x] if weights is None else [x, weights]
    x, *rest = values("average", *given)
    if not rest:
        total: Any = mean(x, axis, keepdims=keepdims)
        counts = np.full(total.shape, float(count_along(x, axis, "average")), x.dtype)
        return (total, counts) if returned else total
    (w,) = rest
    axes = (axis,) if isinstance(axis, int) else axis
    if w.shape != x.shape:
        if axes is None:
            raise ShapeError(f"average: weights of shape {w.shape} for an array of shape {x.shape} need an axis")
        places = tuple(a % x.ndim for a in axes)
        if w.shape != tuple(x.shape[a] for a in places):
            raise ShapeError(f"average: weights of shape {w.shape} for an array of shape {x.shape}, axis {axis}")
        w = w.transpose(*np.argsort(places).tolist())
        w = w.reshape(tuple(n if a in places else 1 for a, n in enumerate(x.shape)))
    w = np.broadcast_to(w, x.shape)
    scale = sum(w, axes, keepdims=keepdims)
    total = sum(x * w, axes, keepdims=keepdims) / scale
    return (total, scale) if returned else total


@implements(np.cov)
def cov(
    m: Any, y: Any = None, rowvar: bool = True, bias: bool = False, ddof: Any = None, fweights: Any = None,
    aweights: Any = None, *, dtype: Any = None,
) -> Value:  # fmt: skip
    """The covariances of variables, one a row (a column, without `rowvar`), over their observations."""
    given = values("cov", m) if y is None else values("cov", m, y)
    own_dtype("cov", dtype, given[0])
    if builtins.any(x.ndim > 2 for x in given):
        raise ShapeError("cov: variables and observations are at most two axes")
    rows = [x.reshape(1, -1) if x.ndim < 2 else x if rowvar else x.T for x in given]
    x = rows[0] if len(rows) == 1 else concatenate(rows, 0)
    ddof = (0 if bias else 1) if ddof is None else ddof
    if fweights is None and aweights is None:
        w: Any = 1.0
        scale: Any = float(x.shape[1])
        factor: Any = _freedom(scale, ddof)
    else:
        fweights, aweights = (w if w is None or isinstance(w, Value) else np.asarray(w, x.dtype) for w in (
            fweights, aweights))  # fmt: skip
        given_weights = [w for w in (fweights, aweights) if w is not None]
        if builtins.any(np.shape(w) != (x.shape[1],) for w in given_weights):
            raise ShapeError(f"cov: weights must be one number for each of the {x.shape[1]} observations")
        w = 1.0
        for one in given_weights:
            w = one * w
        scale = np.sum(w)
        if ddof == 0:
            factor = scale
        else:
            factor = scale - (ddof if aweights is None else ddof * np.sum(w * aweights) / scale)
    x = x - sum(x * w, 1, keepdims=True) / scale
    found = np.matmul(x * w, x.T) / factor
    return cast(Value, np.squeeze(cast(Any, found)))


@implements(np.corrcoef)
def corrcoef(x: Any, y: Any = None, rowvar: bool = True, *, dtype: Any = None) -> Value:
    """The correlation coefficients of variables."""
    found = cov(x, y, rowvar, dtype=dtype)
    if not found.ndim:
        return found / found
    size = np.sqrt(np.diagonal(cast(Any, found)))
    return cast(Value, np.clip(cast(Any, found / size[:, None] / size[None, :]), -1.0, 1.0))
