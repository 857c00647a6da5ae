"""Learning rates over time: plain functions of the number of the step, counted from 0.

A schedule is anything that maps an integer to a rate. Those made here can be put together: `warmup(100, cosine(...))`,
or `lambda step: 0.5 * other(step)`. They can be pickled, as they are functions of this module with arguments; a lambda
cannot, but a function defined at the top of a module can.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from tapegrad.errors import OperationError
from tapegrad.pickling import to_pickle

Schedule = Callable[[int], float]


def _positive(name: str, number: float) -> float:
    if not number > 0 or math.isinf(number):
        raise OperationError(f"{name} must be a positive number, not {number!r}")
    return number


def constant(rate: float) -> Schedule:
    """The same rate at every step.

    >>> constant(0.1)(1000)
    0.1
    """
    return partial(_constant, rate)


def _constant(rate: float, step: int) -> float:
    return rate


def step_decay(rate: float, every: int, factor: float = 0.1) -> Schedule:
    """rate · factor^⌊step / every⌋: stairs, `every` steps wide. Raises OperationError unless `every` is positive.

    >>> schedule = step_decay(1.0, every=10, factor=0.5)
    >>> [schedule(step) for step in (0, 9, 10, 25)]
    [1.0, 1.0, 0.5, 0.25]
    """
    _positive("every", every)
    return partial(_step_decay, rate, every, factor)


def _step_decay(rate: float, every: int, factor: float, step: int) -> float:
    return rate * factor ** (step // every)


def exponential(rate: float, factor: float, every: float = 1.0) -> Schedule:
    """rate · factor^(step / every), a smooth decay. Raises OperationError unless `every` is positive.

    >>> exponential(1.0, 0.25, every=2)(1)
    0.5
    """
    _positive("every", every)
    return partial(_exponential, rate, factor, every)


def _exponential(rate: float, factor: float, every: float, step: int) -> float:
    return float(rate * factor ** (step / every))


def cosine(rate: float, steps: int, floor: float = 0.0) -> Schedule:
    """floor + (rate - floor) · (1 + cos(π · step / steps)) / 2 for `steps` steps, then `floor`.

    Raises OperationError unless `steps` is positive.

    Source: Loshchilov and Hutter, "SGDR: Stochastic gradient descent with warm restarts", ICLR 2017, equation 5,
    without restarts.

    >>> schedule = cosine(1.0, steps=100)
    >>> [round(schedule(step), 6) for step in (0, 50, 100, 150)]
    [1.0, 0.5, 0.0, 0.0]
    """
    _positive("steps", steps)
    return partial(_cosine, rate, steps, floor)


def _cosine(rate: float, steps: int, floor: float, step: int) -> float:
    return floor + (rate - floor) * 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))


def warmup(steps: int, after: Schedule) -> Schedule:
    """A linear rise from after(0) / steps to after(0) over `steps` steps, then `after`, counted from its own 0.

    Raises OperationError unless `steps` is positive.

    Source: Goyal et al., "Accurate, large minibatch SGD: training ImageNet in 1 hour", 2017, section 2.2.

    >>> schedule = warmup(4, constant(0.8))
    >>> [round(schedule(step), 6) for step in range(6)]
    [0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    """
    _positive("steps", steps)
    return _Warmup(_warmup, steps, after)


class _Warmup(partial[float]):
    """What `warmup` returns. The schedule in it may be a function that no other process has."""

    def __reduce__(self) -> Any:
        steps, after = self.args
        return warmup, (steps, to_pickle(after, "the schedule after a warm-up"))


def _warmup(steps: int, after: Schedule, step: int) -> float:
    return after(0) * (step + 1) / steps if step < steps else after(step - steps)
