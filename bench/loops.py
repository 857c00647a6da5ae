"""Long loops for `bench.native`: a map of one number, an LSTM cell, Runge-Kutta steps, written with `tg.scan` or
`jax.lax.scan`; and with a limit of memory, where states are computed again by a binomial schedule."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

from bench import tools
from bench.compare import Comparison
from bench.native_scalars import TOLERANCE

LIMIT = 1 << 20


def _scan(functions: Any, limit: int | None) -> Callable[..., Any]:
    if functions is np:
        import tapegrad as tg

        return partial(tg.scan, memory_limit=limit)
    import jax

    return jax.lax.scan


def _comparison(name: str, program: Any, inputs: list[np.ndarray], data: Any = tuple) -> Comparison:
    contestants = {
        "tapegrad": partial(tools.tapegrad, program, data=data),
        "tapegrad, 1 MiB of states": partial(tools.tapegrad, partial(program, limit=LIMIT), data=data),
        "jax, scan": partial(tools.jax, program, data=data),
    }
    return Comparison(name, inputs, contestants, tolerance=TOLERANCE)


# The logistic map, at rates where it settles, so that rounding stays small.

ROUNDS = 1_000_000


def _logistic(p: Any, functions: Any, limit: int | None = None) -> Any:
    def step(x: Any, _: Any) -> Any:
        return p[0] * x * (1.0 - x), None

    return _scan(functions, limit)(step, p[1], None, length=ROUNDS)[0]


def logistic() -> Comparison:
    rng = np.random.default_rng(60)
    inputs = [np.array([rng.uniform(2.0, 2.9), rng.uniform(0.2, 0.8)]) for _ in range(5)]
    return _comparison(f"logistic map, {ROUNDS:,} steps in a scan: gradient", _logistic, inputs)


# An LSTM cell, all gates in one product.

HIDDEN, STEPS = 64, 1000


@cache
def sequence() -> tuple[np.ndarray]:
    """What the inputs add to the gates at each step."""
    return (np.random.default_rng(61).normal(size=(STEPS, 4 * HIDDEN)),)


def _lstm(p: Any, functions: Any, added: Any, limit: int | None = None) -> Any:
    weights = p.reshape(4 * HIDDEN, HIDDEN)

    def step(carry: Any, given: Any) -> Any:
        h, c = carry
        z = weights @ h + given
        gates = 0.5 * functions.tanh(0.5 * z[: 3 * HIDDEN]) + 0.5
        c = gates[HIDDEN : 2 * HIDDEN] * c + gates[:HIDDEN] * functions.tanh(z[3 * HIDDEN :])
        h = gates[2 * HIDDEN :] * functions.tanh(c)
        return (h, c), functions.sum(h * h)

    zeros = functions.zeros(HIDDEN)
    return functions.mean(_scan(functions, limit)(step, (zeros, zeros), added)[1])


def lstm() -> Comparison:
    rng = np.random.default_rng(62)
    inputs = list(0.1 * rng.normal(size=(4, 4 * HIDDEN * HIDDEN)))
    name = f"LSTM cell of {HIDDEN}, {STEPS:,} steps in a scan: gradient"
    return _comparison(name, _lstm, inputs, sequence)


# Lorenz's model of 1996 by Runge and Kutta's method.

SITES, TIMES = 40, 10_000


def _lorenz(x: Any, functions: Any, limit: int | None = None) -> Any:
    def slope(x: Any) -> Any:
        return (functions.roll(x, -1) - functions.roll(x, 2)) * functions.roll(x, 1) - x + 1.0

    def step(x: Any, _: Any) -> Any:
        h = 0.01
        a = slope(x)
        b = slope(x + 0.5 * h * a)
        c = slope(x + 0.5 * h * b)
        return x + h / 6.0 * (a + 2.0 * b + 2.0 * c + slope(x + h * c)), None

    return functions.sum(_scan(functions, limit)(step, x, None, length=TIMES)[0] ** 2)


def runge_kutta() -> Comparison:
    inputs = list(np.random.default_rng(63).normal(size=(4, SITES)))
    return _comparison(f"Lorenz 96 of {SITES}, {TIMES:,} Runge-Kutta steps in a scan: gradient", _lorenz, inputs)
