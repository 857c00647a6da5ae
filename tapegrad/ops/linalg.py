"""Matrix multiplication, by BLAS.

Parameters in the record: batch count, M, K, N; then for each operand its batch stride, whether it is stored
transposed, and its leading dimension. The output is dense (batch, M, N).
"""

import numpy as np

from tapegrad.ops.blas import gemm
from tapegrad.ops.record import operand_at, params_of_two, result_at, wants_flag
from tapegrad.ops.spec import structured

# BLAS expects matrices in column-major order. A row-major matrix is, in that order, its transpose; so instead of
# C = X Y the transposes are multiplied, C' = Y' X'. A matrix that is stored transposed on the tape is column-major.


def matmul_layout(side, k):
    p = params_of_two(k)
    return side[p], side[p + 1], side[p + 2], side[p + 3]


def matmul_operands(side, k):
    # For each: first slot, batch stride, whether it is stored transposed, leading dimension.
    p = params_of_two(k) + 4
    return (operand_at(side, k, 0), side[p], side[p + 1] != 0, side[p + 2],
            operand_at(side, k, 1), side[p + 3], side[p + 4] != 0, side[p + 5])


def fill_zero(v, start, n):
    for i in range(start, start + n):
        v[i] = 0.0


def matmul_forward(side, k, v):
    batch, m, n_inner, n = matmul_layout(side, k)
    x, sx, tx, ldx, y, sy, ty, ldy = matmul_operands(side, k)
    out = result_at(side, k)
    if n_inner == 0:
        fill_zero(v, out, batch * m * n)
    elif m * n > 0:
        for i in range(batch):
            gemm(ty, tx, n, m, n_inner, v, y + i * sy, ldy, v, x + i * sx, ldx, 0.0, v, out + i * m * n, n)
    return True


def matmul_reverse(side, k, flags, v, g):
    batch, m, n_inner, n = matmul_layout(side, k)
    x, sx, tx, ldx, y, sy, ty, ldy = matmul_operands(side, k)
    if m * n * n_inner == 0:
        return
    for i in range(batch):
        o, xi, yi = result_at(side, k) + i * m * n, x + i * sx, y + i * sy
        # X' += Z' Y^T and Y' += X^T Z', in place, each stored as its operand is.
        if flags[wants_flag(k, 0)]:
            if tx:
                gemm(True, ty, m, n_inner, n, g, o, n, v, yi, ldy, 1.0, g, xi, ldx)
            else:
                gemm(not ty, False, n_inner, m, n, v, yi, ldy, g, o, n, 1.0, g, xi, ldx)
        if flags[wants_flag(k, 1)]:
            if ty:
                gemm(tx, True, n_inner, n, m, v, xi, ldx, g, o, n, 1.0, g, yi, ldy)
            else:
                gemm(False, not tx, n, n_inner, m, g, o, n, v, xi, ldx, 1.0, g, yi, ldy)


def matmul_tangent(side, k, flags, v, t):
    batch, m, n_inner, n = matmul_layout(side, k)
    x, sx, tx, ldx, y, sy, ty, ldy = matmul_operands(side, k)
    out = result_at(side, k)
    fill_zero(t, out, batch * m * n)
    if m * n * n_inner == 0:
        return
    for i in range(batch):
        o, xi, yi = out + i * m * n, x + i * sx, y + i * sy
        if flags[wants_flag(k, 0)]:
            gemm(ty, tx, n, m, n_inner, v, yi, ldy, t, xi, ldx, 1.0, t, o, n)
        if flags[wants_flag(k, 1)]:
            gemm(ty, tx, n, m, n_inner, t, yi, ldy, v, xi, ldx, 1.0, t, o, n)


def matmul_views(p):
    batch, m, n_inner, n, sx, tx, ldx, sy, ty, ldy = p
    x = (sx, 1, ldx) if tx else (sx, ldx, 1)
    y = (sy, 1, ldy) if ty else (sy, ldy, 1)
    return [((batch, m, n_inner), x), ((batch, n_inner, n), y)], (batch, m, n)


def transposed(x):
    return np.swapaxes(x, 1, 2)


def matmul_pushforward(p, z, operands, tangents):
    (x, y), (tx, ty) = operands, tangents
    terms = [] if tx is None else [np.matmul(tx, y)]
    return sum(terms if ty is None else [*terms, np.matmul(x, ty)])


def matmul_note(p):
    batch, m, n_inner, n = p[:4]
    return (f"{batch} of " if batch != 1 else "") + f"({m},{n_inner})x({n_inner},{n})"


matmul = structured("matmul", "z = X Y", arity=2, symbol="@", note=matmul_note,
    forward=matmul_forward, reverse=matmul_reverse, tangent=matmul_tangent, views=matmul_views, depends="bmk,bkn->bmn",
    pullback=lambda p, z, gz, x, y: (np.matmul(gz, transposed(y)), np.matmul(transposed(x), gz)),
    pushforward=matmul_pushforward, reads=((True, True), False))
