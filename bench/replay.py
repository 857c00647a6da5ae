"""Replay: value and gradient of a recorded program at fresh inputs, per operation of the program as it is written.

Chains of one scalar operation, chains of one array operation, and a leapfrog N-body of 5 bodies and 100 steps.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import programs, tools
from bench.compare import Comparison, Ready, phase

LENGTH = 10_000  # operations in a scalar chain
ELEMENTS, LINKS = 10_000, 20  # elements of an array, operations in an array chain


def _chain(link: Any, links: int, x: Any, functions: Any) -> Any:
    z = x[0]
    for _ in range(links):
        z = link(z, x[1], functions)
    return z


def _array_chain(link: Any, x: Any, functions: Any) -> Any:
    z = x[0]
    for _ in range(LINKS):
        z = link(z, x[1], functions)
    return functions.sum(z)


# Each keeps its argument in a tame range however often it is repeated, at a second operand near one.
CHAINS = {
    "add": lambda z, y, functions: z + y,
    "multiply": lambda z, y, functions: z * y,
    "divide": lambda z, y, functions: z / y,
    "sqrt": lambda z, y, functions: functions.sqrt(z),
    "sin": lambda z, y, functions: functions.sin(z),
    "tanh": lambda z, y, functions: functions.tanh(z),
    "exp": lambda z, y, functions: functions.exp(-z),
}
_OPERATIONS = {"exp": 2}


def _near_one(shape: Any, count: int = 9) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [1.0 + 1e-3 * rng.normal(size=shape) for _ in range(count)]


def scalar_chain(name: str) -> Comparison:
    program = partial(_chain, CHAINS[name], LENGTH)
    return Comparison(
        f"scalar {name}, chain of {LENGTH}", _near_one(2),
        {"tapegrad": partial(tools.tapegrad, program), "casadi": partial(tools.casadi, program)},
        per=LENGTH * _OPERATIONS.get(name, 1), unit="operation",
    )  # fmt: skip


def array_chain(name: str) -> Comparison:
    program = partial(_array_chain, CHAINS[name])
    contestants = {tool: partial(getattr(tools, tool), program) for tool in ("tapegrad", "torch", "jax")}
    return Comparison(
        f"array {name}, {ELEMENTS} elements, chain of {LINKS}", _near_one((2, ELEMENTS)), contestants,
        per=ELEMENTS * LINKS * _OPERATIONS.get(name, 1), unit="element of an operation",
    )  # fmt: skip


def _jax_scan(x: Any) -> Ready:
    # Unrolled, XLA does not get through compiling this; the step is the same code as everybody's.
    import jax

    jax.config.update("jax_enable_x64", True)
    half = 3 * programs.BODIES

    def step(carry: Any, _: Any) -> Any:
        x, v = programs.nbody_step(list(carry[0]), list(carry[1]), jax.numpy.sqrt)
        return (tuple(x), tuple(v)), None

    def program(state: Any) -> Any:
        start = tuple(state[i] for i in range(half)), tuple(state[half + i] for i in range(half))
        (_, v), _ = jax.lax.scan(step, start, None, length=programs.STEPS)
        return programs.kinetic(list(v))

    return _jit(jax, program, x)


def _jax_arrays(x: Any) -> Ready:
    # As somebody who writes for JAX would have it: arrays over bodies inside a scan over steps.
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    masses = np.array(programs.MASSES)
    others = ~np.eye(programs.BODIES, dtype=bool)

    def step(carry: Any, _: Any) -> Any:
        x, v = carry
        d = x[None, :, :] - x[:, None, :]
        r2 = (d * d).sum(-1) + programs.SOFTENING
        strength = jnp.where(others, masses[None, :] / (r2 * jnp.sqrt(r2)), 0.0)
        v = v + programs.DT * (strength[:, :, None] * d).sum(1)
        return (x + programs.DT * v, v), None

    def program(state: Any) -> Any:
        x, v = state.reshape(2, programs.BODIES, 3)
        (_, v), _ = jax.lax.scan(step, (x, v), None, length=programs.STEPS)
        return (v * v).sum()

    return _jit(jax, program, x)


def _jit(jax: Any, program: Any, x: Any) -> Ready:
    phases: dict[str, float] = {}
    with phase(phases, "trace"):
        lowered = jax.jit(jax.value_and_grad(program)).lower(x)
    with phase(phases, "compile"):
        compiled = lowered.compile()
    return Ready(lambda x: jax.block_until_ready(compiled(x)), prepare=jax.numpy.asarray, phases=phases)


def nbody() -> Comparison:
    def program(x: Any, functions: Any) -> Any:
        return programs.nbody(x, functions.sqrt)

    states = programs.nbody_states(6)
    count = programs.operations(lambda x: programs.nbody(x, programs.Counter.sqrt), states[0])
    contestants = {tool: partial(getattr(tools, tool), program) for tool in ("tapegrad", "casadi", "autograd")}
    contestants |= {"jax, scan": _jax_scan, "jax, scan over arrays": _jax_arrays}
    name = f"N-body, {programs.BODIES} bodies, {programs.STEPS} steps, {count} operations"
    return Comparison(name, states, contestants, per=count, unit="operation")


COMPARISONS = [
    *(partial(scalar_chain, name) for name in CHAINS),
    *(partial(array_chain, name) for name in CHAINS),
    nbody,
]
