"""Loops over rows: the items of an instruction, carried out one by one in plain Python, give what the interpreter does.
Loops of many instructions, in which rows read what other rows give, do so as machine code."""

import itertools

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.native.ir import ADD, COMPUTE, MAX, MIN, SET, Item, Loop, Ref
from tapegrad.native.loops import items, natural_rows
from tapegrad.native.rows import MOST_SHIFT, Rows, fused
from tapegrad.native.schedule import Schedule
from tapegrad.ops import RUN
from tapegrad.tape import instruction

from .both import Both, difference

TAKEN = {ADD: lambda a, b: a + b, MAX: np.maximum, MIN: np.minimum}


def carry_out(item, values, row):
    """Compute all rounds of an item for one row, in `values`, by place."""
    for at in itertools.product(*map(range, item.dims)):
        out, *operands = (
            ref.place + row * ref.rows + sum(i * ref.at(d) for d, i in enumerate(at))
            for ref in (item.out, *item.operands)
        )
        xs = [values[place] for place in operands]
        if item.kind == SET:
            values[out] = item.number
        elif item.kind == COMPUTE:
            with np.errstate(all="ignore"):
                values[out] = item.row.value(*xs)
        else:
            values[out] = TAKEN[item.kind](values[out], xs[0])


def arrays_of(recording):
    """The instructions over arrays of a program, how owners are found, and all values."""
    program = recording.program
    schedule = Schedule(program)
    steps = [i for i in range(len(program.steps)) if program.steps[i][0] >= RUN]
    return [instruction(program.steps, program.code.side, i) for i in steps], schedule.owner


def swept(recording, args):
    program = recording.program
    workspace = program.take()
    workspace.fill(recording.check(args))
    assert program.sweep(workspace, 1, -1, None) < 0
    return workspace.values.copy()


def check_items(f, *args):
    """All items of all instructions, over all numbers of rows that fit; returns how many of them were checked."""
    recording = tg.record(f, *args)
    expected, checked = swept(recording, args), 0
    instructions, owner = arrays_of(recording)
    for one in instructions:
        natural = natural_rows(one)
        if natural is None:
            continue
        for rows in sorted({natural, *(n for n in range(1, one.count + 1) if one.count % n == 0)}):
            found = items(one, rows, owner)
            if found is None:
                continue
            values = expected.copy()
            values[one.results] = np.nan
            starts = [item for item in found if item.kind == SET and not item.out.rows]
            for item in starts:
                carry_out(item, values, 0)
            for row in range(rows):
                for item in found:
                    if item not in starts and item.first <= row < item.first + item.count:
                        carry_out(item, values, row)
            assert not np.isnan(values[one.results]).any(), f"{one.title} over {rows} rows leaves results out"
            np.testing.assert_allclose(values[one.results], expected[one.results], rtol=1e-13, atol=1e-13,
                                       err_msg=f"{one.title} over {rows} rows")  # fmt: skip
            others = np.delete(values, one.results), np.delete(expected, one.results)
            assert np.array_equal(*others), f"{one.title} over {rows} rows writes elsewhere"
            checked += 1
    return checked


SLICES = {
    "tail": lambda x: x[1:], "head": lambda x: x[:-1], "even": lambda x: x[::2], "odd": lambda x: x[1::2],
    "back": lambda x: x[::-1], "one": lambda x: x[1], "middle": lambda x: x[1:-1], "last": lambda x: x[..., -1],
    "columns": lambda x: x[..., 1:], "corner": lambda x: x[(slice(1, None),) * x.ndim], "third": lambda x: x[2::3],
    "inner": lambda x: x[..., ::2], "turned": lambda x: x[1:].T, "whole": lambda x: x,
}  # fmt: skip
# Runs that are shorter are single numbers.
SHAPES = [(48,), (12, 6), (6, 12), (4, 5, 6), (8, 1, 7), (1, 60), (60, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("f", [
    lambda x: np.sin(x), lambda x: x * x, lambda x: np.sin(x.T), lambda x: x[::-1] * x, lambda x: np.sin(x[..., ::-1]),
    lambda x: x[::2] * 2.0, lambda x: x - x[0], lambda x: x * x[..., :1], lambda x: np.sin(x[..., ::2]),
    lambda x: x[1:] * 0.5 if x.shape[0] > 1 else x + 1.0, lambda x: np.maximum(x, x[-1]),
    lambda x: tg.where(x > x[:1], x, -x),
], ids=range(12))  # fmt: skip
def test_elementwise(f, shape, rng):
    assert check_items(f, rng.normal(size=shape)) >= 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduce", [np.sum, np.max, np.min])
def test_reductions_along_every_axis(reduce, shape, rng):
    x = rng.normal(size=shape)
    for axis in (None, *range(len(shape))):
        for view in (SLICES["whole"], np.transpose, SLICES["back"]):
            if np.size(reduce(view(x), axis=axis)) < x.size:
                assert check_items(lambda x, view=view, axis=axis: reduce(view(x), axis=axis), x) >= 1


@pytest.mark.parametrize("shape", [(60,), (12, 8), (6, 5, 8)], ids=str)
@pytest.mark.parametrize("pair", list(itertools.combinations(SLICES, 2)), ids="-".join)
def test_assemble_as_gradients_of_slices_make_it(pair, shape, rng):
    a, b = (SLICES[name] for name in pair)

    def gradient(x):
        # Two slices that are used in two ways each: parts of one derivative, put together.
        return tg.grad(lambda x: np.sum(np.sin(a(x))) + np.sum(np.cos(b(x))) + np.sum(b(x) * b(x)))(x)

    assert check_items(gradient, rng.normal(size=shape)) >= 4


def test_assemble_of_a_diagonal(rng):
    def gradient(x):
        return tg.grad(lambda x: np.sum(np.sin(np.diagonal(x))) + np.sum(x[:, 0] ** 3) + np.sum(x[1] * x[2]))(x)

    for n in (20, 32):
        assert check_items(gradient, rng.normal(size=(n, n))) >= 4


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_concatenate(axis, rng):
    x, y = rng.normal(size=(2, 6, 5, 4))
    checked = check_items(lambda x, y: np.concatenate([np.sin(x), y, x.swapaxes(0, 0)], axis=axis), x, y)
    assert checked >= 1
    check_items(lambda x, y: np.stack([x, y], axis=axis), x, y)
    check_items(lambda x, y: np.concatenate([x[:1], y[1:], x[:, :], y[:0]], axis=0), x, y)


# Instructions of one loop, which read what other rows give.


def third_order(x):
    d = x[1:] - x[:-1]
    e = d[1:] * d[:-1]
    return e[1:] - 2.0 * e[:-1]


def both_ways(x):
    y = np.sin(x)
    z = y[2:] - 2.0 * y[1:-1] + y[:-2]
    w = z * y[1:-1] + y[2:]
    return w[3:] + w[:-3]


def put_together(x):
    g = tg.grad(lambda x: np.sum(np.sin(x[1:] * x[:-1])))(x)
    return g[1:] - g[:-1], g[2:] * g[:-2]


def put_together_twice(x):
    g = tg.grad(lambda x: np.sum(np.tanh(x[2:] - x[:-2]) * x[1:-1]))(x)
    h = tg.grad(lambda g: np.sum(g[1:] * np.sin(g[:-1])))(g)
    return h[3:] * h[:-3] + g[1:-2]


def joined(x):
    y = np.stack([np.sin(x), np.cos(x)], axis=-1)
    return y[1:] * y[:-1] - y[1:, ..., ::-1]


def far_apart(x):
    y = np.sin(x)
    return y[MOST_SHIFT:] - y[:-MOST_SHIFT], y[MOST_SHIFT + 1 :] + y[: -MOST_SHIFT - 1]


def summed(x):
    y = np.sin(x)
    d = y[1:] - y[:-1]
    return np.sum(d * d), np.max(d, axis=0), np.min(y[2:] * y[:-2])


STENCILS = [third_order, both_ways, put_together, put_together_twice, joined, far_apart, summed]


def total(f):
    return lambda x: sum(np.sum(np.sin(y)) for y in (f(x) if isinstance(f(x), tuple) else (f(x),)))


@pytest.mark.parametrize("shape", [(66,), (131,), (1000,), (150, 3), (200, 2, 2), (133, 9)], ids=str)
@pytest.mark.parametrize("f", STENCILS, ids=lambda f: f.__name__)
def test_stencils_and_their_derivatives(f, shape, rng):
    x, v = rng.normal(size=(2, *shape))
    gradient = tg.grad(total(f))
    for g, args in ((f, (x,)), (gradient, (x,)), (lambda x, v: tg.jvp(gradient, (x,), (v,)), (x, v))):
        both = Both(g, *args)
        for point in (args, [rng.normal(size=np.shape(a)) for a in args]):
            assert difference(*both.run(*point)) < 1e-12


def test_chains_of_differences_are_one_loop(rng):
    for f in (third_order, both_ways, put_together):
        nodes = Schedule(tg.record(f, rng.normal(size=1000)).program).nodes
        assert [type(node) for node in nodes] == [Rows]


def test_a_shift_that_is_too_far_is_another_loop(rng):
    def f(x):
        y = np.sin(x)
        return y[MOST_SHIFT + 1 :] - y[: -MOST_SHIFT - 1]

    both = Both(f, x := rng.normal(size=1000))
    assert len(Schedule(both.program).nodes) == 2
    assert difference(*both.run(x)) == 0.0


def test_rows_are_divided_so_that_two_instructions_are_one_loop(rng):
    def f(x):
        # Of 600 numbers those that belong to 150 rows are summed.
        return np.sum(np.sin(x * 2.0).reshape(150, 4), axis=1)

    x = rng.normal(size=600)
    both = Both(f, x)
    (node,) = Schedule(both.program).nodes
    assert node.rows == 150
    assert difference(*both.run(x)) < 1e-15
    # And what was in the loop already is as before.
    g = tg.grad(lambda x: np.sum(f(x[::-1]) ** 2))
    assert difference(*Both(g, x).run(x)) < 1e-13


def test_loops_are_not_put_together_where_one_reads_what_the_other_has_not_computed():
    def loop(out, reads):
        refs = tuple(Ref(result, place, 0, (stride,)) for result, place, stride in reads)
        return Loop(4, [Item(COMPUTE, Ref(out, 100 * out, 4, (1,)), refs, (4,), 8)])

    for reads, together in [
        ((1, 100, 1), True),  # the same number
        ((1, 101, 1), False),  # the next one
        ((1, 103, -1), False),  # in the other order
        ((1, 100, 0), False),  # always the first
        ((9, 900, 1), True),  # something else
    ]:
        body = fused([loop(1, [(9, 900, 1)]), loop(2, [reads])], 0, {})
        assert len(body) == (1 if together else 2), reads
