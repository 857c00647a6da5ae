"""Logistic regression over data on disk that no worker could hold, on a cluster of processes.

    python examples/dask_logistic.py
    python examples/dask_logistic.py --rows 20000000 --workers 4 --folder /scratch/rows

The rows are written once, as Zarr, chunk by chunk, by the workers themselves. Each evaluation of the loss and its
gradient is one pass over them: L-BFGS takes some twenty. At the end the coefficients are printed beside those that the
data were drawn with, and a figure with the course of the fit is written.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def options(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Logistic regression over rows on disk, on a cluster of processes.")
    add = parser.add_argument
    add("--rows", type=int, default=5_000_000, help="(default: %(default)s)")
    add("--features", type=int, default=20, help="numbers in a row (default: %(default)s)")
    add("--chunk", type=int, default=50_000, help="rows in a chunk (default: %(default)s)")
    add("--workers", type=int, default=2, help="processes (default: %(default)s)")
    add("--memory", default="400MB", help="limit of each worker (default: %(default)s)")
    add("--folder", type=Path, help="where the rows are kept, and found again (default: a temporary folder)")
    add("--seed", type=int, default=0, help="of the data (default: %(default)s)")
    add("--output", type=Path, default=Path("dask_logistic.png"), help="the figure (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    for name in ("rows", "features", "chunk", "workers"):
        if getattr(chosen, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return chosen


def extras() -> Any:
    """The packages that only the examples need."""
    try:
        import matplotlib
        import tqdm
        import zarr  # noqa: F401
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[examples]"')
    try:
        import dask.array  # noqa: F401
        import distributed  # noqa: F401
    except ImportError as error:
        sys.exit(f'this example needs {error.name}: pip install "tapegrad[dask]"')
    matplotlib.use("Agg")
    return tqdm.tqdm


def truth(features: int, seed: int) -> Any:
    """The coefficients that the data are drawn with, and the constant."""
    import numpy as np

    return np.random.default_rng(seed).normal(size=features) / math.sqrt(features), 0.25


def rows_of(folder: Path, chosen: argparse.Namespace) -> Any:
    """A Dask array of the rows, the label last, which are written if they are not there yet."""
    import dask.array as da
    import numpy as np
    import zarr

    w, b = truth(chosen.features, chosen.seed)
    # Features in units that have nothing to do with each other, as in life: the fit takes more than a few steps then.
    scale = np.geomspace(0.2, 2.0, chosen.features)

    def draw(block_info: Any = None) -> Any:
        place = block_info[None]
        rng = np.random.default_rng((chosen.seed, place["chunk-location"][0]))
        x = rng.normal(size=(place["chunk-shape"][0], chosen.features + 1))
        x[:, :-1] *= scale
        x[:, -1] = rng.random(len(x)) < 1.0 / (1.0 + np.exp(-(x[:, :-1] @ w + b)))
        return x

    store = folder / f"rows-{chosen.rows}-{chosen.features}-{chosen.chunk}-{chosen.seed}.zarr"
    if not store.exists():
        shape, chunk = (chosen.rows, chosen.features + 1), min(chosen.chunk, chosen.rows)
        full, rest = divmod(chosen.rows, chunk)
        chunks = (chunk,) * full + (rest,) * (rest > 0), (shape[1],)
        part = store.with_suffix(".part")
        target = zarr.create_array(part, shape=shape, chunks=(chunk, shape[1]), dtype=float, overwrite=True)
        da.map_blocks(draw, chunks=chunks, dtype=float, meta=np.zeros((0, 0))).store(target, lock=False)
        part.rename(store)
    return da.from_zarr(store)


def fit(chosen: argparse.Namespace, rows: Any, progress: Any) -> tuple[Any, list[tuple[float, float]]]:
    """SciPy's result, and for each pass over the data (loss, seconds)."""
    import numpy as np

    import tapegrad.dask
    from tapegrad.optimize import minimize

    def loss(p: Any, row: Any) -> Any:
        z = row[:-1] @ p["w"] + p["b"]
        return np.logaddexp(0.0, z) - row[-1] * z

    value_and_grad = tapegrad.dask.value_and_grad(loss, mean=True)
    history: list[tuple[float, float]] = []
    with progress(unit="pass", file=sys.stderr) as bar:

        def one_pass(p: Any, rows: Any) -> tuple[float, Any]:
            start = time.perf_counter()
            value, gradient = value_and_grad(p, rows)
            history.append((value, time.perf_counter() - start))
            bar.update()
            bar.set_postfix_str(f"loss {value:.6f}")
            return value, gradient

        start = {"w": np.zeros(chosen.features), "b": 0.0}
        # At the best fit to N rows the coefficients are good to about 1/√N: no more digits are asked for.
        result = minimize(one_pass, start, rows, "L-BFGS-B", jac=True, tol=1e-6)
    return result, history


def draw_figure(path: Path, history: list[tuple[float, float]], result: Any, w: Any) -> None:
    """The course of the loss, and the coefficients that were found beside the true ones."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import MaxNLocator

    ink, blue, orange, grey = "#22252b", "#2f6db5", "#d9742b", "#8a919c"
    plt.rcParams.update({"font.size": 10, "text.color": ink, "axes.edgecolor": grey, "axes.labelcolor": ink})
    plt.rcParams.update({"axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    above = np.array([loss for loss, _ in history]) - result.fun
    left.plot(np.arange(1, len(above) + 1), np.where(above > 0.0, above, np.nan), color=blue, marker="o", markersize=4)
    left.set(title="Mean loss above that of the fit", xlabel="pass over the data", yscale="log")
    left.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ends = [min(w.min(), result.x["w"].min()), max(w.max(), result.x["w"].max())]
    right.plot(ends, ends, color=grey, linewidth=1)
    right.plot(w, result.x["w"], "o", color=orange, markersize=5)
    right.set(title="Coefficients", xlabel="that the data were drawn with", ylabel="found")
    for axes in (left, right):
        axes.grid(True, color="#e6e8ec", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def peak() -> float:
    """The most memory that this process has had, in megabytes."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def most(client: Any) -> float:
    """The most memory that any worker has had, in megabytes."""
    return float(max(client.run(peak).values()))


def main(arguments: list[str] | None = None) -> None:
    chosen = options(arguments)
    # Each worker is one process with one thread: those of the BLAS would only get into each other's way.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    progress = extras()
    import numpy as np
    from distributed import Client, LocalCluster

    start = time.perf_counter()
    with contextlib.ExitStack() as stack:
        folder = chosen.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        cluster = stack.enter_context(LocalCluster(
            n_workers=chosen.workers, threads_per_worker=1, processes=True, memory_limit=chosen.memory,
            dashboard_address=":0",
        ))  # fmt: skip
        client = stack.enter_context(Client(cluster))
        rows = rows_of(folder, chosen)
        size = 8e-6 * chosen.rows * (chosen.features + 1)
        print(f"{chosen.rows:,} rows, {size:,.0f} MB on disk; {chosen.workers} workers of {chosen.memory} each")
        result, history = fit(chosen, rows, progress)
        in_a_worker = most(client)
    w, b = truth(chosen.features, chosen.seed)
    error = np.abs(np.append(result.x["w"] - w, result.x["b"] - b)).max()
    seconds = sorted(s for _, s in history)[len(history) // 2]
    print(f"loss {result.fun:.6f} after {len(history)} passes; coefficients found to {error:.1g}")
    print(f"{seconds:.2f} s a pass, {time.perf_counter() - start:.1f} s in all with writing the rows")
    print(f"at most {in_a_worker:,.0f} MB in a worker, {peak():,.0f} MB in this process")
    draw_figure(chosen.output, history, result, w)
    print(f"figure written to {chosen.output}")


if __name__ == "__main__":
    main()
