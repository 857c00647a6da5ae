"""Cold and warm start: a new process imports the tool and computes its first gradient.

Cold means that nothing compiled is kept from before: tapegrad's and Numba's cache folders are new and empty. Warm is
the same process run again. What `import numba` takes (for the others, nothing) is measured in the same process and
left out, as is `import numpy`. A program of scalars and one of arrays are measured apart, for they compile different
things.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.compare import duration
from bench.machine import thread_environment

TOOLS = ("tapegrad", "jax", "torch")
PROGRAMS = ("scalars", "arrays")


def _program(kind: str, parameters: Any, functions: Any, relu: Any) -> Any:
    if kind == "scalars":
        a, b = parameters[0], parameters[1]
        c = a * b + functions.sin(a) / b
        d = functions.exp(c) - functions.tanh(a * 0.5)
        return d * d + functions.sqrt(c * c + 1.0)
    import numpy as np

    x = np.linspace(-1.0, 1.0, 32 * 8, dtype=np.float32).reshape(32, 8)
    w1, w2 = parameters[:64].reshape(8, 8), parameters[64:72]
    return functions.sum((relu(functions.matmul(x if functions is np else functions.asarray(x), w1)) @ w2) ** 2)


def probe(tool: str, kind: str) -> dict[str, float]:
    """In a fresh process: seconds of importing, and of the first gradient."""
    import numpy as np

    times = {}
    start = time.perf_counter()
    if tool == "tapegrad":
        import numba  # noqa: F401
    times["numba"] = time.perf_counter() - start
    x = np.array([0.5, 1.5]) if kind == "scalars" else np.full(72, 0.1, np.float32)
    start = time.perf_counter()
    if tool == "tapegrad":
        import tapegrad as tg

        times["import"] = time.perf_counter() - start
        gradient = tg.grad(lambda p: _program(kind, p, np, tg.relu))(x)
    elif tool == "jax":
        import jax

        times["import"] = time.perf_counter() - start
        jax.config.update("jax_enable_x64", kind == "scalars")
        gradient = jax.jit(jax.grad(lambda p: _program(kind, p, jax.numpy, jax.nn.relu)))(x).block_until_ready()
    else:
        import torch

        times["import"] = time.perf_counter() - start
        p = torch.tensor(x, requires_grad=True)
        gradient = torch.autograd.grad(_program(kind, p, torch, torch.relu), p)[0]
    times["first gradient"] = time.perf_counter() - start - times["import"]
    times["norm"] = float(np.linalg.norm(np.asarray(gradient, np.float64)))
    return times


def _run(tool: str, kind: str, cache: str) -> dict[str, float] | str:
    environment = os.environ | thread_environment(1) | {"TAPEGRAD_CACHE": cache, "NUMBA_CACHE_DIR": cache}
    start, before = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "bench.start", tool, kind], capture_output=True, text=True, env=environment,
        cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if "ModuleNotFoundError" in last:
            return f"skipped: {last.split(': ', 1)[1]}"
        raise RuntimeError(f"{tool}, {kind}: {last}")
    return json.loads(done.stdout.strip().splitlines()[-1]) | {"process": wall, "cores": used / wall}


def measure(kind: str, warm_runs: int = 5, tools: Sequence[str] = TOOLS) -> list[dict[str, Any]]:
    """Each tool's cold start, then its warm ones, taken in turn; raises AssertionError if gradients differ.

    "process" is the time of the whole process, from its start to its end, "cores" how many it kept busy.
    """
    with tempfile.TemporaryDirectory() as folder:
        cold = {tool: _run(tool, kind, f"{folder}/{tool}") for tool in tools}
        installed = [tool for tool in tools if isinstance(cold[tool], dict)]
        warm: dict[str, list[Any]] = {tool: [] for tool in installed}
        for _ in range(warm_runs):
            for tool in installed:
                warm[tool].append(_run(tool, kind, f"{folder}/{tool}"))
    norms = {tool: cold[tool]["norm"] for tool in installed}
    assert max(norms.values()) - min(norms.values()) <= 1e-5 * max(norms.values()), f"gradients differ: {norms}"
    rows = [{"tool": tool, "skipped": cold[tool]} for tool in tools if tool not in installed]
    for tool in installed:
        middle = {part: statistics.median(run[part] for run in warm[tool]) for part in cold[tool]}
        rows.append({"tool": tool, "cold": cold[tool], "warm": middle})
    return rows


def _total(times: dict[str, float]) -> float:
    return times["import"] + times["first gradient"]


def table(warm_runs: int = 5) -> str:
    """Cold and warm starts as a Markdown table."""
    lines = [
        "| program | tool | import numba | import, warm | first gradient, warm | both, warm | both, cold "
        "| tapegrad / tool, warm | tapegrad / tool, cold |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind in PROGRAMS:
        rows = measure(kind, warm_runs)
        ours = next(row for row in rows if row["tool"] == "tapegrad")
        for row in rows:
            if "skipped" in row:
                lines.append(f"| {kind} | {row['tool']} | {row['skipped']} | | | | | | |")
                continue
            warm, cold = row["warm"], row["cold"]
            cells = [
                duration(warm["numba"]) if row["tool"] == "tapegrad" else "-",
                *(duration(warm[part]) for part in ("import", "first gradient")),
                *(duration(_total(times)) for times in (warm, cold)),
                f"{_total(ours['warm']) / _total(warm):.3g}",
                f"{_total(ours['cold']) / _total(cold):.3g}",
            ]
            lines.append(f"| {kind} | {row['tool']} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(probe(*sys.argv[1:3])))
