"""Sparse Jacobians and Hessians of random programs, of several arguments, across branches; what patterns are like.

`test_sparse_matrices` has the operations one by one; here they are composed.
"""

import gc
import threading
import tracemalloc
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

import tapegrad as tg
from tapegrad.errors import IntegerInputError, NonScalarError, RecordingWarning, ShapeError, UnsupportedError

N = 8


# Random programs: steps that take one or two earlier results.


def _gather(a, b, rng):
    return a[rng.integers(0, len(a), rng.integers(1, 10))]


def _slice(a, b, rng):
    return a[:: int(rng.choice([1, 2, -1]))][int(rng.integers(0, max(len(a) // 2, 1))) :]


def _product(a, b, rng):
    m = min(len(a), len(b))
    return a[:m] * b[len(b) - m :]


def _where(a, b, rng):
    m = min(len(a), len(b))
    return np.where(a[:m] > 0.1, 2.0 * a[:m], b[:m])


def _matrix(a, b, rng):
    return (rng.normal(size=(4, len(a))) * (rng.random((4, len(a))) > 0.5)) @ a


def _scalars(a, b, rng):
    return tg.stack([a[i] * a[(3 * i + 1) % len(a)] for i in range(min(len(a), 5))])


def _interleaved(a, b, rng):
    m = min(len(a), len(b), 7)
    return np.stack([a[:m], b[:m]], 1).reshape(-1)


def _blocks(a, b, rng):
    return np.matmul(np.outer(a[:2], b[:2]), np.outer(b[-2:], np.ones(2))).T.reshape(-1)


STEPS = [
    _gather, _slice, _product, _where, _matrix, _scalars, _interleaved, _blocks,
    lambda a, b, rng: np.take(a, rng.permutation(len(a))),
    lambda a, b, rng: np.concatenate([a, b, np.ones(2)])[:14],
    lambda a, b, rng: a * np.roll(a, 1) + 1.0,
    lambda a, b, rng: np.outer(a[:3], b[:3]).T.reshape(-1),
    lambda a, b, rng: np.cumsum(a),
    lambda a, b, rng: np.sum(a * a) * b,
    lambda a, b, rng: np.sort(a),
    lambda a, b, rng: np.maximum(a, 0.2) * b[0],
    lambda a, b, rng: np.sin(a),
    lambda a, b, rng: np.concatenate([np.sum(a[: len(a) // 2 + 1], keepdims=True), a[len(a) // 2 :] ** 2]),
    lambda a, b, rng: tg.stop_gradient(a) * b[0],
    lambda a, b, rng: tg.cond(a[0] > 0, lambda: a * b[0], lambda: a * b[-1]),
    lambda a, b, rng: tg.scan(lambda c, z: (c * 0.5 + z, c * z), b[0], a)[1],
]  # fmt: skip


def random_program(seed):
    rng = np.random.default_rng(seed)
    steps = [(STEPS[rng.integers(len(STEPS))], rng.integers(1 << 30)) for _ in range(rng.integers(3, 8))]
    rows = int(rng.integers(1, 12))

    def f(x):
        pool = [x]
        for step, number in steps:
            own = np.random.default_rng(number)
            a, b = pool[own.integers(len(pool))], pool[own.integers(len(pool))]
            pool.append(step(a, b, own))
        return np.concatenate(pool[-2:])[:rows]

    return f, rng


@pytest.mark.parametrize("first", range(0, 160, 20))
def test_random_programs(first):
    modes = set()
    for seed in range(first, first + 20):
        f, rng = random_program(seed)
        # At zero, products and their derivatives vanish.
        r = tg.record(f, np.zeros(N) if seed % 2 else rng.normal(size=N))
        h = tg.record(lambda x, f=f: np.sum(np.sin(f(x)) * np.arange(1.0, 1.0 + len(f(x)))), np.zeros(N))
        for x in rng.normal(size=(2, N)):
            dense = r.jacobian(x)
            tolerance = 1e-12 * (1.0 + np.abs(dense).max())
            np.testing.assert_allclose(r.jacobian(x, sparse=True).toarray(), dense, rtol=1e-9, atol=tolerance)
            dense = h.hessian(x)
            tolerance = 1e-10 * (1.0 + np.abs(dense).max())
            np.testing.assert_allclose(h.hessian(x, sparse=True).toarray(), dense, rtol=1e-8, atol=tolerance)
        modes.add(r.sparsity().mode)
    assert modes == {"forward", "reverse"}


# Several arguments.


def residual(p, s, y):
    return np.outer(p["a"], y) * s, {"k": p["b"][0] ** 2 * p["a"][0]}


def total(p, s, y):
    return np.sum(residual(p, s, y)[0] ** 3) + np.sum(residual(p, s, y)[1]["k"] ** 2) + s * s * y[0]


POINT = {"a": np.array([0.5, -1.5]), "b": [np.array([1.0, 2.0, -0.5])]}, 1.5, np.array([-0.3, 0.8])
COLUMNS = {0: range(0, 5), 1: range(5, 6), 2: range(6, 8)}


def flat(p, s, y):
    return np.concatenate([p["a"], p["b"][0], [s], y])


def nested(v):
    return {"a": v[:2], "b": [v[2:5]]}, float(v[5]), v[6:]


def by_differences(f, h=1e-6):
    v = flat(*POINT)
    return np.stack([(f(*nested(v + h * e)) - f(*nested(v - h * e))) / (2 * h) for e in np.eye(8)], 1)


@pytest.mark.parametrize("argnums", [0, 1, 2, -1, (0, 1, 2), (1, 2), (2, 0), (2, 1, 0), (-1, 0)])
def test_columns_in_the_order_of_argnums(argnums):
    columns = [c for n in np.atleast_1d(argnums) for c in COLUMNS[n % 3]]
    f = lambda *args: np.concatenate([residual(*args)[0].reshape(-1), residual(*args)[1]["k"]])
    jacobian = tg.jacobian(residual, argnums, sparse=True)(*POINT)
    np.testing.assert_allclose(jacobian.toarray(), by_differences(f)[:, columns], rtol=1e-7, atol=1e-8)
    gradient = tg.grad(total, (0, 1, 2))
    hessian = tg.hessian(total, argnums, sparse=True)(*POINT).toarray()
    expected = by_differences(lambda *args: flat(*gradient(*args)))[np.ix_(columns, columns)]
    np.testing.assert_allclose(hessian, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(hessian, hessian.T, rtol=1e-13, atol=1e-14)


def test_argnums_may_be_a_list():
    r = tg.record(lambda x, y: np.sum(x**2 * y), np.ones(3), np.ones(3))
    assert r.jacobian(np.ones(3), np.ones(3), argnums=[0, 1], sparse=True).shape == (1, 6)
    assert r.hessian(np.ones(3), np.ones(3), argnums=[0, 1], sparse=True).shape == (6, 6)
    assert r.sparsity(argnums=[0, 1]).pattern.shape == (1, 6)
    assert r.sparsity(argnums=[0, 1], hessian=True).pattern.shape == (6, 6)


# Indices, masks and branches that change between calls.


def test_hessians_by_index_arguments(rng):
    f = lambda x, i, j: np.sum(x[i] ** 2 * x[j]) + np.sum(np.take(x, i) ** 3)
    r = tg.record(f, np.zeros(6), np.array([1, 2, 3]), np.array([0, 0, 0]))
    for _ in range(6):
        x, i, j = rng.normal(size=6), rng.integers(0, 6, 3), rng.integers(0, 6, 3)
        np.testing.assert_allclose(r.hessian(x, i, j, sparse=True).toarray(), r.hessian(x, i, j), rtol=1e-13)
        np.testing.assert_allclose(r.jacobian(x, i, j, sparse=True).toarray()[0], r.jacobian(x, i, j), rtol=1e-13)


def test_masks_among_the_arguments():
    for f in (lambda x, m: x[m] ** 2, lambda x, m: np.where(m, x**2, x[::-1]), lambda x, m: x * m):
        r = tg.record(f, np.ones(4), np.array([True, False, True, False]))
        for m in ([False, True, False, True], [True] * 4, [False] * 4, [True, True, False, False]):
            x = np.arange(1.0, 5.0)
            np.testing.assert_array_equal(r.jacobian(x, np.array(m), sparse=True).toarray(), r.jacobian(x, np.array(m)))


def test_shapes_and_patterns_follow_the_branch(rng):
    def f(x):
        y = x[x > 0] ** 2
        return y * y[0] if len(y) > 2 else np.concatenate([y, x[:2] * x[2:4]])

    r, h = tg.record(f, np.ones(5)), tg.record(lambda x: np.sum(f(x) ** 2), np.ones(5))
    for x in rng.normal(size=(20, 5)):
        dense = r.jacobian(x)
        np.testing.assert_allclose(r.jacobian(x, sparse=True).toarray(), dense, rtol=1e-13)
        assert r.sparsity(x).pattern.shape == dense.shape
        np.testing.assert_allclose(h.hessian(x, sparse=True).toarray(), h.hessian(x), rtol=1e-12)


@pytest.mark.parametrize("what", ["indices", "branches"])
def test_patterns_do_not_pile_up(what, rng):
    # As in training on batches: another index array, or another number read, at each call.
    if what == "indices":
        r = tg.record(lambda x, i: x[i] * 2.0, np.zeros(2000), np.arange(2000))
        call = lambda: r.jacobian(np.zeros(2000), rng.permutation(2000), sparse=True)
    else:
        r = tg.record(lambda x: x * x[0].item(), np.zeros(2000))
        call = lambda: r.jacobian(rng.normal(size=2000), sparse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RecordingWarning)
        tracemalloc.start()
        for _ in range(140):
            call()
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(40):
            call()
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
    assert grown < 5 * 2000 * 8


# Shapes at the edge, and what is refused.


def test_results_without_entries():
    for f, x, shape in (
        (lambda x: x * 2, np.zeros(0), (0, 0)),
        (lambda x: x[:0] * 2, np.zeros(3), (0, 3)),
        (lambda x: np.ones(2), np.zeros(3), (2, 3)),
        (lambda x: 5.0, np.zeros(3), (1, 3)),
        (lambda x: np.floor(x), np.ones(3), (3, 3)),
        (lambda x: (np.ones(2), {"a": [3.0]}), np.zeros((2, 2)), (3, 4)),
    ):
        found = tg.jacobian(f, sparse=True)(x)
        assert isinstance(found, sp.csr_array) and found.shape == shape and not found.toarray().any()
    for f in (lambda x: 3.0, lambda x: np.sum(2.0 * x), lambda x: np.sum(x.data)):
        assert tg.hessian(f, sparse=True)(np.ones(3)).nnz == 0
    assert tg.hessian(np.sum, sparse=True)(np.zeros(0)).shape == (0, 0)


def test_numbers_in_and_out():
    assert tg.jacobian(lambda x: x * x, sparse=True)(3.0).toarray().tolist() == [[6.0]]
    assert tg.hessian(lambda x: x * x, sparse=True)(3.0).toarray().tolist() == [[2.0]]
    found = tg.jacobian(lambda x: (x[0] * x[1], {"a": x[2:] ** 2, "b": 1.0}), sparse=True)(np.arange(4.0)).toarray()
    assert found.tolist() == [[1, 0, 0, 0], [0, 0, 4, 0], [0, 0, 0, 6], [0, 0, 0, 0]]


def test_float32_stays_float32():
    x = np.array([0.5, -1.0, 2.0], np.float32)
    for f in (lambda x: x[1:] * x[:-1], lambda x: np.sum(x**2, keepdims=True), lambda x: x[np.array([0, 0, 2])] ** 2):
        found = tg.jacobian(f, sparse=True)(x)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found.toarray(), tg.jacobian(f)(x))
    assert tg.hessian(lambda x: np.sum(x**3), sparse=True)(x).dtype == np.float32


def test_what_is_refused():
    with pytest.raises(IntegerInputError, match="int64"):
        tg.jacobian(lambda x: x * x, sparse=True)(np.arange(3))
    with pytest.raises(NonScalarError, match=r"\(3,\)"):
        tg.hessian(lambda x: x * x, sparse=True)(np.ones(3))
    for make in (tg.jacobian, tg.hessian):
        with pytest.raises(UnsupportedError, match="sparse.*dense"):
            tg.grad(lambda x, make=make: np.sum(make(lambda z: np.sum(z * z), sparse=True)(x)))(np.ones(3))
    with pytest.raises(IndexError, match="argument 2.*has 1"):
        tg.record(np.sin, 1.0).sparsity(argnums=2)
    with pytest.raises(ShapeError, match="arguments"):
        tg.record(np.sum, np.ones(3)).sparsity(hessian=True)


# Patterns: as small as they should be, inspected, drawn, and out of reach.


def block_rows(x):
    return np.sum(x.reshape(-1, 3), axis=1) ** 4


SIZES = {
    "tridiagonal": (lambda x: x[2:] - 2 * x[1:-1] ** 2 + x[:-2], False, 3 * 58, 3),
    "arrow": (lambda x: np.concatenate([x, np.sum(x * x, keepdims=True)]), False, 120, 2),
    "column": (lambda x: x[0] * x, False, 119, 2),
    "dense row": (lambda x: np.sum(x * x, keepdims=True), False, 60, 1),
    "blocks": (block_rows, False, 60, 1),
    "tridiagonal hessian": (lambda x: np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2), True, 3 * 60 - 2, 3),
    "arrow hessian": (lambda x: np.sum(x[0] * x[1:] ** 2), True, 59 * 3, 2),
    "block hessian": (lambda x: np.sum(block_rows(x)), True, 180, 3),
    "diagonal hessian": (lambda x: np.sum(np.exp(x) * x), True, 60, 1),
    "linear hessian": (lambda x: np.sum(x) * 3.0, True, 0, 0),
}


@pytest.mark.parametrize("name", SIZES)
def test_patterns_are_no_larger_than_they_must_be(name):
    f, hessian, entries, most = SIZES[name]
    r = tg.record(f, np.zeros(60))
    s = r.sparsity(np.ones(60), hessian=hessian)
    assert s.pattern.nnz == entries and s.pattern.dtype == bool and s.count <= most
    assert s.mode == ("symmetric" if hessian else s.mode) and s.mode in ("forward", "reverse", "symmetric")
    own = s.colors[s.colors >= 0]
    assert len(np.unique(own)) == s.count and f"{s.count} colours" in repr(s)
    if s.mode == "forward":
        # Columns of one colour share no row.
        for c in range(s.count):
            assert s.pattern[:, s.colors == c].astype(int).sum(axis=1).max() <= 1


def test_drawings():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for name in ("arrow", "blocks", "tridiagonal hessian", "linear hessian"):
        f, hessian, entries, _ = SIZES[name]
        s = tg.record(f, np.zeros(60)).sparsity(np.ones(60), hessian=hessian)
        own = plt.figure().gca()
        assert s.draw(own, size=2.0) is own and len(own.collections[0].get_offsets()) == entries
        own.figure.canvas.draw()
        plt.close("all")


def test_nobody_can_spoil_a_pattern():
    r = tg.record(lambda x: x[1:] * x[:-1], np.ones(5))
    x = np.arange(1.0, 6.0)
    expected = r.jacobian(x)
    mine = r.jacobian(x, sparse=True)
    mine.data[:], mine.indices[:], mine.indptr[:] = 7.0, 0, 0
    s = r.sparsity()
    for own in (s.pattern.indices, s.pattern.indptr, s.pattern.data, s.colors):
        try:
            own[:] = 0
        except ValueError:
            assert not own.flags.writeable
    found = r.jacobian(x, sparse=True)
    assert found.has_canonical_format
    np.testing.assert_array_equal(found.toarray(), expected)


def test_threads(rng):
    r = tg.record(lambda x: x[1:] * x[:-1] if x[0] > 0 else x[1:] ** 2, np.ones(50))
    h = tg.record(lambda x: np.sum(x[1:] * x[:-1] ** 2) if x[0] > 0 else np.sum(x**3), np.ones(50))
    points, failed = rng.normal(size=(20, 50)), []
    expected = [(r.jacobian(x), h.hessian(x)) for x in points]

    def work(seed):
        try:
            for i in np.random.default_rng(seed).permutation(20):
                np.testing.assert_allclose(r.jacobian(points[i], sparse=True).toarray(), expected[i][0], rtol=1e-13)
                np.testing.assert_allclose(h.hessian(points[i], sparse=True).toarray(), expected[i][1], rtol=1e-13)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
