"""What a module is made of: lists, tuples and dicts in its attributes, containers, and changes that are noticed."""

import collections
import copy
import pickle

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import ShapeError, StructureError


class Mixed(nn.Module):
    """Parameters and modules in lists, tuples and dicts, nested, beside things of other kinds."""

    def __init__(self):
        self.first = [nn.Linear(2, 2, rng=0), nn.Tanh()]
        self.gains = [nn.Parameter(np.array([1.0, 2.0])), {"shift": nn.Parameter(np.array([0.5, 0.0]))}, 3]
        self.heads = {"a": nn.Linear(2, 1, rng=1), "b": (nn.Parameter(np.ones(2)), nn.Linear(2, 1, rng=2))}
        self.scale = nn.Parameter(np.array(2.0))
        self.names = {"kept": [1, 2]}

    def forward(self, x):
        for layer in self.first:
            x = layer(x)
        x = self.gains[0] * x * self.gains[2] + self.gains[1]["shift"]
        own, head = self.heads["b"]
        return self.scale * (self.heads["a"](x) + head(own * x))


NAMES = [
    "scale", "first.0.weight", "first.0.bias", "gains.0", "gains.1.shift", "heads.a.weight", "heads.a.bias",
    "heads.b.0", "heads.b.1.weight", "heads.b.1.bias",
]  # fmt: skip
X = np.random.default_rng(0).normal(size=(3, 2))


def differences(model, x, step=1e-6):
    """The slopes of the sum of what the model gives, in all its parameters."""
    flat, found = np.array(model.flat.data), []
    for i in range(flat.size):
        move = np.zeros_like(flat)
        move[i] = step
        found.append((model.call_with(flat + move, x).sum() - model.call_with(flat - move, x).sum()) / (2 * step))
    return np.array(found)


def test_parameters_in_lists_tuples_and_dicts_are_found_and_trained():
    model = Mixed()
    assert [name for name, _ in model.named_parameters()] == list(model.state_dict()) == NAMES
    assert [name for name, _ in model.named_children()] == ["first.0", "first.1", "heads.a", "heads.b.1"]
    assert [name for name, _ in model.named_modules()] == ["", "first.0", "first.1", "heads.a", "heads.b.1"]
    assert [type(m).__name__ for m in model.modules()] == ["Mixed", "Linear", "Tanh", "Linear", "Linear"]
    model(X).sum().backward()
    np.testing.assert_allclose(model.flat.grad, differences(model, X), rtol=1e-7, atol=1e-8)
    assert np.all(np.array(model.gains[0].grad) != 0.0)
    text = repr(model)
    assert all(f"({name}): " in text for name in ("first.0", "heads.a", "heads.b.1")) and "19 parameters" in text


def test_reading_gives_values():
    model = Mixed()
    assert isinstance(model.gains[0], tg.Value) and isinstance(model.gains[1]["shift"], tg.Value)
    assert isinstance(model.heads["b"][0], tg.Value) and model.gains[2] == 3 and len(model.gains) == 3
    assert [w.shape for w in model.gains[:1]] == [(2,)] and model.names == {"kept": [1, 2]}
    assert list(model.heads) == ["a", "b"] and len(model.gains + model.gains) == 6
    assert "Parameter(shape=(2,)" in repr(model.gains)
    with pytest.raises(StructureError, match=r"\[0\] is a parameter"):
        model.gains[0] = np.ones(2)
    with pytest.raises(StructureError, match=r"\['shift'\] is a parameter"):
        model.gains[1]["shift"] = np.ones(2)


def test_gradients_and_copies_keep_the_structure():
    model = Mixed()
    gradient = tg.grad(lambda m, x: m(x).sum())(model, X)
    assert isinstance(gradient, Mixed) and [n for n, _ in gradient.named_parameters()] == NAMES
    found = np.concatenate([np.ravel(g) for _, g in gradient.named_parameters()])
    np.testing.assert_allclose(found, differences(model, X), rtol=1e-7, atol=1e-8)
    assert isinstance(gradient.gains[0], np.ndarray) and gradient.names is model.names
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert np.array_equal(copied.flat.data, model.flat.data)
        copied.flat.data = np.zeros(copied.flat.size)
        assert not copied(X).data.any() and model(X).data.any()
    other = Mixed()
    other.load_state_dict({name: 2.0 * array for name, array in model.state_dict().items()})
    np.testing.assert_array_equal(other.flat.data, 2.0 * np.array(model.flat.data))


class Named(nn.Module):
    """Containers of other classes."""

    def __init__(self):
        self.pair = collections.namedtuple("Pair", "w b")(nn.Parameter(np.ones(2)), nn.Parameter(np.zeros(2)))
        self.ordered = collections.OrderedDict(c=nn.Parameter(np.array(3.0)))
        self.loop = [nn.Parameter(np.array(2.0))]
        self.loop.append(self.loop)

    def forward(self, x):
        return (self.pair.w * x + self.pair.b) * self.ordered["c"] * self.loop[0]


def test_named_tuples_subclasses_and_a_list_that_holds_itself():
    model = Named()
    assert [n for n, _ in model.named_parameters()] == ["pair.0", "pair.1", "ordered.c", "loop.0"]
    assert model(np.ones(2)).tolist() == [6.0, 6.0]
    gradient = tg.grad(lambda m, x: m(x).sum())(model, np.ones(2))
    assert gradient.pair.w.tolist() == [6.0, 6.0] and gradient.ordered["c"] == 4.0 and gradient.loop[0] == 6.0


# Changes after a model was used


def test_what_is_appended_or_put_in_later_is_noticed():
    model = Mixed()
    model(X)
    before = model.flat.size
    model.gains.append(nn.Parameter(np.zeros(5)))
    assert model.flat.size == before + 5 and "gains.3" in model.state_dict()
    model.heads["c"] = nn.Linear(3, 1)
    assert model.flat.size == before + 9 and "heads.c.weight" in dict(model.named_parameters())
    model.first.append(nn.Linear(2, 2, rng=5))
    assert len(list(model.named_children())) == 6 and model.flat.size == before + 15
    del model.gains[3], model.heads["c"]
    assert model.first.pop() is not None and model.flat.size == before
    model(X).sum().backward()
    np.testing.assert_allclose(model.flat.grad, differences(model, X), rtol=1e-7, atol=1e-8)


class Chain(nn.Module):
    """Layers in a plain list, and options of several kinds."""

    def __init__(self):
        self.layers = [nn.Linear(2, 2, rng=0)]
        self.scale, self.shift, self.table = 1.0, np.zeros(2), {"power": 1}
        self.leak = nn.LeakyReLU(0.5)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.leak(self.scale * x + self.shift) ** self.table["power"]


CHANGES = {
    "a layer without parameters": lambda m: m.layers.append(nn.Tanh()),
    "a layer with parameters": lambda m: m.layers.append(nn.Linear(2, 2, rng=3)),
    "another order": lambda m: m.layers.insert(0, nn.Tanh()),
    "an option": lambda m: setattr(m, "scale", 3.0),
    "an array, in place": lambda m: m.shift.__setitem__(0, 4.0),
    "an element of a dict": lambda m: m.table.update(power=2),
    "an option of a layer": lambda m: setattr(m.leak, "slope", 0.1),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("compile", [True, False])
def test_a_recording_from_before_a_change_is_not_replayed(change, compile):
    model = Chain()
    value_and_grad = tg.value_and_grad(lambda m, x: m(x).sum(), compile=compile)
    first, _ = value_and_grad(model, X)
    CHANGES[change](model)
    value, gradient = value_and_grad(model, X)
    assert value == pytest.approx(model(X).sum().item(), rel=1e-12) and value != pytest.approx(first)
    found = np.concatenate([np.ravel(g) for _, g in gradient.named_parameters()])
    np.testing.assert_allclose(found, differences(model, X), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("change", CHANGES)
def test_training_takes_up_a_change(change):
    model = Chain()
    training = nn.Training(model, optim.SGD(lr=0.1), loss="mse_loss", batch_size=3)
    training.epoch(X, X, rng=0)
    CHANGES[change](model)
    np.testing.assert_allclose(training.predict(X), model(X).data, rtol=1e-12)
    assert training.evaluate(X, X).loss == pytest.approx(np.mean((np.array(model(X).data) - X) ** 2), rel=1e-12)


def test_an_unchanged_model_is_not_recorded_again():
    model = Chain()
    recording = tg.record(lambda m, x: m(x).sum(), model, X)
    for _ in range(3):
        gradient = recording.grad(model, X)
        np.testing.assert_allclose(gradient.layers[0].bias, differences(model, X)[4:], rtol=1e-6, atol=1e-7)
        model.flat.data = np.array(model.flat.data) * 0.9
    assert recording.stats().recorded == 1


# Containers


def test_module_list():
    layers = nn.ModuleList(nn.Linear(2, 2, rng=i) for i in range(3))
    assert len(layers) == 3 and [n for n, _ in layers.named_parameters()][:2] == ["0.weight", "0.bias"]
    assert isinstance(layers[1:], nn.ModuleList) and layers[1:][0] is layers[1] and list(layers)[2] is layers[2]
    layers.insert(0, nn.Tanh())
    layers[1] = nn.ReLU()
    del layers[-1]
    layers.extend([nn.Linear(2, 1, rng=9)]).append(nn.Sigmoid())
    assert [type(m).__name__ for m in layers] == ["Tanh", "ReLU", "Linear", "Linear", "Sigmoid"]
    assert layers.flat.size == 6 + 3
    for call in (lambda: layers.append(3), lambda: nn.ModuleList([np.tanh]), lambda: layers.extend([1])):
        with pytest.raises(TypeError, match="ModuleList takes modules"):
            call()


def test_module_dict():
    heads = nn.ModuleDict({"a": nn.Linear(2, 1, rng=0)})
    heads["b"] = nn.Linear(2, 1, rng=1)
    heads.update([("c", nn.Tanh())])
    assert list(heads) == list(heads.keys()) == ["a", "b", "c"] and "b" in heads and len(heads) == 3
    assert [n for n, _ in heads.named_parameters()] == ["a.weight", "a.bias", "b.weight", "b.bias"]
    del heads["a"]
    assert heads.flat.size == 3 and [name for name, _ in heads.items()] == ["b", "c"] == list(heads.named)
    assert next(iter(heads.values())) is heads["b"]
    with pytest.raises(TypeError, match="strings, not int"):
        heads[1] = nn.Tanh()


def test_sequential_residual_and_flatten():
    block = nn.Residual(nn.Linear(2, 3, rng=0), nn.Tanh(), nn.Linear(3, 2, rng=1))
    y = np.tanh(X @ block[0].weight.data + block[0].bias.data) @ block[2].weight.data + block[2].bias.data
    np.testing.assert_allclose(block(X).data, X + y, rtol=1e-12)
    chain = nn.Sequential(nn.Tanh()).append(nn.Tanh())
    assert len(chain) == len(chain.modules) == 2 and len(list(chain.modules())) == 3
    x = np.arange(24.0).reshape(2, 3, 4)
    assert np.array_equal(nn.Flatten()(x), x.reshape(2, 12)) and nn.Flatten(0, 1)(x).shape == (6, 4)
    assert repr(nn.Flatten(0, 1)) == "Flatten(0, 1)" and repr(nn.Flatten()) == "Flatten()"
    with pytest.raises(ShapeError, match=r"axes 1 to -1, which an array of shape \(3,\)"):
        nn.Flatten()(np.zeros(3))


def test_layers_of_a_chain_are_replaced_and_chains_are_cut():
    model = nn.Sequential(nn.Linear(2, 3, rng=0), nn.ReLU(), nn.Linear(3, 2, rng=1))
    loss = lambda m, x: np.sum(m(x) ** 2)
    f = tg.value_and_grad(loss)
    training = nn.Training(model, optim.SGD(lr=0.0), step=loss, batch_size=3)
    f(model, X)
    training.epoch(X, rng=0)
    body = model[:2]
    assert type(body) is nn.Sequential and body[0] is model[0] and len(body) == 2
    model[1], model[-1] = nn.Tanh(), nn.Linear(3, 4, rng=2)
    hidden = np.tanh(X @ model[0].weight.data + model[0].bias.data)
    expected = np.sum((hidden @ model[2].weight.data + model[2].bias.data) ** 2)
    assert model.flat.size == 25 and f(model, X)[0] == pytest.approx(expected, rel=1e-12)
    assert training.evaluate(X).loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(model[:-1](X).data, hidden, rtol=1e-12)
    # An optimiser of the first part leaves the last as it is.
    before = model.state_dict()
    optimizer = optim.SGD(model[:-1], 0.1)
    optimizer.update(model, f(model, X)[1])
    moved = [name for name, x in model.state_dict().items() if not np.array_equal(x, before[name])]
    assert moved == ["0.weight", "0.bias"]
    del model[2]
    assert len(model) == 2 and f(model, X)[0] == pytest.approx(np.sum(model(X).data ** 2), rel=1e-12)
    with pytest.raises(IndexError):
        model[2] = nn.Tanh()
    with pytest.raises(StructureError, match="Sequential takes modules, not int"):
        model[0] = 3


@pytest.mark.parametrize("name", ["0", "layers.0"])
def test_a_module_put_under_the_name_of_a_place_in_a_list_is_refused(name):
    """The list would keep what it has, and the module would count among the parameters."""
    model = nn.Sequential(nn.Linear(2, 2)) if name == "0" else Chain()
    with pytest.raises(StructureError, match=rf"'{name}' is no attribute: .*replaced there, as by model.blocks\[0\]"):
        setattr(model, name, nn.Linear(2, 2))


def test_messages_say_where_in_the_model():
    class Net(nn.Module):
        def __init__(self):
            self.layers = [nn.Linear(3, 2), nn.Residual(nn.Linear(2, 3))]

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x

    with pytest.raises(ShapeError, match=r"^layers.0 Linear\(3, 2\) takes arrays of shape \(..., 3\), not \(5, 4\)"):
        Net()(np.ones((5, 4)))
    with pytest.raises(ShapeError, match=r"layers.1 Residual\(\) adds .* got shape \(5, 2\) and gave \(5, 3\)"):
        Net()(np.ones((5, 3)))
    with pytest.raises(ShapeError, match=r"layers.0 Linear"):
        tg.grad(lambda m, x: m(x).sum())(Net(), np.ones((5, 4)))


class Block(nn.Module):
    def __init__(self, *layers):
        self.layers = list(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x @ np.ones((7, 7)) if x.shape[-1] == 3 else x


@pytest.mark.parametrize("inside, x, text, place", [
    (nn.BatchNorm1d(4), np.ones((5, 3)), "takes arrays of shape", None),
    (nn.LayerNorm(4), np.ones((5, 3)), "takes arrays of shape", None),
    (nn.GroupNorm(2, 4), np.ones((5, 3)), "takes arrays of shape", None),
    (nn.Conv1d(4, 4, 3), np.ones((5, 3, 6)), "takes arrays of shape", None),
    (nn.BatchNorm1d(4), np.ones((1, 4)), "more than one number a channel", "in body.layers.0 BatchNorm1d(4, eps"),
    (nn.Conv1d(4, 4, 3), np.ones((5, 4, 2)), "longer than x", "in body.layers.0 Conv1d(4, 4, kernel_size=(3,))"),
    (nn.Linear(4, 3), np.ones((5, 4)), "matmul", "in body Block()"),
])  # fmt: skip
def test_errors_of_operations_say_in_which_module(inside, x, text, place):
    class Net(nn.Module):
        def __init__(self):
            self.body = Block(inside)

        def forward(self, x):
            return self.body(x)

    for call in (lambda: Net()(x), lambda: tg.grad(lambda m, x: np.sum(m(x)))(Net(), x)):
        with pytest.raises(ShapeError, match=text) as caught:
            call()
        notes = getattr(caught.value, "__notes__", [])
        if place is None:
            assert str(caught.value).startswith("body.layers.0 ") and not notes
        else:
            assert len(notes) == 1 and notes[0].startswith(place)


# Whole numbers


@pytest.mark.parametrize("x", [[[1.0, 2.0], [3.0, 4.0]], [1.0, 2.0], ((1.0, 2.0), (3.0, 4.0))])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nested_lists_of_numbers_as_arguments_that_are_differentiated(x, dtype):
    model = nn.MLP([2, 3, 1], "tanh", seed=0, dtype=dtype)
    array = np.array(x, dtype)

    def loss(m, x):
        return np.sum(m(x))

    value, gradient = tg.value_and_grad(loss, argnums=(0, 1))(model, x)
    known, other = tg.value_and_grad(loss, argnums=(0, 1))(model, array)
    np.testing.assert_allclose(value, known, rtol=1e-6)
    np.testing.assert_allclose(np.array(gradient[1]), other[1], rtol=1e-6)
    np.testing.assert_allclose(gradient[0].chain[0].weight, other[0].chain[0].weight, rtol=1e-6)
    mixed = [[1, 2.5], [3.5, 4]]
    known_mixed = loss(model, np.array(mixed, dtype)).item()
    np.testing.assert_allclose(tg.value_and_grad(loss)(model, mixed)[0], known_mixed, rtol=1e-6)
    if dtype == np.float64:
        np.testing.assert_allclose(tg.value_and_grad(lambda x: np.sum(model(x)))(x)[0].data, known, rtol=1e-6)


def test_a_ragged_list_of_values_says_so():
    with pytest.raises(ShapeError, match="stack: shapes"):
        tg.grad(lambda m, x: np.sum(m(x)))(nn.Linear(2, 1), [[1.0, 2.0], [3.0]])


def test_whole_numbers_stay_whole_and_layers_convert_them():
    class Seen(nn.Module):
        def __init__(self):
            self.w = nn.Parameter(np.ones(2, np.float32))
            self.kinds = []

        def forward(self, *args, **kwargs):
            self.kinds = [np.asarray(x).dtype for x in (*args, *kwargs.values())]
            return self.w

    seen = Seen()
    seen(np.arange(3), [1, 2], [1.0, 2], 3, 2.0, np.ones(2), np.ones(2, bool), mask=np.ones(3))
    assert [d.char for d in seen.kinds] == ["l", "l", "f", "l", "f", "f", "?", "f"]
    seen((np.ones(2), np.arange(2)))
    layer = nn.Linear(2, 3, rng=0, dtype=np.float32)
    expected = np.array([[1.0, 2.0]], np.float32) @ layer.weight.data
    for x in ([[1, 2]], np.array([[1, 2]]), np.array([[1, 2]], np.uint8), [[1.0, 2]]):
        y = layer(x)
        assert y.dtype == np.float32 and np.array_equal(y.data, expected)
        assert layer.call_with(np.array(layer.flat.data), x).dtype == np.float32
    model = nn.Sequential(nn.Tanh(), layer)
    assert model(np.array([[1, 2]], np.uint8)).dtype == np.float32
    assert model.call_with(np.array(model.flat.data), np.array([[1, 2]], np.uint8)).dtype == np.float32
