"""Loops inside of rows: programs over arrays in which blocks of instructions repeat."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.native import Native, module
from tapegrad.native.long_rows import LongRowsWriter, beside


def paths(p, noise):
    """A mean over paths, of a number that steps change: p = (drift, spread, reversion, start)."""
    x, total = 0.0 * noise[0] + p[3], 0.0
    for row in noise:
        spread = np.sqrt(np.maximum(x, 1e-3)) * p[1]
        x = x + p[0] * 0.01 + p[2] * 0.01 * (1.0 - x) + spread * row
        total = total + x**3
    return np.mean(np.maximum(x - 0.9, 0.0)) + 1e-3 * np.mean(total)


@pytest.fixture
def written(monkeypatch):
    """The loops that were written so."""
    found, write = [], LongRowsWriter.write_rows

    def spy(self, name):
        found.append(name)
        return write(self, name)

    monkeypatch.setattr(LongRowsWriter, "write_rows", spy)
    return found


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("count", [200, 203, 256])
@pytest.mark.parametrize("by", [0, (0, 1)])
def test_a_simulation_over_paths_is_as_the_interpreter_has_it(count, dtype, by, written, rng):
    p = np.array([0.1, 0.2, 0.7, 1.1], dtype)
    first, noise = (0.1 * rng.normal(size=(2, 60, count))).astype(dtype)
    program = tg.record(tg.value_and_grad(paths, by), p, first, compile=False).program
    native = Native(program)
    assert written
    results = []
    for form in (program, native):
        workspace = form.take()
        workspace.fill([p * dtype(1.1), noise])
        assert form.sweep(workspace, 1, -1, None) == -1
        results.append([np.array(o.window(workspace.values)) for o in form.code.outputs])
        form.give(workspace)
    close = 1e-12 if dtype == np.float64 else 2e-5
    for own, compiled in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, own, rtol=close, atol=close * np.abs(own).max())


def swing(s):
    """Two coupled pendulums, number by number: the first round of the way back begins otherwise than the others."""
    x, v = [s[0], s[1]], [s[2], s[3]]
    for _ in range(60):
        pull = 0.3 * (x[1] - x[0]) / (1.0 + (x[1] - x[0]) ** 2)
        v = [v[0] + 0.1 * (pull - np.sin(x[0])), v[1] - 0.1 * (pull + np.sin(x[1]))]
        x = [a + 0.1 * b for a, b in zip(x, v)]
    return x[0] * x[1] + v[0] ** 2


def test_numbers_in_lanes_go_in_loops(written, rng):
    starts = rng.normal(size=(300, 4))
    value, gradient = tg.vmap(tg.value_and_grad(swing), compile=True)(starts)
    assert written
    plain = tg.vmap(tg.value_and_grad(swing), compile=False)(starts)
    np.testing.assert_allclose(value, plain[0], rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(gradient, plain[1], rtol=1e-10, atol=1e-11)


def test_what_loops_store_stands_beside_each_other():
    # Names of two loops of three rounds, and of the round before the first, which straight code makes.
    looped, straight = np.array([20, 21, 30, 31, 40, 41]), np.array([10, 11, 99])
    reads = [np.array([10, 20, 30, 40]), np.array([41, 31, 21, 11])]
    found = beside(looped, straight, reads)
    assert sorted(found.values()) == list(range(9))
    for row in reads:
        assert len(set(np.diff([found[name] for name in row.tolist()]))) == 1


def test_what_would_have_to_be_written_out_is_left_to_the_interpreter(monkeypatch, rng):
    monkeypatch.setattr(module, "_MOST_ITEMS", 20)

    def f(x):
        for k in range(12):
            x = np.sin(x) * (k + 1.5) if k % 3 else np.exp(-x * x) + k
        return x

    x = rng.normal(size=(300, 2))
    recording = tg.record(f, x, compile=True)
    assert np.allclose(recording(x), f(x))
    assert "would have to be written out" in recording.program.not_native
