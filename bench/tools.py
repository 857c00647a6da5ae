"""The same gradient in each tool: how a function of arrays is set up, called and read there. Imports happen inside,
so that a tool that is missing is skipped and one that is not asked for costs nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.compare import Ready, phase

# Of an array-like of numbers, of the tool's module of functions, and of data if there are any.
Program = Callable[..., Any]
# What a program reads and is not differentiated by: made when a tool is set up, as it may be large.
Data = Callable[[], tuple[np.ndarray, ...]]


def settled(call: Callable[[], Any], seconds: float = 2.0, least: int = 3) -> None:
    """Warm a call up: a tool may choose how it replays a program after it has done so for a while.

    The call is made for at least two seconds, and at least three times; and as long as tapegrad compiles programs in
    the background, and three times after.
    """
    from tapegrad.native.choice import is_compiling

    end = time.perf_counter() + seconds
    while least > 0 or time.perf_counter() < end:
        call()
        least -= 1
    while is_compiling():
        call()
    for _ in range(3):
        call()


def settling(make: Callable[[Any], Ready]) -> Callable[[Any], Ready]:
    """A tool that is `settled` when it is set up."""

    def made(x: Any) -> Ready:
        ready = make(x)
        given = ready.prepare(x)
        settled(lambda: ready.run(given))
        return ready

    return made


def tapegrad(program: Program, x: Any, data: Data = tuple) -> Ready:
    """Value and gradient by replaying a recording."""
    import tapegrad as tg

    given = data()
    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda x: program(x, np, *given), x)
    with phase(phases, "compile or load"):
        recording.value_and_grad(x)
    return Ready(recording.value_and_grad, phases=phases)


def torch(program: Program, x: Any, data: Data = tuple) -> Ready:
    """Value and gradient, eager, recorded and swept at each call."""
    import torch

    given = [torch.from_numpy(array) for array in data()]

    def run(x: Any) -> Any:
        value = program(x, torch, *given)
        return value.detach(), torch.autograd.grad(value, x)[0]

    return Ready(run, prepare=lambda x: torch.tensor(x, requires_grad=True))


def jax(program: Program, x: Any, data: Data = tuple, transform: Callable[[Any], Any] | None = None) -> Ready:
    """Value and gradient compiled by XLA, or what another transform makes of the program; in float64 where x is.

    Data are arguments of what is compiled, so that XLA does not take them for constants, which it would compute with.
    """
    import jax

    jax.config.update("jax_enable_x64", np.asarray(x).dtype == np.float64)
    transform = transform or jax.value_and_grad
    given = [jax.numpy.asarray(array) for array in data()]
    phases: dict[str, float] = {}
    with phase(phases, "trace"):
        lowered = jax.jit(transform(lambda x, *data: program(x, jax.numpy, *data))).lower(x, *given)
    with phase(phases, "compile"):
        compiled = lowered.compile()
    return Ready(lambda x: jax.block_until_ready(compiled(x, *given)), prepare=jax.numpy.asarray, phases=phases)


def autograd(program: Program, x: Any) -> Ready:
    """Value and gradient, recorded and swept at each call."""
    import autograd
    import autograd.numpy as anp

    return Ready(autograd.value_and_grad(lambda x: program(x, anp)))


def casadi(program: Program, x: Any, in_c: bool = False) -> Ready:
    """Value and gradient by CasADi's virtual machine for scalar expressions (SX), through its buffers.

    With `in_c` CasADi writes the function in C and has a compiler translate it.
    """
    import casadi as ca

    options = {"jit": True, "compiler": "shell", "jit_options": {"flags": ["-O3", "-march=native"]}} if in_c else {}
    if in_c and not shutil.which("gcc"):
        raise ImportError("gcc", name="gcc")
    phases: dict[str, float] = {}
    with phase(phases, "record"):
        symbol = ca.SX.sym("x", len(x))
        value = program(symbol, ca)
    with phase(phases, "differentiate and compile" if in_c else "differentiate"):
        f = ca.Function("f", [symbol], [value, ca.gradient(value, symbol)], options)
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
