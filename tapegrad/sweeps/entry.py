"""The entry point that Python calls: values, adjoints or both in one compiled call.

It is read as source by `generate`, like the sweeps that it calls.
"""

from tapegrad.sweeps.forward import forward
from tapegrad.sweeps.reverse import reverse

# What a sweep is to do: compute values, and adjoints.
VALUES, ADJOINTS = 1, 2


def sweep(flat, side, flags, v, g, scratch, seed, tasks):
    # Forward and reverse in one entry point, so that both are compiled once and a gradient is a single call.
    # Adjoints start from 1 at place `seed`; if that is negative, the caller has set them. Returns the first
    # instruction that failed, or -1.
    if tasks & VALUES:
        failed = forward(flat, side, flags, v, scratch)
        if failed >= 0:
            return failed
    if tasks & ADJOINTS:
        if seed >= 0:
            g[:] = 0.0
            g[seed] = 1.0
        reverse(flat, side, flags, v, g, scratch)
    return -1
