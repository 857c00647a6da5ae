"""A recorded program compiled: what replays it in place of the interpreter."""

from __future__ import annotations

import ctypes
import threading
import time
import weakref
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.native import build
from tapegrad.native.beside import Beside
from tapegrad.native.module import module_of
from tapegrad.native.outer import Arena, home
from tapegrad.native.places import Places
from tapegrad.native.schedule import Interpreted, Schedule
from tapegrad.native.steps import Copies, steps_of
from tapegrad.native.width import lanes_of
from tapegrad.program import Form, Workspace
from tapegrad.sweeps import FORWARD, VALUES

_CALL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)


class Native(Form):
    """A program as machine code, for its values. It is replayed as a `Program` is.

    Args:
        program: the program.

    Attributes:
        run: the compiled function, to be called with what `call` gives.
        outer: the arrays that may stand outside of the arena.
        seconds: what compiling took.
        reasons: why some operations are left to the interpreter, by their names.
    """

    def __init__(self, program: Any) -> None:
        started = time.perf_counter()
        self._whole = weakref.ref(program)
        schedule = Schedule(program)
        dtype = program.code.dtype
        lanes = lanes_of(schedule, dtype)
        places = Places(schedule, lanes)
        if not places.affine:
            places = Places(schedule, lanes, roll=False)
        module = module_of(program, schedule, places, lanes)
        self.outer = module.outer
        self._before, self._length = places.before, max(module.size, places.after)
        code, steps = places.moved(self._length)
        super().__init__(
            code, steps, program.structure, program.shapes, program.leaves,
            None if program.scalar is None else code.outputs[0].place, program.calls, program.decided, program.sweeps,
        )  # fmt: skip
        self.reasons = schedule.reasons
        self._interpreted = [np.array(n.numbers) for n in schedule.nodes if isinstance(n, Interpreted)]
        # Functions of Python are called in the thread that they were called in before.
        self._long = program.long and not program.calls
        self.run = _CALL(build.address_of(module.text(), slp=places.has_loops))
        self._steps = None if self.calls or self._long or self._interpreted else steps_of(module)
        self._stop = 3 * len(self._interpreted)
        self.seconds = time.perf_counter() - started

    @property
    def whole(self) -> Any:
        """The program."""
        return self._whole()

    @property
    def nbytes(self) -> int:
        """What it takes in memory, without workspaces."""
        return int(self.steps.nbytes + self.code.nbytes)

    @property
    def arena_bytes(self) -> int:
        """What the numbers of one replay take."""
        return int((self._before + self._length) * self.code.dtype.itemsize)

    def _workspace(self) -> Workspace:
        size = self._before + self._length
        whole = np.zeros(size + 1 + 64, self.code.dtype)
        # Vectors are loaded fastest from addresses that are multiples of their size.
        skip = (-(whole.ctypes.data // whole.itemsize) - self._before) % 16
        values = whole[skip + self._before : skip + self._before + self._length + 1]
        self.code.put_constants(values)
        return Arena(self.outer, self.code, self.shapes, self.leaves, values)

    def give(self, workspace: Workspace) -> None:
        """Give a workspace back."""
        if isinstance(workspace, Arena):
            if workspace.beside is not None:
                # A replay may still write into it.
                return
            workspace.forget()
        super().give(workspace)

    def seed(self, has_aux: bool) -> int:
        """There is none: gradients are programs of their own."""
        return -1

    def sweep(self, workspace: Workspace, tasks: int, seed: int, wrt: Any) -> int:
        """Compute the values. Returns the number of the first step that failed, or -1."""
        call = workspace.frames.get("native")
        if call is None:
            call = workspace.frames["native"] = self.call(workspace)
        if not isinstance(workspace, Arena):
            return int(self.run(*call[0]))
        if workspace.home:
            given, pointers = workspace.given, call[1][1]
            for number, place in enumerate(workspace.home):
                pointers[number] = given.get(number, place)
        if not self._long or threading.current_thread() is not threading.main_thread():
            return int(self.run(*call[0]))
        return self._run_beside(workspace, call)

    def _run_beside(self, workspace: Arena, call: Any) -> int:
        """Run in another thread, so that this one, the only one in which Python sees signals, can stop it."""
        table = call[1][0]
        running = workspace.beside = Beside(lambda: int(self.run(*call[0])), table, self._stop, (call, workspace))
        try:
            found = running.result()
        except BaseException:
            # Where another signal comes before this is done, the workspace stays marked, and nobody gets it again.
            running.stop()
            table[self._stop] = 0
            workspace.beside = None
            raise
        workspace.beside = None
        return found

    def steps_function(self, copies: Copies) -> Any:
        """What carries out many steps of the program; see `steps.Steps.function`. None where it is called for each."""
        return None if self._steps is None else self._steps.function(copies)

    def call(self, workspace: Workspace) -> tuple[tuple[int, int], Any]:
        """What the compiled function is called with, and what must be kept as long: the words of its table, those of
        them that are pointers to arrays, which may be set, and the rest."""
        values, keep, words = workspace.values, [], []
        if self._interpreted:
            self.whole.prepare(FORWARD)
        for numbers in self._interpreted:
            steps = np.ascontiguousarray(self.steps[numbers])
            flags = np.zeros(len(self.code.side), np.uint8)
            frame = self.sweeps.frame(steps, self.code.side, flags, values, values, workspace.scratch, -1, VALUES)
            numbers = numbers.astype(np.int64)
            words += [self.sweeps.sweep.address(values.dtype), frame.words.buffer_info()[0], numbers.ctypes.data]
            keep.append((frame, numbers))
        # The word behind those of the calls is not zero while the program is to stop. Then come pointers to arrays.
        words += [0, *home(self.outer, workspace)]
        table = np.array(words, np.uint64)
        return (values.ctypes.data, table.ctypes.data), (table, table.data[self._stop + 1 :], keep)


class Fresh:
    """A compiled program that is replayed for what the function returned: long results are computed in new arrays."""

    def __init__(self, native: Native) -> None:
        self._native = native
        self.take, self.give, self.seed = native.take, native.give, native.seed
        self.steps, self.guards, self.whole = native.steps, native.guards, native.whole

    def sweep(self, workspace: Arena, *how: Any) -> int:
        """As `Native.sweep`."""
        workspace.make(self._native.code.outputs)
        return self._native.sweep(workspace, *how)

    def result(self, workspace: Arena) -> Any:
        """All that the function returned, after a sweep."""
        made, outputs = workspace.made, self._native.code.outputs
        found = [made[i] if i in made else o.read(workspace.values) for i, o in enumerate(outputs)]
        return pytree.unflatten(self._native.structure, found)
