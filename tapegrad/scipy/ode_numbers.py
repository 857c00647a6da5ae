"""Differential equations on plain numbers, by SciPy's solvers."""

from __future__ import annotations

import functools
import inspect
import warnings
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.integrate
import scipy.sparse
from scipy.integrate import BDF, LSODA, Radau

from tapegrad.scipy.ode_system import System, chebyshev

# Degrees of the polynomials by which SciPy's solvers interpolate; of solvers that are not known, the largest.
_DEGREES = {"RK23": 3, "RK45": 4, "DOP853": 7, "Radau": 3, "BDF": 5}
_LARGEST = 12
# How SciPy's odeint says that nothing went wrong, and how many steps it may take between two times.
_SUCCESSFUL = ("Integration successful.", "Nothing was done; the integration time was 0.")
_STEPS = 10**7


@dataclass(frozen=True)
class Options:
    """How to solve: SciPy's method, or "odeint", and tolerances of the way forward and the way back."""

    method: Any = "RK45"
    rtol: float = 1e-3
    atol: Any = 1e-6
    rtol_back: float = 1e-3
    atol_back: float = 1e-6
    first_step: float | None = None
    # max_step, and min_step for LSODA; for both ways.
    steps: tuple[tuple[str, float], ...] = ()
    mode: str = "auto"

    def times_over(self, count: int) -> Options:
        """The same for a state so many times as large."""
        return self if np.ndim(self.atol) == 0 else replace(self, atol=np.tile(self.atol, count))

    @property
    def solver(self) -> type:
        """SciPy's class."""
        if inspect.isclass(self.method):
            return self.method
        return getattr(scipy.integrate, "LSODA" if self.method == "odeint" else self.method)

    @property
    def implicit(self) -> bool:
        """Whether the solver takes a Jacobian."""
        return issubclass(self.solver, Radau | BDF | LSODA)


@dataclass
class Solution:
    """What a solver found: y at the times, (n, m), NaN from where it failed, and what it says.

    `dense` is SciPy's dense output, or None, and `degree` that of its polynomials.
    """

    y: np.ndarray
    info: dict[str, Any]
    dense: Any = None
    degree: int = _LARGEST

    @functools.cached_property
    def trajectory(self) -> Trajectory:
        """y at any time."""
        return Trajectory(self.dense, self.degree)


def solve(
    system: System, y0: np.ndarray, theta: np.ndarray, times: np.ndarray, options: Options, dense: bool,
    matrix: Any = None, band: int | None = None,
) -> Solution:  # fmt: skip
    """Solve from times[0] to times[-1]; y at the times in between.

    `dense` keeps what the solution at any time takes. `matrix` gives the Jacobian in place of `system.jacobian`; for
    odeint by diagonals where `band` says how many there are on either side of the main one.
    """
    z = np.concatenate([y0, theta])
    n = len(y0)
    jacobian = matrix or system.jacobian

    def at(f: Any) -> Any:
        def called(t: float, y: np.ndarray) -> Any:
            z[:n] = y
            return f(float(t), z)

        return called

    if np.isnan(at(system.value)(times[0], y0)).any():
        # SciPy's solvers look for a first step for ever.
        return _nothing(n, times, "fun is not a number at the start")
    try:
        return _by_scipy(at(system.value), at(_finite(jacobian)), y0, times, options, dense, band)
    except _NotFinite as error:
        return _nothing(n, times, str(error))


class _NotFinite(ArithmeticError):
    """A Jacobian is not finite, which ends the solution."""


def _nothing(n: int, times: np.ndarray, message: str) -> Solution:
    info = {"nfev": 0, "njev": 0, "nlu": 0, "status": -1, "message": message, "success": False}
    return Solution(np.full((n, len(times) - 2), np.nan), info)


def _finite(jacobian: Any) -> Any:
    def checked(t: float, z: np.ndarray) -> Any:
        found = jacobian(t, z)
        if not np.isfinite(found.data if scipy.sparse.issparse(found) else found).all():
            # SciPy's own error would be about an array that nobody knows.
            raise _NotFinite(f"the derivative of fun with respect to y is not finite at t = {t:.6g}")
        return found

    return checked


def _by_scipy(
    slope: Any, jacobian: Any, y0: np.ndarray, times: np.ndarray, options: Options, dense: bool, band: int | None
) -> Solution:
    # Times may be repeated, which SciPy's solve_ivp refuses.
    wanted = times[1:-1]
    first = np.concatenate([[True], np.diff(wanted) != 0.0])[: len(wanted)]
    inverse = np.cumsum(first) - 1
    if options.method == "odeint" and not dense:
        return by_odeint(slope, jacobian, y0, times, options, band)
    own = dict(options.steps)
    if options.implicit:
        own["jac"] = jacobian
    method = "LSODA" if options.method == "odeint" else options.method
    result = scipy.integrate.solve_ivp(
        slope, (times[0], times[-1]), y0, method, wanted[first], dense_output=dense, rtol=options.rtol,
        atol=options.atol, first_step=options.first_step, **own,
    )  # fmt: skip
    info = {name: result[name] for name in ("nfev", "njev", "nlu", "status", "message", "success")}
    y = np.full((len(y0), int(first.sum())), np.nan)
    found = np.reshape(result.y, (len(y0), -1)) if len(result.y) else np.zeros((len(y0), 0))
    y[:, : found.shape[1]] = found
    if info["success"] and not np.isfinite(y).all():
        # LSODA takes NaN for an answer.
        info |= {"success": False, "status": -1, "message": "y is not finite"}
    return Solution(y[:, inverse], info, result.sol, _DEGREES.get(options.solver.__name__, _LARGEST))


def by_odeint(
    slope: Any, matrix: Any, y0: np.ndarray, times: np.ndarray, options: Options, band: int | None, tcrit: Any = None
) -> Solution:
    """By SciPy's odeint, whose steps are not taken in Python."""
    own = {{"max_step": "hmax", "min_step": "hmin"}[name]: x for name, x in options.steps}
    with warnings.catch_warnings():
        # What it warns of is in the message.
        warnings.simplefilter("ignore", scipy.integrate.ODEintWarning)
        y, more = scipy.integrate.odeint(
            slope, y0, times[:-1], Dfun=matrix, full_output=True, rtol=options.rtol, atol=options.atol, tfirst=True,
            h0=options.first_step or 0.0, mxstep=_STEPS, ml=band, mu=band, tcrit=tcrit, **own,
        )  # fmt: skip
    success, message = more["message"] in _SUCCESSFUL, more["message"]
    if success and not np.isfinite(y).all():
        success, message = False, "y is not finite"
    found = y[1:].T.copy()
    if not success:
        # Where it ends it leaves what memory held.
        found[:] = np.nan
    last = {name: int(more[name][-1]) if len(more[name]) else 0 for name in ("nfe", "nje")}
    info = {"nfev": last["nfe"], "njev": last["nje"], "nlu": 0, "message": message, "success": success}
    return Solution(found, info | {"status": 0 if success else -1})


class Trajectory:
    """A solution at any time: for each step of the solver the coefficients of Chebyshev polynomials.

    All of SciPy's solvers interpolate by polynomials. Evaluated by their own objects these take longer than the
    right-hand side mostly does.
    """

    def __init__(self, sol: Any, degree: int) -> None:
        ts = np.asarray(sol.ts)
        count = degree + 1
        angles = np.pi * (np.arange(count) + 0.5) / count
        middles, halves = 0.5 * (ts[1:] + ts[:-1]), 0.5 * (ts[1:] - ts[:-1])
        nodes = middles[:, None] + halves[:, None] * np.cos(angles)
        y = sol(nodes.reshape(-1)).reshape(-1, len(nodes), count)
        transform = (2.0 / count) * np.cos(np.outer(np.arange(count), angles))
        transform[0] *= 0.5
        # Lists, because an element of one is had in a fraction of the time.
        self._middles, self._halves = middles.tolist(), halves.tolist()
        self._coefficients = list(np.ascontiguousarray(np.einsum("nsi,ki->skn", y, transform)))
        self._sign = 1.0 if ts[-1] >= ts[0] else -1.0
        self._breaks = (self._sign * ts).tolist()

    def at(self, t: float) -> tuple[float, np.ndarray]:
        """Where t stands in its step, from -1 to 1, and the coefficients of the step."""
        i = min(max(bisect_right(self._breaks, self._sign * t) - 1, 0), len(self._coefficients) - 1)
        return (t - self._middles[i]) / self._halves[i], self._coefficients[i]

    def y(self, t: float) -> np.ndarray:
        """y at t."""
        return np.asarray(chebyshev(*self.at(t)))
