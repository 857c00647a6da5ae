"""Differences, integrals, running products, sums over neighbours (`convolve`), cross and Kronecker products."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from tapegrad.errors import OperationError, ShapeError, StructureError, UnsupportedError
from tapegrad.functions.choosing import where
from tapegrad.functions.joining import concatenate, stack, values
from tapegrad.functions.parts import sliding_window_view
from tapegrad.functions.reductions import own, sum
from tapegrad.functions.registry import if_there, implements, to_value
from tapegrad.functions.ufunc_methods import accumulate
from tapegrad.layout import normalize_axis
from tapegrad.ops import BY_NAME
from tapegrad.value import Value, apply


def _slice(x: Any, axis: int, start: Any, stop: Any = None, step: Any = None) -> Any:
    return x[(slice(None),) * axis + (slice(start, stop, step),)]


@implements(np.diff)
def diff(x: Any, n: int = 1, axis: int = -1, prepend: Any = None, append: Any = None) -> Value:
    """Differences of neighbours along an axis, n times; what is prepended and appended takes part."""
    ends = [None if end is np._NoValue else end for end in (prepend, append)]
    x, *given = values("diff", x, *(end for end in ends if end is not None))
    axis = normalize_axis(axis, x.ndim, "diff")
    if n < 0:
        raise ShapeError(f"diff: the order must not be negative, it is {n}")
    if given and n:
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        given = [np.broadcast_to(end, shape) if not end.ndim else end for end in given]
        x = concatenate([*(given[:1] if ends[0] is not None else []), x, *(given[-1:] if ends[1] is not None else [])],
                        axis)  # fmt: skip
    for _ in range(n):
        first, last = _slice(x, axis, None, -1), _slice(x, axis, 1)
        x = np.not_equal(last, first) if _is_truth(x) else last - first
    return cast(Value, x)


def _is_truth(x: Value) -> bool:
    return bool(x.size) and x._tape.kind(x._slot) == "b"


@implements(np.ediff1d)
def ediff1d(ary: Any, to_end: Any = None, to_begin: Any = None) -> Value:
    """Differences of neighbours in the flattened array, with numbers before and after them."""
    x, *ends = values("ediff1d", ary, *(end for end in (to_begin, to_end) if end is not None))
    x, ends = x.reshape(-1), [end.reshape(-1) for end in ends]
    return concatenate([
        *(ends[:1] if to_begin is not None else []), x[1:] - x[:-1], *(ends[-1:] if to_end is not None else []),
    ])  # fmt: skip


@implements(np.trapezoid)
def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Value:
    """The integral of straight lines through points along an axis."""
    y, step, *points = values("trapezoid", y, dx, *([] if x is None else [x]))
    axis = normalize_axis(axis, y.ndim, "trapezoid")
    if points and points[0].ndim == 1:
        step = np.reshape(points[0][1:] - points[0][:-1], (-1,) + (1,) * (y.ndim - axis - 1))
    elif points:
        step = diff(points[0], axis=axis)
    return sum(step * (_slice(y, axis, 1) + _slice(y, axis, None, -1)) / 2.0, axis)


@implements(np.gradient)
def gradient(f: Any, *varargs: Any, axis: Any = None, edge_order: int = 1) -> Any:
    """Central differences along axes, one-sided at the edges; distances may be numbers or points, and Values."""
    f, *given = values("gradient", f, *varargs)
    if axis is None:
        axes = tuple(range(f.ndim))
    else:
        axes = tuple(normalize_axis(a, f.ndim, "gradient") for a in (axis if np.iterable(axis) else (axis,)))
    if len(set(axes)) != len(axes):
        raise ShapeError(f"gradient: an axis is named twice in {axis}")
    if len(given) not in (0, 1, len(axes)) or (len(given) == 1 != len(axes) and given[0].ndim):
        raise StructureError(f"gradient: {len(given)} distances are given for {len(axes)} axes")
    if edge_order not in (1, 2):
        raise OperationError(f"gradient: edge_order is 1 or 2, not {edge_order}")
    given = given * len(axes) if len(given) == 1 else given
    found = []
    for i, a in enumerate(axes):
        if f.shape[a] < edge_order + 1:
            raise OperationError(f"gradient: axis {a} of shape {f.shape} needs at least {edge_order + 1} elements")
        h: Any = given[i] if given else 1.0
        if np.ndim(h) > 1 or (np.ndim(h) and h.shape[0] != f.shape[a]):
            raise OperationError(f"gradient: points of shape {np.shape(h)} for axis {a} of shape {f.shape}")
        found.append(_slope(f, a, np.diff(h) if np.ndim(h) else None, h, edge_order))
    return found[0] if len(found) == 1 else tuple(found)


def _slope(f: Value, axis: int, gaps: Any, h: Any, edge_order: int) -> Value:
    def at(start: Any, stop: Any = None) -> Any:
        return _slice(f, axis, start, stop)

    n = f.shape[axis]
    even = gaps is None
    if even:
        inner = (at(2) - at(None, -2)) / (2.0 * h)
    else:
        wide = (-1,) + (1,) * (f.ndim - axis - 1)
        one, two = np.reshape(gaps[:-1], wide), np.reshape(gaps[1:], wide)
        inner = (
            -two / (one * (one + two)) * at(None, -2)
            + (two - one) / (one * two) * at(1, -1)
            + one / (two * (one + two)) * at(2)
        )
    ends = []
    for places, sign in (((0, 1, 2), 1.0), ((n - 1, n - 2, n - 3), -1.0)):
        a, b = (at(i, i + 1) for i in places[:2])
        first = h if even else gaps[0 if sign > 0 else -1]
        if edge_order == 1:
            ends.append(sign * (b - a) / first)
            continue
        c, second = at(places[2], places[2] + 1), h if even else gaps[1 if sign > 0 else -2]
        both = first + second
        ends.append(sign * (
            -(first + both) / (first * both) * a + both / (first * second) * b - first / (second * both) * c
        ))  # fmt: skip
    return concatenate([ends[0], inner, ends[1]], axis)


@implements(np.cumprod)
def cumprod(x: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Value:
    """Running product along an axis; of the flattened array where no axis is given. Exact at zeros."""
    x = to_value(x, "cumprod")
    own("cumprod", x, dtype, out)
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return cast(Value, accumulate(np.multiply, x, axis))


def _cumulative(name: str, function: Any, neutral: float) -> Any:
    def handler(
        x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None, include_initial: bool = False
    ) -> Value:
        if axis is None and x.ndim > 1:
            raise OperationError(f"{name}: an array of {x.ndim} axes needs an axis")
        x = x.reshape(1) if not x.ndim else x
        i = normalize_axis(0 if axis is None else axis, x.ndim, name)
        found = function(x, i, dtype, out)
        if not include_initial:
            return cast(Value, found)
        shape = (*x.shape[:i], 1, *x.shape[i + 1 :])
        return concatenate([np.full(shape, neutral, x.dtype), found], i)

    handler.__doc__ = f"np.{name}."
    return handler


implements(*if_there("cumulative_sum"))(_cumulative("cumulative_sum", np.cumsum, 0.0))
implements(*if_there("cumulative_prod"))(_cumulative("cumulative_prod", cumprod, 1.0))


@implements(np.unwrap)
def unwrap(p: Any, discont: Any = None, axis: int = -1, *, period: Any = 2.0 * np.pi) -> Value:
    """Whole periods added, so that neighbours along an axis differ by at most half a one."""
    axis = normalize_axis(axis, p.ndim, "unwrap")
    discont = period / 2.0 if discont is None else discont
    step = diff(p, axis=axis)
    low, high = -period / 2.0, period / 2.0
    short = np.remainder(step - low, period) + low
    short = where(np.logical_and(short == low, step > 0.0), high, short)
    added = where(np.abs(step) < discont, 0.0, short - step)
    # Whole periods do not vary with p.
    added = apply(BY_NAME["detach"], (added,)) if not isinstance(period, Value) else added
    return concatenate([_slice(p, axis, None, 1), _slice(p, axis, 1) + np.cumsum(added, axis)], axis)


def _windows(a: Value, v: Value, mode: str, what: str) -> Value:
    """sum_j a_(i+j) v_j, for all i at which any, or all, of v lies within a."""
    modes = {"full": len(v) - 1, "same": len(v) // 2, "valid": 0}
    if mode not in modes:
        raise OperationError(f"{what}: mode is 'full', 'same' or 'valid', not {mode!r}")
    before = modes[mode]
    after = len(v) - 1 - before if mode == "same" else before
    parts = [np.zeros(before, a.dtype), a, np.zeros(after, a.dtype)]
    padded = concatenate(parts) if before + after else a
    return cast(Value, np.matmul(sliding_window_view(padded, len(v)), v))


def _lines(what: str, a: Any, v: Any) -> tuple[Value, Value]:
    a, v = (x.reshape(1) if not x.ndim and what == "convolve" else x for x in values(what, a, v))
    if a.ndim != 1 or v.ndim != 1 or not a.size or not v.size:
        raise ShapeError(f"{what}: both operands are one axis of some elements, not shapes {a.shape} and {v.shape}")
    return a, v


@implements(np.convolve)
def convolve(a: Any, v: Any, mode: str = "full") -> Value:
    """sum_j a_j v_(i-j)."""
    a, v = _lines("convolve", a, v)
    if len(v) > len(a):
        a, v = v, a
    return _windows(a, v[::-1], mode, "convolve")


@implements(np.correlate)
def correlate(a: Any, v: Any, mode: str = "valid") -> Value:
    """sum_j a_(i+j) v_j."""
    a, v = _lines("correlate", a, v)
    if len(v) > len(a):
        return _windows(v, a, mode, "correlate")[::-1]
    return _windows(a, v, mode, "correlate")


@implements(np.cross)
def cross(a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: Any = None) -> Value:
    """The cross products of vectors of three numbers, which lie along an axis."""
    a, b = values("cross", a, b)
    if axis is not None:
        axisa = axisb = axisc = axis
    x, y = np.moveaxis(a, axisa, -1), np.moveaxis(b, axisb, -1)
    if x.shape[-1] != 3 or y.shape[-1] != 3:
        raise UnsupportedError(
            f"np.cross on a Value takes vectors of three numbers, not {x.shape[-1]} and {y.shape[-1]}: for two write "
            "x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]"
        )
    parts = [x[..., i] * y[..., j] - x[..., j] * y[..., i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return stack(parts, normalize_axis(axisc, parts[0].ndim + 1, "cross"))


@implements(np.kron)
def kron(a: Any, b: Any) -> Value:
    """The Kronecker product: every element of a times all of b."""
    a, b = values("kron", a, b)
    ndim = max(a.ndim, b.ndim)
    m, n = ((1,) * (ndim - x.ndim) + x.shape for x in (a, b))
    x = a.reshape([k for size in m for k in (size, 1)])
    y = b.reshape([k for size in n for k in (1, size)])
    return cast(Value, (x * y).reshape([i * j for i, j in zip(m, n)]))
