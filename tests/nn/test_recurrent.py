"""Recurrent layers and cells beside PyTorch's: values, gradients, derivatives of second order, batches, bad input."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.errors import ShapeError

torch = pytest.importorskip("torch")

T, B, I, H = 5, 3, 4, 6
KINDS = ["RNN", "LSTM", "GRU"]
TOLERANCE = {np.float64: 1e-10, np.float32: 1e-5}


def flat(x):
    """What a layer returns, without its tuples."""
    return [z for y in x for z in flat(y)] if isinstance(x, tuple) else [x]


def pair(name, *sizes, dtype=np.float64, **options):
    """A module and PyTorch's, with the same parameters."""
    peer = getattr(torch.nn, name)(*sizes, **options).to(torch.float64 if dtype == np.float64 else torch.float32)
    module = getattr(nn, name)(*sizes, **options, rng=0, dtype=dtype)
    module.load_state_dict({key: p.numpy() for key, p in peer.state_dict().items()})
    return module, peer


def weighted(results, seed=5):
    """A sum of all results that tells one from another."""
    rng = np.random.default_rng(seed)
    total = 0.0
    for x in flat(results):
        w = rng.normal(size=tuple(x.shape))
        w = torch.tensor(w, dtype=x.dtype) if isinstance(x, torch.Tensor) else w.astype(x.dtype)
        total = total + (w * x * x).sum()
    return total


def compare(module, peer, arrays, call, compile=None):
    """Value and gradients in parameters and arrays."""
    tolerance = TOLERANCE[module.dtype.type]
    numbers = tuple(range(1 + len(arrays)))
    value_and_grad = tg.value_and_grad(lambda m, *a: weighted(call(m, *a)), argnums=numbers, compile=compile)
    value_and_grad(module, *[np.zeros_like(a) for a in arrays])  # replayed at others than it was recorded at
    value, (gradient, *of_arrays) = value_and_grad(module, *arrays)
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    peer.zero_grad()
    expected = weighted(call(peer, *tensors))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=tolerance, abs=tolerance)
    wanted = dict(peer.named_parameters())
    assert [name for name, _ in gradient.named_parameters()] == list(wanted)
    pairs = [(g, wanted[name].grad) for name, g in gradient.named_parameters()]
    for found, tensor in [*pairs, *[(g, t.grad) for g, t in zip(of_arrays, tensors)]]:
        np.testing.assert_allclose(found, tensor.numpy(), rtol=tolerance, atol=tolerance * abs(found).max())
    for found, tensor in zip(flat(call(module, *arrays)), flat(call(peer, *tensors)), strict=True):
        np.testing.assert_allclose(found.data, tensor.detach().numpy(), rtol=tolerance, atol=tolerance)
        assert found.shape == tuple(tensor.shape) and found.dtype == module.dtype


OPTIONS = [
    {}, {"bias": False}, {"num_layers": 2}, {"bidirectional": True}, {"batch_first": True},
    {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_layers_are_those_of_torch(kind, options, dtype):
    rng = np.random.default_rng(1)
    module, peer = pair(kind, I, H, **options, dtype=dtype)
    x = rng.normal(size=(B, T, I) if options.get("batch_first") else (T, B, I)).astype(dtype)
    compare(module, peer, [x], lambda m, x: m(x))
    states = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    given = [rng.normal(size=(states, B, H)).astype(dtype) for _ in range(2 if kind == "LSTM" else 1)]
    compare(module, peer, [x, *given], lambda m, x, *s: m(x, s if kind == "LSTM" else s[0]))
    if not options.get("batch_first"):
        compare(module, peer, [x[:, 0], *[s[:, 0] for s in given]], lambda m, x, *s: m(x, s if len(s) > 1 else s[0]))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compile", [True, False])
def test_compiled_and_interpreted(kind, compile):
    module, peer = pair(kind, I, H)
    compare(module, peer, [np.random.default_rng(1).normal(size=(T, B, I))], lambda m, x: m(x), compile)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_cells_are_those_of_torch(kind, bias, dtype):
    rng = np.random.default_rng(2)
    module, peer = pair(f"{kind}Cell", I, H, bias=bias, dtype=dtype)
    x, *states = (rng.normal(size=(B, n)).astype(dtype) for n in ((I, H, H) if kind == "LSTM" else (I, H)))
    as_given = lambda s: s if kind == "LSTM" else s[0]
    compare(module, peer, [x], lambda m, x: m(x))
    compare(module, peer, [x, *states], lambda m, x, *s: m(x, as_given(s)))
    compare(module, peer, [x[0], *[s[0] for s in states]], lambda m, x, *s: m(x, as_given(s)))


def test_relu_in_place_of_tanh():
    for name, shape in (("RNN", (T, B, I)), ("RNNCell", (B, I))):
        module, peer = pair(name, I, H, nonlinearity="relu")
        compare(module, peer, [np.random.default_rng(3).normal(size=shape)], lambda m, x: m(x))
        assert "nonlinearity='relu'" in repr(module)


@pytest.mark.parametrize("kind", KINDS)
def test_the_cells_make_the_layer(kind):
    layer, cell = getattr(nn, kind)(I, H, rng=0), getattr(nn, f"{kind}Cell")(I, H, rng=0)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in layer.state_dict().items()})
    x, state = np.random.default_rng(4).normal(size=(T, B, I)), None
    outputs = []
    for step in x:
        state = cell(step, state)
        outputs.append(state[0] if kind == "LSTM" else state)
    np.testing.assert_allclose(layer(x)[0].data, np.stack(outputs).data, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_arrays_give_plain_arrays(kind):
    layer = getattr(nn, kind)(I, H, num_layers=2, bidirectional=True, rng=0)
    x = np.random.default_rng(4).normal(size=(T, B, I))
    found = flat(layer.call_with(np.array(layer.flat.data), x))
    assert all(type(y) is np.ndarray for y in found)
    for y, expected in zip(found, flat(layer(x)), strict=True):
        np.testing.assert_allclose(y, expected.data, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", KINDS)
def test_second_order(kind):
    module, peer = pair(f"{kind}Cell", 2, 3)
    x, v = np.random.default_rng(6).normal(size=(2, 2, 2))
    state = np.random.default_rng(7).normal(size=(2, 2, 3))
    as_given = lambda s: (s[0], s[1]) if kind == "LSTM" else s[0]
    f = lambda x: weighted(module.call_with(weights, x, as_given(state)))
    weights = np.array(module.flat.data)
    expected = torch.autograd.functional.hvp(
        lambda x: weighted(peer(x, as_given(torch.tensor(state)))), torch.tensor(x), torch.tensor(v)
    )[1]
    np.testing.assert_allclose(tg.hvp(f, (x,), (v,)), expected.numpy(), rtol=1e-10, atol=1e-12)
    hessian = tg.hessian(f)(x).reshape(4, 4)
    np.testing.assert_allclose(hessian @ v.reshape(4), expected.numpy().reshape(4), rtol=1e-10, atol=1e-12)
    # Gradients of the length of the gradient, in all parameters, against the product with the Hessian.
    g = lambda w: weighted(module.call_with(w, x, as_given(state)))
    found = tg.grad(lambda w: 0.5 * np.sum(tg.grad(g)(w) ** 2))(weights)
    np.testing.assert_allclose(found, tg.hvp(g, (weights,), (tg.grad(g)(weights),)), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_over_a_batch_by_vmap(kind):
    cell = getattr(nn, f"{kind}Cell")(I, H, rng=0)
    rng = np.random.default_rng(8)
    xs, h, c = rng.normal(size=(20, I)), rng.normal(size=(20, H)), rng.normal(size=(20, H))
    weights = np.array(cell.flat.data)
    f = lambda w, x, h, c: flat(cell.call_with(w, x, (h, c) if kind == "LSTM" else h))[-1]
    expected = flat(cell(xs, (h, c) if kind == "LSTM" else h))[-1].data
    np.testing.assert_allclose(tg.vmap(f, (None, 0, 0, 0))(weights, xs, h, c), expected, rtol=1e-12)
    # Weights of each lane's own.
    many = weights * rng.uniform(0.5, 1.5, (20, 1))
    found = tg.vmap(f)(many, xs, h, c)
    np.testing.assert_allclose(found[7], cell.call_with(many[7], xs[7], (h[7], c[7]) if kind == "LSTM" else h[7])[-1]
                               if kind == "LSTM" else f(many[7], xs[7], h[7], c[7]), rtol=1e-12)  # fmt: skip
    slopes = tg.vmap(tg.grad(lambda x, h, c: np.sum(f(weights, x, h, c) ** 2)))(xs, h, c)
    one = tg.grad(lambda x: np.sum(f(weights, x, h[3], c[3]) ** 2))(xs[3])
    np.testing.assert_allclose(slopes[3], one, rtol=1e-11)


def test_large_numbers_neither_overflow_nor_pass_nan():
    cell = nn.LSTMCell(1, 1, rng=0)
    w = np.array(cell.flat.data)
    for x in (-1e5, 1e5):
        value, gradient = tg.value_and_grad(lambda x: sum(np.sum(s) for s in cell.call_with(w, x)))(np.array([[x]]))
        assert np.isfinite(value) and np.isfinite(gradient).all()
    # Nothing is passed to a cell that the loss leaves out, even if it is infinite.
    state = (np.zeros((2, 1)), np.array([[0.5], [np.inf]]))
    gradient = tg.grad(lambda x: np.sum(cell.call_with(w, x, state)[0][0]))(np.ones((2, 1)))
    assert np.isfinite(gradient).all() and gradient[0] != 0.0 and gradient[1] == 0.0


def test_bad_input():
    layer = nn.Sequential(nn.LSTM(I, H, rng=0))
    for shape in ((T, B, I + 1), (I,), (1, T, B, I)):
        with pytest.raises(ShapeError, match=rf"0 LSTM\(4, 6\) takes .* \(time, batch, 4\).* not \({shape[0]}"):
            layer(np.zeros(shape))
    with pytest.raises(ShapeError, match=r"at least one step, this array has shape \(0, 3, 4\)"):
        layer(np.zeros((0, B, I)))
    for state in (np.zeros((1, B, H)), (np.zeros((1, B, H)),), (np.zeros((1, B, H)), np.zeros((2, B, H)))):
        with pytest.raises(ShapeError, match=r"a pair of arrays of shape \(1, 3, 6\) as the state, not"):
            layer[0](np.zeros((T, B, I)), state)
    with pytest.raises(ShapeError, match=r"an array of shape \(1, 3, 6\) as the state, not \(3, 6\)"):
        nn.GRU(I, H)(np.zeros((T, B, I)), np.zeros((B, H)))
    with pytest.raises(ShapeError, match=r"GRUCell\(4, 6\) takes arrays of shape \(batch, 4\) or \(4,\), not \(3, 5\)"):
        nn.GRUCell(I, H)(np.zeros((B, 5)))
    with pytest.raises(ShapeError, match=r"takes states of shape \(3, 6\), not \(3, 5\) and \(3, 6\)"):
        nn.LSTMCell(I, H)(np.zeros((B, I)), (np.zeros((B, 5)), np.zeros((B, H))))
    with pytest.raises(ValueError, match="dropout"):
        nn.GRU(I, H, dropout=1.5)
    pair = (np.zeros((1, 2, 6)),) * 2
    with pytest.raises(ShapeError, match=r"GRU\(4, 6\) takes an array of shape \(1, 2, 6\) as the state, not a tuple"):
        tg.grad(lambda m, x, h: np.sum(m(x, h)[0]))(nn.GRU(4, 6), np.zeros((3, 2, 4)), pair)
    with pytest.raises(ValueError, match="hidden_size must be positive, not 0"):
        nn.RNN(I, 0)
    with pytest.raises(ValueError, match="'tanh' or 'relu', not 'sine'"):
        nn.RNN(I, H, nonlinearity="sine")
    assert repr(nn.LSTM(3, 4, 2, bidirectional=True)) == "LSTM(3, 4, num_layers=2, bidirectional=True)"
    assert repr(nn.GRUCell(3, 4, bias=False)) == "GRUCell(3, 4, bias=False)"


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_dropout_between_layers(kind, rng):
    layers = getattr(nn, kind)(I, H, 3, dropout=0.4, rng=0)
    parts = [getattr(nn, kind)(I if n == 0 else H, H, rng=0) for n in range(3)]
    for n, part in enumerate(parts):
        mine = {name: layers.state_dict()[name.replace("_l0", f"_l{n}")] for name in part.state_dict()}
        part.load_state_dict(mine)
    drop = nn.Dropout(0.4, rng=1)
    drop.state = layers.between.state
    x = rng.normal(size=(T, B, I))

    def apart(x):
        for part in parts[:-1]:
            x = drop(part(x)[0])
        return parts[-1](x)[0]

    outputs = [layers(x)[0].data for _ in range(2)]
    for output in outputs:
        np.testing.assert_allclose(output, apart(x).data, rtol=1e-12)
    assert not np.allclose(*outputs)
    layers.eval()
    drop.eval()
    np.testing.assert_allclose(layers(x)[0].data, apart(x).data, rtol=1e-12)
    assert "Dropout(p=0.4)" in repr(layers)


def test_dropout_between_layers_is_drawn_anew_in_replays(rng):
    layer = nn.GRU(I, H, 2, dropout=0.5, rng=0)
    x = rng.normal(size=(T, B, I))
    slope = tg.value_and_grad(lambda layer, x: np.sum(layer(x)[0] ** 2))
    values = [slope(layer, x)[0] for _ in range(4)]
    assert len(set(values)) == 4
