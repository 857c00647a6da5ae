"""Overhead of a call: the gradient of sum(sin(x) * x) with x of length 3, where arithmetic takes no time."""

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


COMPARISONS = [sin_times_x]
