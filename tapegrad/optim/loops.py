"""The loops of the optimisers: one pass over the parameter vector each, compiled.

Every `*_update` has the same signature, so that a compiled training step can call any of them by its address:

    update(p, g, state, hyper, rate, step)

p: parameters (n,), changed in place; g: gradient (n,); state: (rows, n), what the optimiser remembers, of the dtype
of p; hyper: its constants, float64; rate: the learning rate; step: number of this update, from 1.

Constants are rounded to the dtype of p first: a float64 in the loop would halve its speed on float32.

Subnormal numbers are zero in these loops, in float64 too: the moments of a weight without gradient shrink by the same
factor at every step until they are subnormal, do not shrink any more then (nine tenths of the smallest numbers round to
themselves), and arithmetic on them takes many times as long.
"""

import math

import numpy as np

from tapegrad.compiled.callable import Compiled, Kind, compiled
from tapegrad.compiled.frames import call_frame, float_bits

_UPDATE = {
    "p": "real[:]", "g": "real[:]", "state": "real[:, :]", "hyper": "float64[:]", "rate": "float64", "step": "int64",
}  # fmt: skip


def update_loop(function):
    """A function with the signature above, plain or Numba's, as a compiled update."""
    if isinstance(function, Compiled):
        return function
    plain = getattr(function, "py_func", function)
    return Compiled(plain, [Kind(text) for text in _UPDATE.values()], flush=True)


@update_loop
def sgd_update(p, g, state, hyper, rate, step):
    real = p.dtype.type
    lr, mu, decay, sign = real(rate), real(hyper[0]), real(hyper[1]), real(1.0 - 2.0 * hyper[4])
    nesterov = hyper[2] != 0.0
    if hyper[0] == 0.0:
        for i in range(p.shape[0]):
            p[i] -= lr * (sign * g[i] + decay * p[i])
        return
    # The first gradient is the momentum at first, undamped.
    fresh = real(1.0 - hyper[3]) if step > 1 else real(1.0)
    b = state[0]
    for i in range(p.shape[0]):
        d = sign * g[i] + decay * p[i]
        b[i] = mu * b[i] + fresh * d
        p[i] -= lr * (d + mu * b[i] if nesterov else b[i])


@update_loop
def adam_update(p, g, state, hyper, rate, step):
    # The corrections for the bias of the moments are the same for all parameters: two numbers outside the loop.
    real = p.dtype.type
    beta1, beta2, eps = real(hyper[0]), real(hyper[1]), real(hyper[2])
    # Not 1 - beta2, which is wrong in the fifth digit where beta2 is float32.
    rest1, rest2 = real(1.0 - hyper[0]), real(1.0 - hyper[1])
    coupled, sign = real(hyper[3]), real(1.0 - 2.0 * hyper[6])
    keep = real(1.0 - rate * hyper[4])
    scale = real(rate / (1.0 - hyper[0] ** step))
    root = real(1.0 / math.sqrt(1.0 - hyper[1] ** step))
    m, s = state[0], state[1]
    if hyper[5] != 0.0:
        largest = state[2]
        for i in range(p.shape[0]):
            d = sign * g[i] + coupled * p[i]
            m[i] = beta1 * m[i] + rest1 * d
            s[i] = beta2 * s[i] + rest2 * d * d
            # Not `max`: a NaN stays one.
            largest[i] = largest[i] if largest[i] >= s[i] else s[i]
            p[i] = keep * p[i] - scale * m[i] / (np.sqrt(largest[i]) * root + eps)
        return
    for i in range(p.shape[0]):
        d = sign * g[i] + coupled * p[i]
        m[i] = beta1 * m[i] + rest1 * d
        s[i] = beta2 * s[i] + rest2 * d * d
        p[i] = keep * p[i] - scale * m[i] / (np.sqrt(s[i]) * root + eps)


@update_loop
def rmsprop_update(p, g, state, hyper, rate, step):
    real = p.dtype.type
    lr, alpha, eps = real(rate), real(hyper[0]), real(hyper[1])
    rest = real(1.0 - hyper[0])
    decay, mu, sign = real(hyper[2]), real(hyper[3]), real(1.0 - 2.0 * hyper[5])
    s = state[0]
    if hyper[3] == 0.0 and hyper[4] == 0.0:
        for i in range(p.shape[0]):
            d = sign * g[i] + decay * p[i]
            s[i] = alpha * s[i] + rest * d * d
            p[i] -= lr * d / (np.sqrt(s[i]) + eps)
        return
    # Without the one or the other its row may not be there; it is not touched then.
    b = state[1] if hyper[3] != 0.0 else s
    mean = state[2] if hyper[4] != 0.0 else s
    for i in range(p.shape[0]):
        d = sign * g[i] + decay * p[i]
        s[i] = alpha * s[i] + rest * d * d
        spread = s[i]
        if hyper[4] != 0.0:
            mean[i] = alpha * mean[i] + rest * d
            spread -= mean[i] * mean[i]
        d /= np.sqrt(spread) + eps
        if hyper[3] != 0.0:
            b[i] = mu * b[i] + d
            d = b[i]
        p[i] -= lr * d


@update_loop
def adagrad_update(p, g, state, hyper, rate, step):
    real = p.dtype.type
    lr, eps, decay = real(rate / (1.0 + (step - 1) * hyper[0])), real(hyper[1]), real(hyper[2])
    sign = real(1.0 - 2.0 * hyper[4])
    s = state[0]
    first = real(hyper[3]) if step == 1 else real(0.0)
    for i in range(p.shape[0]):
        d = sign * g[i] + decay * p[i]
        s[i] += first + d * d
        p[i] -= lr * d / (np.sqrt(s[i]) + eps)


@update_loop
def adadelta_update(p, g, state, hyper, rate, step):
    real = p.dtype.type
    rest = real(1.0 - hyper[0])
    lr, rho, eps, decay = real(rate), real(hyper[0]), real(hyper[1]), real(hyper[2])
    sign = real(1.0 - 2.0 * hyper[3])
    s, moved = state[0], state[1]
    for i in range(p.shape[0]):
        d = sign * g[i] + decay * p[i]
        s[i] = rho * s[i] + rest * d * d
        d *= np.sqrt(moved[i] + eps) / np.sqrt(s[i] + eps)
        moved[i] = rho * moved[i] + rest * d * d
        p[i] -= lr * d


@update_loop
def lion_update(p, g, state, hyper, rate, step):
    real = p.dtype.type
    rest1, rest2 = real(1.0 - hyper[0]), real(1.0 - hyper[1])
    lr, beta1, beta2, sign = real(rate), real(hyper[0]), real(hyper[1]), real(1.0 - 2.0 * hyper[3])
    keep = real(1.0 - rate * hyper[2])
    m = state[0]
    for i in range(p.shape[0]):
        d = sign * g[i]
        p[i] = keep * p[i] - lr * np.sign(beta1 * m[i] + rest1 * d)
        m[i] = beta2 * m[i] + rest2 * d


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


def update_runs(kernels, words, rates, step):
    # The update of each run of parameters that belong together. The last words of a frame are the rate and the step.
    for run in range(words.shape[0]):
        words[run, words.shape[1] - 2] = float_bits(rates[run])
        words[run, words.shape[1] - 1] = step
        call_frame(kernels[run], words[run])


# What a compiled training does after each batch. Places in its tally: where the loss stands, the samples of this
# batch, of how many batches an update takes the mean gradient, the number of the last batch, whether to stop at a loss
# that is not finite, and at which batch there was one (-1 for none); how many batches and samples the gradient is of so
# far, how many updates were made in this pass, and before it.
LOSS, BATCH, EVERY, LAST, WATCH, FAULT, SEEN, SAMPLES, UPDATES, BEFORE = range(10)
# Limits of the gradient; 0 for none.
CLIP_NORM, CLIP_VALUE = range(2)


@compiled(
    kernels="int64[:]", words="int64[:, :]", rates="float64[:, :]", values="real[:]", g="real[:]", total="real[:]",
    limits="float64[:]", losses="float64[:]", tally="int64[:]", rate="float64", step="int64",
)  # fmt: skip
def finish_batch(kernels, words, rates, values, g, total, limits, losses, tally, rate, step):
    # Is called as an update: `step` is the number of the batch in this pass, from 1, and `rate` says nothing.
    batch = step - 1
    losses[batch] = values[tally[LOSS]]
    if tally[FAULT] >= 0:
        return
    if tally[WATCH] and losses[batch] - losses[batch] != 0.0:
        tally[FAULT] = batch
        return
    if tally[EVERY] > 1:
        if tally[SEEN] == 0:
            total[:] = 0.0
        add_times(total, g, tally[BATCH])
        tally[SEEN] += 1
        tally[SAMPLES] += tally[BATCH]
        if tally[SEEN] < tally[EVERY] and batch < tally[LAST]:
            return
        divide_into(g, total, tally[SAMPLES])
        tally[SEEN] = tally[SAMPLES] = 0
        if limits[CLIP_VALUE] > 0.0:
            clip_values(g, limits[CLIP_VALUE])
        if limits[CLIP_NORM] > 0.0:
            scale_to_norm(g, global_norm(g), limits[CLIP_NORM])
    number = tally[UPDATES]
    update_runs(kernels, words, rates[number], tally[BEFORE] + number + 1)
    tally[UPDATES] = number + 1


def add_times(total, g, times):
    factor = g.dtype.type(times)
    for i in range(g.shape[0]):
        total[i] += factor * g[i]


def divide_into(g, total, by):
    divisor = g.dtype.type(by)
    for i in range(g.shape[0]):
        g[i] = total[i] / divisor
