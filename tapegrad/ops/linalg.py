"""Matrix multiplication, by BLAS, with and without an array that is added to every row.

Parameters in the record: batch count, M, K, N; then for each of the two matrices its batch stride, whether it is stored
transposed, and its leading dimension. The output is dense (batch, M, N). What is added to the rows is dense (N,), and
there the batch count is 1.
"""

import math

import numpy as np

from tapegrad.ops.blas import gemm
from tapegrad.ops.record import operand_at, params_at, result_at, wants_flag
from tapegrad.ops.spec import structured

# BLAS expects matrices in column-major order. A row-major matrix is, in that order, its transpose; so instead of
# C = X Y the transposes are multiplied, C' = Y' X'. A matrix that is stored transposed on the tape is column-major.


def matmul_layout(side, k):
    p = params_at(side, k)
    return side[p], side[p + 1], side[p + 2], side[p + 3]


def matmul_operands(side, k):
    # For each: first slot, batch stride, whether it is stored transposed, leading dimension.
    p = params_at(side, k) + 4
    return (operand_at(side, k, 0), side[p], side[p + 1] != 0, side[p + 2],
            operand_at(side, k, 1), side[p + 3], side[p + 4] != 0, side[p + 5])


def fill_zero(v, start, n):
    for i in range(start, start + n):
        v[i] = 0.0


def multiply(side, k, v, beta):
    # Z = X Y + beta Z.
    batch, m, n_inner, n = matmul_layout(side, k)
    x, sx, tx, ldx, y, sy, ty, ldy = matmul_operands(side, k)
    out = result_at(side, k)
    if m * n * n_inner > 0:
        for i in range(batch):
            gemm(ty, tx, n, m, n_inner, v, y + i * sy, ldy, v, x + i * sx, ldx, beta, v, out + i * m * n, n)


def matmul_forward(side, k, v):
    batch, m, n_inner, n = matmul_layout(side, k)
    if n_inner == 0:
        fill_zero(v, result_at(side, k), batch * m * n)
    multiply(side, k, v, 0.0)
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


def accepts_product(p):
    # BLAS takes 32-bit lengths, and rows that are at least as far apart as they are long.
    if len(p) != 10 or min(p[:4]) < 0 or p[5] not in (0, 1) or p[8] not in (0, 1):
        return False
    _, m, n_inner, n, _, tx, ldx, _, ty, ldy = p
    enough = ldx >= max(1, m if tx else n_inner) and ldy >= max(1, n_inner if ty else n)
    return enough and max(m, n_inner, n, ldx, ldy) < 1 << 31


def products(p):
    return math.prod(p[:4])


def transposed(x):
    return np.swapaxes(x, 1, 2)


def matmul_pushforward(p, z, operands, tangents):
    (x, y), (tx, ty) = operands, tangents
    terms = [] if tx is None else [np.matmul(tx, y)]
    return sum(terms if ty is None else [*terms, np.matmul(x, ty)])


def matmul_note(p):
    batch, m, n_inner, n = p[:4]
    return (f"{batch} of " if batch != 1 else "") + f"({m},{n_inner})x({n_inner},{n})"


# Where both operands of a product in lanes differ from lane to lane, it is a sum of products if each number of the
# result takes at most so many, or one operand is a vector. Else lanes become the batch of a product by BLAS.
SUMMED = 8


def matmul_in_lanes(p, lanes, x, y):
    batch, m, n_inner, n = p[:4]
    if y.ndim == 3:
        # (N, K) times (K, lanes), for each row of X.
        if batch == 1:
            return np.matmul(np.swapaxes(y, 1, 2), x.reshape(m, n_inner, lanes))
        return np.matmul(np.swapaxes(y, 1, 2)[:, None], x)
    if x.ndim == 3:
        return np.matmul(x, y.reshape(batch, n_inner, n * lanes))
    if n_inner <= SUMMED or m == 1 or n == 1:
        return np.sum(x[:, :, :, None, :] * y[:, None, :, :, :], 2)
    return np.moveaxis(np.matmul(np.moveaxis(x, 3, 0), np.moveaxis(y, 3, 0)), 0, 3)


matmul = structured("matmul", "z = X Y", arity=2, symbol="@", note=matmul_note, accepts=accepts_product,
    forward=matmul_forward, reverse=matmul_reverse, tangent=matmul_tangent, views=matmul_views, depends="bmk,bkn->bmn",
    pullback=lambda p, z, gz, x, y: (np.matmul(gz, transposed(y)), np.matmul(transposed(x), gz)),
    pushforward=matmul_pushforward, batched=matmul_in_lanes, products=products, reads=((True, True), False))


def affine_forward(side, k, v):
    _, m, _, n = matmul_layout(side, k)
    out, b = result_at(side, k), v[operand_at(side, k, 2) : operand_at(side, k, 2) + n]
    for i in range(m):
        row = v[out + i * n : out + (i + 1) * n]
        for j in range(n):
            row[j] = b[j]
    multiply(side, k, v, 1.0)
    return True


def affine_reverse(side, k, flags, v, g):
    _, m, _, n = matmul_layout(side, k)
    if flags[wants_flag(k, 2)]:
        out, b = result_at(side, k), g[operand_at(side, k, 2) : operand_at(side, k, 2) + n]
        for i in range(m):
            row = g[out + i * n : out + (i + 1) * n]
            for j in range(n):
                b[j] += row[j]
    matmul_reverse(side, k, flags, v, g)


def affine_tangent(side, k, flags, v, t):
    _, m, _, n = matmul_layout(side, k)
    matmul_tangent(side, k, flags, v, t)
    if flags[wants_flag(k, 2)]:
        out, b = result_at(side, k), operand_at(side, k, 2)
        for i in range(m):
            for j in range(n):
                t[out + i * n + j] += t[b + j]


def affine_views(p):
    (x, y), (_, m, n) = matmul_views(p)
    return [(shape[1:], strides[1:]) for shape, strides in (x, y)] + [((n,), (1,))], (m, n)


def affine_pushforward(p, z, operands, tangents):
    (x, y, _), (tx, ty, tb) = operands, tangents
    terms = [] if tx is None else [np.matmul(tx, y)]
    terms += [] if ty is None else [np.matmul(x, ty)]
    return sum(terms if tb is None else [*terms, np.broadcast_to(tb, (p[1], p[3]))])


def affine_in_lanes(p, lanes, x, y, b):
    product = np.matmul(x, y)[..., None] if x.ndim == y.ndim == 2 else matmul_in_lanes(p, lanes, x[None], y[None])
    return product.reshape(p[1], p[3], -1) + (b if b.ndim == 2 else b[:, None])


affine = structured("affine", "z = X Y + b", arity=3, note=matmul_note,
    accepts=lambda p: accepts_product(p) and p[0] == 1,
    forward=affine_forward, reverse=affine_reverse, tangent=affine_tangent, views=affine_views, depends="mk,kn,n->mn",
    pullback=lambda p, z, gz, x, y, b: (np.matmul(gz, y.T), np.matmul(x.T, gz), np.sum(gz, 0)),
    pushforward=affine_pushforward, batched=affine_in_lanes, products=products, reads=((True, True, False), False))
