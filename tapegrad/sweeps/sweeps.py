"""The compiled sweeps of a dtype, for the operation table as it stands."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad.compiled import Compiled, Frame, store
from tapegrad.compiled.callable import Kind
from tapegrad.compiled.source import fingerprint
from tapegrad.ops import RUN, TABLE, Elementwise, Operation, is_inlined
from tapegrad.ops.record import COLUMNS
from tapegrad.ops.windows import PARTS
from tapegrad.sweeps import generate, kernels
from tapegrad.sweeps.entry import ADJOINTS, VALUES, sweep
from tapegrad.sweeps.forward import forward_run
from tapegrad.sweeps.lanes import reverse_lanes, tangent_lanes
from tapegrad.sweeps.marks import BLOCK, SCRATCH
from tapegrad.sweeps.operands import fetch, scatter
from tapegrad.sweeps.pieces import pieces
from tapegrad.sweeps.reverse import reverse_run
from tapegrad.sweeps.tangent import tangent, tangent_run

_PROGRAM = ["uint32[:]", "int64[:]", "uint8[:]", "real[:]"]
_LANES = ["uint32[:, :]", *_PROGRAM[1:], "real[:, :]", "real[:]", "real[:]", "real[:]"]
# Which words of a sweep's frame have the place that adjoints start from, and what is to be done.
SEED, TASKS = -2, -1
# And which have the address of the instructions and how many numbers these are; before them come result and error.
_CODE, _LENGTH = 2, 3


class Sweeps:
    """The sweeps of one dtype, and the kernels they call.

    A program is given by its instructions, the side array, the flags and the arena of values; see `ops.record`.
    `frame(code, side, flags, v, g, scratch, seed, tasks)` lays out the arguments of a sweep; `run(frame)` computes
    values (tasks 1), adjoints (2) or both (3) and returns the first instruction that failed, or -1.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self.dtype = dtype
        self.sweep = Compiled(sweep, _kinds([*_PROGRAM, "real[:]", "real[:]", "int64", "int64"]), self)
        self._tangent = Compiled(tangent, _kinds([*_PROGRAM, "real[:]", "real[:]"]), self)
        self._lanes = {
            back: Compiled(function, _kinds(_LANES), self)
            for back, function in ((True, reverse_lanes), (False, tangent_lanes))
        }
        self._ones = np.ones(BLOCK, dtype)
        self._inlined = [row for row in TABLE if is_inlined(row, dtype)]

    def frame(self, code: np.ndarray, *rest: Any, is_short: bool = False) -> Frame:
        """The arguments of a sweep, laid out. Here and below, `is_short` says that it is known not to take long."""
        frame = self.sweep.frame(code.reshape(-1), *rest)
        side, flags, v = rest[:3]
        frame.pieces = None if is_short else pieces(code, side, flags, len(v))
        return frame

    def run(self, frame: Frame) -> int:
        """Sweep."""
        return self.sweep.run(frame, self.dtype) if frame.pieces is None else self._run_in_pieces(frame, frame.pieces)

    def _run_in_pieces(self, frame: Frame, cuts: list[int]) -> int:
        words, g = frame.words, frame.arrays[4]
        before, (start, seed, tasks) = words[:], (words[_CODE], words[SEED], words[TASKS])
        stretches = list(itertools.pairwise(cuts))
        row = COLUMNS * frame.arrays[0].itemsize

        def call(first: int, end: int) -> int:
            words[_CODE], words[_LENGTH] = start + row * first, COLUMNS * (end - first)
            return self.sweep.run(frame, self.dtype)

        try:
            words[SEED], words[TASKS] = -1, VALUES
            for first, end in stretches if tasks & VALUES else []:
                failed = call(first, end)
                if failed >= 0:
                    return first + failed
            words[TASKS] = ADJOINTS
            if tasks & ADJOINTS and seed >= 0:
                g[:] = 0.0
                g[seed] = 1.0
            for first, end in reversed(stretches) if tasks & ADJOINTS else []:
                call(first, end)
            return -1
        finally:
            words[:] = before

    def prepared(self) -> Any:
        """A ctypes function that sweeps, to be called with `Frame.arguments` without anything in between."""
        return self.sweep.prepare(self.dtype)

    def tangent(
        self, code: np.ndarray, side: np.ndarray, flags: np.ndarray, v: np.ndarray, t: np.ndarray, scratch: np.ndarray,
        is_short: bool = False,
    ) -> None:  # fmt: skip
        """Compute the tangents of all results in t, from those of the inputs."""
        cuts = None if is_short else pieces(code, side, flags, len(v))
        for first, end in itertools.pairwise(cuts or (0, len(code))):
            self._tangent(code[first:end].reshape(-1), side, flags, v, t, scratch)

    def lanes(
        self, code: np.ndarray, side: np.ndarray, flags: np.ndarray, v: np.ndarray, d: np.ndarray,
        scratch: np.ndarray, *, back: bool, is_short: bool = False,
    ) -> None:  # fmt: skip
        """Carry k adjoints back, or k tangents along, in one pass; d is (slots, k)."""
        cuts = (None if is_short else pieces(code, side, flags, len(v), d.shape[1])) or [0, len(code)]
        room, stretches = np.zeros_like(v), list(itertools.pairwise(cuts))
        for first, end in reversed(stretches) if back else stretches:
            self._lanes[back](code[first:end], side, flags, v, d, room, scratch, self._ones)

    def require(self, opcodes: Iterable[int], kind: int) -> None:
        """Compile or load the kernels of these operations for one kind of sweep, where that is not done yet.

        RUN among the opcodes stands for the function that carries out instructions over many elements; see `kernels`.
        """
        for opcode in opcodes:
            if opcode == RUN:
                self._require_runs(kind)
            elif kernels.is_missing(self.dtype, opcode, kind):
                row = TABLE[opcode]
                name = store.digest(row.name, fingerprint(generate.rules_of(row)), _generator())
                text = functools.partial(generate.kernels_source, self.dtype, row)
                kernels.require(name, text, self.dtype, opcode, kind)
                for which in getattr(getattr(row, kernels.KINDS[kind], None), "__parts__", ()):
                    self._require_part(which)

    def _require_runs(self, kind: int) -> None:
        # What these functions call comes first.
        self._require_copies(kernels.FETCH)
        if kind == kernels.REVERSE:
            self._require_copies(kernels.SCATTER)
        if kernels.need_runs(self.dtype, kind):
            function = (forward_run, reverse_run, tangent_run)[kind]
            name = store.digest(fingerprint([function]), _generator())
            text = functools.partial(generate.function_source, self.dtype, function)
            kernels.require_runs(name, text, self.dtype, kind)

    def _require_copies(self, which: int) -> None:
        if kernels.need_copies(self.dtype, which):
            function = (fetch, scatter)[which]
            name = store.digest(fingerprint([function]), _generator())
            text = functools.partial(generate.function_source, self.dtype, function)
            kernels.require_copies(name, text, self.dtype, which)

    def _require_part(self, which: int) -> None:
        if kernels.need_part(self.dtype, which):
            function, _ = PARTS[which]
            name = store.digest(fingerprint([function]), _generator())
            text = functools.partial(generate.function_source, self.dtype, function)
            kernels.require_part(name, text, self.dtype, which)

    # What the sweeps are made from

    def name(self, function: Compiled, real: np.dtype) -> str:
        """A name for the machine code of one of the sweeps, which changes with all that it is made from."""
        rules = [rule for row in self._inlined for rule in generate.rules_of(row)]
        opcodes = " ".join(f"{row.name} {row.opcode}" for row in self._inlined)
        return store.digest(fingerprint([function.function, *rules]), opcodes, _generator())

    def gather(self, real: np.dtype) -> generate.SweepModule:
        """The module that a sweep is put in."""
        return generate.SweepModule(real)


def _kinds(texts: list[str]) -> list[Kind]:
    return [Kind(text) for text in texts]


@functools.cache
def _generator() -> bytes:
    names = ("generate", "kernels", "kernel_calls", "blas_calls", "special_calls", "../compiled/pointers")
    return b"".join((Path(__file__).parent / f"{name}.py").read_bytes() for name in names)


def scratch(dtype: np.dtype) -> np.ndarray:
    """Scratch space for a sweep. Sweeps that run at the same time need one each."""
    return np.zeros(SCRATCH + 1, dtype)


# For each dtype: how many operations the table had, how many of them are inlined, and the sweeps made for these.
_latest: dict[np.dtype, tuple[int, int, Sweeps]] = {}


def sweeps_for(dtype: np.dtype) -> Sweeps:
    """The sweeps of a dtype, for the operation table as it stands now."""
    known = _latest.get(dtype)
    if known is None or known[0] != len(TABLE):
        inlined = sum(_is_inlined(row) for row in TABLE)
        same = known is not None and known[1] == inlined
        known = _latest[dtype] = (len(TABLE), inlined, known[2] if same and known else Sweeps(dtype))
    return known[2]


def _is_inlined(row: Operation) -> bool:
    return isinstance(row, Elementwise) and row.inline
