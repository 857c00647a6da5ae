"""Minimising and training over Dask arrays: the steps that one process would take."""

import dask.array as da
import numpy as np
import pytest
from dask_clusters import without_cluster

import tapegrad as tg
import tapegrad.dask as td
from tapegrad import nn, optim
from tapegrad.errors import ShapeError, StructureError, UnsupportedError
from tapegrad.optimize import minimize

RNG = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def _here():
    with without_cluster():
        yield


def logistic(p, x, y):
    z = x @ p["w"] + p["b"]
    return np.logaddexp(0.0, z) - y * z


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B", "Newton-CG"])
def test_minimize(method):
    x = RNG.normal(size=(300, 2))
    y = (RNG.random(300) < 1.0 / (1.0 + np.exp(-x @ [1.0, -2.0] - 0.5))).astype(float)
    start = {"w": np.zeros(2), "b": 0.0}
    data = da.from_array(x, chunks=(70, 2)), da.from_array(y, chunks=70)
    known = minimize(lambda p: np.mean(logistic(p, x, y)), start, tol=1e-10)
    found = minimize(td.value_and_grad(logistic, mean=True), start, data, method, jac=True, tol=1e-10)
    assert found.success or method == "BFGS"
    np.testing.assert_allclose(found.x_flat, known.x_flat, rtol=1e-4, atol=1e-5)
    assert isinstance(found.x["b"], float) and found.jac["w"].shape == (2,)
    with pytest.raises(StructureError, match=r"args hold what Dask computes.*tapegrad\.dask\.value_and_grad"):
        minimize(logistic, start, data)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_steps_are_those_of_one_process(dtype):
    x, y = RNG.normal(size=(90, 4)).astype(dtype), RNG.integers(0, 3, 90)
    mine, other = (nn.MLP([4, 8, 3], "tanh", seed=1, dtype=dtype) for _ in range(2))
    training = td.Training(mine, optim.Adam(mine, 0.01), chunks_per_step=2)
    edges = np.array([0, 20, 20, 50, 70, 90])
    data = da.from_array(x, chunks=(tuple(np.diff(edges)), 4)), da.from_array(y, chunks=(tuple(np.diff(edges)),))
    optimizer, losses = optim.Adam(other, 0.01), []
    value_and_grad = tg.value_and_grad(lambda flat, x, y: tg.cross_entropy(other.call_with(flat, x), y))
    for epoch in range(3):
        losses.append(training.epoch(*data, rng=epoch))
        order, p, total = np.random.default_rng(epoch).permutation(5), np.array(other.flat.data), 0.0
        for start in range(0, 5, 2):
            some = np.concatenate([np.arange(edges[k], edges[k + 1]) for k in order[start : start + 2]])
            if len(some):
                value, g = value_and_grad(p, x[some], y[some])
                optimizer.update(p, g)
                total += value * len(some)
        other.flat.data = p
        np.testing.assert_allclose(losses[-1], total / 90, rtol=1e-5)
    close = {"rtol": 1e-9, "atol": 1e-11} if dtype == np.float64 else {"rtol": 1e-3, "atol": 1e-4}
    np.testing.assert_allclose(mine.flat.data, other.flat.data, **close)
    assert mine.flat.data.dtype == dtype and training.optimizer.steps == optimizer.steps and losses[-1] < losses[0]


def test_training_refuses():
    model = nn.MLP([2, 2])
    with pytest.raises(ValueError, match="there is no loss 'hinge'"):
        td.Training(model, optim.SGD(model), "hinge", chunks_per_step=1)
    with pytest.raises(ValueError, match="at least one chunk, not 0"):
        td.Training(model, optim.SGD(model), chunks_per_step=0)
    training = td.Training(model, optim.SGD(model), chunks_per_step=1)
    with pytest.raises(ShapeError, match="different numbers of rows"):
        training.epoch(da.ones((4, 2)), da.ones(3, dtype=int))
    with pytest.raises(ShapeError, match="the batch is empty"):
        training.epoch(da.ones((0, 2)), da.ones(0, dtype=int))


@pytest.mark.parametrize("layer", [lambda: nn.BatchNorm1d(3), lambda: nn.Dropout(0.5, rng=0)])
def test_buffers_in_training_are_refused_before_any_work(layer):
    model = nn.Sequential(nn.Linear(2, 3, rng=0), layer(), nn.Linear(3, 1, rng=1))
    with pytest.raises(UnsupportedError, match=r"1 is a (BatchNorm1d|Dropout) in training.*\.eval\(\)"):
        td.Training(model, optim.SGD(model, 0.1), "mean_squared_error", chunks_per_step=1)
    training = td.Training(model.eval(), optim.SGD(model, 0.1), "mean_squared_error", chunks_per_step=2)
    x, y = da.from_array(RNG.normal(size=(8, 2)), chunks=(2, 2)), da.ones((8, 1), chunks=(2, 1))
    assert training.epoch(x, y, rng=0) > training.epoch(x, y, rng=1)
    model.train()
    touched = []

    def touch(block):
        touched.append(len(block))
        return block

    with pytest.raises(UnsupportedError, match="in training"):
        training.epoch(x.map_blocks(touch, meta=np.ones((0, 2))), y)
    assert not touched


def test_a_model_as_a_vector():
    model = nn.Linear(2, 1, rng=0)
    x = RNG.normal(size=(8, 2))
    f = td.value_and_grad(lambda flat, x: np.sum(model.call_with(flat, x) ** 2))
    value, gradient = f(model.flat.data, da.from_array(x, chunks=(2, 2)))
    known, other = tg.value_and_grad(lambda m: np.sum(m(x) ** 2))(model)
    np.testing.assert_allclose(value, known)
    np.testing.assert_allclose(gradient, np.concatenate([other.weight.reshape(-1), other.bias]))


def test_what_was_learnt_before_an_error_stays():
    model = nn.MLP([2, 3, 2], seed=0)
    before = np.array(model.flat.data)
    training = td.Training(model, optim.SGD(model, 0.1), chunks_per_step=1)
    labels = da.from_array(np.array([0, 1, 1, 7]), chunks=2)
    with pytest.raises(ValueError, match="label"):
        for seed in range(8):
            training.epoch(da.ones((4, 2), chunks=(2, 2)), labels, rng=seed)
    assert not np.array_equal(model.flat.data, before) or training.optimizer.steps == 0


def test_training_of_nn_refuses_dask_arrays_and_says_what_takes_them():
    model = nn.Linear(2, 1, rng=0)
    training = nn.Training(model, optim.SGD(model, 0.1), "mean_squared_error")
    with pytest.raises(UnsupportedError, match="tapegrad.dask.Training"):
        training.epoch(da.zeros((4, 2)), np.zeros((4, 1)))


def test_an_optimizer_for_a_part_trains_this_only():
    x, y = da.from_array(RNG.normal(size=(40, 3)), (10, -1)), da.from_array(RNG.integers(0, 2, 40), 10)
    model = nn.MLP([3, 4, 2], "tanh", seed=0)
    before = model.state_dict()
    td.Training(model, optim.SGD(model[2], 0.1), chunks_per_step=2).epoch(x, y, rng=0)
    same = [np.array_equal(before[name], now) for name, now in model.state_dict().items()]
    assert same == [True, True, False, False]
