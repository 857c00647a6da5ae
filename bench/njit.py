"""Gradients of Numba code: bodies that attract each other, 100 steps in place, recorded anew at every call.

Beside the plain function, of which both return the value; and beside one recording of the same run, which replays.
Times are for each operation that is recorded.
"""

from __future__ import annotations

import math
from functools import partial
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

    phases: dict[str, float] = {}
    gradient = tg.value_and_grad(numba.njit(energy))
    with phase(phases, "compiling"):
        gradient(x)
    return Ready(gradient, phases=phases, read=(lambda found: found[0]) if value_alone else (lambda found: found))


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


COMPARISONS = [beside_the_function, beside_a_recording]
