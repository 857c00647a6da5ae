"""First, second and third derivatives of many functions, by every way to ask for them, against JAX and differences.

Each function is written once, against a library `xp`: NumPy for tapegrad, jax.numpy for JAX, NumPy and SciPy for finite
differences. tapegrad is always called at one point first, where it records, and compared at two others.
"""

import functools
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.special
from oracles import jax, jit, jnp

import tapegrad as tg

SPECIAL = ("logsumexp", "softmax", "log_softmax", "sigmoid", "softplus", "gelu", "erf", "relu", "leaky_relu")


def library(module, **more):
    """The names of a module and a few more, as attributes."""
    return SimpleNamespace(**{**vars(module), **more})


RECORDED = library(np, **{name: getattr(tg, name) for name in SPECIAL})
TRACED = library(
    jnp,
    **{name: getattr(jax.nn, name) for name in SPECIAL if name not in ("gelu", "erf")},
    gelu=lambda x: jax.nn.gelu(x, approximate=False),
    erf=jax.scipy.special.erf,
)
PLAIN = library(
    np,
    logsumexp=scipy.special.logsumexp,
    softmax=lambda x, axis=-1: scipy.special.softmax(x, axis),
    log_softmax=lambda x, axis=-1: scipy.special.log_softmax(x, axis),
    sigmoid=scipy.special.expit,
    softplus=lambda x: np.log1p(np.exp(x)),
    gelu=lambda x: 0.5 * x * (1 + scipy.special.erf(x / np.sqrt(2))),
    erf=scipy.special.erf,
    relu=lambda x: np.maximum(x, 0),
    leaky_relu=lambda x, slope: np.where(x > 0, x, slope * x),
)


# Points: no two elements are close, and none is near 0, 0.25 or 0.7, where some of the functions have kinks.


def real(rng, shape):
    n = int(np.prod(shape))
    grid = np.array([-1.3, -0.95, -0.6, -0.2, 0.45, 0.95, 1.25, 1.6])
    x = rng.choice(grid, n, replace=False) + rng.uniform(-0.05, 0.05, n)
    return x.reshape(shape)


def positive(rng, shape):
    n = int(np.prod(shape))
    x = rng.permutation(np.linspace(0.4, 1.9, n)) + rng.uniform(-0.04, 0.04, n)
    return x.reshape(shape)


def unit(rng, shape):
    return real(rng, shape) / 2


def zeros_among(rng, shape):
    x = real(rng, shape)
    x.flat[rng.choice(x.size, rng.integers(1, 3), replace=False)] = 0.0
    return x


CASES = {}


def case(name, shape, draw, f):
    assert name not in CASES
    CASES[name] = SimpleNamespace(f=f, shape=shape, draw=draw)


def some(*shape, seed=0):
    """Fixed numbers that a function takes from around it."""
    return np.random.default_rng([seed, *shape]).uniform(0.5, 1.5, shape).round(2)


# One element at a time.
case("sin", 4, real, lambda xp, x: xp.sin(x))
case("cos_of_square", 4, real, lambda xp, x: xp.cos(x * x))
case("tan", 3, unit, lambda xp, x: xp.tan(x))
case("exp", 5, real, lambda xp, x: xp.exp(x))
case("exp2_log2_log10", 4, positive, lambda xp, x: xp.exp2(x) + xp.log2(x) * xp.log10(x))
case("log", 4, positive, lambda xp, x: xp.log(x))
case("log1p_expm1", 4, positive, lambda xp, x: xp.log1p(x) * xp.expm1(x))
case("arctan2", 6, real, lambda xp, x: xp.arctan2(x[:3], x[3:]))
case("hypot", 6, real, lambda xp, x: xp.hypot(x[:3], x[3:]))
case("logaddexp", 6, real, lambda xp, x: xp.logaddexp(x[:3], 2.0 * x[3:]))
case("inverse_trigonometric", 4, unit, lambda xp, x: xp.arcsin(x) * xp.arccos(x) + xp.arctan(x))
case("hyperbolic", 4, real, lambda xp, x: xp.sinh(x) / xp.cosh(x) ** 2)
case("inverse_hyperbolic", 4, unit, lambda xp, x: xp.arctanh(x) * xp.arcsinh(x) + xp.arccosh(2.0 + x))
case("tanh", 5, real, lambda xp, x: xp.tanh(x) * x)
case("sigmoid_written_out", 4, real, lambda xp, x: 1.0 / (1.0 + xp.exp(-x)))
case("sigmoid_softplus", 4, real, lambda xp, x: xp.sigmoid(x) * xp.softplus(x))
case("gelu_erf", 4, real, lambda xp, x: xp.gelu(x) + xp.erf(x) ** 2)
case("relu_leaky_relu", 5, real, lambda xp, x: xp.relu(x) * xp.sin(x) + xp.leaky_relu(x, 0.1) ** 2)
case("sqrt_cbrt", 4, positive, lambda xp, x: xp.sqrt(x) * xp.cbrt(x))
case("cbrt_of_negatives", 4, real, lambda xp, x: xp.cbrt(x))
case("reciprocal_square", 4, real, lambda xp, x: xp.reciprocal(x) + xp.square(x) - xp.negative(x))
case("powers_constant", 4, positive, lambda xp, x: x**2.5 + x**-1 + x**3 + 2.0**x)
case("powers_integer_of_negatives", 4, real, lambda xp, x: x**3 - x**2 + x**-2 + xp.power(x, 4))
case("power_variable", 6, positive, lambda xp, x: x[:3] ** x[3:])
case("division", 6, real, lambda xp, x: x[:3] / x[3:] + 2.0 / x[:3])
case("remainder", 4, real, lambda xp, x: (x % 0.35) * x)
case("absolute_sign", 5, real, lambda xp, x: xp.abs(x) * x + xp.sign(x) * xp.exp(x))
case("maximum_minimum", 6, real, lambda xp, x: xp.maximum(x[:3], x[3:]) * x[:3] + xp.minimum(x[:3], 0.25) ** 2)
case("clip", 6, real, lambda xp, x: xp.clip(x, -0.75, 0.7) ** 3 * xp.roll(x, 1))
case("where", 6, real, lambda xp, x: xp.where(x > 0.25, xp.sin(x) * x, x**3))
case("where_between_elements", 6, real, lambda xp, x: xp.where(x[:3] < x[3:], x[:3] * x[3:], xp.exp(x[3:])))

# Reductions.
case("sum", 5, real, lambda xp, x: xp.sum(xp.sin(x) * x))
case("sum_axis_keepdims", (2, 3), real, lambda xp, x: xp.sum(x**3, axis=0, keepdims=True) * x)
case("sum_axes", (2, 2, 2), real, lambda xp, x: xp.sum(xp.exp(x), axis=(0, -1)) * x[0, :, 1])
case("mean", (2, 3), real, lambda xp, x: xp.mean(x**2, axis=1, keepdims=True) ** 2 * x + xp.mean(x))
case("var", (2, 4), real, lambda xp, x: xp.var(x * x, axis=1, ddof=1) * xp.var(x))
case("std", (2, 3), real, lambda xp, x: xp.std(x, axis=0) * xp.std(x))
case("prod", 5, real, lambda xp, x: xp.prod(x))
case("prod_with_zeros", 5, zeros_among, lambda xp, x: xp.prod(x) + xp.sin(x[0]))
case("prod_axis_with_zeros", (2, 3), zeros_among, lambda xp, x: xp.prod(x, axis=1) * xp.exp(x[:, 0]))
case("max_min", 6, real, lambda xp, x: xp.max(x) ** 2 * xp.min(x) + xp.max(x) * x[0])
case("max_axis", (2, 3), real, lambda xp, x: xp.max(x, axis=1, keepdims=True) * xp.sin(x) + xp.amin(x, axis=0))
case("norm", 5, real, lambda xp, x: xp.linalg.norm(x))
case("norm_axis", (2, 3), real, lambda xp, x: x / xp.linalg.norm(x, axis=1, keepdims=True))
case("logsumexp", (2, 3), real, lambda xp, x: xp.logsumexp(3.0 * x, axis=0) * x[1])
case("logsumexp_written_out", 5, real, lambda xp, x: xp.log(xp.sum(xp.exp(x - xp.max(x)))) + xp.max(x))
case("cumsum", 5, real, lambda xp, x: xp.cumsum(x * x) * x)
case("cumsum_axis", (2, 3), real, lambda xp, x: xp.cumsum(xp.sin(x), axis=0) ** 2)

# Linear algebra.
case("dot", 6, real, lambda xp, x: xp.dot(x[:3], x[3:]) * x[0])
case("matvec", 6, real, lambda xp, x: xp.sin(some(4, 6) @ x) * (x @ some(6, 4)))
case("matvec_both", 6, real, lambda xp, x: x[:4].reshape(2, 2) @ x[4:])
case("matmul", 8, real, lambda xp, x: x[:4].reshape(2, 2) @ x[4:].reshape(2, 2))
case("matmul_cubed", (2, 2), real, lambda xp, x: x @ x.T @ x)
case("matmul_batched", 8, real, lambda xp, x: xp.matmul(x.reshape(2, 2, 2), xp.sin(x).reshape(2, 2, 2).swapaxes(1, 2)))
case("matmul_broadcast", (2, 2), real, lambda xp, x: (some(3, 1, 2) @ xp.exp(x)) @ x[0])
case("vdot_inner", 6, real, lambda xp, x: xp.vdot(x, x**2) + xp.inner(x.reshape(2, 3), x[:3] * some(3)))
case("outer", 5, real, lambda xp, x: xp.outer(x[:2], xp.exp(x[2:])))
case("einsum", (2, 3), real, lambda xp, x: xp.einsum("ij,kj->ik", x, xp.sin(x)))
case("einsum_vector", 6, positive, lambda xp, x: xp.einsum("ij,j->i", some(2, 4), x[2:]) * xp.einsum("i,i", x, x))
case("einsum_chain", (2, 3), real, lambda xp, x: xp.einsum("ij,kj,kl,l->i", x, xp.sin(x), x @ x.T, x[:, 0]))
case("einsum_ellipsis", (2, 1, 3), real, lambda xp, x: xp.einsum("...ij,...kj,j->k...", x, x[0] ** 2, x[1, 0]))
case("einsum_broadcast", (3, 1), real, lambda xp, x: xp.einsum("ij,jk,ij->ik", x, x.T, x**2))
case("einsum_diagonal", (2, 2), real, lambda xp, x: xp.einsum("ii,jk->kj", x, x))
case("tensordot", (2, 3), real, lambda xp, x: xp.tensordot(x, some(3, 2, 4), axes=([0, 1], [1, 0])) ** 2)
case("trace", (2, 2), real, lambda xp, x: xp.trace(x @ x @ xp.sin(x)))
case("diagonal", (2, 3), real, lambda xp, x: xp.diagonal(x, offset=1) * xp.diagonal(xp.exp(x)))
case("quadratic_form", 4, real, lambda xp, x: x @ some(4, 4) @ x / (1.0 + x @ x))

# Shapes.
case("reshape_transpose", 6, real, lambda xp, x: xp.transpose(x.reshape(2, 3)) * xp.sin(x).reshape(3, 2))
case("transpose_axes", (2, 1, 3), real, lambda xp, x: xp.transpose(x, (2, 0, 1)) ** 2 * xp.moveaxis(x, 0, -1)[0, 1])
case("slices_with_steps", 8, positive, lambda xp, x: x[::2] * x[1::2] + x[::-2] ** 2)
case("slices_backwards", (2, 3), real, lambda xp, x: x[::-1, ::-2] * xp.exp(x[:, -1:0:-1]))
case("broadcasting", 5, real, lambda xp, x: x[:2, None] * xp.cos(x[None, 2:]) + x[0])
case("broadcast_to", 3, real, lambda xp, x: xp.broadcast_to(x, (2, 3)) * xp.expand_dims(x[:2] ** 2, 1))
case("concatenate", 4, real, lambda xp, x: xp.concatenate([x, x[::-1] ** 2, some(2)]) ** 2)
case("concatenate_axis", (2, 3), real, lambda xp, x: xp.concatenate([x, xp.sin(x[:, :1])], axis=1)[:, ::-1] * x[0, 0])
case("stack", 4, real, lambda xp, x: xp.stack([x, x * x, xp.ones(4)], axis=1) * x[:, None])
case("stack_of_elements", 3, real, lambda xp, x: xp.stack([x[0] * x[1], xp.sin(x[2]), x[1] ** 3]))
case("pad", (2, 2), real, lambda xp, x: xp.pad(x, ((1, 0), (0, 2)), constant_values=0.5) ** 3)
case("tile", 3, real, lambda xp, x: xp.tile(x, (2, 2)) * xp.exp(xp.tile(x, 2)))
case("repeat", (2, 2), real, lambda xp, x: xp.repeat(x, 3, axis=0) ** 2 * some(6, 2))
case("roll", 5, real, lambda xp, x: xp.roll(x, 2) * xp.roll(x**2, -1))
case("flip", (2, 3), real, lambda xp, x: xp.flip(x, axis=1) * x**2 + xp.flip(x))
case("fancy_indices_repeated", 5, real, lambda xp, x: x[np.array([0, 2, 2, 4])] * xp.sin(x[np.array([2, 2, 1, 0])]))
case("fancy_indices_pairs", (2, 3), real, lambda xp, x: x[np.array([0, 1, 1]), np.array([2, 0, 0])] ** 2 * x[0])
case("boolean_mask", 5, real, lambda xp, x: x[np.array([True, False, True, True, False])] ** 3)
case("take", 5, real, lambda xp, x: xp.take(x, np.array([[1, 1], [3, 0]])) * x[1])
case("sort", 6, real, lambda xp, x: xp.sort(x) * xp.exp(xp.sort(x)[::-1]))
case("sort_axis", (2, 3), real, lambda xp, x: xp.sort(x, axis=0) ** 2 * x)
case("diff", 5, real, lambda xp, x: xp.diff(x) ** 3 + xp.diff(xp.sin(x), n=2)[0])

# Probabilities.
case("softmax", (2, 3), real, lambda xp, x: xp.softmax(x))
case("softmax_axis", (2, 3), real, lambda xp, x: xp.softmax(x * x, axis=0))
case("softmax_written_out", 4, real, lambda xp, x: xp.exp(x - xp.max(x)) / xp.sum(xp.exp(x - xp.max(x))))
case("log_softmax", (2, 3), real, lambda xp, x: xp.log_softmax(x, axis=0) * x)


@functools.partial(case, "cross_entropy", (2, 4), real)
def cross_entropy(xp, x):
    labels = np.array([3, 1])
    if xp is RECORDED:
        return tg.cross_entropy(2.0 * x, labels)
    return -xp.mean(xp.log_softmax(2.0 * x)[np.arange(2), labels])


@functools.partial(case, "cross_entropy_written_out", (2, 3), real)
def cross_entropy_written_out(xp, x):
    logits = x @ some(3, 3)
    return xp.mean(xp.logsumexp(logits, axis=1) - logits[np.arange(2), np.array([2, 0])])


# Scalar code.
@functools.partial(case, "polynomial_loop", 3, real)
def polynomial_loop(xp, x):
    a, b, total = x[0], x[1], 0.0
    for k in range(1, 5):
        total = total + a**k * b / k - 3.0 * (b - x[2]) ** k
    return total


case("horner", 4, real, lambda xp, x: functools.reduce(lambda y, c: y * x[0] + c, [x[1], x[2], 2.0, -x[3], x[0]]))
case("rosenbrock", 2, real, lambda xp, x: (1.0 - x[0]) ** 2 + 100.0 * (x[1] - x[0] ** 2) ** 2)


@functools.partial(case, "rosenbrock_of_many", 4, real)
def rosenbrock_of_many(xp, x):
    return xp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


@functools.partial(case, "mlp_of_scalars", 8, real)
def mlp_of_scalars(xp, x):
    loss = 0.0
    for a, b, target in ((0.5, -1.0, 0.3), (1.2, 0.4, -0.6)):
        hidden = [xp.tanh(x[2 * i] * a + x[2 * i + 1] * b) for i in range(2)]
        loss = loss + (hidden[0] * x[4] + hidden[1] * x[5] + x[6] * x[7] - target) ** 2
    return loss


@functools.partial(case, "mlp_of_arrays", 8, real)
def mlp_of_arrays(xp, x):
    hidden = xp.tanh(some(4, 2) @ x[:4].reshape(2, 2) + x[4:6])
    return xp.mean((hidden @ x[6:] - some(4)) ** 2)


@functools.partial(case, "leapfrog", 4, real)
def leapfrog(xp, x):
    q, p = x[:2], x[2:]
    for _ in range(3):
        p = p - 0.1 * q / xp.sum(q * q) ** 1.5
        q = q + 0.1 * p
    return xp.concatenate([q, p])


@functools.partial(case, "branch_on_a_number", 2, real)
def branch_on_a_number(xp, x):  # tapegrad and NumPy branch in Python, JAX cannot
    low, high = (lambda: x[0] ** 3 * x[1]), (lambda: xp.sin(x[0] * x[1]) * x[1])
    if xp is TRACED:
        return jax.lax.cond(x[0] < 0.25, low, high)
    return low() if x[0] < 0.25 else high()


# Values that are used several times, and views that overlap.
case("neighbours", 5, real, lambda xp, x: x[1:] ** 2 * x[:-1] + xp.sin(x[:-1] - x[1:]))
case("reversed_against_itself", 5, real, lambda xp, x: x * x[::-1] ** 2 + xp.sum(x[1:] * x[:-1]))
case("overlapping_matrices", 6, real, lambda xp, x: x[:4].reshape(2, 2) @ x[2:].reshape(2, 2) + x[1:5].reshape(2, 2).T)
case("transposed_against_itself", (2, 2), real, lambda xp, x: x * x.T + (x @ x.T) * x[0])
case("diagonal_against_rows", (2, 2), real, lambda xp, x: xp.diagonal(x) * xp.exp(x[0]) * x[:, 1])


@functools.partial(case, "reused", 4, real)
def reused(xp, x):
    y = xp.sin(x)
    z = y * y + y * x
    return z * z[::-1] + y / (1.0 + z * z)


@functools.partial(case, "composition", (2, 3), real)
def composition(xp, x):
    y = xp.tanh(x @ some(3, 3) - x)
    z = xp.softmax(y, axis=0) * xp.max(x, axis=0)
    return xp.concatenate([z.reshape(-1)[1:], xp.cumsum(y[0])]) * xp.sum(z[:, ::2] ** 2)


# Oracles.

NAMES = ("out", "jacobian", "second", "third", "scalar", "gradient", "hessian", "cubic")  # the last four of the sum


def generator(name, what):
    return np.random.default_rng(zlib.crc32(f"{name} {what}".encode()))


@functools.cache
def points(name):
    """Where it is recorded, and two other points."""
    c, rng = CASES[name], generator(name, "points")
    return [c.draw(rng, c.shape) for _ in range(3)]


@functools.cache
def weights(name):
    """For a scalar of all the outputs; for a cotangent; two tangents."""
    first, rng = points(name)[0], generator(name, "weights")
    shape = np.shape(CASES[name].f(PLAIN, first))
    return [rng.uniform(-1.5, 1.5, s) for s in (shape, shape, first.shape, first.shape)]


def functions(name, xp=RECORDED):
    """The function, and a scalar version."""
    f, w = CASES[name].f, weights(name)[0]
    return (lambda x: f(xp, x)), (lambda x: xp.sum(f(xp, x) * w))


def higher(f):
    """x -> (y, all) becomes x -> (y', (*all, y')), so that one pass gives all derivatives."""

    def derivative(x):
        slope, below = jax.jacfwd(f, has_aux=True)(x)
        return slope, (*below, slope)

    return derivative


@functools.cache
def expected(name):
    """By JAX, at the two other points: derivatives of the function, and `scalar` etc. of its weighted sum."""
    f, w = functions(name, TRACED)[0], weights(name)[0]
    third = higher(higher(higher(lambda x: (f(x), ()))))
    compiled = jit(lambda x: (f(x), *third(x)[1]))
    results = []
    for x in points(name)[1:]:
        tensors = [np.asarray(d) for d in compiled(x)]
        summed = [np.tensordot(w, d, np.ndim(w)) for d in tensors]
        results.append(SimpleNamespace(**dict(zip(NAMES, tensors + summed))))
    return results


def others(name):
    return zip(points(name)[1:], expected(name))


def same(got, expected, rtol=1e-9, floor=1e-12):
    """Equal to `rtol`, of each element or of the largest."""
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    scale = np.max(np.abs(expected), initial=0.0)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * scale + floor)


def along(tensor, direction):
    """The last axes of a tensor contracted with a tangent."""
    return np.tensordot(tensor, direction, np.ndim(direction))


def difference(f, x, h=4e-3):
    """Derivatives of a function by every element of x: central differences at three steps, extrapolated."""

    def central(step):
        return (f(x + step) - f(x - step)) / (2 * np.abs(step).max())

    columns = []
    for unit in np.eye(x.size).reshape(x.size, *x.shape):
        d = [central(unit * (h / k)) for k in (1, 2, 4)]
        d = [(4 * d[1] - d[0]) / 3, (4 * d[2] - d[1]) / 3]
        columns.append((16 * d[1] - d[0]) / 15)
    columns = np.array(columns)
    return np.moveaxis(columns, 0, -1).reshape(columns.shape[1:] + x.shape)


every_case = pytest.mark.parametrize("name", CASES)


@every_case
def test_values_and_gradients(name):
    f, s = functions(name)
    start = points(name)[0]
    grad, value_and_grad = tg.grad(s), tg.value_and_grad(s)
    recorded, recorded_scalar = tg.record(f, start), tg.record(s, start)
    grad(start), value_and_grad(start)
    for x, e in others(name):
        same(recorded(x), e.out)
        same(grad(x), e.gradient)
        same(recorded_scalar.grad(x), e.gradient)
        for value, slope in (value_and_grad(x), recorded_scalar.value_and_grad(x)):
            same(value, e.scalar)
            same(slope, e.gradient)


@every_case
@pytest.mark.parametrize("method", ["jacobian", "jacrev", "jacfwd"])
def test_jacobians(name, method):
    f, s = functions(name)
    start = points(name)[0]
    jacobian, gradient, recorded = getattr(tg, method)(f), getattr(tg, method)(s), tg.record(f, start)
    jacobian(start), gradient(start), getattr(recorded, method)(start)
    for x, e in others(name):
        same(jacobian(x), e.jacobian)
        same(gradient(x), e.gradient)
        same(getattr(recorded, method)(x), e.jacobian)


@every_case
def test_products_with_jacobians(name):
    f, _ = functions(name)
    start, (_, u, v, w) = points(name)[0], weights(name)
    recorded = tg.record(f, start)
    ways = [
        (functools.partial(tg.vjp, f), functools.partial(tg.linearize, f), functools.partial(tg.jvp, f)),
        (recorded.vjp, recorded.linearize, recorded.jvp),
    ]
    for vjp, linearize, jvp in ways:
        vjp(start)[1](u), linearize(start)[1](v), jvp((start,), (v,))
    for x, e in others(name):
        for vjp, linearize, jvp in ways:
            (out, pullback), (value, push) = vjp(x), linearize(x)
            same(out, e.out)
            same(value, e.out)
            for c in (u, 2.0 * u - 1.0):  # both can be called again
                (cotangent,) = pullback(c)
                same(cotangent, np.tensordot(c, e.jacobian, np.ndim(c)))
            for t in (v, w):
                same(push(t), along(e.jacobian, t))
                out, tangent = jvp((x,), (t,))
                same(out, e.out)
                same(tangent, along(e.jacobian, t))


@every_case
def test_hessians(name):
    _, s = functions(name)
    start = points(name)[0]
    recorded = tg.record(s, start)
    ways = [tg.hessian(s), recorded.hessian, tg.jacfwd(tg.jacrev(s)), tg.jacrev(tg.jacfwd(s)), tg.jacobian(tg.grad(s))]
    for hessian in ways:
        hessian(start)
    for x, e in others(name):
        for hessian in ways:
            same(hessian(x), e.hessian)


@every_case
def test_second_derivatives_of_all_the_outputs(name):
    f, _ = functions(name)
    start = points(name)[0]
    ways = [tg.jacfwd(tg.jacrev(f)), tg.jacrev(tg.jacfwd(f)), tg.jacobian(tg.jacobian(f))]
    for second in ways:
        second(start)
    for x, e in others(name):
        for second in ways:
            same(second(x), e.second)


@every_case
def test_products_with_hessians(name):
    _, s = functions(name)
    start, (*_, v, w) = points(name)[0], weights(name)
    make, recorded = tg.make_hvp(s), tg.record(s, start)
    tg.hvp(s, (start,), (v,)), recorded.hvp((start,), (v,)), make(start)(v), recorded.make_hvp(start)(v)
    for x, e in others(name):
        product, again = make(x), recorded.make_hvp(x)
        for t in (v, w):
            same(tg.hvp(s, (x,), (t,)), along(e.hessian, t))
            same(recorded.hvp((x,), (t,)), along(e.hessian, t))
            same(product(t), along(e.hessian, t))
            same(again(t), along(e.hessian, t))


@every_case
def test_jvp_of_the_gradient_and_gradient_of_the_jvp(name):
    _, s = functions(name)
    start, (*_, v, _) = points(name)[0], weights(name)
    gradient_of_slope = tg.grad(lambda x: tg.jvp(s, (x,), (v,))[1])
    gradient_of_slope(start), tg.jvp(tg.grad(s), (start,), (v,))
    for x, e in others(name):
        same(gradient_of_slope(x), along(e.hessian, v))
        slope, tangent = tg.jvp(tg.grad(s), (x,), (v,))
        same(slope, e.gradient)
        same(tangent, along(e.hessian, v))


@every_case
def test_third_derivatives_as_the_jacobian_of_a_hessian_times_a_vector(name):
    _, s = functions(name)
    start, (*_, v, _) = points(name)[0], weights(name)
    if start.ndim == 1:
        third = tg.jacobian(lambda x: tg.hessian(s)(x) @ v)
    else:
        third = tg.jacobian(lambda x: np.tensordot(tg.hessian(s)(x), v, v.ndim))
    third(start)
    for x, e in others(name):
        same(third(x), along(e.cubic, v))  # symmetric in its axes


@every_case
def test_third_derivatives_along_directions(name):
    _, s = functions(name)
    start, (*_, v, w) = points(name)[0], weights(name)
    ways = [
        tg.grad(lambda x: np.sum(tg.hvp(s, (x,), (v,)) * w)),
        tg.grad(lambda x: np.sum(tg.grad(lambda y: np.sum(tg.grad(s)(y) * v))(x) * w)),
        tg.grad(lambda x: tg.jvp(lambda y: tg.jvp(s, (y,), (v,))[1], (x,), (w,))[1]),
    ]
    for third in ways:
        third(start)
    for x, e in others(name):
        for third in ways:
            same(third(x), along(along(e.cubic, v), w))


@every_case
def test_gradient_and_hessian_against_differences(name):
    _, s = functions(name)
    _, plain = functions(name, PLAIN)
    start = points(name)[0]
    grad, hessian = tg.grad(s), tg.hessian(s)
    grad(start), hessian(start)
    for x in points(name)[1:]:
        same(grad(x), difference(plain, x), rtol=1e-5, floor=1e-6)
        same(hessian(x), difference(lambda x: difference(plain, x), x), rtol=1e-5, floor=1e-6)
