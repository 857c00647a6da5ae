"""One program over many inputs: gradients of an N-body at 10,000 starting points, and Heston's sensitivities as a mean
over lanes, one lane a path.

tapegrad's programs are compiled when they are set up, since a batch of this length is what they are compiled for. Times
of the N-body are for one lane.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import programs
from bench.compare import Comparison, Ready, phase
from bench.native_arrays import DAYS, PATHS, RATE, STRIKE, _day, heston, heston_normals

LANES = 10_000
# Lanes are as far apart as starting points of other comparisons are.
TOLERANCE = 1e-9


def _nbody(state: Any) -> Any:
    return programs.nbody(state, np.sqrt)


def _tapegrad(threads: int, x: np.ndarray) -> Ready:
    import tapegrad as tg

    phases: dict[str, float] = {}
    both = tg.vmap(tg.value_and_grad(_nbody), compile=True, threads=threads)
    with phase(phases, "record and compile or load"):
        both(x)
    return Ready(both, phases=phases)


def _jax(x: np.ndarray) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)

    def nbody(state: Any) -> Any:
        half = 3 * programs.BODIES

        def step(carry: Any, _: Any) -> Any:
            x, v = programs.nbody_step(list(carry[0]), list(carry[1]), jax.numpy.sqrt)
            return (jax.numpy.stack(x), jax.numpy.stack(v)), None

        (_, v), _ = jax.lax.scan(step, (state[:half], state[half:]), None, programs.STEPS)
        return programs.kinetic(list(v))

    phases: dict[str, float] = {}
    with phase(phases, "trace and compile"):
        compiled = jax.jit(jax.vmap(jax.value_and_grad(nbody))).lower(jax.numpy.asarray(x)).compile()
    return Ready(lambda x: jax.block_until_ready(compiled(x)), prepare=jax.numpy.asarray, phases=phases)


def _casadi(x: np.ndarray) -> Ready:
    import casadi as ca

    phases: dict[str, float] = {}
    with phase(phases, "record and differentiate"):
        symbol = ca.SX.sym("x", x.shape[1])
        value = programs.nbody(symbol, ca.sqrt)
        f = ca.Function("f", [symbol], [value, ca.gradient(value, symbol)])
        mapped = f.map(len(x), "serial")

    def run(x: Any) -> Any:
        value, gradient = mapped(x)
        return np.asarray(value)[0], np.asarray(gradient).T

    return Ready(run, prepare=lambda x: np.asfortranarray(x.T), phases=phases)


def nbody() -> Comparison:
    states = [np.array(programs.nbody_states(LANES, seed)) for seed in (60, 60, 60)]
    for k, state in enumerate(states):
        state *= 1.0 + 0.001 * k
    contestants = {
        "tapegrad": partial(_tapegrad, 1), "tapegrad, two threads": partial(_tapegrad, 2), "jax, vmap, scan": _jax,
        "casadi, map": _casadi,
    }  # fmt: skip
    return Comparison(
        f"N-body, {programs.STEPS} steps, {LANES} inputs: value and gradient of each", states, contestants, per=LANES,
        unit="lane", tolerance=TOLERANCE, most_rounds=5,
    )  # fmt: skip


def _path(p: Any, z: Any, other: Any) -> Any:
    """What one path pays."""
    numbers = p[0], p[1], p[2], p[3], p[4] * p[5], p[4] * np.sqrt(1.0 - p[5] * p[5])
    log_price, variance = np.log(p[0]), p[1]
    for day in range(DAYS):
        log_price, variance = _day(log_price, variance, numbers, z[day], other[day], np)
    return np.exp(-RATE) * np.maximum(np.exp(log_price + RATE) - STRIKE, 0.0)


def _mean_of_paths(threads: int, p: np.ndarray) -> Ready:
    import tapegrad as tg

    first, second = heston_normals()
    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(_path, p, first[:, 0], second[:, 0], compile=True)

    def run(p: np.ndarray) -> Any:
        return recording.batch.value_and_grad_sum(
            p, first, second, in_axes=(None, 1, 1), mean=True, threads=threads
        )

    with phase(phases, "compile or load"):
        run(p)
    return Ready(run, phases=phases)


def heston_in_lanes() -> Comparison:
    """The comparison of `bench.native`, and the same as a mean over a batch."""
    found = heston()
    arrays = found.tools.pop("tapegrad")
    found.tools = {
        "tapegrad": partial(_mean_of_paths, 1), "tapegrad, two threads": partial(_mean_of_paths, 2),
        "tapegrad, arrays of paths": arrays, **found.tools,
    }  # fmt: skip
    found.name = f"Heston, {DAYS} steps, mean over {PATHS} lanes: value and six sensitivities"
    return found


COMPARISONS = (nbody, heston_in_lanes)
