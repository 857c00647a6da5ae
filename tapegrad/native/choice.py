"""Whether a program is interpreted or compiled, and when it is compiled."""

from __future__ import annotations

import atexit
import math
import os
import queue
import threading
import weakref
from typing import Any

import numpy as np

from tapegrad.compiled.callable import INTERPRETED
from tapegrad.errors import OperationError
from tapegrad.native.program import Native
from tapegrad.ops import BY_NAME, RUN
from tapegrad.ops.record import OPCODE, A, B, parameters

# What a program may say of itself in place of being compiled.
AUTO, ALWAYS, NEVER = "auto", "always", "never"
# What an interpreted replay takes for each instruction and each number that it computes, in seconds, about.
_INSTRUCTION, _NUMBER = 4e-9, 1.2e-9
# What a multiplication in a product of matrices takes, for each byte of a number.
_PRODUCT_BYTE = 5e-12
# And what compiling takes: at least, and for each instruction that is written out.
_COMPILING, _EACH = 0.03, 1.5e-4
# Programs of at most so many instructions, with so many numbers, and so many for each instruction, are compiled before
# they are first replayed: that takes less time than the memory for all their numbers would.
_FEW, _NUMBERS, _WIDE = 1000, 50_000, 1000
# Programs of more instructions that have to be written out are not compiled.
_MOST = 40_000


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
    numbers = int(program.code.counts.sum())
    steps = len(program.steps)
    return steps <= _FEW and numbers >= max(_NUMBERS, _WIDE * steps) and not mostly_products(program)


def mostly_products(program: Any) -> bool:
    """Whether replays spend most of their time in products of matrices, which the same kernels compute either way.

    Such programs are left to the interpreter: there is little to be won, and more may be lost where the loops between
    products are over the rows of wide arrays.
    """
    found = _mostly_products.get(program)
    if found is None:
        steps, side = program.steps, program.code.side
        runs = steps[steps[:, OPCODE] >= RUN]
        products = np.isin(runs[:, OPCODE] - RUN, [BY_NAME[name].opcode for name in ("matmul", "affine")])
        # The first four parameters are the lengths of the axes.
        many = sum(math.prod(parameters(side, int(k))[:4]) for k in runs[products, A])
        others = int(runs[~products, B].sum()) * _NUMBER + len(steps) * _INSTRUCTION
        found = _mostly_products[program] = many * program.code.dtype.itemsize * _PRODUCT_BYTE > others
    return found


_mostly_products: weakref.WeakKeyDictionary[Any, bool] = weakref.WeakKeyDictionary()


def replay_seconds(program: Any) -> float:
    """What an interpreted replay takes, about."""
    return len(program.steps) * _INSTRUCTION + int(program.code.counts.sum()) * _NUMBER


def compile_seconds(program: Any) -> float:
    """What compiling a program takes, about; infinity where it is too large, or would not pay."""
    steps = len(program.steps)
    return _COMPILING + steps * _EACH if steps <= _MOST and not mostly_products(program) else float("inf")


def form_of(program: Any, how: str) -> Any:
    """What to replay for the results of a program: its machine code where it is compiled, else itself.

    With AUTO, it is compiled in the background once its replays have taken as long as that will take.
    """
    native = program.native
    if native is not None and how != NEVER:
        return native
    if how == ALWAYS or (how == AUTO and program.not_native is None and at_once(program)):
        return compiled(program) or program.for_results()
    if how == AUTO and program.not_native is None:
        program.spent += replay_seconds(program)
        if program.spent > compile_seconds(program):
            in_background(program)
    return program.for_results()


def compiled(program: Any) -> Native | None:
    """The machine code of a program, made now if it was not; None where it cannot be: `not_native` says why."""
    if program.native is None and program.not_native is None:
        try:
            program.native = Native(program)
        except (RuntimeError, OSError, OperationError, MemoryError) as error:
            program.not_native = f"{type(error).__name__}: {error}"
    found: Native | None = program.native
    return found


class _Worker:
    """Compiles programs one after the other, in a thread of its own."""

    def __init__(self) -> None:
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._ends = False

    def put(self, program: Any) -> None:
        with self._lock:
            if self._ends:
                return
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._work, name="tapegrad compiler", daemon=True)
                self._thread.start()
        self._waiting.put(program)

    def _work(self) -> None:
        while (program := self._waiting.get()) is not None:
            if not self._ends:
                program.not_native = None
                compiled(program)
            del program

    def end(self) -> None:
        """Wait for what is being compiled: a process must not end while LLVM is at work."""
        self._ends = True
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join()


_worker = _Worker()
atexit.register(lambda: _worker.end())


def _start_anew() -> None:
    # After a fork there is no thread in the child.
    global _worker
    _worker = _Worker()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)

WAITING = "it is being compiled in the background"


def in_background(program: Any) -> None:
    """Have a program compiled while it is interpreted."""
    program.not_native = WAITING
    _worker.put(program)
