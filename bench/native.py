"""Programs that a compiler could make machine code of, beside such code: what XLA, CasADi and a careful person write.

    python -m bench.native                       # everything: three minutes
    python -m bench.native heston k-means        # some of it
    python -m bench.native ode --replays         # without the first calls, which take a process each

Values and gradients of all contestants are compared first, at inputs that were not recorded; then replays are timed,
interleaved in one process. tapegrad's are timed once it has settled how to replay a program. Then each contestant is
started once more in a process of its own, for the time of its first call (recording, tracing and compiling included)
and its peak of memory. Before that call the process has imported the tool and differentiated a sine by it. What tools
keep on the disk is there already; `--cold` gives them an empty folder instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from bench import machine

if __name__ == "__main__":
    # Before NumPy is imported: libraries read these when they are.
    os.environ.update(machine.thread_environment(1))

import numpy as np

from bench import loops, native_arrays, native_scalars, tools
from bench.array_memory import figures, in_fresh_process, same_norms
from bench.compare import OURS, Comparison, Ready, duration, measure, numbers, set_up_table, table
from bench.native_convolution import convolution

WORKLOADS: dict[str, list[Callable[[], Comparison]]] = {
    "n-body": [partial(native_scalars.nbody, steps) for steps in (10, 100, 1000)],
    "determinant": [native_scalars.minors],
    "least-squares": [native_scalars.least_squares],
    "rosenbrock": [
        partial(make, size)
        for make in (native_arrays.rosenbrock_gradient, native_arrays.rosenbrock_hessian)
        for size in (1_000, 100_000)
    ],
    "monte-carlo": [native_arrays.monte_carlo],
    "heston": [native_arrays.heston],
    "k-means": [native_arrays.k_means_gradient, native_arrays.k_means_product],
    "ode": [native_arrays.stencil],
    "lstm": [native_scalars.lstm_of_arrays, native_scalars.lstm_of_numbers],
    "loops": [loops.logistic, loops.lstm, loops.runge_kutta],
    "bundle-adjustment": [native_arrays.bundle_adjustment],
    "convolution": [convolution],
    "functions": [
        partial(make, name)
        for make in (native_arrays.function_value, native_arrays.function_gradient)
        for name in ("tanh", "exp", "sin", *native_arrays.OTHERS)
    ],
}
# What is made before a first call is timed, because it is no part of it.
DATA = {"heston": native_arrays.heston_normals}


def _settling(make: Callable[[], Comparison]) -> Comparison:
    comparison = make()
    contestants = {t: tools.settling(m) if t.startswith(OURS) else m for t, m in comparison.tools.items()}
    return dataclasses.replace(comparison, tools=contestants)


COMPARISONS = [partial(_settling, make) for makers in WORKLOADS.values() for make in makers]


def _warm_up(tool: str) -> None:
    # Import the tool, and have it load what every program needs.
    def sine(x: Any, functions: Any) -> Any:
        return functions.sin(x[0]) * x[1]

    library = tool.split(",")[0].split()[0]
    if library == "Numba":
        import numba

        numba.njit(lambda x: np.sin(x))(1.0)
        return
    if library == "jax":
        machine.limit_jax()
    if library == "torch":
        machine.limit_torch()
    x = np.ones(2)
    ready = getattr(tools, library)(sine, x)
    ready.run(ready.prepare(x))


def probe(workload: str, number: int, tool: str) -> dict[str, float]:
    """In a fresh process: what one contestant's first call takes, its set-up included, and one more."""
    _warm_up(tool)
    comparison = WORKLOADS[workload][number]()
    DATA.get(workload, tuple)()
    made: list[Ready] = []

    def call(x: Any) -> Any:
        if not made:
            made.append(comparison.tools[tool](x))
        return made[0].run(made[0].prepare(x))

    return figures(call, comparison.inputs[0], lambda result: np.linalg.norm(numbers(made[0].read(result))), again=1)


def first_calls(rows: Sequence[dict[str, Any]], cold: bool = False) -> str:
    """First calls and memory of the contestants of these rows, as a Markdown table. Raises AssertionError if results
    differ."""
    names = {make().name: (workload, n) for workload, makers in WORKLOADS.items() for n, make in enumerate(makers)}
    lines = ["| workload | tool | first call | tapegrad / tool | peak of memory |", "|---|---|---|---|---|"]
    for row in rows:
        workload, number = names[row["name"]]
        found: dict[str, Any] = {}
        for tool in row["tools"]:
            with tempfile.TemporaryDirectory() if cold else nullcontext("") as folder:
                found[tool] = in_fresh_process(
                    "bench.native", "--probe", workload, str(number), tool, *(("--cache", folder) if cold else ()),
                    who=f"{row['name']}: {tool}",
                )  # fmt: skip
        same_norms(found)
        ours = found.get(OURS)
        for tool, taken in found.items():
            if isinstance(taken, str):
                lines.append(f"| {row['name']} | {tool} | {taken} | | |")
                continue
            ratio = f"{ours['first'] / taken['first']:.3g}" if isinstance(ours, dict) and tool != OURS else ""
            memory = f"{max(0.0, taken['peak']) / 2**20:.0f} MiB"
            lines.append(f"| {row['name']} | {tool} | {duration(taken['first'])} | {ratio} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workloads", nargs="*", help=f"leave out the others of: {', '.join(WORKLOADS)}")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison (default 7)")
    parser.add_argument("--replays", action="store_true", help="no first calls")
    parser.add_argument("--cold", action="store_true", help="first calls with empty caches")
    parser.add_argument("--probe", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--cache", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cache:
        os.environ.update({"TAPEGRAD_CACHE": options.cache, "NUMBA_CACHE_DIR": options.cache})
    if options.probe:
        workload, number, tool = options.probe
        print(json.dumps(probe(workload, int(number), tool)))
        return
    chosen = options.workloads or list(WORKLOADS)
    if unknown := set(chosen) - set(WORKLOADS):
        parser.error(f"no workload {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    machine.limit_libraries()
    rows = []
    for make in (make for workload in chosen for make in WORKLOADS[workload]):
        comparison = _settling(make)
        print(comparison.name, file=sys.stderr, flush=True)
        rows.append(measure(comparison, options.rounds))
    parts = [table(rows), set_up_table(rows), "" if options.replays else first_calls(rows, options.cold)]
    print("\n\n".join(filter(None, parts)))


if __name__ == "__main__":
    main()
