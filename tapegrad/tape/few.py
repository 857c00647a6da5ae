"""A few instructions at a time: what a function that asks for one number after the other has the tape do.

Each question is answered by moving what waits into the arrays and sweeping it. For a handful of scalar instructions,
what that costs is not the work but the preparation: NumPy calls on arrays of a few numbers, and frames laid out anew.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.compiled.callable import INTERPRETED
from tapegrad.ops import RUN, TABLE, has_kernel
from tapegrad.ops.record import COLUMNS, OUT
from tapegrad.sweeps import VALUES, sweeps_for
from tapegrad.sweeps.pieces import pieces

# As many numbers in the buffer, those of 24 instructions, are moved to the arrays by plain Python, which is faster.
FEW_NUMBERS = 24 * COLUMNS
# An arena of at most so many numbers is computed by one frame again and again. It keeps the arrays it was made for, and
# for longer ones that would be much memory.
_SHORT = 1 << 20
# Which words of a frame have the address of the code, and its length.
_CODE = 2


def write_scalars(tape: Any, reserve: Callable[..., None]) -> bool:
    """Move the buffers of a recording into its arrays where they hold a few instructions of one number each, which they
    do when a function asks for the truth of one comparison after the other. Returns False for any other buffer.

    In a recording slots are places, because nothing is ever forgotten.
    """
    # Taken at one moment: a signal handler may record more meanwhile, which stays in the buffers.
    buffer, data, top = tape._buffer[:], tape._data[:], tape.top
    count, numbers, taken = len(buffer) // COLUMNS, len(data), top - tape.flushed
    opcodes, slots = buffer[::COLUMNS], buffer[OUT::COLUMNS]
    if not tape.recording or taken != count or tape._records or tape.flushed != tape.slots:
        return False
    if slots != list(range(tape.flushed, top)) or len(tape.addresses.first) > 1 or max(opcodes) >= RUN:
        return False
    if tape.length + count > len(tape.code) or tape.slots + taken > len(tape.values):
        reserve(tape, count, 0, taken)
    tape.code[tape.length : tape.length + count] = np.frombuffer(array("Q", buffer), np.int64).reshape(-1, COLUMNS)
    for slot, number in data:
        tape.values[slot] = number if type(number) is float else number.reshape(-1)[0]
    needs = [op for op in set(opcodes) if op not in tape.needs and _has_kernel(op, tape.dtype, len(TABLE))]
    if needs:
        tape.needs_new.update(needs)
    # As in `write`, nothing can come in between from here to the end.
    rest = tape._buffer[COLUMNS * count :]
    tape._buffer, tape.push, tape._data = rest, rest.extend, tape._data[numbers:]
    tape.length, tape.slots, tape.flushed = tape.length + count, tape.slots + taken, tape.flushed + taken
    return True


@functools.lru_cache(1 << 10)
def _has_kernel(opcode: int, dtype: np.dtype, known: int) -> bool:
    return bool(has_kernel(np.array([opcode]), dtype)[0])


def sweep_values(tape: Any, code: np.ndarray) -> int:
    """Compute the last instructions of a tape, `code`; returns the number of the one that failed among them, or -1."""
    sweeps = sweeps_for(tape.dtype)
    arrays = tape.code, tape.side, tape.flags, tape.values
    if INTERPRETED or len(tape.values) > _SHORT:
        return sweeps.run(sweeps.frame(code, *arrays[1:], tape.values, tape.scratch, -1, VALUES))
    # Taken while it is in use: a signal handler that has this tape compute something lays out its own.
    frame, tape._frame = tape._frame, None
    if frame is None or frame[0] is not sweeps or any(x is not y for x, y in zip(arrays, frame[1], strict=True)):
        made = sweeps.frame(*arrays, tape.values, tape.scratch, -1, VALUES)
        frame = sweeps, arrays, made, made.words[_CODE]
    _, _, made, start = frame
    made.words[_CODE] = start + tape.evaluated * tape.code.itemsize * COLUMNS
    made.words[_CODE + 1] = code.size
    made.pieces = pieces(code, tape.side, tape.flags, len(tape.values))
    failed = sweeps.run(made)
    tape._frame = frame
    return failed
