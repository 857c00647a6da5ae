"""Derivatives inside derivatives, in every order, with closures, nested arguments and branches.

A program is written once, against the two libraries that tapegrad and JAX have in common: `ad`, where grad, jvp and the
others are, and `xp`, NumPy or jax.numpy. It is called at one point first, where it is recorded, and compared at others.
Branches that are not taken, at the end of the file, have derivatives in closed form.
"""

import functools
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import tapegrad as tg

PROGRAMS = {}


def program(*points, name=None):
    """Adds a program: `f(ad, xp)` gives a function, to be called at one of the points first and at the others then."""

    def add(f):
        key = name or f.__name__
        assert key not in PROGRAMS
        PROGRAMS[key] = (f, points)
        return f

    return add


def drawn(*shapes, seed=0):
    """Three tuples of random arguments; () is a number."""
    rng = np.random.default_rng(seed)

    def draw(shape):
        x = rng.uniform(0.3, 1.6, shape) * rng.choice([-1.0, 1.0], shape)
        return x if shape else float(x)

    return [tuple(draw(shape) for shape in shapes) for _ in range(3)]


SCALARS = ((0.6,), (1.3,), (-0.4,))
POSITIVE = ((0.6,), (1.3,), (0.25,))
PAIRS = ((0.6, 1.5), (1.3, 0.4), (-0.4, 2.0))
VECTORS = drawn(4)
WEIGHTS = np.array([0.7, -1.2, 0.4, 1.1])
MATRIX = np.random.default_rng(1).uniform(-1.0, 1.0, (4, 4)).round(2)

# Orders one to four of functions of one number.

ONE_NUMBER = {
    "fifth_power": (lambda xp, x: x**5, SCALARS),
    "product": (lambda xp, x: x * x * x * 2.0 - x * x, SCALARS),
    "sin": (lambda xp, x: xp.sin(x), SCALARS),
    "tanh": (lambda xp, x: xp.tanh(x), SCALARS),
    "exp_of_square": (lambda xp, x: xp.exp(-x * x), SCALARS),
    "log_power": (lambda xp, x: xp.log(x) * x**2.5 - x**-2, POSITIVE),
    "sqrt_of_quotient": (lambda xp, x: xp.sqrt(x / (1.0 + x * x)), POSITIVE),
    "power_of_itself": (lambda xp, x: x**x, POSITIVE),
    "of_an_array": (lambda xp, x: xp.sum(xp.sin(x * WEIGHTS) ** 2), SCALARS),
    "of_a_matrix": (lambda xp, x: xp.sum(xp.tanh(MATRIX * x) @ (WEIGHTS + x)), SCALARS),
}


def repeated(step, f, order):
    for _ in range(order):
        f = step(f)
    return f


def forward(ad):
    """f -> f', by a jvp."""
    return lambda f: lambda x: ad.jvp(f, (x,), (1.0,))[1]


def reverse(ad):
    """f -> f', by a vjp."""
    return lambda f: lambda x: ad.vjp(f, x)[1](1.0)[0]


for key, (function, where_from) in ONE_NUMBER.items():
    for n in range(1, 5):
        of = functools.partial(lambda f, n, ad, xp: repeated(ad.grad, lambda x: f(xp, x), n), function, n)
        program(*where_from, name=f"{key}-grad-{n}")(of)

for steps in itertools.product(("grad", "jvp", "vjp"), repeat=3):

    def mixed(steps, ad, xp):
        ways = {"grad": ad.grad, "jvp": forward(ad), "vjp": reverse(ad)}
        return functools.reduce(lambda f, step: ways[step](f), steps, lambda x: xp.sin(x) * xp.exp(x * x))

    program(*SCALARS, name="mixed-" + "-of-".join(steps[::-1]))(functools.partial(mixed, steps))

for steps in itertools.product(("jacfwd", "jacrev", "jacobian"), repeat=2):

    def tensor(steps, ad, xp):
        f = lambda x: xp.sin(MATRIX[:2] @ x) * x[1:3] + xp.sum(x[:2] ** 3)
        return functools.reduce(lambda f, step: getattr(ad, step)(f), steps, f)

    program(*VECTORS, name="mixed-" + "-of-".join(steps[::-1]))(functools.partial(tensor, steps))

for steps in itertools.product(("grad", "jvp"), repeat=3):

    def directional(steps, ad, xp):
        ways = {
            "grad": lambda f, v: lambda x: xp.sum(ad.grad(f)(x) * v),
            "jvp": lambda f, v: lambda x: ad.jvp(f, (x,), (v,))[1],
        }
        f = lambda x: xp.log(1.0 + xp.sum(xp.exp(x) * x[::-1] ** 2))
        for step, v in zip(steps, MATRIX):
            f = ways[step](f, v)
        return f

    program(*VECTORS, name="along-" + "-of-".join(steps[::-1]))(functools.partial(directional, steps))


def quartic(xp):
    return lambda x: xp.sum((MATRIX @ x) ** 2 * xp.sin(x)) + x[0] * x[1] * x[2] * x[3]


@program(*VECTORS)
def third_derivatives_in_full(ad, xp):
    return ad.jacobian(ad.hessian(quartic(xp)))


@program(*drawn(2, seed=2))
def fourth_derivatives_in_full(ad, xp):
    return ad.jacobian(ad.jacobian(ad.hessian(lambda y: xp.exp(y[0]) * xp.sin(y[1] * y[0]) + y[1] ** 4)))


@program(*drawn(2, seed=3))
def fourth_derivatives_forwards(ad, xp):
    return repeated(ad.jacfwd, lambda x: xp.cos(x[0] * x[1]) * x, 4)


@program(*VECTORS)
def gradient_of_the_laplacian(ad, xp):
    return ad.grad(lambda x: xp.trace(ad.hessian(quartic(xp))(x)))


@program(*VECTORS)
def gradient_of_the_norm_of_the_gradient(ad, xp):
    return ad.grad(lambda x: xp.linalg.norm(ad.grad(quartic(xp))(x)))


@program(*VECTORS)
def elements_twice(ad, xp):
    return ad.elementwise_grad(ad.elementwise_grad(lambda x: xp.tanh(x) * x**2))


@program(*VECTORS)
def elements_three_times(ad, xp):
    return repeated(ad.elementwise_grad, lambda x: xp.sin(x) * xp.exp(x), 3)


@program(*VECTORS)
def gradient_of_a_linearization(ad, xp):
    def f(x):
        out, push = ad.linearize(lambda y: xp.sin(MATRIX @ y) * y, x)
        return xp.sum(push(WEIGHTS) * push(x) + out)

    return ad.grad(f)


@program(*VECTORS)
def gradient_of_a_pullback_by_the_cotangent(ad, xp):
    def f(u):
        _, pullback = ad.vjp(lambda y: xp.sin(MATRIX @ y) * y, WEIGHTS)
        return xp.sum(pullback(u)[0] ** 2)

    return ad.grad(f)


@program(*VECTORS)
def gradient_of_a_pullback_by_both(ad, xp):
    def f(u):
        out, pullback = ad.vjp(lambda y: xp.sin(MATRIX @ y) * y, u**2)
        return xp.sum(pullback(u)[0] * out)

    return ad.hessian(f)


@program(*VECTORS)
def gradient_of_a_product_with_a_hessian(ad, xp):
    return ad.grad(lambda x: xp.sum(ad.hvp(quartic(xp), (x,), (x * x,)) * WEIGHTS))


@program(*VECTORS)
def jvp_of_a_product_with_a_hessian(ad, xp):
    return lambda x: ad.jvp(lambda y: ad.make_hvp(quartic(xp))(y)(WEIGHTS), (x,), (MATRIX[0],))


@program(*VECTORS)
def vjp_of_the_gradient(ad, xp):
    return lambda x: ad.vjp(ad.grad(quartic(xp)), x)[1](WEIGHTS)


# The derivatives of an inner function, where variables of an outer one appear: no tangent may be taken for another.


def confusion(name, f, *points):
    program(*(points or SCALARS), name=f"confusion-{name}")(f)


confusion("sum", lambda ad, xp: ad.grad(lambda x: x * ad.grad(lambda y: x + y)(1.0)))
confusion("sum_twice", lambda ad, xp: ad.grad(ad.grad(lambda x: x * x * ad.grad(lambda y: x + y)(1.0))))
confusion("product", lambda ad, xp: ad.grad(lambda x: x * ad.grad(lambda y: x * y)(2.0)))
confusion("inner_at_outer", lambda ad, xp: ad.grad(lambda x: ad.grad(lambda y: x * y * y)(x)))
confusion("inner_ignores_its_own", lambda ad, xp: ad.grad(lambda x: x * ad.grad(lambda y: x * x + 0.0 * y)(1.0)))
confusion("inner_at_constant", lambda ad, xp: ad.grad(lambda x: ad.grad(lambda y: xp.sin(x * y))(3.0) * x))
confusion("jvp_in_jvp", lambda ad, xp: forward(ad)(lambda x: x * forward(ad)(lambda y: x + y)(1.0)))
confusion("jvp_in_grad", lambda ad, xp: ad.grad(lambda x: x * forward(ad)(lambda y: x + y * x)(1.0)))
confusion("grad_in_jvp", lambda ad, xp: forward(ad)(lambda x: x * ad.grad(lambda y: x + y * x)(1.0)))
confusion("vjp_in_vjp", lambda ad, xp: reverse(ad)(lambda x: x * reverse(ad)(lambda y: x * x * y)(x)))
confusion(
    "three_deep",
    lambda ad, xp: ad.grad(lambda x: ad.grad(lambda y: ad.grad(lambda z: xp.sin(x * y * z) * x)(y * x))(x) * x),
)
confusion(
    "outer_tangent_is_outer_variable",
    lambda ad, xp: ad.grad(lambda x: ad.jvp(lambda y: xp.sin(y * x), (x * 2.0,), (x * x,))[1]),
)
confusion(
    "same_function_at_two_levels",
    lambda ad, xp: (lambda f: ad.grad(lambda x: f(x) * ad.grad(f)(x) * ad.grad(ad.grad(f))(f(x))))(xp.sin),
)
confusion(
    "shift_of_a_function",  # the "amazing bug" of Manzyuk et al.: d/du of (f shifted by u) is a function
    lambda ad, xp: (
        lambda x: forward(ad)(
            lambda u: forward(ad)(lambda v: forward(ad)(lambda w: xp.exp(w + v * u) * w)(x + u))(1.0 + u)
        )(0.5)
    ),
)
confusion(
    "jacobian_with_outer_array",
    lambda ad, xp: ad.jacobian(lambda x: ad.jacobian(lambda y: x * y * xp.sum(x * y))(x[::-1]) @ x),
    *drawn(3, seed=4),
)
confusion(
    "jacfwd_with_outer_array",
    lambda ad, xp: ad.jacfwd(lambda x: ad.jacfwd(lambda y: x * y * xp.sum(x * y))(x[::-1]) @ x),
    *drawn(3, seed=5),
)
confusion(
    "hessian_with_outer_array",
    lambda ad, xp: ad.grad(lambda x: xp.sum(ad.hessian(lambda y: xp.sum(xp.sin(x * y)) ** 2)(WEIGHTS) * MATRIX)),
    *VECTORS,
)


@program(*VECTORS)
def closure_over_an_outer_array(ad, xp):
    def f(x):
        scale = xp.sum(x * x)
        inner = ad.grad(lambda y: xp.sum(scale * y**3 * x) / (1.0 + scale))
        return xp.sum(inner(xp.sin(x)) * inner(WEIGHTS))

    return ad.grad(f)


@program(*drawn((), 3, seed=6))
def learning_rate_through_descent(ad, xp):
    def trained(rate, w):
        for _ in range(3):
            w = w - rate * ad.grad(lambda u: xp.sum((MATRIX[:, :3] @ u - WEIGHTS) ** 2) + xp.sum(u**4))(w) / 20.0
        return xp.sum(xp.sin(w))

    return lambda rate, w: (ad.grad(trained, argnums=(0, 1))(rate, w), ad.grad(ad.grad(trained))(rate, w))


@program((2.0,), (3.0,), (5.0,))
def newton_iterations_with_an_inner_derivative(ad, xp):
    def root(a):
        f, x = (lambda y: y * y * y - a), 1.5
        for _ in range(6):
            x = x - f(x) / ad.grad(f)(x)
        return x

    return ad.value_and_grad(ad.grad(root))


@program(*drawn((3, 2), 3, seed=7))
def residual_of_a_differential_equation(ad, xp):
    def u(parameters, t):
        hidden = xp.tanh(parameters[:, 0] * t + parameters[:, 1])
        return xp.sum(hidden * parameters[:, 0])

    def loss(parameters, times):
        total = 0.0
        for i in range(3):
            slope = lambda t: ad.grad(u, argnums=1)(parameters, t)
            total = total + (ad.grad(slope)(times[i]) + u(parameters, times[i])) ** 2
        return total

    return lambda p, times: (ad.grad(loss)(p, times), ad.jacobian(ad.grad(loss), 1)(p, times))


@program(*drawn(2, 2, seed=8))
def equations_of_motion(ad, xp):
    energy = lambda q, p: xp.sum(p * p) / 2.0 + xp.cos(q[0]) * q[1] ** 2 * xp.exp(p[0] * 0.1)

    def step(q, p):
        p = p - 0.1 * ad.grad(energy)(q, p)
        return q + 0.1 * ad.grad(energy, 1)(q, p), p

    return lambda q, p: ad.jacobian(lambda q, p: step(*step(q, p)), argnums=(0, 1))(q, p)


@program(*SCALARS)
def stopped(ad, xp):
    f = lambda x: x**2 * ad.stop_gradient(xp.sin(x)) + ad.stop_gradient(x)
    return lambda x: (ad.grad(f)(x), ad.grad(ad.grad(f))(x), ad.grad(lambda y: ad.stop_gradient(ad.grad(f)(y)) * y)(x))


@program(*VECTORS)
def checkpointed(ad, xp):
    f = ad.checkpoint(lambda x: xp.sin(MATRIX @ x) * x)
    return lambda x: (ad.hessian(lambda y: xp.sum(f(f(y))))(x), ad.jacobian(ad.grad(lambda y: xp.prod(f(y))))(x))


# Several arguments, and arguments and results with a structure.

both = lambda xp: lambda x, y: xp.sin(x) * y**2 + x**3 * y
three = lambda xp: lambda x, y, z: xp.sum(xp.sin(x) * xp.sum(y**2) * z) + x[0] * y[1] ** 3 * z**2


@program(*PAIRS)
def derivatives_by_either(ad, xp):
    f = both(xp)
    return lambda x, y: [ad.grad(ad.grad(f, i), j)(x, y) for i in (0, 1) for j in (0, 1)]


@program(*PAIRS)
def third_derivatives_by_either(ad, xp):
    return lambda x, y: [repeated(ad.grad, ad.grad(ad.grad(both(xp), i), j), 1)(x, y) for i in (0, 1) for j in (0, 1)]


@program(*PAIRS)
def gradient_by_both_within_gradient(ad, xp):
    g = lambda x, y: (lambda a, b: a * b + xp.exp(a))(*ad.grad(both(xp), argnums=(0, 1))(x, y))
    return ad.grad(g, argnums=(1, 0))


for chosen in (0, 2, (0,), (0, 2), (2, 0), (0, 1, 2)):

    def selected(chosen, ad, xp):
        f = lambda x, y, z: three(xp)(x, y, z) * xp.stack([z, x[0] * y[0]])
        return lambda x, y, z: {
            "grad": ad.grad(three(xp), argnums=chosen)(x, y, z),
            "value_and_grad": ad.value_and_grad(three(xp), argnums=chosen)(x, y, z),
            "jacobian": ad.jacobian(f, argnums=chosen)(x, y, z),
            "jacrev": ad.jacrev(f, argnums=chosen)(x, y, z),
            "jacfwd": ad.jacfwd(f, argnums=chosen)(x, y, z),
            "hessian": ad.hessian(three(xp), argnums=chosen)(x, y, z),
        }

    name = f"argnums-{'-'.join(map(str, chosen)) + '-tuple' if isinstance(chosen, tuple) else chosen}"
    program(*drawn(3, 2, (), seed=9), name=name)(functools.partial(selected, chosen))


@program(*drawn(3, 2, (), seed=10))
def products_with_several_arguments(ad, xp):
    f = lambda x, y, z: three(xp)(x, y, z) * x
    tangents = (WEIGHTS[:3], WEIGHTS[2:], 0.7)
    return lambda *args: {
        "jvp": ad.jvp(f, args, tangents),
        "vjp": ad.vjp(f, *args)[1](WEIGHTS[1:]),
        "linearize": ad.linearize(f, *args)[1](*tangents),
        "hvp": ad.hvp(three(xp), args, tangents),
        "make_hvp": ad.make_hvp(three(xp))(*args)(WEIGHTS[:3]),
        "gradient of the hvp": ad.grad(lambda x: xp.sum(ad.hvp(three(xp), (x, *args[1:]), tangents)[0]))(args[0]),
    }


def model(i):
    w, b, c, d = drawn((2, 3), 2, (), 3, seed=11)[i]
    return ({"w": w, "inner": {"b": b, "c": c}, "pair": (d, [c])},)


MODELS = tuple(model(i) for i in range(3))


def loss_of(xp):
    def loss(p):
        d, (c,) = p["pair"]
        hidden = xp.tanh(p["w"] @ d + p["inner"]["b"] * p["inner"]["c"])
        return xp.sum(hidden**2) * c + p["inner"]["c"] ** 3 * hidden[0]

    return loss


def tangent_of(p, factor=0.5):
    """A structure like that of a model."""
    d, (c,) = p["pair"]
    b = p["inner"]["b"]
    return {"w": p["w"] * factor + 1.0, "inner": {"b": b[::-1] * 1.0, "c": 0.3}, "pair": (d * d, [c * factor])}


@program(*MODELS)
def model_gradients(ad, xp):
    loss = loss_of(xp)
    return lambda p: (ad.grad(loss)(p), ad.value_and_grad(loss)(p), ad.vjp(loss, p)[1](2.0))


@program(*MODELS)
def model_hessian(ad, xp):
    return ad.hessian(loss_of(xp))


@program(*MODELS)
def model_jacobians(ad, xp):
    def f(p):
        hidden = xp.tanh(p["w"] @ p["pair"][0])
        return {"hidden": hidden, "rest": (hidden[0] * p["inner"]["c"], [xp.outer(hidden, p["inner"]["b"])])}

    return lambda p: (ad.jacobian(f)(p), ad.jacrev(f)(p), ad.jacfwd(f)(p))


@program(*MODELS)
def model_products(ad, xp):
    loss = loss_of(xp)
    return lambda p: {
        "jvp": ad.jvp(loss, (p,), (tangent_of(p),)),
        "hvp": ad.hvp(loss, (p,), (tangent_of(p),)),
        "jvp of grad": ad.jvp(ad.grad(loss), (p,), (tangent_of(p),)),
        "grad of jvp": ad.grad(lambda q: ad.jvp(loss, (q,), (tangent_of(q),))[1])(p),
        "grad of hvp": ad.grad(lambda q: ad.hvp(loss, (q,), (tangent_of(p),))["pair"][1][0])(p),
        "linearize": ad.linearize(loss, p)[1](tangent_of(p)),
    }


@program(*MODELS)
def model_inner_step(ad, xp):
    def outer(p):
        g = ad.grad(loss_of(xp))(p)
        b, c = p["inner"]["b"] - 0.1 * g["inner"]["b"], p["inner"]["c"] - 0.1 * g["inner"]["c"]
        pair = (p["pair"][0] - 0.1 * g["pair"][0], p["pair"][1])
        return loss_of(xp)({"w": p["w"] - 0.1 * g["w"], "inner": {"b": b, "c": c}, "pair": pair})

    return ad.value_and_grad(outer)


@program(*VECTORS)
def results_in_a_tuple(ad, xp):
    f = lambda x: (xp.sum(x**3), [xp.sin(x[:2]), xp.outer(x[:2], x[2:])])
    return lambda x: (ad.jacobian(f)(x), ad.jacfwd(f)(x), ad.jacrev(f)(x), ad.jacfwd(ad.jacrev(f))(x))


@program(*VECTORS)
def cotangents_in_a_dict(ad, xp):
    f = lambda x: {"a": xp.sin(x) * x[0], "b": (xp.sum(x**2), x[1:3])}
    c = {"a": WEIGHTS, "b": (0.5, WEIGHTS[:2])}
    return lambda x: (ad.vjp(f, x)[0], ad.vjp(f, x)[1](c), ad.jvp(f, (x,), (WEIGHTS,)), ad.linearize(f, x)[1](WEIGHTS))


@program(*VECTORS)
def gradient_through_a_jacobian_in_a_dict(ad, xp):
    def g(x):
        j = ad.jacobian(lambda y: {"a": xp.sin(y) * y[0], "b": xp.sum(y * x)})(x)
        return xp.sum(j["a"] * MATRIX) + xp.sum(j["b"] ** 3)

    return ad.grad(g)


@program(*VECTORS)
def auxiliary_results(ad, xp):
    def f(x):
        y = xp.sin(x)
        return xp.sum(y * x), {"y": y, "sum": xp.sum(y)}

    return lambda x: (ad.grad(f, has_aux=True)(x), ad.value_and_grad(f, has_aux=True)(x))


@program(*VECTORS)
def auxiliary_results_nested(ad, xp):
    def inner(x):
        y = xp.sin(x)
        return xp.sum(y * x), {"y": y, "sum": xp.sum(y**2)}

    def outer(x):
        (value, aux), slope = ad.value_and_grad(inner, has_aux=True)(x)
        again, more = ad.grad(inner, has_aux=True)(x * x)
        return value * aux["sum"] + xp.sum(slope * aux["y"] * again), (slope, more["sum"])

    return lambda x: (ad.value_and_grad(outer, has_aux=True)(x), ad.hessian(lambda y: outer(y)[0])(x))


@program(*SCALARS)
def value_and_grad_of_value_and_grad(ad, xp):
    inner = ad.value_and_grad(lambda x: xp.sin(x) * x)
    return ad.value_and_grad(lambda x: (lambda v, g: v * g + g**3)(*inner(x)))


@pytest.fixture(scope="module")
def traced():
    """JAX with the names of tapegrad, and jax.jit that compiles fast."""
    from oracles import jax, jit, jnp

    def hvp(f, primals, tangents):
        argnums = tuple(range(len(primals))) if len(primals) > 1 else 0
        return jax.jvp(jax.grad(f, argnums), primals, tangents)[1]

    def make_hvp(f):
        return lambda x, *rest: lambda v: jax.jvp(lambda y: jax.grad(f)(y, *rest), (x,), (v,))[1]

    def elementwise_grad(f):
        return jax.grad(lambda x: jnp.sum(f(x)))

    more = {"hvp": hvp, "make_hvp": make_hvp, "elementwise_grad": elementwise_grad}
    ad = SimpleNamespace(**vars(jax), **more, stop_gradient=jax.lax.stop_gradient)
    return SimpleNamespace(ad=ad, xp=jnp, jit=jit)


def same(got, expected, rtol=1e-9):
    """Equal structures of equal numbers."""
    if isinstance(expected, dict):
        assert isinstance(got, dict) and sorted(got) == sorted(expected)
        for key in expected:
            same(got[key], expected[key], rtol)
    elif isinstance(expected, (tuple, list)):
        assert type(got) is type(expected) and len(got) == len(expected)
        for a, b in zip(got, expected):
            same(a, b, rtol)
    else:
        got, expected = np.asarray(got), np.asarray(expected)
        assert got.shape == expected.shape
        scale = np.max(np.abs(expected), initial=0.0)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol * scale + 1e-12)


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name, traced):
    make, (start, *others) = PROGRAMS[name]
    f, reference = make(tg, np), traced.jit(make(traced.ad, traced.xp))
    f(*start)
    for args in (*others, start):
        same(f(*args), reference(*args))


def test_recordings_of_several_arguments(traced):
    start, *others = drawn(3, 2, (), seed=12)
    choices = (0, 2, (0,), (2, 0), (0, 1, 2))
    tangents, cotangent = (WEIGHTS[:3], WEIGHTS[2:], 0.7), WEIGHTS[1:]
    sums, vectors = three, lambda xp: lambda x, y, z: three(xp)(x, y, z) * xp.sin(x)
    methods = {sums: ("grad", "value_and_grad", "hessian"), vectors: ("jacobian", "jacrev", "jacfwd")}
    recorded = {of: tg.record(of(np), *start) for of in methods}

    @traced.jit
    def reference(*args):
        ad, found = traced.ad, {}
        for of, names in methods.items():
            f = of(traced.xp)
            found |= {(name, a): getattr(ad, name)(f, argnums=a)(*args) for name in names for a in choices}
        found["vjp"] = ad.vjp(f, *args)[1](cotangent)
        found["jvp"] = ad.jvp(f, args, tangents)
        found["hvp"] = ad.hvp(three(traced.xp), args, tangents)
        found["make_hvp"] = ad.make_hvp(three(traced.xp))(*args)(tangents[0])
        return list(found.values())

    for args in (start, *others):
        found = []
        for of, names in methods.items():
            r = recorded[of]
            found += [getattr(r, name)(*args, argnums=a) for name in names for a in choices]
        expected = reference(*args)
        found += [r.vjp(*args)[1](cotangent), r.jvp(args, tangents)]
        found += [recorded[sums].hvp(args, tangents), recorded[sums].make_hvp(*args)(tangents[0])]
        same(found, expected)
        same(r.linearize(*args)[1](*tangents), expected[-3][1])


def test_recordings_of_a_model(traced):
    (start,), *others = MODELS
    recorded = tg.record(loss_of(np), start)
    recorded.hessian(start)

    @traced.jit
    def reference(p):
        ad, loss = traced.ad, loss_of(traced.xp)
        slope, tangent = ad.jvp(ad.grad(loss), (p,), (tangent_of(start),))
        return {
            "grad": slope,
            "hessian": ad.hessian(loss)(p),
            "vjp": ad.vjp(loss, p)[1](0.5),
            "jvp": ad.jvp(loss, (p,), (tangent_of(start),)),
            "hvp": tangent,
        }

    for (p,) in others:
        found = {
            "grad": recorded.grad(p),
            "hessian": recorded.hessian(p),
            "vjp": recorded.vjp(p)[1](0.5),
            "jvp": recorded.jvp((p,), (tangent_of(start),)),
            "hvp": recorded.hvp((p,), (tangent_of(start),)),
        }
        same(found, reference(p))
        same(recorded.make_hvp(p)(tangent_of(start)), found["hvp"])
        same(recorded.linearize(p)[1](tangent_of(start)), found["jvp"][1])


def test_confusion_in_closed_form():
    f = tg.grad(lambda x: x * tg.grad(lambda y: x + y)(1.0))
    assert [f(x) for x in (1.0, 2.0, -3.0)] == [1.0, 1.0, 1.0]
    f = tg.grad(lambda x: tg.grad(lambda y: x * y * y)(x))
    assert [f(x) for x in (1.0, 2.0, -3.0)] == [4.0, 8.0, -12.0]
    f = tg.grad(lambda x: x * tg.jvp(lambda y: x + y, (1.0,), (1.0,))[1])
    assert [f(x) for x in (1.0, 2.0, -3.0)] == [1.0, 1.0, 1.0]


def test_an_inner_derivative_is_used_inside_and_outside():
    """Made once, outside; called with numbers, within another gradient, and with numbers again."""
    slope = tg.grad(lambda x: x**4)
    assert slope(2.0) == 32.0
    curvature = tg.grad(lambda x: slope(x) * 2.0)
    assert [curvature(x) for x in (1.0, 2.0, 0.5)] == [24.0, 96.0, 6.0]
    assert [slope(x) for x in (1.0, -1.0)] == [4.0, -4.0]
    third = tg.grad(curvature)
    assert [third(x) for x in (1.0, 2.0)] == [48.0, 96.0]
    assert [curvature(3.0), slope(3.0)] == [216.0, 108.0]


def test_branches_of_an_inner_function_follow_the_outer_argument():
    def f(x):
        return x**3 if x < 1.0 else 2.0 * x**2

    first, second, third = tg.grad(f), tg.grad(tg.grad(f)), tg.grad(tg.grad(tg.grad(f)))
    push = tg.grad(lambda x: tg.jvp(f, (x,), (1.0,))[1])
    for x in (0.5, 2.0, 0.25, 3.0):
        low = x < 1.0
        assert first(x) == pytest.approx(3 * x**2 if low else 4 * x)
        assert second(x) == pytest.approx(6 * x if low else 4.0)
        assert third(x) == pytest.approx(6.0 if low else 0.0)
        assert push(x) == pytest.approx(6 * x if low else 4.0)


def test_an_integer_beside_the_arguments():
    def power(x, n):
        total = 1.0
        for _ in range(n):
            total = total * x
        return total

    second = tg.grad(tg.grad(power))
    for n, x in ((3, 2.0), (3, -1.0), (4, 2.0), (5, 0.5), (3, 0.5)):
        assert second(x, n) == pytest.approx(n * (n - 1) * x ** (n - 2))


# Branches that are not taken. In each row: the function, its derivatives of orders 0 to 3 where the first branch is
# taken, and those where it is not. The first branch has no derivatives, or infinite ones, where it is not taken.

zero = (lambda x: 0.0 * x,) * 4
identity = (lambda x: x, lambda x: 0.0 * x + 1.0, *zero[:2])
power = lambda p: [lambda x, k=k: float(np.prod(p - np.arange(k))) * x ** (p - k) for k in range(4)]
logarithm = (np.log, lambda x: 1 / x, lambda x: -1 / x**2, lambda x: 2 / x**3)
exponential = (np.exp,) * 4
entropy = (lambda x: x * np.log(x), lambda x: np.log(x) + 1, lambda x: 1 / x, lambda x: -1 / x**2)
area = (np.arctanh, lambda x: 1 / (1 - x**2), lambda x: 2 * x / (1 - x**2) ** 2)
area = (*area, lambda x: (2 + 6 * x**2) / (1 - x**2) ** 3)
arc = (np.arcsin, lambda x: (1 - x**2) ** -0.5, lambda x: x * (1 - x**2) ** -1.5)
arc = (*arc, lambda x: (1 + 2 * x**2) * (1 - x**2) ** -2.5)
AT_ZERO = np.array([[0.5, 1.5, 2.5], [0.0, 1.5, -1.0], [2.0, -0.0, 0.0], [1e-3, 0.7, -2.0]])
AT_ONE = np.array([[0.1, 0.5, -0.3], [1.0, 0.5, -1.0], [2.0, -0.7, 1.0], [0.2, -3.0, 0.0]])
AT_LARGE = np.array([[0.5, 1.5, 2.5], [800.0, 1.5, -1.0], [2.0, 1e3, 1e9]])

UNTAKEN = {
    "sqrt": (lambda w, x: w(x > 0, np.sqrt(x), 0), lambda x: x > 0, power(0.5), zero, AT_ZERO),
    "sqrt_otherwise_x": (lambda w, x: w(x > 0, np.sqrt(x), x), lambda x: x > 0, power(0.5), identity, AT_ZERO),
    "sqrt_second": (lambda w, x: w(x <= 0, x, np.sqrt(x)), lambda x: x > 0, power(0.5), identity, AT_ZERO),
    "log": (lambda w, x: w(x > 0, np.log(x), x), lambda x: x > 0, logarithm, identity, AT_ZERO),
    "log_otherwise_0": (lambda w, x: w(x > 0, np.log(x), 0.0), lambda x: x > 0, logarithm, zero, AT_ZERO),
    "entropy": (lambda w, x: w(x > 0, x * np.log(x), 0.0), lambda x: x > 0, entropy, zero, AT_ZERO),
    "reciprocal": (lambda w, x: w(x > 0, 1.0 / x, x), lambda x: x > 0, power(-1.0), identity, AT_ZERO),
    "power": (lambda w, x: w(x > 0, x**1.5, 0.0), lambda x: x > 0, power(1.5), zero, AT_ZERO),
    "negative_power": (lambda w, x: w(x > 0, x**-2, 0.0), lambda x: x > 0, power(-2.0), zero, AT_ZERO),
    "cbrt": (lambda w, x: w(x > 0, np.cbrt(x), 0.0), lambda x: x > 0, power(1 / 3), zero, AT_ZERO),
    "arctanh": (lambda w, x: w(abs(x) < 1, np.arctanh(x), x), lambda x: abs(x) < 1, area, identity, AT_ONE),
    "arcsin": (lambda w, x: w(np.abs(x) < 1, np.arcsin(x), 0.0), lambda x: abs(x) < 1, arc, zero, AT_ONE),
    "exp": (lambda w, x: w(x < 700.0, np.exp(x), x), lambda x: x < 700, exponential, identity, AT_LARGE),
}


def untaken(name, where):
    """The function, the places to call it at, and its derivatives there, exactly 0 in the branch that is 0."""
    f, taken, inside, outside, places = UNTAKEN[name]

    def derivative(k, x):
        x = np.asarray(x, float)
        result = np.array(outside[k](x))
        here = taken(x)
        result[here] = inside[k](x[here])
        return result

    return (lambda x: f(where, x)), places, derivative


def exact(got, expected):
    """To rounding; zeros exactly."""
    got = np.asarray(got)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=0)


either_where = pytest.mark.parametrize("library", [np, tg], ids=["np.where", "tg.where"])


@either_where
@pytest.mark.parametrize("name", UNTAKEN)
def test_branches_not_taken_in_arrays(name, library):
    f, (start, *places), derivative = untaken(name, library.where)
    total = lambda x: np.sum(f(x))
    v = np.array([0.7, -1.3, 0.4])
    recorded, summed = tg.record(f, start), tg.record(total, start)
    elementwise = {
        1: [tg.grad(total), tg.elementwise_grad(f), summed.grad, lambda x: tg.vjp(f, x)[1](np.ones(3))[0]],
        2: [tg.elementwise_grad(tg.elementwise_grad(f)), tg.grad(lambda x: np.sum(tg.grad(total)(x)))],
        3: [tg.elementwise_grad(tg.elementwise_grad(tg.elementwise_grad(f)))],
    }
    diagonal = {
        1: [tg.jacobian(f), tg.jacrev(f), tg.jacfwd(f), recorded.jacobian],
        2: [tg.hessian(total), summed.hessian, tg.jacfwd(tg.jacrev(total)), tg.jacrev(tg.jacfwd(total))],
        3: [tg.jacobian(lambda x: tg.hessian(total)(x) @ np.ones(3))],
    }
    along = {
        1: [lambda x: tg.jvp(f, (x,), (v,))[1], lambda x: recorded.jvp((x,), (v,))[1]],
        2: [
            lambda x: tg.hvp(total, (x,), (v,)),
            lambda x: summed.hvp((x,), (v,)),
            lambda x: tg.jvp(tg.grad(total), (x,), (v,))[1],
            tg.grad(lambda x: tg.jvp(total, (x,), (v,))[1]),
        ],
    }
    for order in (1, 2, 3):
        ways = [
            *((g, lambda d: d) for g in elementwise[order]),
            *((g, np.diag) for g in diagonal[order]),
            *((g, lambda d: d * v) for g in along.get(order, ())),
        ]
        for derive, expected in ways:
            derive(start)
            for x in places:
                exact(derive(x), expected(derivative(order, x)))
    for x in places:
        exact(recorded(x), derivative(0, x))


@either_where
@pytest.mark.parametrize("name", UNTAKEN)
def test_branches_not_taken_in_numbers(name, library):
    f, places, derivative = untaken(name, library.where)
    ways = [(k, repeated(step, f, k)) for step in (tg.grad, forward(tg)) for k in (1, 2, 3)]
    for x in places.flat:
        for k, derive in ways:
            exact(derive(float(x)), derivative(k, [x])[0])


@either_where
def test_the_length_of_a_vector_that_may_be_zero(library):
    def length(x):
        square = np.sum(x * x)
        return library.where(square > 0, np.sqrt(square), 0.0)

    start = np.array([1.0, 2.0, 2.0])
    gradient, hessian, third = tg.grad(length), tg.hessian(length), tg.jacobian(tg.hessian(length))
    recorded = tg.record(length, start)
    for x in (start, np.zeros(3), np.array([0.0, 3.0, 4.0]), np.zeros(3)):
        r = np.sqrt(np.sum(x * x))
        slope = x / r if r else x
        curvature = (np.eye(3) - np.outer(slope, slope)) / r if r else np.zeros((3, 3))
        for g in (gradient, recorded.grad):
            np.testing.assert_allclose(g(x), slope, rtol=1e-12, atol=1e-15 if r else 0)
        for h in (hessian, recorded.hessian):
            np.testing.assert_allclose(h(x), curvature, rtol=1e-12, atol=1e-15 if r else 0)
        assert np.all(np.isfinite(third(x)))
        assert r or not np.any(third(x))


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4, 1.0, 2.0, 3.0])
def test_powers_at_zero(exponent):
    f = lambda x: x**exponent
    arrays = [repeated(tg.elementwise_grad, f, k) for k in (1, 2, 3)]
    numbers = [repeated(tg.grad, f, k) for k in (1, 2, 3)]
    for x in (np.array([0.5, 1.5]), np.array([0.0, -1.5]), np.array([-0.0, 0.25])):
        for k in (1, 2, 3):
            factor = float(np.prod(exponent - np.arange(k)))
            expected = factor * x ** (exponent - k) if factor else np.zeros(2)
            np.testing.assert_allclose(arrays[k - 1](x), expected, rtol=1e-12, atol=1e-300)
            np.testing.assert_allclose([numbers[k - 1](float(a)) for a in x], expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "softplus", "logsumexp", "softmax", "log_softmax", "logaddexp"])
def test_derivatives_far_out(name):
    """Functions that do not overflow have derivatives that do not: far out, those are 0 or those of a line."""
    f, slopes = {
        "sigmoid": (lambda x: tg.sigmoid(x)[0], (0.0, 0.0)),
        "tanh": (lambda x: np.tanh(x)[0], (0.0, 0.0)),
        "softplus": (lambda x: tg.softplus(x)[0], (1.0, 0.0)),
        "logsumexp": (lambda x: tg.logsumexp(x), (1.0, 0.0)),
        "softmax": (lambda x: tg.softmax(x)[0], (0.0, 0.0)),
        "log_softmax": (lambda x: tg.log_softmax(x)[1], (-1.0, 1.0)),
        "logaddexp": (lambda x: np.logaddexp(x[0], x[1]), (1.0, 0.0)),
    }[name]
    gradient, hessian, third = tg.grad(f), tg.hessian(f), tg.jacobian(tg.hessian(f))
    for x in (np.array([0.5, -0.5]), np.array([900.0, -900.0]), np.array([1e4, 2e3])):
        derivatives = gradient(x), hessian(x), third(x)
        if x[0] > 1:
            for d, expected in zip(derivatives, (np.array(slopes), np.zeros((2, 2)), np.zeros((2, 2, 2)))):
                np.testing.assert_allclose(d, expected, rtol=1e-12, atol=1e-100)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_an_infinite_tangent_that_meets_a_derivative_of_zero_is_zero_in_every_mode(dtype):
    # exp overflows, and tanh is flat there: on the way back the zero comes first, on the way forward the infinity.
    def f(x):
        return np.tanh(np.exp(x))

    for x in (dtype(800.0), np.full(3, 800.0, dtype), np.full(1000, 800.0, dtype)):
        one, recording = np.ones_like(x)[()], tg.record(f, x)
        for found in (tg.jvp(f, (x,), (one,)), recording.jvp((x,), (one,))):
            assert np.all(found[0] == 1.0) and np.all(found[1] == 0.0)
        assert np.all(recording.vjp(x)[1](one)[0] == 0.0)
    assert np.all(tg.jacfwd(f)(np.full(2, 800.0)) == 0.0) and tg.grad(tg.grad(f))(800.0) == 0.0
    assert np.isnan(tg.jvp(lambda x: np.exp(x) * np.nan, (1.0,), (1.0,))[1])


def test_tangents_have_the_shapes_of_outputs_that_are_views_of_one_number():
    def f(s):
        return s, (2.0 * s)[None], np.sin(s).ravel(), np.broadcast_to(3.0 * s, (2, 3)), np.ones(3)

    for recording in (tg.record(lambda s: tg.jvp(f, (s,), (1.0,)), 0.5), lambda s: tg.record(f, s).jvp((s,), (1.0,))):
        values, tangents = recording(0.5)
        expected = 1.0, np.full(1, 2.0), np.full(1, np.cos(0.5)), np.full((2, 3), 3.0), np.zeros(3)
        for value, tangent, t in zip(values, tangents, expected, strict=True):
            assert np.shape(value) == np.shape(tangent) == np.shape(t)
            np.testing.assert_allclose(tangent, t, rtol=1e-15)


def curled(x):
    return np.sin(x) * np.sum(x * x)


X, V = np.array([0.3, 0.7, 1.1]), np.array([1.0, -1.0, 2.0])
MATRICES = {
    "pull": lambda: tg.jacobian(curled)(X).T,
    "push": lambda: tg.jacobian(curled)(X),
    "product": lambda: tg.hessian(lambda x: np.sum(curled(x)))(X),
}


@pytest.mark.parametrize("name", MATRICES)
def test_what_was_linearised_outside_is_used_inside_of_derivatives(name):
    # Made before and outside of what is recorded, of functions that nobody else keeps.
    make = {
        "pull": lambda: (lambda pull: lambda c: pull(c)[0])(tg.vjp(lambda x: curled(x), X)[1]),
        "push": lambda: tg.linearize(lambda x: curled(x), X)[1],
        "product": lambda: tg.make_hvp(lambda x: np.sum(curled(x)))(X),
    }[name]
    linear, matrix = make(), MATRICES[name]()
    assert np.allclose(linear(V), matrix @ V, rtol=1e-12)
    assert np.allclose(tg.jacobian(linear)(V), matrix, rtol=1e-12)
    assert np.allclose(tg.grad(lambda v: np.sum(linear(v) ** 2))(V), 2.0 * matrix.T @ matrix @ V, rtol=1e-12)
    assert np.allclose(tg.jvp(linear, (V,), (X,))[1], matrix @ X, rtol=1e-12)
    eager = linear(tg.Value(V))
    assert isinstance(eager, tg.Value) and np.allclose(eager.data, matrix @ V, rtol=1e-12)


def test_what_was_linearised_keeps_its_arguments():
    x = X.copy()
    _, pull = tg.vjp(curled, x)
    x[:] = 100.0
    assert np.allclose(tg.jacobian(lambda c: pull(c)[0])(V), tg.jacobian(curled)(X).T, rtol=1e-12)
