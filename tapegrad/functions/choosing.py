"""Choosing between values, and functions of the numbers alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import OperationError, ShapeError
from tapegrad.functions.reductions import along_first_axis, reduce
from tapegrad.functions.registry import implements, is_flags, keeps, only_default, to_value
from tapegrad.layout import normalize_axis
from tapegrad.ops import BY_NAME
from tapegrad.value import Value, apply, contiguous


@implements(np.where)
def where(condition: Any, *choices: Any) -> Any:
    """x where the condition holds, else y. The branch not taken gets no gradient, not even NaN.

    The positions at which it holds, as `nonzero`, where only the condition is given.
    """
    if not choices:
        return nonzero(condition)
    if len(choices) != 2:
        raise OperationError("either both or neither of x and y should be given to np.where")
    x, y = choices
    if np.ndim(condition) and _is_truth(x) and _is_truth(y):
        # A single number on a tape is not known to be a truth value, and a mask of unknown numbers would be added to
        # the scores of attention: so what is single is an array of one.
        x, y = (c if np.ndim(c) else np.reshape(c, 1) for c in choices)
    return apply(BY_NAME["where"], (condition, x, y))


def _is_truth(x: Any) -> bool:
    return isinstance(x, bool | np.bool_) or is_flags(x)


@implements(np.clip)
def clip(x: Any, a_min: Any = None, a_max: Any = None, out: Any = None, *, min: Any = None, max: Any = None) -> Value:
    """x held between two bounds, either of which may be None."""
    only_default("clip", out=out)
    low, high = (a_min if min is None else min), (a_max if max is None else max)
    if low is None:
        return x if high is None else np.minimum(x, high)
    return np.maximum(x, low) if high is None else apply(BY_NAME["clip"], (x, low, high))


@implements(np.round)
def round(x: Any, decimals: int = 0, out: Any = None) -> Value:
    """Rounded to a number of decimals; zero derivative."""
    scale = 10.0**decimals
    return np.rint(x * scale) / scale if decimals else np.rint(x)


implements(np.bitwise_and)(lambda x, y: x & y if isinstance(x, Value) else y.__rand__(x))
implements(np.bitwise_or)(lambda x, y: x | y if isinstance(x, Value) else y.__ror__(x))
implements(np.bitwise_xor)(lambda x, y: x ^ y if isinstance(x, Value) else y.__rxor__(x))
implements(np.invert)(lambda x: ~x)
implements(np.logical_not)(lambda x: x == 0.0)
implements(np.float_power)(lambda x, y: x**y)
implements(np.fabs)(lambda x: np.abs(x))
implements(np.degrees, np.rad2deg)(lambda x: x * (180.0 / np.pi))
implements(np.radians, np.deg2rad)(lambda x: x * (np.pi / 180.0))


# Piecewise constant functions. Those that return truth values element by element record an operation. `all`, `any`,
# counts and positions return plain numbers, and in a recording a guard checks that a replay finds the same numbers.


@implements(np.isnan)
def isnan(x: Any) -> Value:
    """Where x is NaN."""
    return x != x


@implements(np.isfinite)
def isfinite(x: Any) -> Value:
    """Where x is neither NaN nor infinite."""
    return np.abs(x) < np.inf


@implements(np.isinf)
def isinf(x: Any) -> Value:
    """Where x is infinite."""
    return np.abs(x) == np.inf


@implements(np.signbit)
def signbit(x: Any) -> Value:
    """Where x is negative, the negative zero included."""
    return np.logical_or(x < 0.0, np.logical_and(x == 0.0, 1.0 / x < 0.0))


@implements(np.isclose)
def isclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Value:
    """Where |a - b| <= atol + rtol |b|, or both are the same infinity."""
    near = np.logical_and(np.abs(b) < np.inf, np.abs(a - b) <= atol + rtol * np.abs(b))
    found = np.logical_or(a == b, near)
    return np.logical_or(found, np.logical_and(a != a, b != b)) if equal_nan else found


@implements(np.array_equiv)
def array_equiv(a1: Any, a2: Any) -> bool:
    """Whether two arrays, broadcast to one shape, have equal elements."""
    try:
        np.broadcast_shapes(np.shape(a1), np.shape(a2))
    except ValueError:
        return False
    return bool(all(np.equal(a1, a2)))


def _flags(x: Any) -> Value:
    x = to_value(x, "a comparison")
    return x if is_flags(x) else x != 0.0


def truths(condition: Any) -> np.ndarray:
    """Which elements are not zero, as a plain array; in a recording guards hold replays to it."""
    return np.asarray(_flags(condition).numpy() != 0.0 if isinstance(condition, Value) else np.asarray(condition) != 0)


@implements(np.all)
def all(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True) -> Any:
    """Whether all elements are true: a truth value, or an array of them."""
    only_default("all", out=out)
    return _truth(_where_flags(a, where, True), axis, keeps(keepdims), sign=-1)


@implements(np.any)
def any(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True) -> Any:
    """Whether any element is true: a truth value, or an array of them."""
    only_default("any", out=out)
    return _truth(_where_flags(a, where, False), axis, keeps(keepdims), sign=1)


def _where_flags(a: Any, mask: Any, other: bool) -> Value:
    flags = _flags(a)
    if mask is True or mask is np._NoValue:
        return flags
    if np.broadcast_shapes(flags.shape, np.shape(mask)) != flags.shape:
        raise ShapeError(f"where: a mask of shape {np.shape(mask)} is larger than the array, of shape {flags.shape}")
    return where(mask, flags, other)


for _ufunc, _reduction in {np.logical_and: all, np.logical_or: any}.items():
    implements((_ufunc, "reduce"))(along_first_axis(_reduction))


def _truth(flags: Value, axis: Any, keepdims: bool, sign: int) -> Any:
    if not flags.size:
        return (np.all if sign < 0 else np.any)(np.zeros(flags.shape, bool), axis, keepdims=keepdims)
    return _numbers(reduce("max", flags, axis, keepdims, sign=sign), bool)


def _numbers(x: Value, kind: Any) -> Any:
    return kind(x._item("position")) if x.ndim == 0 else x.numpy().astype(kind)


@implements(np.allclose)
def allclose(a: Any, b: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """Whether all elements are close; see `isclose`."""
    return bool(all(isclose(a, b, rtol, atol, equal_nan)))


@implements(np.array_equal)
def array_equal(a: Any, b: Any, equal_nan: bool = False) -> bool:
    """Whether two arrays have one shape and equal elements."""
    if np.shape(a) != np.shape(b):
        return False
    same = np.equal(a, b)
    return bool(all(np.logical_or(same, np.logical_and(a != a, b != b)) if equal_nan else same))


@implements(np.count_nonzero)
def count_nonzero(a: Any, axis: Any = None, *, keepdims: bool = False) -> Any:
    """How many elements are not zero."""
    return _numbers(reduce("sum", _flags(a), axis, keepdims), int)


@implements(np.nonzero)
def nonzero(a: Any) -> Any:
    """Where the elements are that are not zero."""
    return np.nonzero(truths(a))


@implements(np.flatnonzero)
def flatnonzero(a: Any) -> np.ndarray:
    """Where the elements of the flattened array are that are not zero."""
    return nonzero(a.reshape(-1))[0]


@implements(np.argwhere)
def argwhere(a: Any) -> np.ndarray:
    """Where the elements are that are not zero, one row each."""
    return np.argwhere(truths(a))


@implements(np.argmax)
def argmax(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """The position of the first largest element."""
    only_default("argmax", out=out)
    return _numbers(reduce("argmax", a, axis, keeps(keepdims)), int)


@implements(np.argmin)
def argmin(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
    """The position of the first smallest element."""
    only_default("argmin", out=out)
    return _numbers(reduce("argmax", a, axis, keeps(keepdims), sign=-1), int)


def order_along(x: Any, axis: Any) -> Value:
    """The positions of the elements in ascending order along an axis, on the tape."""
    x = to_value(x, "sort")
    axis = normalize_axis(axis, x.ndim, "sort")
    # An operand that is not dense is copied first: its elements along the axis may have no common stride.
    return reduce("argsort", contiguous(x), axis, cumulative=True)


@implements(np.argsort)
def argsort(a: Any, axis: Any = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    """The positions of the elements in ascending order; equal elements keep their order."""
    only_default("argsort", order=order)
    a = to_value(a, "argsort")
    a, axis = (a.reshape(-1), -1) if axis is None else (a, axis)
    return order_along(a, axis).numpy().astype(int)
