"""A gradient descent of 10,000 steps: wholly inside one Numba function, and with Python between the steps.

A function of a vector of 20 numbers, once as a recording that is compiled and once as a function of Numba's. Times are
for each step.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from bench.compare import Comparison, Ready, phase

STEPS, RATE, SIZE = 10_000, 1e-3, 20


def in_numpy(x: Any) -> Any:
    return np.sum((1.0 - x[:-1]) ** 2 + 5.0 * (x[1:] - x[:-1] ** 2) ** 2)


def in_loops(x: Any) -> Any:
    total = 0.0
    for i in range(len(x) - 1):
        total += (1.0 - x[i]) ** 2 + 5.0 * (x[i + 1] - x[i] ** 2) ** 2
    return total


def _slope(recorded: bool, phases: dict[str, float]) -> Any:
    import numba

    import tapegrad as tg

    with phase(phases, "compiling"):
        return tg.grad(tg.record(in_numpy, np.ones(SIZE)).compile() if recorded else numba.njit(in_loops))


def _inside(recorded: bool, x: Any) -> Ready:
    import numba

    phases: dict[str, float] = {}
    slope = _slope(recorded, phases)

    def descent(x: Any, steps: int) -> Any:
        for _ in range(steps):
            x = x - RATE * slope(x)
        return x

    compiled = numba.njit(descent)
    with phase(phases, "compiling"):
        compiled(x, 1)
    return Ready(lambda x: compiled(x, STEPS), phases=phases)


def _from_python(recorded: bool, x: Any) -> Ready:
    phases: dict[str, float] = {}
    slope = _slope(recorded, phases)
    if recorded:
        # `tg.grad` would record the function anew, and begin with the interpreter.
        slope = slope.made[1].grad
    with phase(phases, "compiling"):
        slope(x)

    def descent(x: Any) -> Any:
        for _ in range(STEPS):
            x = x - RATE * slope(x)
        return x

    return Ready(descent, phases=phases)


def _comparison(recorded: bool) -> Comparison:
    inputs = np.random.default_rng(0).normal(size=(4, SIZE)) * 0.5
    tools = {
        "tapegrad": partial(_inside, recorded), "tapegrad, Python between steps": partial(_from_python, recorded),
    }  # fmt: skip
    what = "a compiled recording" if recorded else "a function of Numba's"
    return Comparison(f"10,000 steps of descent inside Numba, the gradient of {what}", inputs, tools, per=STEPS,
                      unit="step")  # fmt: skip


def of_a_recording() -> Comparison:
    return _comparison(True)


def of_a_function() -> Comparison:
    return _comparison(False)


COMPARISONS = [of_a_recording, of_a_function]
