"""Matrix products for kernels: `gemm`, by the BLAS that SciPy ships.

BLAS is called directly, and not by `np.matmul`, because it can add to its result (`beta`), as a reverse sweep does to
adjoints. Where nothing is compiled, NumPy does what BLAS does otherwise; see `sweeps.blas`.
"""

import numpy as np

from tapegrad.compiled import compiled_in
from tapegrad.compiled.vector import register_bits

# On processors with AVX-512 OpenBLAS multiplies matrices of up to a million products without copying them first,
# unless the first one is transposed and the second is not. A product of several times that is faster in parts
# (measured: 10 to 30 % where a part is 40 or longer, and slower where it is shorter). Elsewhere it would be slower.
PART = 900_000 if register_bits() == 512 else 0
SHORTEST = 40


def gemm(ta, tb, m, n, k, a, ao, lda, b, bo, ldb, beta, c, co, ldc):
    # C = op(A) op(B) + beta C, column-major. Arrays come with the offset of their first element.
    longest = max(n, k)
    parts = (m * n * k + PART - 1) // PART if PART > 0 and (tb or not ta) else 1
    if parts == 1 or longest < SHORTEST * parts:
        blas(ta, tb, m, n, k, a, ao, lda, b, bo, ldb, beta, c, co, ldc)
        return
    length = (longest + parts - 1) // parts
    for at in range(0, longest, length):
        some = min(length, longest - at)
        b_at = at * ldb if tb == (n < k) else at
        if n < k:
            # Sums of so many products, added up.
            a_at, more = at if ta else at * lda, beta if at == 0 else 1.0
            blas(ta, tb, m, n, some, a, ao + a_at, lda, b, bo + b_at, ldb, more, c, co, ldc)
        else:
            # So many columns of the result.
            blas(ta, tb, m, some, k, a, ao, lda, b, bo + b_at, ldb, beta, c, co + at * ldc, ldc)


def matrix(x, offset, rows, columns, ld):
    # Column-major, as in BLAS: element (i, j) is at offset + i + j * leading dimension.
    return np.lib.stride_tricks.as_strided(x[offset:], (rows, columns), (x.itemsize, ld * x.itemsize))


@compiled_in("tapegrad.sweeps.blas_calls")
def blas(ta, tb, m, n, k, a, ao, lda, b, bo, ldb, beta, c, co, ldc):
    # As `gemm`, in one call.
    op_a = matrix(a, ao, k, m, lda).T if ta else matrix(a, ao, m, k, lda)
    op_b = matrix(b, bo, n, k, ldb).T if tb else matrix(b, bo, k, n, ldb)
    out = matrix(c, co, m, n, ldc)
    out[...] = op_a @ op_b + (beta * out if beta else 0.0)
