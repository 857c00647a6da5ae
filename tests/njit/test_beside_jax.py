"""Gradients of programs in Numba beside those that JAX finds of the same programs, at 100 random inputs each."""

import numba_programs as programs
import numpy as np
import pytest

import tapegrad as tg

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.fixture(autouse=True, scope="module")
def in_float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def n_body(x, v, masses, steps, dt):
    def step(_, state):
        x, v = state
        d = x[:, None] - x[None, :]
        r2 = jnp.sum(d * d, axis=2) + 0.01
        pull = masses[None, :, None] * d / (r2 * jnp.sqrt(r2))[:, :, None]
        v = v - dt * jnp.sum(pull, axis=1)
        return x + dt * v, v

    for k in range(steps):
        x, v = step(k, (x, v))
    return 0.5 * jnp.sum(masses[:, None] * v * v)


def slope(y, p):
    return jnp.array([p[0] * y[0] - p[1] * y[0] * y[1], p[2] * y[0] * y[1] - p[3] * y[1]])


def adaptive(y0, p, end):
    def step(state):
        t, h, y = state
        h = jnp.minimum(h, end - t)
        k1 = slope(y, p)
        k2 = slope(y + h * k1, p)
        error = 0.5 * h * jnp.max(jnp.abs(k2 - k1))
        taken = error < 1e-3
        y = jnp.where(taken, y + 0.5 * h * (k1 + k2), y)
        t = jnp.where(taken, t + h, t)
        return t, 0.9 * h * jnp.minimum(2.0, jnp.maximum(0.3, (1e-3 / (error + 1e-12)) ** 0.5)), y

    # Any number of steps: JAX differentiates such a loop forward only.
    _, _, y = jax.lax.while_loop(lambda state: state[0] < end, step, (0.0, 0.1, y0))
    return y[0] - 2.0 * y[1]


def sorted_sum(x):
    return jnp.sum(jnp.arange(1, len(x) + 1) * jnp.sort(x) ** 2)


def tridiagonal(lower, diagonal, upper, right):
    n = len(diagonal)
    for i in range(1, n):
        w = lower[i - 1] / diagonal[i - 1]
        diagonal = diagonal.at[i].add(-w * upper[i - 1])
        right = right.at[i].add(-w * right[i - 1])
    right = right.at[n - 1].divide(diagonal[n - 1])
    for i in range(n - 2, -1, -1):
        right = right.at[i].set((right[i] - upper[i] * right[i + 1]) / diagonal[i])
    return jnp.sum(right**2)


# The program in JAX, how it is differentiated, and which arguments are plain numbers there.
BESIDE = {
    "n_body": (n_body, jax.grad, (3,)),
    "adaptive": (adaptive, jax.jacfwd, ()),
    "sorted_sum": (sorted_sum, jax.grad, ()),
    "tridiagonal": (tridiagonal, jax.grad, ()),
}


@pytest.mark.parametrize("name", BESIDE)
def test_gradients_are_those_of_jax(name):
    f, draw, argnums = programs.PROGRAMS[name]
    same, differentiated, static = BESIDE[name]
    expected = jax.jit(differentiated(same, argnums=argnums), static_argnums=static)
    gradient = tg.grad(f, argnums=argnums)
    rng = np.random.default_rng(11)
    for _ in range(100):
        args = draw(rng)
        found = gradient(*args)
        for g, e in zip(found, expected(*args), strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-9, atol=1e-11)
