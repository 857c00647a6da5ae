"""Whether a program is interpreted or compiled, and when it is compiled."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import math
import os
import queue
import threading
import time
import weakref
from typing import Any

import numpy as np

from tapegrad.compiled.callable import INTERPRETED
from tapegrad.errors import OperationError
from tapegrad.native.program import Native
from tapegrad.native.size import written
from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import OPCODE, A, B, parameters
from tapegrad.sweeps import VALUES

# How programs are carried out.
AUTO, ALWAYS, NEVER = "auto", "always", "never"
# What a program says in place of a reason not to be compiled, while it is.
WAITING = "it is being compiled in the background"
# What is raised where a program cannot be compiled.
_EXPECTED = (RuntimeError, OSError, OperationError, MemoryError)
# What an interpreted replay takes for each instruction and each number that it computes, in seconds, about.
_INSTRUCTION, _NUMBER = 4e-9, 1.2e-9
# What a multiplication in a product of matrices takes, for each byte of a number.
_PRODUCT_BYTE = 5e-12
# And what compiling takes: at least, and for each instruction that is written out.
_COMPILING, _EACH = 0.03, 5e-4
# Programs with so many numbers, and so many for each instruction, are compiled before they are first replayed, if they
# have few instructions or a replay takes longer: that takes less time than the memory for all their numbers would.
_FEW, _NUMBERS, _WIDE = 1000, 50_000, 1000
# Programs of more instructions that have to be written out are not compiled; of more than the latter not even where it
# is asked for: LLVM takes half a minute for so many, in which it cannot be interrupted.
_MOST, _MOST_FORCED = 15_000, 100_000
# What rounding may do to results, at most, as a part of the largest.
_SAME = 1e-3
# How often it is tried which form is faster.
_LAPS = 3


def mode(compile: bool | None = None) -> str:
    """How programs are carried out: as `compile` says, else as the environment variable TAPEGRAD_COMPILE says.

    Raises OperationError where that has something else than always, never or auto.
    """
    if INTERPRETED:
        return NEVER
    if compile is not None:
        return ALWAYS if compile else NEVER
    said = os.environ.get("TAPEGRAD_COMPILE", "") or AUTO
    if said not in (AUTO, ALWAYS, NEVER):
        raise OperationError(f"TAPEGRAD_COMPILE must be 'always', 'never' or 'auto', not {said!r}")
    return said


def at_once(program: Any) -> bool:
    """Whether a program has few instructions over long arrays, so that it is compiled before it is first replayed."""
    numbers, steps = int(program.code.counts.sum()), len(program.steps)
    if numbers < max(_NUMBERS, _WIDE * steps):
        return False
    quick = steps <= _FEW or compile_seconds(program) < replay_seconds(program)
    return quick and not mostly_products(program)


def mostly_products(program: Any) -> bool:
    """Whether replays spend most of their time in products of matrices, which the same kernels compute either way.

    Such programs are left to the interpreter: there is little to be won, and more may be lost where the loops between
    products are over the rows of wide arrays.
    """
    found = _mostly_products.get(program)
    if found is None:
        steps, side = program.steps, program.code.side
        runs = steps[steps[:, OPCODE] >= RUN]
        rows = [getattr(TABLE[op], "products", None) for op in (runs[:, OPCODE] - RUN).tolist()]
        products = np.array([row is not None for row in rows], bool)
        many = sum(row(parameters(side, k)) for row, k in zip(rows, runs[:, A].tolist(), strict=True) if row)
        others = int(runs[~products, B].sum()) * _NUMBER + len(steps) * _INSTRUCTION
        found = _mostly_products[program] = many * program.code.dtype.itemsize * _PRODUCT_BYTE > others
    return found


_mostly_products: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def replay_seconds(program: Any) -> float:
    """What an interpreted replay takes, about."""
    return (1 + len(program.steps)) * _INSTRUCTION + int(program.code.counts.sum()) * _NUMBER


def compile_seconds(program: Any) -> float:
    """What compiling a program takes, about; infinity where it is too large, or does not pay."""
    pays = written_out(program) <= _MOST and not mostly_products(program)
    return _COMPILING + written_out(program) * _EACH if pays else float("inf")


def written_out(program: Any) -> int:
    """How many instructions of a program code must be made for, about."""
    if program.written is None:
        program.written = written(program)
    return int(program.written)


def too_large(program: Any) -> str | None:
    """Why a program is too large to be compiled, even if that is asked for; None where it is not."""
    n = written_out(program)
    if n <= _MOST_FORCED:
        return None
    return (
        f"{n} of its {len(program.steps)} instructions do not repeat others, and at most {_MOST_FORCED} are compiled: "
        "write it with operations on whole arrays, or as a loop that does the same in every round, or leave it to the "
        "interpreter (compile=False)"
    )


def form_of(program: Any, how: str) -> Any:
    """What to replay for the results of a program: its machine code where it is compiled, else itself.

    With AUTO, it is compiled in the background once its replays have taken as long as that will take.
    """
    native = program.native
    if native is not None and how != NEVER:
        return native
    if how == ALWAYS:
        return compiled(program) or program.for_results()
    if how == AUTO and program.not_native is None and at_once(program):
        return compiled(program, Exception) or program.for_results()
    if how == AUTO and program.not_native is None:
        program.spent += replay_seconds(program)
        if program.spent > compile_seconds(program):
            in_background(program)
    return program.for_results()


def form_for_steps(program: Any, count: int, how: str) -> Any:
    """What to replay for each of `count` steps of a loop, of which a program computes one.

    With AUTO, it is compiled at once where that takes less time than the steps do, else as `form_of` says.
    """
    if program.native is not None and how != NEVER:
        return program.native
    if how == ALWAYS:
        return compiled(program) or program
    if how == AUTO and program.not_native is None:
        seconds = count * replay_seconds(program)
        program.spent += seconds
        if seconds > compile_seconds(program):
            return compiled(program, Exception) or program
        if program.spent > compile_seconds(program):
            in_background(program)
    return program


def compiled(program: Any, caught: Any = _EXPECTED) -> Native | None:
    """The machine code of a program, made now if it was not; None where it cannot be: `not_native` says why.

    `caught` are the errors that count as a reason. Where nobody has asked for it, these are all: the interpreter can do
    whatever compiling fails at.
    """
    if program.native is None and program.not_native is None:
        program.not_native = too_large(program)
    if program.native is None and program.not_native in (None, WAITING):
        try:
            # Another thread may have been at it meanwhile: then what came first stays.
            made = Native(program)
            program.native = program.native or made
            program.not_native = None
        except caught as error:
            program.not_native = f"{type(error).__name__}: {error}"
    found: Native | None = program.native
    return found


def _agree(program: Any, native: Native) -> bool:
    """Whether a program and its machine code give the same results for the numbers that it was replayed at last, but
    for rounding. Nobody waits for the answer, and it costs two replays."""
    own, workspace = program.take(), native.take()
    try:
        for window, (given, _) in zip(own.feeds, workspace.feeds, strict=True):
            given[...] = window[0]
        if program.foreign or program.sweep(own, VALUES, -1, None) >= 0:
            return True
        if native.sweep(workspace, VALUES, -1, None) >= 0:
            return True
        for known, found in zip(program.code.outputs, native.code.outputs, strict=True):
            if known.place is None:
                continue
            x, y = known.window(own.values), found.window(workspace.values)
            size = np.abs(x[np.isfinite(x)]).max(initial=0.0)
            if not np.allclose(x, y, rtol=_SAME, atol=_SAME * size, equal_nan=True):
                return False
        return True
    finally:
        program.give(own)
        native.give(workspace)


def _is_faster(program: Any, native: Native) -> bool:
    """Whether machine code takes less time than the interpreter: it may not where most of a program is left to that, or
    where the interpreter computes the same by sweeps of another program."""
    if program.foreign:
        return True
    if program.rival is None:
        return _seconds(native) < _seconds(program)
    (replays, sweeps), program.rival = program.rival, None
    return bool(replays * _seconds(native) < sweeps())


def _seconds(form: Any) -> float:
    """What a replay takes."""
    workspace, each = form.take(), []
    try:
        for _ in range(_LAPS):
            started = time.perf_counter()
            form.sweep(workspace, VALUES, -1, None)
            each.append(time.perf_counter() - started)
    finally:
        form.give(workspace)
    return min(each)


def failed(program: Any) -> bool:
    """Whether it was tried in vain to compile a program."""
    return program.native is None and program.not_native not in (None, WAITING)


def refusal(how: str) -> str | None:
    """Why programs are never compiled that are carried out like this; None where they may be."""
    if how != NEVER:
        return None
    if INTERPRETED:
        return "NUMBA_DISABLE_JIT is set"
    return "compile=False or TAPEGRAD_COMPILE=never says so"


class _Worker:
    """Compiles programs one after the other, in a thread of its own."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ends = False
        # All that was put here and is not done, which a forked process has to know.
        self.undone: weakref.WeakSet[Any] = weakref.WeakSet()

    def put(self, program: Any) -> None:
        """Compile a program when those before it are done, if anybody still refers to it then."""
        with self._lock:
            if self._ends:
                return
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="tapegrad compiler", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:
                    self._thread, program.not_native = None, f"no thread could be started to compile it: {error}"
                    return
            self.undone.add(program)
        self._waiting.put(weakref.ref(program))

    def _work(self) -> None:
        # What ends the thread is raised in it by `end`.
        with contextlib.suppress(SystemExit):
            while (ref := self._waiting.get()) is not None:
                program = ref()
                if program is not None and not self._ends:
                    self._compile(program)
                del program

    def _compile(self, program: Any) -> None:
        try:
            made = Native(program)
            reason = None if _agree(program, made) else "its results were others than the interpreter's"
            if reason is None and not _is_faster(program, made):
                reason = "compiled it was not faster"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        if reason is None:
            program.native = program.native or made
        program.not_native = reason
        self.undone.discard(program)

    def end(self) -> None:
        """Stop compiling, and wait for what LLVM is at: a process must not end in the midst of that."""
        self._ends = True
        self._waiting.put(None)
        thread = self._thread
        if thread is not None and thread.ident is not None and thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
            thread.join()


_worker = _Worker()
atexit.register(lambda: _worker.end())


def _start_anew() -> None:
    # After a fork there is no thread in the child. What was to be compiled is so when it is replayed again.
    global _worker
    undone, _worker = list(_worker.undone), _Worker()
    for program in undone:
        if program.not_native == WAITING:
            program.not_native = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)


def is_compiling() -> bool:
    """Whether programs are being compiled in the background, or wait for it."""
    return len(_worker.undone) > 0


def in_background(program: Any) -> None:
    """Have a program compiled while it is interpreted."""
    if program.native is None and program.not_native is None and not math.isfinite(compile_seconds(program)):
        program.not_native = "too much of it does not repeat, or it is mostly products of matrices"
    if program.native is None and program.not_native is None:
        program.not_native = WAITING
        _worker.put(program)
