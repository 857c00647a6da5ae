"""Runs a recorded program by the interpreter and as machine code, in an arena with guard numbers around it."""

import numpy as np

import tapegrad as tg
from tapegrad.native import Native
from tapegrad.program.workspace import Workspace
from tapegrad.sweeps import VALUES

# Numbers on both sides of the arena that no compiled program may touch.
GUARDS = 4096


def arena_of(native):
    """A workspace in the middle of guard numbers, and a function that says whether these are as they were."""
    before, dtype = native._before, native.code.dtype
    size = before + native._length + 1
    # Vectors may be loaded and stored with instructions that ask for addresses that are multiples of 64.
    whole = np.full(size + 2 * GUARDS + 64, 12345.678, dtype)
    start = GUARDS + (-(whole.ctypes.data // whole.itemsize) - GUARDS - before) % 16
    own = whole[start : start + size]
    # What nobody has computed is no number, so that a result that reads it is seen.
    own[:] = np.nan
    values = own[before:]
    values[-1] = 0.0
    native.code.put_constants(values)
    around = [whole[:start], whole[start + size :]]
    kept = [part.copy() for part in around]

    def untouched():
        return all(np.array_equal(a, b) for a, b in zip(around, kept))

    return Workspace(native.code, native.shapes, native.leaves, values), untouched


def outputs(of, workspace):
    return [np.array(o.read(workspace.values)) for o in of.code.outputs]


def leaves_of(recording, args):
    """The arguments as the recording takes them."""
    return recording.check(args)


class Both:
    """A program of a function's results, interpreted and compiled."""

    def __init__(self, f, *args):
        self.recording = tg.record(f, *args)
        self.program = self.recording.program
        self.native = Native(self.program)

    def run(self, *args):
        """The results of both, as lists of arrays, after two sweeps of each; or None where a guard does not hold."""
        leaves = leaves_of(self.recording, args)
        workspace, native = self.program.take(), self.native
        workspace.fill(leaves)
        failed = self.program.sweep(workspace, VALUES, -1, None)
        expected = outputs(self.program, workspace)
        self.program.give(workspace)
        arena, untouched = arena_of(native)
        arena.fill(leaves)
        found = native.sweep(arena, VALUES, -1, None)
        assert untouched(), "written outside of the arena"
        assert found == failed, f"the guard that fails: {found}, expected {failed}"
        if failed >= 0:
            return None
        results = outputs(native, arena)
        arena.fill(leaves)
        assert native.sweep(arena, VALUES, -1, None) < 0
        again = outputs(native, arena)
        for a, b in zip(results, again):
            assert a.tobytes() == b.tobytes(), "another sweep at the same inputs gives other results"
        return expected, results


def difference(expected, found, scale=1.0):
    """How far results are apart, relative to the largest of all and to `scale`."""
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return np.inf
        finite = np.isfinite(a)
        with np.errstate(invalid="ignore"):
            if not np.array_equal(np.where(finite, 0.0, a), np.where(finite, 0.0, b), equal_nan=True):
                return np.inf
        if finite.any():
            size = max(scale, float(np.abs(a[finite]).max()))
            worst = max(worst, float(np.abs(a[finite].astype(float) - b[finite]).max()) / size)
    return worst


__all__ = ["Both", "arena_of", "difference", "outputs"]
