"""Run the comparisons of one module in this process and print them: `python -m bench.run replay --table`.

The module's comparisons share the process, so its contestants run interleaved. BENCH_THREADS says how many threads they
have, one unless it is set.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys

from bench import machine

# Before NumPy is imported: libraries read these when they are.
os.environ.update(machine.thread_environment(machine.threads()))

from bench.compare import measure, set_up_table, table

MODULES = (
    "calls", "replay", "axes", "recording", "scalar_mlp", "mnist", "mnist_epoch", "sparse", "second_order", "matrices",
    "native", "ode_adjoint", "attention", "networks", "norms", "njit", "njit_inside", "batch", "updates",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", choices=MODULES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="only comparisons whose name holds this")
    parser.add_argument("--table", action="store_true", help="print a table instead of JSON")
    options = parser.parse_args()
    machine.limit_libraries()
    rows = []
    for make in importlib.import_module(f"bench.{options.module}").COMPARISONS:
        comparison = make()
        if options.only in comparison.name:
            print(comparison.name, file=sys.stderr, flush=True)
            rows.append(measure(comparison, options.rounds))
    print(f"{table(rows)}\n\n{set_up_table(rows)}" if options.table else json.dumps(rows))


if __name__ == "__main__":
    main()
