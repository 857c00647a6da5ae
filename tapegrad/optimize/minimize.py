"""Minimisation: `scipy.optimize.minimize` with gradients, Hessians and constraints' derivatives filled in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
from scipy.optimize import Bounds, OptimizeResult

from tapegrad import pytree
from tapegrad.errors import OperationError, StructureError
from tapegrad.optimize.constraints import prepared
from tapegrad.optimize.flat import Nesting, arguments, called_with, off_tape, start
from tapegrad.optimize.replay import Answers, Objective
from tapegrad.optimize.result import Result

# What each method takes besides values.
_GRADIENT, _HESSIAN, _PRODUCT = 1, 2, 4
_METHODS = {
    "nelder-mead": 0,
    "powell": 0,
    "cobyla": 0,
    "cobyqa": 0,
    "cg": _GRADIENT,
    "bfgs": _GRADIENT,
    "l-bfgs-b": _GRADIENT,
    "tnc": _GRADIENT,
    "slsqp": _GRADIENT,
    "newton-cg": _GRADIENT | _PRODUCT,
    "trust-ncg": _GRADIENT | _PRODUCT,
    "trust-krylov": _GRADIENT | _PRODUCT,
    "dogleg": _GRADIENT | _HESSIAN,
    "trust-exact": _GRADIENT | _HESSIAN,
    "trust-constr": _GRADIENT | _HESSIAN | _PRODUCT,
}


def minimize(
    f: Callable[..., Any], x0: Any, args: Any = (), method: Any = None, *, jac: Any = None, hess: Any = None,
    hessp: Any = None, bounds: Any = None, constraints: Any = (), tol: float | None = None, callback: Any = None,
    options: dict[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Minimise f(x, *args) over x by `scipy.optimize.minimize`, with exact derivatives.

    Args:
        f: returns one number; written in NumPy. It is recorded once and replayed at each evaluation, branches included.
        x0: where to start: an array of any shape, a number, or nested tuples, lists, dicts and dataclasses of them. A
            list or tuple of nothing but numbers is a vector, as in SciPy. Integers become floats; all is float64.
        args: further arguments of f, as they are; their arrays are copied when f is recorded. One that is no tuple is
            a single argument.
        method: a method of SciPy, by name, or a function as SciPy describes it. By default SLSQP with constraints,
            L-BFGS-B with bounds, else BFGS.
        jac, hess, hessp: functions to use in place of derivatives of f, called as SciPy calls them, but with x nested
            as x0. `hess` may also be what else SciPy takes there. With `jac=True` f returns its value and its gradient,
            nested as x0, and is called as it is, not recorded: so it may be computed elsewhere, as by
            `tapegrad.dask.value_and_grad`.
        bounds: as in SciPy; for a nested x0 also nested so, with a pair (low, high) in the place of each part.
        constraints: as in SciPy, one or several: `LinearConstraint` (on the vector of all numbers of x),
            `NonlinearConstraint`, or dicts; their functions take x nested as x0. A callable `jac` or `hess` is used; a
            scheme of differences, and a `BFGS()`, which is SciPy's default, is replaced by the derivative.
        tol, options: as in SciPy.
        callback: as in SciPy, with x nested as x0.

    Value and gradient come from one replay. Newton-CG, trust-ncg and trust-krylov get products of the Hessian with
    vectors; dogleg and trust-exact the Hessian; trust-constr the Hessian, of f and of the constraints' functions
    weighted with multipliers: dense below 200 unknowns, else sparse where at most a tenth of the entries can differ
    from zero, else products. Its constraints' Jacobians are sparse by the same rule, if all can be. Nelder-Mead,
    Powell, COBYLA and COBYQA get values.

    Returns SciPy's result. `x`, and the gradient (`jac`, for trust-constr `grad`), are nested as x0; `x_flat` is the
    vector of all numbers. Matrices, and what belongs to constraints, refer to that vector.

    Raises NonScalarError unless f returns one number; OperationError for a method that does not exist, and for a start
    that is not finite, or where f or its gradient is not; DTypeError, StructureError, CutGradientError for an x0 that
    is not made of real numbers; StructureError for what is no constraint; and whatever f raises.

    Source: P. Virtanen et al., "SciPy 1.0: fundamental algorithms for scientific computing in Python", Nature Methods
    17, 2020. Nocedal and Wright, Numerical Optimization, 2nd ed., 2006, has the methods.

    >>> import numpy as np
    >>> def rosenbrock(x):
    ...     return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)
    >>> minimize(rosenbrock, [1.3, 0.7, 0.8, 1.9, 1.2], method="trust-exact", tol=1e-8).x.round(6)
    array([1., 1., 1., 1., 1.])
    >>> fit = minimize(lambda p: (p["a"] - 1.0) ** 2 + np.sum((p["b"] - p["a"]) ** 2), {"a": 0.0, "b": np.zeros(2)})
    >>> round(fit.x["a"], 6), fit.x["b"].round(6)
    (1.0, array([1., 1.]))
    """
    nesting, vector = start(x0, "x0")
    args = arguments(args)
    constraints = () if constraints is None else constraints
    name = _method_name(method, bounds, constraints)
    takes = _METHODS[name] if name else _GRADIENT | _PRODUCT
    _check_derivatives(jac)
    _check_collections(args, jac)
    differentiated = bool(takes & _GRADIENT) and jac is None
    objective = Answers(f, nesting, args) if jac is True else Objective(f, nesting, args, differentiated)
    given: dict[str, Any] = {"jac": None, "hess": hess, "hessp": None}
    if callable(jac):
        given["jac"] = lambda x: nesting.vector(jac(nesting.nest(x), *args), "what jac returns")
    elif takes & _GRADIENT:
        given["jac"] = objective.gradient
    if callable(hess) and not isinstance(hess, scipy.optimize.HessianUpdateStrategy):
        given["hess"] = called_with(hess, nesting, args)
    elif hessp is not None:
        nest = nesting.nest
        given["hessp"] = lambda x, p: nesting.vector(hessp(nest(x), nest(p), *args), "what hessp returns")
    elif hess is None and jac is not True:
        given |= _second(objective, takes)
    with off_tape():
        given["constraints"] = prepared(constraints, nesting, vector, name) if _is_given(constraints) else ()
        result = scipy.optimize.minimize(
            objective.value, vector, method=name or method, bounds=_bounds(bounds, nesting), tol=tol, options=options,
            callback=callback_on(callback, nesting), **given,
        )  # fmt: skip
    return nested(result, nesting)


def _second(objective: Objective, takes: int) -> dict[str, Any]:
    if takes & _HESSIAN and takes & _PRODUCT:
        return {"hess": lambda x: objective.curvature(x).best(x)}
    if takes & _HESSIAN:
        return {"hess": lambda x: objective.curvature(x).dense(x)}
    if takes & _PRODUCT:
        return {"hessp": lambda x, v: objective.curvature(x).product(x, v)}
    return {}


def _method_name(method: Any, bounds: Any, constraints: Any) -> str:
    """A method's name in lower case, SciPy's default where none is given; "" for a function."""
    if callable(method):
        return ""
    if method is None:
        return "slsqp" if _is_given(constraints) else "bfgs" if bounds is None else "l-bfgs-b"
    if not isinstance(method, str) or method.lower() not in _METHODS:
        raise OperationError(f"unknown method {method!r}: it must be one of {', '.join(_METHODS)}, or a function")
    return method.lower()


def _is_given(constraints: Any) -> bool:
    return not isinstance(constraints, list | tuple) or bool(constraints)


def _check_derivatives(jac: Any) -> None:
    if jac is not None and jac is not True and not callable(jac):
        raise OperationError(
            f"jac is {jac!r}: leave it out for the exact gradient, give a function, or say True where f returns its "
            "value and its gradient. Differences are scipy.optimize.minimize's"
        )


def _check_collections(args: tuple[Any, ...], jac: Any) -> None:
    """Raise StructureError where data that lie on a cluster are given to a function that is to be recorded."""
    if jac is not True and any(hasattr(x, "__dask_graph__") for x in pytree.flatten(args)[0]):
        raise StructureError(
            "args hold what Dask computes on a cluster, which a recorded function cannot read. Write f as a function "
            "of one row, and minimize(tapegrad.dask.value_and_grad(f, mean=True), x0, args, jac=True)"
        )


def _bounds(bounds: Any, nesting: Nesting) -> Any:
    if bounds is None or nesting.is_vector or isinstance(bounds, Bounds) or _is_flat(bounds, nesting):
        return bounds
    return nesting.pairs(bounds)


def _is_flat(bounds: Any, nesting: Nesting) -> bool:
    """Whether bounds are one pair for each number, as SciPy takes them."""
    if isinstance(bounds, np.ndarray):
        return True
    if not isinstance(bounds, list | tuple) or len(bounds) != nesting.size:
        return False
    pairs = [b for b in bounds if isinstance(b, tuple | list) and len(b) == 2]
    return len(pairs) == nesting.size and all(end is None or np.isscalar(end) for b in pairs for end in b)


def callback_on(callback: Any, nesting: Nesting) -> Any:
    """A callback that is handed x nested."""
    if callback is None or nesting.is_vector:
        return callback
    # SciPy looks at the name.
    if set(inspect.signature(callback).parameters) == {"intermediate_result"}:

        def with_result(intermediate_result: OptimizeResult) -> Any:
            shown = OptimizeResult(intermediate_result)
            shown.x = nesting.nest(np.array(shown.x))
            return callback(intermediate_result=shown)

        return with_result
    return lambda x, *rest: callback(nesting.nest(np.array(x)), *rest)


def nested(result: OptimizeResult, nesting: Nesting) -> Result:
    """SciPy's result with x and the gradient nested as the start, and `x_flat` beside them."""
    result.x_flat = np.array(result.x, float)
    result.x = nesting.nest(result.x_flat.copy())
    for key in ("jac", "grad"):
        gradient = result.get(key)
        if isinstance(gradient, np.ndarray) and gradient.shape == (nesting.size,):
            result[key] = nesting.nest(gradient)
    return result
