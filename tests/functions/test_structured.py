"""Operations over whole arrays: reductions, products, losses, gathering and joining; and views, which are free."""

import math

import numpy as np
import pytest
import scipy.special
from checks import check

import tapegrad as tg
from tapegrad import Value
from tapegrad.errors import ShapeError
from tapegrad.functions.products import affine
from tapegrad.ops import blas

dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])

AXES = [None, 0, 1, 2, -1, -3, (0, 2), (0, 1), (1, -1), (2, 0, 1), ()]
REDUCTIONS = {
    "sum": np.sum,
    "mean": np.mean,
    "prod": np.prod,
    "max": np.max,
    "min": np.min,
    "var": np.var,
    "std": np.std,
    "ptp": np.ptp,
}
LAYOUTS = {
    "dense": lambda x: x,
    "transposed": lambda x: x.T,
    "middle first": lambda x: np.swapaxes(x, 0, 1),
    "reversed": lambda x: x[::-1, :, ::-1],
    "strided": lambda x: x[:, ::2, 1:],
    "broadcast": lambda x: np.broadcast_to(x[:, :1], (3, 2, 4)),
    "one row": lambda x: x[1:2],
}


def separated(rng, shape):
    """Numbers far enough apart, and from zero, for differences of a maximum to be smooth."""
    return rng.permutation(np.linspace(-2.0, 1.9, int(np.prod(shape)))).reshape(shape)


def logsumexp(x, axis=None, keepdims=False):
    return scipy.special.logsumexp(x, axis, keepdims=keepdims)


def norm(x, axis=None, keepdims=False):
    return np.sqrt(np.sum(x * x, axis, keepdims=keepdims))


# Of equal elements, which an empty set of axes and a broadcast view have, these have no derivative.
KINKED = ("max", "min", "ptp", "std")


@dtypes
@pytest.mark.parametrize(
    ("name", "axis"), [(n, axis) for n in REDUCTIONS for axis in AXES if not (axis == () and n in KINKED)], ids=str
)
def test_reductions_over_axes(name, axis, dtype, rng):
    f = REDUCTIONS[name]
    x = separated(rng, (3, 4, 2))
    check(lambda x: f(x, axis=axis), x, rng=rng, dtype=dtype)
    check(lambda x: f(x, axis=axis, keepdims=True), x, rng=rng, dtype=dtype)
    by_method = getattr(tg.Value(x), name, None)
    if by_method is not None:
        np.testing.assert_allclose(by_method(axis=axis).data, f(x, axis=axis), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(
    ("name", "layout"),
    [(n, layout) for n in [*REDUCTIONS, "logsumexp", "norm", "cumsum"] for layout in LAYOUTS
     if not (layout == "broadcast" and n in KINKED)],
)  # fmt: skip
def test_reductions_of_views(name, layout, rng):
    view = LAYOUTS[layout]
    x = separated(rng, (3, 4, 4))
    own, reference = {
        "logsumexp": (tg.logsumexp, logsumexp),
        "norm": (np.linalg.norm, norm),
        "cumsum": (np.cumsum, np.cumsum),
    }.get(name) or (REDUCTIONS[name],) * 2
    for axis in (0, -1) if name == "cumsum" else (0, 1, 2, (0, 2)):
        if layout == "one row" and axis == 0 and name == "std":
            continue  # not differentiable where nothing deviates
        check(
            lambda x, axis=axis: own(view(x), axis=axis),
            x,
            reference=lambda x, axis=axis: reference(view(x), axis=axis),
            rng=rng,
        )


@dtypes
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axis", [*AXES[:-1]], ids=str)
def test_logsumexp_and_norm_over_axes(axis, keepdims, dtype, rng):
    x = rng.normal(size=(3, 4, 2)) * 3
    check(lambda x: tg.logsumexp(x, axis, keepdims), x, reference=lambda x: logsumexp(x, axis, keepdims), dtype=dtype)
    if np.size(axis) < 3:
        check(
            lambda x: np.linalg.norm(x, axis=axis, keepdims=keepdims),
            x,
            reference=lambda x: norm(x, axis, keepdims),
            dtype=dtype,
        )


@dtypes
@pytest.mark.parametrize("axis", [None, 0, 1, -1, -2])
def test_cumsum(axis, dtype, rng):
    check(lambda x: np.cumsum(x, axis=axis), rng.normal(size=(3, 5)), rng=rng, dtype=dtype)


def test_ddof_and_average(rng):
    x, w = rng.normal(size=(4, 5)), rng.uniform(1, 2, (4, 5))
    check(lambda x: np.var(x, axis=0, ddof=1), x)
    check(lambda x: np.std(x, ddof=1), x)
    check(lambda x, w: np.average(x, 1, w), x, w)
    check(lambda x: np.average(x), x)


def test_product_is_exact_at_zeros():
    x = tg.Value([[2.0, 3.0, 4.0], [2.0, 0.0, 4.0], [0.0, 3.0, 0.0]])
    y = np.prod(x, axis=1)
    y.backward([1.0, 1.0, 1.0])
    assert y.tolist() == [24.0, 0.0, 0.0]
    assert x.grad.tolist() == [[12.0, 8.0, 6.0], [0.0, 8.0, 0.0], [0.0, 0.0, 0.0]]


def test_ties_share_the_derivative_equally():
    for f, best in ((np.max, 3.0), (np.min, -3.0)):
        x = tg.Value(np.array([1.0, 3.0, 3.0, 2.0]) * np.sign(best))
        y = f(x)
        y.backward()
        assert y.item() == best
        assert x.grad.tolist() == [0.0, 0.5, 0.5, 0.0]


def test_reductions_pass_nan_on():
    x = np.array([[1.0, np.nan, 2.0], [np.nan, 5.0, 1.0], [3.0, 2.0, np.nan]])
    for f in (np.sum, np.prod, np.max, np.min, np.mean, np.var):
        assert np.isnan(f(tg.Value(x), axis=1).data).all()
    assert np.isnan(tg.logsumexp(tg.Value(x), 1).data).all()
    assert np.isnan(np.linalg.norm(tg.Value(x), axis=1).data).all()


def test_norm_at_zero_and_at_the_ends_of_the_range():
    x = tg.Value([0.0, 0.0])
    np.linalg.norm(x).backward()
    assert x.grad.tolist() == [0.0, 0.0]
    for scale in (1e200, 1e-200):
        x = tg.Value([3 * scale, 4 * scale])
        y = np.linalg.norm(x)
        y.backward()
        assert y.item() == pytest.approx(5 * scale, rel=1e-15)
        assert x.grad == pytest.approx([0.6, 0.8], rel=1e-15)


def test_logsumexp_of_infinities():
    rows = np.array([[-np.inf, 0.0], [-np.inf, -np.inf], [np.inf, 0.0], [1000.0, 1000.0]])
    x = tg.Value(rows)
    y = tg.logsumexp(x, 1)
    np.testing.assert_array_equal(y.data, scipy.special.logsumexp(rows, 1))
    y[0].backward()
    assert x.grad[0].tolist() == [0.0, 1.0]


def test_sums_of_nothing():
    x = tg.Value(np.zeros((0, 3)))
    assert np.sum(x).item() == 0.0
    assert np.sum(x, axis=0).tolist() == [0.0, 0.0, 0.0]
    assert np.sum(x, axis=1).shape == (0,)
    assert np.prod(x, axis=0).tolist() == [1.0, 1.0, 1.0]
    assert np.cumsum(x, axis=0).shape == (0, 3)
    with pytest.raises(tg.errors.ShapeError, match="max"):
        np.max(x)


def test_long_sums_keep_their_accuracy():
    x = np.full(2**20, 0.1, np.float32)
    assert np.sum(tg.Value(x)).item() == pytest.approx(0.1 * 2**20, rel=1e-6)


# Products

MATMUL = [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((1, 3), (3, 1)), ((2, 1), (1, 4)),
    ((5, 2, 3), (3, 4)), ((2, 3), (5, 3, 4)), ((5, 2, 3), (5, 3, 4)), ((1, 2, 3), (5, 3, 4)), ((5, 2, 3), (1, 3, 4)),
    ((6, 1, 2, 3), (5, 3, 4)), ((6, 5, 2, 3), (5, 3, 4)), ((6, 1, 2, 3), (1, 5, 3, 4)), ((5, 2, 3), (3,)), ((3,),
    (5, 3, 4)),
]  # fmt: skip


@dtypes
@pytest.mark.parametrize(("left", "right"), MATMUL, ids=str)
def test_matmul(left, right, dtype, rng):
    check(lambda x, y: x @ y, rng.normal(size=left), rng.normal(size=right), rng=rng, dtype=dtype)


VIEWS = {
    "transposed": lambda x: np.swapaxes(x, -1, -2),
    "rows backwards": lambda x: x[..., ::-1, :],
    "columns backwards": lambda x: x[..., ::-1],
    "every other row": lambda x: x[..., ::2, :],
    "every other column": lambda x: x[..., ::2],
    "inner part": lambda x: x[..., 1:-1, 1:-1],
    "transposed part": lambda x: np.swapaxes(x[..., 1:-1, 1:-1], -1, -2),
    "repeated row": lambda x: np.broadcast_to(x[..., :1, :], (*x.shape[:-2], 4, x.shape[-1])),
    "repeated column": lambda x: np.broadcast_to(x[..., :1], (*x.shape[:-1], 4)),
}


@pytest.mark.parametrize("batch", [(), (2,)], ids=["plain", "batch"])
@pytest.mark.parametrize("name", VIEWS)
def test_matmul_of_views(name, batch, rng):
    view = VIEWS[name]
    x = rng.normal(size=(*batch, 4, 6))
    m, n = view(x).shape[-2:]
    check(lambda x, y: view(x) @ y, x, rng.normal(size=(*batch, n, 3)), rng=rng)
    check(lambda x, y: y @ view(x), x, rng.normal(size=(*batch, 3, m)), rng=rng)
    check(lambda x: view(x) @ np.swapaxes(view(x), -1, -2), x, rng=rng)
    check(lambda x, y: view(x) @ y, x, rng.normal(size=n), rng=rng)
    check(lambda x, y: view(x[::-1]) @ y, rng.normal(size=(3, 4, 6)), rng.normal(size=(n, 2)), rng=rng)
    check(lambda x, y: view(x[::2, ::-1]) @ y, rng.normal(size=(3, 4, 6)), rng.normal(size=(2, n, 2)), rng=rng)


@pytest.mark.parametrize(
    ("left", "right"),
    [((0, 3), (3, 4)), ((2, 0), (0, 4)), ((2, 3), (3, 0)), ((0, 2, 3), (3, 4)), ((0,), (0,)), ((2, 0), (0,))],
)
def test_matmul_of_nothing(left, right):
    check(lambda x, y: x @ y, np.ones(left), np.ones(right))


# On some processors a product of so many numbers is several calls of BLAS; see `tapegrad.ops.blas`.
@dtypes
@pytest.mark.parametrize(("m", "k", "n"), [(64, 785, 128), (785, 64, 128), (128, 128, 128), (63, 129, 777)], ids=str)
@pytest.mark.parametrize("transposed", ["", "x", "y", "xy"])
def test_matmul_of_middle_size(m, k, n, transposed, dtype, rng):
    x, y, weight = rng.normal(size=(m, k)), rng.normal(size=(k, n)), rng.normal(size=(m, n))

    def stored(a, name):
        return np.ascontiguousarray(a.T if name in transposed else a, dtype)

    def f(x, y):
        return np.sum((x.T if "x" in transposed else x) @ (y.T if "y" in transposed else y) * weight.astype(dtype))

    value, (gx, gy) = tg.value_and_grad(f, (0, 1))(stored(x, "x"), stored(y, "y"))
    rtol = 1e-12 if dtype == np.float64 else 1e-4
    np.testing.assert_allclose(value, np.sum(x @ y * weight), rtol=rtol, atol=rtol * np.sqrt(m * k * n))
    np.testing.assert_allclose(gx, stored(weight @ y.T, "x"), rtol=rtol, atol=30 * rtol)
    np.testing.assert_allclose(gy, stored(x.T @ weight, "y"), rtol=rtol, atol=30 * rtol)


@pytest.mark.parametrize(("m", "k", "n"), [(3, 4, 30), (3, 30, 4), (3, 29, 5), (30, 4, 5), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_products_in_parts(m, k, n, beta, monkeypatch, rng):
    calls, whole = [], blas.blas
    monkeypatch.setattr(blas, "PART", 100)
    monkeypatch.setattr(blas, "SHORTEST", 4)
    monkeypatch.setattr(blas, "blas", lambda *args: calls.append(args[2:5]) or whole(*args))
    for ta in (False, True):
        for tb in (False, True):
            a, b, c = (rng.normal(size=size) for size in (m * k, k * n, m * n))
            # Column-major, as BLAS has them.
            x = a.reshape(m, k) if ta else a.reshape(k, m).T
            y = b.reshape(k, n) if tb else b.reshape(n, k).T
            expected = (x @ y).T.reshape(-1) + beta * c
            blas.gemm(ta, tb, m, n, k, a, 0, k if ta else m, b, 0, n if tb else k, beta, c, 0, m)
            np.testing.assert_allclose(c, expected, rtol=1e-12, atol=1e-12)
    assert sum(math.prod(size) for size in calls) == 4 * m * n * k
    assert (len(calls) > 4) == (max(n, k) > 20)


@dtypes
@pytest.mark.parametrize("shape", [(4,), (3, 4), (1, 4), (2, 3, 4), (0, 4), (3, 0)], ids=str)
def test_affine(shape, dtype, rng):
    x, w, b = rng.normal(size=shape), rng.normal(size=(5, shape[-1])), rng.normal(size=10)
    check(affine, x, w.T, b[:5], reference=lambda x, w, b: x @ w + b, rng=rng, dtype=dtype)
    check(
        lambda x, w, b: affine(x, w.T, b[::2]), x, w, b,
        reference=lambda x, w, b: x @ w.T + b[::2], rng=rng, dtype=dtype,
    )  # fmt: skip
    assert isinstance(affine(x, w.T, b[:5]), np.ndarray)


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (4, 5), (5,)), ((2, 3), (3, 5), (4,)), ((2, 3), (3, 5), (1, 5)), ((), (3, 5), (5,))],
)
def test_affine_of_other_shapes(shapes):
    with pytest.raises(ShapeError, match="do not fit"):
        affine(*(Value(np.ones(shape)) for shape in shapes))


# Exponentials are computed for several rows at a time where a row has few classes.
@dtypes
@pytest.mark.parametrize(
    ("n", "classes"), [(70, 10), (1, 1), (3, 256), (3, 257), (300, 2), (2, 128), (5, 1000)], ids=str
)
def test_cross_entropy_of_many_rows(n, classes, dtype, rng):
    x, labels = (30.0 * rng.normal(size=(n, classes))).astype(dtype), rng.integers(0, classes, n)
    value, gradient = tg.value_and_grad(lambda x: tg.cross_entropy(x, labels, "sum"))(x)
    exact = x.astype(float)
    chosen = np.arange(classes) == labels[:, None]
    rtol = 1e-13 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(value, np.sum(scipy.special.logsumexp(exact, 1) - exact[chosen]), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(gradient, scipy.special.softmax(exact, 1) - chosen, rtol=10 * rtol, atol=rtol)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((), ()),
        ((), (3,)),
        ((3,), (3,)),
        ((2, 3), (3,)),
        ((2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((2, 5, 3), (3, 4)),
        ((3,), (5, 3, 4)),
    ],
    ids=str,
)
def test_dot(left, right, rng):
    check(np.dot, rng.normal(size=left), rng.normal(size=right), rng=rng)


def test_inner_outer_vdot_trace(rng):
    x, y = rng.normal(size=(2, 3)), rng.normal(size=(4, 3))
    check(np.inner, x, y)
    check(np.inner, x, y[0])
    check(np.inner, x[0], y[0])
    check(np.outer, x, y)
    check(np.outer, x[0], y[0])
    check(np.vdot, x, 2 * x)
    check(np.trace, rng.normal(size=(4, 3)))
    check(lambda x: np.trace(x, offset=1), rng.normal(size=(4, 5)))


@pytest.mark.parametrize(
    ("left", "right", "axes"),
    [
        ((2, 3, 4), (3, 4, 5), 2), ((2, 3), (3, 4), 1), ((2, 3), (4,), 0), ((2, 3, 4), (4, 3, 5), ([1, 2], [1, 0])),
        ((2, 3, 4), (3, 5), (1, 0)), ((2, 3, 4), (5, 3), (-2, -1)), ((3, 4), (3, 4), 2),
    ],
    ids=str,
)  # fmt: skip
def test_tensordot(left, right, axes, rng):
    check(lambda x, y: np.tensordot(x, y, axes), rng.normal(size=left), rng.normal(size=right), rng=rng)


EINSUM = [
    "i->", "i->i", "ij->ji", "ij->j", "ij->", "ij", "ji", "ii", "ii->i", "iij->j", "iji->ij", "iii->i", "ijk->kij",
    "i,i", "i,i->i", "i,j", "i,j->ji", "ij,jk", "ij,jk->ik", "ij,kj->ik", "ji,jk->ki", "ij,ij", "ij,ij->i", "ij,ij->ji",
    "bij,bjk->bik", "bij,bkj->kbi", "bij,jk->bik", "bij,bij->b", "ij,k->ikj", "ii,ij->j", "ij,jj->i", "ij,kl->",
    "ijk,jil->kl",
    "ij, j -> i", ",i->i", ",->", "ij,kj->k",
]  # fmt: skip


@pytest.mark.parametrize("subscripts", EINSUM)
def test_einsum(subscripts, rng):
    sizes = {"i": 3, "j": 4, "k": 2, "l": 5, "b": 2}
    terms = subscripts.replace(" ", "").split("->")[0].split(",")
    for term in terms:
        if "ii" in term or "iji" in term or "jj" in term:
            sizes |= {"i": 3, "j": 4}
    arrays = [rng.normal(size=[sizes[c] for c in term]) for term in terms]
    check(lambda *xs: np.einsum(subscripts, *xs), *arrays, rng=rng)


# Losses


def torch_loss(logits, labels, reduction):
    torch = pytest.importorskip("torch")
    x = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(x, torch.tensor(labels), reduction=reduction)
    loss.sum().backward()
    return loss.detach().numpy(), x.grad.numpy()


@dtypes
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_that_of_torch(reduction, dtype, rng):
    logits = (rng.normal(size=(7, 5)) * 4).astype(dtype)
    labels = rng.integers(0, 5, 7)
    expected, slope = torch_loss(logits, labels, reduction)
    eps = np.finfo(dtype).eps
    for layout in (lambda x: x, lambda x: x.T.copy().T):
        x = tg.Value(layout(logits))
        loss = tg.cross_entropy(x, labels, reduction)
        np.testing.assert_allclose(loss.data, expected, rtol=20 * eps, atol=4 * eps)
        loss.backward(np.ones(loss.shape))
        np.testing.assert_allclose(x.grad, slope, rtol=50 * eps, atol=4 * eps)


def test_cross_entropy_shapes(rng):
    labels = np.array([[0, 2], [1, 1], [2, 0]])

    def reference(x):
        return -np.take_along_axis(scipy.special.log_softmax(x, -1), labels[..., None], -1)[..., 0]

    check(lambda x: tg.cross_entropy(x, labels, "none"), rng.normal(size=(3, 2, 4)), reference=reference, rng=rng)
    check(lambda x: tg.cross_entropy(x, 1), rng.normal(size=4), reference=lambda x: -scipy.special.log_softmax(x)[1])
    check(lambda x: tg.cross_entropy(x.T, [0, 1]), rng.normal(size=(3, 2)),
          reference=lambda x: -np.mean(scipy.special.log_softmax(x.T, 1)[[0, 1], [0, 1]]))  # fmt: skip


@pytest.mark.parametrize("worst", [-30.0, -3000.0, -np.inf])
def test_cross_entropy_of_an_improbable_label(worst):
    expected = [*scipy.special.softmax([0.0, 0.5]), -1.0]
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 1e-6)):
        x = tg.Value(np.array([[0.0, 0.5, worst]], dtype))
        tg.cross_entropy(x, [2]).backward()
        np.testing.assert_allclose(x.grad[0], expected, rtol=rtol)


@dtypes
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax(axis, dtype, rng):
    x = rng.normal(size=(3, 4, 2)) * 3
    check(lambda x: tg.softmax(x, axis), x, reference=lambda x: scipy.special.softmax(x, axis), dtype=dtype)
    check(lambda x: tg.log_softmax(x, axis), x, reference=lambda x: scipy.special.log_softmax(x, axis), dtype=dtype)


def test_softmax_far_out():
    x = tg.Value([1e4, 0.0, -1e4])
    assert tg.softmax(x).tolist() == [1.0, 0.0, 0.0]
    assert tg.log_softmax(x).tolist() == [0.0, -1e4, -2e4]


def test_long_sums_are_as_exact_as_they_can_be(rng):
    numbers = rng.random(1_280_001)
    exact = math.fsum(numbers)
    for x, expected in ((numbers, exact), (np.stack([numbers, -numbers], 1)[:, 1], -exact)):
        assert abs(np.sum(Value(x)).item() - expected) <= 4e-16 * exact
    assert np.sum(Value([np.inf] * 200)).item() == np.inf and np.isnan(np.sum(Value([np.inf, -np.inf] * 100)).item())
    # Equal numbers: every weight is 1 / n.
    n = 1_000_000
    assert abs(tg.logsumexp(Value(np.full(n, 3.0))).item() - (3.0 + math.log(n))) <= 4e-15
    single = np.full(100_000, 0.1, np.float32)
    assert tg.logsumexp(Value(single)).item() == pytest.approx(0.1 + math.log(100_000), rel=1e-7)


def test_the_derivative_of_a_deviation_of_equal_numbers_is_zero(rng):
    assert tg.grad(np.std)(3.5) == 0.0
    assert tg.grad(np.std)(np.full(4, 2.0)).tolist() == [0.0] * 4
    assert tg.hessian(np.std)(np.full(2, 2.0)).shape == (2, 2)
    x = rng.normal(size=(3, 4))
    for options in ({}, {"ddof": 1}, {"axis": 1, "keepdims": True}):
        np.testing.assert_allclose(np.std(Value(x), **options).data, np.std(x, **options), rtol=1e-14)
        tg.check_grads(lambda x, options=options: np.std(x, **options), (x,))
    assert np.std(Value([1e200, -1e200])).item() == 1e200
