"""How much of a program has to be written out as code: what repeats is written once."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.native.roll import Repeat, Straight, rolled
from tapegrad.ops import RUN
from tapegrad.ops.record import OPCODE, OUT, A, operand_spans, parameters

# Programs of fewer steps are taken as they are.
_SEARCHED = 256


def written(program: Any) -> int:
    """The number of instructions of a program that code must be made for, about."""
    steps, side = program.steps, program.code.side
    if len(steps) < _SEARCHED:
        return len(steps)
    keys, places = steps[:, OPCODE].astype(np.int64), steps[:, OUT:].astype(np.int64)
    known: dict[Any, int] = {}
    for i in np.flatnonzero(steps[:, OPCODE] >= RUN).tolist():
        k = int(steps[i, A])
        # What tells runs apart besides their places.
        alike = int(keys[i]), tuple(parameters(side, k))
        keys[i] = -1 - known.setdefault(alike, len(known))
        slots = [slot for slot, _, _ in operand_spans(side, k)]
        places[i, 1:] = ([*slots, 0, 0, 0])[:3]
    return _count(rolled(keys, places))


def _count(parts: tuple[Straight | Repeat, ...]) -> int:
    return sum(part.length if isinstance(part, Straight) else _count(part.body) for part in parts)
