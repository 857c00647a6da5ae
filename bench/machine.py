"""What a measurement was taken on, and how many threads it may use."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from pathlib import Path

CONTESTANTS = ("numpy", "numba", "scipy", "torch", "jax", "autograd", "micrograd", "casadi")


def thread_environment(threads: int) -> dict[str, str]:
    """Environment variables that hold BLAS, OpenMP, Numba and XLA to a number of threads, read at their import."""
    names = [f"{library}_NUM_THREADS" for library in ("OMP", "OPENBLAS", "MKL", "NUMBA")]
    environment = {name: str(threads) for name in [*names, "NPROC", "BENCH_THREADS"]} | {"JAX_PLATFORMS": "cpu"}
    if threads == 1:
        environment["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
    return environment


def threads() -> int:
    """How many threads this process was given; one unless BENCH_THREADS says otherwise."""
    return int(os.environ.get("BENCH_THREADS", "1"))


def limit_torch() -> None:
    """Hold PyTorch to the threads given, whatever it read at its import."""
    import torch

    torch.set_num_threads(threads())


def limit_jax() -> None:
    """Have JAX compute in the thread that calls it, which must be said before it computes anything.

    Unless told so, JAX hands all but the shortest computations to a thread of its own, and a caller that waits for the
    result loses some 60 µs by that.
    """
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def limit_libraries() -> None:
    """What of PyTorch and JAX is not said by the environment, where they are installed."""
    for limit in (limit_torch, limit_jax):
        with contextlib.suppress(ImportError):
            limit()


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def processor() -> str:
    """The processor's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def description() -> str:
    """The machine, as a Markdown list."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg()) if hasattr(os, "getloadavg") else "unknown"
    versions = ", ".join(f"{name} {version(name)}" for name in CONTESTANTS)
    return "\n".join([
        f"- Processor: {processor()}, {cores} cores to this process, {platform.system()} {platform.machine()}",
        f"- Python {platform.python_version()}, {versions}",
        f"- Load average over 1, 5 and 15 minutes when this was written: {load}",
    ])  # fmt: skip
