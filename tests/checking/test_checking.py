"""Checks of checks: right derivatives pass, and each wrong rule is caught under its own name.

Operations are declared when a test first wants them: the table is the same for all tests, and those that go through it
have read it by then.
"""

import dataclasses
import functools

import numpy as np
import pytest
from numba import njit

import tapegrad as tg
from tapegrad.checking import Report, check_grads, check_op
from tapegrad.checking.differences import slope
from tapegrad.errors import CheckError, CutGradientError, IntegerInputError, OperationError, StructureError
from tapegrad.ops import BY_NAME, BY_UFUNC, Interval, binary, structured, ternary, unary
from tapegrad.ops.record import operand_at, params_of_two, result_at

X = np.array([0.4, -1.2, 2.0, 0.7])
M = np.array([[1.0, 0.2, -0.3], [0.5, 2.0, 0.1], [-0.4, 0.3, 1.5]])
Y = np.random.default_rng(0).normal(size=(2, 4, 3))
detach = BY_NAME["detach"]


# Differences


@pytest.mark.parametrize(
    ("f", "expected", "rtol"),
    [
        (lambda t: np.exp(t), 1.0, 1e-12),
        (lambda t: np.sin(1e4 * t), 1e4, 1e-8),
        (lambda t: 1e8 + t, 1.0, 1e-4),
        (lambda t: np.log(1e-3 + t), 1e3, 1e-9),
        (lambda t: np.sqrt(1e-8 + t), 5e3, 1e-6),
        (lambda t: t * abs(t), 0.0, 0.0),
        (lambda t: 3.0, 0.0, 0.0),
    ],
)
def test_differences_are_good_and_know_how_good(f, expected, rtol):
    found = slope(lambda t: np.array([f(t)]))
    assert not found.kink[0]
    assert abs(found.value[0] - expected) <= rtol * abs(expected) + 1e-10
    assert abs(found.value[0] - expected) <= 30 * found.error[0]


@pytest.mark.parametrize("f", [abs, lambda t: max(t, 0.0), lambda t: 1.0 - 3.0 * abs(t), lambda t: np.hypot(t, 0.0)])
def test_kinks_are_found(f):
    assert slope(lambda t: np.array([f(t), np.cos(t)])).kink.tolist() == [True, False]


def test_where_there_is_no_number_there_is_no_slope():
    with np.errstate(invalid="ignore"):
        assert np.isnan(slope(lambda t: np.sqrt(np.array([t]))).value[0])


# check_grads: what is right


@dataclasses.dataclass
class Model:
    weight: np.ndarray
    bias: float


def branching(x):
    return x * x if x < 1.0 else np.exp(x)


def network(model, x, labels):
    return tg.cross_entropy(np.tanh(x @ model.weight + model.bias), labels)


def repeated(x, n):
    for _ in range(n):
        x = np.sin(x) + x * x
    return x


FUNCTIONS = {
    "a number": (lambda x: x**3 + np.exp(-x), (1.3,)),
    "an array": (lambda x: np.sin(x) * x[::-1], (X,)),
    "two arguments": (lambda x, y: np.sum(x * y) / (1.0 + y @ y), (X, X + 0.5)),
    "a zero": (lambda x, y: x * y + x**2, (0.0, np.zeros(3))),
    "matrices": (lambda a, x: a @ a.T @ x, (M, X[:3])),
    "reductions": (lambda y: {"max": np.max(y, 1), "prod": np.prod(y, 0), "logsumexp": tg.logsumexp(y, 2)}, (Y,)),
    "cumsum and sort": (lambda x: np.cumsum(np.sort(x)) ** 2, (X,)),
    "norm": (lambda y: np.linalg.norm(y) * y[0, 0], (Y,)),
    "nested": (lambda d, k: {"a": (d["w"] @ d["w"].T * k, 3), "b": d["b"][0] + 1.0}, ({"w": M, "b": [2.0]}, 4)),
    "a model": (network, (Model(M, 0.1), M[:2] + 1.0, np.array([0, 2]))),
    "a branch": (branching, (0.5,)),
    "the other branch": (branching, (1.5,)),
    "an integer": (repeated, (0.3, 3)),
    "indices": (lambda x, i: x[i] * x[1], (X, np.array([0, 0, 3]))),
    "a gradient": (tg.grad(lambda x: np.sum(np.tanh(x) ** 2)), (X,)),
    "only on Values": (lambda x: x.detach() * 0.0 + tg.sigmoid(x) * x, (X,)),
    "fast": (lambda x: np.sin(1e4 * x), (1.0,)),
    "large": (lambda x: 1e12 * np.cos(x), (X,)),
    "float32": (lambda x: np.sum(x**3), (X.astype(np.float32),)),
    "constant": (lambda x: 3.0, (2.0,)),
    "empty": (lambda x, y: (x[:0] * 2.0, np.sum(y)), (X, X)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_right_derivatives_pass(name):
    f, args = FUNCTIONS[name]
    report = check_grads(f, args)
    assert report.worst < 1e-6
    assert report.checks >= 9


def test_the_third_order_and_chosen_modes():
    f = lambda x, y: np.sum(np.exp(x * y) + x**3)
    assert check_grads(f, (X, 0.5), order=3).checks > 3 * check_grads(f, (X, 0.5), order=1).checks
    assert "rev" not in check_grads(f, (X, 0.5), order=3, modes=("fwd",)).where
    assert check_grads(f, (X, 0.5), modes="rev").checks < check_grads(f, (X, 0.5)).checks


def test_chosen_arguments():
    f = lambda x, y: np.sum(x) * abs(y)
    with pytest.raises(CheckError, match="kink"):
        check_grads(f, (X, 0.0))
    check_grads(f, (X, 0.0), argnums=0)
    check_grads(f, (X, 0.0), argnums=(0,))
    check_grads(f, (X, 2.0), argnums=-1)


def test_the_function_keeps_its_arguments():
    def f(x):
        return np.sum(x * x)

    given = X.copy()
    check_grads(f, (given,))
    assert np.array_equal(given, X)


def test_a_report():
    report = check_grads(lambda x: np.sin(x), (X,))
    assert isinstance(report, Report)
    assert report == check_grads(lambda x: np.sin(x), (X,))
    assert str(report).startswith(f"<lambda>: {report.checks} checks, worst relative error ")
    assert report.where in str(report)
    assert str(Report("f", 1, 0.0, "here", ("a (b)", "c"))).endswith("not checked: a (b); not checked: c")


# check_grads: what is wrong


def with_vjp(f, bwd):
    made = tg.custom_vjp(f)
    made.defvjp(lambda *args: (f(*args), args), bwd)
    return made


def with_jvp(f, rule):
    made = tg.custom_jvp(f)
    made.defjvp(rule)
    return made


def product(x, y):
    return np.sin(x) * y


def product_bwd(args, w):
    x, y = args
    return w * np.cos(x) * y, w * np.sin(x)


WRONG = {
    "a gradient": (
        with_vjp(product, lambda args, w: (product_bwd(args, w)[0], 1.01 * product_bwd(args, w)[1])),
        "rev", "order 1 (rev): in argument 1, element [",
    ),
    "one element of a gradient": (
        with_vjp(product, lambda args, w: (product_bwd(args, w)[0] * [1.0, 1.0, 2.0, 1.0], w * np.sin(args[0]))),
        "rev", "order 1 (rev): in argument 0, element [2]: derivative ",
    ),
    "a second derivative": (
        with_vjp(product, lambda args, w: (w * np.cos(tg.stop_gradient(args[0])) * args[1], w * np.sin(args[0]))),
        "rev", "order 2 (rev of rev): in argument 0, element [",
    ),
    "a tangent": (
        with_jvp(product, lambda x, t: (product(*x), t[0] * np.cos(x[0]) * x[1] - t[1] * np.sin(x[0]))),
        "fwd", "order 1 (fwd): in argument 1, element [",
    ),
    "the second derivative of a tangent": (
        with_jvp(product, lambda x, t: (x[0], t[0] * np.cos(x[0]) * tg.stop_gradient(x[1]) + t[1] * np.sin(x[0]))),
        "fwd", "order 2 (fwd of fwd): in argument 1, element [",
    ),
    "a black box": (
        tg.external(product, lambda w, z, x, y: (w * np.cos(x) * y, w * z), numpy_rules=True),
        ("fwd", "rev"), "order 1 (fwd): in argument 1, element [",
    ),
    "a stopped gradient": (lambda x, y: tg.stop_gradient(x) * y, ("fwd", "rev"), "order 1 (fwd): in argument 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_rules_are_caught(name):
    f, modes, message = WRONG[name]
    with pytest.raises(CheckError) as caught:
        check_grads(f, (X, X + 0.3), modes=modes)
    text = str(caught.value)
    assert message in text
    for part in ("derivative ", "differences ", "relative error ", "drawn with seed 0"):
        assert part in text


def test_a_message_says_where():
    f = lambda d, y: {"loss": tg.stop_gradient(d["w"][1]) * y + d["b"], "n": 3}
    with pytest.raises(CheckError) as caught:
        check_grads(f, ({"w": [1.0, 2.0], "b": 3.0}, X), order=1, seed=7)
    text = str(caught.value)
    assert text.startswith("<lambda>: order 1 (fwd): in argument 0['w'][1]: derivative 0, differences ")
    assert "(relative error 1) in result['loss'], element [" in text
    assert "drawn with seed 7" in text
    with pytest.raises(CheckError, match=r"in argument 0\.weight, element \[0, 1\]"):
        wrong = with_vjp(np.sin, lambda args, w: (np.cos(args[0]) * w * np.array([1.0, 2.0]),))
        check_grads(lambda m: wrong(m.weight) * m.bias, (Model(M[:1, :2], 2.0),), order=1)


@pytest.mark.parametrize(
    ("f", "order"),
    [
        (lambda x: abs(x), 1),
        (lambda x: np.maximum(x, 0.0), 1),
        (lambda x: tg.relu(x) ** 2, 2),
        (lambda x: np.sqrt(x * x), 1),
        (lambda x: np.sum(np.maximum(x, -x)), 1),
    ],
)
@pytest.mark.parametrize("x", [0.0, np.array([1.0, 0.0, -2.0])])
def test_kinks_are_named(f, order, x):
    if order > 1:
        check_grads(f, (x,), order=order - 1)
    message = rf"order {order} .* differences from the left \(.*\) and from the right \(.*\) differ: is there a kink"
    with pytest.raises(CheckError, match=message):
        check_grads(f, (x,), order=order)


def test_a_replay_that_computes_something_else():
    with pytest.raises(CheckError, match=r"the value of result at \[0\]: by replay 0.8, by NumPy 1.2"):
        check_grads(lambda x: x * (2.0 if isinstance(x, tg.Value) else 3.0), (X[:1],))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: check_grads(np.log, (0.0,)), CheckError, "log: result is -inf"),
        (lambda: check_grads(np.log, (np.array([1.0, -1.0]),)), CheckError, r"result, element \[1\] is nan"),
        (lambda: check_grads(np.sqrt, (0.0,)), CheckError, "edge of where the function is defined"),
        (lambda: check_grads(np.sin, (np.nan,)), CheckError, "argument 0 holds nan"),
        (lambda: check_grads(np.sin, (X * np.inf,)), CheckError, "argument 0 holds inf"),
        (lambda: check_grads(lambda x: None, (1.0,)), StructureError, "returned nothing"),
        (lambda: check_grads(lambda x: "text", (1.0,)), StructureError, "returned str: there is no float"),
        (lambda: check_grads(np.sin, (1,)), IntegerInputError, "no argument holds a float"),
        (lambda: check_grads(lambda x, n: x * n, (1.0, 2), argnums=1), IntegerInputError, "argument 1 holds no floats"),
        (lambda: check_grads(np.sin, (np.arange(3),)), IntegerInputError, "no argument holds a float"),
        (lambda: check_grads(np.sin, (1.0,), argnums=1), IndexError, "argument 1"),
        (lambda: check_grads(np.sin, X), StructureError, r"write \(x,\) for one"),
        (lambda: check_grads(np.sin, (tg.Value(1.0),)), CutGradientError, "pass v.data"),
        (lambda: check_grads(np.sin, (1.0,), modes=("forward",)), ValueError, "modes must be"),
        (lambda: check_grads(np.sin, (1.0,), modes=()), ValueError, "modes must be"),
        (lambda: check_grads(np.sin, (1.0,), order=0), ValueError, "order must be"),
        (lambda: check_grads(np.sin, (1.0,), order=True), ValueError, "order must be"),
    ],
)
def test_what_cannot_be_checked(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_order_without_rules_says_which():
    black = tg.external(lambda x: float(x) ** 2, lambda w, z, x: 2.0 * float(x) * float(w))
    check_grads(black, (1.5,), order=1)
    with pytest.raises(tg.errors.UnsupportedError) as caught:
        check_grads(black, (1.5,))
    assert caught.value.__notes__ == ["while checking derivatives of order 2"]


# check_op: elementwise operations of a user's


@njit
def logistic(x):
    return 1.0 / (1.0 + np.exp(-x))


@njit
def swish_value(x):
    return x * logistic(x)


@njit
def swish_partial(x, z):
    s = logistic(x)
    return s * (1.0 - z) + z


def fma(x, y, w):
    return x * y + w


@functools.cache
def elementwise(name):
    """Operations by name, each declared once."""
    return {
        "njit": lambda: unary("check_njit", "z", value=swish_value, partials=swish_partial),
        "njit_helper": lambda: unary(
            "check_njit_helper", "z",
            value=lambda x: x * logistic(x),
            partials=lambda x, z: logistic(x) * (1.0 - z) + z),
        "three": lambda: ternary(
            "check_three", "z",
            value=fma,
            partials=lambda x, y, w, z: (y, x, 1.0)),
        "domain": lambda: unary(
            "check_domain", "z",
            value=lambda x: np.log(x),
            partials=lambda x, z: 1.0 / x),
        "partial": lambda: unary(
            "check_partial", "z",
            value=lambda x: np.sin(x),
            partials=lambda x, z: np.sin(x)),
        "one_partial": lambda: binary(
            "check_one_partial", "z",
            value=lambda x, y: x * y * y,
            partials=lambda x, y, z: (y * y, 2.002 * x * y)),
        "zero": lambda: binary(
            "check_zero", "z",
            value=lambda x, y: x * y,
            partials=lambda x, y, z: (y, 0.0)),
        "second": lambda: binary(
            "check_second", "z",
            value=lambda x, y: x * x * y,
            partials=lambda x, y, z: (2.0 * x * detach(y), x * x)),
        "ufunc": lambda: unary(
            "check_ufunc", "z",
            value=lambda x: 1.001 * x,
            partials=lambda x, z: 1.001,
            ufunc=np.conjugate),
        "rough": lambda: unary(
            "check_rough", "z",
            value=lambda x: np.sin(1e14 * x),
            partials=lambda x, z: 1e14 * np.cos(1e14 * x),
            samples=Interval(0.5, 1.0)),
        "cancelling": lambda: unary(
            "check_cancelling", "z",
            value=lambda x: 1.0 - np.cos(x),
            partials=lambda x, z: np.sin(x)),
    }[name]()  # fmt: skip


@pytest.mark.parametrize("name", ["njit", "njit_helper", "three", "cancelling"])
def test_right_operations_pass(name):
    report = check_op(elementwise(name))
    assert report.worst < 1e-6
    assert report.subject == f"check_{name}"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("partial", r"check_partial: partials: dz/dx at sample \d+ \(x = .*\): rule .*, differences .* \(relative"),
        ("one_partial", r"check_one_partial: partials: dz/dy at sample \d+ \(x = .*, y = .*\): rule"),
        ("zero", r"check_zero: partials: dz/dy \(.* held=\(1,\)\) at sample"),
        ("second", r"check_second: partials differentiated: d2z/dxdy \(fwd of rev\) at sample \d+ .*: instructions 0"),
        ("ufunc", r"check_ufunc: value at sample \d+ \(x = .*\): rule .*, np.conjugate "),
        ("rough", r"check_rough: partials: dz/dx: at \d+ of 24 samples differences do not settle"),
        ("domain", r"check_domain: value at sample \d+ \(x = -.*\): nan: choose `samples` in its domain"),
    ],
)
def test_wrong_operations_are_caught(name, message):
    operation = elementwise(name)
    with pytest.raises(CheckError, match=message):
        check_op(operation)
    BY_UFUNC.pop(operation.ufunc, None)


def test_samples_may_be_given():
    check_op(elementwise("domain"), np.array([0.5, 1.0, 2.0]))
    check_op(elementwise("domain"), 2.0)
    check_op(elementwise("zero"), 2.0, np.array([0.5, 1.0, 2.0]), constant=(1,))


def test_what_is_no_operation():
    for call, message in (
        (lambda: check_op(np.sin), "declared with tapegrad.ops"),
        (lambda: check_op(BY_NAME["leaf"]), "declared with tapegrad.ops"),
        (lambda: check_op(BY_NAME["add"], 1.0), "takes 2 operands, 1 were given"),
        (lambda: check_op(BY_NAME["add"], params=[1]), "takes no option params"),
        (lambda: check_op(BY_NAME["sum"]), "needs example operands"),
        (lambda: check_op(BY_NAME["sum"], np.arange(3)), "none of the examples holds floats"),
        (lambda: check_op(BY_NAME["sum"], X), "cannot be called"),
    ):
        with pytest.raises(OperationError, match=message):
            call()


# check_op: structured operations of a user's, z_ij = a_i sin(x_ij)


def waves_pullback(p, z, gz, a, x):
    return np.sum(gz * np.sin(x), 1), gz * a[:, None] * np.cos(x)


def waves_pushforward(p, z, operands, tangents):
    (a, x), (ta, tx) = operands, tangents
    terms = [] if ta is None else [ta[:, None] * np.sin(x)]
    return sum(terms if tx is None else [*terms, a[:, None] * np.cos(x) * tx])


# Rules of the operation that is right but for one of them: they are changed here, as its kernels take long to compile.
WAVES_RULES = {"pullback": waves_pullback, "pushforward": waves_pushforward}


def waves(name, back=1.0, push=1.0, keep=1.0, **rules):
    def forward(side, k, v):
        a, x, o = operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
        n, m = side[params_of_two(k)], side[params_of_two(k) + 1]
        for i in range(n * m):
            v[o + i] = v[a + i // m] * np.sin(v[x + i])
        return True

    def reverse(side, k, v, g):
        a, x, o = operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
        n, m = side[params_of_two(k)], side[params_of_two(k) + 1]
        for i in range(n * m):
            g[a + i // m] += g[o + i] * np.sin(v[x + i])
            g[x + i] = keep * g[x + i] + back * g[o + i] * v[a + i // m] * np.cos(v[x + i])

    def tangent(side, k, v, t):
        a, x, o = operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
        n, m = side[params_of_two(k)], side[params_of_two(k) + 1]
        for i in range(n * m):
            t[o + i] = t[a + i // m] * np.sin(v[x + i]) + push * t[x + i] * v[a + i // m] * np.cos(v[x + i])

    rules = {
        "views": lambda p: ([((p[0],), None), ((p[0], p[1]), None)], (p[0], p[1])),
        "params": lambda a, x, twice=False: x,
        "depends": "n,nm->nm",
        "pullback": lambda *args: WAVES_RULES["pullback"](*args),
        "pushforward": lambda *args: WAVES_RULES["pushforward"](*args),
        **rules,
    }
    return structured(name, "z", arity=2, forward=forward, reverse=reverse, tangent=tangent, **rules)


WAVES = {
    "right": ({}, None),
    "bare": ({"depends": None, "pullback": None, "pushforward": None}, None),
    "reverse": ({"back": 1.001}, r"reverse kernel: result, element \[\d, \d\] by operand 1, element \[\d, \d\]: ker"),
    "tangent": ({"push": 1.001}, r"tangent kernel: result, element \[\d, \d\] by operand 1, element \[\d, \d\]: ker"),
    "overwriting": ({"keep": 0.0}, r"reverse kernel adds to the adjoint of operand 1 at \[\d, \d\]: found"),
    "pullback": (
        {"pullback": lambda p, z, gz, a, x: (np.sum(gz * np.sin(x), 1), gz * a[:, None] * x)},
        r"pullback: adjoint of operand 1 at \[\d, \d\]: rule .*, reverse kernel",
    ),
    "second_pullback": (
        {"pullback": lambda p, z, gz, a, x: (np.sum(gz * np.sin(x), 1), gz * a[:, None] * detach(np.cos(x)))},
        r"pullback differentiated \(fwd\) by operand 1: the adjoint of operand 1, element \[\d, \d\]: rule 0, diff",
    ),
    "short_pullback": (
        {"pullback": lambda p, z, gz, a, x: (np.sum(gz * np.sin(x), 1),)},
        "pullback: it cannot be used at the examples: ValueError",
    ),
    "pushforward": (
        {"pushforward": lambda p, z, operands, tangents: 2.0 * waves_pushforward(p, z, operands, tangents)},
        r"pushforward: tangent of operand 0 alone at \[\d, \d\]: rule .*, tangent kernel",
    ),
    "partial_pushforward": (
        {"pushforward": lambda p, z, operands, tangents: operands[0][:, None] * np.cos(operands[1]) * tangents[1]},
        "pushforward: it cannot be used at the examples: TypeError",
    ),
    "second_pushforward": (
        {"pushforward": lambda p, z, o, tangents: waves_pushforward(p, z, (o[0], detach(o[1])), tangents)},
        r"pushforward differentiated \(fwd\) by operand 1: the tangent of the result, element \[\d, \d\]: rule",
    ),
    "depends": (
        {"depends": lambda p, a, x: [(np.arange(6), np.arange(6) // 3), (np.arange(6), np.arange(6)[::-1])]},
        r"depends: result, element \[0, 0\] depends on operand 1, element \[0, 0\], which the rule denies",
    ),
}


@functools.cache
def declared(name):
    """An operation of WAVES, declared once."""
    return waves(f"check_{name}", **WAVES[name][0])


@pytest.fixture
def waves_of(monkeypatch):
    """The operation of WAVES with a name; until the test is over."""

    def of(name):
        changes = WAVES[name][0]
        if not changes or changes.keys() - WAVES_RULES.keys():
            return declared(name)
        for rule, function in changes.items():
            monkeypatch.setitem(WAVES_RULES, rule, function)
        return declared("right")

    return of


@pytest.mark.parametrize("name", WAVES)
def test_rules_of_structured_operations(name, waves_of):
    operation, message = waves_of(name), WAVES[name][1]
    examples = np.array([0.5, 2.0]), np.array([[0.3, 0.4, 1.0], [2.0, -1.0, 0.2]])
    if message is None:
        report = check_op(operation, *examples, twice=True)
        assert report.worst < 1e-6
        assert [text.split(" (")[0] for text in report.skipped] == (
            ["second derivatives in reverse", "second derivatives forward", "sparsity"] if name == "bare" else []
        )
        return
    with pytest.raises(CheckError, match=f"^{operation.name}: {message}"):
        check_op(operation, *examples)


def test_wrong_operations_show_in_functions(waves_of):
    args = np.array([0.5, 2.0]), np.array([[0.3, 0.4, 1.0], [2.0, -1.0, 0.2]])
    check_grads(lambda a, x: declared("right")(a, x), args)
    with pytest.raises(CheckError, match=r"order 2 \(fwd of rev\): in argument 1, element"):
        check_grads(waves_of("second_pullback"), args)
    with pytest.raises(CheckError, match=r"order 1 \(rev\): in argument 1, element"):
        check_grads(lambda a, x: declared("reverse")(a, x), args)
