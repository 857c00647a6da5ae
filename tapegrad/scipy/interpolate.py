"""`scipy.interpolate` with derivatives: piecewise linear interpolation and cubic splines, in one variable.

Gradients flow to the data and to the points of evaluation; where the data stand, `x`, is given by plain numbers.

>>> import numpy as np
>>> import tapegrad as tg
>>> from tapegrad.scipy.interpolate import CubicSpline
>>> x = np.linspace(0.0, 3.0, 7)
>>> tg.grad(lambda y, at: CubicSpline(x, y)(at), argnums=1)(x**3, 1.3)
5.0699999...
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from scipy import interpolate as _interpolate

from tapegrad.adjoint.evaluation import holds_values
from tapegrad.calls import external
from tapegrad.errors import OperationError, ShapeError, UnsupportedError
from tapegrad.flow import where
from tapegrad.value import Value

__all__ = ["CubicSpline", "PPoly", "interp1d"]


def _plain(x: Any, what: str) -> np.ndarray:
    if holds_values((x,)):
        raise UnsupportedError(f"{what} must be plain numbers: no gradient flows to where the data stand")
    return np.asarray(x, float)


def _array(x: Any) -> Any:
    return x if isinstance(x, Value) else np.asarray(x)


class _Pieces:
    """Evaluating polynomials on the intervals between breaks, at points that may move, and the transpose of that.

    `at(c, x)` is sum over k of c[k, i, j] (x - breaks[i])^(K - 1 - k), differentiated `nu` times, for the interval i in
    which x is and all j. `spread(w, x)` is the transpose by c. Both are differentiated by each other and by themselves.
    """

    def __init__(self, breaks: np.ndarray, orders: int) -> None:
        self.breaks, self.orders = breaks, orders

    def interval(self, x: np.ndarray) -> np.ndarray:
        """The interval of each point; points outside are in the first or the last one."""
        return np.clip(np.searchsorted(self.breaks, x, "right") - 1, 0, len(self.breaks) - 2)

    def basis(self, x: np.ndarray, nu: int) -> tuple[np.ndarray, np.ndarray]:
        """The intervals of points, and the powers there, differentiated, (orders, points)."""
        i = self.interval(x)
        t, rows = x - self.breaks[i], []
        for k in range(self.orders):
            p = self.orders - 1 - k
            rows.append(math.perm(p, nu) * t ** (p - nu) if p >= nu else 0.0 * t)
        return i, np.array(rows)

    @functools.cache  # noqa: B019 (these live as long as what they belong to)
    def at(self, nu: int) -> Any:
        """The function of coefficients (orders, intervals, values) and points (n,) to (n, values)."""

        def value(c: Any, x: Any) -> Any:
            i, powers = self.basis(x, nu)
            return np.einsum("kn,knj->nj", powers, c[:, i])

        def vjp(w: Any, z: Any, c: Any, x: Any) -> Any:
            return self.spread(nu)(w, x), np.sum(w * self.at(nu + 1)(c, x), axis=1)

        def jvp(t: Any, z: Any, c: Any, x: Any) -> Any:
            by_c = 0.0 if t[0] is None else self.at(nu)(t[0], x)
            return by_c + (0.0 if t[1] is None else t[1][:, None] * self.at(nu + 1)(c, x))

        return external(value, vjp, jvp, numpy_rules=True)

    @functools.cache  # noqa: B019
    def spread(self, nu: int) -> Any:
        """The function of weights (n, values) and points (n,) to (orders, intervals, values)."""

        def value(w: Any, x: Any) -> Any:
            i, powers = self.basis(x, nu)
            out = np.zeros((self.orders, len(self.breaks) - 1, np.shape(w)[1]))
            np.add.at(out.swapaxes(0, 1), i, (powers[:, :, None] * w).swapaxes(0, 1))
            return out

        def vjp(g: Any, z: Any, w: Any, x: Any) -> Any:
            return self.at(nu)(g, x), np.sum(w * self.at(nu + 1)(g, x), axis=1)

        def jvp(t: Any, z: Any, w: Any, x: Any) -> Any:
            by_w = 0.0 if t[0] is None else self.spread(nu)(t[0], x)
            return by_w + (0.0 if t[1] is None else self.spread(nu + 1)(t[1][:, None] * w, x))

        return external(value, vjp, jvp, numpy_rules=True)


class PPoly:
    """Piecewise polynomials, in SciPy's form: on the interval i the sum over k of c[k, i] (x - x[i])^(K - 1 - k).

    Args:
        c: coefficients, (K, intervals, ...).
        x: breaks, ascending plain numbers, one more than intervals.
        extrapolate: whether the first and the last polynomial go on outside; else there is NaN.

    >>> PPoly([[1.0], [0.0]], [0.0, 2.0])([0.5, 1.5]).tolist()
    [0.5, 1.5]
    """

    def __init__(self, c: Any, x: Any, extrapolate: Any = None, *, _axis: int = 0) -> None:
        self.c, self.x = _array(c), _plain(x, "breaks")
        if extrapolate == "periodic":
            raise UnsupportedError("extrapolate='periodic' is not supported: take the points modulo the period")
        self.extrapolate = extrapolate is None or bool(extrapolate)
        self.axis = _axis
        if np.ndim(self.c) < 2 or self.x.ndim != 1 or np.shape(self.c)[1] != len(self.x) - 1 or len(self.x) < 2:
            raise ShapeError(
                f"coefficients are (order, intervals, ...) and breaks are one more than intervals, not of shapes "
                f"{np.shape(self.c)} and {self.x.shape}"
            )
        if not np.all(np.diff(self.x) > 0.0):
            raise OperationError("breaks must ascend")
        self._pieces = _Pieces(self.x, np.shape(self.c)[0])

    def __call__(self, x: Any, nu: int = 0, extrapolate: Any = None) -> Any:
        """The values at points, or derivative `nu` there: axes of the points stand where the data had theirs."""
        c, x = self.c, _array(x)
        beyond = self.extrapolate if extrapolate is None else bool(extrapolate)
        shape, rest = np.shape(x), np.shape(c)[2:]
        flat, width = x.reshape(-1) * 1.0, math.prod(rest)
        c = c.reshape(*np.shape(c)[:2], width)
        result = self._evaluate(c, flat, nu)
        if not beyond:
            outside = (flat < self.x[0]) + (flat > self.x[-1]) > 0
            result = where(outside.reshape(-1, 1), np.nan, result)
        result = result.reshape((*shape, *rest))
        if self.axis and rest:
            # The axes of the points go where the axis of the data was.
            order = [*range(len(shape), len(shape) + self.axis), *range(len(shape)),
                     *range(len(shape) + self.axis, len(shape) + len(rest))]  # fmt: skip
            result = np.transpose(result, order)
        return result if np.ndim(result) else result[()]

    def _evaluate(self, c: Any, x: Any, nu: int) -> Any:
        if isinstance(x, Value):
            return self._pieces.at(nu)(c, x)
        # At points that stay where they are a value is a sum of products, which needs no call of Python.
        i, powers = self._pieces.basis(x, nu)
        dtype = c.dtype if isinstance(c, Value) else float
        at = c[:, i] if not isinstance(c, Value) else np.take(c, i, axis=1)
        return np.sum(powers.astype(dtype)[:, :, None] * at, axis=0)

    def derivative(self, nu: int = 1) -> PPoly:
        """The derivative as piecewise polynomials of their own."""
        c = self.c
        for _ in range(nu):
            k = np.shape(c)[0]
            if k == 1:
                c = 0.0 * c
                continue
            c = c[:-1] * np.arange(k - 1.0, 0.0, -1.0, dtype=c.dtype).reshape(-1, *[1] * (np.ndim(c) - 1))
        return PPoly(c, self.x, self.extrapolate, _axis=self.axis)

    def antiderivative(self) -> PPoly:
        """The integral from the first break on, as piecewise polynomials."""
        k = np.shape(self.c)[0]
        factors = (1.0 / np.arange(k, 0, -1)).astype(self.c.dtype).reshape(-1, *[1] * (np.ndim(self.c) - 1))
        c = self.c * factors
        widths = np.diff(self.x).astype(self.c.dtype).reshape(-1, *[1] * (np.ndim(c) - 2))
        whole = sum(c[j] * widths ** (k - j) for j in range(k))
        start = np.concatenate([0.0 * whole[:1], np.cumsum(whole, axis=0)[:-1]])
        return PPoly(np.concatenate([c, start.reshape(1, *np.shape(start))]), self.x, self.extrapolate, _axis=self.axis)

    def integrate(self, a: Any, b: Any) -> Any:
        """The integral from a to b."""
        whole = self.antiderivative()
        return whole(b) - whole(a)


class CubicSpline(PPoly):
    """The piecewise cubic polynomial through data, twice continuously differentiable.

    Args:
        x: where the data stand, ascending plain numbers.
        y: the data along `axis`.
        bc_type: what holds at the ends: "not-a-knot", "natural", "clamped", or a pair as in SciPy, ((1, slope), (2,
            0.0)).
        extrapolate: whether the first and the last polynomial go on outside; else there is NaN.

    `spline(x, nu)` is derivative `nu`. The coefficients are a linear function of the data, a matrix that SciPy's own
    spline gives; it has 4 n^2 numbers for n data.

    >>> x = np.array([0.0, 1.0, 2.0, 3.0])
    >>> round(float(CubicSpline(x, x**2, bc_type="not-a-knot")(1.5)), 12)
    2.25
    """

    def __init__(self, x: Any, y: Any, axis: int = 0, bc_type: Any = "not-a-knot", extrapolate: Any = None) -> None:
        x, y = _plain(x, "CubicSpline: x"), _array(y)
        if isinstance(bc_type, str) and bc_type == "periodic":
            raise UnsupportedError("CubicSpline with bc_type='periodic' is not supported")
        ndim = np.ndim(y)
        axis = axis % ndim if ndim else 0
        if ndim == 0 or np.shape(y)[axis] != len(x):
            raise ShapeError(f"CubicSpline: {len(x)} numbers in x do not fit y of shape {np.shape(y)}, axis {axis}")
        n = len(x)
        if holds_values((y,)):
            y = np.moveaxis(y, axis, 0)
            # From ends that are not zero comes a constant.
            constant = _interpolate.CubicSpline(x, np.zeros(n), bc_type=bc_type).c.astype(y.dtype)
            matrix = _interpolate.CubicSpline(x, np.eye(n), bc_type=_wide(bc_type, n)).c.astype(y.dtype)
            c = np.tensordot(matrix - constant[:, :, None], y, 1)
            c = c + constant.reshape(*constant.shape, *[1] * (ndim - 1))
        else:
            c = _interpolate.CubicSpline(x, y, axis=axis, bc_type=bc_type).c
        super().__init__(c, x, extrapolate, _axis=axis)


def _wide(bc_type: Any, n: int) -> Any:
    """Conditions at the ends for n splines at a time."""
    if isinstance(bc_type, str):
        return bc_type
    return tuple(one if isinstance(one, str) else (one[0], np.full(n, float(one[1]))) for one in bc_type)


class interp1d:
    """Interpolation in one variable: linear between data, or a cubic spline.

    Args:
        x: where the data stand, plain numbers.
        y: the data along `axis`.
        kind: "linear" or "cubic".
        bounds_error: whether plain points outside raise ValueError, as they do where no `fill_value` is given. Points
            that are Values never do.
        fill_value: what is outside: a number, two numbers (below, above), or "extrapolate".
        assume_sorted: whether x is known to ascend.

    >>> interp1d([0.0, 1.0, 2.0], [0.0, 10.0, 0.0])([0.5, 1.75]).tolist()
    [5.0, 2.5]
    """

    def __init__(
        self, x: Any, y: Any, kind: str = "linear", axis: int = -1, copy: bool = True, bounds_error: Any = None,
        fill_value: Any = np.nan, assume_sorted: bool = False,
    ) -> None:  # fmt: skip
        x, y = _plain(x, "interp1d: x"), _array(y)
        if kind not in ("linear", "cubic"):
            raise UnsupportedError(f"interp1d: kind must be 'linear' or 'cubic', not {kind!r}")
        axis = axis % np.ndim(y) if np.ndim(y) else 0
        if np.ndim(y) == 0 or np.shape(y)[axis] != len(x):
            raise ShapeError(f"interp1d: {len(x)} numbers in x do not fit y of shape {np.shape(y)} along axis {axis}")
        if not assume_sorted:
            order = np.argsort(x, kind="stable")
            x, y = x[order], np.take(y, order, axis=axis)
        self.x, self.fill_value = x, fill_value
        extrapolates = isinstance(fill_value, str)
        if extrapolates and fill_value != "extrapolate":
            raise OperationError(f"interp1d: fill_value must be numbers or 'extrapolate', not {fill_value!r}")
        nothing_said = isinstance(fill_value, float) and math.isnan(fill_value)
        self.bounds_error = (nothing_said if bounds_error is None else bool(bounds_error)) and not extrapolates
        if kind == "cubic":
            self._pieces: PPoly = CubicSpline(x, y, axis)
        else:
            y = np.moveaxis(y, axis, 0) * 1.0
            widths = np.diff(x).astype(y.dtype).reshape(-1, *[1] * (np.ndim(y) - 1))
            self._pieces = PPoly(np.stack([(y[1:] - y[:-1]) / widths, y[:-1]]), x, _axis=axis)
        self._below, self._above = fill_value if isinstance(fill_value, tuple) else (fill_value, fill_value)

    def __call__(self, x: Any) -> Any:
        """The interpolated values at points."""
        x = _array(x)
        result = self._pieces(x)
        if isinstance(self.fill_value, str):
            return result
        below, above = x < self.x[0], x > self.x[-1]
        if self.bounds_error and not isinstance(x, Value) and np.any(below | above):
            raise OperationError(
                f"interp1d: a point is outside of {self.x[0]:g} to {self.x[-1]:g}; give fill_value, or "
                "bounds_error=False"
            )
        after = np.ndim(result) - np.ndim(x) - self._pieces.axis if np.ndim(result) > np.ndim(x) else 0
        below, above = (z.reshape(*np.shape(z), *[1] * after) if after else z for z in (below, above))
        return where(below, self._below, where(above, self._above, result))
