"""Derivatives of solutions of differential equations on plain numbers: the adjoint and the variational equation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse
from scipy.integrate import LSODA

from tapegrad.optimize.choice import LEAST
from tapegrad.scipy.ode_numbers import Options, Solution, by_odeint, solve
from tapegrad.scipy.ode_system import Sensitivities, System, chebyshev


def adjoint(
    system: System, solution: Solution, y0: np.ndarray, theta: np.ndarray, times: np.ndarray, weights: np.ndarray,
    options: Options,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """The derivatives of <weights, y> with respect to y0 and theta, by one solution of the adjoint equation.

    w' = -w df/dy and q' = -w df/dtheta are solved from the last time back to the first; at each time w jumps by what
    that time weighs. y is read from the trajectory: integrated backwards with w, it would run away from the solution
    wherever that is stable forwards.
    """
    if times[0] == times[-2]:
        # y is wanted at the start alone.
        return weights.sum(axis=1), np.zeros(system.p)
    if not solution.info["success"]:
        raise ArithmeticError(f"the solution for the way back was not found: {solution.info['message']}")
    n, p = system.n, system.p
    # The equation is linear: weights of the size of 1 make the tolerances mean the same for losses in any unit.
    size = float(np.max(np.abs(weights)))
    weights = weights / size
    state = np.zeros(n + p)
    z = np.concatenate([np.zeros(n), theta])
    trajectory = solution.trajectory

    def slope(t: float, w: np.ndarray) -> np.ndarray:
        t = float(t)
        x, c = trajectory.at(t)
        return system.adjoint_slope(x, c, t, z, w[:n])

    # LSODA takes no sparse matrix, but one by diagonals. How q follows from w is left out of it then.
    band = n - 1 if n + p >= LEAST and issubclass(options.solver, LSODA) else None

    def matrix(t: float, w: np.ndarray) -> Any:
        x, c = trajectory.at(float(t))
        here = np.concatenate([chebyshev(x, c), theta])
        columns = -system.full_jacobian(float(t), here).T
        if not np.isfinite(columns).all():
            raise _failed(t, "a derivative of fun is not finite")
        if band is not None:
            return _by_diagonals(columns[:n], 1, n + p)
        if n + p >= LEAST:
            return scipy.sparse.hstack([columns, scipy.sparse.csc_array((n + p, p))], "csc")
        return np.concatenate([columns, np.zeros((n + p, p))], axis=1)

    # The error of a derivative matters in proportion to what it is taken with respect to.
    scale = np.concatenate([np.max(np.abs(solution.y), axis=1, initial=0.0), np.abs(theta)])
    atol = options.atol_back / np.maximum(1.0, scale)
    march = _March(slope, matrix, atol, options, band)
    for i in range(len(times) - 2, 0, -1):
        state[:n] += weights[:, i - 1]
        if times[i] != times[i - 1] and state.any():
            state = march(times[i], times[i - 1], state)
    return size * state[:n], size * state[n:]


def _by_diagonals(block: np.ndarray, count: int, size: int) -> np.ndarray:
    """A matrix with so many times the same block (n, n) on its diagonal, then zeros, by its 2 n - 1 diagonals."""
    n = len(block)
    one = np.zeros((2 * n - 1, n))
    i, j = np.indices((n, n))
    one[i - j + n - 1, j] = block
    packed = np.zeros((2 * n - 1, size))
    packed[:, : count * n] = np.tile(one, count)
    return packed


class _March:
    """Solves from one time to the next, again and again, each time from another state."""

    def __init__(self, slope: Any, matrix: Any, atol: np.ndarray, options: Options, band: int | None) -> None:
        self._slope, self._matrix, self._atol, self._options, self._band = slope, matrix, atol, options, band
        self._step: float | None = None

    def __call__(self, start: float, end: float, state: np.ndarray) -> np.ndarray:
        """The state at the end. Raises ArithmeticError where the solver fails."""
        options = self._options
        if issubclass(options.solver, LSODA):
            own = replace(options, rtol=options.rtol_back, atol=self._atol, first_step=None)
            times = np.array([start, end, end])
            # Otherwise it would step past the end, where y is not known, and interpolate.
            found = by_odeint(self._slope, self._matrix, state, times, own, self._band, [end])
            return self._checked(found.y[:, -1], found.info["message"], start)
        more: dict[str, Any] = dict(options.steps)
        if options.implicit:
            more["jac"] = self._matrix
        if self._step is not None:
            # About the step that the interval before ended with; found anew it takes two evaluations.
            more["first_step"] = min(self._step, abs(end - start))
        solver = options.solver(self._slope, start, state, end, rtol=options.rtol_back, atol=self._atol, **more)
        if math.isnan(getattr(solver, "h_abs", 0.0)):
            # It would look for a first step for ever.
            raise _failed(start, "a derivative of fun is not a number")
        message = None
        while solver.status == "running":
            message = solver.step()
            if solver.status == "running":
                self._step = solver.step_size
        return self._checked(solver.y if solver.status == "finished" else None, message, solver.t)

    def _checked(self, state: Any, message: Any, t: float) -> np.ndarray:
        if state is None or not np.isfinite(state).all():
            raise _failed(t, message or "not finite")
        return np.asarray(state)


def _failed(t: float, message: str) -> ArithmeticError:
    return ArithmeticError(
        f"the adjoint equation could not be solved back from t = {t:.6g} ({message}), so there is no gradient: try "
        "another method, other tolerances, or sensitivity='forward'"
    )


class Forward:
    """The derivatives of y at the times with respect to y0 and theta, by the variational equation."""

    def __init__(
        self, system: Sensitivities, y0: np.ndarray, theta: np.ndarray, times: np.ndarray, options: Options
    ) -> None:
        base, n, p = system.base, system.base.n, system.base.p
        starts = system.directions - p
        # Directions are so long that the tolerances mean for them what they mean for y.
        scale = np.concatenate([np.maximum(1.0, np.abs(y0))[:starts], np.maximum(1.0, np.abs(theta))])
        rows = np.zeros((system.directions, n))
        rows[:starts] = np.diag(scale[:starts]) if starts else 0.0
        state = np.concatenate([y0, rows.reshape(-1)])

        # By odeint steps are not taken in Python.
        lsoda = issubclass(options.solver, LSODA)
        options = replace(options, method="odeint") if lsoda else options
        band = n - 1 if lsoda and len(state) >= LEAST else None

        def matrix(t: float, z: np.ndarray) -> Any:
            # Without what y does to the derivatives: solvers converge with it in one iteration more.
            own = base.jacobian(t, np.concatenate([z[:n], theta]))
            if len(state) >= LEAST and not lsoda:
                return scipy.sparse.kron(scipy.sparse.eye_array(1 + system.directions), own, "csc")
            dense = own.toarray() if scipy.sparse.issparse(own) else own
            if band is not None:
                return _by_diagonals(dense, 1 + system.directions, len(state))
            return np.kron(np.eye(1 + system.directions), dense)

        found = solve(
            system, state, np.concatenate([theta, scale[starts:]]), times, options.times_over(1 + system.directions),
            False, matrix, band,
        )  # fmt: skip
        if not np.isfinite(found.y).all():
            raise ArithmeticError(
                f"the variational equation could not be solved ({found.info['message']}), so there is no gradient: try "
                "another method or other tolerances"
            )
        # (directions, n, m)
        self._along = found.y[n:].reshape(system.directions, n, -1) / scale[:, None, None]
        self._starts = starts

    def pull(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The derivatives of <weights, y> with respect to y0 and theta."""
        grads = np.einsum("dnm,nm->d", self._along, weights)
        return grads[: self._starts], grads[self._starts :]
