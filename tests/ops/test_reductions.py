"""Reductions over every choice of axes, in all three sweeps, against NumPy and against loops over lines.

Sums, products and largest elements are of small whole numbers, so that they are exact and compared for equality, and so
that zeros and ties are among them; see `tests.views`.
"""

import functools
import itertools
import math

import numpy as np
import pytest

import tapegrad as tg
from tests.views import random_shape, random_view, whole

dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def lines_of(x, axes):
    """The lines that a reduction over `axes` makes numbers of, as the rows of a matrix."""
    others = [axis for axis in range(x.ndim) if axis not in axes]
    count = math.prod(x.shape[axis] for axis in others)
    return x.transpose([*others, *axes]).reshape(count, math.prod(x.shape[axis] for axis in axes))


def spread(rows, x, axes):
    """The opposite of `lines_of`: an array of the shape of x."""
    others = [axis for axis in range(x.ndim) if axis not in axes]
    order = [*others, *axes]
    return rows.reshape([x.shape[axis] for axis in order]).transpose(np.argsort(order))


# For a line, the derivatives of the result with respect to its elements, by the definition.


def of_product(line):
    return [functools.reduce(lambda a, b: a * b, np.delete(line, i), 1.0) for i in range(len(line))]


def of_largest(line):
    return (line == line.max()) / (line == line.max()).sum()


DERIVATIVES = {
    np.sum: lambda line: np.ones(len(line)),
    np.prod: of_product,
    np.max: of_largest,
    np.min: lambda line: of_largest(-line),
    tg.logsumexp: lambda line: np.exp(line - line.max()) / np.exp(line - line.max()).sum(),
    np.linalg.norm: lambda line: line / (np.linalg.norm(line) or 1.0),
}
VALUES = {
    tg.logsumexp: lambda line: np.log(np.exp(line - line.max()).sum()) + line.max(),
    np.linalg.norm: np.linalg.norm,
}
EXACT = (np.sum, np.prod, np.max, np.min)


def check_reduction(rng, reduction, shape, axes, dtype, see=None):
    base, view = see or (shape, lambda x: x)
    x, t = whole(rng, base, dtype, 2), whole(rng, base, dtype, 2)
    keepdims = bool(rng.integers(2))
    lines = lines_of(view(x), axes)
    if reduction is np.prod and lines.shape[1] > 20:
        # So many factors of which most are neither 1 nor -1 would overflow.
        x = np.where(np.abs(x) == 2, -np.sign(x), x) + (rng.random(base) < 0.9) * (x == 0)
        x, lines = x.astype(dtype), lines_of(view(x.astype(dtype)), axes)
    axis = axes[0] if len(axes) == 1 and rng.integers(2) else axes
    recording = tg.record(lambda x: reduction(view(x), axis=axis, keepdims=keepdims), np.ones(base, dtype))

    results = np.array([VALUES.get(reduction, reduction)(line) for line in lines.astype(float)], float)
    slopes = np.array([DERIVATIVES[reduction](line) for line in lines.astype(float)]).reshape(lines.shape)
    expected = np.sum(view(x), axis=axes, keepdims=keepdims)
    w = whole(rng, expected.shape, dtype)
    back = np.zeros(x.size)
    places = view(np.arange(x.size).reshape(base))
    np.add.at(back, places, spread(slopes * w.reshape(-1, 1), places, axes))

    value, tangent = recording.jvp((x,), (t,))
    gradient = recording.vjp(x)[1](w)[0]
    eps = np.finfo(dtype).eps
    # The derivatives of all but sums have roundings of their own, and a sum of n numbers one for each number at most.
    terms = slopes * lines_of(view(t), axes)
    size = (16 * eps + terms.shape[1] * np.finfo(float).eps) * (1.0 + np.abs(terms).sum(1).max(initial=0.0))
    exact = reduction in EXACT
    for got, wanted, bound in (
        (value, results, 0.0 if exact else 8 * eps * (1.0 + np.abs(results).max(initial=0.0))),
        (tangent, terms.sum(1), 0.0 if reduction is np.sum else size),
        (gradient, back, 0.0 if reduction is np.sum else 32 * eps * (1.0 + np.abs(back).max(initial=0.0))),
    ):
        got = np.asarray(got)
        assert got.dtype == dtype or not got.shape
        np.testing.assert_allclose(got.reshape(-1), wanted.reshape(-1), rtol=0, atol=bound)
    assert np.shape(value) == expected.shape and np.asarray(gradient).shape == base


def choices_of_axes():
    for ndim in range(1, 6):
        for count in range(1, ndim + 1):
            yield from ((ndim, axes) for axes in itertools.combinations(range(ndim), count))


@dtypes
@pytest.mark.parametrize("reduction", DERIVATIVES, ids=lambda f: f.__name__)
def test_every_choice_of_axes(reduction, dtype):
    rng = np.random.default_rng([45, *reduction.__name__.encode()])
    for ndim, axes in choices_of_axes():
        if reduction is np.linalg.norm and len(axes) > 2:
            continue
        shape = random_shape(rng, ndim, 2500)
        if 0 in shape and reduction not in (np.sum, np.prod):
            shape = tuple(n or 2 for n in shape)
        check_reduction(rng, reduction, shape, axes, dtype)


@dtypes
@pytest.mark.parametrize("reduction", DERIVATIVES, ids=lambda f: f.__name__)
def test_views_of_every_kind(reduction, dtype):
    rng = np.random.default_rng([46, *reduction.__name__.encode()])
    for _ in range(25):
        ndim = int(rng.integers(1, 5))
        shape = tuple(n or 2 for n in random_shape(rng, ndim, 2500))
        count = int(rng.integers(1, min(ndim, 2) + 1))
        axes = tuple(sorted(int(axis) for axis in rng.choice(ndim, size=count, replace=False)))
        check_reduction(rng, reduction, shape, axes, dtype, random_view(rng, shape))


@dtypes
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 31, 32, 33, 127, 128, 129, 255, 256, 257, 1025])
def test_lines_of_every_length(n, dtype):
    # Sums have ways of their own for short lines, long ones, and many beside each other.
    rng = np.random.default_rng(n)
    for shape, axis in (((9, n), 1), ((n, 3), 0), ((n, 4), 0), ((n, 17), 0), ((2, n, 5), 1), ((n,), 0), ((n, 3), 1)):
        for reduction in (np.sum, np.max):
            check_reduction(rng, reduction, shape, (axis,), dtype)


@dtypes
@pytest.mark.parametrize("shape", [(70, 3), (3, 70), (2, 300), (5, 3, 4), (4, 200, 2)])
def test_not_a_number_and_infinities(shape, dtype):
    # As NumPy has it: what is not a number is the largest and the smallest, and the first of these is found.
    rng = np.random.default_rng(47)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0], dtype)
    for axis in range(len(shape)):
        for share in (0.02, 0.2, 1.0):
            x = np.where(rng.random(shape) < share, rng.choice(special, shape), whole(rng, shape, dtype))
            for reduction in (np.max, np.min, np.argmax, np.argmin, np.sum, np.prod):
                with np.errstate(all="ignore"):
                    expected = reduction(x, axis=axis)
                got = reduction(tg.Value(x), axis=axis)
                np.testing.assert_array_equal(np.asarray(got.data if isinstance(got, tg.Value) else got), expected)


@dtypes
def test_running_sums(dtype):
    rng = np.random.default_rng(48)
    for _ in range(25):
        shape = random_shape(rng, int(rng.integers(1, 5)), 2500)
        base, view = random_view(rng, shape)
        axis = int(rng.integers(len(shape)))
        x, t, w = whole(rng, base, dtype, 2), whole(rng, base, dtype, 2), whole(rng, shape, dtype, 2)
        recording = tg.record(lambda x: np.cumsum(view(x), axis=axis), np.ones(base, dtype))  # noqa: B023
        value, tangent = recording.jvp((x,), (t,))
        np.testing.assert_array_equal(value, np.cumsum(view(x), axis=axis))
        np.testing.assert_array_equal(tangent, np.cumsum(view(t), axis=axis))
        back = np.zeros(x.size)
        np.add.at(back, view(np.arange(x.size).reshape(base)), np.flip(np.cumsum(np.flip(w, axis), axis), axis))
        np.testing.assert_array_equal(recording.vjp(x)[1](w)[0].reshape(-1), back)


@dtypes
@pytest.mark.parametrize(
    ("shape", "axes"), [((40_000, 3), 0), ((3, 40_000), 1), ((2, 30_000, 3), 1), ((200, 2, 300), (0, 2))]
)
def test_long_sums_lose_nothing(shape, axes, dtype):
    # Positive numbers of every size: each sum is right to two roundings of the dtype.
    x = np.random.default_rng(49).lognormal(sigma=3.0, size=shape).astype(dtype)
    exact = [math.fsum(line) for line in lines_of(x, axes if isinstance(axes, tuple) else (axes,)).tolist()]
    for got in (np.sum(tg.Value(x), axis=axes).numpy(), tg.jvp(lambda x: np.sum(x, axis=axes), (x,), (x,))[1]):
        np.testing.assert_allclose(got.reshape(-1), exact, rtol=2 * np.finfo(dtype).eps)
