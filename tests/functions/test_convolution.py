"""Convolutions and pooling: values and derivatives against PyTorch and differences, bad input, lanes, machine code."""

import itertools
import signal
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.compiled import interpreted
from tapegrad.errors import OperationError, ShapeError

torch = pytest.importorskip("torch")
F = torch.nn.functional
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVG = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
CLOSE = {np.float64: 1e-10, np.float32: 1e-5}
SPACE = {1: (11,), 2: (9, 7), 3: (5, 6, 7)}
KERNEL = {1: (3,), 2: (3, 2), 3: (2, 3, 2)}


def close(found, expected, dtype=np.float64):
    expected = expected.detach().numpy() if isinstance(expected, torch.Tensor) else np.asarray(expected)
    assert found.shape == expected.shape and found.dtype == dtype
    scale = np.abs(expected).max(initial=1.0)
    np.testing.assert_allclose(found, expected, rtol=0.0, atol=CLOSE[dtype] * scale)


def compare(ours, theirs, operands, dtype=np.float64, **options):
    """Value, and the gradient of a weighted sum, at the operands; None among these is left out."""
    rng = np.random.default_rng(5)
    given = [None if x is None else x.astype(dtype) for x in operands]
    tensors = [None if x is None else torch.tensor(x, requires_grad=True) for x in given]
    expected = theirs(*tensors, **options)
    weights = rng.normal(size=expected.shape).astype(dtype)
    (expected * torch.tensor(weights)).sum().backward()
    close(ours(*[None if x is None else tg.Value(x) for x in given], **options).numpy(), expected, dtype)
    some = [i for i, x in enumerate(given) if x is not None]

    def loss(*xs):
        every = [None] * len(given)
        for i, x in zip(some, xs, strict=True):
            every[i] = x
        return np.sum(ours(*every, **options) * weights)

    gradients = tg.grad(loss, argnums=tuple(range(len(some))))(*[given[i] for i in some])
    for i, g in zip(some, gradients, strict=True):
        close(g, tensors[i].grad, dtype)


def operands(axes, ci, co, groups, space=None, kernel=None, n=2, bias=True, transposed=False):
    rng = np.random.default_rng(axes)
    space, kernel = space or SPACE[axes], kernel or KERNEL[axes]
    x = rng.normal(size=(n, (co if transposed else ci) * groups, *space))
    w = rng.normal(size=(co * groups, ci, *kernel))
    return x, w, rng.normal(size=(ci if transposed else co) * groups) if bias else None


CASES = [
    # axes, stride, padding, dilation, groups, dtype
    *itertools.product((1, 2, 3), (1, 2, 3), (0, 2), (1, 2), (1,), (np.float64,)),
    *itertools.product((1, 2), (1, 2), (1,), (1, 3), (3,), (np.float64, np.float32)),
    *itertools.product((1, 2, 3), (2,), (1,), (1,), (1,), (np.float32,)),
]


@pytest.mark.parametrize(("axes", "stride", "padding", "dilation", "groups", "dtype"), CASES)
def test_as_pytorch(axes, stride, padding, dilation, groups, dtype):
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    compare(tg.conv, CONV[axes], operands(axes, 2, 3, groups), dtype, **options)
    x, w, b = operands(axes, 2, 3, groups, transposed=True)
    if all((n - 1) * stride + dilation * (k - 1) + 1 > 2 * padding for n, k in zip(x.shape[2:], w.shape[2:])):
        more = {"output_padding": max(stride, dilation) - 1}
        compare(tg.conv_transpose, TRANSPOSED[axes], (x, w, b), dtype, **options, **more)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("n", "ci", "co", "groups", "space", "kernel", "options"),
    [
        (5, 3, 17, 1, (28, 28), (3, 3), {"padding": 1}),
        (33, 2, 9, 1, (14, 14), (3, 3), {"padding": 1}),  # images go together in the weights' gradient
        (2, 40, 4, 1, (70, 90), (3, 3), {}),  # more than one block of rows
        (1, 8, 2, 1, (20, 40, 50), (3, 3, 3), {"stride": (1, 2, 1)}),
        (3, 1, 1, 8, (15, 15), (5, 5), {"padding": 2}),  # depthwise
        (2, 5, 7, 1, (13, 9), (1, 1), {"stride": 2}),
        (1, 3, 4, 1, (16, 16), (4, 4), {"stride": 4}),
        (2, 2, 3, 1, (6, 5), (2, 2), {"stride": 3, "padding": 3}),
        (2, 3, 2, 1, (4000,), (7,), {"dilation": 5, "padding": 15}),
    ],
)
def test_sizes(n, ci, co, groups, space, kernel, options, dtype):
    axes = len(space)
    given = operands(axes, ci, co, groups, space, kernel, n, bias=n != 3)
    compare(tg.conv, CONV[axes], given, dtype, groups=groups, **options)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_and_valid_and_no_batch():
    x, w, b = operands(2, 2, 3, 1, kernel=(4, 3))
    for padding in ("same", "valid"):
        compare(tg.conv, F.conv2d, (x, w, b), padding=padding, dilation=(1, 2))
    compare(tg.conv, F.conv2d, (x[0], w, b), padding=(2, 0))
    x, w, b = operands(1, 2, 3, 1, transposed=True)
    compare(tg.conv_transpose, F.conv_transpose1d, (x[1], w, None), stride=2)


def test_numbers_give_numbers():
    x, w, b = operands(2, 2, 3, 1)
    found = tg.conv(x, w, b)
    assert isinstance(found, np.ndarray)
    close(found, CONV[2](*map(torch.tensor, (x, w, b))))
    assert isinstance(tg.max_pool(x, (2, 2)), np.ndarray)


def test_operands_that_are_not_contiguous():
    x, w, _ = operands(2, 2, 3, 1)
    turned = lambda x, w: tg.conv(np.swapaxes(x, 2, 3)[:, ::-1], w[..., ::-1])
    gx, gw = tg.grad(lambda x, w: np.sum(np.sin(turned(x, w))), argnums=(0, 1))(x, w)
    tensors = [torch.tensor(a, requires_grad=True) for a in (x, w)]
    F.conv2d(tensors[0].swapaxes(2, 3).flip(1), tensors[1].flip(3)).sin().sum().backward()
    close(gx, tensors[0].grad)
    close(gw, tensors[1].grad)


@pytest.mark.parametrize("compile", [True, False])
def test_a_program_of_many_numbers(compile):
    """Long results that the way back does not read leave their places to others."""
    rng = np.random.default_rng(0)
    x, v, w, b = (rng.normal(size=size) for size in ((4, 3, 50, 50), (8, 3, 3, 3), (5, 8, 3, 3), 5))

    def ours(x, v, w, b):
        x = tg.max_pool(tg.relu(tg.conv(x, v, padding=1)), (2, 2))
        return tg.avg_pool(np.tanh(tg.conv_transpose(tg.conv(x, w, b, stride=2) ** 2, w, stride=2)), (3, 3), 2)

    tensors = [torch.tensor(a, requires_grad=True) for a in (x, v, w, b)]
    t = F.max_pool2d(F.conv2d(tensors[0], tensors[1], padding=1).relu(), 2)
    t = F.conv_transpose2d(F.conv2d(t, *tensors[2:], stride=2) ** 2, tensors[2], stride=2)
    expected = (F.avg_pool2d(t.tanh(), 3, 2) ** 2).sum()
    expected.backward()
    found = tg.value_and_grad(lambda *a: np.sum(ours(*a) ** 2), argnums=(0, 1, 2, 3), compile=compile)
    for _ in range(2):
        value, gradients = found(x, v, w, b)
        assert value == pytest.approx(expected.item(), rel=1e-12)
        for g, t in zip(gradients, tensors, strict=True):
            close(g, t.grad)


@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("name", ["conv", "conv_transpose", "max_pool", "avg_pool"])
def test_all_orders(name, compile):
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(2, 2, 4, 5)), rng.normal(size=(2, 2, 3, 2)), rng.normal(size=2)
    options = {"stride": (1, 2), "padding": (1, 0)}
    net = {
        "conv": lambda x, w, b: tg.conv(np.sin(x), w * w, b, **options),
        "conv_transpose": lambda x, w, b: tg.conv_transpose(np.sin(x), w * w, b, **options),
        "max_pool": lambda x, w, b: tg.max_pool(np.sin(x), (2, 3), **options) * b[:, None, None] * np.sum(w),
        "avg_pool": lambda x, w, b: tg.avg_pool(np.sin(x) * np.sum(w), (2, 3), **options) * b[:, None, None],
    }[name]
    loss = lambda x, w, b: np.sum(net(x, w, b) ** 3)
    tg.check_grads(loss, (x, w, b), order=2)
    every = (0, 1, 2)
    H = tg.hessian(loss, argnums=every, compile=compile)(x, w, b)
    v = [rng.normal(size=a.shape) for a in (x, w, b)]
    products = tg.hvp(loss, (x, w, b), tuple(v))
    for i, row in enumerate(H):
        expected = sum(np.tensordot(block, d, d.ndim) for block, d in zip(row, v))
        np.testing.assert_allclose(products[i], expected, rtol=1e-9, atol=1e-9)
        for j, block in enumerate(row):
            np.testing.assert_allclose(block, np.moveaxis(H[j][i], range(v[j].ndim), range(-v[j].ndim, 0)), atol=1e-9)
    # A third derivative, forward over the product with the Hessian, against differences of it.
    along = lambda t: tg.hvp(loss, (x + t * v[0], w, b), tuple(v))[0]
    third = tg.jvp(lambda x: tg.hvp(loss, (x, w, b), tuple(v))[0], (x,), (v[0],))[1]
    np.testing.assert_allclose(third, (along(1e-5) - along(-1e-5)) / 2e-5, rtol=1e-5, atol=1e-5 * np.abs(third).max())
    forward, back = (f(net, argnums=every)(x, w, b) for f in (tg.jacfwd, tg.jacrev))
    for p, q in zip(forward, back, strict=True):
        np.testing.assert_allclose(p, q, atol=1e-12)


def test_second_derivatives_as_jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    x, w, _ = operands(2, 2, 3, 1)

    def theirs(x, w):
        z = jax.lax.conv_general_dilated(x, w, (2, 1), ((1, 1), (0, 0)), rhs_dilation=(1, 2))
        return (jax.numpy.tanh(z) ** 2).sum()

    ours = lambda x, w: np.sum(np.tanh(tg.conv(x, w, stride=(2, 1), padding=(1, 0), dilation=(1, 2))) ** 2)
    found, expected = tg.hessian(ours, argnums=(0, 1))(x, w), jax.hessian(theirs, argnums=(0, 1))(x, w)
    for i, j in itertools.product(range(2), range(2)):
        close(found[i][j], np.asarray(expected[i][j]))


def test_sparse_patterns():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(1, 2, 12)), rng.normal(size=(2, 2, 3))
    for f in (
        lambda x: np.sin(tg.conv(x, w, padding=1)),
        lambda x: np.sin(tg.conv_transpose(x, w, stride=2)),
        lambda x: tg.max_pool(x, (3,), stride=2, padding=1) ** 2,
        lambda x: tg.avg_pool(x, (3,), stride=2, padding=1) ** 2,
    ):
        dense = tg.jacobian(f)(x)
        found = tg.jacobian(f, sparse=True)(x)
        np.testing.assert_allclose(found.toarray(), dense.reshape(found.shape), atol=1e-12)
        assert found.nnz < dense.size / 2
    loss = lambda x: np.sum(tg.conv(x, w, padding=1) ** 4)
    found, dense = tg.hessian(loss, sparse=True)(x), tg.hessian(loss)(x)
    np.testing.assert_allclose(found.toarray(), dense.reshape(found.shape), atol=1e-10)
    assert found.nnz < dense.size / 2


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize("transposed", [False, True])
def test_vmap(axes, transposed):
    rng = np.random.default_rng(0)
    x, w, b = rng.normal(size=(10, 2, 4, 6, 5)), rng.normal(size=(10, 4, 2, 3, 2)), rng.normal(size=(10, 4))
    options = {"stride": 2, "padding": 1, "groups": 1 if transposed else 2}
    b = b[:, :2] if transposed else b
    one = tg.conv_transpose if transposed else tg.conv
    f = lambda x, w: np.sum(one(x, w, b[0], **options) ** 2, axis=(1, 2, 3))
    g = tg.grad(lambda x, w: np.sum(f(x, w) ** 2), argnums=(0, 1))
    given = [a if axis == 0 else a[0] for a, axis in zip((x, w), axes)]
    for h in (f, g):
        found = tg.vmap(h, in_axes=axes)(*given)
        each = [h(*[a[i] if axis == 0 else a for a, axis in zip(given, axes)]) for i in range(10)]
        for p, q in zip(found if h is g else (found,), zip(*each) if h is g else (each,)):
            np.testing.assert_allclose(p, np.stack(q), rtol=1e-10, atol=1e-10)


def test_vmap_of_pooling():
    x = np.random.default_rng(0).normal(size=(11, 3, 8, 9))
    for pool in (tg.max_pool, tg.avg_pool):
        f = lambda x, pool=pool: np.sum(pool(x, (3, 2), padding=1) ** 2)
        np.testing.assert_allclose(tg.vmap(tg.grad(f))(x), np.stack([tg.grad(f)(a) for a in x]), atol=1e-12)


POOLED = [
    *itertools.product((1, 2, 3), (1, 2, 3, None), (0, 1), (1, 2), (False, True), (np.float64,)),
    *itertools.product((2,), (2,), (0, 1), (1,), (False,), (np.float32,)),
]


@pytest.mark.parametrize(("axes", "stride", "padding", "dilation", "ceil_mode", "dtype"), POOLED)
def test_pooling_as_pytorch(axes, stride, padding, dilation, ceil_mode, dtype):
    x = np.random.default_rng(axes).normal(size=(2, 3, *SPACE[axes]))
    options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    ours = lambda x, **o: tg.max_pool(x, 2, axes=axes, **o)
    compare(ours, lambda x, **o: MAX[axes](x, 2, **o), (x,), dtype, **options, dilation=dilation)
    for count in (False, True) if dilation == 1 else ():
        ours = lambda x, **o: tg.avg_pool(x, KERNEL[axes], **o)
        theirs = lambda x, **o: AVG[axes](x, KERNEL[axes], **o)
        compare(ours, theirs, (x,), dtype, **options, count_include_pad=count)


def test_long_rows_are_pooled_in_parts():
    x = np.random.default_rng(0).normal(size=(2, 3, 1000))
    compare(lambda x: tg.max_pool(x, (3,), 2, 1), lambda x: F.max_pool1d(x, 3, 2, 1), (x,))
    compare(lambda x: tg.max_pool(x, (5,), 3), lambda x: F.max_pool1d(x, 5, 3), (x,))


def test_ties_nan_and_infinity():
    gradient = lambda x: tg.grad(lambda x: np.sum(tg.max_pool(x, (4,)) * np.array([1.0, 10.0])))(np.asarray(x))
    equal = [[2.0, 3.0, 3.0, 1.0, -np.inf, -np.inf, -np.inf, -np.inf]]
    assert gradient(equal).tolist() == [[0.0, 1.0, 0.0, 0.0, 10.0, 0.0, 0.0, 0.0]]
    odd = [[2.0, np.nan, np.nan, np.inf, 0.0, np.inf, 1.0, np.inf]]
    assert gradient(odd).tolist() == [[0.0, 1.0, 0.0, 0.0, 0.0, 10.0, 0.0, 0.0]]
    np.testing.assert_array_equal(tg.max_pool(np.asarray(odd), (4,)), [[np.nan, np.inf]])


def test_a_replay_takes_other_elements():
    rng = np.random.default_rng(0)
    slope = tg.grad(lambda x: np.sum(tg.max_pool(x, (2, 2)) ** 2))
    for _ in range(3):
        x = rng.normal(size=(2, 4, 6))
        t = torch.tensor(x, requires_grad=True)
        (F.max_pool2d(t, 2) ** 2).sum().backward()
        close(slope(x), t.grad)


def test_nothing_to_do():
    w, b = np.ones((3, 2, 3, 3)), np.arange(3.0)
    assert tg.conv(np.ones((0, 2, 5, 5)), w, b).shape == (0, 3, 3, 3)
    gw, gb = tg.grad(lambda w, b: np.sum(tg.conv(np.ones((0, 2, 5, 5)), w, b)), argnums=(0, 1))(w, b)
    assert not gw.any() and not gb.any()
    assert tg.conv_transpose(np.ones((0, 3, 5, 5)), w).shape == (0, 2, 7, 7)
    assert tg.max_pool(np.ones((0, 2, 4)), (2,)).shape == tg.avg_pool(np.ones((0, 2, 4)), (2,)).shape == (0, 2, 2)
    # Without channels only the bias is left.
    np.testing.assert_array_equal(tg.conv(np.ones((1, 0, 5, 5)), np.ones((3, 0, 3, 3)), b)[0, :, 0, 0], b)


X, W = np.ones((2, 4, 8, 8)), np.ones((6, 4, 3, 3))


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda: tg.conv(X, W[:, :3]), ShapeError, ["(6, 3, 3, 3)", "3 channels", "(2, 4, 8, 8)"]),
        (lambda: tg.conv(X, W[:5, :2], groups=2), ShapeError, ["5 channels", "groups=2"]),
        (lambda: tg.conv(X, W[0]), ShapeError, ["(4, 3, 3)", "(2, 4, 8, 8)"]),
        (lambda: tg.conv(X, W[0, 0]), ShapeError, ["one, two or three axes", "(3, 3)"]),
        (lambda: tg.conv(X[0, 0], W), ShapeError, ["4 axes", "(8, 8)"]),
        (lambda: tg.conv(X, W, np.ones(5)), ShapeError, ["(6,)", "(5,)"]),
        (lambda: tg.conv(X, W, dilation=4), ShapeError, ["(9, 9)", "(2, 4, 8, 8)"]),
        (lambda: tg.conv(X, W[..., :0]), ShapeError, ["without elements"]),
        (lambda: tg.conv(X, W, stride=0), OperationError, ["stride", "1 or more"]),
        (lambda: tg.conv(X, W, stride=(1, 2, 3)), OperationError, ["stride", "(1, 2, 3)"]),
        (lambda: tg.conv(X, W, stride=1.5), OperationError, ["stride", "1.5"]),
        (lambda: tg.conv(X, W, padding=-1), OperationError, ["padding", "-1"]),
        (lambda: tg.conv(X, W, padding="full"), OperationError, ["'same'", "'full'"]),
        (lambda: tg.conv(X, W, padding="same", stride=2), OperationError, ["stride 1"]),
        (lambda: tg.conv_transpose(X, W), ShapeError, ["6 channels", "has 4"]),
        (lambda: tg.conv_transpose(X, W[:4], stride=2, output_padding=2), OperationError, ["output_pa", "stride 2"]),
        (lambda: tg.conv_transpose(X[:, :, :1, :1], W[:4], padding=2), ShapeError, ["nothing is left"]),
        (lambda: tg.max_pool(X, 2), OperationError, ["axes=2", "(2, 2)"]),
        (lambda: tg.max_pool(X, 9, axes=2), ShapeError, ["(9, 9)", "(2, 4, 8, 8)"]),
        (lambda: tg.max_pool(X, 3, padding=2, axes=2), OperationError, ["half"]),
        (lambda: tg.max_pool(X, (2, 2), axes=3), OperationError, ["3 numbers", "(2, 2)"]),
        (lambda: tg.max_pool(X, 2, axes=4), OperationError, ["three axes", "4"]),
        (lambda: tg.avg_pool(np.ones(3), (2, 2)), ShapeError, ["2 axes", "(3,)"]),
        (lambda: tg.max_pool(X[..., :1], (2,), padding=1, dilation=2), ShapeError, ["no element", "(2, 4, 8, 1)"]),
    ],
)
def test_bad_input(call, error, parts):
    with pytest.raises(error) as raised:
        call()
    assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_saved_and_loaded(tmp_path):
    x, w, b = operands(2, 2, 3, 1)
    r = tg.record(lambda x, w, b: np.sum(tg.max_pool(tg.conv(x, w, b, padding=1), (2, 2)) ** 2), x, w, b)
    r.save(tmp_path / "net.tape")
    loaded = tg.load(tmp_path / "net.tape")
    np.testing.assert_array_equal(loaded(x, w, b), r(x, w, b))
    for p, q in zip(loaded.grad(x, w, b, argnums=(0, 1, 2)), r.grad(x, w, b, argnums=(0, 1, 2)), strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("many", [2**33, 2**40, 2**62, 2**63 - 1])
def test_huge_strides_and_dilations_are_refused_and_never_reach_out_of_bounds(many):
    x, w = tg.Value(np.arange(4.0)[None, None]), np.ones((1, 1, 3))
    with pytest.raises(OperationError, match=r"2\*\*40 at most|planes of"):
        tg.conv(x, w, dilation=many, padding=many)
    if many > 2**40:
        for pool in (tg.max_pool, tg.avg_pool):
            with pytest.raises(OperationError, match=r"2\*\*40 at most"):
                pool(x, (2,), stride=many)
    else:
        assert tg.max_pool(x, (2,), stride=many).data.tolist() == [[[1.0]]]


def weighted(convolved, x, q, w, **options):
    return np.sum(convolved(x, w, **options) * q)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("number", [np.nan, np.inf])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_numbers_that_are_not_finite_reach_their_own_weights_only(number, channel, dtype):
    # At corners, where the numbers of the next channel follow in memory.
    rng = np.random.default_rng(0)
    for side, k, stride, padding in itertools.product((3, 5, 8), (1, 2, 3), (1, 2), (0, 1)):
        x, w = rng.normal(size=(2, 3, side, side)).astype(dtype), rng.normal(size=(4, 3, k, k)).astype(dtype)
        x[0, channel, 0, 0] = x[1, channel, -1, -1] = number
        q = rng.normal(size=tg.conv(x, w, stride=stride, padding=padding).shape).astype(dtype)
        loss = partial(weighted, tg.conv, x, q, stride=stride, padding=padding)
        gradient = tg.grad(loss, compile=False)(w)
        padded, outputs = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding))), q.shape[2]
        expected = np.empty_like(w)
        with np.errstate(invalid="ignore"):
            for i, j in np.ndindex(k, k):
                met = padded[:, :, i : i + stride * outputs : stride, j : j + stride * outputs : stride]
                expected[:, :, i, j] = (met[:, None] * q[:, :, None]).sum((0, 3, 4))
        np.testing.assert_allclose(gradient, expected, rtol=1e-4 if dtype == np.float32 else 1e-10, atol=1e-5)


def test_a_gradient_that_is_nan_in_one_channel_leaves_the_weights_of_others():
    rng = np.random.default_rng(0)
    y, w = rng.normal(size=(2, 4, 5, 5)), rng.normal(size=(4, 3, 3, 3))
    for channel, padding in itertools.product(range(3), (0, 1)):
        q = np.ones_like(tg.conv_transpose(y, w, padding=padding))
        q[0, channel, 0, 0] = q[1, channel, -1, -1] = np.nan
        gradient = tg.grad(partial(weighted, tg.conv_transpose, y, q, padding=padding), compile=False)(w)
        assert np.isnan(gradient[:, channel]).any()
        assert np.isfinite(np.delete(gradient, channel, 1)).all()


NO_MEMORY = """
import resource
import numpy as np
import tapegrad as tg

# Weights of more than 32 MB: less might be found among what was given back.
x, w = np.ones((1, 512, 3, 3)), np.ones((1024, 512, 3, 3))
convolved = tg.record(lambda x, w: np.sum(tg.conv(x, w)), x, w, compile=False)
assert convolved(x, w) == 1024.0 * 512.0 * 9.0
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (8 << 20),) * 2)
convolved(x, w)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is set as Linux takes it")
@pytest.mark.skipif(interpreted(), reason="NumPy raises MemoryError where nothing is compiled")
def test_where_there_is_no_memory_left_it_is_said():
    """A kernel cannot raise; but it must not write where it was given nothing."""
    done = subprocess.run([sys.executable, "-c", NO_MEMORY], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGABRT
    assert "tapegrad: there is no memory left for what a convolution rearranges" in done.stderr
