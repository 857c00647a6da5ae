"""What the methods of modules read from around them belongs to what a recording depends on, for modules among the
arguments and for captured ones; so do the options of layers and what stands in containers."""

import dataclasses

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.errors import RecordingWarning

SCALE = 1.0
SETTINGS = {"k": 1.0}


class Held:
    k = 1.0


class Net(nn.Module):
    factor = 1.0

    def __init__(self):
        self.w = nn.Parameter(np.array([1.0, 2.0]))
        self.held = Held()

    def forward(self, x):
        return np.sum(self.w * x) * SCALE * SETTINGS["k"] * self.factor * self.held.k

    def penalty(self):
        return SCALE * np.sum(self.w**2)


@dataclasses.dataclass
class Line:
    a: float

    def at(self, x):
        return self.a * x * SCALE


def change_global(monkeypatch, net):
    monkeypatch.setitem(globals(), "SCALE", 3.0)


def change_dict(monkeypatch, net):
    monkeypatch.setitem(SETTINGS, "k", 3.0)


def change_class(monkeypatch, net):
    monkeypatch.setattr(Net, "factor", 3.0)


def change_held(monkeypatch, net):
    net.held.k = 3.0


NUMBERS = np.array([1.0, 2.0])


def as_an_argument(net):
    f = tg.value_and_grad(lambda m, x: m(x))
    return lambda x: f(net, x)[0]


def in_a_dict(net):
    f = tg.value_and_grad(lambda d, x: d["m"](x))
    return lambda x: f({"m": net}, x)[0]


def in_a_container(net):
    f, model = tg.value_and_grad(lambda m, x: m(x)), nn.Sequential(net)
    return lambda x: f(model, x)[0]


def captured(net):
    f = tg.value_and_grad(lambda x: net.call_with(NUMBERS, x))
    return lambda x: f(x)[0]


def captured_in_a_container(net):
    model = nn.Sequential(net)
    f = tg.value_and_grad(lambda x: model.call_with(NUMBERS, x))
    return lambda x: f(x)[0]


WAYS = [as_an_argument, in_a_dict, in_a_container, captured, captured_in_a_container]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("change", [change_global, change_dict, change_class, change_held])
def test_what_forward_reads_is_followed(way, change, monkeypatch):
    net = Net()
    f = way(net)
    x = np.ones(2)
    before = f(x)
    assert f(x) == before
    change(monkeypatch, net)
    assert f(x) == pytest.approx(3.0 * before, rel=1e-14)


def test_other_methods_and_dataclasses_are_followed(monkeypatch):
    slope = tg.grad(lambda m: m.penalty())
    line = tg.grad(lambda line: line.at(2.0))
    net = Net()
    assert slope(net).w.tolist() == [2.0, 4.0] and line(Line(1.0)).a == 2.0
    monkeypatch.setitem(globals(), "SCALE", 0.5)
    assert slope(net).w.tolist() == [1.0, 2.0] and line(Line(1.0)).a == 1.0


class Noisy(nn.Module):
    def __init__(self):
        self.w = nn.Parameter(np.ones(2))
        self.rng = np.random.default_rng(0)

    def forward(self, x):
        return np.sum(self.w * (x + self.rng.normal(size=2)))


def test_random_numbers_that_forward_draws_are_warned_of():
    with pytest.warns(RecordingWarning, match="draws random numbers"):
        tg.value_and_grad(lambda m, x: m(x))(Noisy(), np.ones(2))


OPTIONS = [
    (lambda: nn.Dropout(0.5, rng=0), "p", 0.0), (lambda: nn.LeakyReLU(0.1), "slope", 0.9),
    (lambda: nn.GroupNorm(2, 4, eps=1e-5), "eps", 1.0), (lambda: nn.AvgPool1d(2), "kernel_size", (4,)),
]  # fmt: skip


@pytest.mark.parametrize(("make", "option", "value"), OPTIONS)
@pytest.mark.parametrize("inside", [lambda m: m, nn.Sequential, lambda m: nn.ModuleList([m])[0], nn.Residual])
def test_options_of_captured_layers_are_followed(make, option, value, inside):
    layer = make()
    model = inside(layer)
    if option == "kernel_size" and isinstance(model, nn.Residual):
        # What is pooled has another shape and cannot be added.
        model = layer
    x = np.linspace(-1.0, 1.0, 16).reshape(1, 4, 4)
    flat = np.array(model.flat.data) if model.parameters() else None
    f = tg.value_and_grad(lambda x: np.sum((model(x) if flat is None else model.call_with(flat, x)) ** 3))
    f(x)
    setattr(layer, option, value)
    np.testing.assert_allclose(f(x)[0], tg.value_and_grad(lambda x: np.sum(
        (model(x) if flat is None else model.call_with(flat, x)) ** 3))(x)[0], rtol=1e-13)  # fmt: skip


def test_layers_that_are_put_into_a_captured_container_are_followed():
    model = nn.Sequential(nn.Linear(1, 1, rng=0))
    p = np.array([1.5, 0.0])
    f = tg.value_and_grad(lambda p: np.sum(model.call_with(p, np.array([[2.0]]))))
    assert f(p)[0] == 3.0
    model.append(nn.Tanh())
    assert f(p)[0] == pytest.approx(np.tanh(3.0), rel=1e-15)


class Tripled(nn.Linear):
    def forward(self, x):
        return 3.0 * super().forward(x)


@pytest.mark.parametrize("way", ["call_with", "bound", "a loss"])
@pytest.mark.parametrize("replaced", ["forward", "class", "forward of a layer inside"])
def test_a_forward_that_is_replaced_is_noticed(way, replaced):
    x, layer = np.ones((2, 3)), nn.Linear(3, 2, rng=0)
    model = nn.Sequential(layer) if "inside" in replaced else layer

    def bound(flat):
        with model.bound(flat):
            return np.sum(model(x))

    f = {
        "call_with": lambda flat: np.sum(model.call_with(flat, x)), "bound": bound,
        "a loss": lambda flat: np.sum(model(x) * flat[0]),
    }[way]  # fmt: skip
    flat, gradient = np.array(model.flat.data) + 1.0, tg.grad(f)

    def numbers():
        # A Value where the model's own parameters are Values from around the function.
        found = gradient(flat)
        return np.array(found.data if isinstance(found, tg.Value) else found)

    before = numbers()
    if replaced == "class":
        layer.__class__ = Tripled
    else:
        plain = layer.forward
        layer.forward = lambda x: 3.0 * plain(x)
    np.testing.assert_allclose(numbers(), 3.0 * before, rtol=1e-12)
