"""When a sparse matrix of derivatives pays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tapegrad.recording import Recording

# Fewer unknowns than these: dense matrices are about as fast, and the solvers for them more robust.
LEAST = 200
# The largest share of entries that may differ from zero.
MOST = 0.1
# How many rows are evaluated first: finding the pattern takes long where everything depends on everything, and a few
# rows show that.
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

    if not _looks_dense(column, n) and recording.sparsity(*args, hessian=True).pattern.nnz <= MOST * n * n:
        return SPARSE
    return PRODUCT


def _looks_dense(line: Callable[[int], np.ndarray], count: int) -> bool:
    """Whether a few rows, or columns, have so many entries that the pattern need not be found."""
    chosen = np.unique(((np.arange(SAMPLES) + 0.5) * count / SAMPLES).astype(int))
    # The rows chosen may have more entries than others, so twice the share is allowed here. The pattern then decides.
    return bool(np.mean([line(i) != 0.0 for i in chosen.tolist()]) > 2 * MOST)
