"""Sparse Jacobians and Hessians of ordinary code.

`links` says what each instruction reads, `pattern` propagates index sets over a program, `coloring` finds the columns
or rows that one sweep can take together, and `compressed` evaluates the matrix.
"""

from tapegrad.sparse.compressed import CompressedJacobian, analyse, as_positions
from tapegrad.sparse.sparsity import Sparsity

__all__ = ["CompressedJacobian", "Sparsity", "analyse", "as_positions"]
