"""A reference replay of a tape, in plain Python: one number at a time, nothing compiled.

It reads the tape's code and side arrays by `tapegrad.ops.record` and calls the rules of the table as the
Python functions that they are. The compiled sweeps must agree with it.
"""

import contextlib
import inspect
from unittest import mock

import numpy as np

from tapegrad.ops import RUN, TABLE, Elementwise, control, linalg
from tapegrad.ops.record import (
    DENSE,
    UNIFORM,
    axes,
    is_structured,
    mode_at,
    operand_at,
    operand_count,
    result_at,
    result_size,
    shape_at,
)

LEAF, EXPECT = control.leaf.opcode, control.expect.opcode


def gemm(ta, tb, m, n, k, a, ao, lda, b, bo, ldb, beta, c, co, ldc):
    """C = op(A) op(B) + beta C, column-major, as three loops."""
    for i in range(m):
        for j in range(n):
            total = 0.0
            for p in range(k):
                x = a[ao + (p + i * lda if ta else i + p * lda)]
                y = b[bo + (j + p * ldb if tb else p + j * ldb)]
                total += x * y
            old = c[co + i + j * ldc]
            c[co + i + j * ldc] = total + (beta * old if beta else 0.0)


@contextlib.contextmanager
def plain():
    """Rules as plain Python: no BLAS, and NumPy's silence about infinities, as in compiled code."""
    with mock.patch.object(linalg, "gemm", gemm), np.errstate(all="ignore"):
        yield


def run_operands(side, k):
    """For each element of an elementwise run: its output slot and the slots of its operands."""
    n, out, ndim = int(result_size(side, k)), int(result_at(side, k)), int(axes(side, k))
    shape = [int(s) for s in side[shape_at(side, k) :][:ndim]]
    columns = []
    for j in range(int(operand_count(side, k))):
        slot, p = int(operand_at(side, k, j)), int(mode_at(side, k, j))
        mode, strides = int(side[p]), side[p + 1 : p + 1 + ndim]
        if mode == DENSE:
            columns.append([slot + i for i in range(n)])
        elif mode == UNIFORM:
            columns.append([slot] * n)
        else:
            columns.append([slot + sum(int(i * s) for i, s in zip(at, strides)) for at in np.ndindex(*shape)])
    return [(out + i, [column[i] for column in columns]) for i in range(n)]


def elements(row, code, side):
    """The scalar instructions that an instruction stands for, or None where it is structured."""
    op, out, *operands = (int(x) for x in code)
    if op < RUN:
        return [(out, operands[: row.arity])]
    return None if is_structured(side, operands[0]) else run_operands(side, operands[0])


def all_wanted(row, rule, side):
    """The flags, for a kernel that asks for them, with which it passes derivatives to every operand."""
    return [np.ones(len(side), np.uint8)] if len(inspect.signature(getattr(row, rule)).parameters) == 5 else []


def rows(code):
    for line in code:
        op = int(line[0]) % RUN
        if op not in (LEAF, EXPECT):
            yield TABLE[op], line


def forward(code, side, values):
    """Values of every slot, given those of the leaves."""
    v = values.copy()
    with plain():
        for row, line in rows(code):
            parts = elements(row, line, side)
            if parts is None:
                assert row.forward(side, int(line[2]), v)
                continue
            for out, slots in parts:
                v[out] = row.value(*[v[s] for s in slots])
    return v


def _partials(row, v, out, slots):
    assert isinstance(row, Elementwise)
    partials = row.partials(*[v[s] for s in slots], v[out])
    return partials if isinstance(partials, tuple) else (partials,)


def reverse(code, side, values, adjoints):
    """Adjoints of every slot, given those of the outputs."""
    g = adjoints.copy()
    with plain():
        for row, line in reversed(list(rows(code))):
            parts = elements(row, line, side)
            if parts is None:
                row.reverse(side, int(line[2]), *all_wanted(row, "reverse", side), values, g)
                continue
            for out, slots in parts:
                if g[out] != 0.0:
                    for s, p in zip(slots, _partials(row, values, out, slots), strict=True):
                        g[s] += g[out] * p
    return g


def tangent(code, side, values, tangents):
    """Tangents of every slot, given those of the leaves."""
    t = tangents.copy()
    with plain():
        for row, line in rows(code):
            parts = elements(row, line, side)
            if parts is None:
                row.tangent(side, int(line[2]), *all_wanted(row, "tangent", side), values, t)
                continue
            for out, slots in parts:
                terms = zip(slots, _partials(row, values, out, slots), strict=True)
                t[out] = sum(t[s] * p for s, p in terms if t[s] != 0.0)
    return t
