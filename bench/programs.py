"""Programs that several tools run, written once, with Python's operators on whatever kind of number they are given."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

BODIES, STEPS, DT, SOFTENING = 5, 100, 0.01, 0.01
MASSES = (1.0, 0.5, 0.3, 0.2, 0.1)


def nbody_step(x: list[Any], v: list[Any], sqrt: Any) -> tuple[list[Any], list[Any]]:
    """One leapfrog step of bodies under gravity, softened; x and v are flat, three numbers a body."""
    n = len(MASSES)
    acceleration: list[Any] = [None] * (3 * n)

    def pull(i: int, k: int, term: Any) -> None:
        at = 3 * i + k
        acceleration[at] = term if acceleration[at] is None else acceleration[at] + term

    for i in range(n):
        for j in range(i + 1, n):
            d = [x[3 * i + k] - x[3 * j + k] for k in range(3)]
            r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2] + SOFTENING
            strength = 1.0 / (r2 * sqrt(r2))
            for k in range(3):
                force = d[k] * strength
                pull(i, k, -MASSES[j] * force)
                pull(j, k, MASSES[i] * force)
    v = [a * DT + b for a, b in zip(acceleration, v)]
    x = [a * DT + b for a, b in zip(v, x)]
    return x, v


def kinetic(v: list[Any]) -> Any:
    """The squared speeds, summed."""
    total = v[0] * v[0]
    for a in v[1:]:
        total = total + a * a
    return total


def nbody(state: Any, sqrt: Any, steps: int = STEPS) -> Any:
    """The squared speeds at the end, from the first positions and velocities: 30 numbers."""
    half = 3 * BODIES
    x, v = [state[i] for i in range(half)], [state[half + i] for i in range(half)]
    for _ in range(steps):
        x, v = nbody_step(x, v, sqrt)
    return kinetic(v)


def nbody_states(count: int, seed: int = 0) -> list[np.ndarray]:
    """Starting points near one another, so that none runs into a close encounter that the others miss."""
    rng = np.random.default_rng(seed)
    first = np.concatenate([2.0 * rng.normal(size=3 * BODIES), 0.3 * rng.normal(size=3 * BODIES)])
    return [first + 0.01 * rng.normal(size=first.shape) for _ in range(count)]


def mlp(parameters: Any, x: list[Any], sizes: tuple[int, ...], relu: Any) -> Any:
    """The output of a perceptron of one output, scalar by scalar; weights of a neuron come first, then its bias."""
    at = 0
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        y = []
        for _ in range(outputs):
            total = parameters[at + inputs]
            for i in range(inputs):
                total = total + parameters[at + i] * x[i]
            at += inputs + 1
            y.append(total if layer == len(sizes) - 2 else relu(total))
        x = y
    return x[0]


def mlp_size(sizes: tuple[int, ...]) -> int:
    """How many parameters `mlp` reads."""
    return sum((a + 1) * b for a, b in pairwise(sizes))


def squared_error(parameters: Any, points: np.ndarray, targets: np.ndarray, sizes: tuple[int, ...], relu: Any) -> Any:
    """The sum over points of (output - target)^2."""
    total: Any = None
    for x, target in zip(points.tolist(), targets.tolist()):
        error = mlp(parameters, x, sizes, relu) + -target
        total = error * error if total is None else total + error * error
    return total


class Counter:
    """A number that counts the operations made of it, which is how many a program has for every tool alike."""

    operations = 0

    def __init__(self, value: float) -> None:
        self.value = value

    @staticmethod
    def made(value: float) -> Counter:
        Counter.operations += 1
        return Counter(value)

    def __add__(self, other: Any) -> Counter:
        return Counter.made(self.value + _plain(other))

    def __sub__(self, other: Any) -> Counter:
        return Counter.made(self.value - _plain(other))

    def __mul__(self, other: Any) -> Counter:
        return Counter.made(self.value * _plain(other))

    def __rtruediv__(self, other: Any) -> Counter:
        return Counter.made(other / self.value)

    __radd__, __rmul__ = __add__, __mul__

    def sqrt(self) -> Counter:
        return Counter.made(math.sqrt(self.value))

    def relu(self) -> Counter:
        return Counter.made(max(self.value, 0.0))


def _plain(x: Any) -> float:
    return x.value if isinstance(x, Counter) else x


def operations(program: Any, *arrays: Any) -> int:
    """How many operations a program does on the numbers of its arguments."""
    Counter.operations = 0
    program(*[[Counter(float(x)) for x in array] for array in arrays])
    return Counter.operations
