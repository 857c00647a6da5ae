"""Whether numbers on a tape are truth values or integers, which decides what they do as an index."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import COLUMNS
from tapegrad.sweeps.marks import LEAF
from tapegrad.tape.operands import operand_starts


def kind_of(tape: Any, slot: int) -> str:
    """What the number at a slot is: see `kind_at`."""
    buffer = tape._buffer
    if buffer and buffer[1 - COLUMNS] == slot and TABLE[buffer[-COLUMNS] % RUN].truth:
        # It was recorded just now, as it is where a function branches on a comparison.
        return "b"
    tape.flush()
    return kind_at(tape, tape.locate(slot))


def kind_at(tape: Any, place: int) -> str:
    """What the number at a place of the arena is: "b" a truth value, "i" an integer, "" neither."""
    found, seen, waiting = "", set(), [place]
    while waiting:
        row = tape.row_of(waiting.pop())
        if row in seen:
            continue
        seen.add(row)
        kind, givers = _kind_or_givers(tape, row)
        # Programs may be deep, so this does not recurse.
        waiting += givers
        if not givers:
            if not kind or (found and kind != found):
                return ""
            found = kind
    return found


def kinds_at(tape: Any, places: list[int]) -> list[str]:
    """What the numbers at many places are; what several of them follow from is looked at once."""
    asked = [tape.row_of(place) for place in places]
    follows: dict[int, tuple[str, list[int]]] = {}
    waiting = list(asked)
    while waiting:
        row = waiting.pop()
        if row not in follows:
            kind, givers = _kind_or_givers(tape, row)
            rows = [tape.row_of(giver) for giver in givers]
            follows[row] = kind, rows
            waiting += rows
    known: dict[int, str] = {}
    # Operands come before results.
    for row in sorted(follows):
        kind, rows = follows[row]
        kinds = {known[giver] for giver in rows} or {kind}
        known[row] = kinds.pop() if len(kinds) == 1 else ""
    return [known[row] for row in asked]


def _kind_or_givers(tape: Any, row: int) -> tuple[str, list[int]]:
    """What the results of an instruction are; or, where an operation only moves numbers, so that they stay what they
    are, the places of the operands that they come from."""
    instruction = tape.code[row]
    operation = TABLE[int(instruction[0]) % RUN]
    # Leaves may be known to be integers or truth values, and so may results.
    if tape.kinds:
        kind = tape.kinds.get(int(tape.addresses.slots_of(instruction[1:2].astype(np.int64))[0]))
        if kind is not None:
            return kind, []
    if instruction[0] == LEAF:
        return "", []
    if operation.truth:
        return "b", []
    return "", list(operation.kind_givers(operand_starts(instruction, tape.side)))
