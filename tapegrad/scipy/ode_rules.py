"""The solution of a differential equation as one instruction on a tape, and its derivatives of any order.

The rules rest on one thing: the tangent of a solution is a part of the solution of another equation, y' = f together
with its variational equation. So the derivative of a gradient <w, dy> is a gradient through that larger solution, and
its derivative is one through a larger one still. No order needs formulas of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.integrate import LSODA

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation
from tapegrad.calls.call import Rules, call
from tapegrad.calls.custom import stop_gradient
from tapegrad.errors import warn
from tapegrad.functions import stack
from tapegrad.recording import Known
from tapegrad.scipy import ode_numbers
from tapegrad.scipy.ode_jumps import first_jump
from tapegrad.scipy.ode_numbers import Options, Solution
from tapegrad.scipy.ode_sensitivity import Forward, adjoint
from tapegrad.scipy.ode_system import Sensitivities, System, Tangent
from tapegrad.value import Value

# Where the sensitivities of all directions make no more numbers than this, solving for them takes less time than the
# adjoint equation, which starts anew at each time. Implicit solvers factorise a matrix of that size.
_FEW = {"explicit": 256, "LSODA": 128, "implicit": 64}


class Solve(Rules):
    """y at times, (n, m), of (y0, theta, times): the first time is where y0 stands, up to the last one it is solved.

    Args:
        system: the right-hand side.
        options: how to solve.
        wanted: for each of the three arguments whether it can be differentiated.
    """

    def __init__(self, system: System, options: Options, wanted: tuple[bool, bool, bool]) -> None:
        self.system, self.options, self.wanted = system, options, wanted
        self.recorded_functions = (system,)
        self.name = "the solution of a differential equation"
        self._forget()

    def _forget(self) -> None:
        self._both = Known(self.both)
        # The solution found last, and the sensitivities, each with the arguments as bytes.
        self._last: tuple[bytes, Solution] | None = None
        self._forward: tuple[bytes, Forward] | None = None
        self._sensitivities: Sensitivities | None = None
        self._tangent: Solve | None = None

    def __getstate__(self) -> dict[str, Any]:
        made = ("_both", "_last", "_forward", "_sensitivities", "_tangent")
        return {name: x for name, x in self.__dict__.items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        self._forget()

    @property
    def info(self) -> dict[str, Any]:
        """What the solver said at the last solution."""
        return {} if self._last is None else self._last[1].info

    @property
    def forward(self) -> bool:
        """Whether gradients come from the variational equation of all directions."""
        if self.options.mode != "auto":
            return self.options.mode == "forward"
        solver = self.options.solver
        kind = "LSODA" if issubclass(solver, LSODA) else "implicit" if self.options.implicit else "explicit"
        return self.system.n * (1 + self._directions()) <= _FEW[kind]

    def _directions(self) -> int:
        return (self.system.n if self._starts() else 0) + self.system.p

    def _starts(self) -> bool:
        # When the first time moves, the state there moves along the solution.
        return self.wanted[0] or self.wanted[2]

    def solution(self, args: tuple[Any, ...], dense: bool) -> Solution:
        """The solution at plain numbers, the last one where the arguments are the same."""
        y0, theta, times = _numbers(args)
        key = b"|".join(x.tobytes() for x in (y0, theta, times))
        last = self._last
        if last is None or last[0] != key or (dense and last[1].dense is None):
            last = self._last = key, ode_numbers.solve(self.system, y0, theta, times, self.options, dense)
        return last[1]

    def value(self, args: tuple[Any, ...]) -> Any:
        """y at the times; NaN where the solver did not come to."""
        solution = self.solution(args, not self.forward and self.options.method != "odeint")
        if not solution.info["success"]:
            warn(
                f"{self.name} was not found up to the last time, and is NaN from there on: {solution.info['message']}",
                RuntimeWarning,
            )
        return solution.y

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        """By the adjoint equation or by sensitivities."""
        if _on_values(args, cotangent):
            found = iter(call(Pulled(self), (*args, cotangent)))
            return [next(found) if wanted else None for wanted in self.wanted]
        y0, theta, times = _numbers(args)
        (weights,) = _numbers((cotangent,))
        own = list(zip((y0, theta, times), self.wanted, strict=True))
        if not weights.any():
            return [np.zeros(x.shape) if w else None for x, w in own]
        if not (np.isfinite(result).all() and np.isfinite(weights).all()):
            # There is no solution, or the loss is not finite: nor is there a gradient, and NaN says so.
            return [np.full(x.shape, np.nan) if w else None for x, w in own]
        self._warn_of_jumps((y0, theta, times))
        if self.forward:
            by_start, by_theta = self._sensitivity(y0, theta, times).pull(weights)
        else:
            solution = self.solution((y0, theta, times), dense=True)
            by_start, by_theta = adjoint(self.system, solution, y0, theta, times, weights, self.options)
        by_times = None
        if self.wanted[2]:
            by_times = np.zeros(times.shape)
            by_times[0] = -by_start @ self._slope(times[0], y0, theta)
            for j in range(weights.shape[1]):
                by_times[j + 1] = weights[:, j] @ self._slope(times[j + 1], result[:, j], theta)
        return [by_start if self.wanted[0] else None, by_theta if self.wanted[1] else None, by_times]

    def _warn_of_jumps(self, args: tuple[Any, ...]) -> None:
        if not self.system.branches:
            return
        at = first_jump(self.system, self.solution(args, dense=True), _numbers(args)[1], self.options)
        if at is not None:
            warn(
                f"{self.name}: the right-hand side{self._what} jumps at t = {at:.6g}, where the state or a parameter "
                "crosses a branch. The time of the jump moves with them, which the derivative leaves out: it is wrong. "
                "Make the right-hand side continuous, or solve up to the jump and from it, with the time found by "
                "tg.implicit_root",
                RuntimeWarning,
            )

    @property
    def _what(self) -> str:
        return ", or a derivative of it," if isinstance(self.system, Tangent) else ""

    def _sensitivity(self, y0: np.ndarray, theta: np.ndarray, times: np.ndarray) -> Forward:
        key = b"|".join(x.tobytes() for x in (y0, theta, times))
        known = self._forward
        if known is None or known[0] != key:
            if self._sensitivities is None:
                self._sensitivities = Sensitivities(self.system, self._starts())
            known = self._forward = key, Forward(self._sensitivities, y0, theta, times, self.options)
        return known[1]

    def _slope(self, t: Any, y: Any, theta: Any) -> Any:
        if _on_values((t, y, theta)):
            return self.system.f(t, y, theta)
        return self.system.value(float(t), np.concatenate(_numbers((y, theta))))

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        """By the variational equation."""
        if not _on_values(args, tangents):
            self._warn_of_jumps(args)
        return self.both(*args, *tangents)[1]

    def both(self, y0: Any, theta: Any, times: Any, s0: Any, along: Any, moved: Any) -> tuple[Any, Any]:
        """y at the times and its derivative along tangents of the arguments, of which None is zero."""
        if self._tangent is None:
            options = self.options.times_over(2)
            self._tangent = Solve(self.system.tangent(), options, (True, True, self.wanted[2]))
        # The derivative is proportional to the tangents. These are made as long as 1 first, so that the tolerances mean
        # for them what they mean for y; how long they were is a number here, because nothing depends on it.
        given = [x for x in (s0, along, moved) if x is not None and np.size(x)]
        length: Any = 1.0
        if given:
            largest = stop_gradient(np.max(np.concatenate([np.abs(x) for x in given])))
            length = np.where(largest > 0.0, largest, 1.0)
        start = np.zeros(self.system.n) if s0 is None else s0 / length
        if moved is not None:
            start = start - self._slope(times[0], y0, theta) * (moved[0] / length)
        more = np.zeros(self.system.p) if along is None else along / length
        found = call(self._tangent, (np.concatenate([y0, start]), np.concatenate([theta, more]), times))
        y, tangent = found[: self.system.n], found[self.system.n :]
        if moved is not None:
            slopes = [self._slope(times[j + 1], y[:, j], theta) * (moved[j + 1] / length) for j in range(y.shape[1])]
            tangent = tangent + (stack(slopes, 1) if evaluation.holds_values(slopes) else np.stack(slopes, 1))
        return y, tangent * length

    def pull_both(self, args: tuple[Any, ...], tangents: tuple[Any, ...], cotangents: tuple[Any, Any]) -> Any:
        """`both`, and the derivative of <cotangents, both> with respect to y0, theta and times."""
        if _on_values(args, tangents, cotangents):
            result, back = derivatives.vjp(lambda *own: self.both(*own, *tangents), args)
            return result, back(cotangents)
        given = *args, *tangents
        result, back = self._both.at(given)[0].vjp(*given)
        return result, back(cotangents)[:3]


class Pulled(Rules):
    """The gradient of <weights, y> with respect to the arguments of a solution that are wanted, as a tuple."""

    def __init__(self, solve: Solve) -> None:
        self.solve = solve
        self.recorded_functions = (solve.system,)
        self.name = "the gradient through a differential equation"

    def value(self, args: tuple[Any, ...]) -> Any:
        """The gradient."""
        *own, weights = args
        result = self.solve.solution(tuple(own), dense=not self.solve.forward).y
        return self._wanted(self.solve.pull(tuple(own), result, weights))

    def _wanted(self, grads: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(g for g, wanted in zip(grads, self.solve.wanted, strict=True) if wanted)

    def pull(self, args: tuple[Any, ...], result: Any, cotangent: Any) -> Sequence[Any]:
        """<cotangent, gradient> is the weighted derivative of y along the cotangent."""
        *own, weights = args
        given = iter(cotangent)
        along = tuple(next(given) if wanted else None for wanted in self.solve.wanted)
        (_, tangent), grads = self.solve.pull_both(tuple(own), along, (None, weights))
        return *(g if w else None for g, w in zip(grads, self.solve.wanted, strict=True)), tangent

    def push(self, args: tuple[Any, ...], result: Any, tangents: tuple[Any, ...]) -> Any:
        """The same, with tangents of the weights besides."""
        *own, weights = args
        *along, by_weights = tangents
        _, grads = self.solve.pull_both(tuple(own), tuple(along), (by_weights, weights))
        return self._wanted(grads)


def _numbers(args: Sequence[Any]) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(x, float) for x in args)


def _on_values(*given: Any) -> bool:
    leaves = pytree.flatten(given)[0]
    return any(isinstance(x, Value) for x in leaves)
