"""Long sweeps go in pieces: the same numbers, and signals are seen between them."""

import signal
import time

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.sweeps import pieces


def mixed(x):
    y = x
    for _ in range(12):
        y = np.sin(y) + 0.1 * y * x[::-1]
        y = y - np.mean(y)
    return np.sum(y * np.cumsum(y)) + sum(x[i] * x[i + 1] for i in range(20))


def wide(x):
    return np.sin(np.outer(x, np.ones(300)) @ np.ones((300, 2))) * x[0]


def results():
    rng = np.random.default_rng(0)
    x, v = rng.normal(size=5000), rng.normal(size=5000)
    recording, matrix = tg.record(mixed, x), tg.record(wide, x[:20])
    eager = tg.Value(x)
    mixed(eager).backward()
    value, gradient = recording.value_and_grad(x + 1.0)
    return recording.program.long, [
        value, gradient, recording.jvp((x + 1.0,), (v,))[1], recording.hvp((x + 1.0,), (v,)), np.array(eager.grad),
        matrix.jacfwd(x[:20]), matrix.jacrev(x[:20]), matrix.jacobian(x[:20], sparse=True).toarray(),
    ]  # fmt: skip


def trained():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 20))
    model = nn.MLP([20, 30, 2], "tanh", seed=0)
    training = nn.Training(model, optim.Adam(model, 0.01), batch_size=64)
    found = [training.epoch(x, (x[:, 0] > 0).astype(int), rng=k) for k in range(2)]
    return any(step.program.long for step in training._steps.values()), [np.array(model.flat.data), found]


@pytest.mark.parametrize("work", [results, trained])
def test_sweeps_in_pieces_give_the_same_numbers(work, monkeypatch):
    long, whole = work()
    assert not long
    monkeypatch.setattr(pieces, "ENOUGH", 2000)
    long, cut = work()
    assert long
    for a, b in zip(whole, cut):
        assert np.array_equal(a, b)


def test_pieces_do_not_cut_what_is_computed_together_and_cover_everything(monkeypatch):
    monkeypatch.setattr(pieces, "ENOUGH", 2000)
    program = tg.record(mixed, np.ones(5000)).program
    cuts = pieces.pieces(program.steps, program.code.side, program._groups, program.code.size)
    assert cuts[0] == 0
    assert cuts[-1] == len(program.steps)
    assert len(cuts) > 10


def test_a_guard_that_fails_in_a_later_piece_is_found(monkeypatch):
    monkeypatch.setattr(pieces, "ENOUGH", 2000)

    def f(x):
        y = np.sum(np.sin(x) * x)
        for _ in range(10):
            y = y + np.sum(np.cos(x) * y)
        return y * 2.0 if x[0] > 0 else y

    recording, x = tg.record(f, np.ones(1000)), np.linspace(-1.0, 1.0, 1000)
    assert recording.program.long
    np.testing.assert_allclose(recording(x), f(x), rtol=1e-13)
    np.testing.assert_allclose(recording(-x), f(-x), rtol=1e-13)


class Late(Exception):
    """What a signal raises."""


def _long(x):
    for _ in range(150):
        x = np.sin(x) + 0.1 * x
    return np.sum(x)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
@pytest.mark.parametrize("kind", ["value", "gradient", "jvp", "eager"])
def test_a_signal_is_seen_in_the_middle_of_a_sweep(kind, monkeypatch):
    monkeypatch.setattr(pieces, "ENOUGH", 500_000)
    x = np.linspace(0.0, 1.0, 50_000)
    recording = tg.record(_long, x)
    ask = {
        "value": lambda: recording(x),
        "gradient": lambda: recording.grad(x),
        "jvp": lambda: recording.jvp((x,), (x,))[1],
        "eager": lambda: _long(tg.Value(x)).item(),
    }[kind]
    expected, taken = ask(), []
    for _ in range(3):
        start = time.perf_counter()
        ask()
        taken.append(time.perf_counter() - start)

    def late(*_):
        raise Late

    before, waited = signal.signal(signal.SIGALRM, late), []
    try:
        for _ in range(4):
            start = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, 0.1 * min(taken))
            with pytest.raises(Late):
                ask()
            waited.append(time.perf_counter() - start)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    # The quickest of several, so that a busy machine does not matter.
    assert min(waited) < 0.75 * min(taken)
    assert np.array_equal(ask(), expected)
