"""Gradients of Numba code: bodies that attract each other, 100 steps in place, recorded anew at every call.

Beside the plain function, of which both return the value; beside JAX; and beside one recording of the same run, which
replays. Times are for each operation of numbers that are differentiated. What the first gradient takes is measured in
processes of their own, one with an empty cache folder (cold) and one after it (warm).
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.compare import Comparison, Ready, phase

BODIES, STEPS, DT = 5, 100, 0.01
MASSES = np.array([1.0, 0.5, 0.3, 0.2, 0.1])


def energy(x: Any) -> Any:
    n = 5
    v = np.zeros_like(x)
    acc = np.zeros_like(x)
    for _ in range(STEPS):
        acc[:, :] = 0.0
        for i in range(n):
            for j in range(i + 1, n):
                d0, d1, d2 = x[i, 0] - x[j, 0], x[i, 1] - x[j, 1], x[i, 2] - x[j, 2]
                r2 = d0 * d0 + d1 * d1 + d2 * d2 + 0.01
                inv = 1.0 / (r2 * math.sqrt(r2))
                acc[i, 0] -= MASSES[j] * d0 * inv
                acc[i, 1] -= MASSES[j] * d1 * inv
                acc[i, 2] -= MASSES[j] * d2 * inv
                acc[j, 0] += MASSES[i] * d0 * inv
                acc[j, 1] += MASSES[i] * d1 * inv
                acc[j, 2] += MASSES[i] * d2 * inv
        for i in range(n):
            for k in range(3):
                v[i, k] += acc[i, k] * DT
                x[i, k] += v[i, k] * DT
    total = 0.0
    for i in range(n):
        for k in range(3):
            total += v[i, k] * v[i, k]
    return total


def _numba(x: Any) -> Ready:
    import numba

    phases: dict[str, float] = {}
    f = numba.njit(energy)
    with phase(phases, "compiling"):
        f(x.copy())
    return Ready(lambda x: f(x.copy()), phases=phases)


def _tapegrad(value_alone: bool, x: Any) -> Ready:
    import numba

    import tapegrad as tg

    phases = first_gradients() if value_alone else {}
    gradient = tg.value_and_grad(numba.njit(energy))
    gradient(x)
    return Ready(gradient, phases=phases, read=(lambda found: found[0]) if value_alone else (lambda found: found))


def first_gradients() -> dict[str, float]:
    """Seconds of the first gradient in a new process, after all is imported: cold, and warm."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("compiling, cold", "loading, warm"):
            done = subprocess.run(
                [sys.executable, "-m", "bench.njit"], capture_output=True, text=True, check=True,
                env=os.environ | {"TAPEGRAD_CACHE": folder, "NUMBA_CACHE_DIR": folder}, cwd=Path(__file__).parents[1],
            )  # fmt: skip
            found[name] = float(json.loads(done.stdout))
    return found


def _jax(x: Any) -> Ready:
    import jax

    jnp = jax.numpy
    jax.config.update("jax_enable_x64", True)
    phases: dict[str, float] = {}

    def step(_: Any, state: Any) -> Any:
        x, v = state
        d = x[:, None] - x[None, :]
        r2 = jnp.sum(d * d, axis=2) + 0.01
        v = v - DT * jnp.sum(MASSES[None, :, None] * d / (r2 * jnp.sqrt(r2))[:, :, None], axis=1)
        return x + DT * v, v

    def whole(x: Any) -> Any:
        return jnp.sum(jax.lax.fori_loop(0, STEPS, step, (x, jnp.zeros_like(x)))[1] ** 2)

    with phase(phases, "compiling"):
        compiled = jax.jit(jax.value_and_grad(whole)).lower(x).compile()
    return Ready(lambda x: jax.block_until_ready(compiled(x)), jnp.asarray, phases=phases)


def _replayed(x: Any) -> Ready:
    import numba

    import tapegrad as tg

    phases: dict[str, float] = {}
    with phase(phases, "recording"):
        recording = tg.record(numba.njit(energy), x, compile=False)
        recording.value_and_grad(x)
    return Ready(recording.value_and_grad, phases=phases)


def _operations(x: Any) -> int:
    import numba

    import tapegrad as tg

    return len(tg.record(numba.njit(energy), x, compile=False))


def _inputs() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(5, BODIES, 3)) * 2.0


def beside_the_function() -> Comparison:
    inputs = _inputs()
    tools = {"tapegrad": partial(_tapegrad, True), "numba, the value": _numba}
    return Comparison("five bodies in Numba, 100 steps: the gradient beside the function", inputs, tools,
                      per=_operations(inputs[0]), unit="operation")  # fmt: skip


def beside_a_recording() -> Comparison:
    inputs = _inputs()
    tools = {"tapegrad": partial(_tapegrad, False), "tapegrad, one recording": _replayed}
    return Comparison("five bodies in Numba, 100 steps: recorded anew, and replayed", inputs, tools,
                      per=_operations(inputs[0]), unit="operation")  # fmt: skip


def beside_jax() -> Comparison:
    inputs = _inputs()
    tools = {"tapegrad": partial(_tapegrad, False), "jax.jit": _jax}
    return Comparison("five bodies, 100 steps: Numba code, and arrays in JAX", inputs, tools,
                      per=_operations(inputs[0]), unit="operation", tolerance=1e-8)  # fmt: skip


COMPARISONS = [beside_the_function, beside_jax, beside_a_recording]


if __name__ == "__main__":
    import numba

    import tapegrad

    _first, _x = tapegrad.value_and_grad(numba.njit(energy)), _inputs()[0]
    _start = time.perf_counter()
    _first(_x)
    sys.stdout.write(json.dumps(time.perf_counter() - _start))
