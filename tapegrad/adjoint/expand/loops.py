"""Derivatives of scalar instructions, written by compiled code: templates put together with adjoints or tangents.

What stands at a slot is named by a *reference*: ~slot, which is negative, for what was on the tape before, else the
number of a row. Rows are gathered in one array: known numbers first, then the instructions that are differentiated,
then what is written. What has known operands is folded on the way, and what was computed before is not computed
again: a small table remembers what was met lately, by which most of it is found and which stays in the processor's
cache (with a table of everything the walk takes twice as long); `simplify` finds the rest. Between calls adjoints and
tangents are known by their slots; -1 stands for none.
"""

import numpy as np

from tapegrad.adjoint.loops import COMMUTES, hashed, is_same, repeated, unmasked
from tapegrad.compiled import compiled
from tapegrad.compiled.frames import float_bits
from tapegrad.ops.record import OPCODE, OUT, A, B, C
from tapegrad.sweeps.marks import LEAF

# The opcodes of what is written besides templates, and folded, come in this order.
ADD, SUBTRACT, MULTIPLY, DIVIDE, NEGATIVE, CHAIN = range(6)
# Refers to nothing.
NONE = -(2**62)
# Entries of the table at most, and how far ahead of the walk the instructions that are differentiated are entered.
TABLE, AHEAD = 1 << 14, 1 << 12


@compiled(
    operands="int64[:, :]", places="int64[:, :]", low="int64", owner="int32[:]", slots="int64[:]", reads="int64[:, :]",
    met="uint8[:]",
)  # fmt: skip
def resolve(operands, places, low, owner, slots, reads, met):
    """Put references in place of the slots of operands, and find the nodes that made what stands at their places.

    `owner` has the nodes from place `low` on, `slots` those of known numbers, ascending; `met` says which of them are.
    """
    last = slots[-1] if slots.shape[0] else np.int64(-1)
    for i in range(operands.shape[0]):
        for j in range(operands.shape[1]):
            place = places[i, j]
            reads[i, j] = owner[place - low] if place >= low else -1
            operands[i, j] = _reference(operands[i, j], slots, last)
            if operands[i, j] >= 0:
                met[operands[i, j]] = 1


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


def _enter(rows, table, r, known):
    a, b = rows[r, A], rows[r, B]
    if known[rows[r, OPCODE], COMMUTES] and b < a:
        rows[r, A], rows[r, B], rows[r, C] = b, a, a
    h = hashed(rows[r, OPCODE], rows[r, A], rows[r, B], rows[r, C])
    table[h & (table.shape[0] - 1)] = (h >> 32 << 32) | r


def _append(rows, table, numbers, n, op, a, b, c, number):
    """A reference to an instruction, which is written unless it was before, and how many rows there are then."""
    h = hashed(op, a, b, c)
    at = h & (table.shape[0] - 1)
    # Half of an entry is of the hash: most rows that are another need not be looked at to tell.
    if table[at] >> 32 == h >> 32 and is_same(rows, table[at] & 0xFFFFFFFF, op, a, b, c):
        return rows[table[at] & 0xFFFFFFFF, OUT], n
    rows[n, OPCODE], rows[n, OUT], rows[n, A], rows[n, B], rows[n, C] = op, n, a, b, c
    numbers[n] = number
    table[at] = (h >> 32 << 32) | n
    return np.int64(n), n + 1


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


def _write(rows, table, numbers, n, op, a, b, c, named, known):
    """A reference to what an operation makes of three operands, written in the shortest way that is known."""
    x = numbers[a] if a >= 0 else np.nan
    y = numbers[b] if b >= 0 else np.nan
    x_known, y_known = not np.isnan(x), not np.isnan(y)
    if x_known and y_known:
        number = _computed(op, x, y, named)
        if np.isfinite(number):
            # In place of operands stand the number's bits, to find it by. What a leaf has there comes in the end.
            bits = np.int64(float_bits(number))
            return _append(rows, table, numbers, n, np.int64(LEAF), bits, bits, bits, number)
    if x_known or y_known:
        same = repeated(op, x_known, x, y_known, y, known)
        if same:
            return (a if same == 1 else b), n
        op = unmasked(op, x_known, x, y_known, y, known)
        if op == named[MULTIPLY] and (x == -1.0 or y == -1.0):
            op, a = named[NEGATIVE], b if x == -1.0 else a
            b = c = a
    # Numbers whose negatives were written: -(-x) = x and x + (-y) = x - y.
    if op == named[NEGATIVE]:
        if a >= 0 and rows[a, OPCODE] == op:
            return rows[a, A], n
    elif op == named[ADD]:
        if b >= 0 and rows[b, OPCODE] == named[NEGATIVE]:
            op, b = named[SUBTRACT], rows[b, A]
            c = b
        elif a >= 0 and rows[a, OPCODE] == named[NEGATIVE]:
            op, a, b = named[SUBTRACT], b, rows[a, A]
            c = b
    if known[op, COMMUTES] and b < a:
        a, b, c = b, a, a
    return _append(rows, table, numbers, n, op, a, b, c, np.nan)


def _product(rows, table, numbers, n, flow, partial, named, known):
    """A reference to an adjoint or tangent times a partial derivative; to nothing where that is zero."""
    if (flow >= 0 and numbers[flow] == 0.0) or (partial >= 0 and numbers[partial] == 0.0):
        return np.int64(NONE), n
    return _write(rows, table, numbers, n, named[CHAIN], flow, partial, partial, named, known)


def _sum(rows, table, numbers, n, a, b, named, known):
    """A reference to the sum of two, either of which may be missing."""
    if a == NONE or b == NONE:
        return max(a, b), n
    return _write(rows, table, numbers, n, named[ADD], a, b, b, named, known)


# Walking instructions


def _stands_for(constants, operands, i, out, made, reference):
    """What a reference of a template stands for at instruction i; see `symbols`."""
    if reference < 0:
        return constants[-1 - reference]
    if reference < 3:
        return operands[i, reference]
    return ~out if reference == 3 else made[reference - 4]


def _partial(rows, table, numbers, n, named, known, steps, low, high, constants, operands, i, out, made):
    """The derivative of instruction i by an operand: steps low up to high of the templates, the last one says which.

    `made` has the steps that were written for the operands before.
    """
    for s in range(low, high - 1):
        m = steps[s, 0]
        if made[m] == NONE:
            a = _stands_for(constants, operands, i, out, made, steps[s, 2])
            b = _stands_for(constants, operands, i, out, made, steps[s, 3])
            c = _stands_for(constants, operands, i, out, made, steps[s, 4])
            made[m], n = _write(rows, table, numbers, n, steps[s, 1], a, b, c, named, known)
    return _stands_for(constants, operands, i, out, made, steps[high - 1, 2]), n


def _of_slot(slot, first, start, slots, last):
    """A reference to what flows at a node, given by its slot."""
    if slot < 0:
        return np.int64(NONE)
    return slot - first + start if slot >= first else _reference(slot, slots, last)


def _to_slot(reference, first, start, slots):
    if reference < 0:
        return ~reference if reference != NONE else np.int64(-1)
    return slots[reference] if reference < slots.shape[0] else reference - start + first


@compiled(
    ops="int64[:]", outs="int64[:]", operands="int64[:, :]", reads="int64[:, :]", constants="int64[:]",
    slots="int64[:]", arity="int64[:]", length="int64[:]", first_step="int64[:, :]", steps="int64[:, :]",
    named="int64[:]", known="float64[:, :]", rows="int64[:, :]", table="int64[:]", numbers="float64[:]",
    made="int64[:]", flows="int64[:]", low="int64", high="int64", first="int64", back="int64",
)  # fmt: skip
def expand(
    ops, outs, operands, reads, constants, slots, arity, length, first_step, steps, named, known, rows, table, numbers,
    made, flows, low, high, first, back,
):  # fmt: skip
    """Write the derivatives of instructions low up to high.

    Backward, last instruction first, the adjoints of all that they read; forward, the tangents of what they make.
    `rows` begins with what is known and what is differentiated; what is written follows, its results being the slots
    from `first` on. Returns how many rows there are then.
    """
    start = slots.shape[0] + high - low
    shift = start - high  # of rows of instructions against their numbers
    last = slots[-1] if slots.shape[0] else np.int64(-1)
    for r in range(slots.shape[0]):
        _enter(rows, table, r, known)
    for i in range(max(low, high - AHEAD) if back else low, high if back else min(high, low + AHEAD)):
        _enter(rows, table, shift + i, known)
    n = np.int64(start)
    for k in range(high - low):
        i = high - 1 - k if back else low + k
        ahead = i - AHEAD if back else i + AHEAD
        if low <= ahead < high:
            _enter(rows, table, shift + ahead, known)
        op = ops[i]
        flow = _of_slot(flows[i], first, start, slots, last) if back else np.int64(NONE)
        if back and flow == NONE:
            continue
        made[: length[op]] = NONE
        total = np.int64(NONE)
        for j in range(arity[op]):
            source = reads[i, j]
            if source < 0:
                continue
            there = _of_slot(flows[source], first, start, slots, last)
            if not back and there == NONE:
                continue
            x, n = _partial(
                rows, table, numbers, n, named, known, steps, first_step[op, j], first_step[op, j + 1], constants,
                operands, i, outs[i], made,
            )  # fmt: skip
            x, n = _product(rows, table, numbers, n, flow if back else there, x, named, known)
            x, n = _sum(rows, table, numbers, n, there if back else total, x, named, known)
            if back:
                flows[source] = _to_slot(x, first, start, slots)
            else:
                total = x
        if not back:
            flows[i] = _to_slot(total, first, start, slots)
    for r in range(start, n):
        if rows[r, OPCODE] != LEAF:
            for j in range(A, C + 1):
                rows[r, j] = _to_slot(rows[r, j], first, start, slots)
        else:
            rows[r, A], rows[r, B], rows[r, C] = 0, 1, 0
        rows[r, OUT] = first + r - start
    return n
