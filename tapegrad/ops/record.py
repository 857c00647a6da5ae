"""The layout of instructions, and of the records of instructions over many elements; only this module knows these.

A scalar instruction is five numbers: opcode, out, a, b, c. An instruction over many elements has RUN added to its
opcode; `a` is then the position k of its record in the side array, and `b` the number of its output elements. A record
says whether the instruction is elementwise or structured, the place and the size of its result, for each operand the
place of its first element and which places it touches, and then what else the operation needs: its parameters. (Before
the instruction is flushed, a record has slots where later it has places.)

The functions here read a record, in Python or in compiled code, where their calls are replaced by their expressions.
There is a second array of the same length as the side array, the flags. It has what is found out about a program
afterwards: which operands a gradient must reach, and which instructions are computed together, block by block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tapegrad.compiled import inlined

# The columns of an instruction.
OPCODE, OUT, A, B, C = range(5)
COLUMNS = 5

_KIND, _LENGTH, _OUT, _COUNT, _ARITY, _OPERANDS = range(6)
_SLOT, _LOW, _HIGH = range(3)
_SIZE = 3

ELEMENTWISE, STRUCTURED = range(2)
# What the flags say of a record: it is on its own, or in a group of elementwise runs that are computed together, block
# by block.
ALONE, FIRST, INSIDE, LAST = range(4)
# The modes of an operand of an elementwise run: its elements follow each other, or it is one number for all elements,
# or it has strides.
DENSE, UNIFORM, STRIDED = range(3)

# Reading one record, at position k.


@inlined
def is_structured(side, k):
    return side[k + _KIND] == STRUCTURED


@inlined
def record_length(side, k):
    return side[k + _LENGTH]


@inlined
def result_at(side, k):
    # The first place of the result, whose elements always follow each other in row-major order.
    return side[k + _OUT]


@inlined
def result_size(side, k):
    return side[k + _COUNT]


@inlined
def operand_count(side, k):
    return side[k + _ARITY]


@inlined
def operand_at(side, k, j):
    # The place of the element [0, 0, ...] of operand j.
    return side[k + _OPERANDS + _SIZE * j + _SLOT]


@inlined
def operand_low(side, k, j):
    # The first place that operand j touches.
    return side[k + _OPERANDS + _SIZE * j + _SLOT] + side[k + _OPERANDS + _SIZE * j + _LOW]


@inlined
def operand_high(side, k, j):
    # The place after the last that operand j touches.
    return side[k + _OPERANDS + _SIZE * j + _SLOT] + side[k + _OPERANDS + _SIZE * j + _HIGH]


@inlined
def params_at(side, k):
    # The position in the side array at which the parameters begin.
    return k + _OPERANDS + _SIZE * side[k + _ARITY]


@inlined
def params_of_one(k):
    # The same for an operation of one operand, for which the record need not be read; below, of two.
    return k + _OPERANDS + _SIZE


@inlined
def params_of_two(k):
    return k + _OPERANDS + 2 * _SIZE


# The parameters of an elementwise run: the number of axes, the shape, and for each operand a mode and its strides.


@inlined
def axes(side, k):
    return side[k + _OPERANDS + _SIZE * side[k + _ARITY]]


@inlined
def shape_at(side, k):
    # The position at which the shape begins.
    return k + _OPERANDS + _SIZE * side[k + _ARITY] + 1


@inlined
def mode_at(side, k, j):
    # The position of the mode of operand j; its strides follow.
    return (k + _OPERANDS + _SIZE * side[k + _ARITY] + 1 + side[k + _OPERANDS + _SIZE * side[k + _ARITY]]
            + j * (1 + side[k + _OPERANDS + _SIZE * side[k + _ARITY]]))


# Flags.


@inlined
def group_flag(k):
    # The position in the flags of ALONE, FIRST, INSIDE or LAST.
    return k


@inlined
def wants_flag(k, j):
    # The position in the flags that says whether a gradient must reach operand j.
    return k + _OPERANDS + _SIZE * j


# Writing.


@inlined
def place_operand(side, k, j):
    # The position in the side array of the place of operand j, to overwrite it.
    return k + _OPERANDS + _SIZE * j + _SLOT


@inlined
def place_result(k):
    return k + _OUT


@inlined
def tells_apart(d):
    # Whether two records of one operation that differ in number d compute different results: all numbers but the place
    # of the result do.
    return d != _OUT


def record(
    kind: int, slot: int, n: int, operands: Sequence[tuple[int, int, int]], params: Sequence[int]
) -> list[int]:
    """A record, as numbers. Operands are (slot, low, high): the slot of the first element, and from it, the offsets of
    the first slot that is touched and of that after the last."""
    numbers = [kind, _OPERANDS + _SIZE * len(operands) + len(params), slot, n, len(operands)]
    for operand in operands:
        numbers += operand
    numbers += params
    return numbers


def place(numbers: list[int], start: int, slot: int, operands: Sequence[int]) -> None:
    """Fill in the slots of the result and of the operands in a record that begins at `start`."""
    numbers[start + _OUT] = slot
    at = start + _OPERANDS + _SLOT
    for operand in operands:
        numbers[at] = operand
        at += _SIZE


# Reading one that may be anything.


class Record(NamedTuple):
    """All that a record says. Operands are (slot, low, high), as `record` takes them."""

    kind: int
    length: int
    out: int
    size: int
    operands: list[tuple[int, int, int]]
    params: list[int]


def read(numbers: Sequence[int], k: int) -> Record | None:
    """The record at position k; None where it does not end before the numbers do, or does not hold its operands."""
    if k + _OPERANDS > len(numbers):
        return None
    kind, length, out, count, arity = numbers[k : k + _OPERANDS]
    params = _OPERANDS + _SIZE * arity
    if arity < 0 or length < params or k + length > len(numbers):
        return None
    operands = [tuple(numbers[k + i : k + i + _SIZE]) for i in range(_OPERANDS, params, _SIZE)]
    return Record(kind, length, out, count, operands, list(numbers[k + params : k + length]))  # type: ignore[arg-type]


def modes(params: Sequence[int], arity: int) -> list[int] | None:
    """The modes of the operands of an elementwise run; None where these are not the parameters of one."""
    ndim = params[0] if params else 0
    if ndim < 1 or len(params) != 1 + ndim + arity * (1 + ndim):
        return None
    return list(params[1 + ndim :: 1 + ndim])


# Many records at once, at positions `starts`.


def operand_places(side: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The positions in the side array of the places of all operands, and for each the number of its record."""
    arity = side[starts + _ARITY]
    number = np.repeat(np.arange(len(starts)), arity)
    first = np.cumsum(arity) - arity
    return starts[number] + _OPERANDS + _SIZE * (np.arange(len(number)) - first[number]) + _SLOT, number


def operand_sizes(side: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many places lie between the first and the last that each operand touches, and the number of its record."""
    at, number = operand_places(side, starts)
    return side[at + _HIGH - _SLOT] - side[at + _LOW - _SLOT], number


def parameters(side: np.ndarray, k: int) -> list[int]:
    """The parameters in the record at k."""
    return [int(x) for x in side[params_at(side, k) : k + record_length(side, k)]]


def call_at(side: np.ndarray, k: int) -> tuple[int, slice, list[slice]]:
    """Of the record at k of an operation whose operands are dense: its first parameter, where its result stands, and
    where its operands stand. All is read at once: number by number, Python would take several times as long."""
    row = side[k : k + int(side[k + _LENGTH])].tolist()
    params = _OPERANDS + _SIZE * row[_ARITY]
    spans = [slice(row[i + _SLOT], row[i + _SLOT] + row[i + _HIGH]) for i in range(_OPERANDS, params, _SIZE)]
    return row[params], slice(row[_OUT], row[_OUT] + row[_COUNT]), spans


def operand_spans(side: np.ndarray, k: int) -> list[tuple[int, int, int]]:
    """For each operand the place of its first element, the first place that it touches, and that after the last."""
    count = range(int(operand_count(side, k)))
    return [(int(operand_at(side, k, j)), int(operand_low(side, k, j)), int(operand_high(side, k, j))) for j in count]
