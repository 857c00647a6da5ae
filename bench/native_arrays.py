"""Programs of long arrays for `bench.native`: Rosenbrock, a Monte Carlo, Heston's model, k-means, a stencil in time,
a convolution stage, single functions of 10,000 elements, bundle adjustment.

A program is written once, with the functions that NumPy, JAX and PyTorch have in common; JAX gets its loops as scans,
and the library's own convolution and pooling, as PyTorch does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from bench import array_memory, sparse, tools
from bench.compare import Comparison, Ready, phase
from bench.native_scalars import TOLERANCE, numba_by_hand
from bench.sparse import chained, jax_compiled


def _some(comparison: Comparison, tools: Sequence[str]) -> Comparison:
    # A comparison of another module, with fewer contestants.
    return dataclasses.replace(comparison, tools={tool: comparison.tools[tool] for tool in tools})


def rosenbrock_gradient(size: int) -> Comparison:
    comparison = _some(sparse.gradient(chained, size), ("tapegrad", "jax"))
    comparison.tools["Numba by hand"] = partial(numba_by_hand, "chained_rosenbrock")
    return comparison


def rosenbrock_hessian(size: int) -> Comparison:
    return _some(sparse.hessian(chained, size), ("tapegrad", "jax, colours by hand, values"))


def bundle_adjustment() -> Comparison:
    return _some(sparse.bundle_adjustment(), ("tapegrad", "jax, blocks by hand, values"))


# A Monte Carlo of four parameters.

PATHS = 100_000


@cache
def normals() -> tuple[np.ndarray]:
    """A normal number for each path."""
    return (np.random.default_rng(50).normal(size=PATHS),)


def _payoff(p: Any, functions: Any, z: Any) -> Any:
    price = functions.exp(p[0] + p[1] * z)
    spread = functions.log(price * price + 1.0)
    return functions.mean(functions.tanh(p[2] * spread) + price * functions.sin(p[3] * z + spread))


def monte_carlo() -> Comparison:
    rng = np.random.default_rng(51)
    inputs = [np.array([0.1, 0.2, 0.5, 1.5]) * (1.0 + 0.05 * rng.normal(size=4)) for _ in range(4)]
    contestants = {tool: partial(getattr(tools, tool), _payoff, data=normals) for tool in ("tapegrad", "jax", "torch")}
    name = f"Monte Carlo with exp, log, tanh and sin, {PATHS} paths, 4 parameters: gradient"
    return Comparison(name, inputs, contestants, tolerance=TOLERANCE)


# Heston's model: a European call by Euler's steps, the variance truncated wherever it is used.

DAYS, STRIKE, RATE = 252, 100.0, 0.02
# Instead of zero, where a square root has no slope.
LEAST_VARIANCE = 1e-12


@cache
def heston_normals() -> tuple[np.ndarray, np.ndarray]:
    """For each day and path what drives the price and, besides that, the variance, with the deviation of a day."""
    rng = np.random.default_rng(52)
    first, second = (rng.standard_normal((DAYS, PATHS)) for _ in range(2))
    for numbers in (first, second):
        numbers *= DAYS**-0.5
    return first, second


def _day(log_price: Any, variance: Any, p: Any, z: Any, other: Any, functions: Any) -> tuple[Any, Any]:
    _, _, speed, mean, by_first, by_second = p
    truncated = functions.maximum(variance, LEAST_VARIANCE)
    volatility = functions.sqrt(truncated)
    log_price = log_price + (volatility * z - (0.5 / DAYS) * truncated)
    variance = variance + (speed / DAYS * (mean - truncated) + volatility * (by_first * z + by_second * other))
    return log_price, variance


def _start(p: Any, z: Any, functions: Any) -> tuple[Any, Any, Any]:
    # The parameters are spot, first variance, speed and mean of its reversion, its volatility, and the correlation.
    numbers = p[0], p[1], p[2], p[3], p[4] * p[5], p[4] * functions.sqrt(1.0 - p[5] * p[5])
    nothing = functions.zeros(z.shape[1])
    return nothing + functions.log(p[0]), nothing + p[1], numbers


def _call(log_price: Any, functions: Any) -> Any:
    return np.exp(-RATE) * functions.mean(functions.maximum(functions.exp(log_price + RATE) - STRIKE, 0.0))


def heston_price(p: Any, functions: Any, first: Any, second: Any) -> Any:
    """The price of the call, in Python's loop."""
    log_price, variance, numbers = _start(p, first, functions)
    for day in range(DAYS):
        log_price, variance = _day(log_price, variance, numbers, first[day], second[day], functions)
    return _call(log_price, functions)


def heston_scan(p: Any, functions: Any, first: Any, second: Any) -> Any:
    """The same in JAX's loop."""
    import jax

    def step(state: Any, given: Any) -> Any:
        return _day(*state, numbers, *given, functions), None

    log_price, variance, numbers = _start(p, first, functions)
    (log_price, _), _ = jax.lax.scan(step, (log_price, variance), (first, second))
    return _call(log_price, functions)


def _replayed(p: np.ndarray) -> Ready:
    # The random numbers are arguments: a recording would keep copies of what it finds around the function.
    import tapegrad as tg

    given = heston_normals()
    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda p, first, second: heston_price(p, np, first, second), p, *given)
    with phase(phases, "compile or load"):
        recording.value_and_grad(p, *given)
    return Ready(lambda p: recording.value_and_grad(p, *given), phases=phases)


def _forward(program: Any) -> Any:
    # Value and gradient, by JAX's tangents.
    import jax

    both = jax.jacfwd(lambda p, *data: (program(p, *data),) * 2, has_aux=True)
    return lambda p, *data: both(p, *data)[::-1]


def heston() -> Comparison:
    rng = np.random.default_rng(53)
    usual = np.array([100.0, 0.04, 2.0, 0.04, 0.5, -0.7])
    contestants = {
        "tapegrad": _replayed,
        "jax, scan, grad": partial(tools.jax, heston_scan, data=heston_normals),
        "jax, scan, jacfwd": partial(tools.jax, heston_scan, data=heston_normals, transform=_forward),
    }
    return Comparison(
        f"Heston, {DAYS} steps, {PATHS} paths: value and six sensitivities",
        [usual * (1.0 + 0.02 * rng.normal(size=6)) for _ in range(3)], contestants,
        tolerance=TOLERANCE, most_rounds=3,
    )  # fmt: skip


# k-means: the program is that of `bench.array_memory`.

POINTS = 10_000


def k_means_gradient() -> Comparison:
    program, centres = array_memory.k_means(POINTS)
    contestants = {tool: partial(getattr(tools, tool), program) for tool in ("tapegrad", "jax")}
    rng = np.random.default_rng(54)
    inputs = [centres + 0.1 * rng.normal(size=centres.shape) for _ in range(3)]
    name = f"k-means, {len(centres)} centres, {POINTS} points of 8 numbers"
    return Comparison(f"{name}: gradient", inputs, contestants, tolerance=TOLERANCE, most_rounds=5)


def _tapegrad_product(program: Any, x: Any) -> Ready:
    import tapegrad as tg

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda x: program(x, np), x[0])
    with phase(phases, "compile or load"):
        recording.hvp(x[:1], x[1:])
    return Ready(lambda x: recording.hvp(x[:1], x[1:]), phases=phases)


def _jax_product(program: Any, x: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)
    gradient = jax.grad(lambda x: program(x, jax.numpy))
    phases: dict[str, float] = {}
    compiled = jax_compiled(phases, lambda x, v: jax.jvp(gradient, (x,), (v,))[1], *x)
    return Ready(
        lambda x: compiled(*x).block_until_ready(), lambda x: tuple(map(jax.numpy.asarray, x)), phases=phases
    )  # fmt: skip


def k_means_product() -> Comparison:
    comparison = k_means_gradient()
    program, centres = array_memory.k_means(POINTS)
    rng = np.random.default_rng(55)
    return dataclasses.replace(
        comparison,
        name=comparison.name.replace("gradient", "Hessian times vector"),
        inputs=[(x, rng.normal(size=centres.shape)) for x in comparison.inputs],
        tools={"tapegrad": partial(_tapegrad_product, program), "jax": partial(_jax_product, program)},
    )


# Reaction and diffusion on a line whose ends are held: u' = u_xx + u - u^3, by Runge and Kutta's steps of fourth order.

CELLS, TIMES, STEP = 100_000, 20, 0.1


def _rate(u: Any, functions: Any) -> Any:
    inner = u[1:-1]
    change = (u[2:] - 2.0 * inner + u[:-2]) + inner - inner * inner * inner
    end = functions.zeros(1)
    return functions.concatenate([end, change, end])


def _advance(u: Any, functions: Any) -> Any:
    k1 = _rate(u, functions)
    k2 = _rate(u + 0.5 * STEP * k1, functions)
    k3 = _rate(u + 0.5 * STEP * k2, functions)
    k4 = _rate(u + STEP * k3, functions)
    return u + STEP / 6.0 * (k1 + 2.0 * (k2 + k3) + k4)


def _at_the_end(u: Any, functions: Any) -> Any:
    for _ in range(TIMES):
        u = _advance(u, functions)
    return functions.sum(u * u)


def _at_the_end_by_scan(u: Any, functions: Any) -> Any:
    # Unrolled, XLA compiles it for half a minute, and what it makes takes 26 times as long.
    import jax

    u, _ = jax.lax.scan(lambda u, _: (_advance(u, functions), None), u, None, length=TIMES)
    return functions.sum(u * u)


def stencil() -> Comparison:
    rng = np.random.default_rng(56)
    contestants = {
        "tapegrad": partial(tools.tapegrad, _at_the_end),
        "jax, scan": partial(tools.jax, _at_the_end_by_scan),
    }
    name = f"reaction and diffusion, {CELLS} components, {TIMES} steps of fourth order: gradient"
    return Comparison(name, list(0.3 * rng.normal(size=(3, CELLS))), contestants, tolerance=TOLERANCE, most_rounds=5)


# Functions of 10,000 elements.

ELEMENTS = 10_000


def _chain(x: Any, functions: Any) -> Any:
    for _ in range(20):
        x = functions.tanh(x)
    return x


# What is no function of NumPy and JAX; or for numbers of one sign only.
OTHERS: dict[str, Callable[[Any, Any], Any]] = {
    "sigmoid": lambda x, functions: 1.0 / (1.0 + functions.exp(-x)),
    "log(1 + x^2)": lambda x, functions: functions.log(1.0 + x * x),
    "20 tanh": _chain,
}  # fmt: skip


def _function(name: str) -> Callable[[Any, Any], Any]:
    return OTHERS.get(name) or (lambda x, functions: getattr(functions, name)(x))


def _value_by_tapegrad(program: Any, x: np.ndarray) -> Ready:
    import tapegrad as tg

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda x: program(x, np), x)
    with phase(phases, "compile or load"):
        recording(x)
    return Ready(recording, phases=phases)


def function_value(name: str) -> Comparison:
    program = _function(name)
    contestants = {
        "tapegrad": partial(_value_by_tapegrad, program),
        "jax": partial(tools.jax, program, transform=lambda program: program),
    }
    inputs = list(np.random.default_rng(57).normal(size=(6, ELEMENTS)))
    return Comparison(f"{name} of {ELEMENTS} elements: value", inputs, contestants, tolerance=TOLERANCE)


def function_gradient(name: str) -> Comparison:
    of = _function(name)

    def program(x: Any, functions: Any) -> Any:
        return functions.sum(of(x, functions))

    contestants = {tool: partial(getattr(tools, tool), program) for tool in ("tapegrad", "jax")}
    inputs = list(np.random.default_rng(58).normal(size=(6, ELEMENTS)))
    return Comparison(f"sum of {name} of {ELEMENTS} elements: gradient", inputs, contestants, tolerance=TOLERANCE)
