"""Gradients written by hand and compiled by Numba, as somebody would who has the time. Each is compiled at its
first call; the module is imported only where they run, as importing Numba takes a while."""

from __future__ import annotations

import math

import numba
import numpy as np

from bench.programs import BODIES, DT, MASSES, SOFTENING

_MASSES = np.array(MASSES)
_HALF = 3 * BODIES


@numba.njit(error_model="numpy")
def _pull(x, v, masses):
    # One leapfrog step, in place.
    for i in range(BODIES):
        for j in range(i + 1, BODIES):
            d0 = x[3 * i] - x[3 * j]
            d1 = x[3 * i + 1] - x[3 * j + 1]
            d2 = x[3 * i + 2] - x[3 * j + 2]
            square = d0 * d0 + d1 * d1 + d2 * d2 + SOFTENING
            strength = DT / (square * math.sqrt(square))
            a, b = masses[j] * strength, masses[i] * strength
            v[3 * i] -= a * d0
            v[3 * i + 1] -= a * d1
            v[3 * i + 2] -= a * d2
            v[3 * j] += b * d0
            v[3 * j + 1] += b * d1
            v[3 * j + 2] += b * d2
    for k in range(_HALF):
        x[k] += DT * v[k]


@numba.njit(error_model="numpy")
def _pull_back(x, masses, x_bar, v_bar):
    # The adjoint of `_pull`, in place; x are the positions before the step, on which alone its strengths depend.
    for k in range(_HALF):
        v_bar[k] += DT * x_bar[k]
    for i in range(BODIES):
        for j in range(i + 1, BODIES):
            d0 = x[3 * i] - x[3 * j]
            d1 = x[3 * i + 1] - x[3 * j + 1]
            d2 = x[3 * i + 2] - x[3 * j + 2]
            square = d0 * d0 + d1 * d1 + d2 * d2 + SOFTENING
            strength = DT / (square * math.sqrt(square))
            # Of the vector strength * d, which is what both velocities have taken a multiple of.
            f0 = masses[i] * v_bar[3 * j] - masses[j] * v_bar[3 * i]
            f1 = masses[i] * v_bar[3 * j + 1] - masses[j] * v_bar[3 * i + 1]
            f2 = masses[i] * v_bar[3 * j + 2] - masses[j] * v_bar[3 * i + 2]
            along = -3.0 * strength / square * (f0 * d0 + f1 * d1 + f2 * d2)
            f0 = f0 * strength + along * d0
            f1 = f1 * strength + along * d1
            f2 = f2 * strength + along * d2
            x_bar[3 * i] += f0
            x_bar[3 * i + 1] += f1
            x_bar[3 * i + 2] += f2
            x_bar[3 * j] -= f0
            x_bar[3 * j + 1] -= f1
            x_bar[3 * j + 2] -= f2


@numba.njit(error_model="numpy")
def _nbody(state, steps, masses):
    x, v = state[:_HALF].copy(), state[_HALF:].copy()
    before = np.empty((steps, _HALF))
    for step in range(steps):
        before[step] = x
        _pull(x, v, masses)
    value = 0.0
    gradient = np.zeros(2 * _HALF)
    x_bar, v_bar = gradient[:_HALF], gradient[_HALF:]
    for k in range(_HALF):
        value += v[k] * v[k]
        v_bar[k] = 2.0 * v[k]
    for step in range(steps - 1, -1, -1):
        _pull_back(before[step], masses, x_bar, v_bar)
    return value, gradient


def nbody(state: np.ndarray, steps: int) -> tuple[float, np.ndarray]:
    """Value and gradient of `programs.nbody`: positions are kept on the way forward, and read on the way back."""
    return _nbody(state, steps, _MASSES)


@numba.njit(error_model="numpy")
def least_squares(p: np.ndarray, rows: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Value and gradient of the sum over rows of (row . p - target)^2, in one pass."""
    value = 0.0
    gradient = np.zeros(p.size)
    for i in range(targets.size):
        error = -targets[i]
        for j in range(p.size):
            error += rows[i, j] * p[j]
        value += error * error
        for j in range(p.size):
            gradient[j] += 2.0 * error * rows[i, j]
    return value, gradient


@numba.njit(error_model="numpy")
def chained_rosenbrock(x: np.ndarray) -> np.ndarray:
    """The gradient of Rosenbrock's function over neighbours, in one pass."""
    gradient = np.empty(x.size)
    from_left = 0.0
    for i in range(x.size - 1):
        a = x[i]
        inner = x[i + 1] - a * a
        gradient[i] = from_left - 400.0 * a * inner - 2.0 * (1.0 - a)
        from_left = 200.0 * inner
    gradient[x.size - 1] = from_left
    return gradient
