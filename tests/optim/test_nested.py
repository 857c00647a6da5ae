"""Updates of nestings: what is changed, what is new, and what is refused without a change."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import DTypeError, InPlaceError, ShapeError, StructureError


@dataclass
class Pair:
    left: object
    right: object


def loss(params, x):
    return np.sum(np.tanh(x @ params["w"]) * params["pair"].left) + params["pair"].right ** 2


def nesting():
    return {"w": np.arange(6.0).reshape(3, 2) / 10.0, "pair": Pair(np.array([1.0, -2.0]), 0.5), "none": None}


def test_a_loop_over_nested_arrays_equals_the_flat_one():
    params, x = nesting(), np.ones((4, 3))
    f = tg.value_and_grad(loss)
    nested, flat = optim.Adam(lr=0.1), optim.Adam(lr=0.1)
    p = np.concatenate([params["w"].ravel(), params["pair"].left, [params["pair"].right]])
    before = params["w"].copy()
    for _ in range(10):
        _, g = f(params, x)
        flat.update(p, np.concatenate([g["w"].ravel(), g["pair"].left, [g["pair"].right]]))
        given = params
        params = nested.update(params, g)
        assert params is not given and type(params["pair"]) is Pair and isinstance(params["pair"].right, float)
    found = np.concatenate([params["w"].ravel(), params["pair"].left, [params["pair"].right]])
    np.testing.assert_array_equal(found, p)
    assert not np.shares_memory(params["w"], before) and (nesting()["w"] == before).all()


def test_given_arrays_stay_as_they_were():
    params = [np.ones(2), (np.zeros((1, 2)),)]
    found = optim.SGD(lr=1.0).update(params, [np.ones(2), (np.ones((1, 2)),)])
    assert params[0].tolist() == [1.0, 1.0] and found[0].tolist() == [0.0, 0.0]
    assert found[1][0].tolist() == [[-1.0, -1.0]]
    again = optim.SGD(lr=1.0).update(found, found)
    assert found[0].tolist() == [0.0, 0.0] and again[1][0].tolist() == [[0.0, 0.0]]


def test_a_single_array_is_changed_in_place_and_returned():
    p = np.ones((2, 2))
    assert optim.SGD(lr=1.0).update(p, np.ones((2, 2))) is p and not p.any()


@pytest.mark.parametrize("how", ["module", "flat", "dict"])
def test_a_loop_over_a_module_equals_compiled_training(how):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(24, 3)), rng.normal(size=(24, 1))
    ours, other = (nn.MLP([3, 4, 1], "tanh", seed=1) for _ in range(2))
    optimizer = optim.AdamW(lr=0.01)
    training = nn.Training(other, optim.AdamW(lr=0.01), "mean_squared_error", batch_size=8)

    def error(model, x, y):
        return np.mean((model(x) - y) ** 2)

    by_model = tg.value_and_grad(error)
    by_flat = tg.value_and_grad(lambda flat, x, y: np.mean((ours.call_with(flat, x) - y) ** 2))
    for epoch in range(3):
        training.epoch(x, y, rng=epoch)
        for rows in np.random.default_rng(epoch).permutation(24).reshape(3, 8):
            if how == "flat":
                _, g = by_flat(ours.flat.data, x[rows], y[rows])
                assert optimizer.update(ours, g) is ours
            elif how == "module":
                _, g = by_model(ours, x[rows], y[rows])
                assert optimizer.update(ours, g) is ours
            else:
                _, g = by_model(ours, x[rows], y[rows])
                found = optimizer.update({"net": ours}, {"net": g})
                assert found["net"] is ours
    np.testing.assert_allclose(ours.flat.data, other.flat.data, rtol=1e-11)


def test_values_are_changed_in_place():
    params = {"a": tg.Value(1.0), "b": [tg.Value([1.0, 2.0])]}
    found = optim.SGD(lr=1.0).update(params, {"a": 0.5, "b": [np.array([1.0, 1.0])]})
    assert found["a"] is params["a"] and params["a"].data == 0.5 and params["b"][0].data.tolist() == [0.0, 1.0]
    optimizer = optim.SGD(params, lr=1.0)
    optimizer.zero_grad()
    (params["a"] * 3.0 + params["b"][0].sum()).backward()
    optimizer.step()
    assert params["a"].data == -2.5 and params["b"][0].data.tolist() == [-1.0, 0.0]


def test_a_module_in_a_nesting_beside_other_parameters():
    model, scale = nn.Linear(2, 1, rng=0), 2.0
    f = tg.value_and_grad(lambda p, x: np.sum(p["net"](x)) * p["scale"])
    optimizer = optim.SGD(lr=0.1, groups=[{"params": "net.bias", "lr": 1.0}])
    before = model.state_dict()
    value, g = f({"net": model, "scale": scale}, np.ones((1, 2)))
    found = optimizer.update({"net": model, "scale": scale}, g)
    assert found["net"] is model and found["scale"] == pytest.approx(scale - 0.1 * value / scale)
    np.testing.assert_allclose(model.bias.data, before["bias"] - 2.0)
    np.testing.assert_allclose(model.weight.data, before["weight"] - 0.2)


def test_float32_with_plain_numbers_stays_float32():
    params = {"w": np.ones(2, np.float32), "b": 1.0}
    found = optim.Adam(lr=0.5).update(params, {"w": np.ones(2, np.float32), "b": 1.0})
    assert found["w"].dtype == np.float32 and found["b"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("params", "gradient", "error", "text"),
    [
        ({"w": np.ones(2)}, {"v": np.ones(2)}, StructureError, "nested otherwise"),
        ({"w": np.ones(2)}, [np.ones(2)], StructureError, "nested otherwise"),
        ({"w": np.ones(2)}, {"w": [1.0, 1.0]}, StructureError, "a container stands in the place of a leaf"),
        ({"w": np.ones(2)}, {"w": np.ones(3)}, ShapeError, r"params\['w'\] has shape \(2,\), its gradient \(3,\)"),
        ({"w": np.ones(2)}, {"w": 1.0}, ShapeError, r"its gradient \(\)"),
        ({"w": np.ones(2)}, {"w": None}, StructureError, "nested otherwise"),
        ({"w": np.ones(2)}, {"w": np.ones(2, np.float32)}, DTypeError, "array of float32, the parameters are float64"),
        ({"w": np.ones(2, np.float32)}, {"w": np.ones(2)}, DTypeError, "array of float64, the parameters are float32"),
        ([np.ones(2), np.ones(1, np.float32)], [np.ones(2), np.ones(1, np.float32)], DTypeError,
         r"params\[0\] is float64 and params\[1\] is float32"),
        ({"w": np.ones(2), "n": 3}, {"w": np.ones(2), "n": 1}, DTypeError, r"params\['n'\] is a int"),
        ({"w": np.arange(2)}, {"w": np.arange(2)}, DTypeError, r"params\['w'\] is int64"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(params, gradient, error, text):
    optimizer = optim.Adam(lr=0.1)
    with pytest.raises(error, match=text):
        optimizer.update(params, gradient)
    assert optimizer.steps == 0 and optimizer.state_dict()["state"].size == 0


def test_gradients_of_another_module_are_refused():
    model, other = nn.Linear(2, 1, rng=0), nn.Linear(3, 1, rng=0)
    before, optimizer = np.array(model.flat.data), optim.Adam(lr=0.1)
    g = tg.grad(lambda m: np.sum(m(np.ones((1, 3)))))(other)
    with pytest.raises(StructureError, match=r"has the parameters weight \(3, 1\).*the Linear has weight \(2, 1\)"):
        optimizer.update(model, g)
    with pytest.raises(StructureError, match="is a Linear, its gradient is a Tanh"):
        optimizer.update(model, nn.Tanh())
    with pytest.raises(ShapeError, match=r"has shape \(3,\), its gradient \(2,\)"):
        optimizer.update(model, np.ones(2))
    assert np.array_equal(model.flat.data, before) and optimizer.steps == 0


def test_other_parameters_than_before_are_refused():
    optimizer = optim.Adam(lr=0.1)
    first = optimizer.update({"w": np.ones(3)}, {"w": np.ones(3)})
    with pytest.raises(ShapeError, match="has worked on 3 parameters, 4 were given"):
        optimizer.update({"w": np.ones(4)}, {"w": np.ones(4)})
    with pytest.raises(DTypeError, match="float64 parameters, these are float32"):
        optimizer.update({"w": np.ones(3, np.float32)}, {"w": np.ones(3, np.float32)})
    assert optimizer.steps == 1
    optimizer.update(first, first)
    assert optimizer.steps == 2


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", [optim.Adam, lambda **o: optim.SGD(momentum=0.9, **o), optim.RMSprop, optim.Lion])
def test_moments_of_weights_without_gradient_become_zero_and_not_subnormal(kind, dtype):
    optimizer = kind(lr=1e-3)
    p = np.ones(4, dtype)
    optimizer.update(p, np.full(4, 1e-30, dtype))
    optimizer._state[...] = np.finfo(dtype).smallest_subnormal * 9
    for _ in range(3):
        optimizer.update(p, np.zeros(4, dtype))
    state = optimizer.state_dict()["state"]
    tiny = np.finfo(dtype).tiny
    assert state.size and not ((np.abs(state) < tiny) & (state != 0.0)).any()
    assert np.isfinite(p).all()


def test_results_are_no_parameters():
    leaf = tg.Value([1.0, 2.0])
    result = leaf * 2.0
    optimizer = optim.SGD(lr=1.0)
    with pytest.raises(InPlaceError, match="the result of multiply cannot be assigned"):
        optimizer.update({"a": leaf, "b": result}, {"a": np.ones(2), "b": np.ones(2)})
    assert leaf.data.tolist() == [1.0, 2.0] and optimizer.steps == 0


def test_nothing_to_update():
    assert optim.Adam().update({}, {}) == {}
    assert optim.Adam().update([None, ()], [None, ()]) == [None, ()]


def test_a_pickled_optimizer_goes_on():
    p, gradients = np.ones(3), np.random.default_rng(0).normal(size=(6, 3))
    optimizer = optim.Adam(lr=optim.warmup(2, optim.cosine(0.1, 20)), groups=[{"params": "b", "lr": 0.5}])
    params = {"a": p, "b": p}
    for g in gradients[:3]:
        params = optimizer.update(params, {"a": g, "b": -g})
    copy = pickle.loads(pickle.dumps(optimizer))
    other = params
    for g in gradients[3:]:
        params = optimizer.update(params, {"a": g, "b": -g})
        other = copy.update(other, {"a": g, "b": -g})
    assert np.array_equal(params["a"], other["a"]) and np.array_equal(params["b"], other["b"])
    assert copy.steps == 6


def test_a_model_and_its_optimizer_are_pickled_together():
    model = nn.MLP([2, 3, 1], "tanh", seed=0)
    optimizer = optim.Adam([{"params": model[0], "lr": 0.5}, {"params": model[2]}], 0.1)
    training = nn.Training(model, optimizer, "mean_squared_error", batch_size=8)
    x = np.random.default_rng(0).normal(size=(16, 2))
    training.epoch(x, x[:, :1], rng=0)
    other, copy = pickle.loads(pickle.dumps((model, optimizer)))
    again = nn.Training(other, copy, "mean_squared_error", batch_size=8)
    assert training.epoch(x, x[:, :1], rng=1).loss == again.epoch(x, x[:, :1], rng=1).loss
    assert np.array_equal(model.flat.data, other.flat.data)
