"""Gradients through solutions of differential equations, against JAX's odeint (its adjoint, by a Dormand-Prince method
that is compiled with the rest).

The sum of squares of a fit: of a predator-prey system with four rates and two starts, at 50 times; and of a network
8-32-8 as right-hand side, 552 parameters, at 20 times. Both tools have the same tolerances. What they compute is right
to those tolerances only, so they agree to 1e-5, not to rounding. tapegrad's `odeint` is SciPy's LSODA, whose steps are
taken in C and whose right-hand sides are calls of Python; DOP853 takes its steps in Python.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from bench.compare import Comparison, Ready, phase

TOLERANCE = 1e-8
INPUTS = 5


def _tapegrad(loss: Callable[..., Any], method: str, sensitivity: str, x: Any) -> Ready:
    import tapegrad as tg
    from tapegrad.scipy.integrate import odeint, solve_ivp

    def solve(slope: Any, start: Any, times: Any, *args: Any) -> Any:
        if method == "odeint":
            return odeint(
                slope, start, times, args, rtol=TOLERANCE, atol=TOLERANCE, tfirst=True, sensitivity=sensitivity
            )
        return solve_ivp(
            slope, (times[0], times[-1]), start, method, times, args=args, rtol=TOLERANCE, atol=TOLERANCE,
            sensitivity=sensitivity,
        ).y.T  # fmt: skip

    phases: dict[str, float] = {}
    gradient = tg.value_and_grad(lambda x: loss(x, np, solve))
    with phase(phases, "first call"):
        gradient(x)
    return Ready(gradient, phases=phases)


def _jax(loss: Callable[..., Any], x: Any) -> Ready:
    import jax
    from jax.experimental.ode import odeint

    jax.config.update("jax_enable_x64", True)

    def solve(slope: Any, start: Any, times: Any, *args: Any) -> Any:
        return odeint(
            lambda y, t, *args: slope(t, y, *args), start, times, *args, rtol=TOLERANCE, atol=TOLERANCE
        )

    phases: dict[str, float] = {}
    gradient = jax.jit(jax.value_and_grad(lambda x: loss(x, jax.numpy, solve)))
    with phase(phases, "first call"):
        jax.block_until_ready(gradient(jax.numpy.asarray(x)))
    return Ready(lambda x: jax.block_until_ready(gradient(x)), jax.numpy.asarray, phases=phases)


def _tools(loss: Callable[..., Any]) -> dict[str, Callable[[Any], Ready]]:
    return {
        "tapegrad": partial(_tapegrad, loss, "odeint", "auto"),
        "tapegrad, adjoint": partial(_tapegrad, loss, "odeint", "adjoint"),
        "tapegrad, DOP853, adjoint": partial(_tapegrad, loss, "DOP853", "adjoint"),
        "jax": partial(_jax, loss),
    }


def predators() -> Comparison:
    rng = np.random.default_rng(0)
    times = np.linspace(0.0, 20.0, 50)
    data = rng.lognormal(size=(50, 2))
    inputs = np.array([1.0, 0.5, 0.4, 0.8, 1.5, 1.0]) * np.exp(0.05 * rng.normal(size=(INPUTS, 6)))

    def loss(x: Any, functions: Any, solve: Any) -> Any:
        def slope(t: Any, y: Any, rates: Any) -> Any:
            both = y[0] * y[1]
            return functions.stack([rates[0] * y[0] - rates[1] * both, rates[2] * both - rates[3] * y[1]])

        return functions.sum((solve(slope, x[4:], times if functions is np else functions.asarray(times), x[:4])
                              - data) ** 2)  # fmt: skip

    return Comparison("fit of a predator-prey system, 6 unknowns, 50 times", inputs, _tools(loss), tolerance=1e-5)


def network() -> Comparison:
    rng = np.random.default_rng(1)
    n, hidden = 8, 32
    times = np.linspace(0.0, 2.0, 20)
    start, data = rng.normal(size=n), rng.normal(size=(20, n))
    inputs = rng.normal(size=(INPUTS, 2 * n * hidden + hidden + n)) / np.sqrt(n)

    def loss(x: Any, functions: Any, solve: Any) -> Any:
        def slope(t: Any, y: Any, x: Any) -> Any:
            ends = np.cumsum([n * hidden, hidden, n * hidden]).tolist()
            inner = functions.tanh(x[: ends[0]].reshape(hidden, n) @ y + x[ends[0] : ends[1]])
            return 0.3 * (x[ends[1] : ends[2]].reshape(n, hidden) @ inner + x[ends[2] :]) - 0.5 * y

        at = times if functions is np else functions.asarray(times)
        return functions.sum((solve(slope, start if functions is np else functions.asarray(start), at, x) - data) ** 2)

    return Comparison(
        "fit of a network 8-32-8 as right-hand side, 552 unknowns, 20 times", inputs, _tools(loss), tolerance=1e-5
    )


COMPARISONS = [predators, network]
