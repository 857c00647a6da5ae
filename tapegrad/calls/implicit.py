"""Functions defined by equations, differentiated by the implicit function theorem, not through their solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation
from tapegrad.calls.call import Rules, call
from tapegrad.calls.custom import placed
from tapegrad.errors import OperationError, ShapeError, SingularError, UnsupportedError
from tapegrad.recording import Known, Recording

P = ParamSpec("P")


class _Root(Rules):
    """x(theta) with F(x, theta) = 0: F_x dx + F_theta dtheta = 0."""

    def __init__(self, equations: Callable[..., Any], solver: Callable[..., Any]) -> None:
        self.equations, self.solver = equations, solver
        self.recorded_functions = (equations,)
        self.name = f"the root of {getattr(equations, '__qualname__', repr(equations))}"
        self._known = Known(self._vector)

    def value(self, args: tuple[Any, ...]) -> Any:
        x = np.asarray(self.solver(*args))
        if x.dtype.kind not in "fiu":
            raise UnsupportedError(f"{self.name}: its solver must return a number or an array of them, not {x.dtype}")
        return float(x) if x.ndim == 0 else x.astype(float) if x.dtype.kind != "f" else x

    def _recording(self, args: Sequence[Any]) -> Recording:
        return self._known.repeatable(args)

    def _vector(self, x: Any, *args: Any) -> Any:
        found = self.equations(x, *args)
        if np.size(found) != np.size(x):
            raise ShapeError(
                f"{self.name}: x has shape {np.shape(x)}, the equations {np.shape(found)}: there must be as many"
            )
        return np.reshape(found, (-1,))

    def _matrix(self, x: Any, args: tuple[Any, ...], on_values: bool) -> Any:
        if on_values:
            matrix = derivatives.jacobian(self._vector, (x, *args), 0, None)
            numbers = np.asarray(matrix._window(_evaluated(matrix)))
        else:
            matrix = numbers = self._recording((x, *args)).jacobian(x, *args)
        n = int(np.size(x))
        _check_regular(numbers.reshape(n, n), self.name)
        return matrix.reshape(n, n)

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        on_values = evaluation.holds_values(pytree.flatten((args, result, cotangent))[0])
        matrix = self._matrix(result, args, on_values)
        adjoint = -np.linalg.solve(np.swapaxes(matrix, 0, 1), np.reshape(cotangent, (-1,)))
        if on_values:
            return derivatives.vjp(lambda *own: self._vector(result, *own), args)[1](adjoint)
        return self._recording((result, *args)).vjp(result, *args)[1](adjoint)[1:]

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        on_values = evaluation.holds_values(pytree.flatten((args, result, tangents))[0])
        matrix = self._matrix(result, args, on_values)
        if on_values:
            along = derivatives.jvp(lambda *own: self._vector(result, *own), args, tangents)[1]
        else:
            along = self._recording((result, *args)).jvp((result, *args), (None, *tangents))[1]
        found = -np.linalg.solve(matrix, along)
        return np.reshape(found, np.shape(result)) if np.shape(result) else found[0]


def _evaluated(value: Any) -> np.ndarray:
    value._tape.evaluate()
    return value._tape.values


def _check_regular(matrix: np.ndarray, name: str) -> None:
    if not np.isfinite(matrix).all():
        raise SingularError(f"{name}: the derivative of the equations with respect to x is not finite at the solution")
    # Equations and unknowns may have any units, so columns and rows are scaled to a largest element of 1 first. A large
    # condition number after that is not a matter of units.
    for axis in (1, 0):
        largest = np.max(np.abs(matrix), axis, keepdims=True, initial=0.0)
        matrix = matrix / np.where(largest > 0.0, largest, 1.0)
    if matrix.size and np.linalg.cond(matrix) * np.finfo(matrix.dtype).eps > 1.0:
        raise SingularError(
            f"{name}: the derivative of the equations with respect to x is singular at the solution, so the solution "
            "has no derivative there"
        )


def implicit_root(f: Callable[..., Any], solve: Callable[P, Any]) -> Callable[P, Any]:
    """The function x(theta) defined by f(x, *theta) = 0, with its derivative.

    Args:
        f: as many equations as unknowns, in NumPy: f(x, *theta) has as many elements as x.
        solve: solve(*theta) returns x, a number or an array, by any means, on plain numbers: SciPy's solvers, say.

    The derivative comes from the implicit function theorem: F_x dx = -F_theta dtheta at the solution. It does not
    matter how the solution was found, but it must be accurate: an error of the solution leads to one of the derivative.
    Higher derivatives are taken in the same way.

    Raises SingularError where F_x is singular at the solution; ShapeError unless there are as many equations as
    unknowns.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> root = implicit_root(lambda x, a: x * x - a, lambda a: np.sqrt(a))
    >>> tg.grad(root)(4.0), tg.grad(tg.grad(root))(4.0)
    (0.25, -0.03125)
    """
    if not callable(f) or not callable(solve):
        raise OperationError("implicit_root takes two functions: f(x, *theta), and solve(*theta) that returns x")
    rules = _Root(f, solve)

    def root(*args: P.args, **kwargs: P.kwargs) -> Any:
        return call(rules, placed(rules.solver, args, kwargs))

    return root


def fixed_point(
    f: Callable[..., Any], solve: Any, *, tol: float = 1e-13, max_steps: int = 10_000
) -> Callable[..., Any]:
    """The function x(theta) defined by f(x, *theta) = x, with its derivative.

    Args:
        f: f(x, *theta) in NumPy, of the shape of x.
        solve: a function of *theta that returns x on plain numbers; or an array or number to iterate from, until a step
            changes x by no more than `tol`, relative to its size.

    Raises what `implicit_root` raises, and ArithmeticError where the iteration has not settled after `max_steps`.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> cosine = fixed_point(lambda x, a: np.cos(a * x), 0.5)
    >>> round(float(cosine(1.0)), 10)
    0.7390851332
    """

    def iterate(*args: Any) -> Any:
        x = np.asarray(solve, float)
        for _ in range(max_steps):
            following = np.asarray(f(x[()], *args), float)
            if following.shape != x.shape:
                raise ShapeError(f"fixed_point: x has shape {x.shape}, f(x) {following.shape}")
            if np.max(np.abs(following - x), initial=0.0) <= tol * max(1.0, float(np.max(np.abs(x), initial=0.0))):
                return following[()]
            x = following
        name = getattr(f, "__qualname__", repr(f))
        raise ArithmeticError(f"the iteration of {name} has not settled after {max_steps} steps")

    def equations(x: Any, *args: Any) -> Any:
        return x - f(x, *args)

    equations.__qualname__ = f"the fixed point of {getattr(f, '__qualname__', repr(f))}"
    return implicit_root(equations, solve if callable(solve) else iterate)
