"""Operations declared here, outside of the package: a row is all that it takes to use one everywhere.

They are declared when a test first wants them: the table is the same for all tests, and those that go through it have
read it by then.
"""

import ast
import functools
import math
import re
from pathlib import Path

import numpy as np
import pytest
from numba import njit

import tapegrad as tg
from tapegrad.errors import CheckError, IndexRangeError, OperationError, UnsupportedError
from tapegrad.ops import BY_NAME, TABLE, Elementwise, Interval, binary, structured, ternary, unary
from tapegrad.ops.lines import layout, line
from tapegrad.ops.rules import checked_partials
from tapegrad.ops.selection import where

dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])


# A running product: its kernels, and what they do in terms of other operations.


def cumprod_forward(side, k, v):
    outer, n, _, so, sn, _ = layout(side, k)
    x, z = line(side, k, 0)
    for i in range(outer):
        product = 1.0
        for j in range(n):
            product *= v[x + i * so + j * sn]
            v[z + i * n + j] = product
    return True


def cumprod_reverse(side, k, v, g):
    # Behind element j stands the product of those before it, times what the results from j on say of it; no division.
    outer, n, _, so, sn, _ = layout(side, k)
    x, z = line(side, k, 0)
    for i in range(outer):
        rest = 0.0
        for j in range(n - 1, -1, -1):
            following = v[x + i * so + (j + 1) * sn] if j < n - 1 else 0.0
            rest = g[z + i * n + j] + following * rest
            g[x + i * so + j * sn] += rest * (v[z + i * n + j - 1] if j > 0 else 1.0)


def cumprod_tangent(side, k, v, t):
    outer, n, _, so, sn, _ = layout(side, k)
    x, z = line(side, k, 0)
    for i in range(outer):
        t[z + i * n] = t[x + i * so]
        for j in range(1, n):
            a, o = x + i * so + j * sn, z + i * n + j
            t[o] = t[o - 1] * v[a] + v[o - 1] * t[a]


def cumprod_pullback(p, z, gz, x):
    rests = [gz[:, -1]]
    for j in range(p[1] - 2, -1, -1):
        rests.append(gz[:, j] + x[:, j + 1] * rests[-1])
    before = np.concatenate([np.ones((p[0], 1, 1), x.dtype), z[:, :-1]], 1)
    return (before * np.stack(rests[::-1], 1),)


def cumprod_pushforward(p, z, operands, tangents):
    (x,), (t,) = operands, tangents
    found = [t[:, 0]]
    for j in range(1, p[1]):
        found.append(found[-1] * x[:, j] + z[:, j - 1] * t[:, j])
    return np.stack(found, 1)


def cumprod_depends(p, x):
    places = np.arange(p[0] * p[1]).reshape(p[0], p[1])
    later, earlier = np.tril_indices(p[1])
    return [(places[:, later].reshape(-1), places[:, earlier].reshape(-1))]


@functools.cache
def declared(name):
    return {
        "softsign": lambda: unary("softsign", "z = x / (1 + |x|)",
            value=lambda x: x / (1.0 + abs(x)),
            partials=lambda x, z: 1.0 / ((1.0 + abs(x)) * (1.0 + abs(x)))),
        "xlogy": lambda: binary("xlogy", "z = x ln(y)",
            value=lambda x, y: 0.0 if x == 0.0 else x * np.log(y),
            # Left out only where both are 0: at x = 0 alone x / y has a derivative, 1 / y.
            partials=lambda x, y, z: (np.log(y), where((x == 0.0) * (y == 0.0), 0.0, x / y)),
            samples=(Interval(-2.0, 2.0), Interval(0.1, 4.0)),
            kink=lambda x, y: y),
        "lerp": lambda: ternary("lerp", "z = x + w (y - x)",
            value=lambda x, y, w: x + w * (y - x),
            partials=lambda x, y, w, z: (1.0 - w, w, y - x)),
        "cumprod": lambda: structured("cumprod", "z_i = x_0 ... x_i along the last axis", arity=1, symbol="∏",
            forward=cumprod_forward, reverse=cumprod_reverse, tangent=cumprod_tangent,
            views=lambda p: ([(tuple(p[:3]), tuple(p[3:]))], tuple(p[:3])), depends=cumprod_depends,
            pullback=cumprod_pullback, pushforward=cumprod_pushforward,
            params=lambda shape: [math.prod(shape[:-1]), shape[-1], 1, shape[-1], 1, 1],
            note=lambda p: f"over {p[1]}"),
        "same": lambda: unary("own_same", "z = x", moves=1,
            value=lambda x: x,
            partials=lambda x, z: 1.0),
        "close": lambda: binary("own_close", "z = [x ~ y]", truth=True, commutes=True,
            value=lambda x, y: 1.0 if abs(x - y) < 0.5 else 0.0,
            partials=lambda x, y, z: (0.0, 0.0)),
        "frozen": lambda: binary("own_frozen", "z = x y, y held constant", held=(1,), neutral=(None, 1.0),
            value=lambda x, y: x * y,
            partials=lambda x, y, z: (y, 0.0),
            on_truths=BY_NAME["logical_and"]),
        "loose": lambda: binary("own_loose", "z = x y",
            value=lambda x, y: x * y,
            partials=lambda x, y, z: (y, 0.0),
            on_truths="write & instead"),
        "picky": lambda: structured("own_picky", "z = x, which must be positive", arity=1,
            forward=picky_forward, reverse=picky_reverse, tangent=picky_tangent,
            views=lambda p: ([((p[0],), None)], (p[0],)), params=lambda shape: [shape[0], 0, 1, 0, 1, 0],
            refusal=lambda p, x: IndexRangeError(f"{x.min():g} of {p[0]} is not positive") if x.min() < 0.0 else None,
            title=lambda p: "picky" if p[0] == 3 else "own_picky"),
    }[name]()  # fmt: skip


def picky_forward(side, k, v):
    n, _, _, _, _, _ = layout(side, k)
    x, z = line(side, k, 0)
    for i in range(n):
        if v[x + i] <= 0.0:
            return False
    for i in range(n):
        v[z + i] = v[x + i]
    return True


def picky_reverse(side, k, v, g):
    n, _, _, _, _, _ = layout(side, k)
    x, z = line(side, k, 0)
    for i in range(n):
        g[x + i] += g[z + i]


def picky_tangent(side, k, v, t):
    n, _, _, _, _, _ = layout(side, k)
    x, z = line(side, k, 0)
    for i in range(n):
        t[z + i] = t[x + i]


def cumprod(x):
    return declared("cumprod")(x).reshape(x.shape)


X, Y, W = np.array([0.4, -1.2, 2.0]), np.array([0.5, 3.0, 1.5]), np.array([0.1, 0.6, -0.3])


def softsign(x):
    return x / (1.0 + np.abs(x))


# For each operation a function of arrays: the operation, the same in NumPy, where, and its formula in a listing.
CASES = {
    "softsign": (lambda x: declared("softsign")(x), softsign, (X,), "x / (1 + |x|)", "softsign"),
    "xlogy": (lambda x, y: declared("xlogy")(x, y), lambda x, y: x * np.log(y), (X, Y), "x * ln(y)", "xlogy"),
    "lerp": (lambda x, y, w: declared("lerp")(x, y, w), lambda x, y, w: (1 - w) * x + w * y, (X, Y, W),
             "x + w (y - x)", "lerp"),
    "cumprod": (cumprod, np.cumprod, (X,), "cumprod(x)  over 3", "∏"),
}  # fmt: skip
cases = pytest.mark.parametrize("name", CASES)


def first(name, x, y=Y, w=W):
    """Exact derivatives of the sum of results by each operand."""
    a, b, c = x
    return {
        "softsign": (1.0 / (1.0 + np.abs(x)) ** 2,),
        "xlogy": (np.log(y), x / y),
        "lerp": (1.0 - w, w, y - x),
        "cumprod": (np.array([1.0 + b + b * c, a + a * c, a * b]),),
    }[name]


def second(name, x):
    """Exact second derivatives of the sum of results by the first operand."""
    a, b, c = x
    return {
        "softsign": np.diag(-2.0 * np.sign(x) / (1.0 + np.abs(x)) ** 3),
        "cumprod": np.array([[0.0, 1.0 + c, b], [1.0 + c, 0.0, a], [b, a, 0.0]]),
    }.get(name, np.zeros((3, 3)))


@cases
def test_everything_holds_against_differences(name):
    examples = (np.array([[0.4, -1.2, 2.0], [0.0, 1.5, 0.0]]),) if name == "cumprod" else ()
    report = tg.check_op(declared(name), *examples)
    assert report.worst < 1e-6 and not report.skipped


@cases
@dtypes
def test_values_and_gradients_in_both_precisions(name, dtype):
    f, reference, args, _, _ = CASES[name]
    given = [x.astype(dtype) for x in args]
    values = [tg.Value(x) for x in given]
    result = f(*values)
    assert result.dtype == dtype
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(result.data, reference(*args), rtol=20 * eps, atol=20 * eps)
    result.backward(np.ones(3, dtype))
    for value, expected in zip(values, first(name, *args), strict=True):
        np.testing.assert_allclose(value.grad, expected, rtol=20 * eps, atol=20 * eps)


@cases
def test_listed_and_drawn(name):
    f, _, args, text, sign = CASES[name]
    recording = tg.record(f, *args)
    assert text in str(recording)
    values = [tg.Value(x, label=label) for x, label in zip(args, "xyw", strict=False)]
    result = f(*values)
    assert text in str(result.tape)
    source = tg.draw(result).source
    assert re.search(rf'op\d+ \[label="{sign}"', source)


@cases
def test_lanes_and_sparse_patterns(name):
    f, _, args, _, _ = CASES[name]
    every = tuple(range(len(args)))
    recording = tg.record(f, *args)
    dense = recording.jacobian(*args, argnums=every)
    scalars = tg.record(lambda *xs: list(f(*map(tg.stack, xs))), *[list(x) for x in args])
    forward, reverse = (jac(*[list(x) for x in args], argnums=every) for jac in (scalars.jacfwd, scalars.jacrev))
    sparse = recording.jacobian(*args, argnums=every, sparse=True)
    wanted = np.tri(3) if name == "cumprod" else np.eye(3)
    np.testing.assert_allclose(sparse.toarray(), np.concatenate(dense, 1), rtol=1e-14)
    assert sparse.nnz == len(args) * wanted.sum()
    for j, block in enumerate(dense):
        np.testing.assert_array_equal(block * (1.0 - wanted), 0.0)
        np.testing.assert_allclose(np.sum(block, 0), first(name, *args)[j], rtol=1e-14)
        for found in (forward, reverse):
            numbers = [[found[r][j][c] for c in range(3)] for r in range(3)]
            np.testing.assert_allclose(numbers, block, rtol=1e-14, atol=1e-300)


@cases
def test_certificates(name):
    f, _, args, _, _ = CASES[name]
    recording = tg.record(lambda *xs: np.sum(f(*xs)), *args)
    certificate = recording.certificate(*args)
    assert certificate.differentiable
    if name == "xlogy":
        assert certificate.nearest.operation == "xlogy" and certificate.nearest.distance == 0.5
        assert not recording.certificate(X, np.array([1.0, 0.0, 2.0])).differentiable
    else:
        assert certificate.nearest is None


@cases
def test_second_derivatives(name):
    f, _, args, _, _ = CASES[name]
    total = lambda *xs: np.sum(f(*xs))
    expected = second(name, X)
    np.testing.assert_allclose(tg.hessian(total)(*args), expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(tg.jacfwd(tg.grad(total))(*args), expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(tg.jacrev(tg.grad(total))(*args), expected, rtol=1e-13, atol=1e-15)
    v = np.array([1.0, -2.0, 0.5])
    by_sparse = tg.record(total, *args).hessian(*args, sparse=True)
    np.testing.assert_allclose(by_sparse @ v, expected @ v, rtol=1e-13, atol=1e-15)


def test_gradients_of_gradients_of_numbers():
    soft, xlogy, lerp = declared("softsign"), declared("xlogy"), declared("lerp")
    assert tg.grad(tg.grad(soft))(1.0) == -0.25
    assert tg.grad(tg.grad(tg.grad(soft)))(1.0) == 6.0 / 16.0
    assert tg.grad(tg.grad(xlogy), argnums=1)(2.0, 4.0) == 0.25
    # Where x is 0 the derivatives are those of the limit, also the mixed one.
    assert xlogy(0.0, 0.0) == 0.0
    assert tg.grad(xlogy, argnums=1)(0.0, 2.0) == 0.0 == tg.grad(xlogy, argnums=1)(0.0, 0.0)
    assert tg.grad(tg.grad(xlogy, argnums=1))(0.0, 2.0) == 0.5 == tg.grad(tg.grad(xlogy), argnums=1)(0.0, 2.0)
    assert tg.grad(tg.grad(lerp), argnums=2)(1.0, 5.0, 0.5) == -1.0
    assert tg.grad(tg.grad(lerp, argnums=1), argnums=2)(1.0, 5.0, 0.5) == 1.0


def test_a_product_with_zeros_is_exact_to_second_order():
    x = np.array([2.0, 0.0, 3.0, 0.0, 5.0])
    found = tg.jacobian(cumprod)(x)
    expected = [[np.prod(np.delete(x[: i + 1], j)) if j <= i else 0.0 for j in range(5)] for i in range(5)]
    assert np.array_equal(found, expected)
    hessian = tg.hessian(lambda x: cumprod(x)[-1])(x)
    both = np.array([[np.prod(np.delete(x, [i, j])) if i != j else 0.0 for j in range(5)] for i in range(5)])
    assert np.array_equal(hessian, both)


# What other fields say is heeded wherever it matters


def test_moved_numbers_keep_their_kind_and_their_pattern():
    same = declared("same")
    chosen = tg.record(lambda x, i: x[same(i)], X, np.array([2, 0]))
    assert chosen(X, np.array([1, 1])).tolist() == [-1.2, -1.2]
    # Taken as sources, the copies of five inputs that results read do not collide: one reverse sweep does.
    f = lambda x: np.prod(same(np.broadcast_to(x[:5, None], (5, 40))), 0) * x[5:]
    x = np.linspace(0.5, 1.5, 45)
    recording = tg.record(f, np.ones(45))
    assert recording.sparsity().count == 1
    np.testing.assert_allclose(recording.jacobian(x, sparse=True).toarray(), recording.jacobian(x), rtol=1e-13)


def test_truth_values_choose_and_combine():
    close = declared("close")
    x, y = tg.Value(X), tg.Value(Y)
    assert x[close(x, y)].tolist() == [0.4]
    assert (close(x, y) + (x > 1.0)).tolist() == [1.0, 0.0, 1.0]
    frozen, loose = declared("frozen"), declared("loose")
    assert frozen(close(x, x), x > 0.0).tolist() == [1.0, 0.0, 1.0]
    assert x[frozen(close(x, x), x > 0.0)].tolist() == [0.4, 2.0]
    with pytest.raises(UnsupportedError, match="own_loose of truth values is not defined: write & instead"):
        loose(x > 0.0, y > 0.0)


def test_what_is_held_constant_is_checked_as_that():
    tg.check_op(declared("frozen"))
    with pytest.raises(CheckError, match=r"own_loose: partials: dz/dy .*held=\(1,\)"):
        tg.check_op(declared("loose"))


def test_neutral_numbers_leave_nothing_behind():
    frozen = declared("frozen")

    def left(factor):
        gradient = tg.record(tg.grad(lambda x: frozen(np.sin(x), factor) ** 2), 2.0)
        np.testing.assert_allclose(gradient(0.5), factor**2 * math.sin(1.0))
        return gradient.stats().operations.get("own_frozen", 0)

    assert left(1.0) == 0 and left(3.0) == 1


def test_a_kernel_that_refuses_says_why():
    picky = declared("picky")
    assert picky(tg.Value(X + 2.0)).tolist() == (X + 2.0).tolist()
    assert "picky(v" in str(picky(tg.Value(X + 2.0)).tape)
    with pytest.raises(IndexRangeError, match=r"-1\.2 of 3 is not positive"):
        picky(tg.Value(X)).numpy()
    with pytest.raises(OperationError, match="own_picky is missing, or refused its operands"):
        picky(tg.Value(np.zeros(3))).numpy()
    recording = tg.record(lambda x: picky(x[::-1]), X + 2.0)
    with pytest.raises(IndexRangeError, match=r"-1\.2 of 3 is not positive"):
        recording(X)


# Rules that cannot be run on Values


def branching(x, z):
    if x > 0.0:
        return 1.0
    return 2.0


@njit
def ramp(x):
    return x if x > 0.0 else 0.0


def by_helper(x, z):
    return 1.0 + ramp(x)


WRONG = {
    "branching": (branching, "branches on its operand: write where\\(c, x, y\\)"),
    "conditional": (lambda x, z: 1.0 if x > 0.0 else 2.0, "branches on its operand: write where"),
    "largest": (lambda x, z: max(x, 0.0), "branches on its operand: .* np.maximum"),
    "and": (lambda x, z: 1.0 * (x > 0.0 and x < 1.0), "branches on its operand"),
    "chained": (lambda x, z: 1.0 * (0.0 < x < 1.0), "branches on its operand"),
    "helper": (by_helper, "branches on its operand.*it does so in ramp, .*test_own_operations.py:"),
    "math": (lambda x, z: math.exp(x), "takes its operand for a plain number, as math.exp.*write the NumPy function"),
    "float": (lambda x, z: float(x), "takes its operand for a plain number"),
    "floor": (lambda x, z: math.floor(x), "takes its operand for a plain number"),
    "result": (lambda x, z: z * math.log(2.0 + z), "takes its operand for a plain number"),
    "many": (lambda x, z: (1.0, 2.0), "returns 2 results for 1 operand: return one partial derivative for each"),
    "none": (lambda x, z: None, "returns NoneType, not a number"),
    "text": (lambda x, z: "1", "returns str, not a number"),
    "list": (lambda x, z: [1.0], "returns list, not a number"),
    "attribute": (lambda x, z: x.missing, "cannot be run on Values: AttributeError"),
}


@pytest.mark.parametrize("name", WRONG)
def test_rules_that_do_not_work_on_values_are_refused_when_declared(name):
    rule, message = WRONG[name]
    at = f"{__file__}:{rule.__code__.co_firstlineno}"
    size = len(TABLE)
    with pytest.raises(OperationError, match=f"the partials rule of own_wrong \\({re.escape(at)}\\) {message}"):
        unary("own_wrong", "z", value=lambda x: x, partials=rule)
    assert len(TABLE) == size and "own_wrong" not in BY_NAME


def test_too_few_results():
    with pytest.raises(OperationError, match=r"own_wrong \(.*\) returns 1 result for 2 operands"):
        binary("own_wrong", "z", value=lambda x, y: x, partials=lambda x, y, z: 1.0)


def test_words_that_no_row_has():
    with pytest.raises(OperationError, match="own_wrong: there is no rule or field named color, smooth"):
        unary("own_wrong", "z", value=lambda x: x, partials=lambda x, z: 1.0, smooth=True, color=1)
    with pytest.raises(OperationError, match=r"own_wrong: held=\(1,\) names an operand that it does not have"):
        unary("own_wrong", "z", value=lambda x: x, partials=lambda x, z: 0.0, held=(1,))


def test_a_rule_that_names_what_comes_later_is_tried_when_it_is_needed():
    late = unary("own_late", "z = x^2 / 2", value=lambda x: 0.5 * x * x, partials=lambda x, z: later(x))

    def later(x):
        return x if x > 0.0 else x * 1.0

    # Compiled, it may branch: first derivatives are right, and nobody else's derivatives are harmed.
    assert tg.grad(late)(3.0) == 3.0
    assert tg.grad(tg.grad(np.sin))(0.0) == 0.0
    with pytest.raises(OperationError, match="the partials rule of own_late .* branches on its operand.* in later"):
        tg.grad(tg.grad(late))(1.0)


# The package itself


def test_every_partials_rule_of_the_package_runs_on_values():
    rows = [row for row in TABLE if isinstance(row, Elementwise) and not row.name.startswith("own_")]
    assert len(rows) > 60
    assert all(len(checked_partials(row)) == row.arity for row in rows)


def test_no_operation_is_asked_for_its_name():
    """Outside of `ops`, what an operation is stands in its fields."""
    found = []
    package = Path(tg.__file__).parent
    for path in package.rglob("*.py"):
        if path.parent.name == "ops":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            named = any(isinstance(side, ast.Attribute) and side.attr in ("name", "opcode") for side in sides)
            text = any(isinstance(x, ast.Constant) and isinstance(x.value, str) for s in sides for x in ast.walk(s))
            table = any(isinstance(x, ast.Name) and x.id == "BY_NAME" for s in sides for x in ast.walk(s))
            if named and (text or table):
                found.append(f"{path.relative_to(package)}:{node.lineno}")
    assert not found
