"""The parameters of `assemble`, which adds its operands into views of one array; see `indexing`."""

import numpy as np


def assemble_parts(p):
    # For each operand: position of its first element in the output, shape, strides, strides in the output.
    at, parts = 1, []
    while at < len(p):
        ndim = p[at]
        lengths = [tuple(p[at + 2 + i * ndim : at + 2 + (i + 1) * ndim]) for i in range(3)]
        parts.append((p[at + 1], *lengths))
        at += 2 + 3 * ndim
    return parts


def assemble_params(size, parts):
    # Of dense operands: for each the position of its first element in the output, its shape, and its strides there.
    p = [size]
    for offset, shape, to in parts:
        steps = [int(np.prod(shape[i + 1 :])) for i in range(len(shape))]
        p += [len(shape), offset, *shape, *steps, *to]
    return p
