"""What instructions read, and what is wrong with those that refuse it."""

from __future__ import annotations

import numpy as np

from tapegrad.errors import IndexRangeError, LabelError
from tapegrad.ops import BY_NAME, RUN
from tapegrad.ops.record import ARITY, OPERAND_SIZE, OPERANDS

_CROSS_ENTROPY = BY_NAME["cross_entropy"].opcode


def operand_spans(op: int, a: int, b: int, side: np.ndarray) -> list[tuple[int, int]]:
    """The places in the arena that an instruction reads, as (first, past the last)."""
    if op < RUN:
        return [(a, a + 1), (b, b + 1)]
    spans = []
    for j in range(int(side[a + ARITY])):
        slot, low, high, _ = (int(x) for x in side[a + OPERANDS + OPERAND_SIZE * j :][:OPERAND_SIZE])
        spans.append((slot + low, slot + high))
    return spans


def operand_error(row: np.ndarray, side: np.ndarray, values: np.ndarray) -> Exception:
    """What is wrong with the labels or indices of an instruction that refused its operands."""
    opcode, k = int(row[0]) - RUN, int(row[2])
    (_, _), (low, high) = operand_spans(int(row[0]), k, 0, side)
    numbers = values[low:high]
    params = side[k + OPERANDS + 2 * OPERAND_SIZE :]
    if opcode == _CROSS_ENTROPY:
        bad = ~((numbers >= 0) & (numbers < params[1]) & (numbers == np.floor(numbers)))
        i = int(np.flatnonzero(bad)[0])
        return LabelError(
            f"cross_entropy: label {numbers[i]:g} at position {i}; labels must be whole numbers from 0 to "
            f"{params[1] - 1}"
        )
    size = params[1]
    bad = ~((numbers >= -size) & (numbers < size) & (numbers == np.floor(numbers)))
    i = int(np.flatnonzero(bad)[0])
    return IndexRangeError(f"index {numbers[i]:g} at position {i} is out of range for an axis of size {size}")
