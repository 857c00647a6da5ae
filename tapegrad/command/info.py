"""What tapegrad finds on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from tapegrad.cache import wanted_folder
from tapegrad.compiled import machine, vector
from tapegrad.native import choice
from tapegrad.program.memory import memory

_PACKAGES = ("tapegrad", "numpy", "numba", "llvmlite", "scipy", "optree", "opt_einsum", "platformdirs")
# What the features of a processor are called that the code is made for, the widest first.
_FEATURES = ("avx512f", "avx2", "fma", "sse4.2", "sve2", "sve", "neon")
# Names of files with code: what it is, a digest, and in files of Numba and Python the function and the version.
_COMPILED = re.compile(r"\w+_[0-9a-f]{16,64}(\.py|\.code|\.driver|\..*\.(pyc|nbi|nbc))")
_SETTINGS = ("TAPEGRAD_CACHE", "TAPEGRAD_COMPILE", "TAPEGRAD_MATH", "TAPEGRAD_MEMORY", "NUMBA_DISABLE_JIT",
             "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # fmt: skip


def info() -> str:
    """Versions, processor, cache, BLAS, vector math, threads and settings, one fact a line.

    >>> "numba" in info()
    True
    """
    facts = {
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "Python": f"{platform.python_version()} ({platform.python_implementation()}), {platform.platform()}",
        "processor": f"{llvm.get_host_cpu_name()}: {_features()}",
        "threads": f"{_processors()} processors to this process",
        "memory": f"recordings may hold {_bytes(memory.limit)}, and hold {_bytes(memory.held())}",
        "BLAS": _blas(),
        "vector math": _vector_math(),
        "compiling": _compiling(),
        "cache": _cache(),
        "settings": ", ".join(f"{name}={os.environ[name]}" for name in _SETTINGS if os.environ.get(name)) or "none",
    }
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items())


def files_of_the_cache() -> list[Path]:
    """The compiled code that is kept for later processes. Other files in the folder, downloads or a user's, are not."""
    folder = wanted_folder()
    if folder is None or not folder.is_dir():
        return []
    return [path for path in (*folder.glob("*"), *folder.glob("__pycache__/*")) if _COMPILED.fullmatch(path.name)]


def size_of(files: list[Path]) -> str:
    """How many files these are, and how large together."""
    return f"{len(files)} file{'s' if len(files) != 1 else ''}, {_bytes(sum(map(_size, files)))}"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _bytes(n: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if n < 1000 or unit == "GB":
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1000
    raise AssertionError


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _features() -> str:
    has = machine.features()
    return ", ".join(name for name in _FEATURES if has.get(name)) or "no vector features that LLVM knows of"


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _blas() -> str:
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return "its threads are unknown without the package threadpoolctl"
    # SciPy's is loaded at the first matrix product on a tape, and only what is loaded is found.
    import scipy.linalg.cython_blas  # noqa: F401

    found: list[dict[str, Any]] = [entry for entry in threadpool_info() if entry["user_api"] == "blas"]
    return "; ".join(f"{e['internal_api']} {e['version']}, {e['num_threads']} threads" for e in found) or "none found"


def _vector_math() -> str:
    if not vector.is_wanted():
        return "libm, number by number, as TAPEGRAD_MATH says"
    if vector.library() is None:
        return "functions written out in compiled programs; libm, number by number, elsewhere (there is no libmvec)"
    return f"libmvec, {vector.register_bits()} bits, and functions written out in compiled programs"


def _compiling() -> str:
    how = choice.mode()
    return choice.refusal(how) or f"{how}: " + {
        choice.AUTO: "programs are compiled where that pays",
        choice.ALWAYS: "every program is compiled before its first replay",
    }.get(how, "programs are interpreted")


def _cache() -> str:
    folder = wanted_folder()
    return "no folder is known: name one in TAPEGRAD_CACHE" if folder is None else (
        f"{folder} ({size_of(files_of_the_cache())})"
    )  # fmt: skip
