"""Random numbers that follow from a state on the tape: the mask of dropout.

The generator is Philox 4x32 with ten rounds (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as
1, 2, 3", SC 2011): a bijection of 128 bits, so that each number follows from a key and its own position, in any order.
The state is four whole numbers below 2**24, which a float32 holds: two halves of a key, and two of a count of calls.
"""

import numpy as np

from tapegrad.compiled import write
from tapegrad.ops.ordering import no_reverse, no_tangent
from tapegrad.ops.record import operand_at, params_of_one, result_at
from tapegrad.ops.spec import structured

# The state's numbers are below this.
HALF = 1 << 24


def philox(c0, c1, c2, k0, k1):
    # Four numbers of 32 bits, in 64 bits each, so that no product overflows.
    mask, c3 = np.uint64(0xFFFFFFFF), np.uint64(0)
    shift = np.uint64(32)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ k0, p1 & mask, (p0 >> shift) ^ c3 ^ k1, p0 & mask
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & mask, (k1 + np.uint64(0xBB67AE85)) & mask
    return c0, c1, c2, c3


def mask_forward(side, k, v):
    # Parameters: how many numbers, and how many of 2**32 are dropped.
    p, state, out = params_of_one(k), operand_at(side, k, 0), result_at(side, k)
    n, limit = side[p], np.uint64(side[p + 1])
    k0, k1 = np.uint64(v[state]), np.uint64(v[state + 1])
    calls, more = np.uint64(v[state + 2]), np.uint64(v[state + 3])
    kept, dropped = v[state] * 0.0, v[state] * 0.0
    if side[p + 1] < 4294967296:
        kept += 4294967296.0 / (4294967296.0 - side[p + 1])
    # Four numbers at a time: they stand a quarter of the array apart, so that each is stored beside its like.
    quarter = (n + 3) // 4
    for i in range(quarter):
        a, b, c, d = philox(np.uint64(i), calls, more, k0, k1)
        write(v, out + i, kept if a >= limit else dropped)
        if i + quarter < n:
            write(v, out + i + quarter, kept if b >= limit else dropped)
        if i + 2 * quarter < n:
            write(v, out + i + 2 * quarter, kept if c >= limit else dropped)
        if i + 3 * quarter < n:
            write(v, out + i + 3 * quarter, kept if d >= limit else dropped)
    return True


def accepts_mask(p):
    return len(p) == 2 and p[0] >= 0 and 0 <= p[1] <= 1 << 32


dropout_mask = structured("dropout_mask", "z = random: 0, or 1 / (1 - p)", arity=1, accepts=accepts_mask,
    forward=mask_forward, reverse=no_reverse, tangent=no_tangent, views=lambda p: ([((4,), (1,))], (p[0],)),
    depends="s,n->n", pullback=lambda p, z, gz, state: (None,),
    pushforward=lambda p, z, operands, tangents: np.zeros(p[0], z.dtype), passive=True,
    reads=((False,), False), note=lambda p: f"{p[0]:,} numbers, p = {p[1] / (1 << 32):.4g}")
