"""From a tape that a function was recorded on to the code of a program."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.adjoint import simplified
from tapegrad.errors import StructureError
from tapegrad.ops.record import OPCODE, OUT, B
from tapegrad.program.code import Code, Output
from tapegrad.tape import EXPECT, LEAF, Tape
from tapegrad.tape.collect import needed_for
from tapegrad.value import Value


def code_of(tape: Tape, inputs: int, outputs: Sequence[Any]) -> Code:
    """The code that computes `outputs` from the first `inputs` leaves of a tape. Afterwards the tape is finished.

    Raises StructureError for a Value of another tape.
    """
    values = [x for x in outputs if isinstance(x, Value)]
    for x in values:
        if x._tape is not tape:
            raise StructureError("the function returned a Value that it did not compute from its arguments")
    standing: list[Any] = [x._places() if x.size else None for x in values]
    if tape.derived:
        to = simplified(tape, inputs)
        standing = [None if places is None else to[places] for places in standing]
    mark = np.zeros(len(tape.values), np.uint8)
    for places in standing:
        if places is not None:
            mark[places] = 1
    rows = needed_for(tape, mark)
    # The inputs were recorded first; they stay whether they are used or not.
    moved = tape.keep(np.append(np.arange(inputs), rows[rows >= inputs]))
    where = iter(standing)
    found = []
    for x in outputs:
        places = next(where) if isinstance(x, Value) else None
        at = None if places is None else moved[places]
        shape, is_whole = (x.shape, x._is_integer) if isinstance(x, Value) else (np.shape(x), False)
        found.append(Output(at, shape, x if at is None else None, is_whole))
    tape.finish()
    own = tape.code[: tape.length].copy()
    leaves = own[inputs:][own[inputs:, OPCODE] == LEAF][:, [OUT, B]].tolist()
    numbers = [tape.values[out : out + n] for out, n in leaves]
    labels = {(tape.locate(slot), n): label for (slot, n), label in tape.labels.items()}
    return Code(
        dtype=tape.dtype,
        rows=own,
        # At least one number, so that the array has an address.
        side=tape.side[: max(1, tape.side_length)].copy(),
        constants=np.concatenate([np.zeros(0, tape.dtype), *numbers]),
        inputs=inputs,
        size=tape.slots,
        outputs=tuple(found),
        labels=labels,
    )


def reads_of(tape: Tape) -> list[tuple[str, int, str] | None]:
    """For each guard on a tape, the file and line where a number was read, and what was read; None where unknown."""
    tape.flush()
    code = tape.code[: tape.length]
    at = code[code[:, OPCODE] == EXPECT, OUT].astype(np.int64)
    return [tape.reads.get(slot) for slot in tape.addresses.slots_of(at).tolist()] if len(at) else []


def digests(tape: Tape, inputs: int) -> list[int]:
    """For each guard on an evaluated tape, a digest of what was recorded before it, without the constant that the guard
    compares with."""
    code = tape.code[: tape.length]
    found, done, digest = [], inputs, 0
    for row in np.flatnonzero(code[:, OPCODE] == EXPECT).tolist():
        before = code[row - 1]
        end = row - 1 if before[OPCODE] == LEAF and before[OUT] == code[row, B] else row
        part = code[done:end]
        digest = zlib.crc32(part.tobytes(), digest)
        for out, n in part[part[:, OPCODE] == LEAF][:, [OUT, B]].tolist():
            digest = zlib.crc32(tape.values[out : out + n].tobytes(), digest)
        found.append(digest)
        done = end
    return found


