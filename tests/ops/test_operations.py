"""Every operation, driven by the table: rows bring their own samples and conventions.

`check_op` holds each against differences, in every sweep. Below is what it does not look at: numbers of other
libraries, last bits, views of every kind, long runs, conventions and the ends of the range.
"""

import math
import subprocess
import sys
import zlib

import numpy as np
import pytest
import scipy.special

import tapegrad as tg
from tapegrad.checking import check_op
from tapegrad.ops import BY_NAME, TABLE, Elementwise, Structured

ROWS = [row for row in TABLE if isinstance(row, Elementwise)]
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])

# Operands that are held constant on purpose.
CONSTANT = {"power_constant": (1,), "detach": (0,)}
Y = np.random.default_rng(0).normal(size=(2, 4, 3))
LINES = [2, 4, 3, 12, 3, 1, 1]
A, B = np.random.default_rng(1).normal(size=(2, 2, 3, 4))
# Two images in two groups of one channel and two results, 3 by 4, windows of 2 by 2 with stride, padding and dilation.
CONVOLVED = [2, 2, 1, 2, 1, 3, 4, 1, 2, 2, 1, 2, 4, 1, 2, 1, 0, 1, 1, 1, 1, 2]
IMAGES, KERNELS, RESULTS, BIASES = (
    np.random.default_rng(2).normal(size=size)
    for size in ((2, 2, 1, 1, 3, 4), (2, 2, 1, 1, 2, 2), (2, 2, 2, 1, 2, 4), 4)
)
# Two arrays of 3 by 4, with windows of 2 by 2 and padding along the last axis; an element of each window.
POOLED = [2, 1, 3, 4, 1, 2, 3, 1, 2, 2, 1, 1, 2, 0, 0, 1, 1, 1, 1]
CHOSEN = np.array([[[[1, 0, 4], [5, 1, 0]]], [[[5, 5, 4], [1, 4, 4]]]])
EXAMPLES = {
    "sum": ((Y,), LINES),
    "prod": ((Y,), LINES),
    "max": ((Y,), LINES),
    "logsumexp": ((Y,), LINES),
    "norm": ((Y,), LINES),
    "cumsum": ((Y,), LINES),
    "matmul": ((A, np.swapaxes(B, 1, 2)), [2, 3, 4, 3, 12, 0, 4, 12, 0, 3]),
    "affine": ((A[0], B[0].T, B[1, 0, :3]), [1, 3, 4, 3, 0, 0, 4, 0, 0, 3]),
    "gather": ((Y, np.array([3, 0, 0, -1, 2])), [2, 4, 3, 5]),
    "scatter": ((Y, np.array([3, 0, 0, -1])), [2, 6, 3, 4]),
    "concatenate": ((A[0, :2], B[0, :2, :2]), [2, 6, 4, 2]),
    "assemble": ((A[0, :2, :3], B[0, 0]), [9, 2, 1, 2, 3, 3, 1, 4, 1, 1, 0, 4, 1, 2]),
    "cross_entropy": ((A[0], np.array([0, 3, 1])), [3, 4]),
    "at_labels": ((A[0], np.array([0, 3, 1])), [3, 4]),
    "lstm_gates": ((A, B, A[1, :2, :3]), [2, 3]),
    "moments": ((Y,), [2, 4, 1, 3, 1]),
    "normalize": ((Y, B[0, 0], A[1, 1], A[0, 0], B[1, 1]), [2, 4, 1, 3, 1, 0]),
    "normalize_sums": ((Y, np.sin(Y), B[0, 0], A[1, 1], A[0, 0]), [2, 4, 1, 3, 1]),
    "normalize_groups": ((Y, A[0, 0], B[1, 1], np.array([0.1])), [1, 2, 2, 6]),
    "normalize_groups_back": ((np.sin(Y), Y, A[0, 0], np.array([0.1])), [1, 2, 2, 6]),
    "dropout_mask": ((np.array([5.5, 6.5, 7.5, 8.5]),), [10, 1 << 31]),
    "argmax": ((Y,), LINES),
    "argsort": ((Y,), LINES),
    "convolution": ((IMAGES, KERNELS), CONVOLVED),
    "convolution_input": ((RESULTS, KERNELS), CONVOLVED),
    "convolution_kernel": ((IMAGES, RESULTS), CONVOLVED),
    "biased_convolution": ((IMAGES, KERNELS, BIASES), CONVOLVED),
    "window_argmax": ((IMAGES[:, 0],), POOLED),
    "window_take": ((IMAGES[:, 0], CHOSEN), POOLED),
    "window_put": ((RESULTS[:, 0, 0, :, :, :3], CHOSEN), POOLED),
    "window_sum": ((IMAGES[:, 0],), POOLED),
    "window_spread": ((RESULTS[:, 0, 0, :, :, :3],), POOLED),
}
STRUCTURED = [row.name for row in TABLE if isinstance(row, Structured)]
# A call of a Python function: it is put on the tape by `tg.external` and its like, which `check_grads` checks.
UNCALLED = {"external"}


@rows
def test_elementwise_rows(row):
    report = check_op(row, constant=CONSTANT.get(row.name, ()), rtol=1e-8)
    assert report.checks > 50 and report.worst < 1e-8 and not report.skipped


@pytest.mark.parametrize("name", EXAMPLES)
def test_structured_rows(name):
    examples, params = EXAMPLES[name]
    report = check_op(BY_NAME[name], *examples, params=params)
    assert report.worst < 1e-6 and not report.skipped


def test_minima_and_transposed_matrices():
    check_op(BY_NAME["max"], Y, params=[*LINES[:6], -1])
    check_op(BY_NAME["matmul"], np.swapaxes(A, 1, 2), B, params=[2, 3, 4, 3, 12, 1, 3, 12, 1, 4])
    check_op(BY_NAME["affine"], A[0].T, B[0], B[1, 0, :3], params=[1, 3, 4, 3, 0, 1, 3, 0, 1, 4])


# Batches of vectors, samples with channels that have one number or several, and one group or several in a sample.
@pytest.mark.parametrize(
    "layout", [[6, 4, 1, 1, 1], [6, 1, 4, 1, 0], [2, 2, 2, 3, 0], [3, 2, 4, 1, 0], [1, 2, 1, 12, 1]]
)
def test_groups_of_every_layout(layout):
    n, g, k, s, across = layout
    x, back = Y.reshape(n, g, k, s), np.cos(7.0 * Y).reshape(n, g, k, s)
    rng = np.random.default_rng(3)
    mean, scale = rng.normal(size=(2, g if across else n * g))
    w, b = rng.normal(size=(2, g * k))
    check_op(BY_NAME["moments"], x, params=layout)
    check_op(BY_NAME["normalize"], x, mean, scale, w, b, params=[*layout, 0])
    check_op(BY_NAME["normalize"], x, mean, scale, w, b, params=[*layout, 1])
    check_op(BY_NAME["normalize_sums"], back, x, mean, scale, w, params=layout)
    if not across:
        eps = np.array([0.3])
        check_op(BY_NAME["normalize_groups"], x, w, b, eps, params=layout[:4])
        check_op(BY_NAME["normalize_groups_back"], back, x, w, eps, params=layout[:4])


def test_every_structured_row_has_examples():
    assert set(STRUCTURED) - UNCALLED == set(EXAMPLES)


# What rows without a ufunc compute, from other libraries.
ORACLES = {
    "power_constant": np.power,
    "where": lambda c, x, y: np.where(c != 0, x, y),
    "clip": np.clip,
    "copy": lambda x: x * 1,
    "detach": lambda x: x * 1,
    "chain": lambda x, y: np.where(x != 0, x * y, 0.0),
    "shield": lambda x, y: np.where((x == 0) & ~np.isfinite(y), 0.0, y),
    "sigmoid": scipy.special.expit,
    "softplus": lambda x: np.logaddexp(0.0, x),
    "relu": lambda x: np.maximum(x, 0.0),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "gelu": lambda x: x * scipy.special.ndtr(x),
    "erf": scipy.special.erf,
}


def oracle(row):
    return ORACLES.get(row.name) or row.ufunc


def samples(row, n=24, dtype=np.float64):
    rng = np.random.default_rng(zlib.crc32(row.name.encode()))
    return [rng.uniform(low, high, n).astype(dtype) for low, high in row.samples]


def gradients(row, arrays, seed):
    """Value and partials of a dense run over the samples."""
    values = [tg.Value(a) for a in arrays]
    out = row(*values)
    out.backward(seed)
    return out.numpy(), [np.asarray(v.grad) if out.requires_grad else np.zeros(a.shape) for v, a in zip(values, arrays)]


def test_every_row_has_an_oracle():
    assert [row.name for row in ROWS if oracle(row) is None] == []


FIRST_USE = """
import numpy as np, tapegrad as tg
from tapegrad.ops import TABLE, Elementwise
rows = [row for row in TABLE if isinstance(row, Elementwise)]
for dtype in (np.float64, np.float32):
    for row in rows:
        x = [tg.Value(dtype(low + 0.3 * (high - low))) for low, high in row.samples]
        z = row(*x)
        z.item()
        z.backward()
    assert tg.record(row, *[dtype(1.0)] * row.arity) is not None
print("fine")
"""


def test_scalars_need_no_array_before_them():
    run = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True)
    assert run.stdout == "fine\n", run.stderr[-2000:]


@rows
@dtypes
def test_values_are_those_of_numpy_and_scipy(row, dtype):
    arrays = samples(row, dtype=dtype)
    expected = oracle(row)(*[a.astype(float) for a in arrays])
    got = row(*[tg.Value(a) for a in arrays])
    assert got.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(got.data, expected, rtol=20 * eps, atol=4 * eps)
    for i in range(4):
        scalar = row(*[tg.Value(a[i]) for a in arrays])
        np.testing.assert_allclose(scalar.item(), expected[i], rtol=20 * eps, atol=4 * eps)


@pytest.mark.parametrize("row", [row for row in ROWS if row.ufunc], ids=lambda row: row.name)
def test_special_values_are_those_of_the_ufunc(row):
    special = [0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -2.5, 1e-300, 1e300, -1e300, np.inf, -np.inf, np.nan]
    arrays = [a.reshape(-1) for a in np.meshgrid(*[special] * row.arity)]
    with np.errstate(all="ignore"):
        expected = row.ufunc(*arrays).astype(float)
    got = row(*[tg.Value(a) for a in arrays]).data
    np.testing.assert_allclose(got, expected, rtol=1e-14, atol=0)


# Arrays go through libmvec where it has the function, scalars go through libm: each is right to 4 units in the last
# place, and derivatives are made of a few of them.
IN_VECTORS = {
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh",
    "cosh", "tanh", "arcsinh", "arccosh", "arctanh", "erf", "arctan2", "hypot", "power", "logaddexp", "sigmoid",
    "softplus", "gelu",
}  # fmt: skip


@rows
@dtypes
def test_scalars_and_runs_give_the_same_numbers(row, dtype):
    arrays = samples(row, n=12, dtype=dtype)
    rng = np.random.default_rng(1)
    seed = rng.normal(size=12).astype(dtype)
    value, grads = gradients(row, arrays, seed)
    rel = 16 * float(np.finfo(dtype).eps) if row.name in IN_VECTORS else 0.0
    for i in range(12):
        scalars = [tg.Value(a[i]) for a in arrays]
        out = row(*scalars)
        assert out.shape == () and out.item() == pytest.approx(value[i], rel=rel, abs=0.0)
        out.backward(float(seed[i]))
        assert [v.grad for v in scalars] == pytest.approx([float(g[i]) for g in grads], rel=rel, abs=rel)


# Ways to stand in memory: the shape of a leaf, and the view of it that the operation sees as (3, 4).
LAYOUTS = {
    "dense": ((3, 4), lambda x: x),
    "transposed": ((4, 3), lambda x: x.T),
    "column": ((3, 1), lambda x: np.broadcast_to(x, (3, 4))),
    "row": ((4,), lambda x: np.broadcast_to(x, (3, 4))),
    "scalar": ((1,), lambda x: np.broadcast_to(x, (3, 4))),
    "strided": ((6, 9), lambda x: x[::2, 1::2]),
    "reversed": ((3, 4), lambda x: x[::-1, ::-1]),
    "negative steps": ((7, 8), lambda x: x[6:0:-2, ::-2]),
    "middle axis": ((3, 5, 4), lambda x: x[:, 2, :]),
    "diagonal": ((5, 5, 4), lambda x: np.transpose(np.diagonal(x))[1:4]),
}


@rows
@pytest.mark.parametrize("layout", LAYOUTS)
def test_views_are_read_and_accumulated_in_place(row, layout):
    rng = np.random.default_rng(zlib.crc32((row.name + layout).encode()))
    names = list(LAYOUTS)
    # The first operand has this layout; the others take the next ones, so that layouts meet in all pairs of neighbours.
    chosen = [LAYOUTS[names[(names.index(layout) + j) % len(names)]] for j in range(row.arity)]
    bases = [rng.uniform(low, high, shape) for (low, high), (shape, _) in zip(row.samples, chosen)]
    seen = [np.array(view(b)) for b, (_, view) in zip(bases, chosen)]
    seed = rng.normal(size=(3, 4))
    expected, partials = gradients(row, [s.reshape(-1) for s in seen], seed.reshape(-1))

    leaves = [tg.Value(b) for b in bases]
    tape = tg.current_tape()
    operands = [view(leaf) for leaf, (_, view) in zip(leaves, chosen)]
    before = len(tape)
    out = row(*operands)
    assert len(tape) == before + 1
    np.testing.assert_array_equal(out.data, expected.reshape(3, 4))
    out.backward(seed)
    for leaf, base, partial, (_, view) in zip(leaves, bases, partials, chosen):
        total = np.zeros(base.size)
        np.add.at(total, view(np.arange(base.size).reshape(base.shape)).reshape(-1), partial)
        np.testing.assert_allclose(leaf.grad, total.reshape(base.shape), rtol=1e-13, atol=1e-15)


@rows
def test_blocks_of_long_runs_join_without_a_seam(row):
    n = 1037
    arrays = samples(row, n=n)
    value, grads = gradients(row, arrays, np.ones(n))
    cuts = [0, 255, 256, 257, 511, 512, 1036]
    few, few_grads = gradients(row, [a[cuts] for a in arrays], np.ones(len(cuts)))
    np.testing.assert_array_equal(value[cuts], few)
    for g, f in zip(grads, few_grads):
        np.testing.assert_array_equal(g[cuts], f)
    leaves = [tg.Value(np.stack([a, a], 1)) for a in arrays]
    strided = row(*[leaf[:, 1] for leaf in leaves])
    np.testing.assert_array_equal(strided.data, value)
    strided.backward(np.ones(n))
    for leaf, g in zip(leaves, grads):
        if strided.requires_grad:
            np.testing.assert_array_equal(leaf.grad, np.stack([np.zeros(n), g], 1))


# Where partials are a matter of convention: operands, and the partials that the row's convention states.
KINKS = {
    "power": [((2.0, 0.0), (0.0, math.log(2.0))), ((0.0, 0.0), (0.0, 0.0)), ((0.0, 2.0), (0.0, 0.0))],
    "power_constant": [((0.0, 0.0), (0.0, 0.0)), ((-2.0, 0.0), (0.0, 0.0))],
    "absolute": [((0.0,), (0.0,))],
    "hypot": [((0.0, 0.0), (0.0, 0.0))],
    "maximum": [((1.5, 1.5), (0.5, 0.5)), ((0.0, -0.0), (0.5, 0.5))],
    "minimum": [((1.5, 1.5), (0.5, 0.5)), ((0.0, -0.0), (0.5, 0.5))],
    "clip": [
        ((-1.0, -1.0, 2.0), (1.0, 0.0, 0.0)),
        ((2.0, -1.0, 2.0), (1.0, 0.0, 0.0)),
        ((0.5, 2.0, 1.0), (0.0, 0.0, 1.0)),
        ((1.0, 1.0, 1.0), (0.0, 0.0, 1.0)),
    ],
    "relu": [((0.0,), (0.0,))],
    "leaky_relu": [((0.0, 0.1), (0.1, 0.0))],
}


def test_every_convention_of_an_elementwise_row_is_tested():
    assert {row.name for row in ROWS if row.convention} == set(KINKS)


@pytest.mark.parametrize(("name", "point", "partials"), [(n, *kink) for n, kinks in KINKS.items() for kink in kinks])
def test_kinks_follow_the_convention(name, point, partials):
    row = BY_NAME[name]
    scalars = [tg.Value(x) for x in point]
    row(*scalars).backward()
    assert [v.grad for v in scalars] == list(partials)
    arrays = [tg.Value([x, x]) for x in point]
    row(*arrays).backward([1.0, 1.0])
    assert [v.grad.tolist() for v in arrays] == [[p, p] for p in partials]


@rows
def test_partials_are_finite_wherever_the_result_is_but_at_kinks(row):
    """What certificates trust: an infinite partial that meets a zero adjoint leaves no trace in a gradient."""
    grid = [-2.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0]
    arrays = [a.reshape(-1) for a in np.meshgrid(*[grid] * row.arity)]
    value, grads = gradients(row, arrays, np.ones(len(arrays[0])))
    with np.errstate(all="ignore"):
        kinks = np.broadcast_to(row.kink(*arrays), value.shape) if row.kink else np.full(value.shape, np.inf)
    for g in grads:
        bad = np.isfinite(value) & ~np.isfinite(g) & (kinks != 0.0)
        # The logarithm in d/dy x^y is not real left of 0, where x^y is a number for whole y only.
        bad &= ~((row.name == "power") & (arrays[0] < 0.0))
        assert not bad.any(), [a[bad] for a in arrays]


# Where the textbook formula overflows, cancels or divides by zero: operands, value, partials.
EXTREMES = [
    ("log1p", (1e-20,), 1e-20, (1.0,)),
    ("expm1", (1e-20,), 1e-20, (1.0,)),
    ("logaddexp", (1000.0, 1000.0), 1000.0 + math.log(2.0), (0.5, 0.5)),
    ("logaddexp", (-np.inf, 3.0), 3.0, (0.0, 1.0)),
    ("logaddexp", (-np.inf, -np.inf), -np.inf, (0.5, 0.5)),
    ("hypot", (3e200, 4e200), 5e200, (0.6, 0.8)),
    ("hypot", (3e-200, 4e-200), 5e-200, (0.6, 0.8)),
    ("arctan2", (1e-200, 1e-200), math.pi / 4, (5e199, -5e199)),
    ("arctan2", (1e200, 1e200), math.pi / 4, (5e-201, -5e-201)),
    ("sigmoid", (1000.0,), 1.0, (0.0,)),
    ("sigmoid", (-1000.0,), 0.0, (0.0,)),
    ("sigmoid", (-40.0,), math.exp(-40.0), (math.exp(-40.0),)),
    ("softplus", (1000.0,), 1000.0, (1.0,)),
    ("softplus", (-1000.0,), 0.0, (0.0,)),
    ("softplus", (-np.inf,), 0.0, (0.0,)),
    ("tanh", (1000.0,), 1.0, (0.0,)),
    ("arcsinh", (1e200,), math.asinh(1e200), (1e-200,)),
    ("where", (1.0, 2.0, np.nan), 2.0, (0.0, 1.0, 0.0)),
    ("shield", (0.0, np.inf), 0.0, (0.0, 0.0)),
    ("shield", (0.0, np.nan), 0.0, (0.0, 0.0)),
    ("shield", (0.0, 2.0), 2.0, (0.0, 1.0)),
    ("shield", (1.0, np.inf), np.inf, (0.0, 1.0)),
    ("chain", (0.0, np.inf), 0.0, (0.0, 0.0)),
    ("chain", (0.0, np.nan), 0.0, (0.0, 0.0)),
    ("chain", (0.0, 2.0), 0.0, (2.0, 0.0)),
    ("chain", (3.0, 2.0), 6.0, (2.0, 3.0)),
]


@pytest.mark.parametrize(("name", "point", "value", "partials"), EXTREMES)
def test_extreme_operands(name, point, value, partials):
    for pack in (lambda x: x, lambda x: [x]):
        values = [tg.Value(pack(x)) for x in point]
        out = BY_NAME[name](*values)
        np.testing.assert_allclose(out.item(), value, rtol=1e-14)
        out.backward()
        got = [float(np.reshape(v.grad, -1)[0]) for v in values]
        np.testing.assert_allclose(got, partials, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("base", "n"), [(base, n) for base in (-3.0, -1.5, 0.0, 1.1, 7.0) for n in range(-3, 9) if base or n >= 0]
)
def test_integer_powers_are_exact(base, n):
    x, xs = tg.Value(base), tg.Value([base, base])
    y, ys = x**n, xs**n
    assert y.item() == ys.data[0] == np.float64(base) ** n
    y.backward()
    assert x.grad == (0.0 if n == 0 else pytest.approx(n * base ** (n - 1), rel=4e-16))


def test_a_branch_not_taken_leaks_no_nan():
    x = tg.Value([0.0, 4.0])
    np.where(x > 0, np.sqrt(x), 0.0).sum().backward()
    assert x.grad.tolist() == [0.0, 0.25]
    y = tg.Value(0.0)
    np.where(y > 0, np.log(y), y).backward()
    assert y.grad == 1.0
