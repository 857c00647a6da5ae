"""Modules: parameters side by side in one vector, eager training, other vectors in their place, saving."""

import copy
import math
import pickle

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.errors import DataError, DTypeError, ShapeError, StructureError, TapeMismatchError


def naive_mlp(weights, x, activation):
    """The perceptron from plain arrays [(W, b), ...]."""
    for i, (w, b) in enumerate(weights):
        x = x @ w + b
        if i < len(weights) - 1:
            x = activation(x)
    return x


def pairs(model):
    data = [np.array(p.data) for p in model.parameters()]
    return list(zip(data[::2], data[1::2], strict=True))


FUNCTIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "softplus": lambda x: np.log1p(np.exp(x)),
    "identity": lambda x: x,
    "gelu": lambda x: x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2))),
}


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_mlp_computes_what_its_formula_says(activation, dtype):
    model = nn.MLP([3, 5, 4, 2], activation, seed=1, dtype=dtype)
    x = np.random.default_rng(0).normal(size=(6, 3)).astype(dtype).astype(float)
    y = model(x)
    assert y.dtype == dtype and y.shape == (6, 2)
    expected = naive_mlp([(w.astype(float), b.astype(float)) for w, b in pairs(model)], x, FUNCTIONS[activation])
    # Sums of up to five terms, three after each other, may cancel: roundings are relative to the largest result.
    np.testing.assert_allclose(y.data, expected, rtol=0, atol=16 * np.finfo(dtype).eps * np.abs(expected).max())


def test_parameters_are_views_of_one_leaf():
    model = nn.MLP([3, 4, 2])
    flat = model.flat
    assert flat.size == 3 * 4 + 4 + 4 * 2 + 2
    before = len(flat.tape)
    handles = model.parameters()
    assert len(flat.tape) == before  # nothing was recorded for them
    assert all(h.tape is flat.tape for h in handles)
    joined = np.concatenate([np.ravel(h.data) for h in handles])
    assert np.array_equal(joined, flat.data)
    flat.data = np.arange(flat.size, dtype=float)
    assert handles[1].data.tolist() == [12.0, 13.0, 14.0, 15.0]
    handles[-1].data = [7.0, 8.0]
    assert flat.data[-2:].tolist() == [7.0, 8.0]


def test_names_and_labels():
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1, bias=False))
    names = [name for name, _ in model.named_parameters()]
    assert names == ["0.weight", "0.bias", "2.weight"]
    assert [p.label for p in model.parameters()] == names
    assert model[2].weight.shape == (3, 1) and model[2].bias is None


def test_tutorial_loop_lowers_the_loss_and_equals_naive_descent():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 1))
    model = nn.MLP([2, 8, 1], "tanh", seed=3)
    (w1, b1), (w2, b2) = pairs(model)
    losses = []
    for _ in range(5):
        loss = ((model(x) - y) ** 2).mean()
        model.zero_grad()
        loss.backward()
        for p in model.parameters():
            p.data -= 0.1 * p.grad
        losses.append(loss.item())
        # The same by hand.
        h = np.tanh(x @ w1 + b1)
        d = 2 * (h @ w2 + b2 - y) / len(x)
        dh = (d @ w2.T) * (1 - h * h)
        w1, b1 = w1 - 0.1 * x.T @ dh, b1 - 0.1 * dh.sum(0)
        w2, b2 = w2 - 0.1 * h.T @ d, b2 - 0.1 * d.sum(0)
    assert losses[-1] < losses[0]
    for found, expected in zip(model.parameters(), (w1, b1, w2, b2), strict=True):
        np.testing.assert_allclose(found.data, expected, rtol=1e-12, atol=1e-14)


def test_initial_weights():
    w = nn.kaiming(300, 400, rng=0)
    assert w.std() == pytest.approx(np.sqrt(2 / 300), rel=0.01) and abs(w.mean()) < 1e-3
    w = nn.xavier(300, 500, rng=0, dtype=np.float32)
    assert w.dtype == np.float32 and abs(w).max() <= np.float32(np.sqrt(6 / 800))
    assert w.var() == pytest.approx(2 / 800, rel=0.01)
    for activation, init in (("relu", nn.kaiming), ("tanh", nn.xavier)):
        model = nn.MLP([5, 6, 2], activation, seed=4)
        assert np.array_equal(model[0].weight.data, init(5, 6, rng=4)) and not model[0].bias.data.any()
    assert not np.array_equal(nn.MLP([2, 2], seed=0).flat.data, nn.MLP([2, 2], seed=1).flat.data)


class Residual(nn.Module):
    """A module of one's own: a parameter, a list of modules, an option."""

    def __init__(self, n):
        self.gain = nn.Parameter(np.ones(n))
        self.blocks = [nn.Linear(n, n, rng=i) for i in range(2)]
        self.scale = 0.5

    def forward(self, x):
        for block in self.blocks:
            x = x + self.scale * np.tanh(block(x))
        return self.gain * x


def test_a_module_of_ones_own():
    model = Residual(3)
    assert [n for n, _ in model.named_parameters()] == [
        "gain", "blocks.0.weight", "blocks.0.bias", "blocks.1.weight", "blocks.1.bias",
    ]  # fmt: skip
    x = np.random.default_rng(0).normal(size=(4, 3))
    model(x).sum().backward()
    expected = x
    for block in model.blocks:
        expected = expected + 0.5 * np.tanh(expected @ block.weight.data + block.bias.data)
    np.testing.assert_allclose(model.gain.grad, expected.sum(0), rtol=1e-12)
    with pytest.raises(StructureError, match="'gain' is a parameter"):
        model.gain = np.ones(3)
    with pytest.raises(NotImplementedError, match="Module must define forward"):
        nn.Module()([1.0])


def test_modules_shared_in_two_places_count_once():
    shared = nn.Linear(2, 2, rng=0)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    assert [n for n, _ in model.named_parameters()] == ["0.weight", "0.bias"]
    x = np.ones((1, 2))
    model(x).sum().backward()
    eps = 1e-6
    flat = np.array(model.flat.data)
    for i in range(flat.size):
        step = np.zeros_like(flat)
        step[i] = eps
        slope = (model.call_with(flat + step, x).sum() - model.call_with(flat - step, x).sum()) / (2 * eps)
        assert model.flat.grad[i] == pytest.approx(slope, rel=1e-6, abs=1e-8)


def test_a_part_that_was_used_alone_joins_a_larger_module():
    part = nn.Linear(2, 2, rng=0)
    alone = np.array(part([[1.0, 1.0]]).data)
    model = nn.Sequential(part, nn.Linear(2, 1, rng=1))
    assert model.flat.size == 9
    assert np.array_equal(part([[1.0, 1.0]]).data, alone)
    model.flat.data = np.zeros(9)
    assert not part([[1.0, 1.0]]).data.any()  # the same numbers
    assert part.flat.size == 6 and model.flat.size == 9
    model[1].extra = nn.Parameter(np.array([5.0]))
    assert model.flat.size == 10 and model.flat.data[-1] == 5.0


def test_recorded_as_a_function_of_its_parameters():
    model = nn.MLP([3, 4, 2], "tanh", seed=2)
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 3)), rng.integers(0, 2, 5)
    model.zero_grad()
    loss = tg.cross_entropy(model(x), y)
    loss.backward()
    recorded = tg.record(lambda flat, x, y: tg.cross_entropy(model.call_with(flat, x), y), model.flat.data, x, y)
    value, gradient = recorded.value_and_grad(np.array(model.flat.data), x, y)
    assert value == pytest.approx(loss.item(), rel=1e-14)
    np.testing.assert_allclose(gradient, model.flat.grad, rtol=1e-13, atol=1e-15)
    other = rng.normal(size=model.flat.size)
    before = np.array(model.flat.data)
    with model.bound(other):
        expected = model(x)
    assert recorded(other, x, y) == pytest.approx(np.mean(np.log(np.exp(expected).sum(1)) - expected[np.arange(5), y]))
    assert np.array_equal(model.flat.data, before)


def test_call_with_refuses_other_sizes_and_own_parameters_are_refused_in_recordings():
    model = nn.MLP([3, 2])
    with pytest.raises(ShapeError, match=r"vector of 8 numbers, this has shape \(7,\)"):
        model.call_with(np.zeros(7), np.zeros((1, 3)))
    for fresh in (nn.MLP([3, 2]), model):
        with pytest.raises(TapeMismatchError, match=r"(?s)Pass it to the function.*model\.call_with"):
            tg.record(lambda x, m=fresh: m(x).sum(), np.zeros((1, 3)))
    model(np.zeros((1, 3)))  # and nothing is broken by it


def test_gradient_with_the_structure_of_the_model():
    model = nn.MLP([3, 4, 1], "tanh", seed=5)
    x = np.random.default_rng(0).normal(size=(6, 3))
    gradient = tg.grad(lambda m, x: (m(x) ** 2).mean())(model, x)
    assert isinstance(gradient, nn.MLP) and gradient is not model
    model.zero_grad()
    (model(x) ** 2).mean().backward()
    for (name, g), (wanted, p) in zip(gradient.named_parameters(), model.named_parameters(), strict=True):
        assert name == wanted and isinstance(g, np.ndarray)
        np.testing.assert_allclose(g, p.grad, rtol=1e-12, atol=1e-15)
    with pytest.raises(StructureError, match="no flat vector"):
        gradient.flat  # noqa: B018
    model.flat.data = np.zeros(model.flat.size)
    assert not any(g.any() for g in tg.grad(lambda m, x: (m(x) ** 2).mean())(model, x).parameters())


def test_copies_have_numbers_of_their_own():
    model = nn.Sequential(shared := nn.Linear(2, 2, rng=0), nn.Tanh(), shared)
    model(np.ones((1, 2)))
    before = np.array(model.flat.data)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert copied.flat.size == 6 and np.array_equal(copied.flat.data, before)
        copied.flat.data = np.zeros(6)
        assert np.array_equal(model.flat.data, before)


def test_save_and_load(tmp_path):
    model, other = nn.MLP([3, 4, 2], seed=0), nn.MLP([3, 4, 2], seed=1)
    model.save(tmp_path / "model.npz")
    other.load(tmp_path / "model.npz")
    assert np.array_equal(model.flat.data, other.flat.data)
    with np.load(tmp_path / "model.npz", allow_pickle=False) as saved:
        assert saved.files == ["0.weight", "0.bias", "2.weight", "2.bias"] and saved["0.weight"].shape == (3, 4)


def test_loading_what_does_not_fit_changes_nothing(tmp_path):
    model = nn.MLP([3, 4, 2], seed=0)
    before = np.array(model.flat.data)
    state = model.state_dict()
    cases = [
        ({k: v for k, v in state.items() if k != "2.bias"}, StructureError, "missing: '2.bias'"),
        ({**state, "3.gain": np.ones(1)}, StructureError, "unknown: '3.gain'"),
        ({**state, "2.bias": np.ones(3)}, ShapeError, r"'2.bias' has shape \(2,\), the saved one \(3,\)"),
        ({**state, "2.bias": np.ones(2, np.float32)}, DTypeError, "'2.bias' is float64, the saved one float32"),
    ]
    for saved, error, message in cases:
        with pytest.raises(error, match=message):
            model.load_state_dict({name: np.zeros_like(array) for name, array in saved.items()})
    (tmp_path / "text.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"text\.npz"):
        model.load(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.ones(2))
    with pytest.raises(DataError, match="found a single array"):
        model.load(tmp_path / "one.npy")
    assert np.array_equal(model.flat.data, before)


def test_errors_say_what_was_wrong():
    with pytest.raises(ShapeError, match=r"Linear\(3, 2\) takes arrays of shape \(..., 3\), not \(4, 2\)"):
        nn.Linear(3, 2)(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="no activation 'rely'; there are gelu"):
        nn.MLP([2, 2, 2], "rely")
    with pytest.raises(ValueError, match="no init"):
        nn.Linear(2, 2, init="zeros")
    with pytest.raises(ValueError, match="positive sizes"):
        nn.MLP([2])
    with pytest.raises(DTypeError, match="float64 or float32, not int64"):
        nn.Parameter(np.ones(3, np.int64))
    with pytest.raises(DTypeError, match="one dtype"):
        nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=np.float32)).parameters()
    with pytest.raises(TypeError, match="takes modules"):
        nn.Sequential(np.tanh)  # type: ignore[arg-type]


def test_repr():
    assert repr(nn.Linear(3, 2, bias=False)) == "Linear(3, 2, bias=False)"
    assert repr(nn.LeakyReLU(0.2)) == "LeakyReLU(0.2)"
    text = repr(Residual(3))
    assert "(blocks.0): Linear(3, 3)" in text and "27 parameters, float64" in text


def test_training_by_hand_does_not_grow_the_tape():
    model = nn.MLP([2, 8, 1], "tanh")
    x = np.random.default_rng(0).normal(size=(50, 2))
    lengths = []
    for _ in range(400):
        loss = (model(x) ** 2).mean()
        model.zero_grad()
        loss.backward()
        model.flat.data -= 0.01 * model.flat.grad
        lengths.append(len(model.flat.tape.values))
    assert lengths[-1] <= 2 * max(lengths[:200])
