"""Memory and first calls of programs over long arrays: each tool and program in a process of its own.

The same program is called once at a small size first, so that nothing is imported or read from the cache later. Then
are taken: the time of the first call at full size (recording, or tracing and compiling, included), the peak of resident
memory above what the process had before, what it still holds when the result is dropped, and the median time of five
more calls.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.compare import duration
from bench.machine import thread_environment

TOOLS = ("tapegrad", "jax", "autograd")
WHAT = ("gradient", "Hessian product")
_AGAIN = 5


def k_means(n: int) -> tuple[Callable[[Any, Any], Any], np.ndarray]:
    """The squared distances of n points in 8 dimensions from the nearest of 100 centres; and centres."""
    rng = np.random.default_rng(0)
    points = rng.normal(size=(n, 8))

    def distances(centres: Any, functions: Any) -> Any:
        d = functions.sum((points[:, None, :] - centres[None, :, :]) ** 2, axis=-1)
        return functions.sum(functions.min(d, axis=1))

    return distances, rng.normal(size=(100, 8))


def loop(n: int) -> tuple[Callable[[Any, Any], Any], np.ndarray]:
    """Twenty rounds of an elementwise map, which makes 80 arrays of n numbers."""

    def rounds(x: Any, functions: Any) -> Any:
        for _ in range(20):
            x = x * 0.9 + 0.1 * x * x
        return functions.sum(x)

    return rounds, np.random.default_rng(1).uniform(0.1, 0.9, n)


# Name, maker, size, and the size at which the program is called first.
PROGRAMS: Any = (("k-means", k_means, 10_000, 50), ("loop", loop, 1_000_000, 5_000))


def _derivative(tool: str, what: str, program: Callable[[Any, Any], Any], v: np.ndarray) -> Callable[[Any], Any]:
    """A function of x: the gradient there, or the Hessian times v."""
    first = what == WHAT[0]
    if tool == "tapegrad":
        import tapegrad as tg

        recorded: list[Any] = []

        def ours(x: Any) -> Any:
            if not recorded:
                recorded.append(tg.record(lambda x: program(x, np), x))
            return recorded[0].grad(x) if first else recorded[0].hvp((x,), (v,))

        return ours
    if tool == "jax":
        import jax

        jax.config.update("jax_enable_x64", True)
        gradient = jax.grad(lambda x: program(x, jax.numpy))
        call = jax.jit(gradient if first else lambda x: jax.jvp(gradient, (x,), (v,))[1])
        return lambda x: np.asarray(call(x).block_until_ready())
    import autograd
    import autograd.numpy as anp

    if first:
        return autograd.grad(lambda x: program(x, anp))
    return lambda x: autograd.hessian_vector_product(lambda x: program(x, anp))(x, v)


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    # Not that of getrusage, which counts the process that this one was started from.
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def figures(call: Callable[[Any], Any], x: Any, norm: Callable[[Any], Any], again: int = _AGAIN) -> dict[str, float]:
    """What a function takes at its first call and later: seconds, and bytes above what the process has now."""
    gc.collect()
    _forget_peak()
    before, start = _resident(), time.perf_counter()
    result = call(x)
    first = time.perf_counter() - start
    later = []
    for _ in range(again):
        start = time.perf_counter()
        result = call(x)
        later.append(time.perf_counter() - start)
    peak = _peak()
    size = float(norm(result))
    del result
    gc.collect()
    return {
        "first": first, "again": statistics.median(later), "peak": peak - before, "held": _resident() - before,
        "norm": size,
    }  # fmt: skip


def probe(tool: str, name: str, what: str) -> dict[str, float]:
    """In a fresh process: what one program takes."""
    make, full, small = next(given for title, *given in PROGRAMS if title == name)
    program, x = make(small)
    _derivative(tool, what, program, np.ones_like(x))(x)
    program, x = make(full)
    return figures(_derivative(tool, what, program, np.ones_like(x)), x, np.linalg.norm)


def in_fresh_process(module: str, *arguments: str, who: str) -> dict[str, float] | str:
    """What a module prints as its last line when run so with one thread, or why `who` is skipped."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False,
        env=os.environ | thread_environment(1), cwd=Path(__file__).parents[1],
    )  # fmt: skip
    if not done.returncode:
        return json.loads(done.stdout.strip().splitlines()[-1])
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    if "ModuleNotFoundError" not in last and not last.startswith("ImportError"):
        raise RuntimeError(f"{who}: {last}")
    return f"skipped: {last.split(': ', 1)[1]}"


def same_norms(found: dict[str, Any]) -> None:
    """Raise AssertionError unless all tools that ran have found a result of the same length."""
    norms = {tool: figures["norm"] for tool, figures in found.items() if isinstance(figures, dict)}
    assert max(norms.values()) - min(norms.values()) <= 1e-9 * max(norms.values()), f"results differ: {norms}"


def measure(name: str, what: str, tools: Sequence[str] = TOOLS) -> dict[str, Any]:
    """For each tool its figures, or why it is skipped. Raises AssertionError if results differ."""
    found: dict[str, Any] = {}
    for tool in tools:
        found[tool] = in_fresh_process("bench.array_memory", tool, name, what, who=f"{tool}, {name}, {what}")
    same_norms(found)
    return found


def table() -> str:
    """Memory and times as a Markdown table."""
    lines = ["| program | tool | peak | held | first call | again |", "|---|---|---|---|---|---|"]
    for name, *_ in PROGRAMS:
        for what in WHAT:
            for tool, figures in measure(name, what).items():
                if isinstance(figures, str):
                    cells = [figures, "", "", ""]
                else:
                    cells = [f"{max(0.0, figures[k]) / 2**20:.0f} MiB" for k in ("peak", "held")]
                    cells += [duration(figures[k]) for k in ("first", "again")]
                lines.append(f"| {name}, {what} | {tool} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(table())
    else:
        print(json.dumps(probe(*sys.argv[1:4])))
