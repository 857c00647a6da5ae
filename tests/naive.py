"""A reference replay of a tape, in plain Python: one number at a time, nothing compiled.

It reads the tape's code and side arrays as `tapegrad.ops.record` describes them and calls the rules of the table as the
Python functions that they are. The compiled sweeps must agree with it.
"""

import contextlib
from unittest import mock

import numpy as np

from tapegrad.ops import RUN, TABLE, Elementwise, control, linalg
from tapegrad.ops.record import (
    ACTIVE,
    ARITY,
    COUNT,
    DENSE,
    KIND,
    OPERAND_SIZE,
    OPERANDS,
    OUT,
    SLOT,
    STRUCTURED,
    UNIFORM,
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
    k = int(k)
    arity, n, out = int(side[k + ARITY]), int(side[k + COUNT]), int(side[k + OUT])
    p = k + OPERANDS + OPERAND_SIZE * arity
    ndim = int(side[p])
    shape = [int(s) for s in side[p + 1 : p + 1 + ndim]]
    p += 1 + ndim
    columns = []
    for j in range(arity):
        slot = int(side[k + OPERANDS + OPERAND_SIZE * j + SLOT])
        mode, strides = int(side[p]), side[p + 1 : p + 1 + ndim]
        p += 1 + ndim
        if mode == DENSE:
            columns.append([slot + i for i in range(n)])
        elif mode == UNIFORM:
            columns.append([slot] * n)
        else:
            columns.append([slot + sum(int(i * s) for i, s in zip(at, strides)) for at in np.ndindex(*shape)])
    return [(out + i, [column[i] for column in columns]) for i in range(n)]


def elements(row, code, side):
    """The scalar instructions that an instruction stands for, or None where it is structured."""
    op, out, a, b = (int(x) for x in code)
    if op < RUN:
        return [(out, [a, b][: row.arity])]
    return None if side[a + KIND] == STRUCTURED else run_operands(side, a)


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
                _activate_all(side, int(line[2]))
                row.reverse(side, int(line[2]), values, g)
                continue
            for out, slots in parts:
                if g[out] != 0.0:
                    for s, p in zip(slots, _partials(row, values, out, slots), strict=True):
                        g[s] += g[out] * p
    return g


def _activate_all(side, k):
    for j in range(int(side[k + ARITY])):
        side[k + OPERANDS + OPERAND_SIZE * j + ACTIVE] = 1


def tangent(code, side, values, tangents):
    """Tangents of every slot, given those of the leaves."""
    t = tangents.copy()
    with plain():
        for row, line in rows(code):
            parts = elements(row, line, side)
            if parts is None:
                row.tangent(side, int(line[2]), values, t)
                continue
            for out, slots in parts:
                terms = zip(slots, _partials(row, values, out, slots), strict=True)
                t[out] = sum(t[s] * p for s, p in terms if t[s] != 0.0)
    return t
