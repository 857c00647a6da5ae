"""Keeping compiled sweeps: a generated module for each dtype, and one for each operation declared elsewhere.

Numba caches compiled code beside the file it came from and notices a change of that file only. So everything that
the sweeps are made of is written into one file, named by a digest of what it was made from: an edited rule is another
file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba import config, types

from tapegrad.cache import cache_folder
from tapegrad.ops import TABLE, Operation
from tapegrad.sweeps import kernels
from tapegrad.sweeps.generate import is_own, kernels_source, sweeps_source
from tapegrad.sweeps.kernels import with_repair
from tapegrad.sweeps.marks import BLOCK


class Sweeps:
    """The compiled sweeps of one dtype, and the kernels they call.

    `sweep(code, side, v, g, x, seed, steps)` computes values (steps 1), adjoints (2) or both (3);
    `tangent(code, side, v, t, start, stop)` carries tangents along; `lanes(...)` does one or the other for k
    directions.
    """

    def __init__(self, module: Any, dtype: np.dtype) -> None:
        self.sweep: Callable[..., int] = _entry(module.sweep, dtype)
        self.tangent: Callable[..., None] = module.tangent
        self.module = module
        self.dtype = dtype

    def lanes(self, code: np.ndarray, side: np.ndarray, v: np.ndarray, d: np.ndarray, *, back: bool) -> None:
        """Carry k adjoints back, or k tangents along, in one pass; d is (slots, k)."""
        kernel = self.module.reverse_lanes if back else self.module.tangent_lanes
        kernel(code, side, v, d, np.concatenate([np.zeros_like(v), np.ones(BLOCK, self.dtype)]))

    def require(self, opcodes: Iterable[int], kind: int) -> None:
        """Have the kernels of these operations at hand; see `kernels`."""
        for opcode in opcodes:
            if kernels.is_missing(self.dtype, opcode, kind):
                row = TABLE[opcode]
                module = self.module if is_own(row) else _kernels_of(self.dtype, row)
                kernels.require(module, self.dtype, opcode, kind)


def _entry(sweep: Any, dtype: np.dtype) -> Callable[..., int]:
    """The compiled entry point itself: it checks its arguments, and skips Numba's search for a matching signature."""
    if config.DISABLE_JIT:
        return sweep
    real = numba.from_dtype(dtype)[::1]
    arguments = (types.uint32[:, ::1], types.int64[::1], real, real, real, types.int64, types.int64)
    with_repair(sweep, lambda: sweep.compile(arguments))
    return sweep.overloads[arguments].entry_point


def _digest(*parts: str) -> str:
    # What is written for a run without compilation names other functions, and must not be met by one with it.
    state = (numba.__version__, np.__version__, str(config.DISABLE_JIT))
    return hashlib.sha256("\0".join((*state, *parts)).encode()).hexdigest()[:16]


def _module(name: str, source: Callable[[], str]) -> Any:
    """Import a generated module, writing it first if the cache does not have it."""
    path = cache_folder() / f"{name}.py"
    if not path.exists():
        # Written elsewhere and moved, so that no other process ever reads half a file.
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
            file.write(source())
        os.replace(file.name, path)
    spec = importlib.util.spec_from_file_location(f"tapegrad_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@cache
def _sweeps(dtype: np.dtype, inlined: int) -> Sweeps:
    # Rules of ours name nothing outside their folder, so its files stand for them, and reading those is quicker than
    # writing the module. A rule from elsewhere may name anything, so there the module itself is digested.
    package = Path(__file__).parents[1]
    files = sorted([*(package / "ops").glob("*.py"), *(package / "sweeps").glob("*.py")])
    parts = [dtype.name, *(f.read_text() for f in files)]
    if not all(is_own(row) for row in TABLE if getattr(row, "inline", False)):
        parts.append(sweeps_source(dtype))
    return Sweeps(_module(f"sweeps_{dtype.name}_{_digest(*parts)}", lambda: sweeps_source(dtype)), dtype)


@cache
def _kernels_of(dtype: np.dtype, row: Operation) -> Any:
    text = kernels_source(dtype, row)
    here = Path(__file__).parent
    parts = [text, (here / "kernels.py").read_text(), (here.parent / "ops" / "blas.py").read_text()]
    return _module(f"{row.name}_{dtype.name}_{_digest(*parts)}", lambda: text)


# For each dtype, the number of operations and the sweeps made for them.
_latest: dict[np.dtype, tuple[int, Sweeps]] = {}


def sweeps_for(dtype: np.dtype) -> Sweeps:
    """The sweeps of a dtype, for the operation table as it stands now."""
    known = _latest.get(dtype)
    if known is None or known[0] != len(TABLE):
        inlined = sum(getattr(row, "inline", False) for row in TABLE)
        known = _latest[dtype] = (len(TABLE), _sweeps(dtype, inlined))
    return known[1]
