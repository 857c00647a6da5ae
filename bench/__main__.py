"""Run every comparison, interleaved, and print the tables: `python -m bench`. With `--output FILE` they are kept."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from bench import array_memory, machine, memory, native, start
from bench.compare import set_up_table, table
from bench.run import MODULES
from bench.second_order import ratio_table

HERE = Path(__file__).parent
TITLES = {
    "calls": "Overhead of a call",
    "replay": "Replay, forward and reverse together",
    "axes": "Short last axes and other layouts",
    "recording": "Recording from Python",
    "scalar_mlp": "micrograd's case",
    "mnist": "MNIST step",
    "mnist_epoch": "MNIST epoch",
    "sparse": "Sparse derivatives",
    "second_order": "Hessian times vector",
    "matrices": "Functions of matrices",
    "native": "Programs beside machine code",
    "ode_adjoint": "Gradients through differential equations",
    "attention": "A block of attention",
    "recurrent": "Recurrent layers and attention",
    "norms": "Normalisation",
    "networks": "Convolutions",
    "njit": "Gradients of Numba code",
    "njit_inside": "Gradients inside Numba code",
    "batch": "Many inputs at once",
    "updates": "Updates of an optimiser",
}
THREADS = {"mnist": (1, 2), "mnist_epoch": (1, 2)}
# What a module has to say of its rows beside the times.
MORE = {"second_order": ratio_table, "native": native.first_calls}


def run(module: str, threads: int, rounds: int) -> list[dict]:
    """The comparisons of a module, in a process of their own that has so many threads."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.run", module, "--rounds", str(rounds)],
        stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent,
        env=os.environ | machine.thread_environment(threads),
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def core(rounds: int) -> str:
    """The tables of `bench.core`, from a process of its own that has one thread."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.core", "--rounds", str(rounds)],
        stdout=subprocess.PIPE, text=True, check=True, cwd=HERE.parent, env=os.environ | machine.thread_environment(1),
    )  # fmt: skip
    return done.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each comparison (default 7)")
    modules = [*MODULES, "core", "start", "memory", "array_memory"]
    parser.add_argument("--modules", nargs="+", default=modules, choices=modules, help="leave out the others")
    parser.add_argument("--output", type=Path, help="a file for the tables; those that are tracked: bench/RESULTS.md")
    options = parser.parse_args()
    parts = [
        "# Results\n\nWritten by `python -m bench --output bench/RESULTS.md`; README.md beside this says how to read "
        "it. Times are good to about 30 %, on a machine that others use to less; ratios hold better. A ratio below one "
        f"means that tapegrad is faster.\n\n{machine.description()}"
    ]
    for module in options.modules:
        if module == "core":
            parts.append(f"## What instructions, sweeps and recording cost\n\n{core(options.rounds)}")
        elif module == "start":
            parts.append(f"## Cold and warm start\n\n{start.table()}")
        elif module == "memory":
            parts.append(f"## Memory of a training loop on scalar Values\n\n{memory.table()}")
        elif module == "array_memory":
            parts.append(f"## Memory and first calls of programs over long arrays\n\n{array_memory.table()}")
        else:
            threads = THREADS.get(module, (1,))
            rows = [row for n in threads for row in run(module, n, options.rounds)]
            tables = [table(rows), MORE[module](rows) if module in MORE else "", set_up_table(rows)]
            parts.append("\n\n".join([f"## {TITLES[module]}", *filter(None, tables)]))
        print(parts[-1], end="\n\n", flush=True)
    if options.output:
        options.output.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
