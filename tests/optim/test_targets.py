"""Which parameters an optimiser changes, and that what it remembers is never given to others."""

import copy
import pickle

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import ShapeError, StructureError


def model_of(seed=0):
    return nn.MLP([3, 4, 2], "tanh", seed=seed)


def ones(model):
    return np.ones(model.flat.size)


def moved(model, before):
    return [name for name, now in model.state_dict().items() if not np.array_equal(now, before[name])]


MAKE = {
    "module": lambda m: optim.Adam(m[2], 0.1),
    "values": lambda m: optim.Adam([m[2].weight, m[2].bias], 0.1),
    "flat": lambda m: optim.Adam(m[2].flat, 0.1),
    "groups": lambda m: optim.Adam([{"params": m[2]}], 0.1),
    "patterns": lambda m: optim.Adam(m[2], 0.1, groups=[{"params": "*bias", "lr": 0.1}]),
}


@pytest.mark.parametrize("how", MAKE)
def test_update_changes_only_what_the_optimizer_was_made_with(how):
    m, other = model_of(), model_of()
    m.parameters()
    names = list(m.state_dict())
    before, optimizer, part = m.state_dict(), MAKE[how](m), optim.Adam(lr=0.1)
    gradients = np.random.default_rng(0).normal(size=(3, m.flat.size))
    for g in gradients:
        assert optimizer.update(m, g) is m
        part.update(other[2], g[-other[2].flat.size :])
    assert moved(m, before) == names[2:]
    assert np.array_equal(m.flat.data, other.flat.data)


@pytest.mark.parametrize("how", MAKE)
def test_update_step_and_training_go_on_with_one_state(how):
    x, y = np.ones((1, 3)), np.zeros(1, int)
    m, other = model_of(), model_of()
    m.parameters(), other.parameters()
    optimizer, expected = MAKE[how](m), optim.Adam(other[2], 0.1)
    gradient = tg.grad(lambda model: tg.cross_entropy(model(x), y))
    for way in ("update", "step", "training", "update", "training"):
        if way == "update":
            optimizer.update(m, gradient(m))
        elif way == "step":
            m.zero_grad()
            tg.cross_entropy(m(x), y).backward()
            optimizer.step()
        else:
            nn.Training(m, optimizer).epoch(x, y)
        expected.update(other[2], gradient(other)[2])
    np.testing.assert_allclose(m.flat.data, other.flat.data, rtol=1e-12)
    assert optimizer.steps == 5


def test_two_parts_with_another_between_are_both_changed():
    m = nn.MLP([2, 3, 3, 1], "tanh", seed=0)
    m.parameters()
    names, before = list(m.state_dict()), m.state_dict()
    optim.SGD([m[0], m[4]], 0.1).update(m, ones(m))
    assert moved(m, before) == names[:2] + names[4:]
    assert np.allclose(m[4].bias.data, before[names[5]] - 0.1)


@pytest.mark.parametrize("make", [lambda m: optim.SGD(m, 0.1), lambda m: optim.Adam([{"params": m}], 0.1)])
def test_none_of_the_parameters_is_an_error(make):
    a, b = model_of(), model_of(1)
    optimizer, before = make(a), b.flat.data.copy()
    for params in (b, {"net": b}, b[2], b.flat, [np.ones(3)], np.ones(3)):
        g = ones(b) if params is b or params is b.flat else None
        if isinstance(params, dict):
            g = {"net": ones(b)}
        elif params is b[2]:
            g = ones(b[2])
        elif g is None:
            g = params
        with pytest.raises(StructureError, match="made for other parameters|none of these"):
            optimizer.update(params, g)
    assert optimizer.steps == 0 and np.array_equal(b.flat.data, before)
    optimizer.update(a, ones(a))


def test_flat_and_module_are_the_same_parameters():
    for made_with, given in ((0, 1), (1, 0)):
        m, plain = model_of(), model_of()
        optimizer, expected = optim.Adam((m, m.flat)[made_with], 0.1), optim.Adam(lr=0.1)
        for target in (given, made_with, given):
            optimizer.update((m, m.flat)[target], ones(m))
            expected.update(plain, ones(plain))
        assert np.array_equal(m.flat.data, plain.flat.data)


def test_a_vector_of_all_parameters_is_taken_for_them():
    m, plain = model_of(), model_of()
    optimizer, expected, p = optim.Adam(m, 0.1), optim.Adam(lr=0.1), m.flat.data.copy()
    for _ in range(2):
        optimizer.update(p, ones(m))
        expected.update(plain, ones(m))
    assert np.array_equal(p, plain.flat.data)
    with pytest.raises(StructureError, match="made for other parameters"):
        optim.Adam(m[2], 0.1).update(p, ones(m))


def test_lbfgs_changes_only_what_it_was_made_with():
    m = model_of()
    m.parameters()
    before, names = m.state_dict(), list(m.state_dict())
    f = tg.value_and_grad(lambda m: np.sum(m(np.ones((1, 3))) ** 2))
    optimizer = optim.LBFGS(m[2], max_iter=20, line_search_fn="strong_wolfe")
    optimizer.update(m, f)
    assert moved(m, before) == names[2:] and f(m)[0] < 1e-6
    with pytest.raises(StructureError, match="made for other parameters"):
        optimizer.update(model_of(1), f)


def test_two_parts_in_turn_are_refused():
    a, b = model_of(), model_of(1)
    optimizer = optim.Adam([a, b], 0.1)
    optimizer.update(a, ones(a))
    for other in (b, [b, a]):
        with pytest.raises((StructureError, ShapeError), match="worked on"):
            optimizer.update(other, ones(b) if other is b else [ones(b), ones(a)])
    # Nothing is remembered by this one, so nothing is mixed.
    plain = optim.SGD([a, b], 0.1)
    plain.update(a, ones(a)), plain.update(b, ones(b))


@pytest.mark.parametrize("make", [lambda: optim.Adam(lr=0.1), lambda: optim.SGD(lr=0.1, momentum=0.9)])
def test_two_modules_in_turn_are_refused(make):
    a, b = model_of(), model_of(1)
    optimizer, before = make(), b.flat.data.copy()
    optimizer.update(a, ones(a))
    state = optimizer.state_dict()
    numbers = np.ones(26)
    for given, g in ((b, ones(b)), ({"b": b}, {"b": ones(b)}), ([a, b], [ones(a), ones(b)]), (numbers, numbers)):
        with pytest.raises(StructureError, match="make an optimiser for each"):
            optimizer.update(given, g)
    x = np.zeros((4, 3))
    with pytest.raises(StructureError, match="another module than this MLP"):
        nn.Training(b, optimizer).epoch(x, np.zeros(4, int))
    assert np.array_equal(b.flat.data, before)
    assert all(np.array_equal(state[name], x) for name, x in optimizer.state_dict().items())
    optimizer.update(a, ones(a))
    optimizer.update({"net": a}, {"net": ones(a)})
    assert optimizer.steps == 3


def test_two_trainings_of_one_optimizer_are_refused():
    a, b, optimizer = model_of(), model_of(1), optim.Adam(lr=0.1)
    x, y = np.ones((4, 3)), np.zeros(4, int)
    nn.Training(a, optimizer).epoch(x, y)
    with pytest.raises(StructureError, match="another module than this MLP"):
        nn.Training(b, optimizer).epoch(x, y)
    nn.Training(a, optimizer).epoch(x, y)


def test_other_names_and_shapes_are_refused():
    optimizer = optim.Adam(lr=0.1)
    first = optimizer.update({"a": np.ones(2), "b": np.ones(3)}, {"a": np.ones(2), "b": np.ones(3)})
    for p in ({"c": np.ones(2), "d": np.ones(3)}, {"a": np.ones(3), "b": np.ones(2)}, [np.ones(2), np.ones(3)],
              {"b": np.ones(3), "a": np.ones(2)}):  # fmt: skip
        with pytest.raises(StructureError, match="nested otherwise, or had other names, shapes or order"):
            optimizer.update(p, p)
    optimizer.update(first, {"b": np.ones(3), "a": np.ones(2)})
    assert optimizer.steps == 2
    # Nothing is remembered by this one.
    plain = optim.SGD(lr=0.1)
    plain.update({"a": 1.0}, {"a": 1.0}), plain.update({"b": 1.0}, {"b": 1.0})


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_go_on(given, copied):
    m = model_of()
    optimizer = optim.Adam(m[2] if given else None, 0.1)
    optimizer.update(m, ones(m))
    m2, optimizer2 = copied((m, optimizer))
    for _ in range(2):
        optimizer.update(m, ones(m)), optimizer2.update(m2, ones(m2))
    assert np.array_equal(m.flat.data, m2.flat.data) and optimizer2.steps == 3
    with pytest.raises(StructureError):
        optimizer2.update(m, ones(m))


def test_a_part_that_is_moved_into_a_larger_model_goes_on():
    part = nn.Linear(2, 2, rng=0)
    optimizer = optim.Adam(part, 0.1)
    optimizer.update(part, ones(part))
    whole = nn.Sequential(nn.Linear(2, 2, rng=1), part)
    before = whole.state_dict()
    optimizer.update(whole, ones(whole))
    optimizer.update(part, ones(part))
    assert len(moved(whole, before)) == 2 and optimizer.steps == 3
