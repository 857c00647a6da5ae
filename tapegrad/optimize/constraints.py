"""SciPy's constraints, with the derivatives of their functions filled in."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse
from scipy.optimize import BFGS, LinearConstraint, NonlinearConstraint

from tapegrad.errors import OperationError, StructureError
from tapegrad.optimize.flat import Nesting, arguments, called_with
from tapegrad.optimize.replay import Residuals


def prepared(constraints: Any, nesting: Nesting, x0: np.ndarray, method: str) -> list[Any]:
    """Constraints as SciPy takes them, on vectors, with Jacobians, and for trust-constr with Hessians.

    Raises TypeError, OperationError for what is no constraint.
    """
    several = list(constraints) if isinstance(constraints, list | tuple) else [constraints]
    made, ours, sparse = [], [], method == "trust-constr"
    for number, given in enumerate(several):
        if isinstance(given, LinearConstraint):
            made.append(given)
            sparse = sparse and scipy.sparse.issparse(given.A)
            continue
        if isinstance(given, dict):
            constraint, residuals = _from_dict(given, nesting, method, number)
        elif isinstance(given, NonlinearConstraint):
            constraint, residuals = _nonlinear(given, nesting, method)
        else:
            raise StructureError(
                f"constraint {number} is a {type(given).__name__}; a constraint is a LinearConstraint, a "
                "NonlinearConstraint, or a dict with type and fun"
            )
        made.append(constraint)
        if residuals is None:
            sparse = False
        else:
            ours.append(residuals)
    # trust-constr takes Jacobians that are all sparse or all dense.
    sparse = sparse and all(residuals.is_sparse(x0) for residuals in ours)
    for residuals in ours:
        residuals.sparse = sparse
    return made


def _from_dict(given: dict[str, Any], nesting: Nesting, method: str, number: int) -> tuple[Any, Residuals | None]:
    kind = str(given.get("type", "")).lower()
    if kind not in ("eq", "ineq"):
        raise OperationError(f"constraint {number} has type {given.get('type')!r}; it must be 'eq' or 'ineq'")
    if not callable(given.get("fun")):
        raise OperationError(f"constraint {number} has no function 'fun'")
    args = arguments(given.get("args", ()))
    residuals = Residuals(given["fun"], nesting, args)
    own = callable(given.get("jac"))
    jac = called_with(given["jac"], nesting, args) if own else residuals.jacobian
    made: Any
    if method == "trust-constr":
        upper = 0.0 if kind == "eq" else np.inf
        made = NonlinearConstraint(residuals.value, 0.0, upper, jac, residuals.weighted_hessian)
    else:
        made = {"type": kind, "fun": residuals.value, "jac": jac}
    return made, None if own else residuals


def _nonlinear(given: NonlinearConstraint, nesting: Nesting, method: str) -> tuple[Any, Residuals | None]:
    residuals = Residuals(given.fun, nesting, ())
    own = callable(given.jac)
    jac = called_with(given.jac, nesting, ()) if own else residuals.jacobian
    hess = given.hess
    if method != "trust-constr":
        hess = None
    elif type(hess) is BFGS:
        # A `BFGS()` given by the user cannot be told from SciPy's default, which is replaced by the exact Hessian.
        hess = residuals.weighted_hessian
    elif callable(hess):
        hess = lambda x, v: given.hess(nesting.nest(x), v)
    made = NonlinearConstraint(residuals.value, given.lb, given.ub, jac, hess, given.keep_feasible)
    return made, None if own else residuals
