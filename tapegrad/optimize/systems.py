"""Least squares and systems of equations: `scipy.optimize.least_squares` and `root` with Jacobians filled in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
from scipy.optimize import Bounds

from tapegrad.errors import OperationError
from tapegrad.optimize.flat import Nesting, arguments, called_with, off_tape, start
from tapegrad.optimize.minimize import callback_on, nested
from tapegrad.optimize.replay import Residuals
from tapegrad.optimize.result import Result

_ROOT_METHODS = (
    "hybr", "lm", "broyden1", "broyden2", "anderson", "linearmixing", "diagbroyden", "excitingmixing", "krylov",
    "df-sane",
)  # fmt: skip


def least_squares(
    f: Callable[..., Any], x0: Any, args: Any = (), *, sparse: bool | None = None, jac: Any = None,
    bounds: Any = (-np.inf, np.inf), method: str = "trf", kwargs: dict[str, Any] | None = None, callback: Any = None,
    **options: Any,
) -> Result:  # fmt: skip
    """Minimise ½ Σ ρ(f_i(x, *args)²) over x by `scipy.optimize.least_squares`, with the exact Jacobian.

    Args:
        f: returns the residuals: an array, or nested arrays and numbers, which are put one after the other; written in
            NumPy. It is recorded once and replayed at each evaluation.
        x0: where to start, nested or not; see `minimize`.
        args, kwargs: further arguments of f, as they are.
        sparse: whether the Jacobian is a sparse array, for the methods trf and dogbox, which then solve by LSMR. By
            default it is, where there are at least 200 unknowns, at most a tenth of the entries can differ from zero,
            and `tr_solver` is not "exact".
        jac: a function to use in place of the derivative; it takes what f takes and returns (residuals, numbers of x).
        bounds: (low, high), each a number, a vector, or nested as x0; or `scipy.optimize.Bounds`.
        method: "trf", "dogbox" or "lm".
        callback: as in SciPy, with x nested as x0.
        options: what else SciPy takes: ftol, xtol, gtol, x_scale, loss, f_scale, max_nfev, tr_solver, tr_options,
            verbose.

    Returns SciPy's result. `x` and `grad` are nested as x0, `x_flat` is the vector of all numbers; `fun` is the vector
    of residuals and `jac` the Jacobian, (residuals, numbers of x).

    Raises OperationError for an unknown method, a start that is not finite or not within bounds, residuals that are not
    finite there, `sparse=True` where the method or `tr_solver` wants a dense Jacobian, and options for differences;
    what `minimize` raises for x0; and whatever f raises.

    Source: M. A. Branch, T. F. Coleman and Y. Li, "A subspace, interior, and conjugate gradient method for large-scale
    bound-constrained minimization problems", SIAM J. Sci. Comput. 21(1), 1999, for trf; SciPy's reference for the rest.

    >>> import numpy as np
    >>> t = np.linspace(0.0, 2.0, 20)
    >>> y = 1.5 * np.exp(-0.7 * t)
    >>> fit = least_squares(lambda p: p["a"] * np.exp(-p["k"] * t) - y, {"a": 1.0, "k": 0.0})
    >>> round(fit.x["a"], 6), round(fit.x["k"], 6)
    (1.5, 0.7)
    """
    nesting, vector = start(x0, "x0")
    args = arguments(args)
    for name in {"jac_sparsity", "diff_step"} & options.keys():
        raise OperationError(f"{name} is about differences, of which there are none here; see sparse")
    if method not in ("trf", "dogbox", "lm"):
        raise OperationError(f"unknown method {method!r}: it must be one of trf, dogbox, lm")
    dense_only = method == "lm" or options.get("tr_solver") == "exact"
    if sparse and dense_only:
        raise OperationError("sparse=True needs the method trf or dogbox, and not tr_solver='exact'")
    if kwargs:
        f = functools.partial(f, **kwargs)
    residuals = Residuals(f, nesting, args, False if dense_only else sparse)
    own = _jacobian(jac, nesting, args, kwargs) or residuals.jacobian
    if not isinstance(bounds, Bounds):
        bounds = _spread(bounds, nesting)
    if callback is not None:
        options["callback"] = callback_on(callback, nesting)
    with off_tape():
        result = scipy.optimize.least_squares(
            residuals.value, vector, jac=own, bounds=bounds, method=method, **options
        )
    return nested(result, nesting)


def _jacobian(jac: Any, nesting: Nesting, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Any:
    if jac is not None and not callable(jac):
        raise OperationError(f"jac is {jac!r}: leave it out for the exact Jacobian, or give a function")
    return None if jac is None else called_with(functools.partial(jac, **(kwargs or {})), nesting, args)


def _spread(bounds: Any, nesting: Nesting) -> Any:
    if not isinstance(bounds, tuple | list) or len(bounds) != 2:
        raise OperationError("bounds must be a pair (low, high), each a number, a vector, or nested as x0")
    return nesting.spread(bounds[0], "the lower bound"), nesting.spread(bounds[1], "the upper bound")


def root(
    f: Callable[..., Any], x0: Any, args: Any = (), method: str = "hybr", *, jac: Any = None, tol: float | None = None,
    callback: Any = None, options: dict[str, Any] | None = None,
) -> Result:  # fmt: skip
    """Solve f(x, *args) = 0 by `scipy.optimize.root`, with the exact Jacobian.

    Args:
        f: returns as many numbers as x has, nested or not; written in NumPy. It is recorded once and replayed at each
            evaluation.
        x0: where to start, nested or not; see `minimize`.
        args: further arguments of f, as they are.
        method: of SciPy. hybr and lm take the Jacobian, (equations, numbers of x); the others approximate it
            themselves, and get values.
        jac: a function to use in place of the derivative, for hybr and lm; it takes what f takes.
        tol, options: as in SciPy.
        callback: as in SciPy, with x and f nested as they are.

    Returns SciPy's result. `x` is nested as x0 and `fun` as what f returns; `x_flat` is the vector of all numbers.

    Raises OperationError for an unknown method and a start that is not finite; what `minimize` raises for x0; and
    whatever f raises. Whether a root was found is told by `success`.

    Source: M. J. D. Powell, "A hybrid method for nonlinear equations", 1970, and J. J. Moré, B. S. Garbow and
    K. E. Hillstrom, User Guide for MINPACK-1, Argonne, 1980.

    >>> import numpy as np
    >>> round(root(lambda x: x + 2.0 * np.cos(x), 0.3).x, 6)
    -1.029867
    """
    nesting, vector = start(x0, "x0")
    args = arguments(args)
    if not isinstance(method, str) or method.lower() not in _ROOT_METHODS:
        raise OperationError(f"unknown method {method!r}: it must be one of {', '.join(_ROOT_METHODS)}")
    residuals = Residuals(f, nesting, args, sparse=False)
    own = _jacobian(jac, nesting, args, None)
    if own is None and method.lower() in ("hybr", "lm"):
        own = residuals.jacobian

    def on_vectors(x: np.ndarray, value: np.ndarray) -> Any:
        assert residuals.outputs is not None
        return callback(nesting.nest(np.array(x)), residuals.outputs.nest(np.array(value)))

    with off_tape():
        result = scipy.optimize.root(
            residuals.value, vector, method=method, jac=own, tol=tol, options=options,
            callback=None if callback is None else on_vectors,
        )  # fmt: skip
    result = nested(result, nesting)
    if residuals.outputs is not None and np.size(result.fun) == residuals.outputs.size:
        result.fun = residuals.outputs.nest(np.reshape(result.fun, -1))
    return result
