"""Moving what was recorded into the arrays that the sweeps read: a tape's buffers, or many instructions at once."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import StaleValueError, ThreadError
from tapegrad.ops import RUN, TABLE, has_kernel
from tapegrad.ops.record import COLUMNS, OPCODE, OUT, B
from tapegrad.sweeps.marks import LEAF
from tapegrad.tape.addresses import GONE
from tapegrad.tape.collect import grown, names_left
from tapegrad.tape.few import FEW_NUMBERS, write_scalars
from tapegrad.tape.lines import written
from tapegrad.tape.loops import settle

# Fewer instructions than this are appended to the buffers, which is faster for few. More go to the arrays at once.
_FEW = 256
# An arena of at least as many numbers grows by a quarter. It is doubled where it is shorter, or where only a small part
# of it is known: the rest takes no memory.
_LONG, _MUCH = 1 << 20, 4


def flush(tape: Any) -> None:
    """Move the buffers of a tape into its arrays: all that is in them, or nothing.

    An interrupt leaves the buffers as they are. Raises StaleValueError, ThreadError, MemoryError: then the instructions
    in the buffers are given up, because they would fail again, and the tape goes on with those before them.
    """
    if tape.flushing:
        raise ThreadError("a signal handler used a value while the tape that it is on was being written")
    tape.flushing = True
    try:
        if len(tape._buffer) <= FEW_NUMBERS and write_scalars(tape, reserve):
            return
        # The fastest ways by far from a list of integers to an array. Numbers in rows are not negative, in records they
        # may be.
        rows = np.frombuffer(array("Q", tape._buffer), np.int64).reshape(-1, COLUMNS)
        records = np.frombuffer(struct.pack(f"{len(tape._records)}q", *tape._records), np.int64)
        write(tape, rows, records, list(tape._data), buffered=True)
    except Exception:
        if tape.flushed != tape.top:
            _give_up(tape)
        raise
    finally:
        tape.flushing = False


def _give_up(tape: Any) -> None:
    """Forget what is in the buffers of a tape."""
    addresses = tape.addresses.without(tape.flushed, tape.top, tape.slots)
    constants, zeros, labels, kinds = names_left(tape, addresses)
    buffer, records, data = tape._buffer[:0], list[int](), list[Any]()
    push = buffer.extend
    tape.addresses, tape.flushed = addresses, tape.top
    tape._buffer, tape.push, tape._records, tape._data = buffer, push, records, data
    tape.constants, tape.zeros, tape.labels, tape.kinds = constants, zeros, labels, kinds


def write(
    tape: Any, rows: np.ndarray, records: np.ndarray, data: Sequence[tuple[int, Any]], buffered: bool = False
) -> None:
    """Write instructions, whose operands are slots, to the arrays of a tape; their results are its slots up to the top.

    `records` are those of instructions over many elements, `data` the numbers of leaves by slot. Where they are what is
    in the buffers, these are emptied.

    Raises StaleValueError for an operand that is no longer on the tape, after everything is written: an instruction
    with such an operand becomes a leaf of NaN. Raises ThreadError where slots are not in order.
    """
    count, taken = len(rows), tape.top - tape.flushed
    if count and not buffered:
        written(tape, int(rows[0, OUT]))
    reserve(tape, count, len(records), taken)
    new = tape.code[tape.length : tape.length + count]
    tape.side[tape.side_length : tape.side_length + len(records)] = records
    gone, seen = np.zeros(count, np.uint8), np.zeros(2 * len(TABLE), np.uint8)
    if settle(rows, new, tape.side, *tape.addresses.arrays(), tape.flushed, tape.slots, gone, seen) != taken:
        raise ThreadError(
            "the tape was recorded on by two threads at once, or recording was interrupted; what was not yet computed "
            "is lost"
        )
    for slot, numbers in data:
        at = slot - tape.flushed + tape.slots
        if type(numbers) is float:
            tape.values[at] = numbers
        else:
            tape.values[at : at + numbers.size] = numbers.reshape(-1)
    lost = np.flatnonzero(gone)
    for start, n in new[lost][:, [OUT, B]].tolist():
        tape.values[start : start + n] = np.nan
    scalar, run = np.flatnonzero(seen[: len(TABLE)]), np.flatnonzero(seen[len(TABLE) :])
    tape.needs_new.update([*scalar[has_kernel(scalar, tape.dtype)].tolist(), *run.tolist()])
    if len(run):
        tape.needs_new.add(RUN)
    tape.needs_new -= tape.needs
    at, k, n = (COLUMNS * count, len(records), len(data)) if buffered else (0, 0, 0)
    side_length = tape.side_length + len(records)
    # Until here nothing was written but past the end of what is there. An interrupt can come at any call, but there is
    # none from here to the end. What a signal handler has recorded meanwhile stays in the buffers.
    buffer = tape._buffer[at:]
    tape._buffer, tape.push, tape._records, tape._data = buffer, buffer.extend, tape._records[k:], tape._data[n:]
    tape.length, tape.side_length, tape.slots = tape.length + count, side_length, tape.slots + taken
    tape.flushed += taken
    if len(lost):
        raise StaleValueError(GONE)


def reserve(tape: Any, instructions: int, numbers: int, slots: int) -> None:
    """Make room in the arrays of a tape. Raises MemoryError, and the tape stays as it is."""
    if tape.length + instructions > len(tape.code):
        tape.code = grown(tape.code, 2 * (tape.length + instructions))
    if tape.side_length + numbers > len(tape.side):
        side = grown(tape.side, 2 * (tape.side_length + numbers))
        tape.side, tape.flags = side, grown(tape.flags, len(side))
    if tape.slots + slots > len(tape.values):
        tape.values = _longer(tape, tape.slots + slots)


def _longer(tape: Any, length: int) -> np.ndarray:
    """A longer array for the values of a tape. Only what is known is copied: the system provides memory for the rest
    when it is written to, which for a function that is recorded may be never."""
    code = tape.code[tape.evaluated : tape.length]
    known = int(code[0, OUT]) if len(code) else tape.slots
    leaves = code[code[:, OPCODE] == LEAF]
    much = length < _LONG or _MUCH * (known + int(leaves[:, B].sum())) < length
    try:
        values = np.zeros(2 * length if much else length + length // 4, tape.dtype)
    except MemoryError:
        values = np.zeros(length, tape.dtype)
    values[:known] = tape.values[:known]
    single = leaves[leaves[:, B] == 1, OUT]
    values[single] = tape.values[single]
    for start, n in leaves[leaves[:, B] > 1][:, [OUT, B]].tolist():
        values[start : start + n] = tape.values[start : start + n]
    return values


def extend(tape: Any, rows: np.ndarray, numbers: np.ndarray) -> Any:
    """Append scalar instructions, and leaves of one known number among them, to a tape.

    Rows are as `Tape.push` takes them: operands are slots, and results are the slots from `tape.top` on, in order.
    `numbers` are those of the leaves. Returns the page that keeps all of them on the tape.

    Raises StaleValueError for an operand that is no longer on the tape.
    """
    known = list(zip(rows[rows[:, OPCODE] == LEAF, OUT].tolist(), numbers.tolist(), strict=True))
    if len(rows) < _FEW:
        tape.allocate(len(rows))
        tape.push(rows.reshape(-1).tolist())
        tape._data += known
        return tape.page
    # The buffers are written first, because their slots come before. Taking slots may make the tape collect, which
    # moves what it has, so that comes before writing as well.
    tape.flush()
    try:
        tape.allocate(len(rows))
        write(tape, np.ascontiguousarray(rows), np.zeros(0, np.int64), known)
    except BaseException:
        if tape.flushed != tape.top:
            _give_up(tape)
        raise
    return tape.page
