"""Memory over 10,000 iterations of a training loop on scalar Values, which builds a new expression at each.

Run in a process of its own; sampled as it goes are resident memory, the blocks that Python has allocated and the
size of the tape, which rises and falls as what nothing refers to any more is collected.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ITERATIONS = 10_000
SAMPLES = (100, 1_000, 2_500, 5_000, 7_500, 10_000)


def _resident() -> int | None:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def probe() -> list[dict[str, Any]]:
    """Train a 2-4-1 perceptron of scalars for 10,000 iterations; returns a sample at each of SAMPLES."""
    import numpy as np

    import tapegrad as tg
    from bench import programs

    rng = np.random.default_rng(6)
    sizes = (2, 4, 1)
    points = rng.normal(size=(2, 2))
    targets = np.sign(points[:, 0])
    parameters = [tg.Value(float(p)) for p in rng.normal(size=programs.mlp_size(sizes))]
    samples = []
    for iteration in range(1, ITERATIONS + 1):
        loss = programs.squared_error(parameters, points, targets, sizes, lambda z: z.tanh())
        for p in parameters:
            p.zero_grad()
        loss.backward()
        for p in parameters:
            p.data -= 0.01 * p.grad
        if iteration in SAMPLES:
            tape = loss.tape
            samples.append({
                "iteration": iteration,
                "instructions": len(tape),
                "arena": tape.values.nbytes,
                "resident": _resident(),
                "blocks": sys.getallocatedblocks(),
            })  # fmt: skip
    return samples


def measure() -> list[dict[str, Any]]:
    """The samples, from a process that does nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory"], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1],
        check=True,
    )  # fmt: skip
    return json.loads(done.stdout.strip().splitlines()[-1])


def table() -> str:
    """Samples as a Markdown table."""
    lines = [
        "| iterations | instructions on the tape | arena | resident | objects of Python |",
        "|---|---|---|---|---|",
    ]
    for s in measure():
        sizes = " | ".join("-" if s[k] is None else f"{s[k] / 2**20:.2f} MiB" for k in ("arena", "resident"))
        lines.append(f"| {s['iteration']} | {s['instructions']} | {sizes} | {s['blocks']} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(json.dumps(probe()))
