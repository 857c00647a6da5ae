"""A short measurement: what tapegrad takes on this machine, in some ten seconds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tapegrad.recording import record
from tapegrad.transforms import value_and_grad


class Row(NamedTuple):
    """A line of the table: the median of some times, in seconds, for each of so many units."""

    what: str
    unit: str
    seconds: float


def _oscillators(x: np.ndarray, steps: int = 200) -> Any:
    """Two coupled oscillators, step by step: 17 operations on numbers a step."""
    a, b, u, v = x[0], x[1], x[2], x[3]
    for _ in range(steps):
        u = u - 0.01 * (a * 1.5 + (a - b) * 0.3)
        v = v - 0.01 * (b * 1.2 - (a - b) * 0.3)
        a, b = a + 0.01 * u, b + 0.01 * v
    return a * a + b * b


def _waves(x: np.ndarray) -> Any:
    return np.sum(np.sin(x) * np.exp(-x * x))


def rows() -> list[Row]:
    """The measurements: every one is repeated, at numbers that were not recorded, and its median taken."""
    start = np.array([1.0, -0.5, 0.2, 0.1])
    begun = time.perf_counter()
    recording = record(_oscillators, start, compile=False)
    recording.value_and_grad(start)
    first = time.perf_counter() - begun
    n = len(recording)
    native = record(_oscillators, start, compile=True)
    begun = time.perf_counter()
    native.value_and_grad(start)
    compiling = time.perf_counter() - begun
    short, long = np.array([0.1, 0.2, 0.3]), np.linspace(-2.0, 2.0, 100_000)
    gradient, over_long = value_and_grad(_waves), value_and_grad(_waves, compile=True)
    step = start * 1.01
    return [
        Row("first gradient of a program of numbers, interpreted", "call", first),
        Row("first gradient of it as machine code, compiled or loaded", "call", compiling),
        Row("recording", "operation", _median(lambda: record(_oscillators, step, compile=False)) / n),
        Row("value and gradient, interpreted", "operation", _median(lambda: recording.value_and_grad(step)) / n),
        Row("value and gradient, compiled", "operation", _median(lambda: native.value_and_grad(step)) / n),
        Row("value and gradient of 3 numbers in an array", "call", _median(lambda: gradient(short))),
        Row("value and gradient of 100,000, compiled", "element", _median(lambda: over_long(long)) / long.size),
        Row("the value alone, by NumPy", "element", _median(lambda: _waves(long)) / long.size),
    ]


def _median(call: Callable[[], Any], seconds: float = 0.3) -> float:
    """The median time of a call, over rounds of as many calls as a clock can tell apart."""
    call()
    begun = time.perf_counter()
    call()
    many = max(1, int(1e-4 / max(1e-9, time.perf_counter() - begun)))
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        begun = time.perf_counter()
        for _ in range(many):
            call()
        times.append((time.perf_counter() - begun) / many)
    return statistics.median(times)


def table(found: list[Row]) -> str:
    """The rows, one a line.

    >>> print(table([Row("replay", "operation", 5e-9)]))
    replay  5.00 ns an operation
    """
    width = max(len(row.what) for row in found)
    article = {row.unit: "an" if row.unit[0] in "aeiou" else "a" for row in found}
    return "\n".join(f"{row.what:<{width}}  {_time(row.seconds)} {article[row.unit]} {row.unit}" for row in found)


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.2f} ns"
