"""Derivatives of scalar instructions, written by compiled code: templates put together with adjoints or tangents.

What stands at a slot is named by a *reference*: ~slot, which is negative, for what was on the tape before, else the
number of a row. Rows are gathered in one array: known numbers first, then the instructions that are differentiated,
then what is written. What has known operands is folded on the way, and what was computed before is not computed
again: a small table remembers what was met lately, by which most of it is found and which stays in the processor's
cache (with a table of everything the walk took three times as long); `simplify` finds the rest. Between calls
adjoints and tangents are known by their slots; -1 stands for none.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from tapegrad.adjoint.kernels import (
    ADD,
    CHAIN,
    COLUMNS,
    DIVIDE,
    MULTIPLY,
    NEGATIVE,
    OP,
    RESULT,
    SUBTRACT,
    A,
    B,
    C,
    hashed,
    is_same,
    product,
    repeated,
)
from tapegrad.sweeps.marks import LEAF

_NONE = -(2**62)  # refers to nothing
# Entries of the table, and how far ahead of the walk the instructions that are differentiated are entered.
_TABLE, _AHEAD = 1 << 14, 1 << 12


class Given(NamedTuple):
    """The instructions of a region, and the known numbers that they and their templates name."""

    ops: np.ndarray
    outs: np.ndarray  # slots
    operands: np.ndarray  # references, three an instruction
    reads: np.ndarray  # the node that made each operand, -1 where no derivative passes
    constants: np.ndarray  # references to the templates' constants
    slots: np.ndarray  # slots of known numbers, ascending
    numbers: np.ndarray


@njit(cache=True, nogil=True)
def resolve(operands, places, low, owner, slots, reads):
    """Put references in place of the slots of operands, and find the nodes that made what stands at their places.

    `owner` has the nodes from place `low` on, `slots` those of known numbers, ascending. Returns which of them are met.
    """
    met = np.zeros(slots.shape[0], np.bool_)
    last = slots[-1] if slots.shape[0] else np.int64(-1)
    for i in range(operands.shape[0]):
        for j in range(operands.shape[1]):
            place = places[i, j]
            reads[i, j] = owner[place - low] if place >= low else -1
            operands[i, j] = _reference(operands[i, j], slots, last)
            if operands[i, j] >= 0:
                met[operands[i, j]] = True
    return met


@njit(cache=True, nogil=True)
def renumber(operands, to):
    """Put other numbers in place of references to known numbers."""
    for i in range(operands.shape[0]):
        for j in range(operands.shape[1]):
            if operands[i, j] >= 0:
                operands[i, j] = to[operands[i, j]]


@njit(cache=True, nogil=True)
def _reference(slot, slots, last):
    if slot > last:
        return ~slot
    low, high = 0, slots.shape[0] - 1
    while low < high:
        middle = (low + high) >> 1
        if slots[middle] < slot:
            low = middle + 1
        else:
            high = middle
    return np.int64(low) if slots[low] == slot else ~slot


# Writing rows. `numbers` has what is known of each, NaN where nothing is.


@njit(cache=True, nogil=True)
def _start(given, low, high, named):
    """Rows of what is known and of what is differentiated, with room for more, and how many they are."""
    known, n = given.slots.shape[0], given.slots.shape[0] + high - low
    room = 64 + n + 3 * (high - low)
    rows, numbers = np.empty((room, COLUMNS), np.int64), np.full(room, np.nan)
    size = 64
    while size < 2 * room and size < _TABLE:
        size *= 2
    table = np.full(size, -1, np.int64)
    numbers[:known] = given.numbers
    bits = numbers.view(np.int64)
    for r in range(known):
        rows[r, OP], rows[r, RESULT] = LEAF, r
        rows[r, A] = rows[r, B] = rows[r, C] = bits[r]
        _enter(rows, table, r, named)
    for i in range(low, high):
        r = known + i - low
        rows[r, OP], rows[r, RESULT], rows[r, C] = given.ops[i], ~given.outs[i], given.operands[i, 2]
        rows[r, A], rows[r, B] = given.operands[i, 0], given.operands[i, 1]
    return rows, table, numbers, n


@njit(cache=True, nogil=True)
def _enter(rows, table, r, named):
    h = hashed(rows[r, OP], rows[r, A], rows[r, B], rows[r, C], named)
    table[h & (table.shape[0] - 1)] = (h >> 32 << 32) | r


@njit(cache=True, nogil=True)
def _grown(rows, numbers, n, more):
    """The same with room for more rows."""
    new_rows, new_numbers = np.empty((2 * (n + more), COLUMNS), np.int64), np.full(2 * (n + more), np.nan)
    new_rows[:n], new_numbers[:n] = rows[:n], numbers[:n]
    return new_rows, new_numbers


@njit(cache=True, nogil=True)
def _append(rows, table, n, op, a, b, c, named):
    """A reference to an instruction, which is written unless it was before, and how many rows there are then."""
    h = hashed(op, a, b, c, named)
    at = h & (table.shape[0] - 1)
    # Half of an entry is of the hash: most rows that are another need not be looked at to tell.
    if table[at] >> 32 == h >> 32 and is_same(rows, table[at] & 0xFFFFFFFF, op, a, b, c, named):
        return rows[table[at] & 0xFFFFFFFF, RESULT], n
    rows[n, OP], rows[n, RESULT], rows[n, C] = op, n, c
    rows[n, A], rows[n, B] = a, b
    table[at] = (h >> 32 << 32) | n
    return np.int64(n), n + 1


@njit(cache=True, nogil=True)
def _constant(rows, table, numbers, n, number, named):
    """A reference to a number that came of computing with known ones."""
    numbers[n] = number
    # In place of operands stand the number's bits, to find it by. `_finished` puts right what a leaf has there.
    bits = numbers.view(np.int64)[n]
    numbers[n] = np.nan
    found, after = _append(rows, table, n, LEAF, bits, bits, bits, named)
    if after > n:
        numbers[n] = number
    return found, after


@njit(cache=True, nogil=True, error_model="numpy")
def _computed(op, a, b, named):
    """What an operation makes of two known numbers; NaN where it is not one of those that are folded."""
    if op == named[ADD]:
        return a + b
    if op == named[SUBTRACT]:
        return a - b
    if op == named[MULTIPLY]:
        return a * b
    if op == named[DIVIDE]:
        return a / b
    if op == named[NEGATIVE]:
        return -a
    if op == named[CHAIN]:
        return a * b if a != 0.0 and b != 0.0 else 0.0
    return np.nan


@njit(cache=True, nogil=True)
def _write(rows, table, numbers, n, op, a, b, c, named):
    """A reference to what an operation makes of three operands, written in the shortest way that is known."""
    x = numbers[a] if a >= 0 else np.nan
    y = numbers[b] if b >= 0 else np.nan
    x_known, y_known = not np.isnan(x), not np.isnan(y)
    if x_known and y_known:
        number = _computed(op, x, y, named)
        if np.isfinite(number):
            return _constant(rows, table, numbers, n, number, named)
    if x_known or y_known:
        same = repeated(op, x_known, x, y_known, y, named)
        if same:
            return (a if same == 1 else b), n
        op = product(op, x_known, x, y_known, y, named)
        if op == named[MULTIPLY] and (x == -1.0 or y == -1.0):
            op, a = named[NEGATIVE], b if x == -1.0 else a
            b = c = a
    # Numbers whose negatives were written: -(-x) = x and x + (-y) = x - y.
    if op == named[NEGATIVE]:
        if a >= 0 and rows[a, OP] == op:
            return rows[a, A], n
    elif op == named[ADD]:
        if b >= 0 and rows[b, OP] == named[NEGATIVE]:
            op, b = named[SUBTRACT], rows[b, A]
        elif a >= 0 and rows[a, OP] == named[NEGATIVE]:
            op, a, b = named[SUBTRACT], b, rows[a, A]
            c = a
    return _append(rows, table, n, op, a, b, c, named)


@njit(cache=True, nogil=True)
def _product(rows, table, numbers, n, flow, partial, named):
    """A reference to an adjoint or tangent times a partial derivative; to nothing where that is zero."""
    if (flow >= 0 and numbers[flow] == 0.0) or (partial >= 0 and numbers[partial] == 0.0):
        return np.int64(_NONE), n
    return _write(rows, table, numbers, n, named[CHAIN], flow, partial, flow, named)


@njit(cache=True, nogil=True)
def _sum(rows, table, numbers, n, a, b, named):
    """A reference to the sum of two, either of which may be missing."""
    if a == _NONE or b == _NONE:
        return max(a, b), n
    return _write(rows, table, numbers, n, named[ADD], a, b, a, named)


# Walking instructions


@njit(cache=True, nogil=True)
def _stands_for(constants, operands, i, out, made, reference):
    """What a reference of a template stands for at instruction i; see `symbols`."""
    if reference < 0:
        return constants[-1 - reference]
    if reference < 3:
        return operands[i, reference]
    return ~out if reference == 3 else made[reference - 4]


@njit(cache=True, nogil=True)
def _partial(rows, table, numbers, n, named, steps, low, high, constants, operands, i, out, made):
    """The derivative of instruction i by an operand: steps low up to high of the templates, the last one says which.

    `made` has the steps that were written for the operands before.
    """
    for s in range(low, high - 1):
        m = steps[s, 0]
        if made[m] == _NONE:
            a = _stands_for(constants, operands, i, out, made, steps[s, 2])
            b = _stands_for(constants, operands, i, out, made, steps[s, 3])
            c = _stands_for(constants, operands, i, out, made, steps[s, 4])
            made[m], n = _write(rows, table, numbers, n, steps[s, 1], a, b, c, named)
    return _stands_for(constants, operands, i, out, made, steps[high - 1, 2]), n


@njit(cache=True, nogil=True)
def _of_slot(slot, first, start, slots, last):
    """A reference to what flows at a node, given by its slot."""
    if slot < 0:
        return np.int64(_NONE)
    return slot - first + start if slot >= first else _reference(slot, slots, last)


@njit(cache=True, nogil=True)
def _to_slot(reference, first, start, slots):
    if reference < 0:
        return ~reference if reference != _NONE else np.int64(-1)
    return slots[reference] if reference < slots.shape[0] else reference - start + first


@njit(cache=True, nogil=True)
def pull(given, tables, named, first, low, high, adjoints):
    """Write the adjoints of all that instructions low up to high read, last instruction first.

    Returns the rows of what is written, its results being the slots from `first` on, and the numbers of its leaves.
    """
    rows, table, numbers, start = _start(given, low, high, named)
    n, slots, last = start, given.slots, given.slots[-1] if given.slots.shape[0] else np.int64(-1)
    # By names of their own: compiled code counts references to arrays each time it takes one out of a tuple.
    ops, outs, operands, reads, constants = given.ops, given.outs, given.operands, given.reads, given.constants
    arity, room, length, first_step, steps = tables.arity, tables.room, tables.length, tables.first, tables.steps
    made = np.empty(1 + length.max(), np.int64)
    shift = start - high  # of rows of instructions against their numbers
    for i in range(high - 1, max(low, high - _AHEAD) - 1, -1):
        _enter(rows, table, shift + i, named)
    for i in range(high - 1, low - 1, -1):
        if i - _AHEAD >= low:
            _enter(rows, table, shift + i - _AHEAD, named)
        if adjoints[i] < 0:
            continue
        op = ops[i]
        if n + room[op] > rows.shape[0]:
            rows, numbers = _grown(rows, numbers, n, room[op])
        made[: length[op]] = _NONE
        flow = _of_slot(adjoints[i], first, start, slots, last)
        for j in range(arity[op]):
            source = reads[i, j]
            if source < 0:
                continue
            x, n = _partial(
                rows, table, numbers, n, named, steps, first_step[op, j], first_step[op, j + 1], constants, operands,
                i, outs[i], made,
            )  # fmt: skip
            x, n = _product(rows, table, numbers, n, flow, x, named)
            before = _of_slot(adjoints[source], first, start, slots, last)
            x, n = _sum(rows, table, numbers, n, before, x, named)
            adjoints[source] = _to_slot(x, first, start, slots)
    return _finished(rows, numbers, start, n, first, slots)


@njit(cache=True, nogil=True)
def push(given, tables, named, first, low, high, tangents):
    """Write the tangents of what instructions low up to high make, first to last. Returns what `pull` does."""
    rows, table, numbers, start = _start(given, low, high, named)
    n, slots, last = start, given.slots, given.slots[-1] if given.slots.shape[0] else np.int64(-1)
    # By names of their own: compiled code counts references to arrays each time it takes one out of a tuple.
    ops, outs, operands, reads, constants = given.ops, given.outs, given.operands, given.reads, given.constants
    arity, room, length, first_step, steps = tables.arity, tables.room, tables.length, tables.first, tables.steps
    made = np.empty(1 + length.max(), np.int64)
    shift = start - high  # of rows of instructions against their numbers
    for i in range(low, min(high, low + _AHEAD)):
        _enter(rows, table, shift + i, named)
    for i in range(low, high):
        if i + _AHEAD < high:
            _enter(rows, table, shift + i + _AHEAD, named)
        op = ops[i]
        if n + room[op] > rows.shape[0]:
            rows, numbers = _grown(rows, numbers, n, room[op])
        made[: length[op]] = _NONE
        total = np.int64(_NONE)
        for j in range(arity[op]):
            source = reads[i, j]
            if source < 0 or tangents[source] < 0:
                continue
            x, n = _partial(
                rows, table, numbers, n, named, steps, first_step[op, j], first_step[op, j + 1], constants, operands,
                i, outs[i], made,
            )  # fmt: skip
            flow = _of_slot(tangents[source], first, start, slots, last)
            x, n = _product(rows, table, numbers, n, flow, x, named)
            total, n = _sum(rows, table, numbers, n, total, x, named)
        tangents[i] = _to_slot(total, first, start, slots)
    return _finished(rows, numbers, start, n, first, slots)


@njit(cache=True, nogil=True)
def _finished(rows, numbers, start, n, first, slots):
    """The rows that were written, with slots in place of references, and the numbers of the leaves among them."""
    written = rows[start:n]
    found = np.empty(n - start)
    leaves = 0
    for r in range(n - start):
        written[r, RESULT] = first + r
        if written[r, OP] == LEAF:
            written[r, C] = 0
            written[r, A], written[r, B] = 0, 1
            found[leaves] = numbers[start + r]
            leaves += 1
        else:
            a, b, c = written[r, A], written[r, B], written[r, C]
            written[r, C] = _to_slot(c, first, start, slots)
            written[r, A], written[r, B] = _to_slot(a, first, start, slots), _to_slot(b, first, start, slots)
    return written, found[:leaves]
