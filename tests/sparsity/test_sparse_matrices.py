"""Sparse Jacobians and Hessians against dense ones, at points other than the one the pattern was found at."""

import numpy as np
import pytest
import scipy.sparse as sp

import tapegrad as tg
from tapegrad.errors import UnsupportedError

N = 12
ROWS = np.array([0, 3, 3, 7, 11, 0])
MATRIX = np.where(np.random.default_rng(3).uniform(size=(5, N)) < 0.3, 1.5, 0.0)


def loop(x):
    y = [x[0]]
    for i in range(1, N):
        y.append(np.tanh(y[-1]) if i % 4 else x[i] * x[i - 1])
    return tg.stack(y)


FUNCTIONS = {
    "elementwise": lambda x: np.sin(x) * x,
    "stencil": lambda x: x[1:-1] ** 2 - x[:-2] * x[2:],
    "steps": lambda x: x[::2] * np.exp(x[1::2]),
    "reversed": lambda x: x * x[::-1],
    "gathered": lambda x: x[ROWS] ** 2 * x[ROWS[::-1]],
    "gathered rows": lambda x: np.prod(x.reshape(4, 3)[[0, 2, 2, 3]], axis=1),
    "blocks": lambda x: np.matmul(x[:8].reshape(2, 2, 2), x[4:].reshape(2, 2, 2)),
    "constant matrix": lambda x: MATRIX @ (x * x),
    "sums": lambda x: np.sum(x.reshape(4, 3) ** 2, axis=1),
    "shared": lambda x: x[0] * x[1:] + x[-1],
    "running": lambda x: np.cumsum(x * x),
    "sorted": lambda x: np.sort(x) * np.arange(12.0),
    "largest": lambda x: np.max(x.reshape(4, 3), axis=1) * x[:4],
    "where": lambda x: np.where(x > 0.0, x * x, x[::-1]),
    "joined": lambda x: np.concatenate([x[3:], np.zeros(2), x[:3] ** 2]),
    "transposed": lambda x: (x.reshape(3, 4).T * x.reshape(4, 3)).reshape(-1),
    "softmax": lambda x: tg.softmax(x.reshape(4, 3), axis=1),
    "loop": loop,
    "constants": lambda x: np.stack([x[0], 2.0 * np.ones(()), x[1] * 0.0]),
    "one number": lambda x: x[2] * x[5],
    "the input itself": lambda x: x,
    "rows that repeat": lambda x: np.tile(x[:3] ** 2, 4),
    "logsumexp": lambda x: tg.logsumexp(x.reshape(6, 2), axis=0),
    "normalised": lambda x: x / np.linalg.norm(x),
    "detached": lambda x: tg.stop_gradient(x) * x[::-1],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sparse_jacobians_are_the_dense_ones(name, rng):
    f = FUNCTIONS[name]
    # Found at zero, where products and their derivatives vanish.
    r = tg.record(f, np.zeros(N))
    for x in [np.zeros(N), *rng.normal(size=(3, N))]:
        dense = r.jacobian(x)
        J = r.jacobian(x, sparse=True)
        assert isinstance(J, sp.csr_array)
        assert J.shape == (dense.size // N, N)
        np.testing.assert_allclose(J.toarray(), dense.reshape(-1, N), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_sparse_hessians_are_the_dense_ones(name, rng):
    w = rng.normal(size=200)
    f = lambda x: np.sum(np.reshape(FUNCTIONS[name](x), (-1,)) ** 2 * w[: np.size(FUNCTIONS[name](x))])
    r = tg.record(f, np.zeros(N))
    for x in rng.normal(size=(3, N)):
        dense = r.hessian(x)
        H = r.hessian(x, sparse=True)
        np.testing.assert_allclose(H.toarray(), dense, rtol=1e-10, atol=1e-12 * (1.0 + np.abs(dense).max()))


@pytest.mark.parametrize(
    ("name", "entries", "count"),
    [("elementwise", 12, 1), ("stencil", 30, 3), ("steps", 12, 2), ("sums", 12, 3), ("shared", 32, 3)],
)
def test_patterns_and_colours_are_small(name, entries, count):
    s = tg.record(FUNCTIONS[name], np.ones(N)).sparsity()
    assert s.count <= count
    assert s.pattern.nnz == entries
    assert repr(s).startswith("<Sparsity of")


def test_an_arrow_takes_two_colours():
    r = tg.record(lambda x: np.sum(x[0] * x[1:] ** 2), np.ones(1000))
    H = r.hessian(np.arange(1000.0), sparse=True)
    assert r.sparsity(hessian=True).count == 2
    assert H[0, 5] == 10.0 and H[7, 7] == 0.0 and H[5, 0] == 10.0


def test_copies_of_an_input_are_swept_apart():
    # Every residual reads one of three cameras; between inputs and outputs rows would collide by the hundred.
    rng = np.random.default_rng(0)
    of = rng.integers(0, 3, 300)
    f = lambda cameras, w: w * np.sin(cameras[of, 0] * cameras[of, 1]) + cameras[of, 2]
    cameras, w = rng.normal(size=(3, 3)), rng.normal(size=300)
    r = tg.record(f, cameras + 1.0, w)
    J = r.jacobian(cameras, w, argnums=(0, 1), sparse=True)
    s = r.sparsity(argnums=(0, 1))
    assert s.mode == "reverse" and s.count == 1
    dense = r.jacobian(cameras, w, argnums=(0, 1))
    expected = np.concatenate([dense[0].reshape(300, 9), dense[1]], axis=1)
    np.testing.assert_allclose(J.toarray(), expected, rtol=1e-13)


def test_an_input_read_directly_and_through_copies():
    at = np.array([0, 0, 1, 2])
    f = lambda x: np.concatenate([x[at] * np.arange(1.0, 5.0) * x[0], x[:2] * x[1:3]])
    r = tg.record(f, np.zeros(4))
    x = np.array([1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(r.jacobian(x, sparse=True).toarray(), r.jacobian(x), rtol=1e-14)


def test_index_arrays_among_the_arguments():
    f = lambda x, at: x[at] ** 2
    r = tg.record(f, np.zeros(5), np.array([0, 1, 1]))
    x = np.arange(1.0, 6.0)
    for at in ([0, 1, 1], [4, 2, 0], [3, 3, 3], [0, 1, 1]):
        J = r.jacobian(x, np.array(at), sparse=True).toarray()
        expected = np.zeros((3, 5))
        expected[np.arange(3), at] = 2.0 * x[at]
        np.testing.assert_array_equal(J, expected)


def test_patterns_follow_the_branch():
    f = lambda x: x * x if x[0] > 0.0 else x * x[::-1]
    jacobian = tg.jacobian(f, sparse=True)
    for x in ([1.0, 2.0, 3.0], [-1.0, 2.0, 3.0], [2.0, 0.0, 1.0], [-3.0, 1.0, 0.5]):
        x = np.array(x)
        expected = np.diag(2.0 * x) if x[0] > 0 else np.diag(x[::-1]) + np.diag(x)[:, ::-1]
        np.testing.assert_allclose(jacobian(x).toarray(), expected)


def test_nested_arguments_are_columns_in_order(rng):
    f = lambda p, c: np.concatenate([p["a"] * c, p["b"].reshape(-1) ** 2])
    p, c = {"a": rng.normal(size=2), "b": rng.normal(size=(2, 2))}, 3.0
    J = tg.jacobian(f, argnums=(0, 1), sparse=True)(p, c).toarray()
    assert J.shape == (6, 7)
    np.testing.assert_allclose(J[:2, :2], 3.0 * np.eye(2))
    np.testing.assert_allclose(J[2:, 2:6], np.diag(2.0 * p["b"].reshape(-1)))
    np.testing.assert_allclose(J[:2, 6], p["a"])
    H = tg.hessian(lambda p: np.sum(p["a"] ** 3) + p["a"][0] * p["b"][1, 1], sparse=True)(p).toarray()
    assert H[0, 5] == H[5, 0] == 1.0 and H[1, 1] == 6.0 * p["a"][1]


def test_float32_and_lanes_in_several_passes(monkeypatch, rng):
    x = rng.normal(size=N).astype(np.float32)
    J = tg.jacobian(FUNCTIONS["stencil"], sparse=True)(x)
    assert J.dtype == np.float32
    np.testing.assert_allclose(J.toarray(), tg.jacobian(FUNCTIONS["stencil"])(x), rtol=1e-6)
    from tapegrad.sparse import compressed

    monkeypatch.setattr(compressed, "_AT_ONCE", 1)
    for name in ("stencil", "softmax", "gathered", "loop"):
        r = tg.record(FUNCTIONS[name], np.zeros(N))
        for wide in (False, True):
            r.program.wide = wide
            r._matrices._compressed.clear()
            y = rng.normal(size=N)
            dense = r.jacobian(y).reshape(-1, N)
            np.testing.assert_allclose(r.jacobian(y, sparse=True).toarray(), dense, rtol=1e-12, atol=1e-14)


def test_calls_of_python_count_as_dense(rng):
    black = tg.external(lambda x: np.cumsum(x) ** 2, lambda w, y, x: np.cumsum((2.0 * np.cumsum(x) * w)[::-1])[::-1])
    f = lambda x: np.concatenate([black(x[:3]), x[3:] ** 2])
    x = rng.normal(size=6)
    np.testing.assert_allclose(tg.jacobian(f, sparse=True)(x).toarray(), tg.jacobian(f)(x), rtol=1e-12)


def test_matrices_are_their_own(rng):
    r = tg.record(FUNCTIONS["stencil"], np.zeros(N))
    x = rng.normal(size=N)
    a, b = r.jacobian(x, sparse=True), r.jacobian(x, sparse=True)
    a.data[:] = 0.0
    a.eliminate_zeros()
    np.testing.assert_array_equal(r.jacobian(x, sparse=True).toarray(), b.toarray())
    assert b.nnz == 30


def test_a_sparse_matrix_is_no_value():
    with pytest.raises(UnsupportedError, match="dense"):
        tg.grad(lambda x: tg.jacobian(lambda x: x * x, sparse=True)(x)[0, 0])(np.ones(2))
    with pytest.raises(UnsupportedError, match="dense"):
        tg.hessian(lambda x: np.sum(x * x), sparse=True)(tg.Value([1.0, 2.0]))


def test_patterns_are_drawn():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    ax = tg.record(FUNCTIONS["stencil"], np.zeros(N)).sparsity().draw()
    assert len(ax.collections[0].get_offsets()) == 30
    assert "3 colours" in ax.get_title()


def test_a_hundred_thousand_variables():
    n = 100_000
    f = lambda x: np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)
    x = np.linspace(-1.0, 1.0, n)
    H = tg.hessian(f, sparse=True)(x)
    off = -400.0 * x[:-1]
    main = np.concatenate([1200.0 * x[:-1] ** 2 - 400.0 * x[1:] + 2.0, [0.0]]) + np.r_[0.0, np.full(n - 1, 200.0)]
    expected = sp.diags_array([off, main, off], offsets=[-1, 0, 1], format="csr")
    assert H.nnz == 3 * n - 2
    np.testing.assert_allclose((H - expected).data, 0.0, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_matrices_of_many_entries_by_compiled_programs(dtype, rng):
    n = 6000
    f = lambda x: np.sum((x[1:] - x[:-1] ** 2) ** 2 * x[1:]) + np.sum(np.tanh(x[2:] * x[:-2]))
    points = list(rng.normal(size=(3, n)).astype(dtype))
    compiled, swept = (tg.record(f, points[0], compile=how) for how in (True, False))
    for x in points:
        found, expected = (r.hessian(x, sparse=True) for r in (compiled, swept))
        assert found.nnz > 16_384 and found.dtype == dtype
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_allclose(found.data, expected.data, rtol=1e-12 if dtype == np.float64 else 1e-4, atol=1e-4)
    # Each result has numbers of its own.
    first, kept = compiled.hessian(points[0], sparse=True), compiled.hessian(points[0], sparse=True).data.copy()
    compiled.hessian(points[1], sparse=True)
    np.testing.assert_array_equal(first.data, kept)
