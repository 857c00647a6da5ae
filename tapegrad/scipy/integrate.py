"""`scipy.integrate` with derivatives: sums over samples, integrals of functions, and initial value problems.

>>> import numpy as np
>>> import tapegrad as tg
>>> from tapegrad.scipy import integrate
>>> def area(a, b, k):
...     return integrate.quad(lambda x, k: np.exp(-k * x), a, b, args=(k,))[0]
>>> [round(x, 6) for x in tg.grad(area, argnums=(0, 1, 2))(0.0, 1.0, 1.0)]
[-1.0, 0.367879, -0.264241]
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import integrate as _integrate

from tapegrad import pytree
from tapegrad.adjoint.evaluation import holds_values
from tapegrad.calls import external
from tapegrad.errors import OperationError, ShapeError, StructureError
from tapegrad.flow import where
from tapegrad.functions.registry import holds_value
from tapegrad.scipy.ode import odeint, solve_ivp
from tapegrad.transforms import grad
from tapegrad.value import Value

__all__ = ["cumulative_trapezoid", "odeint", "quad", "simpson", "solve_ivp", "trapezoid"]


def _array(x: Any) -> Any:
    return x if isinstance(x, Value) else np.asarray(x)


def _spacing(y: Any, x: Any, dx: Any, axis: int, what: str) -> tuple[Any, Any]:
    """The samples with the axis last, and the distances between them: a number, or an array with the axis last."""
    if np.ndim(y) == 0:
        raise ShapeError(f"{what}: y must have an axis to go along, it is a number")
    y = np.moveaxis(y, axis, -1)
    if x is None:
        return y, dx
    x = _array(x)
    if np.ndim(x) == 0:
        raise ShapeError(f"{what}: x must have an axis to go along, it is a number")
    if np.ndim(x) > 1:
        x = np.moveaxis(x, axis, -1)
    if np.shape(x)[-1] != np.shape(y)[-1]:
        raise ShapeError(f"{what}: x has {np.shape(x)[-1]} points along the axis and y has {np.shape(y)[-1]}")
    return y, x[..., 1:] - x[..., :-1]


def trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1) -> Any:
    """The integral of samples along an axis, by the trapezoidal rule: the sum of (x_i+1 - x_i) (y_i + y_i+1) / 2.

    Args:
        y: the samples.
        x: where they were taken: one array for all, or one of y's shape; else they are `dx` apart.

    >>> float(trapezoid([1.0, 2.0, 4.0], x=[0.0, 1.0, 3.0]))
    7.5
    """
    y, d = _spacing(_array(y), x, dx, axis, "trapezoid")
    return np.sum(d * (y[..., 1:] + y[..., :-1]), axis=-1) * 0.5


def cumulative_trapezoid(y: Any, x: Any = None, dx: Any = 1.0, axis: int = -1, initial: Any = None) -> Any:
    """As `trapezoid`, up to each sample; with `initial=0`, a 0 for the first one comes before.

    Raises OperationError for another `initial`, as SciPy does.

    >>> cumulative_trapezoid([1.0, 2.0, 4.0], initial=0).tolist()
    [0.0, 1.5, 4.5]
    """
    if initial is not None and initial != 0:
        raise OperationError(f"cumulative_trapezoid: initial must be None or 0, not {initial!r}")
    y, d = _spacing(_array(y), x, dx, axis, "cumulative_trapezoid")
    sums = np.cumsum(0.5 * d * (y[..., 1:] + y[..., :-1]), axis=-1)
    if initial is not None:
        sums = np.concatenate([np.zeros((*np.shape(sums)[:-1], 1), sums.dtype), sums], axis=-1)
    return np.moveaxis(sums, -1, axis)


def simpson(y: Any, x: Any = None, *, dx: Any = 1.0, axis: int = -1) -> Any:
    """The integral of samples along an axis, by Simpson's rule, of parabolas through three neighbours each.

    For an even number of samples the last interval is taken from the parabola through the last three, as in SciPy.

    >>> round(float(simpson(np.arange(5.0) ** 3)), 12)
    64.0
    """
    y, d = _spacing(_array(y), x, dx, axis, "simpson")
    n = np.shape(y)[-1]
    if n < 3:
        return trapezoid(y, dx=d) if n == 2 else np.sum(0.0 * y, axis=-1)
    d = d * np.ones(n - 1, y.dtype if isinstance(y, Value) else None)
    odd = n - 1 + n % 2
    h0, h1 = d[..., 0 : odd - 1 : 2], d[..., 1 : odd - 1 : 2]
    left, middle, right = y[..., 0 : odd - 2 : 2], y[..., 1 : odd - 1 : 2], y[..., 2:odd:2]
    both = h0 + h1
    parts = left * (2.0 - _ratio(h1, h0)) + middle * _ratio(both * both, h0 * h1) + right * (2.0 - _ratio(h0, h1))
    total = np.sum(both / 6.0 * parts, axis=-1)
    if n % 2 == 0:
        a, b = d[..., -2], d[..., -1]
        alpha = _ratio(2.0 * b * b + 3.0 * a * b, 6.0 * (b + a))
        beta = _ratio(b * b + 3.0 * a * b, 6.0 * a)
        eta = _ratio(b * b * b, 6.0 * a * (a + b))
        total = total + alpha * y[..., -1] + beta * y[..., -2] - eta * y[..., -3]
    return total


def _ratio(a: Any, b: Any) -> Any:
    # 0 where two samples were taken at one place, as in SciPy.
    return where(b == 0.0, 0.0, a / where(b == 0.0, 1.0, b))


class _Integrals:
    """Integrals of a function of (x, *args) that returns one number, or a vector."""

    def __init__(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        self.function, self.options = function, options
        self.call = external(self._value, self._vjp, numpy_rules=True)

    def _value(self, a: float, b: float, *args: Any) -> Any:
        """The integral and an estimate of its error."""
        inside = next(x for x in (0.5 * (a + b), a, b, 0.0) if np.isfinite(x))
        first = self.function(inside, *args)
        if np.ndim(first) == 0:
            result = _integrate.quad(lambda x: float(self.function(x, *args)), a, b, **self.options)
            return float(result[0]), float(result[1])
        given = {name: x for name, x in self.options.items() if name in ("epsabs", "epsrel", "limit", "points")}
        value, error = _integrate.quad_vec(lambda x: np.asarray(self.function(x, *args)), a, b, **given)
        return value, float(error)

    def _vjp(self, weights: Any, results: Any, a: Any, b: Any, *args: Any) -> Any:
        w = weights[0]
        found = []
        for x, sign in ((a, -1.0), (b, 1.0)):
            infinite = not isinstance(x, Value) and not np.isfinite(x)
            found.append(0.0 if infinite else sign * np.sum(w * self.function(x, *args)))
        leaves, structure = pytree.flatten(args)
        if not leaves:
            return tuple(found)
        flat, _ = self._derived.call(a, b, w, *args)
        parts, at = [], 0
        for leaf in leaves:
            n = int(np.prod(np.shape(leaf)))
            part = flat[at : at + n]
            parts.append(part.reshape(np.shape(leaf)) if np.ndim(leaf) else part[0])
            at += n
        return (*found, *pytree.unflatten(structure, parts))

    @functools.cached_property
    def _derived(self) -> _Integrals:
        """The integrals of the derivatives by all arguments, as one vector, of (x, weights, *args)."""

        def weighed(x: Any, w: Any, args: Any) -> Any:
            return np.sum(w * self.function(x, *args))

        by_arguments = grad(weighed, argnums=2)

        def derivatives(x: Any, w: Any, *args: Any) -> Any:
            leaves = pytree.flatten(by_arguments(x, w, args))[0]
            return np.concatenate([g.reshape(-1) if np.ndim(g) else np.stack([g]) for g in leaves])

        return _Integrals(derivatives, self.options)


def quad(func: Callable[..., Any], a: Any, b: Any, args: Any = (), **options: Any) -> tuple[Any, Any]:
    """The integral of func(x, *args) from a to b, and an estimate of its error, by SciPy's adaptive quadrature.

    Gradients flow to a, b and args, which may be nested; those by args are integrals of the derivative of `func`, by
    the same quadrature. So what `func` depends on goes to it by args, and is not taken from around it.

    Args:
        func: takes a number and args, returns a number; written in NumPy where it is differentiated.
        options: SciPy's: epsabs, epsrel, limit, points. With `weight`, `full_output` and the like only plain numbers.

    Raises TypeError for such an option with Values.

    >>> quad(lambda x: x * x, 0.0, 3.0)[0]
    9.000000000000002
    """
    args = args if isinstance(args, tuple) else (args,)
    if not holds_values([a, b, *pytree.flatten(args)[0]]):
        return _integrate.quad(func, a, b, args=args, **options)
    unknown = sorted(set(options) - {"epsabs", "epsrel", "limit", "points"})
    if unknown:
        raise StructureError(f"quad: {', '.join(unknown)}= is not supported with Values")
    if holds_value(list(options.values())):
        raise StructureError("quad: options must be plain numbers")
    value, error = _Integrals(func, options).call(a, b, *args)
    return value, error
