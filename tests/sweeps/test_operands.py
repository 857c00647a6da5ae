"""Operands of every layout, in all three sweeps: what is copied to scratch and back, and what comes of it.

Numbers are small and whole, so results are compared for equality; see `tests.views`.
"""

import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.layout import Layout, dense_strides
from tapegrad.ops.record import ELEMENTWISE, STRIDED, record
from tapegrad.sweeps.marks import BLOCK, SCRATCH
from tapegrad.sweeps.operands import LONG, PERIOD, fetch, scatter
from tests.views import LENGTHS, random_shape, random_view, whole

dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


def layouts():
    """Shapes and strides, by how they are gone through: periods of one and of many, planes of one axis and of many,
    overlapping, backwards, not moving."""
    made = [((n, m), strides) for n, m in ((700, 3), (3, 700), (40, 33), (1025, 2)) for strides in (
        (1, 0), (0, 1), (1, n), (-1, n), (m, -1), (2 * m, 2), (1, 1), (0, 3))]  # fmt: skip
    made += [((5, 3, 4, 2), strides) for strides in ((24, 0, 2, 1), (1, 5, 0, 15), (0, 0, 1, 0), (0, 8, 2, 1))]
    made.append(((30, 31, 3), (3, 0, 1)))
    made.append(((3, 2, LONG), (LONG, 0, 1)))
    made.append(((3, PERIOD // 2, 2, 5), (0, 1, 0, 40)))
    made.append(((2000,), (-2,)))
    made.append(((1, 1, 1), (0, 5, 0)))
    rng = np.random.default_rng(40)
    for _ in range(40):
        shape = random_shape(rng, int(rng.integers(1, 6)))
        if 0 not in shape:
            made.append((shape, tuple(int(s) for s in rng.choice([0, 1, 2, 3, -1, 7], size=len(shape)))))
    return made


def pieces(rng, n):
    """Where blocks begin and how long they are: those of a sweep, and others that begin and end anywhere."""
    yield from ((start, min(BLOCK, n - start)) for start in range(0, n, BLOCK))
    for _ in range(3):
        start = int(rng.integers(n))
        yield start, int(rng.integers(1, min(BLOCK, n - start) + 1))


@pytest.mark.parametrize(("shape", "strides"), layouts(), ids=str)
def test_a_block_is_fetched_and_scattered_wherever_it_begins(shape, strides):
    # Run as the Python functions that they are; the compiled ones are below.
    rng = np.random.default_rng(41)
    layout, n = Layout(shape, strides), math.prod(shape)
    low, high = layout.reach
    first = 5 - low
    side = np.array([9, *record(ELEMENTWISE, 0, n, [(0, 0, 1), (first, low, high)],
                                [len(shape), *shape, STRIDED, *[0] * len(shape), STRIDED, *strides])])  # fmt: skip
    v = rng.integers(100, size=first + high + 5).astype(float)
    places = first + layout.offsets()
    for start, m in pieces(rng, n):
        scratch = np.full(SCRATCH, -1.0)
        fetch(side, 1, 1, v, scratch, start, m)
        expected = np.full(SCRATCH, -1.0)
        expected[BLOCK : BLOCK + m] = v[places[start : start + m]]
        np.testing.assert_array_equal(scratch, expected)
        scratch[4 * BLOCK : 4 * BLOCK + m] = rng.integers(100, size=m)
        g, sums = v.copy(), v.copy()
        scatter(side, 1, 1, g, scratch, start, m)
        np.add.at(sums, places[start : start + m], scratch[4 * BLOCK : 4 * BLOCK + m])
        np.testing.assert_array_equal(g, sums)


def check_product(rng, shape, dtype, eager):
    """A product of two views, in all three sweeps, against NumPy and index arrays."""
    (base, view), (other_base, other_view) = random_view(rng, shape), random_view(rng, shape)
    x, y, w = whole(rng, base, dtype), whole(rng, other_base, dtype), whole(rng, shape, dtype)
    tx, ty = whole(rng, base, dtype), whole(rng, other_base, dtype)

    def f(x, y):
        return view(x) * other_view(y)

    # Recorded at other numbers than it is replayed at.
    product = f if eager else tg.record(f, np.ones(base, dtype), np.ones(other_base, dtype))
    if eager:
        a, b = tg.Value(x), tg.Value(y)
        z = f(a, b)
        np.sum(z * w).backward()
        value, (gx, gy) = z.numpy(), (a.grad, b.grad)
        _, tangent = tg.jvp(f, (x, y), (tx, ty))
    else:
        value, tangent = product.jvp((x, y), (tx, ty))
        np.testing.assert_array_equal(product(x, y), value)
        gx, gy = product.vjp(x, y)[1](w)
    np.testing.assert_array_equal(value, f(x, y))
    np.testing.assert_array_equal(tangent, f(tx, y) + f(x, ty))
    for got, of, see, factor in ((gx, x, view, other_view(y)), (gy, y, other_view, view(x))):
        expected = np.zeros(of.size, dtype)
        np.add.at(expected, see(np.arange(of.size).reshape(of.shape)), w * factor)
        np.testing.assert_array_equal(np.asarray(got), expected.reshape(of.shape))
        assert np.asarray(got).dtype == dtype


@dtypes
@pytest.mark.parametrize("seed", range(60))
def test_views_in_all_sweeps(seed, dtype):
    rng = np.random.default_rng([seed, 42])
    check_product(rng, random_shape(rng, int(rng.integers(1, 6))), dtype, eager=seed % 4 == 0)


@dtypes
@pytest.mark.parametrize("n", [*LENGTHS, 0])
@pytest.mark.parametrize("m", [1, 2, 3, 7])
def test_matrices_in_all_sweeps(n, m, dtype):
    rng = np.random.default_rng([n, m])
    for shape in ((n, m), (m, n), (n, 2, m)):
        check_product(rng, shape, dtype, eager=False)


@dtypes
def test_windows_that_overlap(dtype):
    # Each element of x is in up to five windows.
    rng = np.random.default_rng(43)
    x, w = whole(rng, 3000, dtype), whole(rng, (2996, 5), dtype)

    places = np.arange(2996)[:, None] + np.arange(5)
    value, pullback = tg.vjp(lambda x: np.stack([x[i : 2996 + i] * 2.0 for i in range(5)], 1) * w, x)
    np.testing.assert_array_equal(value, 2.0 * x[places] * w)
    expected = np.zeros(3000, dtype)
    np.add.at(expected, places, 2.0 * w * w)
    np.testing.assert_array_equal(pullback(w)[0], expected)


@dtypes
def test_a_sum_back_along_a_broadcast_axis_is_the_same_at_every_call(dtype):
    # Which numbers are added first depends on the shape alone.
    rng = np.random.default_rng(44)
    b, x = rng.normal(size=3).astype(dtype), rng.normal(size=(5000, 3)).astype(dtype)
    recording = tg.record(lambda b, x: np.sum(b * x), b, x)
    first = recording.grad(b, x)
    for _ in range(3):
        np.testing.assert_array_equal(recording.grad(b, x), first)
    exact = [math.fsum(column) for column in x.T.tolist()]
    np.testing.assert_allclose(first, exact, rtol=0, atol=np.finfo(dtype).eps * np.abs(x).sum(0).min())


def test_strides_of_a_column_of_zero_length():
    assert dense_strides((3, 0)) == (0, 1)
    out = tg.record(lambda x: x[:, None] * np.ones((4, 0)), np.ones(4))(np.ones(4))
    assert out.shape == (4, 0)
