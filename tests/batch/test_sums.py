"""Batches of recordings, and sums over a batch with nothing stored for a lane."""

import gc
import pickle
import sys
import tracemalloc
import weakref

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import ExtraMissingError, IntegerInputError, NonScalarError, ShapeError, UnsupportedError

RNG = np.random.default_rng(2)


def loss(model, x, y):
    hidden = np.tanh(model["w"] @ x + model["b"])
    error = hidden @ model["v"] - y
    return error**2 if error > -0.5 else 2.0 * abs(error)


def data(count):
    model = {"w": RNG.normal(size=(4, 3)), "b": RNG.normal(size=4), "v": RNG.normal(size=4)}
    return model, RNG.normal(size=(count, 3)), RNG.normal(size=count)


def test_methods_of_a_batch():
    x, k = RNG.normal(size=(50, 3)), RNG.normal(size=50)
    f = lambda x, k: np.sum(np.sin(x) * x[::-1]) * k
    recording = tg.record(f, x[0], k[0])
    lanes = list(zip(x, k))
    close = {"rtol": 1e-11, "atol": 1e-12}
    np.testing.assert_allclose(recording.batch(x, k), [f(*lane) for lane in lanes], **close)
    np.testing.assert_allclose(recording.batch.grad(x, k), [recording.grad(*lane) for lane in lanes], **close)
    value, (by_x, by_k) = recording.batch.value_and_grad(x, k, argnums=(0, 1), threads=2)
    np.testing.assert_allclose(by_k, [recording.grad(*lane, argnums=1) for lane in lanes], **close)
    assert np.array_equal(value, recording.batch(x, k)) and by_x.shape == (50, 3)
    np.testing.assert_allclose(recording.batch.hessian(x, k), [recording.hessian(*lane) for lane in lanes], **close)
    np.testing.assert_allclose(
        recording.batch.jacobian(x.T, k, in_axes=(1, 0), out_axes=-1).T, recording.batch.grad(x, k), **close
    )
    found = recording.batch.hvp((x, k), (x, k))
    wanted = [recording.hvp(lane, lane) for lane in lanes]
    for i in range(2):
        np.testing.assert_allclose(found[i], [w[i] for w in wanted], **close)
    found = recording.batch.hvp((x, 2.0), (x,), 0, in_axes=(0, None))
    np.testing.assert_allclose(found, [recording.hvp((a, 2.0), (a,), 0) for a in x], **close)
    with pytest.raises(ShapeError, match="recorded with a float64 array of shape"):
        recording.batch(np.ones((5, 2)), np.ones(5))
    with pytest.raises(UnsupportedError, match="takes plain arrays"):
        recording.batch(tg.Value(x), k)
    assert pickle.loads(pickle.dumps(tg.record(np.sum, x[0]))).batch(x).shape == (50,)


def test_a_batch_does_not_keep_its_recording_alive():
    recording = tg.record(lambda x: x * x, 1.0)
    recording.batch.grad(np.ones(3))
    gone = weakref.ref(recording)
    del recording
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("count", [1, 5, 1000, 3001])
@pytest.mark.parametrize("compile", [None, False, True])
def test_sums_are_those_of_all_lanes(count, compile):
    model, x, y = data(count)
    recording = tg.record(loss, model, x[0], y[0], compile=compile)
    found = recording.batch.value_and_grad_sum(model, x, y, in_axes=(None, 0, 0))
    values, gradients = recording.batch.value_and_grad(model, x, y, in_axes=(None, 0, 0))
    assert np.isclose(found[0], values.sum(), rtol=1e-12)
    for key, g in gradients.items():
        np.testing.assert_allclose(found[1][key], g.sum(0), rtol=1e-10, atol=1e-10)
    mean, (by_model, by_y) = recording.batch.value_and_grad_sum(
        model, x, y, in_axes=(None, 0, 0), argnums=(0, 2), mean=True
    )
    assert np.isclose(mean, values.mean(), rtol=1e-12) and isinstance(by_y, float)
    np.testing.assert_allclose(by_model["b"], gradients["b"].mean(0), rtol=1e-10, atol=1e-12)
    by_target = recording.batch.grad(model, x, y, in_axes=(None, 0, 0), argnums=2)
    assert np.isclose(by_y, by_target.mean(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("compile", [False, True])
def test_threads_give_the_same_bits(compile):
    model, x, y = data(20_000)
    recording = tg.record(loss, model, x[0], y[0], compile=compile)
    found = [
        recording.batch.value_and_grad_sum(model, x, y, in_axes=(None, 0, 0), threads=threads) for threads in (1, 2, 5)
    ]
    for value, gradient in found[1:]:
        assert value == found[0][0]
        assert all(np.array_equal(gradient[key], found[0][1][key]) for key in gradient)


def test_data_on_disk_and_a_bar(tmp_path, capsys):
    rows = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float64, (200_000, 20))
    rows[...] = np.arange(20.0) / 20.0
    del rows
    x, y = np.load(tmp_path / "x.npy", mmap_mode="r"), np.ones(200_000)
    recording = tg.record(lambda w, x, y: (x @ w - y) ** 2, np.zeros(20), np.zeros(20), 0.0)
    done = []
    recording.batch.value_and_grad_sum(np.ones(20), x[:5000], y[:5000], in_axes=(None, 0, 0))
    tracemalloc.start()
    value, gradient = recording.batch.value_and_grad_sum(
        np.ones(20), x, y, in_axes=(None, 0, 0), mean=True, progress=lambda now, of: done.append((now, of))
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    error = np.sum(np.arange(20.0)) / 20.0 - 1.0
    assert np.isclose(value, error**2)
    np.testing.assert_allclose(gradient, 2.0 * error * np.arange(20.0) / 20.0, rtol=1e-10)
    assert done[-1] == (200_000, 200_000) and done == sorted(done)
    # A tenth of the data.
    assert peak < x.nbytes / 10
    pytest.importorskip("tqdm")
    recording.batch.value_and_grad_sum(np.ones(20), x, y, in_axes=(None, 0, 0), progress=True)
    assert "200k/200k" in capsys.readouterr().err


def test_a_bar_needs_tqdm(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ExtraMissingError, match="pip install tqdm"):
        tg.record(lambda x: x * x, 1.0).batch.value_and_grad_sum(np.ones(3), progress=True)


def test_what_fills_a_block_up_does_not_count():
    # The last lane, which fills the block up, is infinite where it is repeated, and is counted once.
    recording = tg.record(lambda w, x: w / x, 1.0, 1.0)
    value, gradient = recording.batch.value_and_grad_sum(2.0, np.array([1.0, 2.0, 4.0]), in_axes=(None, 0))
    assert value == 3.5 and gradient == 1.75


def test_refusals():
    x = np.ones((3, 2))
    with pytest.raises(NonScalarError):
        tg.record(lambda x: x, x[0]).batch.value_and_grad_sum(x)
    with pytest.raises(IntegerInputError):
        tg.record(lambda n, x: n * x[0], 1, x[0]).batch.value_and_grad_sum(np.arange(3), x)
    with pytest.raises(IndexError) as found:
        tg.record(lambda x, i: np.sum(x[i]), x[0], np.array([0, 1])).batch.value_and_grad_sum(
            x, np.array([[0, 1], [1, 1], [0, 9]])
        )
    assert "in lane 2 of the batch" in found.value.__notes__
    value, gradient = tg.record(lambda x: 3.0, x[0]).batch.value_and_grad_sum(x)
    assert value == 9.0 and gradient.tolist() == [0.0, 0.0]
