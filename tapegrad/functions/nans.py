"""Functions that leave NaN out. No gradient flows to what was left out, nor from lines that hold nothing else."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from tapegrad.errors import OperationError
from tapegrad.functions.choosing import all, argmax, argmin, where
from tapegrad.functions.moments import std, var
from tapegrad.functions.reductions import max, min, prod, sum
from tapegrad.functions.registry import implements, only_default, to_value


def _is_number(x: Any) -> Any:
    return np.equal(x, x)


def _numbers(x: Any, other: float, mask: Any = True) -> Any:
    """x, and something that makes no difference in place of NaN and of what a mask leaves out."""
    x = to_value(x, "a function without NaN")
    x = where(_is_number(x), x, other)
    return x if mask is True or mask is np._NoValue else where(mask, x, other)


def _mask(x: Any, mask: Any) -> Any:
    found = _is_number(to_value(x, "a function without NaN"))
    return found if mask is True or mask is np._NoValue else np.logical_and(found, mask)


@implements(np.nansum)
def nansum(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None,
    where: Any = True,
) -> Any:  # fmt: skip
    """Sum of what is not NaN; 0 where there is nothing else."""
    return sum(_numbers(a, 0.0), axis, dtype, out, keepdims, initial, where)


@implements(np.nanprod)
def nanprod(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None,
    where: Any = True,
) -> Any:  # fmt: skip
    """Product of what is not NaN; 1 where there is nothing else."""
    return prod(_numbers(a, 1.0), axis, dtype, out, keepdims, initial, where)


@implements(np.nanmean)
def nanmean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True
) -> Any:
    """Mean of what is not NaN; NaN where there is nothing else."""
    mask = _mask(a, where)
    total = sum(_numbers(a, 0.0, where), axis, dtype, out, keepdims)
    return total / sum(mask, axis, keepdims=keepdims)


@implements(np.nanvar)
def nanvar(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False, *,
    where: Any = True, mean: Any = None, correction: Any = None,
) -> Any:  # fmt: skip
    """Variance of what is not NaN; NaN where nothing is left to divide by."""
    found = var(_numbers(a, 0.0), axis, dtype, out, ddof, keepdims, where=_mask(a, where), mean=mean,
                correction=correction)  # fmt: skip
    return _where_enough(found, a, axis, keepdims, where, ddof if correction in (None, np._NoValue) else correction)


@implements(np.nanstd)
def nanstd(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: Any = 0, keepdims: Any = False, *,
    where: Any = True, mean: Any = None, correction: Any = None,
) -> Any:  # fmt: skip
    """Standard deviation of what is not NaN; derivative 0 where all of it is equal."""
    found = std(_numbers(a, 0.0), axis, dtype, out, ddof, keepdims, where=_mask(a, where), mean=mean,
                correction=correction)  # fmt: skip
    return _where_enough(found, a, axis, keepdims, where, ddof if correction in (None, np._NoValue) else correction)


def _where_enough(found: Any, a: Any, axis: Any, keepdims: Any, mask: Any, least: Any) -> Any:
    return where(sum(_mask(a, mask), axis, keepdims=keepdims) > least, found, np.nan)


@implements(np.nanmax)
def nanmax(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None, where: Any = True
) -> Any:
    """Largest of what is not NaN; ties share the derivative equally."""
    return _extreme(max, -np.inf, a, axis, out, keepdims, initial, where)


@implements(np.nanmin)
def nanmin(
    a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = None, where: Any = True
) -> Any:
    """Smallest of what is not NaN; ties share the derivative equally."""
    return _extreme(min, np.inf, a, axis, out, keepdims, initial, where)


def _extreme(
    reduction: Any, other: float, a: Any, axis: Any, out: Any, keepdims: Any, initial: Any, mask: Any
) -> Any:
    found = reduction(_numbers(a, other), axis, out, keepdims, initial, mask)
    if initial is not None and initial is not np._NoValue:
        return found
    some = max(_mask(a, mask) * 1.0, axis, keepdims=keepdims)
    return where(some > 0.0, found, np.nan)


@implements(np.nanargmax)
def nanargmax(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """The position of the first largest of what is not NaN. Raises OperationError where there is nothing else."""
    only_default("nanargmax", out=out)
    return _position(argmax, a, axis, keepdims, -np.inf)


@implements(np.nanargmin)
def nanargmin(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """The position of the first smallest of what is not NaN. Raises OperationError where there is nothing else."""
    only_default("nanargmin", out=out)
    return _position(argmin, a, axis, keepdims, np.inf)


def _position(position: Any, a: Any, axis: Any, keepdims: Any, other: float) -> Any:
    if np.any(all(np.not_equal(a, a), axis)):
        raise OperationError("All-NaN slice encountered")
    return position(_numbers(a, other), axis, keepdims=keepdims)


@implements(np.nancumsum)
def nancumsum(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """Running sum of what is not NaN."""
    return cast(Any, np.cumsum)(_numbers(a, 0.0), axis, dtype, out)


@implements(np.nancumprod)
def nancumprod(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
    """Running product of what is not NaN."""
    return cast(Any, np.cumprod)(_numbers(a, 1.0), axis, dtype, out)
