"""Subnormal numbers are zero in float32 sweeps and steps, and nowhere else."""

import platform

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.compiled.callable import INTERPRETED

pytestmark = pytest.mark.skipif(
    INTERPRETED or platform.machine().lower() not in ("x86_64", "amd64"), reason="needs the flags of x86"
)
TINY = np.full(3, 1e-38, np.float32)


def kept():
    """Whether this thread's own arithmetic has subnormals."""
    return bool(np.float32(1e-38) * np.float32(0.5) > 0) and bool(np.float64(1e-308) * np.float64(0.5) > 0)


def test_float32_sweeps_flush_and_leave_python_alone():
    recording = tg.record(lambda x: np.sum(x * np.float32(0.5)) + np.sum(x), TINY)
    value, gradient = recording.value_and_grad(TINY)
    assert value == pytest.approx(3e-38, rel=1e-6)
    assert gradient.tolist() == [1.5] * 3
    assert tg.record(lambda x: x * 0.5, TINY)(TINY).tolist() == [0.0] * 3
    assert tg.record(lambda x: x * 1e-10, TINY).jvp((TINY,), (TINY,))[1].tolist() == [0.0] * 3
    assert kept()


def test_float64_sweeps_keep_them():
    x = np.full(3, 1e-308)
    assert tg.record(lambda x: x * 0.5, x)(x).tolist() == [5e-309] * 3


def test_python_functions_that_a_sweep_calls_keep_them():
    seen = []

    def f(x):
        seen.append(kept())
        return x * np.float32(2.0)

    double = tg.external(f, lambda w, y, x: (seen.append(kept()), w * np.float32(2.0))[1])
    recording = tg.record(lambda x: np.sum(double(x) * np.float32(1e-10)) + np.sum(x), np.ones(3, np.float32))
    recording.value_and_grad(TINY)
    assert len(seen) >= 3
    assert all(seen)
    # After the call the sweep goes on without: 2e-38 times 1e-10 is zero.
    assert tg.record(lambda x: double(x) * np.float32(1e-3), TINY)(TINY).tolist() == [0.0] * 3
    assert kept()


def test_training_steps_flush():
    model = nn.MLP([2, 2], seed=0, dtype=np.float32)
    model.flat.data = np.full(model.flat.size, 1e-38, np.float32)
    training = nn.Training(model, optim.SGD(model, 0.0, weight_decay=0.0), batch_size=2)
    training.epoch(np.zeros((4, 2), np.float32), np.array([0, 1, 0, 1]), rng=0)
    assert kept()
