"""Long constants that repeat themselves, as the directions of a sparse matrix do, or an array of ones.

Loops over rows read a short table in place of such a constant. It stays in the nearest cache, where the constant would
take as much from memory as an argument does.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tapegrad.native.long_rows import SEARCHED
from tapegrad.native.rows import Rows
from tapegrad.native.schedule import Schedule
from tapegrad.ops.record import OPCODE, OUT, B
from tapegrad.program import Code
from tapegrad.tape import LEAF

# The longest period, and how many numbers are looked at before all are.
_LONGEST, _LOOKED_AT = 64, 256


class Table(NamedTuple):
    """A constant as a table.

    Attributes:
        start: where the constant begins in the program's own arena.
        period: its numbers are the same again after so many.
        turn: a multiple of the period and of the lanes, after which rounds find the same part of the table again.
        size: how many numbers it has, so that it is read whole vectors at a time from any number of the first period.
    """

    start: int
    period: int
    turn: int

    @property
    def size(self) -> int:
        return self.turn + self.period


def tables_of(schedule: Schedule, readers: dict[int, set[int]], lanes: int) -> dict[int, Table]:
    """The constants that become tables, by the number of the result. `readers` are the nodes that read long arrays."""
    code, at, found = schedule.program.code, 0, dict[int, Table]()
    if not any(isinstance(node, Rows) for node in schedule.nodes):
        return found
    for result in np.flatnonzero(code.rows[:, OPCODE] == LEAF)[code.inputs :].tolist():
        start, n = int(code.rows[result, OUT]), int(code.rows[result, B])
        numbers = code.constants[at : at + n]
        at += n
        if readers.get(result) and all(_reads_rows(schedule, node, result) for node in readers[result]):
            period = period_of(numbers)
            table = None if period is None else Table(start, period, math.lcm(period, lanes))
            if table is not None and 2 * table.size <= n:
                found[result] = table
    return found


def _reads_rows(schedule: Schedule, at: int, result: int) -> bool:
    """Whether a node is a loop over rows in which each row reads one number of a constant."""
    node = schedule.nodes[at] if at < len(schedule.nodes) else None
    if not isinstance(node, Rows):
        return False
    items = node.all_items()
    refs = [ref for item in items for ref in item.operands if ref.result == result]
    return len(items) < SEARCHED and all(ref.rows in (0, 1) and not any(ref.strides) for ref in refs)


def period_of(numbers: np.ndarray) -> int | None:
    """After how many numbers they are the same again, bit by bit; None if that is not soon.

    >>> period_of(np.tile([1.0, 0.0, 0.0], 5)), period_of(np.arange(9.0))
    (3, None)
    """
    bits = numbers.view(np.int64 if numbers.itemsize == 8 else np.int32)
    first = bits[:_LOOKED_AT]
    for period in (1 + np.flatnonzero(first[1 : _LONGEST + 1] == first[:1])).tolist():
        if all(np.array_equal(x[period:], x[:-period]) for x in (first, bits)):
            return int(period)
    return None


def lengths(counts: np.ndarray, constants: Sequence[int], tables: dict[int, Table]) -> np.ndarray:
    """How many numbers constants have in the arena of the compiled program."""
    return np.array([tables[c].size if c in tables else counts[c] for c in constants], np.int64)


def with_tables(code: Code, tables: dict[int, Table]) -> Code:
    """Code with the numbers of tables in place of those of constants."""
    if not tables:
        return code
    rows, parts, at = code.rows.copy(), [], 0
    for result in np.flatnonzero(rows[:, OPCODE] == LEAF)[code.inputs :].tolist():
        numbers = code.constants[at : at + rows[result, B]]
        at += len(numbers)
        if result in tables:
            numbers = np.resize(numbers[: tables[result].period], tables[result].size)
            rows[result, B] = len(numbers)
        parts.append(numbers)
    return dataclasses.replace(code, rows=rows, constants=np.concatenate(parts))
