"""Derivatives of scalar instructions by compiled code: templates against the rules they were made of, run on Values."""

import functools
import gc
import math

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.adjoint import pull_back, push_forward, region
from tapegrad.adjoint.expand.symbols import Symbol, traced
from tapegrad.adjoint.expand.templates import Templates, templates
from tapegrad.ops import BY_NAME, TABLE, Elementwise, unary

ROWS = [row for row in TABLE if isinstance(row, Elementwise)]


@pytest.fixture
def by_rules(monkeypatch):
    """Has derivatives written by running rules on Values, for all instructions, within a `with` block."""

    def none(opcodes):
        known = templates(opcodes)
        return Templates(known.tables, (), np.zeros_like(known.has))

    class Switch:
        def __enter__(self):
            monkeypatch.setattr(region, "templates", none)

        def __exit__(self, *_):
            monkeypatch.setattr(region, "templates", templates)

    return Switch


def sampled(row, rng, dtype=np.float64):
    return [dtype(rng.uniform(i.low, i.high)) for i in row.samples]


def number(x):
    return 0.0 if x is None else float(x.data)


def copied(numbers, dtype=np.float64):
    return [tg.Value(float(x), dtype=dtype).copy() for x in numbers]


def derivatives(row, point, weights, dtype=np.float64):
    """First derivatives in both modes, second ones in all mixes, of an operation times the sum of its operands."""
    xs = copied(point, dtype)
    z = row(*xs) * functools.reduce(lambda a, b: a + b, xs)
    found = []
    along = [tg.Value(float(w), dtype=dtype) for w in weights]
    back = pull_back(xs, [z], [1.0])
    (forth,) = push_forward(xs, along, [z])
    found += [number(g) for g in (*back, forth)]
    firsts = [g for g in (*back, forth) if g is not None]
    for first in firsts:
        found += [number(g) for g in pull_back(xs, [first], [1.0])]
        found += [number(g) for g in push_forward(xs, along, [first])]
    return np.array(found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_templates_are_the_rules(row, by_rules, rng):
    for _ in range(3):
        point, weights = sampled(row, rng), rng.normal(size=row.arity)
        ours = derivatives(row, point, weights)
        with by_rules():
            rules = derivatives(row, point, weights)
        np.testing.assert_allclose(ours, rules, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_templates_are_the_rules_in_float32(row, by_rules, rng):
    point, weights = sampled(row, rng), rng.normal(size=row.arity)
    ours = derivatives(row, point, weights, np.float32)
    with by_rules():
        rules = derivatives(row, point, weights, np.float32)
    scale = 1.0 + np.abs(rules).max()
    np.testing.assert_allclose(ours, rules, rtol=1e-4, atol=1e-5 * scale)


def test_every_operation_of_the_table_has_a_template():
    own = [row for row in ROWS if row.value.__module__.startswith("tapegrad.ops")]
    assert len(own) > 60
    assert [row.name for row in own if traced(row) is None] == []


def test_symbols_write_down_what_values_record(rng):
    # Every operator of Python that a rule may use.
    def f(x, y, where):
        a = (x + 2.0) * (3.0 - y) / (1.0 + abs(x)) - x % y + 7.0 % y
        b = x**2 + x**0.5 + x**-1.0 + x**3.0 + y**x + 2.0**x + x**1
        c = (x < y) + (x <= y) + (x > y) + (x >= y) + (x == y) + (x != y)
        d = ((x < y) & (y > 1.0)) + ((x < y) | (y > 1.0)) + ((x < y) ^ (y > 1.0))
        e = +x - (-y) + x // y + 2.0 // y + np.maximum(x, 1.0)
        e = e + np.power(x, 2.0) + where(x > 1.0, x, y) + np.exp(x).sin()
        return a + b + c + d + e

    where = BY_NAME["where"]
    x, y = rng.uniform(0.5, 2.0, 2)
    expected = f(tg.Value(x), tg.Value(y), where).data
    template = traced_of(lambda x, y: f(x, y, where), 2)
    assert evaluated(template, [x, y]) == pytest.approx(expected, rel=1e-14)


def traced_of(rule, arity):
    from tapegrad.adjoint.expand import symbols

    trace = symbols._Trace()
    found = rule(*[Symbol(trace, j) for j in range(arity)])
    return symbols.Template(trace.steps, trace.constants, [trace.reference(found)])


def evaluated(template, operands):
    made = []

    def of(reference):
        if reference < 0:
            return template.constants[-1 - reference]
        return operands[reference] if reference < 3 else made[reference - 4]

    for step in template.steps:
        made.append(float(TABLE[step.opcode].compute(*[of(r) for r in step.operands])))
    return of(template.partials[0])


# What is written


def written(f, *point):
    """The operations that the gradient of a function of numbers is written in, before anything is simplified."""
    xs = copied(point)
    y = f(*xs)
    tape = xs[0].tape
    before = len(tape)
    grads = pull_back(xs, [y], [1.0])
    tape.flush()
    return [TABLE[op].name for op in tape.code[before : tape.length, 0].tolist()], [number(g) for g in grads]


@pytest.mark.parametrize(
    ("f", "point", "names", "slopes"),
    [
        (lambda x, y: x * y, (2.0, 3.0), [], [3.0, 2.0]),
        (lambda x, y: x - y, (2.0, 3.0), [], [1.0, -1.0]),
        (lambda x: x * 3.0, (2.0,), [], [3.0]),
        (lambda x: (x * 3.0) * 5.0, (2.0,), [], [15.0]),
        (lambda x: -x * 2.0 - x, (2.0,), [], [-3.0]),
        # Each exponential is its own derivative, and their sum is there too.
        (lambda x: np.exp(x) + np.exp(x), (0.0,), [], [2.0]),
        # The result again: nothing but 1 - z * z is to be computed, and once.
        (lambda x: np.tanh(x), (0.5,), ["multiply", "subtract"], [1.0 - math.tanh(0.5) ** 2]),
        # What the function has computed is not computed again.
        (lambda x: np.sin(x) + 0.0 * np.cos(x), (0.5,), [], [math.cos(0.5)]),
        # A difference, not a sum with the negative.
        (lambda x, y: x * y - np.sin(y) * 1.0, (2.0, 0.0), ["cos", "negative", "subtract"], [0.0, 1.0]),
    ],
)
def test_what_is_written_is_short(f, point, names, slopes):
    found, grads = written(f, *point)
    assert grads == pytest.approx(slopes, rel=1e-15)
    # Leaves are constants.
    assert [name for name in found if name != "leaf"] == names


def test_a_shared_factor_is_written_once():
    def f(x, y):
        p = x * y
        return np.sin(p) * 3.0 + np.sin(p) * y

    found, _ = written(f, 1.0, 2.0)
    assert found.count("cos") == 1


def test_only_what_an_active_operand_takes_is_written():
    # The partial by the exponent, with its logarithm, is nobody's.
    x, y = tg.Value(2.0).copy(), tg.Value(3.0)
    z = BY_NAME["power"](x, y)
    before = len(x.tape)
    (g,) = pull_back([x], [z], [1.0])
    assert g.data == 12.0
    x.tape.flush()
    assert BY_NAME["log"].opcode not in x.tape.code[before : x.tape.length, 0]


# What no derivative may do


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("x", [0.0, -1.0, 2.0])
def test_nothing_leaks_from_what_was_not_chosen(order, x, by_rules):
    where = BY_NAME["where"]

    def f(x):
        # At 0 the branch not taken has infinite derivatives, below it is NaN.
        return where(x > 0.5, np.sqrt(x) * np.log(x), x * x * x)

    def nested(x):
        g = f
        for _ in range(order):
            g = tg.grad(g)
        return g(x)

    ours = nested(tg.Value(x)).data
    with by_rules():
        rules = nested(tg.Value(x)).data
    assert math.isfinite(ours) and ours == pytest.approx(rules, rel=1e-12)
    if x < 0.5:
        assert ours == [3.0 * x * x, 6.0 * x, 6.0][order - 1]


def test_an_infinite_constant_is_multiplied_with_care():
    x = tg.Value(0.0).copy()
    y = x * math.inf * 0.0
    (g,) = pull_back([x], [y], [1.0])
    assert number(g) == 0.0


# Mixed tapes


def stacked(x):
    rows = [np.sin(x[i] * x[(i + 1) % 4]) for i in range(4)]
    y = tg.stack(rows) * x[::-1]
    return y[0] * y[3] + np.sum(y[1:3] * rows[1]) * x[2]


def looped(x):
    total = x[0]
    for i in range(12):
        v = np.tanh(x * total)
        total = 0.5 * total + v[i % 4] * v[(i + 1) % 4] - np.sum(v) * x[i % 3]
    return total


def scalars_of_an_array(x):
    total = x[0] * x[0]
    for a in x[1:]:
        total = total + a * x[0]
    return total


def chosen(x):
    return np.max(x) * x[1] + BY_NAME["where"](x[0] > x[1], np.sum(x * x), x[2] * x[3])


MIXED = {f.__name__: f for f in (stacked, looped, scalars_of_an_array, chosen)}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", MIXED)
def test_mixed_tapes(name, dtype, by_rules, rng):
    f = MIXED[name]
    x, t, u = rng.normal(size=(3, 4)).astype(dtype)

    def everything():
        first = tg.grad(f)(tg.Value(x))
        forth = tg.jvp(f, (tg.Value(x),), (t,))[1]
        second = tg.grad(lambda x: np.sum(tg.grad(f)(x) * t))(tg.Value(x))
        over = tg.jvp(tg.grad(f), (tg.Value(x),), (t,))[1]
        third = tg.jvp(lambda x: tg.jvp(tg.grad(f), (x,), (t,))[1], (tg.Value(x),), (u,))[1]
        return [np.asarray(y.data) for y in (first, forth, second, over, third)]

    ours = everything()
    with by_rules():
        rules = everything()
    tolerance = 1e-11 if dtype == np.float64 else 5e-4
    for a, b in zip(ours, rules):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * (1.0 + np.abs(b).max()))
    v = tg.Value(x)
    f(v).backward()
    np.testing.assert_allclose(ours[0], v.grad, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(ours[2], ours[3], rtol=tolerance, atol=tolerance * (1.0 + np.abs(ours[2]).max()))


def test_tangents_that_are_numbers_and_missing_ones(rng):
    x, y = tg.Value(2.0).copy(), tg.Value(rng.normal(size=3)).copy()
    z = [x * y[0], y[1] * y[2], x * 3.0]
    assert number(push_forward([x, y], [1.0, None], z)[0]) == pytest.approx(float(y.data[0]))
    found = push_forward([x, y], [None, 1.0], z)
    assert number(found[0]) == 2.0
    assert number(found[1]) == pytest.approx(float(y.data[1] + y.data[2]))
    assert found[2] is None


def test_outputs_of_all_kinds(rng):
    # An output twice, one that is an input, an element of one, a constant.
    x, a = tg.Value(2.0).copy(), tg.Value(rng.normal(size=3)).copy()
    y = x * x
    gx, ga = pull_back([x, a], [y, y, x, a[1], tg.Value(1.0)], [1.0, 2.0, 5.0, 7.0, 1.0])
    assert number(gx) == 3.0 * 4.0 + 5.0
    assert ga.data.tolist() == [0.0, 7.0, 0.0]


# Rules that only Values can carry out


def test_a_rule_beyond_templates_is_run_on_values(by_rules):
    odd = rule_beyond_templates()
    assert traced(odd) is None
    f = lambda x: odd(x * x) * x
    x = 0.7
    expected = [x**5, 5 * x**4, 20 * x**3, 60 * x**2]
    assert odd(tg.Value(x)).data == pytest.approx(x * x)
    for order in range(1, 4):
        g = f
        for _ in range(order):
            g = tg.grad(g)
        assert g(tg.Value(x)).data == pytest.approx(expected[order], rel=1e-12)
    assert tg.jvp(tg.grad(f), (tg.Value(x),), (1.0,))[1].data == pytest.approx(expected[2], rel=1e-12)


@functools.cache
def rule_beyond_templates():
    return unary(
        "expand_by_values", "z = x^2",
        value=lambda x: x * x,
        partials=lambda x, z: np.sum(x) * 2.0)  # fmt: skip


# Long tapes


def test_a_gradient_on_the_tape_of_this_thread_outlives_what_is_forgotten(rng):
    start = rng.normal()

    def f(x):
        y = x
        for i in range(3000):
            y = np.sin(y) * 1.5 + x if i % 3 else y * 0.5
        return y

    x = tg.Value(start)
    gradient = tg.grad(f)(x)
    second = tg.grad(tg.grad(f))(x)
    expected = tg.record(f, start)
    for _ in range(5):
        junk = x
        for _ in range(20_000):
            junk = junk * 1.0001
        del junk
        gc.collect()
        x.tape.collect()
    assert gradient.data == pytest.approx(expected.grad(start), rel=1e-10)
    assert second.data == pytest.approx(expected.hessian(start), rel=1e-9)


def test_long_stretches_share_and_agree_with_the_sweep(rng):
    def f(x):
        y = list(x)
        for _ in range(300):
            y = [np.tanh(a * b + 0.1) for a, b in zip(y, y[1:] + y[:1])]
        return sum(y[1:], y[0])

    x, v = rng.normal(size=(2, 6))
    r = tg.record(f, x)
    gradient = tg.record(tg.grad(f), x)
    np.testing.assert_allclose(gradient(x + 0.1), r.grad(x + 0.1), rtol=1e-12)
    np.testing.assert_allclose(tg.record(lambda x: tg.jvp(f, (x,), (v,))[1], x)(x), r.jvp((x,), (v,))[1], rtol=1e-12)
    np.testing.assert_allclose(r.hvp((x,), (v,)), r.hessian(x) @ v, rtol=1e-10)


@pytest.mark.parametrize("wide", [False, True])
def test_a_tape_that_moves_what_it_keeps_while_a_derivative_is_begun(wide, rng):
    # What is forgotten leaves a gap, and the first constant that the derivative needs makes the tape close it.
    # (More than a page of it: what is on one page is forgotten together.)
    junk = [tg.Value(rng.normal(size=2000)) for _ in range(3)]
    x = tg.Value(rng.normal(size=3)).copy()
    tape = x.tape
    y = np.sqrt(x[0] * x[0] + 1.0) / x[1] + (np.sum(x[1:] * np.sin(x[2])) if wide else x[2] * x[2])
    tape.evaluate()
    junk.clear()
    gc.collect()
    before = tape.slots
    tape.limit, tape._collect_at = tape.top, 0
    (g,) = pull_back([x], [y], [1.0])
    assert tape.slots < before
    a, b, c = x.data
    last = [np.sin(c), np.sin(c) + (b + c) * np.cos(c)] if wide else [0.0, 2.0 * c]
    root = math.sqrt(a * a + 1.0)
    np.testing.assert_allclose(g.data, [a / root / b, -root / b**2 + last[0], last[1]], rtol=1e-13)


def test_inputs_without_elements():
    x, y = tg.Value(np.zeros(0)).copy(), tg.Value(2.0)
    z = np.sum(x) + y * y
    assert pull_back([x], [z], [1.0])[0] is None
    assert push_forward([x], [1.0], [z]) == [None]
