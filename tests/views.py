"""Random arrays and views of them, for tests that every layout must pass.

All numbers are small and whole, so that sums and products of them are exact in any order and in either dtype, and what
must be equal can be held to be equal.
"""

import math

import numpy as np

LENGTHS = (1, 2, 3, 4, 7, 31, 32, 33, 63, 64, 65, 129, 1023, 1024, 1025, 2050)
MOST = 6000


def whole(rng, shape, dtype, most=3):
    return rng.integers(-most, most + 1, size=shape).astype(dtype)


def random_shape(rng, ndim, most=MOST):
    """Lengths that are short mostly; one may be long, and one in thirty shapes is of no elements."""
    shape = [int(n) for n in rng.choice(LENGTHS[:5], size=ndim)]
    if ndim and rng.random() < 0.9:
        axis = int(rng.integers(ndim))
        rest = math.prod(shape) // shape[axis]
        shape[axis] = int(rng.choice([n for n in LENGTHS if n * rest <= most] or [1]))
    if ndim and rng.random() < 1 / 30:
        shape[int(rng.integers(ndim))] = 0
    return tuple(shape)


def random_view(rng, shape):
    """The shape of an array, and a function that makes a view of the given shape of it: transposed, cut out with steps
    of either sign, broadcast. It does the same to NumPy's arrays and to Values."""
    order = [int(axis) for axis in rng.permutation(len(shape))] if rng.random() < 0.5 else list(range(len(shape)))
    kept = [n != 1 and rng.random() < 0.3 for n in shape]  # these axes are broadcast
    cuts, lengths = [], []
    for n, broadcast in zip(shape, kept):
        n, step, start = (1 if broadcast else n), int(rng.choice([1, 1, 1, 2, 3, -1, -1, -2])), int(rng.integers(3))
        if rng.random() < 0.5:
            step, start = 1, 0
        reach = start + abs(step) * max(n - 1, 0) + 1
        first = start if step > 0 else reach - 1
        stop = first + step * n if n else first
        cuts.append(slice(first, None if stop < 0 else stop, step))
        lengths.append(reach)
    # The base has the axes in another order.
    base = tuple(lengths[axis] for axis in order)
    back = [order.index(axis) for axis in range(len(shape))]

    def view(x):
        return np.broadcast_to(np.transpose(x, back)[tuple(cuts)], shape)

    return base, view
