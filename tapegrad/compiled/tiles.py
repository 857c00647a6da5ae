"""Products of small blocks whose sums stay in registers, and memory for what a kernel rearranges.

A convolution multiplies the same numbers of its input with several channels, each at several offsets. These two
functions compute a few rows of such a product at once, over whole vectors: each number that is loaded is multiplied
several times. They stand in place of the product of matrices of BLAS, for which every window would have to be copied
out first. What is here runs where nothing is compiled; `tile_code` has the same as machine code.
"""

from typing import Any

import numpy as np

from tapegrad.compiled.marks import compiled_in
from tapegrad.compiled.vector import register_bits

BITS = register_bits()
# The most rows and vectors of a tile: so many sums fit into the registers, of which there are 32 with AVX-512 and on
# ARM, and at least 16 elsewhere.
ROWS = 8 if BITS == 512 else 4
VECTORS = 3
# And the most vectors where there is one row, as in a convolution of each channel by itself: sums of few vectors would
# wait for each other.
VECTORS_OF_ONE = 8


@compiled_in("tapegrad.compiled.tile_code")
def borrow(v: Any, n: Any) -> Any:
    """Memory for n numbers of an array's dtype, which is to be given back."""
    return np.empty(n, v.dtype)


@compiled_in("tapegrad.compiled.tile_code")
def borrow_whole(n: Any) -> Any:
    """Memory for n whole numbers, which is to be given back."""
    return np.empty(n, np.int64)


@compiled_in("tapegrad.compiled.tile_code")
def give_back(array: Any) -> None:
    """Give memory back that was borrowed."""


@compiled_in("tapegrad.compiled.tile_code")
def copy_row(to: Any, o: Any, v: Any, a: Any, n: Any) -> None:
    """Copy n numbers from position a of v on to position o of another array: rows are too short for a loop."""
    to[o : o + n] = v[a : a + n]


@compiled_in("tapegrad.compiled.tile_code")
def weighted_rows(
    w: Any, wo: Any, x: Any, xo: Any, offsets: Any, at: Any, count: Any, rows: Any, vectors: Any, t: Any, to: Any,
    pitch: Any,
) -> None:  # fmt: skip
    """Row i of t, from position `to` + i * `pitch` on, becomes the sum over q of w[q, i] times what stands in x at
    offset q: `vectors` registers full of numbers. w is (count, rows) from position `wo` on; rows is a power of two."""
    n = vectors * (BITS // (8 * x.itemsize))
    for i in range(rows):
        t[to + i * pitch : to + i * pitch + n] = 0.0
        for q in range(count):
            a = xo + offsets[at + q]
            t[to + i * pitch : to + i * pitch + n] += w[wo + q * rows + i] * x[a : a + n]


@compiled_in("tapegrad.compiled.tile_code")
def products_of_rows(
    y: Any, yo: Any, pitch: Any, x: Any, xo: Any, offsets: Any, at: Any, many: Any, images: Any, y_step: Any,
    x_step: Any, rows: Any, count: Any, t: Any,
) -> None:  # fmt: skip
    """t[i, j] becomes the sum of the products of row i of y, the rows being `pitch` apart, and what stands in x at
    offset j: `many` registers full of numbers of each of several images, which are `y_step` and `x_step` apart."""
    n = many * (BITS // (8 * x.itemsize))
    for i in range(rows):
        for j in range(count):
            total = 0.0
            for m in range(images):
                a, b = yo + i * pitch + m * y_step, xo + offsets[at + j] + m * x_step
                total += np.dot(y[a : a + n], x[b : b + n])
            t[i * count + j] = total
