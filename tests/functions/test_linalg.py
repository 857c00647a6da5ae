"""np.linalg on Values, and tapegrad.scipy.linalg: values and derivatives, where there are none, and wrong arguments."""

import pickle

import numpy as np
import pytest
import scipy.linalg

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import DTypeError, OperationError, ShapeError, UnsupportedError
from tapegrad.scipy import linalg
from tests.checks import difference
from tests.functions.linalg_checks import check_derivatives, check_float32, close, weighed

B = np.random.default_rng(5).normal(size=(3, 2))
C = np.random.default_rng(6).normal(size=(4, 4))
C += C.T
EYE = np.eye(3)


def transposed(x):
    return np.swapaxes(x, -1, -2)


def regular(x):
    return x + 3.0 * np.eye(x.shape[-1], dtype=x.dtype)


def positive(x):
    return np.matmul(x, transposed(x)) + np.eye(x.shape[-1], dtype=x.dtype)


def symmetric(x):
    return x + transposed(x)


def all_of(results, squared=()):
    """A function of several results. The signs of vectors are arbitrary, so those are squared."""
    return sum(weighed(y**2 if i in squared else y) for i, y in enumerate(results))


# A function of one array, and the shape of that.
BATCHED = {
    "solve": (lambda x: weighed(np.linalg.solve(regular(x), B.astype(x.dtype) + x[..., :2])), (3, 3)),
    "solve for a column": (lambda x: weighed(np.linalg.solve(regular(x), B[:, 0].astype(x.dtype))), (3, 3)),
    "inv": (lambda x: weighed(np.linalg.inv(regular(x))), (3, 3)),
    "det": (lambda x: weighed(np.linalg.det(x)), (3, 3)),
    "slogdet": (lambda x: weighed(np.linalg.slogdet(x)[1]), (3, 3)),
    "cholesky": (lambda x: weighed(np.linalg.cholesky(positive(x))), (3, 3)),
    "cholesky, upper": (lambda x: weighed(np.linalg.cholesky(positive(x), upper=True)), (3, 3)),
    "eigh": (lambda x: all_of(np.linalg.eigh(symmetric(x)), (1,)), (3, 3)),
    "eigh, U": (lambda x: weighed(np.linalg.eigh(symmetric(x), "U").eigenvectors ** 2), (3, 3)),
    "eigvalsh": (lambda x: weighed(np.linalg.eigvalsh(symmetric(x))), (3, 3)),
    "svd": (lambda x: all_of(np.linalg.svd(x), (0, 2)), (3, 3)),
    "svd, tall": (lambda x: all_of(np.linalg.svd(x, full_matrices=False), (0, 2)), (5, 3)),
    "svd, wide": (lambda x: all_of(np.linalg.svd(x, full_matrices=False), (0, 2)), (3, 5)),
    "svd, one more vector": (lambda x: all_of(np.linalg.svd(x), (0, 2)), (4, 3)),
    "svd, one more vector, wide": (lambda x: all_of(np.linalg.svd(x), (0, 2)), (3, 4)),
    "svdvals": (lambda x: weighed(np.linalg.svdvals(x)), (4, 3)),
    "svd without vectors": (lambda x: weighed(np.linalg.svd(x, compute_uv=False)), (2, 3)),
    "qr": (lambda x: all_of(np.linalg.qr(x)), (3, 3)),
    "qr, tall": (lambda x: all_of(np.linalg.qr(x)), (5, 3)),
    "qr, wide": (lambda x: all_of(np.linalg.qr(x)), (3, 5)),
    "qr, r": (lambda x: weighed(np.linalg.qr(x, mode="r")), (4, 3)),
    "pinv, tall": (lambda x: weighed(np.linalg.pinv(x)), (4, 3)),
    "pinv, wide": (lambda x: weighed(np.linalg.pinv(x)), (3, 4)),
    "pinv of low rank": (lambda x: weighed(np.linalg.pinv(np.matmul(x[..., :2], x[..., :2, :]), rcond=1e-6)), (4, 4)),
    "matrix_power": (lambda x: weighed(np.linalg.matrix_power(0.3 * x, 5)), (3, 3)),
    "matrix_power, negative": (lambda x: weighed(np.linalg.matrix_power(regular(x), -2)), (3, 3)),
    "cond": (lambda x: weighed(np.linalg.cond(regular(x)) + np.linalg.cond(regular(x), -2)), (3, 3)),
    "cond by norms": (lambda x: weighed(np.linalg.cond(regular(x), "fro") + np.linalg.cond(regular(x), 1)), (3, 3)),
    "trace and diagonal": (
        lambda x: weighed(np.linalg.trace(x, offset=1)) + weighed(np.linalg.diagonal(x)), (4, 3)
    ),
    "matrix_transpose": (lambda x: weighed(np.matmul(np.linalg.matrix_transpose(x), np.matrix_transpose(x))), (3, 3)),
    "matrix_norm": (lambda x: weighed(np.linalg.matrix_norm(x)), (3, 4)),
    "scipy cholesky": (lambda x: weighed(linalg.cholesky(positive(x))), (3, 3)),
    "cho_solve": (lambda x: weighed(linalg.cho_solve(linalg.cho_factor(positive(x)), x[..., :2])), (3, 3)),
    "cho_solve, lower": (lambda x: weighed(linalg.cho_solve(linalg.cho_factor(positive(x), True), x)), (3, 3)),
    "lu_solve": (lambda x: weighed(linalg.lu_solve(linalg.lu_factor(x), B)), (3, 3)),
    "lu_solve, transposed": (lambda x: weighed(linalg.lu_solve(linalg.lu_factor(x), x[..., 1:], trans=1)), (3, 3)),
    "lu_factor": (lambda x: weighed(linalg.lu_factor(0.1 * x + np.roll(3.0 * EYE, 1, 0))[0]), (3, 3)),
    "expm": (lambda x: weighed(linalg.expm(x)), (3, 3)),
    "logm": (lambda x: weighed(linalg.logm(regular(0.3 * x))), (3, 3)),
    "sqrtm": (lambda x: weighed(linalg.sqrtm(regular(0.3 * x))), (3, 3)),
    "solve_sylvester": (
        lambda x: weighed(linalg.solve_sylvester(regular(x), regular(x[..., :2, :2]), x[..., :2] ** 2)), (3, 3)
    ),
}  # fmt: skip
SINGLE = {
    "lstsq": (lambda x: all_of(np.linalg.lstsq(x, x[:, :2] ** 2)[::3]), (3, 3)),
    "lstsq, tall": (lambda x: all_of(np.linalg.lstsq(x, x[:, 0] ** 2 + 1.0)[:2]), (5, 3)),
    "lstsq, wide": (lambda x: all_of(np.linalg.lstsq(x, x[:, 0] ** 2)[::3]), (3, 5)),
    "lstsq of low rank": (
        lambda x: all_of(np.linalg.lstsq(np.matmul(x[:, :2], x[:2]), x[:, :2] ** 2, rcond=1e-6)[:1]), (4, 4)
    ),
    "multi_dot": (lambda x: np.linalg.multi_dot([x[0], x, x.T, B]).sum(), (3, 3)),
    "multi_dot, to a number": (lambda x: np.linalg.multi_dot([x[0], x @ x, x[1]]), (3, 3)),
    "tensorsolve": (lambda x: weighed(np.linalg.tensorsolve(x.reshape(2, 3, 6), x[0].reshape(2, 3))), (6, 6)),
    "tensorsolve, axes": (
        lambda x: weighed(np.linalg.tensorsolve(x.reshape(2, 6, 3), x[0].reshape(2, 3), axes=(1,))), (6, 6)
    ),
    "tensorinv": (lambda x: weighed(np.linalg.tensorinv(x.reshape(2, 3, 6))), (6, 6)),
    "vecdot": (lambda x: weighed(np.linalg.vecdot(x, x[:, :1], axis=0)), (3, 4)),
    "cross": (lambda x: weighed(np.linalg.cross(x, x[0] + 1.0)), (4, 3)),
    "outer": (lambda x: weighed(np.linalg.outer(x, x[:2])), (4,)),
    "matmul and tensordot": (lambda x: weighed(np.linalg.matmul(x, np.linalg.tensordot(x, x, axes=1))), (3, 3)),
    "block_diag": (lambda x: weighed(linalg.block_diag(x, x[0], 2.0, x.T @ x)), (2, 3)),
    "toeplitz": (lambda x: weighed(linalg.toeplitz(x) @ linalg.toeplitz(x, x[::-1] * 2.0)), (4,)),
    "one matrix and many columns": (lambda x: weighed(np.linalg.solve(regular(x), np.stack([x, x * x]))), (3, 3)),
}  # fmt: skip
for _order in (None, "fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf):
    SINGLE[f"matrix norm {_order}"] = (
        lambda x, order=_order: weighed(np.linalg.norm(x, order, axis=(2, 0), keepdims=True)), (3, 2, 4)
    )  # fmt: skip
for _order in (0, 1, 2, 3, -1, -2, 0.5, np.inf, -np.inf):
    SINGLE[f"vector norm {_order}"] = (
        lambda x, order=_order: weighed(np.linalg.norm(x, order, axis=1))
        + weighed(np.linalg.vector_norm(x, ord=order, axis=(0, 1), keepdims=True)), (3, 4),
    )  # fmt: skip


@pytest.mark.parametrize("name", BATCHED)
def test_derivatives_of_many_matrices(name):
    f, shape = BATCHED[name]
    check_derivatives(f, (2, *shape))


@pytest.mark.parametrize("name", BATCHED)
def test_first_derivatives_of_one_matrix_and_batches_of_two_axes(name):
    f, shape = BATCHED[name]
    check_derivatives(f, shape, second=False)
    check_derivatives(f, (1, 2, *shape), second=False)


@pytest.mark.parametrize("name", SINGLE)
def test_derivatives(name):
    check_derivatives(*SINGLE[name])


@pytest.mark.parametrize("name", [n for n in BATCHED if n not in ("lu_solve", "lu_factor", "pinv of low rank")])
def test_float32_stays_float32(name):
    f, shape = BATCHED[name]
    check_float32(f, (2, *shape))


@pytest.mark.parametrize("lower", [False, True])
@pytest.mark.parametrize("trans", [0, "T"])
@pytest.mark.parametrize("unit", [False, True])
def test_triangular_systems(lower, trans, unit):
    def f(x):
        return weighed(linalg.solve_triangular(regular(x), B, trans, lower, unit, check_finite=False))

    check_derivatives(f, (3, 3))
    check_derivatives(f, (2, 3, 3))
    many = np.random.default_rng(0).normal(size=(2, 20, 20)) + 20.0 * np.eye(20)
    found = linalg.solve_triangular(Value(many), many[..., :2], trans, lower, unit).data
    close(found[1], scipy.linalg.solve_triangular(many[1], many[1, :, :2], trans, lower, unit), 1e-12)
    x = linalg.solve_triangular(Value(np.ones((3, 3)) - EYE), B, trans, lower, unit)
    if not unit:
        with pytest.raises(np.linalg.LinAlgError, match="diagonal is zero"):
            _ = x.data


@pytest.mark.parametrize("kind", ["sym", "pos", "gen", "upper triangular", "lower triangular", "diagonal", None])
@pytest.mark.parametrize("lower", [False, True])
def test_structured_systems(kind, lower):
    a = np.random.default_rng(0).normal(size=(3, 3))
    a = a * EYE + 3.0 * EYE if kind == "diagonal" else positive(a)
    expected = scipy.linalg.solve(a, B, lower=lower, assume_a=kind)
    close(linalg.solve(Value(a), B, lower=lower, assume_a=kind).data, expected, 1e-12)
    if kind != "diagonal":
        check_derivatives(lambda x: weighed(linalg.solve(positive(x), B, lower=lower, assume_a=kind)), (3, 3))


def test_plain_numbers_go_to_scipy():
    assert isinstance(linalg.cho_factor(EYE)[0], np.ndarray)
    assert np.array_equal(linalg.toeplitz([1.0, 2.0]), scipy.linalg.toeplitz([1.0, 2.0]))
    c = linalg.cho_factor(positive(EYE))
    close(linalg.cho_solve(c, Value(B)).data, scipy.linalg.cho_solve(c, B), 1e-14)
    close(linalg.lu_solve(linalg.lu_factor(C), Value(C[0])).data, np.linalg.solve(C, C[0]), 1e-12)


def test_solutions_of_large_triangular_systems_keep_their_digits():
    a = np.tril(np.random.default_rng(0).normal(size=(60, 60))) + 10.0 * np.eye(60)
    close(linalg.solve_triangular(Value(a), np.ones(60), lower=True).data, scipy.linalg.solve_triangular(
        a, np.ones(60), lower=True), 1e-14)  # fmt: skip


# Where derivatives do not exist


def turned(*eigenvalues):
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    return q @ np.diag(eigenvalues) @ q.T


TWICE = turned(1.0, 1.0, 2.0, 5.0)
UNLIKE = np.random.default_rng(2).normal(size=(4, 3))


def slope_of(f, a, d):
    return difference(lambda t: f(a + t * d), 1e-3)


def test_equal_eigenvalues_that_are_treated_alike():
    def trace_of_exponential(a):
        return np.sum(np.exp(np.linalg.eigvalsh(a)))

    close(tg.grad(trace_of_exponential)(TWICE), scipy.linalg.expm(TWICE), 1e-12)
    close(tg.jvp(trace_of_exponential, (TWICE,), (C,))[1], np.sum(scipy.linalg.expm(TWICE) * C), 1e-12)
    close(tg.grad(lambda a: np.sum(np.log(np.linalg.eigvalsh(a))))(3.0 * EYE), EYE / 3.0, 1e-12)


def test_eigenvectors_of_other_eigenvalues_than_those_that_are_equal():
    def last(a):
        return np.sum(np.linalg.eigh(a)[1][:, -1] ** 2 * np.arange(4.0))

    expected = slope_of(last, TWICE, C)
    close(np.sum(tg.grad(last)(TWICE) * C), expected, 1e-8)
    close(tg.jvp(last, (TWICE,), (C,))[1], expected, 1e-8)


@pytest.mark.parametrize(
    "f",
    [
        lambda a: np.linalg.eigvalsh(a)[0],
        lambda a: np.linalg.eigh(a)[0][1],
        lambda a: np.sum(np.linalg.eigh(a)[1][:, 0] ** 2 * np.arange(4.0)),
        lambda a: (lambda w, v: np.sum(C * np.matmul(v * np.exp(w), v.T)))(*np.linalg.eigh(a)),
        lambda a: np.linalg.svdvals(a)[3],
        lambda a: np.linalg.svd(a)[0][0, 3] ** 2,
    ],
)
def test_what_involves_equal_eigenvalues_is_nan_and_the_certificate_says_so(f):
    assert np.isnan(tg.grad(f)(TWICE)).all()
    certificate = tg.record(f, C).certificate(TWICE)
    assert not certificate.differentiable
    assert certificate.nearest.distance == 0.0
    apart = tg.record(f, TWICE).certificate(turned(1.0, 1.5, 2.0, 5.0))
    assert apart.differentiable and apart.nearest.distance == pytest.approx(0.5)


def test_eigenvectors_of_equal_eigenvalues_have_no_tangent():
    assert np.isnan(tg.jvp(lambda a: np.linalg.eigh(a)[1][:, 0], (TWICE,), (C,))[1]).all()
    assert not np.isnan(tg.jvp(lambda a: np.linalg.eigh(a)[1][:, 3], (TWICE,), (C,))[1]).any()


def test_nothing_flows_through_eigenvectors_that_are_not_used():
    used = tg.grad(lambda a: tg.where(a[0, 0] > 1e9, np.linalg.eigh(a)[1][0, 0], np.sum(a)))(TWICE)
    assert np.array_equal(used, np.ones((4, 4)))


def test_nothing_flows_through_what_is_not_taken():
    singular = np.ones((3, 3))
    for f in (np.linalg.slogdet, np.linalg.qr, np.linalg.eigh):
        taken = tg.record(lambda a, f=f: tg.where(a[0, 0] > 5.0, np.sum(f(a)[1]), np.sum(a * a)), EYE)
        assert np.array_equal(taken.grad(singular), 2.0 * singular)
        if f is np.linalg.slogdet:
            assert np.array_equal(taken.hvp((singular,), (EYE,)), 2.0 * EYE)
            assert np.array_equal(tg.grad(lambda a, taken=taken: np.trace(taken.grad(a)))(singular), 2.0 * EYE)


ZEROS = {
    "slogdet": (lambda a: np.linalg.slogdet(a)[1], EYE),
    "det": (lambda a: np.linalg.det(a) - 6.0, np.diag([1.0, 2.0, 3.0])),
    "qr": (lambda a: np.linalg.qr(a)[0][0, 1], np.diag([1.0, 2.0, 3.0])),
    "eigh": (lambda a: np.linalg.eigh(a)[1][0, 1], np.diag([1.0, 2.0, 3.0])),
    "svd": (lambda a: np.linalg.svd(a)[0][0, 1], np.diag([3.0, 2.0, 1.0])),
    "triangular": (lambda a: linalg.solve_triangular(a, EYE)[0, 1], EYE),
}


@pytest.mark.parametrize("name", ZEROS)
def test_second_derivatives_where_the_first_is_zero(name):
    # The gradient of a square is zero where the function is; its Hessian is not.
    f, a = ZEROS[name]
    d = C[:3, :3]
    own = tg.grad(f)(a)
    assert np.abs(f(a)) < 1e-14 and np.abs(own).max() > 0.1
    expected = 2.0 * own * np.sum(own * d)
    close(tg.hvp(lambda a: f(a) ** 2, (a,), (d,)), expected, 1e-12)
    close(tg.grad(lambda a: np.sum(tg.grad(lambda a: f(a) ** 2)(a) * d))(a), expected, 1e-12)


def test_singular_values_that_are_equal_or_zero():
    q = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0][:, :3]
    twice = q @ np.diag([3.0, 3.0, 1.0])

    def nuclear(a):
        return np.linalg.norm(a, "nuc")

    expected = slope_of(nuclear, twice, UNLIKE)
    close(np.sum(tg.grad(nuclear)(twice) * UNLIKE), expected, 1e-8)
    close(tg.jvp(nuclear, (twice,), (UNLIKE,))[1], expected, 1e-8)
    assert np.isnan(tg.grad(lambda a: np.linalg.norm(a, 2))(twice)).all()
    lost = q @ np.diag([3.0, 2.0, 0.0])
    assert np.isnan(tg.grad(nuclear)(lost)).all() and not tg.record(nuclear, twice).certificate(lost).differentiable
    largest = slope_of(lambda a: np.linalg.norm(a, 2), lost, UNLIKE)
    close(np.sum(tg.grad(lambda a: np.linalg.norm(a, 2))(lost) * UNLIKE), largest, 1e-8)


def test_further_vectors_are_arbitrary():
    tall = np.random.default_rng(2).normal(size=(5, 3))
    assert np.isnan(tg.grad(lambda a: np.linalg.svd(a)[0][0, 4])(tall)).all()
    assert np.isnan(tg.jvp(lambda a: np.linalg.svd(a)[0][0, 4], (tall,), (tall,))[1])


def test_singular_matrices():
    singular = np.diag([1.0, 2.0, 0.0])
    assert np.isnan(tg.grad(lambda a: np.linalg.slogdet(a)[1])(singular)).all()
    for compiled in (False, True):
        recording = tg.record(np.linalg.det, EYE, compile=compiled)
        close(recording.grad(singular), np.diag([0.0, 0.0, 2.0]), 1e-14)
    assert np.isnan(tg.hvp(np.linalg.det, (singular,), (EYE,))).all()
    assert np.isnan(tg.grad(lambda a: np.sum(np.linalg.qr(a)[0] * C[:3, :3]))(np.ones((3, 3)))).all()
    for f in (np.linalg.inv, np.linalg.cholesky, lambda a: np.linalg.solve(a, B)):
        with pytest.raises(np.linalg.LinAlgError):
            tg.grad(lambda a, f=f: np.sum(f(a)))(singular)


def test_ranks_are_plain_numbers_and_guards():
    def f(a):
        rank = np.linalg.matrix_rank(a)
        assert isinstance(rank, int)
        return rank * np.sum(a)

    recording = tg.record(f, np.eye(3))
    assert recording(np.diag([1.0, 2.0, 0.0])) == 6.0 and recording(np.diag([1.0, 2.0, 1.0])) == 12.0
    assert np.linalg.matrix_rank(Value(np.diag([1.0, 1e-3, 0.0])), tol=1e-2) == 1
    assert np.linalg.matrix_rank(Value(np.zeros(3))) == 0
    found = np.linalg.lstsq(Value(np.ones((4, 2))), np.ones(4))
    assert found[1].shape == (0,) and found[2] == 1 and isinstance(found[2], int)


# Arguments


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda v: np.linalg.solve(v, np.ones(3)), r"np.linalg.solve: a of shape \(2, 2\) and b of shape \(3,\)"),
        (lambda v: np.linalg.solve(v[None], np.ones((2, 3, 2))), r"np.linalg.solve.*\(1, 2, 2\).*\(2, 3, 2\)"),
        (lambda v: np.linalg.solve(np.ones((2, 2, 2)), np.ones((3, 1, 1)) * v), r"np.linalg.solve.*broadcast"),
        (lambda v: np.linalg.inv(v[:1]), r"np.linalg.inv takes square matrices.*\(1, 2\)"),
        (lambda v: np.linalg.det(v[0]), r"np.linalg.det takes square matrices.*\(2,\)"),
        (lambda v: np.linalg.eigh(v[:1]), r"np.linalg.eigh takes square"),
        (lambda v: np.linalg.svd(v[0]), r"np.linalg.svd takes matrices.*\(2,\)"),
        (lambda v: np.linalg.lstsq(v, np.ones(3)), r"np.linalg.lstsq: shapes \(2, 2\) of a and \(3,\) of b"),
        (lambda v: np.linalg.multi_dot([v, np.ones((3, 2))]), r"multi_dot: shapes \[\(2, 2\), \(3, 2\)\]"),
        (lambda v: np.linalg.tensorsolve(v, np.ones(4)), "tensorsolve"),
        (lambda v: np.linalg.cross(v, v), "three elements"),
        (lambda v: np.linalg.norm(v[None], 2), "norm"),
        (lambda v: linalg.cho_solve((v, True), np.ones(3)), "cho_solve"),
        (lambda v: linalg.solve_sylvester(v, v, v[:1]), r"solve_sylvester.*\(1, 2\)"),
        (lambda v: linalg.toeplitz(v), r"toeplitz takes vectors.*\(2, 2\)"),
    ],
)
def test_wrong_shapes(call, text):
    with pytest.raises(ShapeError, match=text):
        call(Value(np.eye(2)))


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda v: np.linalg.eig(v), "np.linalg.eigh"),
        (lambda v: np.linalg.eigvals(v), "np.linalg.eigvalsh"),
        (lambda v: np.linalg.qr(v, mode="complete"), "mode='complete'"),
        (lambda v: np.linalg.pinv(v, rcond=np.ones(2)), "rcond"),
        (lambda v: np.linalg.eigh(v, "x"), "UPLO"),
        (lambda v: np.linalg.norm(v, 3), "no norm 3 of matrices"),
        (lambda v: np.linalg.norm(v[0], "fro"), "no norm 'fro' of vectors"),
        (lambda v: np.linalg.matrix_power(v, 0.5), "whole number"),
        (lambda v: linalg.solve(v, np.ones(2), assume_a="nice"), "assume_a='nice'"),
        (lambda v: linalg.solve_triangular(v, np.ones(2), trans=5), "trans"),
        (lambda v: linalg.logm(-v), "eigenvalues that are not positive"),
        (lambda v: linalg.sqrtm(-v), "eigenvalues that are not positive"),
    ],
)
def test_what_is_refused(call, text):
    with pytest.raises((OperationError, UnsupportedError), match=text):
        _ = np.sum(call(Value(np.eye(2)))).data


EMPTY = [
    np.linalg.inv, np.linalg.det, np.linalg.slogdet, np.linalg.cholesky, np.linalg.eigh, np.linalg.svdvals,
    np.linalg.qr, np.linalg.pinv, lambda a: np.linalg.solve(a, a), lambda a: np.linalg.norm(a, "nuc", axis=(-2, -1)),
]  # fmt: skip


@pytest.mark.parametrize("f", EMPTY)
@pytest.mark.parametrize("shape", [(0, 0), (0, 3, 3), (2, 0, 0)])
def test_empty_arrays_as_in_numpy(f, shape):
    def shapes(result):
        return [np.shape(x) for x in (result if isinstance(result, tuple) else (result,))]

    x = np.zeros(shape)
    try:
        expected = shapes(f(x))
    except Exception as error:
        with pytest.raises((type(error), OperationError, ShapeError)):
            f(Value(x))
        return
    v = Value(x)
    result = f(v)
    assert shapes(result) == expected
    np.sum(result[-1] if isinstance(result, tuple) else result).backward()
    assert v.grad.shape == shape


def several(a):
    return np.sum(np.linalg.svd(a)[0] ** 3) + np.sum(np.linalg.pinv(a, 1e-9)) + np.sum(linalg.expm(a))


def test_recordings_are_pickled():
    recording = tg.record(several, EYE + 0.1 * C[:3, :3])
    again = pickle.loads(pickle.dumps(recording))
    assert np.array_equal(again.grad(C[:3, :3]), recording.grad(C[:3, :3]))


def test_dtypes():
    single = Value(np.eye(2, dtype=np.float32))
    with pytest.raises(DTypeError, match=r"np.linalg.solve: an array of float64 meets a Value of float32"):
        np.linalg.solve(single, np.ones(2))
    with pytest.raises(UnsupportedError, match="np.linalg.solve: an operand of complex128"):
        np.linalg.solve(single, np.ones(2) * 1j)
    assert np.linalg.solve(single, [1, 2]).dtype == linalg.block_diag(single, 2.0).dtype == np.float32


def test_lists_of_values():
    x, y = Value(2.0), Value(3.0)
    result = np.linalg.solve(np.eye(2), tg.stack([x, y]))
    assert result.tolist() == [2.0, 3.0]
    close(linalg.block_diag([[1.0]], tg.stack([x, y])).data, [[1.0, 0.0, 0.0], [0.0, 2.0, 3.0]], 0.0)


@pytest.mark.parametrize("bands", [(1, 1), (0, 2), (2, 0), (2, 1), (0, 0)], ids=str)
@pytest.mark.parametrize("shape", [(5,), (5, 3), (5, 1)], ids=str)
def test_banded_systems(bands, shape):
    below, above = bands
    rng = np.random.default_rng(0)
    ab, b = rng.normal(size=(below + above + 1, 5)), rng.normal(size=shape)
    ab[above] += 4.0
    recording = tg.record(lambda ab, b: linalg.solve_banded(bands, ab, b), 1.1 * ab, 0.5 * b)
    np.testing.assert_allclose(recording(ab, b), scipy.linalg.solve_banded(bands, ab, b), rtol=1e-12)
    tg.check_grads(lambda ab, b: linalg.solve_banded(bands, ab, b), (ab, b))


@pytest.mark.parametrize("lower", [False, True])
def test_banded_symmetric_systems(lower):
    rng = np.random.default_rng(0)
    ab, b = rng.normal(size=(3, 5)), rng.normal(size=5)
    ab[0 if lower else 2] += 8.0
    recording = tg.record(lambda ab, b: linalg.solveh_banded(ab, b, lower=lower), 1.1 * ab, b)
    np.testing.assert_allclose(recording(ab, b), scipy.linalg.solveh_banded(ab, b, lower=lower), rtol=1e-12)
    tg.check_grads(lambda ab, b: linalg.solveh_banded(ab, b, lower=lower), (ab, b))
    with pytest.raises(ShapeError, match="want 3 rows"):
        linalg.solve_banded((1, 1), tg.Value(np.ones((2, 3))), np.ones(3))
    with pytest.raises(ShapeError, match="do not fit"):
        linalg.solve_banded((0, 0), tg.Value(np.ones((1, 3))), np.ones(2))


@pytest.mark.parametrize("uplo", ["L", "U"])
def test_vectors_are_signed_as_numpy_signs_them(uplo):
    a = np.random.default_rng(0).normal(size=(6, 6))
    found = tg.record(lambda a: np.linalg.eigh(a, uplo)[1], 1.1 * a)(a)
    np.testing.assert_allclose(found, np.linalg.eigh(a, uplo)[1], rtol=1e-10)


def test_matrices_without_elements_or_infinite_ones():
    for call in (np.linalg.cond, lambda x: np.linalg.norm(x, 2), lambda x: np.linalg.norm(x, -2, axis=(0, 1))):
        with pytest.raises(ShapeError, match="without elements"):
            call(Value(np.zeros((0, 3))))
    infinite = Value(np.full((2, 2), np.inf))
    assert np.linalg.matrix_power(infinite, 0).data.tolist() == [[1.0, 0.0], [0.0, 1.0]]
