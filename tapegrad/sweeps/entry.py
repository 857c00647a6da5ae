"""What Python calls: a whole evaluation in one compiled call. Read as source, like the sweeps that it calls."""

from tapegrad.sweeps.forward import forward
from tapegrad.sweeps.marks import SCRATCH
from tapegrad.sweeps.reverse import reverse


def sweep(code, side, v, g, x, seed, steps):
    # Forward and reverse in one entry point, so that both are compiled once and a gradient is a single call.
    # Bit 0 of `steps`: copy x to the inputs and compute values. Bit 1: adjoints, from 1 in slot `seed` (none if
    # negative: the caller has set them). Returns the first instruction that failed, or -1.
    n = code.shape[0]
    if steps & 1:
        for i in range(x.shape[0]):
            v[i] = x[i]
        failed = forward(code, side, v, 0, n)
        if failed >= 0:
            return failed
    if steps & 2:
        if seed >= 0:
            g[: g.shape[0] - SCRATCH] = 0.0
            g[seed] = 1.0
        reverse(code, side, v, g, 0, n)
    return -1
