"""Compiled epochs against the same training written plainly."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.carried import Plan
from tapegrad.errors import (
    DTypeError,
    IndexRangeError,
    IntegerInputError,
    LabelError,
    NonScalarError,
    ShapeError,
    StructureError,
)
from tapegrad.nn.buffers import Buffer
from tapegrad.nn.steps import Step
from tapegrad.nn.updates import Updates
from tapegrad.program import Branches


def data(n=50, n_in=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.normal(size=(n, n_in)) + y[:, None], y


def eager_epoch(
    model, optimizer, x, y, order, batch, loss=tg.cross_entropy, clip_norm=None, clip_value=None, drop_last=False
):
    """What `Training.epoch` must do, with Values and a Python loop. Returns the mean loss and accuracy."""
    total, right, seen = 0.0, 0, 0
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        if drop_last and len(rows) < batch:
            break
        output = model(x[rows])
        value = loss(output, y[rows])
        model.zero_grad()
        value.backward()
        if clip_value:
            optim.clip_by_value(model, clip_value)
        if clip_norm:
            optim.clip_by_norm(model, clip_norm)
        optimizer.step()
        total += value.item() * len(rows)
        right += (output.data.argmax(1) == y[rows]).sum() if y.ndim == 1 else 0
        seen += len(rows)
    return total / seen, right / seen


OPTIMIZERS = {
    "sgd": lambda m: optim.SGD(m, optim.cosine(0.1, 30)),
    "momentum": lambda m: optim.SGD(m, 0.05, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda m: optim.Adam(m, optim.warmup(5, optim.exponential(0.02, 0.9, 10))),
    "adamw": lambda m: optim.AdamW(m, 0.01, weight_decay=0.1),
}


class Wild(np.random.Generator):
    """A generator whose permutations are not made of the numbers of the samples."""

    def __init__(self, change):
        super().__init__(np.random.PCG64(0))
        self.change = change

    def permutation(self, n):
        return self.change(np.arange(n))


ORDERS = [
    (lambda order: order + 1, IndexRangeError, "has 50 at position 49; there are samples 0 to 49"),
    (lambda order: order - 3, IndexRangeError, "has -3 at position 0"),
    (lambda order: np.where(order == 7, 10**9, order).astype(np.uint64), IndexRangeError, "has 10+ at position 7"),
    (lambda order: order * 1.0, IntegerInputError, "whole numbers, not float64"),
    (lambda order: order.reshape(-1, 1), ShapeError, r"one axis, this has shape \(50, 1\)"),
]


@pytest.mark.parametrize(("change", "error", "said"), ORDERS)
def test_every_way_in_is_checked_for_rows_that_there_are_not(change, error, said):
    x, y = data()
    model = nn.MLP([6, 8, 3], "tanh", seed=1)
    training = nn.Training(model, optim.Adam(model, 0.01), batch_size=16)
    ways = [
        lambda: training.epoch(x, y, rng=Wild(change)),
        lambda: training.fit((x, y), epochs=1, rng=Wild(change)),
        lambda: training.find_rate((x, y), rng=Wild(change)),
        lambda: training.run(training.samples((x, y)), change(np.arange(50))),
    ]
    before = model.flat.data.copy()
    for way in ways if error is not ShapeError else [ways[0], ways[1], ways[3]]:
        with pytest.raises(error, match=f"order of samples.*{said}"):
            way()
    assert np.array_equal(model.flat.data, before) and training.optimizer.steps == 0


def test_an_order_may_name_samples_again_and_leave_others_out():
    x, y = data()
    order = np.array([3, 3, 49, 0, 3, 7, 7, 12], np.uint8)
    fast, plain = nn.MLP([6, 8, 3], "tanh", seed=1), nn.MLP([6, 8, 3], "tanh", seed=1)
    training = nn.Training(fast, optim.Adam(fast, 0.01), batch_size=4)
    found = training.run(training.samples((x, y)), order)
    expected = eager_epoch(plain, optim.Adam(plain, 0.01), x, y, order, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("batch", [10, 16, 64])  # even, with a remainder, larger than the data
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_epoch_equals_the_plain_loop(kind, batch):
    x, y = data()
    fast, plain = nn.MLP([6, 8, 3], "tanh", seed=1), nn.MLP([6, 8, 3], "tanh", seed=1)
    training = nn.Training(fast, OPTIMIZERS[kind](fast), batch_size=batch)
    optimizer = OPTIMIZERS[kind](plain)
    for epoch in range(3):
        found = training.epoch(x, y, rng=epoch)
        order = np.random.default_rng(epoch).permutation(len(x))
        expected = eager_epoch(plain, optimizer, x, y, order, batch)
        assert found == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-11, atol=1e-13)
    assert training.optimizer.steps == optimizer.steps == 3 * training.steps_per_epoch(len(x))


def test_an_epoch_equals_plain_numpy():
    x, y = data(24)
    model = nn.Linear(6, 3, rng=0)
    w, b = (np.array(p.data) for p in model.parameters())
    nn.Training(model, optim.SGD(lr=0.5), batch_size=8).epoch(x, y, rng=3)
    for rows in np.random.default_rng(3).permutation(24).reshape(3, 8):
        p = np.exp(x[rows] @ w + b)
        p /= p.sum(1, keepdims=True)
        p[np.arange(8), y[rows]] -= 1
        w, b = w - 0.5 * x[rows].T @ p / 8, b - 0.5 * p.mean(0)
    np.testing.assert_allclose(model.weight.data, w, rtol=1e-12)
    np.testing.assert_allclose(model.bias.data, b, rtol=1e-12)


def test_float32():
    x, y = data()
    fast, plain = (nn.MLP([6, 8, 3], seed=1, dtype=np.float32) for _ in range(2))
    training = nn.Training(fast, optim.Adam(lr=0.01), batch_size=16)
    optimizer = optim.Adam(plain, 0.01)
    for epoch in range(2):
        training.epoch(x, y, rng=epoch)
        order = np.random.default_rng(epoch).permutation(len(x))
        eager_epoch(plain, optimizer, x.astype(np.float32), y, order, 16)
    assert fast.flat.dtype == np.float32
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clips", [{"clip_norm": 0.05}, {"clip_value": 0.01}, {"clip_norm": 0.05, "clip_value": 0.02}])
def test_clipping(clips):
    x, y = data()
    fast, plain, free = (nn.MLP([6, 8, 3], "tanh", seed=1) for _ in range(3))
    nn.Training(fast, optim.SGD(lr=0.5), batch_size=16, **clips).epoch(x, y, rng=0)
    nn.Training(free, optim.SGD(lr=0.5), batch_size=16).epoch(x, y, rng=0)
    eager_epoch(plain, optim.SGD(plain, 0.5), x, y, np.random.default_rng(0).permutation(50), 16, **clips)
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-11, atol=1e-13)
    assert not np.allclose(fast.flat.data, free.flat.data, atol=1e-3)


def test_drop_last():
    x, y = data()
    fast, plain = nn.MLP([6, 3], seed=1), nn.MLP([6, 3], seed=1)
    training = nn.Training(fast, optim.SGD(lr=0.1), batch_size=16, drop_last=True)
    found = training.epoch(x, y, rng=0)
    order = np.random.default_rng(0).permutation(50)
    assert found == pytest.approx(eager_epoch(plain, optim.SGD(plain, 0.1), x, y, order, 16, drop_last=True))
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-12)
    assert training.optimizer.steps == training.steps_per_epoch(50) == 3
    with pytest.raises(ShapeError, match="leaves none of 10 samples"):
        training.epoch(x[:10], y[:10])


def test_regression_with_a_loss_of_ones_own():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    y = np.column_stack([x[:, 0] * x[:, 1], x.sum(1)])

    def loss(output, target):
        return np.abs(output - target).mean() + ((output - target) ** 2).mean()

    fast, plain = nn.MLP([2, 8, 2], "tanh", seed=1), nn.MLP([2, 8, 2], "tanh", seed=1)
    found = nn.Training(fast, optim.Adam(lr=0.01), loss, batch_size=16).epoch(x, y, rng=0)
    order = np.random.default_rng(0).permutation(40)
    expected, _ = eager_epoch(plain, optim.Adam(plain, 0.01), x, y, order, 16, loss)
    assert found.loss == pytest.approx(expected, rel=1e-12) and np.isnan(found.accuracy)
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-11, atol=1e-13)


def test_integer_targets_can_index():
    x, y = data()

    def loss(output, target):
        return -tg.log_softmax(output)[np.arange(len(output)), target].mean()

    fast, plain = nn.MLP([6, 3], seed=1), nn.MLP([6, 3], seed=1)
    found = nn.Training(fast, optim.SGD(lr=0.1), loss, batch_size=16).epoch(x, y, rng=0)
    expected = nn.Training(plain, optim.SGD(lr=0.1), batch_size=16).epoch(x, y, rng=0)
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-11, atol=1e-13)


def test_a_loss_that_branches_is_recorded_again():
    x = np.linspace(-1, 1, 20)[:, None]

    def loss(output, target):
        error = ((output - target) ** 2).mean()
        return error if error > 0.3 else 2.0 * error

    fast, plain = nn.MLP([1, 4, 1], "tanh", seed=0), nn.MLP([1, 4, 1], "tanh", seed=0)
    training = nn.Training(fast, optim.SGD(lr=0.1), loss, batch_size=5)
    optimizer = optim.SGD(plain, 0.1)
    taken = set()
    for epoch in range(4):
        found = training.epoch(x, x, rng=epoch)
        order = np.random.default_rng(epoch).permutation(20)
        watched = lambda o, t: (taken.add(bool(((o - t) ** 2).mean().item() > 0.3)), loss(o, t))[1]
        expected, _ = eager_epoch(plain, optimizer, x, x, order, 5, watched)
        assert found.loss == pytest.approx(expected, rel=1e-12)
    assert taken == {True, False}
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("owner, name, after", [
    (Branches, "renew", False), (Branches, "renew", True), (Step, "_carrying", False), (Step, "_prepare", True),
])  # fmt: skip
def test_an_interrupt_while_a_step_is_recorded_again_loses_nothing(owner, name, after, monkeypatch):
    x, order = np.linspace(-1, 1, 40)[:, None], np.arange(40)
    plain, met = getattr(owner, name), []

    def loss(output, target):
        error = ((output - target) ** 2).mean()
        return error if error > 0.3 else 2.0 * error

    def interrupting(*args):
        result = plain(*args) if after or met else None
        if not met:
            met.append(name)
            raise KeyboardInterrupt
        return result

    models = [nn.MLP([1, 4, 1], "tanh", seed=0) for _ in range(2)]
    trainings = [nn.Training(model, optim.Adam(lr=0.05), loss, batch_size=5) for model in models]
    for training in trainings:
        training.run(training.samples((x, x)), order[:5])
    trainings[0].run(trainings[0].samples((x, x)), order[5:])
    training = trainings[1]
    monkeypatch.setattr(owner, name, interrupting)
    with pytest.raises(KeyboardInterrupt):
        training.run(training.samples((x, x)), order[5:])
    done = training.optimizer.steps
    assert 1 <= done < 8 and np.isfinite(models[1].flat.data).all()
    training.run(training.samples((x, x)), order[5 * done :])
    assert np.array_equal(models[0].flat.data, models[1].flat.data)


@pytest.mark.parametrize("owner, name", [
    (Updates, "done"), (Plan, "put"), (Buffer, "put"), (Step, "_write"), (Step, "_run"), (Step, "parameters"),
])  # fmt: skip
def test_ctrl_c_while_what_was_learnt_is_noted_down_leaves_nothing_halfway(owner, name, monkeypatch):
    """Parameters, buffers, and the optimiser's state and count of steps belong to each other."""
    x, y = data(40)
    order = np.arange(40)

    def made():
        model = nn.Sequential(nn.Linear(6, 8, rng=0), nn.BatchNorm1d(8), nn.Dropout(0.2, rng=1), nn.Linear(8, 3, rng=2))
        training = nn.Training(model, optim.Adam(model, 0.05), batch_size=10)
        training.run(training.samples((x, y)), order)
        return training

    whole, stopped = made(), made()
    whole.run(whole.samples((x, y)), order)
    plain, met = vars(owner)[name], []

    def interrupting(*args):
        result = (plain.fget if isinstance(plain, property) else plain)(*args)
        if not met:
            met.append(name)
            signal.raise_signal(signal.SIGINT)
        return result

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(owner, name, property(interrupting) if isinstance(plain, property) else interrupting)
    with pytest.raises(KeyboardInterrupt):
        stopped.run(stopped.samples((x, y)), order)
    assert met and signal.getsignal(signal.SIGINT) is before
    done = stopped.optimizer.steps - 4
    assert int(stopped.model[1].num_batches_tracked) == 4 + done
    stopped.run(stopped.samples((x, y)), order[10 * done :]) if done < 4 else None
    assert all(np.array_equal(a, b) for a, b in zip(
        [*whole.model.state_dict().values(), *whole.optimizer.state_dict().values()],
        [*stopped.model.state_dict().values(), *stopped.optimizer.state_dict().values()], strict=True,
    ))  # fmt: skip


def test_learns_and_evaluates():
    x, y = data(300, seed=4)
    model = nn.MLP([6, 16, 3], seed=0, dtype=np.float32)
    training = nn.Training(model, optim.Adam(model, 0.01), batch_size=32)
    first = training.evaluate(x, y)
    for epoch in range(15):
        last = training.epoch(x, y, rng=epoch)
    assert last.loss < 0.4 < 0.9 < first.loss and last.accuracy > 0.8
    before = np.array(model.flat.data)
    result = training.evaluate(x, y, batch_size=77)
    logits = training.predict(x, batch_size=77)
    assert logits.shape == (300, 3) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, model(x).data, rtol=1e-5, atol=1e-6)
    assert result.accuracy == pytest.approx((logits.argmax(1) == y).mean())
    assert result.loss == pytest.approx(tg.cross_entropy(model(x), y).item(), rel=1e-5)
    assert np.array_equal(model.flat.data, before)


def test_epochs_take_up_what_happened_between_them():
    x, y = data(32)
    model, other = nn.MLP([6, 3], seed=1), nn.MLP([6, 3], seed=1)
    training = nn.Training(model, optim.SGD(lr=0.1), batch_size=16)
    training.epoch(x, y, rng=0)
    model.flat.data = np.array(other.flat.data)
    training.epoch(x, y, rng=0)
    nn.Training(other, optim.SGD(lr=0.1), batch_size=16).epoch(x, y, rng=0)
    assert np.array_equal(model.flat.data, other.flat.data)


def test_a_model_built_on_is_recorded_again():
    x, y = data(32)
    model = nn.Sequential(nn.Linear(6, 3, rng=0))
    training = nn.Training(model, optim.SGD(lr=0.1), batch_size=16)
    training.epoch(x, y, rng=0)
    model.modules = (*model.modules, nn.Tanh(), nn.Linear(3, 3, rng=1))
    assert training.predict(x).shape == (32, 3)
    np.testing.assert_allclose(training.predict(x), model(x).data, rtol=1e-12)
    before = np.array(model.flat.data)
    training.epoch(x, y, rng=0)
    assert before.size == 33 and (np.array(model.flat.data) != before).all()


@pytest.mark.parametrize(
    ("bad", "text"), [(3.0, "label 3"), (-1.0, "label -1"), (0.5, "label 0.5"), (np.nan, "label nan")]
)
def test_labels_are_checked_before_anything_changes(bad, text):
    x, y = data()
    y = y.astype(float)
    y[17] = bad
    model = nn.MLP([6, 3])
    training = nn.Training(model, optim.Adam(lr=0.1), batch_size=10)
    before = np.array(model.flat.data)
    for call in (training.epoch, training.evaluate):
        with pytest.raises(LabelError, match=f"{text} at position 17; labels must be whole numbers from 0 to 2"):
            call(x, y)
    assert np.array_equal(model.flat.data, before) and training.optimizer.steps == 0


def test_labels_inside_a_loss_of_ones_own_are_checked_by_the_tape():
    x, y = data()
    y[17] = 3
    model = nn.MLP([6, 3])
    training = nn.Training(model, optim.SGD(lr=0.1), lambda o, t: tg.cross_entropy(o, t) * 1.0, batch_size=10)
    order = np.random.default_rng(0).permutation(50)
    with pytest.raises(LabelError, match=f"label 3 at position {list(order).index(17) % 10}"):
        training.epoch(x, y, rng=0)
    # The batches before it were learnt, by model and optimiser alike.
    other = nn.MLP([6, 3])
    done = list(order).index(17) // 10
    eager_epoch(other, optim.SGD(other, 0.1), x, y, order[: 10 * done], 10)
    assert training.optimizer.steps == done
    np.testing.assert_allclose(model.flat.data, other.flat.data, rtol=1e-12)


def test_errors():
    x, y = data(20)
    model = nn.MLP([6, 3])
    training = nn.Training(model, optim.SGD(lr=0.1), batch_size=8)
    with pytest.raises(ShapeError, match="x has 20 samples, y 19"):
        training.epoch(x, y[:19])
    with pytest.raises(ShapeError, match=r"labels of shape \(n,\), not \(20, 1\)"):
        training.epoch(x, y[:, None])
    with pytest.raises(ShapeError, match=r"takes arrays of shape \(..., 6\), not \(8, 5\)"):
        training.epoch(x[:, :5], y)
    with pytest.raises(ShapeError, match="at least one sample"):
        training.epoch(x[:0], y[:0])
    with pytest.raises(DTypeError, match="real numbers, not <U"):
        training.epoch(x, y.astype(str))
    with pytest.raises(ValueError, match="no loss 'entropy'"):
        nn.Training(model, optim.SGD(), "entropy")
    with pytest.raises(ValueError, match="batch size"):
        nn.Training(model, optim.SGD(), batch_size=0)
    with pytest.raises(ValueError, match="clip_norm"):
        nn.Training(model, optim.SGD(), clip_norm=-1.0)
    with pytest.raises(StructureError, match="no parameters"):
        nn.Training(nn.Tanh(), optim.SGD())
    with pytest.raises(NonScalarError, match=r"one number, this one has shape \(8, 3\)"):
        nn.Training(model, optim.SGD(), lambda output, target: output, batch_size=8).epoch(x, y)


def test_works_without_compiling():
    code = """
import numpy as np
from tapegrad import nn, optim
x = np.linspace(-1, 1, 12)[:, None]
model = nn.MLP([1, 3, 1], "tanh", seed=0)
training = nn.Training(model, optim.Adam(model, 0.05), "mean_squared_error", batch_size=5, clip_norm=1.0)
losses = [training.epoch(x, x, rng=i).loss for i in range(3)]
print(losses + model.flat.tolist())
"""
    results = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": flag}, capture_output=True, text=True
        )
        for flag in ("0", "1")
    ]
    assert not any(r.returncode for r in results), results[-1].stderr
    found, expected = (np.array(json.loads(r.stdout)) for r in results)
    assert len(found) == 3 + 10
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_an_interrupt_comes_soon_and_what_was_learnt_is_kept():
    x, y = data(100_000)

    def made():
        model = nn.MLP([6, 256, 256, 3], seed=0)
        return model, nn.Training(model, optim.Adam(model, 1e-3), batch_size=10)

    def interrupt(*_):
        raise KeyboardInterrupt

    model, training = made()
    training.evaluate(x[:10], y[:10])
    training.run(training.samples((x[:10], y[:10])), np.arange(10), optimizer=optim.SGD(model, 0.0))
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        started = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            training.epoch(x, y, rng=1)
        assert time.monotonic() - started < 1.5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    steps = training.optimizer.steps
    assert 0 < steps < 10_000
    other, again = made()
    order = np.random.default_rng(1).permutation(len(x))
    again.run(again.samples((x, y)), order[: 10 * steps])
    np.testing.assert_array_equal(model.flat.data, other.flat.data)
    training.epoch(x[:100], y[:100], rng=2)
    assert training.optimizer.steps == steps + 10


def test_a_step_whose_python_function_fails_on_the_way_back_is_not_taken():
    calls = []

    def vjp(w, y, x):
        calls.append(1)
        if len(calls) == 3:
            raise ArithmeticError("no gradient here")
        return w * np.cos(x)

    sine = tg.external(np.sin, vjp)
    x, y = np.linspace(-1.0, 1.0, 40)[:, None], np.zeros((40, 1))

    def loss(output, y):
        return np.mean((sine(output) - y) ** 2)

    models = [nn.MLP([1, 4, 1], "tanh", seed=0) for _ in range(2)]
    training = nn.Training(models[0], optim.Adam(models[0], 0.1), loss=loss, batch_size=8)
    with pytest.raises(ArithmeticError, match="no gradient here"):
        training.epoch(x, y, rng=0)
    assert training.optimizer.steps == 2
    again = nn.Training(models[1], optim.Adam(models[1], 0.1), loss=loss, batch_size=8)
    again.run(again.samples((x, y)), np.random.default_rng(0).permutation(40)[:16])
    np.testing.assert_array_equal(models[0].flat.data, models[1].flat.data)


def test_training_notices_what_the_loss_reads():
    scale = 1.0
    model = nn.Linear(3, 1, rng=np.random.default_rng(0))
    x, y = np.random.default_rng(1).normal(size=(12, 3)), np.zeros((12, 1))
    training = nn.Training(
        model, optim.SGD(lr=1e-30), loss=lambda out, y: scale * np.mean((out - y) ** 2), batch_size=4)
    first = training.epoch(x, y, rng=0).loss
    scale = 3.0
    assert training.epoch(x, y, rng=0).loss == pytest.approx(3.0 * first, rel=1e-12)
    assert training.epoch(x, y, rng=0).loss == pytest.approx(3.0 * first, rel=1e-12)


def test_a_module_in_a_closure_is_not_recorded_at_every_call():
    class Gate(nn.Module):
        def __init__(self):
            self.weight = nn.Parameter(np.array([2.0, 3.0]))
            self.open = 1.0

        def forward(self, x):
            return self.open * self.weight * x

    gate = Gate()
    r = tg.record(lambda flat, x: np.sum(gate.call_with(flat, x)), gate.flat.data, np.ones(2))
    for _ in range(4):
        assert r.grad(gate.flat.data, np.ones(2)).tolist() == [1.0, 1.0]
    assert r.stats().recorded == 1
    gate.open = 5.0
    assert r.grad(gate.flat.data, np.ones(2)).tolist() == [5.0, 5.0]
