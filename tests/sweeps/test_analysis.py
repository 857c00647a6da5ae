"""Marks for intervals of places say the same as marks for each place; and how often a tape of long arrays is moved."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.adjoint.region import Region, _between, _copied
from tapegrad.ops import passive_rows
from tapegrad.ops.record import OPCODE, OUT
from tapegrad.sweeps.analysis import EACH, activate, reach
from tapegrad.sweeps.owners import owners
from tapegrad.tape import LEAF, Tape, writing
from tapegrad.tape.collect import needed_for


def views(x, y):
    part = x.reshape(-1)[3:9] * y[::-1][:6]
    return part, np.cumsum(x[:, 1]), x[0, 2] * part[1] + y[4], np.concatenate([y, part])[2:8:2], y[:0]


def gathers(x, y):
    picked = x.reshape(-1)[np.array([1, 1, 7])]
    return picked, np.sort(y)[:2], np.floor(x) * 2.0, np.where(y > 0.0, y, 1.0)[1:], tg.stop_gradient(picked[1:])


def scalars(x, y):
    total = y[0]
    for i in range(1, 6):
        total = total * x[0, i % 3] + y[i] * 0.5
    return total, total * y[2:5], x


FUNCTIONS = [views, gathers, scalars]


def by_places(tape, inputs, outputs, start, stop):
    """As `_between`, with a mark for each place."""
    code, side = _copied(tape, start, stop)
    active, mark = (np.zeros(len(tape.values), np.uint8) for _ in range(2))
    for x in inputs:
        active[x._places()] = 1
    flags = np.zeros(len(side), np.uint8)
    activate(code, side, flags, *EACH, active, passive_rows(), 0, len(code))
    for y in outputs:
        mark[y._places()] = 1
    rows = np.empty(len(code), np.int64)
    rows = rows[reach(code, side, *EACH, mark, active, len(code), rows) :]
    return code[rows], side, flags


@pytest.mark.parametrize("f", FUNCTIONS)
def test_marks_of_intervals_equal_marks_of_places(f, rng):
    x, y = tg.Value(rng.normal(size=(4, 3))), tg.Value(rng.normal(size=8))
    whole = [x * 1.0, y * 1.0]
    # Inputs may be parts of a result, and other parts of it be read as well.
    two = np.concatenate([x.reshape(-1), y]) * 1.5
    parts = [two[:12].reshape(4, 3), two[12:]]
    for args, inputs in [(args, args[at]) for args in (whole, parts) for at in map(slice, (0, 0, 1), (2, 1, 2))]:
        outputs = f(*args)
        tape = outputs[0]._tape
        tape.flush()
        start = tape.row_of(max(tape.locate(z._slot) for z in inputs)) + 1
        for wanted in (outputs, outputs[:1], outputs[1:2], outputs[2:]):
            expected = by_places(tape, inputs, wanted, start, tape.length)
            found = _between(tape, inputs, wanted, start, tape.length)
            assert len(found[0]) or wanted is not outputs
            for a, b in zip(found, expected):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("f", FUNCTIONS)
def test_what_numbers_depend_on_is_found_by_intervals(f, rng):
    x, y = tg.Value(rng.normal(size=(4, 3))), tg.Value(rng.normal(size=8))
    outputs = f(x, y)
    tape = x._tape
    tape.flush()
    spans = [(int(z._places().min()), int(z._places().max()) + 1) for z in outputs if z.size]
    for chosen in (spans, spans[:1], spans[1:], [(spans[0][0] + 1, spans[0][0] + 2)], [(3, 3)], []):
        mark, rows = np.zeros(tape.slots, np.uint8), np.empty(tape.length, np.int64)
        for low, high in chosen:
            mark[low:high] = 1
        expected = rows[reach(tape.code, tape.side, *EACH, mark, np.zeros(0, np.uint8), tape.length, rows) :]
        np.testing.assert_array_equal(needed_for(tape, chosen), expected)
        assert bool(len(expected)) == any(low < high for low, high in chosen)


@pytest.mark.parametrize("f", FUNCTIONS)
def test_flags_of_programs(f, rng):
    args = rng.normal(size=(4, 3)), rng.normal(size=8)
    program = tg.record(f, *args).program
    for wrt in ((0,), (1,), (0, 1), ()):
        _, expected = program.flow(program.code.steps, program.places_of(wrt), passive_rows())
        np.testing.assert_array_equal(program.flags(wrt), expected)
        assert program.flags(wrt).any() == bool(wrt)


def test_results_without_numbers_have_no_places():
    code = tg.record(lambda x: (x[:0] * 2.0, x * 3.0, np.zeros(0) * x[:0]), np.ones(3)).program.code
    assert (np.diff(owners(code.rows[:, OUT]).starts) >= 0).all()
    f = lambda x: (x[:0] * 2.0, np.sum(x[:0] * 2.0) + x)
    value, tangent = tg.jvp(f, (np.ones(3),), (np.ones(3),), compile=True)
    assert value[0].shape == tangent[0].shape == (0,)
    np.testing.assert_array_equal(tangent[1], np.ones(3))


# Tapes of long arrays


def test_a_long_recording_is_moved_seldom(monkeypatch):
    moved, written = [], []
    longer, write = writing._longer, writing.write
    monkeypatch.setattr(writing, "_longer", lambda *args: moved.append(1) or longer(*args))
    monkeypatch.setattr(writing, "write", lambda *args, **kwargs: written.append(1) or write(*args, **kwargs))

    def f(x):
        for _ in range(60):
            x = x + 0.01 * np.sqrt(np.maximum(x, 1e-3))
        return np.mean(x)

    recording = tg.record(f, np.full(200_000, 1.5), compile=False)
    assert recording.program.code.size > 40_000_000
    # Not at every instruction.
    assert len(moved) < 6 and len(written) < 6


@pytest.mark.parametrize(("known", "factor"), [(10, 2.0), (1_500_000, 1.25)])
def test_an_arena_of_which_little_is_known_is_doubled(known, factor):
    # What is not known takes no memory, so that there can be much of it, and what is known is copied.
    tape = Tape(recording=True)
    tape.leaf(np.ones(known), known, False)
    tape.flush()
    length = 2_000_000
    assert len(writing._longer(tape, length)) == factor * length
    np.testing.assert_array_equal(writing._longer(tape, length)[: known + 1], [1.0] * known + [0.0])


def test_a_number_is_written_once_for_all_stretches_of_scalars():
    def f(p, z):
        total = 0.0
        for day in range(40):
            total = total + np.sum(z[day] * (p / 252.0))
        return total

    p, z = 1.5, np.ones((40, 100))
    recording = tg.record(f, p, z, compile=True)
    np.testing.assert_allclose(recording.grad(p, z), 4000 / 252.0, rtol=1e-14)
    (key,) = recording.derived.asked()
    (program,) = recording.derived.programs(key)
    leaves = program.code.rows[program.code.inputs :]
    assert (leaves[:, OPCODE] == LEAF).sum() < 8


def test_numbers_that_are_learnt_are_used_rightly(rng):
    # Stretches of scalars between arrays, whose derivatives need the same numbers and others.
    def f(p, z):
        total = p
        for day in range(12):
            total = total / (2.0 + day % 3) + 0.25 * total * total
            total = np.sum(z[day] * total) * 0.1 + total / 3.0 + 2.0 * p
        return total

    z = rng.normal(size=(12, 5))
    for compile in (False, True):
        recording = tg.record(f, 0.3, z, compile=compile)
        for p in (0.3, 0.7):
            slope = (f(p + 1e-5, z) - f(p - 1e-5, z)) / 2e-5
            assert recording.grad(p, z) == pytest.approx(slope, rel=1e-7)
            second = (recording.grad(p + 1e-6, z) - recording.grad(p - 1e-6, z)) / 2e-6
            assert recording.hvp((p, z), (1.0,), argnums=(0,))[0] == pytest.approx(second, rel=1e-6)


def test_regions_learn_no_more_than_they_can_look_through():
    x = tg.Value(2.0)
    region = Region(x._tape, [x], [x * x], [1.0])
    before = len(region.given.slots)
    slots = np.arange(10_000, 10_003)
    region.learn(slots, np.array([1.0, 2.0, 3.0]))
    assert region.given.slots[before:].tolist() == slots.tolist()
    assert region.given.numbers[before:].tolist() == [1.0, 2.0, 3.0]
    region.learn(np.arange(20_000, 30_000), np.zeros(10_000))
    assert len(region.given.slots) == before + 3
