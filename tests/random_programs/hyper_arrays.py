"""NumPy's functions of whole arrays on numbers that carry their derivatives along."""

import numpy as np

from . import hyper
from .hyper import FUNCTIONS, REDUCE, WIDE, Hyper, multilinear

# Linear in all arrays of real numbers that they take.
LINEAR = {
    "sum", "mean", "reshape", "ravel", "transpose", "swapaxes", "moveaxis", "flip", "roll", "concatenate", "stack",
    "hstack", "vstack", "column_stack", "tile", "repeat", "take", "take_along_axis", "pad", "broadcast_to",
    "expand_dims", "squeeze",
    "cumsum", "diff", "diag", "diagonal", "triu", "tril", "trace", "split", "array_split", "atleast_1d", "atleast_2d",
}  # fmt: skip


def _part(x, k):
    if isinstance(x, Hyper):
        return x.parts[k]
    if isinstance(x, tuple | list):
        return type(x)(_part(y, k) for y in x)
    if k and isinstance(x, float | np.floating):
        return 0.0
    return np.zeros_like(x) if k and isinstance(x, np.ndarray) and x.dtype.kind == "f" else x


def linear(func, args, kwargs):
    found = [func(*_part(args, k), **{name: _part(x, k) for name, x in kwargs.items()}) for k in range(4)]
    return [Hyper(parts) for parts in zip(*found)] if isinstance(found[0], list) else Hyper(found)


def where(condition, x, y):
    return hyper.choose(condition, x, y)


def _flat(x, axis):
    return (np.ravel(x), 0) if axis is None or not x.ndim else (x, axis)


def _extreme(sign):
    def extreme(x, axis=None, keepdims=False):
        if isinstance(axis, tuple):
            for a in sorted((a % x.ndim for a in axis), reverse=True):
                x = extreme(x, a, keepdims)
            return x
        shape = tuple(1 for _ in x.shape) if keepdims and axis is None else None
        x, axis = _flat(x, axis)
        order = np.argmax(sign * x.parts[0], axis)
        order = np.expand_dims(order, axis)
        best = np.take_along_axis(x, order, axis)
        if hyper.world.noise == 0:
            same = np.stack([a == b for a, b in zip(best.parts, x.parts)]).all(0)
            hyper.world.near(np.where(same, np.inf, best.parts[0] - x.parts[0]))
        best = best if keepdims else np.squeeze(best, axis)
        return best if shape is None else best.reshape(shape)

    return extreme


def _scanned(x, axis):
    x, axis = _flat(x, axis)
    parts = [x[(slice(None),) * (axis % x.ndim) + (i,)] for i in range(x.shape[axis])]
    for i in range(1, len(parts)):
        parts[i] = parts[i - 1] * parts[i]
    return parts, axis


def prod(x, axis=None, keepdims=False):
    parts, _ = _scanned(x, axis)
    return np.expand_dims(parts[-1], axis) if keepdims and axis is not None else parts[-1]


def var(x, axis=None, keepdims=False, ddof=0):
    d = x - np.mean(x, axis=axis, keepdims=True)
    n = d.size // np.mean(d.parts[0], axis=axis).size
    return np.sum(d * d, axis=axis, keepdims=keepdims) / (n - ddof)


def std(x, axis=None, keepdims=False, ddof=0):
    return np.sqrt(var(x, axis, keepdims, ddof))


def norm(x, axis=None, keepdims=False):
    return np.sqrt(np.sum(x * x, axis=axis, keepdims=keepdims))


def _gaps(x, axis):
    """Note how near each other the numbers are that are put in order."""
    order = np.argsort(x.parts[0], axis)
    sorted_ = np.take_along_axis(x, order, axis)
    ahead = (slice(None),) * (axis % x.ndim)
    a, b = sorted_[(*ahead, slice(1, None))], sorted_[(*ahead, slice(None, -1))]
    if hyper.world.noise == 0:
        hyper.tied(a.parts, b.parts)
    return order, sorted_


def argsort(x, axis=-1):
    order, sorted_ = _gaps(x, axis)
    hyper.world.near(np.diff(sorted_.parts[0], axis=axis))
    return order


def _arg(sign):
    def arg(x, axis=None):
        y, at = _flat(x, axis)
        s = np.sort(sign * y.parts[0], at)
        hyper.world.near(np.diff(s, axis=at))
        return np.argmax(sign * x.parts[0], axis)

    return arg


def inverse(a):
    """The inverse of each matrix, refined in extended precision, and its derivatives: dX = -X dA X."""
    a0, aa, ab, ac = a.parts
    x = np.linalg.inv(a0.astype(float)).astype(WIDE)
    for _ in range(3):
        x = x @ (2 * np.eye(x.shape[-1], dtype=WIDE) - a0 @ x)
    return Hyper([x, -x @ aa @ x, -x @ ab @ x, x @ (aa @ x @ ab + ab @ x @ aa - ac) @ x])


def det(a):
    """Of each matrix, by elimination, without exchanging rows: for those whose leading minors are not small."""
    found = a[..., 0, 0]
    while a.shape[-1] > 1:
        a = a[..., 1:, 1:] - a[..., 1:, :1] / a[..., :1, :1] * a[..., :1, 1:]
        found = found * a[..., 0, 0]
    return found


for _f in LINEAR:
    FUNCTIONS[getattr(np, _f)] = lambda *args, _f=getattr(np, _f), **kwargs: linear(_f, args, kwargs)  # noqa: B008
FUNCTIONS |= {
    np.where: where, np.max: _extreme(1), np.min: _extreme(-1), np.prod: prod, np.var: var, np.std: std,
    np.clip: lambda x, low, high: np.minimum(np.maximum(x, low), high),
    np.linalg.norm: norm, np.sort: lambda x, axis=-1: _gaps(x, axis)[1], np.argsort: argsort,
    np.argmax: _arg(1), np.argmin: _arg(-1), np.linalg.inv: inverse, np.linalg.det: det,
    np.linalg.solve: lambda a, b: (inverse(a) if isinstance(a, Hyper) else np.linalg.inv(a)) @ b,
    np.ptp: lambda x: np.max(x) - np.min(x), np.average: lambda x, weights: np.sum(x * weights) / np.sum(weights),
    np.shape: lambda x: x.shape, np.size: lambda x: x.size, np.ndim: lambda x: x.ndim,
    np.zeros_like: lambda x: np.zeros(x.shape), np.ones_like: lambda x: np.ones(x.shape),
}  # fmt: skip
for _f in (np.dot, np.outer, np.inner, np.vdot):
    FUNCTIONS[_f] = lambda *operands, _f=_f: multilinear(_f, operands)
FUNCTIONS[np.tensordot] = lambda a, b, axes: multilinear(lambda x, y: np.tensordot(x, y, axes), [a, b])
FUNCTIONS[np.einsum] = lambda text, *operands: multilinear(lambda *xs: np.einsum(text, *xs), operands)
REDUCE |= {np.add: lambda x: np.sum(x, axis=0), np.multiply: lambda x: prod(x, 0), np.maximum: _extreme(1)}
