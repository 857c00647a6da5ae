"""Loops inside of rows: programs over arrays in which blocks of instructions repeat."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.native import Native
from tapegrad.native.long_rows import LongRowsWriter


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
