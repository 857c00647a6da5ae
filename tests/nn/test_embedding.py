"""Rows of a table by whole numbers: values, gradients, replays at other numbers, and numbers out of range."""

import copy

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import IndexRangeError, IntegerInputError
from tapegrad.nn.steps import Step

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("padding", [None, 2, -1])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("compile", [True, False])
def test_values_and_gradients_are_those_of_torch(padding, dtype, compile):
    rng = np.random.default_rng(0)
    table = nn.Embedding(7, 3, padding, rng=1, dtype=dtype)
    peer = torch.nn.Embedding(7, 3, padding)
    peer.weight.data = torch.from_numpy(np.array(table.weight.data))
    value_and_grad = tg.value_and_grad(lambda m, i, y: np.sum((m(i) - y) ** 2), compile=compile)
    for kind in (np.int64, np.uint8):
        for _ in range(3):
            index, y = rng.integers(0, 7, (4, 5)).astype(kind), rng.normal(size=(4, 5, 3)).astype(dtype)
            value, gradient = value_and_grad(table, index, y)
            expected = ((peer(torch.tensor(index.astype(int))) - torch.tensor(y)) ** 2).sum()
            peer.zero_grad()
            expected.backward()
            rtol = 1e-12 if dtype == np.float64 else 1e-5
            assert value == pytest.approx(expected.item(), rel=rtol)
            np.testing.assert_allclose(gradient.weight, peer.weight.grad.numpy(), rtol=rtol, atol=rtol)
    assert gradient.weight.dtype == dtype


def test_another_index_is_a_replay():
    table = nn.Embedding(5, 2, rng=0)
    recording = tg.record(lambda m, i: np.sum(m(i) ** 2), table, np.array([0, 1, 2]))
    for i in range(5):
        found = recording.grad(table, np.array([i, i, 0])).weight
        expected = np.zeros((5, 2))
        np.add.at(expected, [i, i, 0], 2.0 * np.array(table.weight.data)[[i, i, 0]])
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert recording.stats().recorded == 1
    gradient = tg.grad(lambda m, i: np.sum(m(i) ** 2))
    # One number alone, as an argument and as it is.
    assert gradient(table, 3).weight[3].tolist() == (2.0 * np.array(table.weight.data)[3]).tolist()
    assert table(3).shape == (2,) and table([[1, 2]]).shape == (1, 2, 2)


@pytest.mark.parametrize("bad", [5, -1, 100])
def test_out_of_range(bad):
    table = nn.Embedding(5, 2, rng=0)
    model = nn.Sequential(table, nn.Linear(2, 1, rng=0))
    good, wrong = np.zeros((2, 3), int), np.zeros((2, 3), int)
    wrong[1, 2] = bad
    gradient = tg.grad(lambda m, i: m(i).sum())
    gradient(model, good)
    message = rf"0 Embedding\(5, 2\): index {bad} at position \(1, 2\) is out of range: there are rows 0 to 4"
    fresh = tg.grad(lambda m: m(wrong).sum())
    for call in (lambda: model(wrong), lambda: gradient(model, wrong), lambda: fresh(model)):
        with pytest.raises(IndexRangeError, match=message):
            call()
    assert np.any(gradient(model, good)[1].weight)
    with pytest.raises(IndexRangeError, match=message):
        Step(model, lambda o, y: np.mean(o), wrong, np.zeros((2, 3, 1)), False)


def test_what_is_no_whole_number_is_refused():
    table = nn.Embedding(5, 2)
    with pytest.raises(IntegerInputError, match="not by an array of float64"):
        table(np.zeros(3))
    with pytest.raises(IntegerInputError, match="Value of floats"):
        tg.grad(lambda m, i: m(i).sum())(table, np.zeros(3))
    for sizes in ((0, 2), (2, 0), (-1, 2)):
        with pytest.raises(ValueError, match=r"Embedding: (num_embeddings|embedding_dim) must be positive"):
            nn.Embedding(*sizes)
    with pytest.raises(ValueError, match="padding_idx must be -5 to 4, not 5"):
        nn.Embedding(5, 2, 5)
    assert repr(nn.Embedding(5, 2, -1)) == "Embedding(5, 2, padding_idx=4)"
    assert not nn.Embedding(5, 2, 3, rng=0).weight.data[3].any()


def test_training_keeps_tokens_whole():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Embedding(6, 3, rng=0), nn.Flatten(), nn.Linear(12, 4, rng=1))
    x, y = rng.integers(0, 6, (10, 4)), rng.integers(0, 4, 10)
    other = copy.deepcopy(model)
    result = nn.Training(other, optim.SGD(other, 0.1), batch_size=5).epoch(x, y, rng=3)
    total, order = 0.0, np.random.default_rng(3).permutation(10)
    for rows in (order[:5], order[5:]):
        loss = tg.cross_entropy(model(x[rows]), y[rows])
        total += 5 * loss.item()
        model.zero_grad()
        loss.backward()
        model.flat.data -= 0.1 * np.array(model.flat.grad)
    assert result.loss == pytest.approx(total / 10, rel=1e-12)
    np.testing.assert_allclose(other.flat.data, model.flat.data, rtol=1e-12, atol=1e-14)


def test_vmap_and_second_order():
    table = nn.Embedding(5, 2, rng=0)
    weights, index = np.array(table.flat.data), np.array([[0, 1], [4, 4], [2, 0]])
    f = lambda w, i: np.sum(np.sin(table.call_with(w, i)))
    found = tg.vmap(f, (None, 0))(weights, index)
    np.testing.assert_allclose(found, [np.sin(weights.reshape(5, 2)[i]).sum() for i in index], rtol=1e-12)
    np.testing.assert_allclose(np.diag(tg.hessian(f)(weights, index[1])).reshape(5, 2)[4], -2 * np.sin(weights[-2:]))


@pytest.mark.parametrize("index", [0, 1, np.int64(1), np.asarray(0)])
def test_a_single_number_and_padding(index):
    table = nn.Embedding(3, 2, padding_idx=0, rng=0)
    recording = tg.record(lambda flat, i: np.sum(table.call_with(flat, i) ** 2), np.ones(6), 2)
    flat = np.arange(1.0, 7.0)
    value, gradient = recording.value_and_grad(flat, index)
    row = int(index)
    assert value == np.sum(flat.reshape(3, 2)[row] ** 2)
    expected = np.zeros((3, 2))
    expected[row] = 2.0 * flat.reshape(3, 2)[row] * (row != 0)
    np.testing.assert_array_equal(gradient, expected.reshape(-1))
    assert len(recording.programs) == 1
