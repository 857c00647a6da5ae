"""Moving numbers about for many inputs at once: the rules `batched` of what `indexing` declares."""

import numpy as np

from tapegrad.layout import is_dense
from tapegrad.ops.parts import assemble_params, assemble_parts
from tapegrad.ops.spec import BY_NAME


def in_all_lanes(x, ndim, lanes):
    # An operand of so many axes with lanes as one axis more, the same number in each lane if it has none.
    return x if x.ndim > ndim else np.broadcast_to(x[..., None], (*x.shape, lanes))


def positions_in_lanes(p, lanes, index):
    # Where each lane has indices of its own: positions in (size, inner, lanes) seen as one axis, for each of
    # (n, inner, lanes). What is out of range becomes NaN, which the kernel refuses as it does the index.
    _, size, inner, _ = p
    fits = np.logical_and(index >= -size, index < size)
    own = np.where(fits, np.where(index < 0.0, index + float(size), index), np.nan)
    rest = np.arange(inner * lanes, dtype=index.dtype).reshape(inner, lanes)
    return own[:, None, :] * float(inner * lanes) + rest


def exact_positions(p, lanes, index):
    # Whether the positions above are whole numbers that the tape holds exactly.
    return p[1] * p[2] * lanes <= 2 ** (np.finfo(index.dtype).nmant + 1)


def gather_in_lanes(p, lanes, x, index):
    outer, size, inner, n = p
    if index.ndim == 1:
        return BY_NAME["gather"](x, index, params=[outer, size, inner * lanes, n])
    if x.ndim == 3:
        # The same array in each lane.
        found = BY_NAME["gather"](x, index, params=[outer, size, inner, n * lanes])
        return found.reshape(outer, n, lanes, inner).transpose(0, 1, 3, 2)
    if not exact_positions(p, lanes, x):
        return None
    positions = positions_in_lanes(p, lanes, index)
    return BY_NAME["gather"](x, positions, params=[outer, size * inner * lanes, 1, n * inner * lanes])


def scatter_in_lanes(p, lanes, x, index):
    outer, size, inner, n = p
    if index.ndim == 1:
        return BY_NAME["scatter"](x, index, params=[outer, size, inner * lanes, n])
    if not exact_positions(p, lanes, x):
        return None
    positions = positions_in_lanes(p, lanes, index)
    params = [outer, size * inner * lanes, 1, n * inner * lanes]
    return BY_NAME["scatter"](in_all_lanes(x, 3, lanes), positions, params=params)


def concatenate_in_lanes(p, lanes, *operands):
    parts = [in_all_lanes(x, 2, lanes) for x in operands]
    return BY_NAME["concatenate"](*parts, params=[p[0], p[1] * lanes, *(row * lanes for row in p[2:])])


def assemble_in_lanes(p, lanes, *operands):
    parts = [
        (offset * lanes, (*shape, lanes), (*(s * lanes for s in to), 1)) for offset, shape, _, to in assemble_parts(p)
    ]
    shown = [in_all_lanes(x, len(shape) - 1, lanes) for x, (_, shape, _) in zip(operands, parts)]
    ends = [offset + int(np.prod(shape)) for offset, shape, _ in parts]
    if [offset for offset, *_ in parts] == [0, *ends[:-1]] and ends[-1] == p[0] * lanes and all(
        is_dense(shape, to) for _, shape, to in parts
    ):
        # Nothing is added up: the parts follow each other.
        return BY_NAME["concatenate"](*shown, params=[1, p[0] * lanes, *(x.size for x in shown)])
    return BY_NAME["assemble"](*shown, params=assemble_params(p[0] * lanes, parts))
