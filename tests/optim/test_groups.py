"""Parameter groups: who is in which, with which options, in `step`, `update` and `Training`."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import DataError, ShapeError, StructureError


def model_of(seed=0):
    return nn.MLP([3, 4, 2], "tanh", seed=seed)


def data():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 40)
    return rng.normal(size=(40, 3)) + y[:, None], y


BIAS = {"params": "*.bias", "weight_decay": 0.0, "lr": 0.5}


@pytest.mark.parametrize("kind", [optim.SGD, optim.Adam, optim.AdamW, optim.RMSprop, optim.Lion])
def test_training_equals_steps(kind):
    x, y = data()
    made = lambda model: kind(model, 0.05, weight_decay=0.1, groups=[BIAS])
    fast, plain = model_of(), model_of()
    training, optimizer = nn.Training(fast, made(fast), batch_size=16), made(plain)
    for epoch in range(3):
        training.epoch(x, y, rng=epoch)
        order = np.random.default_rng(epoch).permutation(40)
        for rows in np.split(order, [16, 32]):
            optimizer.zero_grad()
            tg.cross_entropy(plain(x[rows]), y[rows]).backward()
            optimizer.step()
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-10, atol=1e-13)
    assert training.optimizer.steps == optimizer.steps == 9


def test_groups_with_schedules_of_their_own():
    asked = []
    optimizer = optim.SGD(lr=optim.constant(1.0), groups=[{"params": "a", "lr": lambda i: asked.append(i) or 10.0 * i}])
    params = {"a": 0.0, "b": 0.0}
    for _ in range(3):
        params = optimizer.update(params, {"a": 1.0, "b": 1.0})
    assert params == {"a": -30.0, "b": -3.0} and asked == [0, 1, 2]


def test_the_first_group_counts_and_the_rest_has_the_options_of_the_optimizer():
    optimizer = optim.SGD(lr=1.0, groups=[{"params": ["a.*", "c"], "lr": 2.0}, {"params": "*.x", "lr": 3.0}])
    params = {"a": {"x": 0.0}, "b": {"x": 0.0, "y": 0.0}, "c": 0.0}
    ones = {"a": {"x": 1.0}, "b": {"x": 1.0, "y": 1.0}, "c": 1.0}
    assert optimizer.update(params, ones) == {"a": {"x": -2.0}, "b": {"x": -3.0, "y": -1.0}, "c": -2.0}


@pytest.mark.parametrize("order", [(0, 2), (2, 0)])
def test_parameters_of_no_group_stay(order):
    x, y = data()
    model = model_of()
    model.extra = nn.Linear(1, 1, rng=0)
    groups = [{"params": model[i], "lr": 0.1 * (i + 1)} for i in order]
    optimizer = optim.Adam(groups)
    training = nn.Training(model, optimizer, batch_size=16)
    before = model.state_dict()
    training.epoch(x, y, rng=0)
    after = model.state_dict()
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved == {name for name in before if "extra" not in name}
    # The same state serves `step`, which knows of those in groups only.
    optimizer.zero_grad()
    tg.cross_entropy(model(x), y).backward()
    optimizer.step()
    assert optimizer.steps == 4


def test_a_group_of_parts_far_apart_is_one_state():
    x, y = data()
    fast, plain = model_of(), model_of()
    # Handles are those of the complete model once it was asked for them.
    fast.parameters(), plain.parameters()
    made = lambda model: optim.Adam([{"params": [model[0].weight, model[2].weight]}], 0.05)
    first, second = made(fast), made(plain)
    training = nn.Training(fast, first, batch_size=40)
    for _ in range(2):
        training.epoch(x, y, rng=0)
        for optimizer, model in ((first, fast), (second, plain), (second, plain)):
            # A step by hand between epochs, which have laid the state out otherwise.
            model.zero_grad()
            tg.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert first.steps == second.steps == 4
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-10)
    saved = first.state_dict()
    second.load_state_dict(saved)
    assert all(np.array_equal(saved[name], array) for name, array in second.state_dict().items())


def test_an_optimizer_for_some_parameters_trains_these_only():
    x, y = data()
    model = model_of()
    before = model.state_dict()
    nn.Training(model, optim.SGD(model[2], 0.1), batch_size=16).epoch(x, y, rng=0)
    after = model.state_dict()
    assert [np.array_equal(before[name], after[name]) for name in before] == [True, True, False, False]
    with pytest.raises(StructureError, match="made for other parameters than those of this MLP"):
        nn.Training(model, optim.SGD(model_of(), 0.1), batch_size=16).epoch(x, y)
    values = model.parameters()
    training = nn.Training(model, optim.SGD(values, 0.1), batch_size=16)
    training.epoch(x, y, rng=0)
    assert not np.array_equal(after[next(iter(after))], next(iter(model.state_dict().values())))


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda m: optim.SGD([{"params": m, "learning_rate": 1.0}]), ValueError, "no option 'learning_rate'"),
        (lambda m: optim.SGD([{"params": m, "lr": -1.0}]), ValueError, "learning rate must be"),
        (lambda m: optim.Adam([{"params": m, "betas": (1.0, 0.5)}]), ValueError, "beta1"),
        (lambda m: optim.SGD([{"params": 3.0}]), StructureError, "a module, Values, or patterns of names, not float"),
        (lambda m: optim.SGD([{"params": m}, {"params": m[0]}]), ValueError, "'weight' is in two groups"),
        (lambda m: optim.SGD([{"params": m}], groups=[BIAS]), ValueError, "not both"),
        (lambda m: optim.SGD(m, groups=[{"lr": 1.0}]), ValueError, 'a group is a dict with "params"'),
        (lambda m: optim.SGD(m, groups=[{"params": "nothing*"}]).step(), StructureError, r"called 'nothing\*'; there"),
        (lambda m: optim.SGD(m, groups=[{"params": nn.Linear(1, 1)}]).step(), StructureError, "none of these"),
        (lambda m: optim.LBFGS([{"params": m}]), StructureError, "LBFGS has no groups"),
    ],
)  # fmt: skip
def test_bad_groups(make, error, text):
    with pytest.raises(error, match=text):
        make(model_of())


def test_saved_groups_go_on(tmp_path):
    gradients = np.random.default_rng(0).normal(size=(8, 5))
    made = lambda: optim.Adam(lr=0.1, groups=[{"params": "a", "betas": (0.5, 0.6)}])
    nested = lambda g: {"b": g[:2], "a": g[2:4], "c": g[4:]}
    whole, first, second = made(), made(), made()
    expected = found = nested(np.ones(5))
    for g in gradients:
        expected = whole.update(expected, nested(g))
    for g in gradients[:4]:
        found = first.update(found, nested(g))
    first.save(tmp_path / "state.npz")
    second.load(tmp_path / "state.npz")
    for g in gradients[4:]:
        found = second.update(found, nested(g))
    assert all(np.array_equal(found[name], expected[name]) for name in found) and second.steps == 8


def test_groups_that_do_not_fit_are_not_loaded():
    made = lambda *names: optim.Adam(lr=0.1, groups=[{"params": name} for name in names])
    one, two = made("a"), made("a", "b")
    params = {"a": np.ones(2), "b": np.ones(1), "c": np.ones(1)}
    one.update(params, params), two.update(params, params)
    plain = optim.Adam(lr=0.1)
    before = one.state_dict()
    with pytest.raises(ShapeError, match="constants of shape"):
        one.load_state_dict(two.state_dict())
    with pytest.raises(ShapeError, match="constants of shape"):
        one.load_state_dict(plain.state_dict())
    with pytest.raises(StructureError, match="of one group, this optimiser has 2"):
        one.load_state_dict({name: x for name, x in before.items() if name != "runs"})
    with pytest.raises(DataError, match="lengths and groups"):
        one.load_state_dict(before | {"runs": np.array([[2, -1], [2, 1]])})
    with pytest.raises(DataError, match="have 3 parameters, its state 4"):
        one.load_state_dict(before | {"runs": np.array([[2, 0], [1, 1]])})
    with pytest.raises(StructureError, match="more groups"):
        one.load_state_dict(before | {"runs": np.array([[2, 0], [2, 7]])})
    assert all(np.array_equal(before[name], x) for name, x in one.state_dict().items())
    # The same numbers in other groups than these parameters are in.
    one.load_state_dict(before | {"runs": np.array([[3, 0], [1, 1]])})
    with pytest.raises(StructureError, match="3 of group 0, 1 of group 1, these are 2 of group 0, 2 of group 1"):
        one.update(params, params)


def test_works_without_compiling():
    code = """
import json
import os
import subprocess
import sys

import numpy as np
from tapegrad import nn, optim
x, found = np.linspace(-1, 1, 26)[:, None], []
for kind in (optim.Adam, optim.RMSprop, optim.Adagrad, optim.Adadelta, optim.Lion):
    model = nn.MLP([1, 3, 1], "tanh", seed=0)
    optimizer = kind(model, 0.05, groups=[{"params": "*.bias", "lr": 0.01}])
    training = nn.Training(model, optimizer, "mean_squared_error", batch_size=5, accumulate=2, clip_norm=1.0)
    found += training.fit((x, x), epochs=2, rng=0)["loss"].tolist() + model.flat.data.tolist()
    optimizer, p = kind(lr=0.1, groups=[{"params": "a", "lr": 0.2}]), {"a": np.ones(2), "b": 1.0}
    for _ in range(3):
        p = optimizer.update(p, {"a": np.array([1.0, -2.0]), "b": 0.5})
    found += [*p["a"].tolist(), p["b"]]
print(found)
"""
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": flag}, capture_output=True, text=True
        )
        for flag in ("0", "1")
    ]
    assert not any(r.returncode for r in runs), runs[-1].stderr
    found, expected = (np.array(json.loads(r.stdout)) for r in runs)
    assert len(found) == 5 * (2 + 10 + 3)
    np.testing.assert_allclose(found, expected, rtol=1e-11)
