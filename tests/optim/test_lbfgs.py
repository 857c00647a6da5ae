"""L-BFGS on nestings and modules: minima, state, and errors."""

import contextlib

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import NonScalarError, ShapeError, StructureError

FAST = {"lr": 1.0, "line_search_fn": "strong_wolfe", "max_iter": 50}


def bowl(p):
    return np.sum((p["a"] - 3.0) ** 2) + 5.0 * (p["b"] + 1.0) ** 4


def test_a_minimum_of_nested_numbers():
    start = {"a": np.zeros((2, 2)), "b": 1.0}
    found = optim.LBFGS(**FAST, tolerance_grad=1e-10, tolerance_change=1e-14).update(start, tg.value_and_grad(bowl))
    np.testing.assert_allclose(found["a"], 3.0, atol=1e-6)
    assert found["b"] == pytest.approx(-1.0, abs=1e-2) and isinstance(found["b"], float) and not start["a"].any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_model_is_changed_in_place(dtype):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3)).astype(dtype)
    y = (x @ np.array([[1.0], [-2.0], [0.5]], dtype)) + dtype(0.25)
    model = nn.Linear(3, 1, rng=0, dtype=dtype)
    optimizer = optim.LBFGS(**FAST)
    f = tg.value_and_grad(lambda m: np.mean((m(x) - y) ** 2))
    assert optimizer.update(model, f) is model and model.flat.dtype == dtype
    np.testing.assert_allclose(model.flat.data, [1.0, -2.0, 0.5, 0.25], atol=1e-4)


def test_a_closure_and_its_loss():
    model, x = nn.Linear(2, 1, rng=0), np.random.default_rng(0).normal(size=(20, 2))
    optimizer = optim.LBFGS(model, **FAST)

    def closure():
        optimizer.zero_grad()
        loss = ((model(x) - x[:, :1]) ** 2).mean()
        loss.backward()
        return loss

    first, last = optimizer.step(closure), optimizer.step(closure)
    assert float(last.data) < 1e-10 < float(first.data)


def test_an_interrupted_step_keeps_the_last_whole_iteration():
    """Not a point that the line search has only tried, where the loss may be worse."""

    def after(evaluations):
        model, losses = nn.Linear(1, 1, bias=False, rng=0), []
        model.weight.data = np.array([[4.0]])
        optimizer = optim.LBFGS(model, lr=8.0, line_search_fn="strong_wolfe")

        def closure():
            if len(losses) == evaluations:
                raise KeyboardInterrupt
            optimizer.zero_grad()
            w = model.weight[0, 0]
            loss = (w - 1.0) ** 4 + 0.1 * w**2
            loss.backward()
            losses.append(loss.item())
            return loss

        with contextlib.suppress(KeyboardInterrupt):
            optimizer.step(closure)
        w = model.weight.data[0, 0]
        found = (w - 1.0) ** 4 + 0.1 * w**2
        evaluations = 1000
        optimizer.step(closure)
        return found, losses, model.weight.data[0, 0]

    kept = [after(n) for n in range(1, 12)]
    values = [value for value, _, _ in kept]
    assert values == sorted(values, reverse=True) and len(set(values)) > 3
    assert kept[-1][1] != sorted(kept[-1][1], reverse=True), "no point that was tried was worse: this shows nothing"
    np.testing.assert_allclose([w for _, _, w in kept], kept[0][2], atol=1e-4)


def test_a_saved_one_goes_on(tmp_path):
    f, p = tg.value_and_grad(bowl), {"a": np.zeros(2), "b": 1.0}
    whole, first, second = (optim.LBFGS(lr=0.05, max_iter=3) for _ in range(3))
    expected = whole.update(whole.update(p, f), f)
    p = first.update(p, f)
    first.save(tmp_path / "lbfgs.npz")
    second.load(tmp_path / "lbfgs.npz")
    p = second.update(p, f)
    assert np.array_equal(p["a"], expected["a"]) and p["b"] == expected["b"] and second.steps == whole.steps
    with pytest.raises(ShapeError, match="has worked on 3 parameters, 2 were given"):
        second.update(np.ones(2), tg.value_and_grad(lambda p: np.sum(p)))
    with pytest.raises(StructureError, match="a saved LBFGS has the entries"):
        second.load_state_dict(optim.Adam().state_dict())
    with pytest.raises(ShapeError):
        optim.LBFGS(nn.Linear(1, 1)).load_state_dict(first.state_dict())


def test_errors():
    with pytest.raises(StructureError, match=r"step\(closure\)"):
        optim.LBFGS(tg.Value(1.0)).step()
    with pytest.raises(StructureError, match=r"update\(params, value_and_grad\)"):
        optim.LBFGS().update(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match="line_search_fn"):
        optim.LBFGS(line_search_fn="armijo")
    with pytest.raises(ValueError, match="max_iter"):
        optim.LBFGS(max_iter=0)
    with pytest.raises(NonScalarError):
        optim.LBFGS().update(np.ones(2), lambda p: (p, p))
    with pytest.raises(StructureError, match="does not work batch by batch"):
        nn.Training(nn.Linear(1, 1), optim.LBFGS())


def test_nan_does_not_go_on_for_ever():
    found = optim.LBFGS(**FAST).update(np.ones(2), lambda p: (np.nan, np.full(2, np.nan)))
    assert np.isnan(found).all()
