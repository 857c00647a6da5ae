"""Programs as Numba's users write them, for the tests: loops, branches, arrays changed in place."""

import math

import numba
import numpy as np


@numba.njit
def n_body(x, v, masses, steps, dt):
    """The kinetic energy of bodies that attract each other, after some steps."""
    n = len(masses)
    acceleration = np.zeros((n, 3))
    for _ in range(steps):
        acceleration[:, :] = 0.0
        for i in range(n):
            for j in range(i + 1, n):
                d = x[i] - x[j]
                r2 = d[0] * d[0] + d[1] * d[1] + d[2] * d[2] + 0.01
                inverse = 1.0 / (r2 * math.sqrt(r2))
                for k in range(3):
                    acceleration[i, k] -= masses[j] * d[k] * inverse
                    acceleration[j, k] += masses[i] * d[k] * inverse
        v += acceleration * dt
        x += v * dt
    energy = 0.0
    for i in range(n):
        energy += 0.5 * masses[i] * np.dot(v[i], v[i])
    return energy


@numba.njit
def slope(y, p):
    """Predators and prey."""
    return np.array([p[0] * y[0] - p[1] * y[0] * y[1], p[2] * y[0] * y[1] - p[3] * y[1]])


@numba.njit
def adaptive(y0, p, end):
    """The population at the end, by Heun's method with steps that are chosen by an estimate of the error."""
    t, h, y = 0.0, 0.1, y0.copy()
    while t < end:
        h = min(h, end - t)
        k1 = slope(y, p)
        k2 = slope(y + h * k1, p)
        error = 0.5 * h * np.max(np.abs(k2 - k1))
        if error < 1e-3:
            y = y + 0.5 * h * (k1 + k2)
            t = t + h
        h = 0.9 * h * min(2.0, max(0.3, (1e-3 / (error + 1e-12)) ** 0.5))
    return y[0] - 2.0 * y[1]


@numba.njit
def sorted_sum(x):
    """A weighted sum of numbers that are sorted by insertion."""
    y = x.copy()
    for i in range(1, len(y)):
        j = i
        while j > 0 and y[j - 1] > y[j]:
            y[j - 1], y[j] = y[j], y[j - 1]
            j -= 1
    total = 0.0
    for i in range(len(y)):
        total += (i + 1) * y[i] ** 2
    return total


@numba.njit
def bounces(p, end):
    """How high a ball is that falls, and bounces until it is too slow: events at times that depend on p."""
    height, speed, loss = p[0], p[1], p[2]
    t = 0.0
    for _ in range(1000):
        duration = (speed + math.sqrt(speed * speed + 2.0 * 9.81 * height)) / 9.81
        if t + duration > end:
            s = end - t
            return height + speed * s - 0.5 * 9.81 * s * s
        t += duration
        speed = loss * (9.81 * duration - speed)
        height = 0.0 * speed
        if speed < 0.05:
            return 0.0 * speed
    return height


@numba.njit
def tridiagonal(lower, diagonal, upper, right):
    """Solve by elimination in place; the sum of the squares of the solution."""
    n = len(diagonal)
    for i in range(1, n):
        w = lower[i - 1] / diagonal[i - 1]
        diagonal[i] -= w * upper[i - 1]
        right[i] -= w * right[i - 1]
    right[n - 1] /= diagonal[n - 1]
    for i in range(n - 2, -1, -1):
        right[i] = (right[i] - upper[i] * right[i + 1]) / diagonal[i]
    return np.sum(right**2)


def _n_body(rng):
    return rng.normal(size=(3, 3)) * 2.0, rng.normal(size=(3, 3)) * 0.3, rng.uniform(0.2, 1.0, 3), 10, 0.01


def _adaptive(rng):
    return rng.uniform(0.5, 2.0, 2), rng.uniform(0.5, 1.5, 4), 2.0


def _tridiagonal(rng):
    return rng.normal(size=5), rng.uniform(3.0, 5.0, 6), rng.normal(size=5), rng.normal(size=6)


# The function, inputs at random, the arguments that are differentiated. Where an accepted step turns into a refused
# one, a program that chooses its steps jumps, so a few of its inputs may be left out.
PROGRAMS = {
    "n_body": (n_body, _n_body, (0, 1, 2, 4)),
    "adaptive": (adaptive, _adaptive, (0, 1)),
    "sorted_sum": (sorted_sum, lambda rng: (rng.normal(size=8),), (0,)),
    "bounces": (bounces, lambda rng: (rng.uniform([1.0, -1.0, 0.5], [3.0, 3.0, 0.9]), 2.5), (0,)),
    "tridiagonal": (tridiagonal, _tridiagonal, (0, 1, 2, 3)),
}
