"""Overhead of a call: the gradient of sum(sin(x) * x) with x of length 3, where arithmetic takes no time; and Adam in
plain NumPy, which passes its iteration number to the gradient."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import tools
from bench.compare import Comparison, Ready


def _program(x: Any, functions: Any) -> Any:
    return functions.sum(functions.sin(x) * x)


def _tapegrad(way: str, x: Any) -> Ready:
    import tapegrad as tg

    def program(x: Any) -> Any:
        return _program(x, np)

    run = tg.grad(program) if way == "grad" else tg.record(program, x).grad
    run(x)
    return Ready(run)


def _torch(x: Any) -> Ready:
    import torch

    return Ready(
        lambda x: torch.autograd.grad(_program(x, torch), x)[0], prepare=lambda x: torch.tensor(x, requires_grad=True)
    )


def _jax(x: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)
    compiled = jax.jit(jax.grad(lambda x: _program(x, jax.numpy)))
    compiled(x)
    return Ready(lambda x: compiled(x).block_until_ready(), prepare=jax.numpy.asarray)


def _jax_numpy(x: Any) -> Ready:
    # Given NumPy arrays, as tapegrad is, JAX converts them at each call.
    ready = _jax(x)
    return Ready(ready.run)


def _autograd(x: Any) -> Ready:
    import autograd
    import autograd.numpy as anp

    return Ready(autograd.grad(lambda x: _program(x, anp)))


def _casadi(x: Any) -> Ready:
    ready = tools.casadi(lambda x, functions: functions.sum1(functions.sin(x) * x), x)
    return Ready(lambda x: ready.run(x)[1])


def _by_hand(x: Any) -> Ready:
    return Ready(lambda x: np.cos(x) * x + np.sin(x))


def sin_times_x() -> Comparison:
    rng = np.random.default_rng(2)
    contestants = {
        "tapegrad": partial(_tapegrad, "grad"),
        "tapegrad, Recording.grad": partial(_tapegrad, "record"),
        "torch": _torch,
        "jax.jit": _jax,
        "jax.jit, NumPy input": _jax_numpy,
        "autograd": _autograd,
        "casadi, buffers": _casadi,
        "NumPy by hand": _by_hand,
    }
    return Comparison("gradient of sum(sin(x) * x), length 3", rng.normal(size=(33, 3)), contestants)


def _adam(gradient: Any, x: np.ndarray, steps: int = 200) -> np.ndarray:
    x, m, v = x.copy(), np.zeros_like(x), np.zeros_like(x)
    for t in range(1, steps + 1):
        g = gradient(x, t)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - 0.01 * (m / (1.0 - 0.9**t)) / (np.sqrt(v / (1.0 - 0.999**t)) + 1e-8)
    return x


def _annealed(x: Any, t: Any, functions: Any) -> Any:
    # A penalty that is taken back from one iteration to the next.
    return functions.sum((x[1:] - x[:-1] ** 2) ** 2) + 0.99**t / t * functions.sum(x * x)


def _adam_by_tapegrad(x: Any) -> Ready:
    import tapegrad as tg

    gradient = tg.grad(lambda x, t: _annealed(x, t, np))
    gradient(x, 1)
    return Ready(lambda x: _adam(gradient, x))


def _adam_by_autograd(x: Any) -> Ready:
    import autograd
    import autograd.numpy as anp

    gradient = autograd.grad(lambda x, t: _annealed(x, t, anp))
    return Ready(lambda x: _adam(gradient, x))


def _adam_by_hand(x: Any) -> Ready:
    def gradient(x: Any, t: int) -> Any:
        g, rest = 2.0 * 0.99**t / t * x, 2.0 * (x[1:] - x[:-1] ** 2)
        g[1:] += rest
        g[:-1] -= 2.0 * rest * x[:-1]
        return g

    return Ready(lambda x: _adam(gradient, x))


def adam_with_a_count() -> Comparison:
    rng = np.random.default_rng(3)
    contestants = {"tapegrad": _adam_by_tapegrad, "autograd": _adam_by_autograd, "NumPy by hand": _adam_by_hand}
    return Comparison("200 steps of Adam in NumPy, grad(x, t), x of length 10", rng.normal(size=(9, 10)), contestants)


COMPARISONS = [sin_times_x, adam_with_a_count]
