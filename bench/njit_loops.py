"""Gradients of long loops in Numba code: all steps on the tape, or `checkpointed_loop`. `python -m bench.njit_loops`

Each contestant has a process of its own. Peak memory is what the process took more at most after a first call with ten
steps, which compiles.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

STEPS, CALLS = 1_000_000, 5


def logistic_step(x: Any, i: int, rate: float) -> Any:
    return rate * x * (1.0 - x)


def predators_step(state: Any, i: int, p: Any) -> Any:
    """Lotka and Volterra's equations; the second is given the new state of the first, so that orbits stay closed."""
    prey, predators = state
    prey += 0.001 * prey * (p[0] - p[1] * predators)
    predators += 0.001 * predators * (p[2] * prey - p[3])
    return prey, predators


def _programs() -> dict[str, tuple[Any, Any, tuple[Any, ...]]]:
    """For each program its step, what makes a number of a state, the first state, and the argument of the steps."""
    import numba

    rates = np.array([1.1, 0.4, 0.1, 0.4])
    return {
        "logistic map": (numba.njit(logistic_step), numba.njit(lambda x: x), (0.3, 2.5)),
        "predators and prey": (numba.njit(predators_step), numba.njit(lambda x: x[0] * x[1]), ((10.0, 5.0), rates)),
    }


def _contestants(name: str) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    import numba

    import tapegrad as tg

    step, end, args = _programs()[name]

    @numba.njit
    def plain(x: Any, p: Any, n: int) -> Any:
        for i in range(n):
            x = step(x, i, p)
        return end(x)

    @numba.njit
    def checkpointed(x: Any, p: Any, n: int) -> Any:
        return end(tg.checkpointed_loop(step, x, n, p))

    return {
        "the plain function": (plain, args),
        "all steps on the tape": (tg.value_and_grad(plain, (0, 1)), args),
        "checkpointed_loop": (tg.value_and_grad(checkpointed, (0, 1)), args),
    }


def measured(name: str, which: str) -> dict[str, Any]:
    """Time and memory of one contestant, in this process."""
    f, args = _contestants(name)[which]
    before = time.perf_counter()
    f(*args, 10)
    first = time.perf_counter() - before
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times = []
    for _ in range(CALLS):
        before = time.perf_counter()
        found = f(*args, STEPS)
        times.append(time.perf_counter() - before)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident
    return {"first": first, "seconds": float(np.median(times)), "peak": peak * 1024, "found": repr(found)}


def table() -> str:
    """The table, as Markdown."""
    lines = [
        f"{STEPS:,} steps, gradient by state and parameters; medians of {CALLS} calls.", "",
        "| loop | contestant | a call | peak memory | compiling |", "|---|---|---:|---:|---:|",
    ]  # fmt: skip
    for name in _programs():
        for which in _contestants(name):
            command = [sys.executable, "-m", "bench.njit_loops", name, which]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            lines.append(f"| {name} | {which} | {found['seconds'] * 1e3:.3g} ms | {found['peak'] / 2**20:.1f} MiB | "
                         f"{found['first']:.1f} s |")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write((json.dumps(measured(*sys.argv[1:])) if len(sys.argv) == 3 else table()) + "\n")
