"""The forward sweep: compute every value, first instruction to last.

Read as source: `generate` puts a branch for each inlined operation of the table in place of the SWITCH.
"""

import numpy as np

from tapegrad.ops import RUN
from tapegrad.ops.record import COLUMNS, INSIDE, LAST, A, group_flag, is_structured, result_at, result_size
from tapegrad.sweeps.kernels import FORWARD, at, call_run, call_runs, call_structured
from tapegrad.sweeps.marks import BLOCK, EXPECT, EXTERNAL, LEAF, SWITCH
from tapegrad.sweeps.operands import block, group_end


def forward(flat, side, flags, v, scratch):
    # `failed` is the number of the first guard that does not hold, or of the first instruction that refuses its
    # operands; -1 if there is none. The loop goes on to its end all the same: with a way to leave it, the whole loop
    # is slower (measured: 6.3 ns an operation against 2.7).
    failed = -1
    # The instructions are one row of numbers, with unsigned indices: no wraparound to check, no stride to multiply by
    # (a quarter faster).
    one, two, three, four = np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)
    for i in range(flat.shape[0] // COLUMNS):
        j = np.uint64(COLUMNS * i)
        op, o, a, b, c = flat[j], flat[j + one], flat[j + two], flat[j + three], flat[j + four]
        if SWITCH("forward"):
            pass
        elif op == EXPECT:
            if failed < 0 and not same(v[a], v[b]):
                failed = i
        elif op >= RUN:
            # After a guard has failed, the numbers are of no use, so Python functions are not called with them.
            carry_out = failed < 0 or op != EXTERNAL
            if carry_out and not call_runs(FORWARD, flat, i, side, flags, v, v, scratch) and failed < 0:
                failed = i
        elif op != LEAF and not forward_one(op, o, a, b, c, v) and failed < 0:
            failed = i
    return failed


def same(x, y):
    # Two NaNs count as the same number, so that they do not fail a guard. 0.0 and -0.0 count as different numbers.
    return (x == y and (x != 0.0 or 1.0 / x == 1.0 / y)) or (x != x and y != y)


def forward_one(op, o, a, b, c, v):
    # A scalar operation without a branch of its own is computed by its kernel, on one element.
    x, y, w, z = at(v, np.int64(a)), at(v, np.int64(b)), at(v, np.int64(c)), at(v, np.int64(o))
    return call_run(3 * np.int64(op), 1, z, x, y, w, z, x, y, w)


def forward_run(flat, i, side, flags, v, d, scratch):
    # Computes an instruction over many elements; if a group begins with it, the whole group (see `analysis.group`).
    op, k = np.int64(flat[COLUMNS * i]) - RUN, np.int64(flat[COLUMNS * i + A])
    if is_structured(side, k):
        return call_structured(3 * op, side, k, flags, v, v)
    # An elementwise run is computed a block at a time. Operands that are not dense are first copied to scratch, so that
    # one contiguous loop an operation serves every layout. Of a group, a block of every run is computed before the next
    # block. When the sweep comes to the other runs of the group, they are done already.
    if flags[group_flag(k)] in (INSIDE, LAST):
        return True
    n, end = result_size(side, k), group_end(flat, flags, i)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        for r in range(i, end):
            op, k = np.int64(flat[COLUMNS * r]) - RUN, np.int64(flat[COLUMNS * r + A])
            if not forward_block(op, side, k, v, scratch, start, m):
                return False
    return True


def forward_block(op, side, k, v, scratch, start, m):
    operand = k - k  # not a literal 0: Numba would compile `block` once for each literal
    z = at(v, result_at(side, k) + start)
    x = block(side, k, operand, v, scratch, start, m)
    y = block(side, k, operand + 1, v, scratch, start, m)
    w = block(side, k, operand + 2, v, scratch, start, m)
    return call_run(3 * op, m, z, x, y, w, z, x, y, w)
