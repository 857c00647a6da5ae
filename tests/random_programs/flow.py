"""Loops and conditions as plain Python: what `tg.cond` and the others must agree with."""

import numpy as np


def _same(a, b):
    if isinstance(a, tuple):
        return all(map(_same, a, b))
    return np.shape(a) == np.shape(b)


def _next(state, following):
    if not _same(state, following):
        raise ValueError("a state keeps its shape")
    return following


def cond(pred, true_fun, false_fun, *operands):
    a, b = true_fun(*operands), false_fun(*operands)
    _next(a, b)
    return a if pred else b


def fori_loop(lower, upper, body_fun, init):
    for i in range(lower, upper):
        init = _next(init, body_fun(i, init))
    return init


def while_loop(cond_fun, body_fun, init):
    while cond_fun(init):
        init = _next(init, body_fun(init))
    return init


def scan(f, init, xs, stack=np.stack):
    ys = []
    for x in xs:
        following, y = f(init, x)
        init = _next(init, following)
        ys.append(y)
    return init, stack(ys)


FUNCTIONS = {"cond": cond, "fori_loop": fori_loop, "while_loop": while_loop, "scan": scan}
