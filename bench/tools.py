"""The same gradient in each tool: how a function of arrays is set up, called and read there. Imports happen inside,
so that a tool that is missing is skipped and one that is not asked for costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.compare import Ready, phase

Program = Callable[[Any, Any], Any]  # of an array-like of numbers, and of the tool's module of functions


def tapegrad(program: Program, x: Any) -> Ready:
    """Value and gradient by replaying a recording."""
    import tapegrad as tg

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda x: program(x, np), x)
    with phase(phases, "compile or load"):
        recording.value_and_grad(x)
    return Ready(recording.value_and_grad, phases=phases)


def torch(program: Program, x: Any) -> Ready:
    """Value and gradient, eager, recorded and swept at each call."""
    import torch

    def run(x: Any) -> Any:
        value = program(x, torch)
        return value.detach(), torch.autograd.grad(value, x)[0]

    return Ready(run, prepare=lambda x: torch.tensor(x, requires_grad=True))


def jax(program: Program, x: Any) -> Ready:
    """Value and gradient compiled by XLA; in float64 where the input is."""
    import jax

    jax.config.update("jax_enable_x64", np.asarray(x).dtype == np.float64)
    phases: dict[str, float] = {}
    with phase(phases, "trace"):
        lowered = jax.jit(jax.value_and_grad(lambda x: program(x, jax.numpy))).lower(x)
    with phase(phases, "compile"):
        compiled = lowered.compile()
    return Ready(lambda x: jax.block_until_ready(compiled(x)), prepare=jax.numpy.asarray, phases=phases)


def autograd(program: Program, x: Any) -> Ready:
    """Value and gradient, recorded and swept at each call."""
    import autograd
    import autograd.numpy as anp

    return Ready(autograd.value_and_grad(lambda x: program(x, anp)))


def casadi(program: Program, x: Any) -> Ready:
    """Value and gradient by CasADi's virtual machine for scalar expressions (SX), through its buffers."""
    import casadi as ca

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        symbol = ca.SX.sym("x", len(x))
        value = program(symbol, ca)
    with phase(phases, "differentiate"):
        f = ca.Function("f", [symbol], [value, ca.gradient(value, symbol)])
    buffer, evaluate = f.buffer()
    given, number, gradient = np.zeros(len(x)), np.zeros(1), np.zeros(len(x))
    buffer.set_arg(0, memoryview(given))
    buffer.set_res(0, memoryview(number))
    buffer.set_res(1, memoryview(gradient))

    def run(x: np.ndarray, keep: Any = (f, buffer)) -> Any:  # which `evaluate` does not keep alive by itself
        given[:] = x
        evaluate()
        return number[0], gradient.copy()

    return Ready(run, phases=phases)


def micrograd(program: Program, x: Any) -> Ready:
    """Value and gradient from micrograd's graph of objects, built at each call."""
    import sys

    from micrograd.engine import Value

    sys.setrecursionlimit(max(sys.getrecursionlimit(), 100_000))

    def run(x: Any) -> Any:
        leaves = [Value(number) for number in x]
        value = program(leaves, Value)
        value.backward()
        return value.data, [leaf.grad for leaf in leaves]

    return Ready(run, prepare=lambda x: x.tolist())
