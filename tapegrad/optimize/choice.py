"""When a sparse matrix of derivatives pays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tapegrad.recording import Recording

# Fewer unknowns than these: dense matrices are as fast, and exact solvers more robust.
LEAST = 200
# The largest share of entries that may differ from zero.
MOST = 0.1
# More unknowns than these: a Hessian that is not sparse is not formed, but multiplied with vectors.
FORMED = 200
# Rows looked at before the pattern is asked for, which takes long where everything depends on everything.
SAMPLES = 8

DENSE, SPARSE, PRODUCT = "dense", "sparse", "product"


def pays(recording: Recording, *args: np.ndarray | float, argnums: int = 0) -> bool:
    """Whether the Jacobian of a recording that returns a vector is worth having as a sparse matrix.

    It is, where there are at least 200 unknowns and at most a tenth of the entries can differ from zero.
    """
    n = np.size(args[argnums])
    if n < LEAST:
        return False
    value, pullback = recording.vjp(*args)
    m = len(value)

    def row(i: int) -> np.ndarray:
        seed = np.zeros(m)
        seed[i] = 1.0
        return pullback(seed)[argnums]

    if not m or _looks_dense(row, m):
        return False
    return recording.sparsity(*args, argnums=argnums).pattern.nnz <= MOST * m * n


def kind_of_hessian(recording: Recording, *args: np.ndarray) -> str:
    """How the Hessian of a recording with respect to its first argument is best had.

    Dense where there are fewer than 200 unknowns; else sparse where at most a tenth of the entries can differ from
    zero; else as products with vectors.
    """
    n = args[0].size
    if n < LEAST:
        return DENSE
    product = recording.make_hvp(*args)

    def column(i: int) -> np.ndarray:
        seed = np.zeros(n)
        seed[i] = 1.0
        return product(seed)

    if not _looks_dense(column, n):
        pattern = recording.sparsity(*args, hessian=True).pattern
        if pattern.nnz <= MOST * n * n:
            return SPARSE
    return DENSE if n <= FORMED else PRODUCT


def _looks_dense(line: Callable[[int], np.ndarray], count: int) -> bool:
    # Half of a sample may be unlucky: twice the share is allowed, and the pattern decides.
    chosen = np.unique(((np.arange(SAMPLES) + 0.5) * count / SAMPLES).astype(int))
    return bool(np.mean([np.count_nonzero(line(int(i))) / max(np.size(line(int(i))), 1) for i in chosen]) > 2 * MOST)
