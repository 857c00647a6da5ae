"""Attention, as a function and as a layer, beside PyTorch's."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.errors import DTypeError, ShapeError

torch = pytest.importorskip("torch")
F = torch.nn.functional

TOLERANCE = {np.float64: 1e-10, np.float32: 1e-5}
B, L, S, E, HEADS = 3, 5, 6, 8, 2


def tensor(x):
    return torch.tensor(x) if isinstance(x, np.ndarray) else x


def in_dtype(options, dtype):
    """Options with masks to add in a dtype."""
    return {k: x.astype(dtype) if isinstance(x, np.ndarray) and x.dtype.kind == "f" else x for k, x in options.items()}


def allowed(rng, *shape):
    """Truth values of which the first of each row is true: no query is left without a key."""
    mask = rng.random(shape) > 0.3
    mask[..., 0] = True
    return mask


RNG = np.random.default_rng(0)
OPTIONS = {
    "nothing": {},
    "a mask of truth values": {"attn_mask": allowed(RNG, L, S)},
    "a mask for each head": {"attn_mask": allowed(RNG, B, HEADS, L, S)},
    "a mask to add": {"attn_mask": RNG.normal(size=(L, S))},
    "causal": {"is_causal": True},
    "another scale": {"scale": 0.3},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("compile", [True, False])
def test_the_function_is_that_of_torch(options, dtype, compile):
    rng, tolerance = np.random.default_rng(1), TOLERANCE[dtype]
    given = in_dtype(OPTIONS[options], dtype)
    q, k, v = (rng.normal(size=(B, HEADS, n, E)).astype(dtype) for n in (L, S, S))
    w = rng.normal(size=(B, HEADS, L, E)).astype(dtype)
    f = lambda q, k, v: np.sum(w * tg.scaled_dot_product_attention(q, k, v, **given))
    value_and_grad = tg.value_and_grad(f, argnums=(0, 1, 2), compile=compile)
    value_and_grad(q + 1.0, k, v)
    value, gradients = value_and_grad(q, k, v)
    tensors = [torch.tensor(x, requires_grad=True) for x in (q, k, v)]
    result = F.scaled_dot_product_attention(*tensors, **{k: tensor(x) for k, x in given.items()})
    expected = (torch.tensor(w) * result).sum()
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=tolerance, abs=10 * tolerance)
    for found, t in zip(gradients, tensors):
        np.testing.assert_allclose(found, t.grad.numpy(), rtol=tolerance, atol=tolerance * abs(found).max())
    plain = tg.scaled_dot_product_attention(q, k, v, **given)
    assert type(plain) is np.ndarray and plain.dtype == dtype
    np.testing.assert_allclose(plain, result.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_masks_that_are_arguments_are_replayed_at_other_masks():
    rng = np.random.default_rng(2)
    q, k, v = (rng.normal(size=(n, E)) for n in (L, S, S))
    recording = tg.record(
        lambda q, m, n: np.sum(tg.scaled_dot_product_attention(q, k, v, m) ** 2)
        + np.sum(tg.scaled_dot_product_attention(q, k, v, n) ** 2),
        q, allowed(rng, L, S), rng.normal(size=(L, S)),
    )  # fmt: skip
    for _ in range(3):
        flags, added = allowed(rng, L, S), rng.normal(size=(L, S))
        t = torch.tensor(q, requires_grad=True)
        results = [F.scaled_dot_product_attention(t, tensor(k), tensor(v), tensor(m)) for m in (flags, added)]
        sum((r**2).sum() for r in results).backward()
        np.testing.assert_allclose(recording.grad(q, flags, added), t.grad.numpy(), rtol=1e-10, atol=1e-12)
    assert recording.stats().recorded == 1


def test_second_order_and_batches_of_the_function():
    rng = np.random.default_rng(3)
    q, k, v, d = (rng.normal(size=(4, 3)) for _ in range(4))
    f = lambda q: np.sum(tg.scaled_dot_product_attention(q, k, v, is_causal=True) ** 2)
    g = lambda q: (F.scaled_dot_product_attention(q, tensor(k), tensor(v), is_causal=True) ** 2).sum()
    expected = torch.autograd.functional.hvp(g, tensor(q), tensor(d))[1].numpy()
    np.testing.assert_allclose(tg.hvp(f, (q,), (d,)), expected, rtol=1e-9, atol=1e-12)
    many = rng.normal(size=(20, 4, 3))
    found = tg.vmap(lambda q: tg.scaled_dot_product_attention(q, k, v))(many)
    np.testing.assert_allclose(found, tg.scaled_dot_product_attention(many, k, v), rtol=1e-12)


def test_a_query_without_a_key_is_nan_and_others_are_not():
    mask = np.ones((L, S), bool)
    mask[2] = False
    rng = np.random.default_rng(4)
    q, k, v = (rng.normal(size=(n, E)) for n in (L, S, S))
    result = tg.scaled_dot_product_attention(q, k, v, mask)
    assert np.isnan(result[2]).all() and np.isfinite(np.delete(result, 2, 0)).all()
    rest = tg.grad(lambda k: np.sum(tg.scaled_dot_product_attention(q, k, v, mask)[:2]))(k)
    expected = tg.grad(lambda k: np.sum(tg.scaled_dot_product_attention(q[:2], k, v)))(k)
    np.testing.assert_allclose(rest, expected, rtol=1e-12, atol=1e-15)


def test_bad_input_of_the_function():
    q, k, v = np.zeros((L, E)), np.zeros((S, E)), np.zeros((S, 2))
    assert tg.scaled_dot_product_attention(q, k, v).shape == (L, 2)
    for bad in ((q, k[:, 1:], v), (q, k, v[1:]), (q[0], k, v)):
        with pytest.raises(ShapeError, match=r"queries \(..., L, E\), keys"):
            tg.scaled_dot_product_attention(*bad)
    with pytest.raises(DTypeError, match="truth values, true where"):
        tg.scaled_dot_product_attention(q, k, v, np.ones((L, S), int))
    with pytest.raises(ShapeError, match=r"mask of shape \(2, 5, 6\) does not go"):
        tg.scaled_dot_product_attention(q, k, v, np.zeros((2, L, S)))


@pytest.mark.parametrize("derived", [
    lambda m: np.where(m, True, False), lambda m: np.where(m, np.array(True), False), lambda m: (1 - m) == 0,
    lambda m: ~np.where(m, False, True), lambda m: ~np.where(m, False, ~m), lambda m: np.concatenate([m[:1], m[1:]]),
])  # fmt: skip
def test_a_mask_made_of_a_mask_is_one_in_a_recording_too(derived):
    rng = np.random.default_rng(5)
    q, k, v = (rng.normal(size=(n, E)) for n in (L, S, S))
    f = lambda q, m: np.sum(tg.scaled_dot_product_attention(q, k, v, derived(m)) ** 2)
    layer, x = nn.MultiheadAttention(E, HEADS, rng=0), rng.normal(size=(L, E))
    g = lambda x, m: np.sum(layer.call_with(layer.flat.data, x, x, x, attn_mask=derived(m))[0] ** 2)
    for _ in range(2):
        m = allowed(rng, L, S)
        assert tg.value_and_grad(f)(q, m)[0] == pytest.approx(f(q, m), rel=1e-12)
        m = ~allowed(rng, L, L)
        assert tg.value_and_grad(g)(x, m)[0] == pytest.approx(float(g(x, m)), rel=1e-12)


def test_a_mask_of_whole_numbers_that_is_an_argument_is_refused():
    """They would be added to the scores without a word."""
    q, mask, layer = np.ones((L, E)), np.ones((L, L), int), nn.MultiheadAttention(E, HEADS, rng=0)
    with pytest.raises(DTypeError, match="truth values, true where a query may look"):
        tg.grad(lambda q, m: np.sum(tg.scaled_dot_product_attention(q, q, q, m)))(q, mask)
    with pytest.raises(DTypeError, match="attn_mask is truth values, true where a key is not looked at"):
        tg.grad(lambda layer, m: np.sum(layer(q, q, q, attn_mask=m)[0]))(layer, mask)
    added = tg.grad(lambda q, m: np.sum(tg.scaled_dot_product_attention(q, q, q, (1 - m) * -1e9)))(q, mask)
    assert np.isfinite(added).all()


# The layer


def pair(batch_first, bias=True, dtype=np.float64):
    peer = torch.nn.MultiheadAttention(E, HEADS, bias=bias, batch_first=batch_first)
    peer = peer.to(torch.float64 if dtype == np.float64 else torch.float32)
    module = nn.MultiheadAttention(E, HEADS, bias=bias, batch_first=batch_first, rng=0, dtype=dtype)
    module.load_state_dict({name: p.numpy() for name, p in peer.state_dict().items()})
    return module, peer


PADDING, FORBIDDEN = ~allowed(RNG, B, S), ~allowed(RNG, L, S)
CALLS = {
    "nothing": {},
    "padding": {"key_padding_mask": PADDING},
    "a mask": {"attn_mask": FORBIDDEN},
    "both, each head's weights": {"attn_mask": FORBIDDEN, "key_padding_mask": PADDING, "average_attn_weights": False},
    "a mask to add for each head": {"attn_mask": RNG.normal(size=(B * HEADS, L, S))},
    "no weights": {"need_weights": False},
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_layer_is_that_of_torch(call, batch_first, dtype):
    module, peer = pair(batch_first, bias=call != "padding", dtype=dtype)
    rng, tolerance = np.random.default_rng(5), TOLERANCE[dtype]
    given = in_dtype(CALLS[call], dtype)
    arrays = [
        rng.normal(size=(B, n, E) if batch_first else (n, B, E)).astype(dtype) for n in (L, S, S)
    ]  # fmt: skip

    def loss(m, *arrays):
        output, weights = m(*arrays, **given if m is not peer else {k: tensor(x) for k, x in given.items()})
        assert (weights is None) == (call == "no weights")
        return (output**2).sum() + (0.0 if weights is None else (weights**3).sum())

    value_and_grad = tg.value_and_grad(loss, argnums=(0, 1, 2, 3))
    value_and_grad(module, *[x + 1.0 for x in arrays])
    value, (gradient, *of_arrays) = value_and_grad(module, *arrays)
    tensors = [torch.tensor(x, requires_grad=True) for x in arrays]
    expected = loss(peer, *tensors)
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=tolerance)
    wanted = dict(peer.named_parameters())
    assert [name for name, _ in gradient.named_parameters()] == list(wanted)
    pairs = [(g, wanted[name].grad) for name, g in gradient.named_parameters()]
    for found, t in [*pairs, *zip(of_arrays, [t.grad for t in tensors])]:
        np.testing.assert_allclose(found, t.numpy(), rtol=10 * tolerance, atol=tolerance * max(1.0, abs(found).max()))
    output, weights = module.call_with(np.array(module.flat.data), *arrays, **given)
    assert type(output) is np.ndarray and output.dtype == dtype
    of_torch = peer(*tensors, **{k: tensor(x) for k, x in given.items()})
    for found, t in zip((output, weights), of_torch):
        if t is not None:
            np.testing.assert_allclose(found, t.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch_first", [True, False])
def test_causal_and_without_a_batch(batch_first):
    module, peer = pair(batch_first)
    x = np.random.default_rng(6).normal(size=(B, L, E) if batch_first else (L, B, E))
    forbidden = torch.triu(torch.ones(L, L, dtype=bool), 1)
    found = module(x, x, x, is_causal=True)
    for y, t in zip(found, peer(*[tensor(x)] * 3, attn_mask=forbidden)):
        np.testing.assert_allclose(y.data, t.detach().numpy(), rtol=1e-10, atol=1e-12)
    one = x[0] if batch_first else x[:, 0]
    padding = np.array([False, True, False, False, True])
    found = module(one, one, one, key_padding_mask=padding)
    for y, t in zip(found, peer(*[tensor(one)] * 3, key_padding_mask=tensor(padding))):
        assert y.shape == tuple(t.shape)
        np.testing.assert_allclose(y.data, t.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_bad_input_of_the_layer():
    model = nn.Sequential(nn.MultiheadAttention(E, HEADS, batch_first=True, rng=0))
    layer, x = model[0], np.zeros((B, L, E))
    for bad in ((x, x, x[:, 1:]), (x[..., 1:], x, x), (x, x[1:], x[1:]), (x[0, 0],) * 3):
        with pytest.raises(ShapeError, match=r"MultiheadAttention\(8, 2, batch_first=True\) takes a query of shape"):
            layer(*bad)
    with pytest.raises(ShapeError, match=r"attn_mask of shape \(5, 5\) or \(6, 5, 5\), not \(5, 6\)"):
        layer(x, x, x, attn_mask=np.zeros((L, S), bool))
    with pytest.raises(ShapeError, match=r"key_padding_mask of shape \(3, 5\), not \(5,\)"):
        layer(x, x, x, key_padding_mask=np.zeros(L, bool))
    with pytest.raises(DTypeError, match="attn_mask is truth values"):
        layer(x, x, x, attn_mask=np.zeros((L, L), int))
    with pytest.raises(ValueError, match="multiple of num_heads, not 8 of 3"):
        nn.MultiheadAttention(8, 3)
    with pytest.raises(ValueError, match="dropout"):
        nn.MultiheadAttention(8, 2, -0.5)


def test_dropout_of_the_weights(rng):
    layer = nn.MultiheadAttention(8, 2, 0.5, batch_first=True, rng=0)
    x = rng.normal(size=(3, L, 8))
    output, weights = layer(x, x, x, average_attn_weights=False)
    plain = nn.MultiheadAttention(8, 2, batch_first=True, rng=0)
    expected, full = plain(x, x, x, average_attn_weights=False)
    kept = weights.data != 0.0
    np.testing.assert_allclose(weights.data[kept], 2.0 * full.data[kept], rtol=1e-12)
    assert 0.25 < kept.mean() < 0.75 and not np.allclose(output.data, expected.data)
    assert not np.array_equal(layer(x, x, x, average_attn_weights=False)[1].data != 0.0, kept)
    layer.eval()
    np.testing.assert_allclose(layer(x, x, x)[0].data, expected.data, rtol=1e-12)
    values = [tg.value_and_grad(lambda m, x: np.sum(m(x, x, x)[0] ** 2))(layer.train(), x)[0] for _ in range(3)]
    assert len(set(values)) == 3
