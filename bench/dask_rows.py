"""One gradient over many rows, on one process and on clusters of processes: `python -m bench.dask_rows`.

The rows of a logistic regression, or with `--function network` of a small network, which works longer on each row, are
drawn where they are used, chunk by chunk, so no process ever has many of them.
One process goes through the chunks by `recording.batch`; a cluster of P processes by `tapegrad.dask`. They take turns,
round by round, after it was checked that values and gradients agree. Then are measured: a pass in which a worker is
killed, the most memory of client and workers, what a chunk without work costs, and what parameters cost to send. From
these follow the constants of the model in docs/scale.md.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FEATURES, HIDDEN = 20, 32


def draw(seed: int, rows: int) -> np.ndarray:
    """Rows of random numbers, the last of each 0 or 1."""
    x = np.random.default_rng(seed).random((rows, FEATURES + 1))
    x -= 0.5
    x[:, -1] = x[:, 0] + 0.3 * x[:, -1] > 0.0
    return x


def logistic(w: Any, row: Any) -> Any:
    z = row[:-1] @ w
    return np.logaddexp(0.0, z) - row[-1] * z


def network(w: Any, row: Any) -> Any:
    """As logistic regression, of a layer with tanh instead of the features."""
    inner, outer = w[: FEATURES * HIDDEN].reshape(FEATURES, HIDDEN), w[FEATURES * HIDDEN :]
    z = np.tanh(row[:-1] @ inner) @ outer
    return np.logaddexp(0.0, z) - row[-1] * z


# Each with how many parameters it has.
FUNCTIONS = {"logistic": (logistic, FEATURES), "network": (network, FEATURES * HIDDEN + HIDDEN)}


def peak() -> float:
    """The most memory that this process has had, in megabytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def alone(f: Any, w: np.ndarray, rows: int, chunk: int, recorded: dict[str, Any]) -> tuple[float, np.ndarray]:
    """The mean over all rows by one process."""
    import tapegrad as tg

    recording = recorded.setdefault("recording", tg.record(f, w, draw(0, 1)[0], compile=True))
    value, gradient = 0.0, np.zeros(len(w))
    for k in range(rows // chunk):
        v, g = recording.batch.value_and_grad_sum(w, draw(k, chunk), in_axes=(None, 0))
        value, gradient = value + v, gradient + g
    return value / rows, gradient / rows


def drawn(rows: int, chunk: int, marker: str = "") -> Any:
    """The rows as a Dask array. With a marker, the worker that draws the middle chunk is killed, once."""
    import dask.array as da

    middle = rows // chunk // 2

    def of_chunk(block_info: Any = None) -> np.ndarray:
        k = block_info[None]["chunk-location"][0]
        if marker and k == middle and not os.path.exists(marker):
            Path(marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return draw(k, chunk)

    chunks = ((chunk,) * (rows // chunk), (FEATURES + 1,))
    return da.map_blocks(of_chunk, chunks=chunks, dtype=float, meta=np.zeros((0, 0)))


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[Any]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0") as local,
        Client(local) as client,
    ):
        yield client


def seconds(call: Any, *args: Any) -> float:
    start = time.perf_counter()
    call(*args)
    return time.perf_counter() - start


def on_cluster(workers: int, chosen: argparse.Namespace, recorded: dict[str, Any]) -> dict[str, Any]:
    """Medians for so many workers, in turns with one process alone."""
    import tapegrad.dask

    f, parameters = FUNCTIONS[chosen.function]
    w = np.linspace(-1.0, 1.0, parameters)
    data, value_and_grad = drawn(chosen.rows, chosen.chunk), tapegrad.dask.value_and_grad(f, mean=True)
    found: dict[str, Any] = {"workers": workers}
    with cluster(workers) as client:
        # Once beforehand: workers compile, or load, the program.
        first = value_and_grad(w, drawn(chosen.chunk * 2 * workers, chosen.chunk))
        assert np.isfinite(first[0])
        one, many = [], []
        # Processor time, which other programs on the machine do not change much: of one process; of client and
        # scheduler, which are one process here; and of the workers together.
        spent: list[list[float]] = []
        for _ in range(chosen.rounds):
            started = time.process_time()
            one.append(seconds(lambda: recorded.update(known=alone(f, w, chosen.rows, chosen.chunk, recorded))))
            before, middle = sum(client.run(time.process_time).values()), time.process_time()
            many.append(seconds(lambda: recorded.update(found=value_and_grad(w, data))))
            ended, after = time.process_time(), sum(client.run(time.process_time).values())
            spent.append([middle - started, ended - middle, after - before])
            for mine, known in zip(recorded["found"], recorded["known"], strict=True):
                np.testing.assert_allclose(mine, known, rtol=1e-9, atol=1e-12)
        found |= {"one": statistics.median(one), "many": statistics.median(many)}
        found["spent"] = [statistics.median(x) for x in zip(*spent)]
        found["workers MB"] = max(client.run(peak).values())
        if workers > 1:
            with tempfile.TemporaryDirectory() as folder:
                killed = drawn(chosen.rows, chosen.chunk, os.path.join(folder, "killed"))
                again: list[Any] = []
                found["killed"] = seconds(lambda: again.append(value_and_grad(w, killed)))
                (value, gradient), (known, by_known) = again[0], recorded["found"]
                found["same bits"] = value == known and np.array_equal(gradient, by_known)
        found |= costs(workers, chosen.rounds)
    return found


def costs(workers: int, rounds: int) -> dict[str, float]:
    """What a call costs besides its rows, in seconds: of one chunk, of each further chunk; and for each megabyte of
    parameters, of sending them to all workers, and of adding up one more chunk's gradient."""
    import dask.array as da

    import tapegrad.dask

    value_and_grad = tapegrad.dask.value_and_grad(lambda w, x: w[0] * x)

    def median(numbers: int, chunks: int) -> float:
        x, w = da.from_array(np.ones(chunks), chunks=1).persist(), np.ones(numbers)
        value_and_grad(w, x)
        return statistics.median(seconds(value_and_grad, w, x) for _ in range(max(5, rounds)))

    few, many, length = workers, 16 * workers, 1 << 20
    call, more = median(1, 1), median(1, 256)
    sent = median(length, few) - median(1, few)
    add = (median(length, many) - median(1, many) - sent) / (many - few) / 8
    return {"call": call, "task": (more - call) / 255, "send": sent / 8 - few * add, "add": add}


def predicted(rows: float, chunk: int, workers: int, processors: float, row: float, found: dict[str, Any]) -> float:
    """The formula of docs/scale.md, in seconds, for a gradient of a few numbers. Where client, scheduler and workers
    share fewer processors than they are, all their work takes its time on these."""
    chunks = rows / chunk
    at_once = min(workers, processors)
    shared = 0.0 if math.isinf(processors) else (rows * row + found["spent"][1]) / processors
    return float(found["call"] + max(math.ceil(chunks / at_once) * chunk * row, chunks * found["task"], shared))


def print_model(chosen: argparse.Namespace, tables: list[dict[str, Any]]) -> None:
    """The constants, and what the formula says beside what was measured, and where nobody has measured."""
    # What a row takes in a worker, which is more than in one process alone: a worker's memory is not kept for long.
    row = statistics.median(t["spent"][2] for t in tables) / chosen.rows
    print("\n| workers | call, ms | task, ms | send, ms a MB | add, ms a MB and chunk | measured, s | formula, s |")
    print("|---|---|---|---|---|---|---|")
    for t in tables:
        model = predicted(chosen.rows, chosen.chunk, t["workers"], os.cpu_count() or 1, row, t)
        cells = [1e3 * t[name] for name in ("call", "task", "send", "add")] + [t["many"], model]
        print(f"| {t['workers']} | " + " | ".join(f"{x:.3g}" for x in cells) + " |")
    last = tables[-1]
    print(f"\n{1e9 * row:.1f} ns a row; extrapolated, one processor for each worker, seconds:")
    sizes = [(chosen.rows, chosen.chunk), (chosen.rows, 5 * chosen.chunk), (100 * chosen.rows, 10 * chosen.chunk),
             (100 * chosen.rows, 50 * chosen.chunk)]  # fmt: skip
    print("| workers | " + " | ".join(f"{n:,} rows, {c:,} a chunk" for n, c in sizes) + " |")
    print("|" + "---|" * (len(sizes) + 1))
    for workers in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        cells = [predicted(n, c, workers, math.inf, row, last) for n, c in sizes]
        print(f"| {workers} | " + " | ".join(f"{x:.3g}" for x in cells) + " |")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="One gradient over many rows, on clusters of processes.")
    parser.add_argument("--rows", type=int, default=10_000_000, help="(default: %(default)s)")
    parser.add_argument("--chunk", type=int, default=100_000, help="rows in a chunk (default: %(default)s)")
    parser.add_argument("--function", choices=FUNCTIONS, default="logistic", help="(default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: %(default)s)")
    chosen = parser.parse_args(arguments)
    chosen.rows -= chosen.rows % chosen.chunk
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    recorded: dict[str, Any] = {}
    tables = [on_cluster(workers, chosen, recorded) for workers in chosen.workers]
    print(f"{chosen.function}: {chosen.rows:,} rows of {FEATURES} features in chunks of {chosen.chunk:,}; "
          f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; medians of {chosen.rounds} rounds")
    print(f"most memory of the client: {peak():,.0f} MB")
    columns = ["workers", "one process, s", "cluster, s", "speed-up", "one worker killed, s", "same bits", "workers MB",
               "processor s: one process", "client and scheduler", "workers together"]  # fmt: skip
    print("| " + " | ".join(columns) + " |\n|" + "---|" * len(columns))
    for t in tables:
        cells = [t["workers"], t["one"], t["many"], t["one"] / t["many"], t.get("killed", ""), t.get("same bits", ""),
                 t["workers MB"], *t["spent"]]  # fmt: skip
        print("| " + " | ".join(f"{x:.3g}" if isinstance(x, float) else str(x) for x in cells) + " |")
    print_model(chosen, tables)


if __name__ == "__main__":
    main()
