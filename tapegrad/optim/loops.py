"""The loops of the optimisers: one pass over the parameter vector each, compiled.

Every `*_update` has the same signature, so that a compiled training step can call any of them by its address:

    update(p, g, state, hyper, rate, step)

p: parameters (n,), changed in place; g: gradient (n,); state: (rows, n), what the optimiser remembers, of the dtype
of p; hyper: its constants, float64; rate: the learning rate; step: number of this update, from 1.

Constants are rounded to the dtype of p first: a float64 in the loop would halve its speed on float32.
"""

import math

import numpy as np

from tapegrad.compiled import Compiled, compiled

_UPDATE = {
    "p": "real[:]", "g": "real[:]", "state": "real[:, :]", "hyper": "float64[:]", "rate": "float64", "step": "int64",
}  # fmt: skip


def update_loop(function):
    """A function with the signature above, plain or Numba's, as a compiled update."""
    if isinstance(function, Compiled):
        return function
    return compiled(**_UPDATE)(getattr(function, "py_func", function))


@update_loop
def sgd_update(p, g, state, hyper, rate, step):
    real = p.dtype.type
    lr, mu, decay = real(rate), real(hyper[0]), real(hyper[1])
    nesterov = hyper[2] != 0.0
    if hyper[0] == 0.0:
        for i in range(p.shape[0]):
            p[i] -= lr * (g[i] + decay * p[i])
        return
    b = state[0]
    for i in range(p.shape[0]):
        d = g[i] + decay * p[i]
        b[i] = mu * b[i] + d
        p[i] -= lr * (d + mu * b[i] if nesterov else b[i])


@update_loop
def adam_update(p, g, state, hyper, rate, step):
    # The corrections for the bias of the moments are the same for all parameters: two numbers outside the loop.
    real = p.dtype.type
    one = real(1.0)
    beta1, beta2, eps = real(hyper[0]), real(hyper[1]), real(hyper[2])
    coupled = real(hyper[3])
    keep = one - real(rate * hyper[4])
    scale = real(rate / (1.0 - hyper[0] ** step))
    root = real(1.0 / math.sqrt(1.0 - hyper[1] ** step))
    m, s = state[0], state[1]
    for i in range(p.shape[0]):
        d = g[i] + coupled * p[i]
        m[i] = beta1 * m[i] + (one - beta1) * d
        s[i] = beta2 * s[i] + (one - beta2) * d * d
        p[i] = keep * p[i] - scale * m[i] / (np.sqrt(s[i]) * root + eps)


# What a compiled step does to the gradient before the update; `clipping` does the same by NumPy.


def global_norm(g):
    # In float64 whatever the dtype: squares of float32 gradients underflow below 1e-23.
    total = 0.0
    for i in range(g.shape[0]):
        total += np.float64(g[i]) * np.float64(g[i])
    return math.sqrt(total)


def scale_to_norm(g, norm, limit):
    # Where the norm is NaN or infinite, nothing is scaled: the gradient would silently become zeros or NaN.
    if norm > limit and norm < np.inf:
        factor = g.dtype.type(limit / norm)
        for i in range(g.shape[0]):
            g[i] *= factor


def clip_values(g, limit):
    low, high = g.dtype.type(-limit), g.dtype.type(limit)
    for i in range(g.shape[0]):
        if g[i] > high:
            g[i] = high
        elif g[i] < low:
            g[i] = low
