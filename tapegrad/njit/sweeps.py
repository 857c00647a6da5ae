"""The sweeps over a tape of partial derivatives. Rows follow what they depend on, so one loop each way is enough."""

from __future__ import annotations

import numpy as np

from tapegrad.compiled import compiled


@compiled(links="uint32[:, :]", partials="float64[:, :]", adjoints="float64[:]", first="int64", last="int64")
def reverse(links, partials, adjoints, first, last):
    """Carry the adjoints of rows from `last` - 1 down to `first` to the rows that these depend on. A zero adjoint is
    passed to nobody."""
    # Unsigned numbers of rows have no wraparound to check. Row 0 stands for what depends on nothing; to add to it each
    # time would make every operation wait for the one before.
    for back in range(np.uint64(last - first)):
        row = np.uint64(last) - np.uint64(1) - np.uint64(back)
        adjoint = adjoints[row]
        if adjoint != 0.0:
            x, y = np.uint64(links[row, 0]), np.uint64(links[row, 1])
            adjoints[x] += partials[row, 0] * adjoint
            if y != 0:
                adjoints[y] += partials[row, 1] * adjoint


@compiled(links="uint32[:, :]", partials="float64[:, :]", tangents="float64[:]", first="int64", last="int64")
def forward(links, partials, tangents, first, last):
    """Compute the tangents of rows from `first` on, up to `last`. A zero tangent is passed to nobody."""
    for row in range(first, last):
        total = 0.0
        x, y = tangents[links[row, 0]], tangents[links[row, 1]]
        if x != 0.0:
            total += partials[row, 0] * x
        if y != 0.0:
            total += partials[row, 1] * y
        tangents[row] = total
