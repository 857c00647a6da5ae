"""Weight tying: a parameter that is read from a module and assigned elsewhere is that parameter itself."""

import copy
import itertools
import pickle
import sys
import threading

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import ShapeError, StructureError

X = np.random.default_rng(3).normal(size=(4, 3))


class Tied(nn.Module):
    def __init__(self, how):
        self.enc = nn.Linear(3, 3, rng=0)
        self.dec = nn.Linear(3, 3, rng=1)
        self.how = how
        if how == "attribute":
            self.tied = self.enc.weight
        elif how == "parameter's place":
            self.dec.weight = self.enc.weight
        elif how == "list":
            self.some = [self.enc.weight, 1.0]
        elif how == "dict":
            self.some = {"a": (self.enc.weight, 2)}
        elif how == "empty list":
            self.some = []
            self.some.append(self.enc.weight)
        elif how == "tuple in a list":
            self.some = []
            self.some.append((1, self.enc.weight))
        else:
            self.some = [nn.Parameter(np.ones(3))]
            self.some.append(self.enc.weight)

    @property
    def other(self):
        return {
            "attribute": lambda: self.tied,
            "parameter's place": lambda: self.dec.weight,
            "list": lambda: self.some[0],
            "dict": lambda: self.some["a"][0],
            "empty list": lambda: self.some[0],
            "tuple in a list": lambda: self.some[0][1],
            "held list": lambda: self.some[1],
        }[self.how]()

    def forward(self, x):
        return np.tanh(self.enc(x)) @ self.other


HOWS = ["attribute", "parameter's place", "list", "dict", "empty list", "tuple in a list", "held list"]


def loss(m, x):
    return np.sum(m(x) ** 2)


@pytest.mark.parametrize("how", HOWS)
def test_tied_parameters_have_one_gradient_and_stay_tied(how):
    model = Tied(how)
    known = tg.grad(lambda w, b: np.sum((np.tanh(X @ w + b) @ w) ** 2))(np.array(model.enc.weight.data), np.zeros(3))
    value, gradient = tg.value_and_grad(loss)(model, X)
    np.testing.assert_allclose(gradient.enc.weight, known, rtol=1e-12)
    assert sum(p.shape == (3, 3) for p in model.parameters()) == (1 if how == "parameter's place" else 2)
    eager = loss(model, X)
    eager.backward()
    np.testing.assert_allclose(model.enc.weight.grad, known, rtol=1e-12)
    assert np.isclose(eager.item(), value)
    optim.SGD(model, 0.01).step()
    assert model.other is model.enc.weight
    assert np.isclose(tg.value_and_grad(loss)(model, X)[0], loss(model, X).item()) and loss(model, X).item() < value
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.other is other.enc.weight
    other = Tied(how)
    other.load_state_dict(model.state_dict())
    assert np.array_equal(other(X).data, model(X).data)


def test_the_idiom_of_language_models():
    class Model(nn.Module):
        def __init__(self):
            self.e = nn.Embedding(5, 5, rng=0)
            self.out = nn.Linear(5, 5, rng=1)
            self.out.weight = self.e.weight

        def forward(self, idx):
            return self.out(self.e(idx))

    model, idx = Model(), np.array([0, 3, 3])
    assert [name for name, _ in model.named_parameters()] == ["e.weight", "out.bias"]
    gradient = tg.grad(loss)(model, idx)
    known = tg.grad(lambda w: np.sum((w[idx] @ w) ** 2))(np.array(model.e.weight.data))
    np.testing.assert_allclose(gradient.e.weight, known, rtol=1e-12)
    np.testing.assert_allclose(gradient.out.weight, known, rtol=1e-12)
    training = nn.Training(model, optim.Adam(model, 0.01), "cross_entropy", batch_size=3)
    training.epoch(idx, idx, rng=0)
    assert model.out.weight is model.e.weight
    with pytest.raises(ShapeError, match=r"weight is a parameter of shape \(5, 4\).*one of shape \(5, 5\).*forward"):
        nn.Linear(5, 4).weight = model.e.weight


@pytest.mark.parametrize("view", [lambda w: w.T, lambda w: w[0], lambda w: w[1:], lambda w: [1, {"a": w.T}]])
def test_a_view_of_a_parameter_is_refused(view):
    class Model(nn.Module):
        def __init__(self):
            self.enc = nn.Linear(3, 3, rng=0)
            self.t = view(self.enc.weight)

    with pytest.raises(StructureError, match="t would hold a view of a model's parameters.*in forward"):
        Model()


def test_forward_may_keep_its_results():
    class Model(nn.Module):
        def __init__(self):
            self.enc = nn.Linear(3, 3, rng=0)
            self.seen = []

        def forward(self, x):
            self.turned = self.enc.weight.T
            self.last = self.enc(x)
            self.seen.append(self.last)
            return self.last @ self.turned

    model = Model()
    y = model(X)
    np.testing.assert_allclose(model.last.data @ model.turned.data, y.data)
    assert model.seen[0] is model.last
    model.result = y
    assert model.result is y
    assert [name for name, _ in model.named_parameters()] == ["enc.weight", "enc.bias"]


def test_models_that_share_a_layer_are_both_trained():
    base = nn.Linear(2, 2, rng=0)
    models = nn.Sequential(base, nn.Linear(2, 1, rng=1)), nn.Sequential(base, nn.Linear(2, 1, rng=2))
    optimizers = [optim.SGD(m.parameters(), lr=0.05) for m in models]
    x, losses = np.ones((1, 2)), [[], []]
    for _ in range(4):
        for model, optimizer, found in zip(models, optimizers, losses, strict=True):
            optimizer.zero_grad()
            loss = (model(x) ** 2).sum()
            loss.backward()
            optimizer.step()
            found.append(float(loss.data))
    assert all(b < a for found in losses for a, b in itertools.pairwise(found))


def test_a_part_may_be_called_between_a_model_and_its_gradient():
    model = nn.Sequential(nn.Linear(2, 2, rng=0), nn.Tanh())
    model.again = nn.Sequential(nn.Tanh(), model[0])
    y = model(np.ones((1, 2)))
    model.again(np.ones((1, 2)))
    (y**2).sum().backward()
    assert np.any(np.asarray(model.flat.grad) != 0.0)


def test_numbers_for_a_part_are_not_taken_for_what_stands_beside_it():
    """All parameters of a model stand in one vector, those before and behind the part too."""
    whole = nn.Sequential(nn.Linear(2, 1, rng=0), nn.Linear(1, 4, rng=1), nn.Linear(4, 1, rng=2))
    part, n = whole[1], whole.flat.size

    def squares(model):
        return sum(np.sum(p**2) for layer in model for p in (layer.weight, layer.bias))

    def of_part(p):
        with part.bound(p):
            return squares(whole)

    def of_both(q, p):
        with whole.bound(q), part.bound(p):
            return squares(whole)

    own, p, q = np.array(whole.flat.data), np.arange(8.0), np.arange(1.0, n + 1.0)
    others = np.r_[0:3, 11:n]
    assert np.isclose(float(of_part(p).data), np.sum(p**2) + np.sum(own[others] ** 2))
    value, gradient = tg.value_and_grad(of_part)(p)
    assert np.isclose(float(value.data), np.sum(p**2) + np.sum(own[others] ** 2))
    np.testing.assert_array_equal(gradient.data, 2.0 * p)
    assert np.isclose(of_both(q, p), np.sum(p**2) + np.sum(q[others] ** 2))
    _, (gq, gp) = tg.value_and_grad(of_both, argnums=(0, 1))(q, p)
    np.testing.assert_array_equal(gp, 2.0 * p)
    np.testing.assert_array_equal(gq[others], 2.0 * q[others])
    assert not gq[3:11].any()


@pytest.mark.parametrize("recorded", [False, True])
def test_numbers_for_a_part_hold_where_the_whole_is_called_for_the_first_time(recorded):
    whole = nn.Sequential(nn.Linear(2, 1, rng=0), nn.Linear(1, 4, rng=1))
    part, x, p = whole[1], np.ones((1, 2)), np.arange(1.0, 9.0)
    assert part.flat.size == 8

    def of_part(p):
        with part.bound(p):
            return np.sum(whole(x) ** 2)

    found = tg.value_and_grad(of_part)(p)[0] if recorded else of_part(p)
    hidden = x @ whole[0].weight.data + whole[0].bias.data
    expected = np.sum((hidden @ p[:4].reshape(1, 4) + p[4:]) ** 2)
    np.testing.assert_allclose(found.data, expected)
    np.testing.assert_allclose(of_part(p).data, expected)


def test_threads_that_are_the_first_to_call_a_model():
    interval = sys.getswitchinterval()
    p, x, found = np.random.default_rng(0).normal(size=13), np.ones((3, 2)), []
    try:
        sys.setswitchinterval(1e-6)
        for _ in range(20):
            model = nn.Sequential(nn.Linear(2, 3, rng=0), nn.Tanh(), nn.Linear(3, 1, rng=1))
            gradient = tg.grad(lambda p, model=model: np.sum(model.call_with(p, x)))

            def call(gradient=gradient):
                found.append(gradient(p))

            threads = [threading.Thread(target=call) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert len(found) == 80
    for gradient in found:
        np.testing.assert_array_equal(gradient, found[0])
    assert np.all(found[0] != 0.0)


def test_a_part_is_trained_by_a_loss_that_reads_all_of_the_model():
    whole = nn.Sequential(nn.Linear(2, 1, rng=0), nn.Linear(1, 1, rng=1))
    x = np.random.default_rng(0).normal(size=(8, 2))
    own = [np.array(p.data) for p in whole.parameters()]
    training = nn.Training(whole[1], optim.SGD(whole[1], 0.1), step=lambda m, x: np.mean(whole(x) ** 2), batch_size=8)
    training.run(training.samples(x), np.arange(8))
    hidden = x @ own[0] + own[1]
    off = 2.0 * (hidden @ own[2] + own[3]) / 8.0
    expected = own[2] - 0.1 * hidden.T @ off, own[3] - 0.1 * off.sum(0)
    for found, wanted in zip(whole.parameters(), (*own[:2], *expected), strict=True):
        np.testing.assert_allclose(found.data, wanted, rtol=1e-13)
