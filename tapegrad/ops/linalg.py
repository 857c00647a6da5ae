"""Matrix multiplication, by BLAS.

Parameters in the record: batch count, M, K, N; then for each operand its batch stride, whether it is stored
transposed, and its leading dimension. The output is dense (batch, M, N).
"""

from tapegrad.ops.blas import gemm
from tapegrad.ops.record import ACTIVE, BINARY_PARAMS, OPERAND_SIZE, OPERANDS, OUT, SLOT
from tapegrad.ops.spec import structured


def multiply_add(tx, ty, m, n, k, x, xo, ldx, y, yo, ldy, beta, c, co, ldc, tc):
    # C = op(X) op(Y) + beta C in row-major terms, where C itself may be stored transposed. BLAS thinks in columns:
    # a row-major C is its C', so the operands swap.
    if tc:
        gemm(not tx, not ty, m, n, k, x, xo, ldx, y, yo, ldy, beta, c, co, ldc)
    else:
        gemm(ty, tx, n, m, k, y, yo, ldy, x, xo, ldx, beta, c, co, ldc)


def matmul_shape(side, k):
    p = k + BINARY_PARAMS
    return side[p], side[p + 1], side[p + 2], side[p + 3]


def matmul_operand(side, k, j):
    p = k + BINARY_PARAMS + 4 + 3 * j
    return side[k + OPERANDS + OPERAND_SIZE * j + SLOT], side[p], side[p + 1] != 0, side[p + 2]


def fill_zero(v, start, n):
    for i in range(start, start + n):
        v[i] = 0.0


def matmul_forward(side, k, v):
    batch, m, n_inner, n = matmul_shape(side, k)
    x, sx, tx, ldx = matmul_operand(side, k, 0)
    y, sy, ty, ldy = matmul_operand(side, k, 1)
    out = side[k + OUT]
    if n_inner == 0:
        fill_zero(v, out, batch * m * n)
    elif m * n > 0:
        for i in range(batch):
            multiply_add(tx, ty, m, n, n_inner, v, x + i * sx, ldx, v, y + i * sy, ldy,
                         0.0, v, out + i * m * n, n, False)
    return True


def matmul_reverse(side, k, v, g):
    batch, m, n_inner, n = matmul_shape(side, k)
    x, sx, tx, ldx = matmul_operand(side, k, 0)
    y, sy, ty, ldy = matmul_operand(side, k, 1)
    out = side[k + OUT]
    if m * n * n_inner == 0:
        return
    for i in range(batch):
        o = out + i * m * n
        if side[k + OPERANDS + ACTIVE]:
            multiply_add(False, not ty, m, n_inner, n, g, o, n, v, y + i * sy, ldy, 1.0, g, x + i * sx, ldx, tx)
        if side[k + OPERANDS + OPERAND_SIZE + ACTIVE]:
            multiply_add(not tx, False, n_inner, n, m, v, x + i * sx, ldx, g, o, n, 1.0, g, y + i * sy, ldy, ty)


def matmul_tangent(side, k, v, t):
    batch, m, n_inner, n = matmul_shape(side, k)
    x, sx, tx, ldx = matmul_operand(side, k, 0)
    y, sy, ty, ldy = matmul_operand(side, k, 1)
    out = side[k + OUT]
    fill_zero(t, out, batch * m * n)
    if m * n * n_inner == 0:
        return
    for i in range(batch):
        o = out + i * m * n
        multiply_add(tx, ty, m, n, n_inner, t, x + i * sx, ldx, v, y + i * sy, ldy, 1.0, t, o, n, False)
        multiply_add(tx, ty, m, n, n_inner, v, x + i * sx, ldx, t, y + i * sy, ldy, 1.0, t, o, n, False)


matmul = structured("matmul", "z = X Y", arity=2,
    forward=matmul_forward, reverse=matmul_reverse, tangent=matmul_tangent)
