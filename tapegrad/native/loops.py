"""From instructions over many elements to items in loops over rows."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tapegrad.layout import dense_strides
from tapegrad.native.ir import ADD, COMPUTE, MAX, MIN, NEUTRAL, SET, Item, Ref
from tapegrad.native.rules import can_write
from tapegrad.ops import Elementwise
from tapegrad.ops.arithmetic import copy
from tapegrad.ops.indexing import assemble, concatenate
from tapegrad.ops.parts import assemble_parts
from tapegrad.ops.reduction import max_, sum_
from tapegrad.tape import Instruction

# The most numbers of a result that is put together from sums over rows, and of one that is put together in parts.
_SUMS, _SHORT = 4096, 64

# Whose result a place is: (the number of the instruction, the place where its result begins).
Owner = Callable[[int], int]


def natural_rows(one: Instruction) -> int | None:
    """How many rows an instruction has where nobody asks for another number; None if it cannot become loops."""
    row = one.operation
    if not one.count:
        return None
    if isinstance(row, Elementwise):
        return int(one.shape[0]) if can_write(row) is None else None
    if row in (sum_, max_):
        outer, n, inner = one.params[:3]
        # Over no elements there is no loop, but there is a result.
        if not n:
            return None
        return outer if outer > 1 else max(n, inner)
    if row is assemble:
        longest = max((x.layout.shape[0] for x in one.operands), default=0)
        return longest if one.count <= _SUMS and longest > one.count else one.count
    return one.params[0] if row is concatenate else None


def apart(one: Instruction) -> tuple[Instruction, Instruction] | None:
    """An `assemble` of sums over rows and of single numbers as one of the former, and one of the latter; None for any
    other instruction. What comes from a loop over rows need not wait for what is computed of its results."""
    if one.operation is not assemble or one.count > _SHORT:
        return None
    parts = list(zip(one.operands, assemble_parts(list(one.params)), strict=True))
    long = [part for part in parts if part[0].size > _SHORT]
    short = [part for part in parts if part[0].size <= _SHORT]
    if not long or not short:
        return None
    return _some(one, long), _some(one, short)


def _some(one: Instruction, parts: list[tuple[Any, Any]]) -> Instruction:
    params = [one.count]
    for _, (offset, shape, strides, to) in parts:
        params += [len(shape), offset, *shape, *strides, *to]
    return replace(one, operands=tuple(x for x, _ in parts), params=tuple(params))


def additions(one: Instruction) -> list[tuple[int, int]]:
    """For each number that an `assemble` adds to its result, the place of that and its own."""
    found: list[tuple[int, int]] = []
    for x, (offset, shape, _, to) in zip(one.operands, assemble_parts(list(one.params)), strict=True):
        outs = one.out + offset + sum(i * t for i, t in zip(np.indices(shape), to, strict=True))
        found += zip(np.ravel(outs).tolist(), x.places().tolist(), strict=True)
    return found


def items(one: Instruction, rows: int, owner: Owner) -> list[Item] | None:
    """The items of an instruction over so many rows; None where it cannot be seen so."""
    row = one.operation
    if isinstance(row, Elementwise):
        return _elementwise(one, rows, owner)
    if row in (sum_, max_):
        return _reduction(one, rows, owner)
    if row is assemble:
        return _assemble(one, rows, owner)
    return _concatenate(one, rows, owner) if row is concatenate else None


def _split(n: int, rows: int) -> int | None:
    """How many of the n elements of an axis go into each row."""
    return n // rows if n % rows == 0 else None


def _elementwise(one: Instruction, rows: int, owner: Owner) -> list[Item] | None:
    each = _split(one.shape[0], rows)
    if each is None:
        return None
    dims = ([each] if each > 1 else []) + list(one.shape[1:])

    def ref(place: int, strides: tuple[int, ...], result: int) -> Ref:
        inner = ([strides[0]] if each > 1 else []) + list(strides[1:])
        return Ref(result, place, strides[0] * each, tuple(inner))

    out = ref(one.out, dense_strides(one.shape), owner(one.out))
    operands = tuple(ref(x.place, x.layout.strides, owner(x.place)) for x in one.operands)
    return [Item(COMPUTE, out, operands, tuple(dims), rows, row=one.operation, height=rows)]


def _reduction(one: Instruction, rows: int, owner: Owner) -> list[Item] | None:
    outer, n, inner, so, sn, si, sign = (int(p) for p in one.params)
    kind = ADD if one.operation is sum_ else MAX if sign > 0 else MIN
    (x,) = one.operands
    result, of = owner(one.out), owner(x.place)
    start = Item(SET, Ref(result, one.out, 0), (), (), rows, number=NEUTRAL[kind], height=rows)
    if outer > 1:
        each = _split(outer, rows)
        if each is None:
            return None
        lead = [each] if each > 1 else []
        tail = [inner] if inner > 1 else []
        start.out = Ref(result, one.out, each * inner, (*([inner] if lead else []), *([1] if tail else [])))
        start.dims = (*lead, *tail)
        out = Ref(result, one.out, each * inner, (*([inner] if lead else []), 0, *([1] if tail else [])))
        operand = Ref(of, x.place, each * so, (*([so] if lead else []), sn, *([si] if tail else [])))
        return [start, Item(kind, out, (operand,), (*lead, n, *tail), rows, height=rows)]
    if n % rows == 0:
        # The rows are what is reduced: the result is one for all of them.
        each = n // rows
        lead, tail = [each] if each > 1 else [], [inner] if inner > 1 else []
        start.out, start.dims = Ref(result, one.out, 0, (1,) if tail else ()), tuple(tail)
        out = Ref(result, one.out, 0, (*([0] if lead else []), *([1] if tail else [])))
        operand = Ref(of, x.place, each * sn, (*([sn] if lead else []), *([si] if tail else [])))
        return [start, Item(kind, out, (operand,), (*lead, *tail), rows, height=rows)]
    if inner % rows == 0:
        each = inner // rows
        tail = [each] if each > 1 else []
        start.out, start.dims = Ref(result, one.out, each, (1,) if tail else ()), tuple(tail)
        out = Ref(result, one.out, each, (0, *([1] if tail else [])))
        operand = Ref(of, x.place, each * si, (sn, *([si] if tail else [])))
        return [start, Item(kind, out, (operand,), (n, *tail), rows, height=rows)]
    return None


def _assemble(one: Instruction, rows: int, owner: Owner) -> list[Item] | None:
    if one.count < rows and one.count <= _SUMS:
        return _sums_of_rows(one, rows, owner)
    each = _split(one.count, rows)
    if each is None:
        return None
    result = owner(one.out)
    whole = Ref(result, one.out, each, (1,) if each > 1 else ())
    found = [Item(SET, whole, (), (each,) if each > 1 else (), rows, height=rows)]
    for x, (offset, shape, strides, to) in zip(one.operands, assemble_parts(list(one.params)), strict=True):
        axes = [(n, s, t) for n, s, t in zip(shape, strides, to, strict=True) if n != 1]
        if any(t <= 0 for _, _, t in axes):
            return None
        first, inside = divmod(offset, each)
        count, row_stride = 1, 0
        # The axis that leads from one row to the next, or part of one.
        at = max(range(len(axes)), key=lambda i: axes[i][2], default=None)
        if at is not None:
            n, s, t = axes[at]
            if t >= each:
                if t != each:
                    return None
                count, row_stride = n, s
                del axes[at]
            elif each % t == 0 and inside + n * t > each:
                inner = each // t
                if inside >= t or n % inner:
                    return None
                count, row_stride = n // inner, s * inner
                axes[at] = (inner, s, t)
        if inside + sum((n - 1) * t for n, _, t in axes) >= each or first + count > rows:
            return None
        dims = tuple(n for n, _, _ in axes)
        out = Ref(result, one.out + inside, each, tuple(t for _, _, t in axes))
        operand = Ref(owner(x.place), x.place - first * row_stride, row_stride, tuple(s for _, s, _ in axes))
        found.append(Item(ADD, out, (operand,), dims, count, first=first, height=rows))
    return found


def _sums_of_rows(one: Instruction, rows: int, owner: Owner) -> list[Item] | None:
    """The items of an `assemble` whose result is short, and whose operands are added up over all rows."""
    result = owner(one.out)
    dims = (one.count,) if one.count > 1 else ()
    found = [Item(SET, Ref(result, one.out, 0, (1,) if dims else ()), (), dims, rows, height=rows)]
    for x, (offset, shape, strides, to) in zip(one.operands, assemble_parts(list(one.params)), strict=True):
        axes = [(n, s, t) for n, s, t in zip(shape, strides, to, strict=True) if n != 1]
        at = next((i for i, (n, _, t) in enumerate(axes) if t == 0 and n % rows == 0), None)
        count, row_stride = 1, 0
        if at is not None:
            n, s, _ = axes[at]
            each = n // rows
            count, row_stride = rows, s * each
            axes[at : at + 1] = [(each, s, 0)] if each > 1 else []
        elif math.prod(n for n, _, _ in axes) > _SHORT:
            return None
        out = Ref(result, one.out + offset, 0, tuple(t for _, _, t in axes))
        operand = Ref(owner(x.place), x.place, row_stride, tuple(s for _, s, _ in axes))
        found.append(Item(ADD, out, (operand,), tuple(n for n, _, _ in axes), count, height=rows))
    return found


def _concatenate(one: Instruction, rows: int, owner: Owner) -> list[Item] | None:
    outer, total, *lengths = (int(p) for p in one.params)
    each = _split(outer, rows)
    if each is None:
        return None
    found, start, result = [], 0, owner(one.out)
    for x, n in zip(one.operands, lengths, strict=True):
        lead, tail = [each] if each > 1 else [], [n] if n > 1 else []
        strides = [*([total] if lead else []), *([1] if tail else [])]
        out = Ref(result, one.out + start, each * total, tuple(strides))
        inner = [*([n] if lead else []), *([1] if tail else [])]
        operand = Ref(owner(x.place), x.place, each * n, tuple(inner))
        if n:
            found.append(Item(COMPUTE, out, (operand,), (*lead, *tail), rows, row=copy, height=rows))
        start += n
    return found
