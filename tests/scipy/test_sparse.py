"""Products of sparse matrices with Values, matrices of Values, and spsolve: against SciPy and differences."""

import pickle
import time
import warnings

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg

import tapegrad as tg
from tapegrad.errors import CutGradientError, RecordingWarning, ShapeError, UnsupportedError
from tapegrad.scipy import sparse

RNG = np.random.default_rng(0)
FORMATS = ["csr", "csc", "coo", "dia", "bsr", "lil", "dok"]
N = 6
M = scipy.sparse.csc_array(scipy.sparse.random_array((N, N), density=0.4, rng=RNG) + 3.0 * scipy.sparse.eye_array(N))
R = scipy.sparse.csr_array(M)
VECTOR, COLUMNS = RNG.normal(size=N), RNG.normal(size=(N, 2))


def of_values(data):
    return sparse.csc_array((data, M.indices, M.indptr), M.shape)


def check(f, expected, *args):
    """Value at points that were not recorded, derivatives in all modes against differences."""
    recording = tg.record(f, *(0.9 * x for x in args))
    np.testing.assert_allclose(recording(*args), expected, rtol=1e-12, atol=1e-14)
    tg.check_grads(f, args)


@pytest.mark.parametrize("kind", ["array", "matrix"])
@pytest.mark.parametrize("form", FORMATS)
def test_products_with_constant_matrices(form, kind):
    given = scipy.sparse.random_array((4, 3), density=0.5, rng=np.random.default_rng(1))
    A = getattr(scipy.sparse, f"{form}_{kind}")(given)
    dense = A.toarray()
    right, columns = RNG.normal(size=3), RNG.normal(size=(3, 2))
    left, rows = RNG.normal(size=4), RNG.normal(size=(2, 4))
    check(lambda v: A @ v, dense @ right, right)
    check(lambda v: A @ v, dense @ columns, columns)
    check(lambda v: v @ A, left @ dense, left)
    check(lambda v: v @ A, rows @ dense, rows)
    check(lambda v: A.T @ v, dense.T @ left, left)
    check(lambda v: np.dot(v, A), left @ dense, left)
    if form != "coo":
        check(lambda v: A.dot(v), dense @ right, right)


def test_patterns_are_exact():
    A = scipy.sparse.random_array((300, 200), density=0.01, format="csr", rng=RNG)
    v = RNG.normal(size=200)
    jacobian = tg.jacobian(lambda v: A @ v, sparse=True)(v)
    assert jacobian.nnz == A.nnz and abs(jacobian - A).max() == 0.0
    hessian = tg.hessian(lambda v: np.sum((A @ v) ** 4), sparse=True)(v)
    expected = A.T @ scipy.sparse.diags_array(12.0 * (A @ v) ** 2) @ A
    np.testing.assert_allclose(hessian.toarray(), expected.toarray(), rtol=1e-10, atol=1e-12)
    assert hessian.nnz == (A.T @ A).nnz


def test_what_is_changed_in_place_is_noticed():
    A = scipy.sparse.csr_array(np.eye(3))
    gradient = tg.grad(lambda v: np.sum(A @ v))
    assert gradient(np.ones(3)).tolist() == [1.0, 1.0, 1.0]
    A.data[0] = 5.0
    with pytest.warns(RecordingWarning, match="`A.data`, which has been changed in place"):
        for _ in range(1000):
            # Contents of arrays are compared now and then.
            if gradient(np.ones(3)).tolist() == [5.0, 1.0, 1.0]:
                break
            time.sleep(0.001)
    A.data = np.array([7.0, 1.0, 1.0])
    assert gradient(np.ones(3)).tolist() == [7.0, 1.0, 1.0]


def test_float32_and_integers():
    A = scipy.sparse.csr_array(np.array([[1, 2], [0, 3]]))
    gradient = tg.grad(lambda v: np.sum((A.astype(np.float32) @ v) ** 2))(np.ones(2, np.float32))
    assert gradient.dtype == np.float32 and gradient.tolist() == [6.0, 30.0]
    assert tg.grad(lambda v: np.sum(A @ v))(np.ones(2)).tolist() == [1.0, 5.0]


def test_without_entries():
    A = scipy.sparse.csr_array((3, 2))
    assert tg.grad(lambda v: np.sum(A @ v))(np.ones(2)).tolist() == [0.0, 0.0]
    assert tg.record(lambda v: v @ A, np.ones(3))(np.ones(3)).tolist() == [0.0, 0.0]


OF_VALUES = {
    "A v": (lambda A, d: A @ VECTOR, lambda A, d: A @ VECTOR),
    "A B": (lambda A, d: A @ COLUMNS, lambda A, d: A @ COLUMNS),
    "v A": (lambda A, d: VECTOR @ A, lambda A, d: VECTOR @ A),
    "A d": (lambda A, d: A @ d[:N], lambda A, d: A @ d[:N]),
    "d A": (lambda A, d: d[:N] @ A, lambda A, d: d[:N] @ A),
    "A' v": (lambda A, d: A.T @ VECTOR, lambda A, d: A.T @ VECTOR),
    "A M": (lambda A, d: (A @ R).toarray(), lambda A, d: (A @ R).toarray()),
    "M A": (lambda A, d: (R @ A).toarray(), lambda A, d: (R @ A).toarray()),
    "A A": (lambda A, d: (A @ A).toarray(), lambda A, d: (A @ A).toarray()),
    "sums": (lambda A, d: (3.0 * R - A + A * d[0]).toarray(), lambda A, d: (3.0 * R - A + A * d[0]).toarray()),
    "parts": (lambda A, d: (-A / 2.0).toarray(), lambda A, d: (-A / 2.0).toarray()),
    "sum": (lambda A, d: A.sum(), lambda A, d: A.sum()),
    "rows": (lambda A, d: A.sum(axis=1), lambda A, d: A.sum(axis=1)),
    "columns": (lambda A, d: A.sum(axis=0), lambda A, d: A.sum(axis=0)),
    "diagonals": (lambda A, d: A.diagonal(1) + A.diagonal(-1), lambda A, d: A.diagonal(1) + A.diagonal(-1)),
    "dot": (lambda A, d: A.dot(VECTOR), lambda A, d: A.dot(VECTOR)),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_VALUES)
def test_matrices_of_values(name):
    f, plain = OF_VALUES[name]
    check(lambda d: f(of_values(d), d), plain(M, M.data), M.data)


def test_constructors_are_those_of_scipy():
    k = np.array([1.0, 2.0, 3.0])
    places = ([0, 1, 1], [2, 0, 0])
    for make in ("coo_array", "csr_array", "csc_matrix", "coo_matrix"):
        check(
            lambda k, make=make: getattr(sparse, make)((k, places), shape=(2, 3)).toarray(),
            getattr(scipy.sparse, make)((k, places), shape=(2, 3)).toarray(), k,
        )  # fmt: skip
    for make in ("csr_array", "csc_array", "csr_matrix"):
        given = ([0, 2, 1], [0, 2, 3])
        check(
            lambda k, make=make, given=given: getattr(sparse, make)((k, *given)).toarray(),
            getattr(scipy.sparse, make)((k, *given)).toarray(), k,
        )  # fmt: skip
    options = {"offsets": [0, 1, -1], "shape": (3, 3)}
    check(
        lambda k: sparse.diags_array([k, -k[:2], k[0]], **options).toarray(),
        scipy.sparse.diags_array([k, -k[:2], k[:1]], **options).toarray(), k,
    )  # fmt: skip
    check(lambda k: sparse.diags(k, 1).toarray(), scipy.sparse.diags([k], [1]).toarray(), k)
    assert type(sparse.csr_array(np.eye(2))) is scipy.sparse.csr_array and sparse.eye_array is scipy.sparse.eye_array


@pytest.mark.parametrize("b", [VECTOR, COLUMNS, VECTOR[:, None]], ids=["vector", "columns", "one column"])
def test_spsolve(b):
    check(lambda b: sparse.linalg.spsolve(R, b), scipy.sparse.linalg.spsolve(M, b), b)
    check(lambda d, b: sparse.linalg.spsolve(of_values(d), b), scipy.sparse.linalg.spsolve(M, b), M.data, b)
    check(lambda d, b: sparse.linalg.spsolve(of_values(d).T, b), scipy.sparse.linalg.spsolve(M.T.tocsc(), b), M.data, b)


def test_second_derivatives_of_spsolve():
    found = tg.hessian(lambda d: np.sum(sparse.linalg.spsolve(of_values(d), VECTOR) ** 2))(M.data)
    dense = tg.hessian(lambda d: np.sum(np.linalg.solve(of_values(d).toarray(), VECTOR) ** 2))(M.data)
    np.testing.assert_allclose(found, dense, rtol=1e-9, atol=1e-12)


def test_spsolve_in_float32_and_pickled():
    gradient = tg.grad(lambda b: np.sum(sparse.linalg.spsolve(M.astype(np.float32), b)))(VECTOR.astype(np.float32))
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, np.linalg.solve(M.toarray().T, np.ones(N)), rtol=1e-5)
    from tapegrad.scipy.sparse.linalg import _Places, _solver

    solver = pickle.loads(pickle.dumps(_solver(_Places(np.array([0, 1]), np.array([0, 1]), 2), False)))
    assert solver(np.array([2.0, 4.0]), np.ones(2)).tolist() == [0.5, 0.25]


V = tg.Value
WRONG = [
    (lambda: R @ V(np.ones(5)), ShapeError, "multiplied by a vector of 6 numbers"),
    (lambda: R @ V(1.0), ShapeError, r"not by shape \(\)"),
    (lambda: V(np.ones(5)) @ R, ShapeError, r"shapes \(5,\) and \(6, 6\)"),
    (lambda: R * V(np.ones(6)), UnsupportedError, "write A @ v"),
    (lambda: V(2.0) * R, UnsupportedError, "write A @ v"),
    (lambda: R + V(np.ones((6, 6))), UnsupportedError, "toarray"),
    (lambda: R / V(2.0), UnsupportedError, "toarray"),
    (lambda: R.multiply(V(np.ones(6))), CutGradientError, "tapegrad.scipy.sparse"),
    (lambda: (R * 1j) @ V(np.ones(6)), UnsupportedError, "complex128"),
    (lambda: scipy.sparse.csr_array((V(np.ones(2)), [0, 1], [0, 1, 2])), CutGradientError, "tapegrad.scipy.sparse"),
    (lambda: scipy.sparse.linalg.spsolve(M, V(VECTOR)), CutGradientError, "tapegrad.scipy.sparse"),
    (lambda: sparse.csr_array((V(np.ones(3)), [0, 1, 2], [0, 1, 2])), ShapeError, "indptr must ascend"),
    (lambda: sparse.csr_array((V(np.ones(2)), [0, 5], [0, 1, 2]), (2, 2)), IndexError, "outside"),
    (lambda: sparse.csr_array((V(np.ones(2)), [0, 1], [0, 1, 2]), (3, 2)), ShapeError, "does not fit the shape"),
    (lambda: sparse.csr_array((V(np.ones(2)), [0.5, 1], [0, 1, 2])), ShapeError, "integers"),
    (lambda: sparse.csr_array(V(np.eye(2))), UnsupportedError, "multiplied as it is"),
    (lambda: sparse.coo_array((V(np.ones(3)), ([0, 1], [0, 1]))), ShapeError, "3"),
    (lambda: sparse.diags_array([V(np.ones(3))] * 2, offsets=[0, 1], shape=(3, 3)), ShapeError, "has 2 elements"),
    (lambda: sparse.diags_array([V(np.ones(3))] * 2, offsets=[0, 0]), ShapeError, "different offsets"),
    (lambda: of_values(V(M.data)) * np.ones(6), UnsupportedError, "write A @ x"),
    (lambda: of_values(V(M.data)) + 1.0, UnsupportedError, "toarray"),
    (lambda: of_values(V(M.data)) @ np.ones(3), ShapeError, "6 numbers"),
    (lambda: of_values(V(M.data)) @ scipy.sparse.eye_array(3), ShapeError, "do not fit"),
    (lambda: sparse.linalg.spsolve(np.eye(6), V(VECTOR)), UnsupportedError, "np.linalg.solve"),
    (lambda: sparse.linalg.spsolve(of_values(V(M.data)), R), UnsupportedError, "toarray"),
    (lambda: sparse.linalg.spsolve(M, V(np.ones(3))), ShapeError, "do not fit"),
    (lambda: sparse.linalg.cg(M, V(VECTOR)), UnsupportedError, "spsolve"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_what_is_wrong_is_named(call, error, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error, match=message):
            call()


def test_a_singular_matrix():
    A = scipy.sparse.csc_array(np.ones((2, 2)))
    with pytest.raises(np.linalg.LinAlgError, match="singular"):
        tg.grad(lambda b: np.sum(sparse.linalg.spsolve(A, b)))(np.ones(2))
