"""Recording from Python, per operation: the N-body program of two steps, run on each tool's own kind of number.

tapegrad records lazily and replays later, the others compute while they record; so one comparison is of recording and
value, one of recording, value and gradient, and what tapegrad's appending alone takes is reported beside them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench import programs, tools
from bench.compare import Comparison, Ready

STEPS = 2


def _program(x: Any, functions: Any) -> Any:
    return programs.nbody(x, functions.sqrt, STEPS)


def _micrograd_program(x: Any, functions: Any) -> Any:
    return programs.nbody(x, lambda z: z**0.5, STEPS)


def _tapegrad(what: str, x: Any) -> Ready:
    import tapegrad as tg

    def run(x: Any) -> Any:
        leaves = [tg.Value(number) for number in x]
        value = _program(leaves, np)
        if what == "append":
            return value
        if what == "value":
            return value.item()
        value.backward()
        return value.item(), [leaf.grad for leaf in leaves]

    return Ready(run, prepare=lambda x: x.tolist())


def _tapegrad_function(x: Any) -> Ready:
    # What `tg.grad` does at its first call: append, compute, keep what the result needs.
    import tapegrad as tg

    return Ready(lambda x: tg.record(lambda x: _program(x, np), x), read=lambda recording: [])


def _torch(gradient: bool, x: Any) -> Ready:
    import torch

    def run(x: Any) -> Any:
        leaves = [torch.tensor(number, dtype=torch.float64, requires_grad=True) for number in x]
        value = _program(leaves, torch)
        return (value.item(), torch.autograd.grad(value, leaves)) if gradient else value.item()

    return Ready(run, prepare=lambda x: x.tolist())


def _autograd(x: Any) -> Ready:
    import autograd
    import autograd.numpy as anp

    return Ready(lambda x: autograd.make_vjp(lambda x: _program(x, anp))(x)[1])


def _micrograd(x: Any) -> Ready:
    from micrograd.engine import Value

    def run(x: Any) -> Any:
        return _micrograd_program([Value(number) for number in x], Value).data

    return Ready(run, prepare=lambda x: x.tolist())


def _casadi(x: Any) -> Ready:
    import casadi as ca

    return Ready(lambda x: _program(ca.SX.sym("x", len(x)), ca))


def _jax(x: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)
    return Ready(lambda x: jax.make_jaxpr(lambda x: _program(x, jax.numpy))(x))


def _comparison(what: str, contestants: dict[str, Any], checked: bool = True) -> Comparison:
    states = programs.nbody_states(9)
    count = programs.operations(lambda x: programs.nbody(x, programs.Counter.sqrt, STEPS), states[0])
    name = f"{what}, {count} operations"
    return Comparison(name, states, contestants, per=count, unit="operation", checked=checked)


def append() -> Comparison:
    """Building the program without computing it, for the tools that can."""
    contestants = {"tapegrad": partial(_tapegrad, "append"), "tapegrad, tg.record": _tapegrad_function}
    return _comparison("appending alone", contestants | {"casadi, SX": _casadi, "jax, make_jaxpr": _jax}, checked=False)


def value() -> Comparison:
    """Recording, and the value of the result."""
    contestants = {"tapegrad": partial(_tapegrad, "value"), "torch, scalar tensors": partial(_torch, False)}
    return _comparison("recording and value", contestants | {"autograd": _autograd, "micrograd": _micrograd})


def gradient() -> Comparison:
    """Recording, value and gradient, all anew at each call."""
    contestants = {
        "tapegrad": partial(_tapegrad, "gradient"),
        "torch, scalar tensors": partial(_torch, True),
        "autograd": partial(tools.autograd, _program),
        "micrograd": partial(tools.micrograd, _micrograd_program),
    }
    return _comparison("recording, value and gradient", contestants)


COMPARISONS = [append, value, gradient]
