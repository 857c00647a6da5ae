"""Fill the cache of compiled code with what the tests of one dtype need: `python -m tests.warm float64`."""

import sys

import numpy as np

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.native.roll import rolled
from tapegrad.ops import TABLE, Elementwise, Structured
from tapegrad.sweeps import FORWARD, REVERSE, TANGENT, sweeps_for


def warm(dtype):
    sweeps = sweeps_for(dtype)
    # The kernels of `external` are Python functions, of which there is nothing to compile.
    rows = [row for row in TABLE if isinstance(row, Elementwise | Structured) and row.name != "external"]
    for kind in (FORWARD, REVERSE, TANGENT):
        sweeps.require([row.opcode for row in rows], kind)

    # What is compiled beside kernels: sweeps in many directions, the analysis of tapes, index sets, colours, repeats,
    # updates.
    x = np.linspace(0.5, 1.5, 3, dtype=dtype)
    f = tg.record(lambda x: sum(a * b for a, b in zip(x[1:], x[:-1])), x)
    for sparse in (False, True):
        f.hessian(x, sparse=sparse)
        tg.record(lambda x: np.exp(x) * x[::-1], x).jacobian(x, sparse=sparse)
    f.jacfwd(x), f.jacrev(x), f.jvp((x,), (x,))
    rolled(np.zeros(3), np.zeros((3, 1)))
    for method in (optim.SGD, optim.Adam):
        model = nn.MLP([2, 2], seed=0, dtype=dtype)
        nn.Training(model, method(model, 0.1), batch_size=2).epoch(np.ones((4, 2), dtype), np.zeros(4, int), rng=0)


if __name__ == "__main__":
    warm(np.dtype(sys.argv[1]))
