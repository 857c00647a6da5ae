"""Matrix products for kernels: `gemm`, by the BLAS that SciPy ships.

BLAS is called directly, and not by `np.matmul`, because it can add to its result (`beta`), as a reverse sweep does to
adjoints. The function here runs where nothing is compiled; compiled code calls BLAS itself, see `sweeps.blas`.
"""

import numpy as np

from tapegrad.compiled import compiled_in


def matrix(x, offset, rows, columns, ld):
    # Column-major, as in BLAS: element (i, j) is at offset + i + j * leading dimension.
    return np.lib.stride_tricks.as_strided(x[offset:], (rows, columns), (x.itemsize, ld * x.itemsize))


@compiled_in("tapegrad.sweeps.blas_calls")
def gemm(ta, tb, m, n, k, a, ao, lda, b, bo, ldb, beta, c, co, ldc):
    # C = op(A) op(B) + beta C, column-major. Arrays come with the offset of their first element.
    op_a = matrix(a, ao, k, m, lda).T if ta else matrix(a, ao, m, k, lda)
    op_b = matrix(b, bo, n, k, ldb).T if tb else matrix(b, bo, k, n, ldb)
    out = matrix(c, co, m, n, ldc)
    out[...] = op_a @ op_b + (beta * out if beta else 0.0)
