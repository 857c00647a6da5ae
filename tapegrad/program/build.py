"""From a tape that a function was recorded on to the code of a program."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.adjoint import simplified
from tapegrad.errors import StructureError
from tapegrad.layout import dense
from tapegrad.ops.record import OPCODE, OUT, B
from tapegrad.program.code import Code, Output
from tapegrad.tape import EXPECT, LEAF, Tape
from tapegrad.tape.collect import kept, kept_calls, needed_for
from tapegrad.tape.lines import notes_of
from tapegrad.value import Value


def code_of(tape: Tape, inputs: int, outputs: Sequence[Any]) -> Code:
    """The code that computes `outputs` from the first `inputs` leaves of a tape. Afterwards the tape is finished.

    Nothing need be evaluated but what guards have read. Raises StructureError for a Value of another tape, and what
    `Tape.evaluate` raises.
    """
    values = [x for x in outputs if isinstance(x, Value)]
    for x in values:
        if x._tape is not tape:
            raise StructureError("the function returned a Value that it did not compute from its arguments")
    tape.flush()
    standing = [tape.locate(x._slot) if x.size else None for x in values]
    if tape.derived:
        found, to = simplified(tape, inputs)
        standing = [None if place is None else found.moved(place, to) for place in standing]
    reaches = [x._layout_or_scalar().reach for x in values]
    rows = needed_for(tape, [
        (place + low, place + high) for place, (low, high) in zip(standing, reaches, strict=True) if place is not None
    ])  # fmt: skip
    # The inputs were recorded first; they stay whether they are used or not.
    rows = np.append(np.arange(inputs), rows[rows >= inputs])
    # Constants stand together behind the inputs: an arena that nobody sweeps takes memory for their numbers alone.
    own = kept(tape, rows, leaves_first=True)
    where = iter(standing)
    results = []
    for y in outputs:
        place = next(where) if isinstance(y, Value) else None
        if place is None:
            results.append(Output(None, dense(np.shape(y)), y))
        else:
            results.append(Output(own.moved(place), y._layout_or_scalar(), None, y._is_integer))
    leaves = rows[inputs:][tape.code[rows[inputs:], OPCODE] == LEAF]
    numbers = [tape.values[out : out + n] for out, n in tape.code[leaves][:, [OUT, B]].tolist()]
    notes = notes_of(tape)
    lines = None if notes is None else notes.of(tape.addresses.slots_of(own.owners.starts[own.order]))
    if lines is not None:
        # What an input is called with is no line of the function.
        lines.which[:inputs] = -1
    named = [(own.moved(tape.locate(slot)), n, label) for (slot, n), label in tape.labels.items()]
    code = Code(
        dtype=tape.dtype,
        rows=own.code,
        # At least one number, so that the array has an address.
        side=own.side[: own.side_length].copy() if own.side_length else np.zeros(1, np.int64),
        constants=np.concatenate([np.zeros(0, tape.dtype), *numbers]),
        inputs=inputs,
        size=own.slots,
        outputs=tuple(results),
        labels={(place, n): label for place, n, label in named if place >= 0},
        lines=lines,
    )
    calls = kept_calls(tape.calls, own.code, own.side)
    tape.finish()
    tape.calls = calls
    return code


def reads_of(tape: Tape) -> list[tuple[str, int, str] | None]:
    """For each guard on a tape, the file and line where a number was read, and what was read; None where unknown."""
    tape.flush()
    code = tape.code[: tape.length]
    at = code[code[:, OPCODE] == EXPECT, OUT].astype(np.int64)
    return [tape.reads.get(slot) for slot in tape.addresses.slots_of(at).tolist()] if len(at) else []


def digests(tape: Tape, inputs: int) -> list[int]:
    """For each guard on a tape, a digest of what was recorded before it, without the constant that the guard
    compares with."""
    tape.flush()
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


