"""Modules of convolutions and pooling against PyTorch's, and a network of them in training."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import OperationError, ShapeError

SPACE = {1: (9,), 2: (9, 8), 3: (6, 5, 7)}


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Conv", {}),
        ("Conv", {"stride": 2, "padding": 1, "dilation": 2, "groups": 2, "bias": False}),
        ("Conv", {"padding": "same"}),
        ("ConvTranspose", {}),
        ("ConvTranspose", {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}),
    ],
)
def test_convolutions_as_pytorch(kind, options, axes, dtype):
    torch = pytest.importorskip("torch")
    ours = getattr(nn, f"{kind}{axes}d")(4, 6, 3, **options, rng=0, dtype=dtype)
    theirs = getattr(torch.nn, f"{kind}{axes}d")(4, 6, 3, **options, dtype=getattr(torch, np.dtype(dtype).name))
    with torch.no_grad():
        for name, numbers in ours.state_dict().items():
            assert tuple(getattr(theirs, name).shape) == numbers.shape
            getattr(theirs, name).copy_(torch.tensor(numbers))
    x = np.random.default_rng(0).normal(size=(2, 4, *SPACE[axes])).astype(dtype)
    expected = theirs(torch.tensor(x))
    found = ours(x)
    close = 1e-12 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=close)
    np.sum(found**2).backward()
    (expected**2).sum().backward()
    for name, p in ours.named_parameters():
        slope = getattr(theirs, name).grad.numpy()
        np.testing.assert_allclose(p.grad, slope, atol=30 * close * np.abs(slope).max())
    assert ours(x[0]).shape == found.shape[1:]


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pooling_as_pytorch(axes):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 4, *SPACE[axes]))
    for kind, options in (
        ("MaxPool", {}), ("MaxPool", {"stride": 1, "padding": 1, "dilation": 2}), ("MaxPool", {"ceil_mode": True}),
        ("AvgPool", {}), ("AvgPool", {"stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False}),
    ):  # fmt: skip
        ours = getattr(nn, f"{kind}{axes}d")(3, **options)
        expected = getattr(torch.nn, f"{kind}{axes}d")(3, **options)(torch.tensor(x)).numpy()
        np.testing.assert_allclose(ours(x), expected, atol=1e-12)
        np.testing.assert_allclose(ours(tg.Value(x)).numpy(), expected, atol=1e-12)


def test_initial_numbers():
    layer = nn.Conv2d(6, 30, (3, 5), groups=2, rng=0)
    limit = 1 / np.sqrt(3 * 3 * 5)
    for p in (layer.weight, layer.bias):
        assert np.abs(p.data).max() < limit and abs(p.data.std() / (limit / np.sqrt(3)) - 1) < 0.3
    assert np.abs(layer.weight.data).max() > 0.98 * limit
    np.testing.assert_array_equal(nn.Conv2d(6, 30, (3, 5), groups=2, rng=0).flat.data, layer.flat.data)
    limit = 1 / np.sqrt(30 * 3)  # as PyTorch has it: of the second axis of the weight
    weight = nn.ConvTranspose1d(6, 30, 3, rng=0).weight.data
    assert 0.98 * limit < np.abs(weight).max() < limit
    assert nn.Conv1d(1, 1, 1, dtype=np.float32).dtype == np.float32


def test_how_they_look():
    assert repr(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False)) == (
        "Conv2d(1, 8, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False)"
    )
    assert repr(nn.ConvTranspose1d(2, 4, 3, 2, output_padding=1, groups=2)) == (
        "ConvTranspose1d(2, 4, kernel_size=(3,), stride=(2,), output_padding=(1,), groups=2)"
    )
    assert repr(nn.AvgPool1d(2, count_include_pad=False)) == "AvgPool1d(kernel_size=(2,), count_include_pad=False)"


@pytest.mark.parametrize(
    ("call", "error", "parts"),
    [
        (lambda: nn.Conv2d(3, 4, 3)(np.ones((2, 1, 8, 8))), ShapeError, ["(batch, 3, height, width)", "(2, 1, 8, 8)"]),
        (lambda: nn.Conv1d(3, 4, 3)(np.ones(8)), ShapeError, ["(batch, 3, length)", "(8,)"]),
        (lambda: nn.Conv2d(3, 4, 3, groups=2), OperationError, ["groups=2"]),
        (lambda: nn.Conv2d(3, 0, 3), OperationError, ["positive"]),
        (lambda: nn.Conv2d(3, 4, (3, 3, 3)), OperationError, ["kernel_size", "2 numbers"]),
        (lambda: nn.Conv2d(3, 4, 3, padding_mode="reflect"), OperationError, ["'zeros'", "'reflect'"]),
        (lambda: nn.ConvTranspose2d(3, 4, 3, stride="2"), OperationError, ["stride"]),
        (lambda: nn.MaxPool2d(2, return_indices=True), OperationError, ["return_indices"]),
        (lambda: nn.MaxPool2d(9)(np.ones((1, 3, 8, 8))), ShapeError, ["(9, 9)", "(1, 3, 8, 8)"]),
    ],
)
def test_bad_input(call, error, parts):
    with pytest.raises(error) as raised:
        call()
    assert all(part in str(raised.value) for part in parts), str(raised.value)


class Net(nn.Module):
    def __init__(self, rng=0, dtype=np.float64):
        rng = np.random.default_rng(rng)
        self.first = nn.Conv2d(1, 3, 3, padding=1, rng=rng, dtype=dtype)
        self.pool = nn.MaxPool2d(2)
        self.last = nn.Linear(3 * 4 * 4, 2, rng=rng, dtype=dtype)

    def forward(self, x):
        x = self.pool(tg.relu(self.first(x.reshape(-1, 1, 8, 8))))
        return self.last(x.reshape(len(x), -1))


def stripes(n, rng=0):
    """Pictures of waves that lie or stand, with noise, and which it is."""
    rng = np.random.default_rng(rng)
    labels, phase = rng.integers(0, 2, n), rng.uniform(0, 6, (n, 1))
    wave = np.sin(1.5 * np.arange(8) + phase)
    pictures = np.where(labels[:, None, None] == 1, wave[:, :, None], wave[:, None, :])
    return (pictures + 0.3 * rng.normal(size=(n, 8, 8))).reshape(n, 64), labels


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_training_learns(dtype):
    x, y = stripes(300)
    model = Net(dtype=dtype)
    training = nn.Training(model, optim.Adam(model, 0.01), batch_size=32)
    for epoch in range(12):
        training.epoch(x.astype(dtype), y, rng=epoch)
    assert training.evaluate(*stripes(200, rng=1)).accuracy > 0.97


def test_an_epoch_is_its_steps():
    x, y = stripes(40)
    model, plain = Net(), Net()
    training = nn.Training(model, optim.SGD(lr=0.1), batch_size=16)
    training.epoch(x, y, rng=3)
    order = np.random.default_rng(3).permutation(40)
    for start in range(0, 40, 16):
        rows = order[start : start + 16]
        loss = lambda flat, x, y: tg.cross_entropy(plain.call_with(flat, x), y)
        slope = tg.grad(loss)(plain.flat.data, x[rows], y[rows])
        plain.flat.data = plain.flat.data - 0.1 * slope
    np.testing.assert_allclose(model.flat.data, plain.flat.data, rtol=1e-9, atol=1e-12)


def test_modules_are_pytrees_and_are_saved(tmp_path):
    x, y = stripes(10)
    model = Net()
    loss = lambda model: tg.cross_entropy(model(x), y)
    gradient = tg.grad(loss)(model)
    h = 1e-6
    other = Net()
    kernel = np.zeros_like(model.first.weight.data)
    kernel[1, 0, 2, 1] = h
    losses = []
    for sign in (1, -1):
        other.first.weight.data = model.first.weight.data + sign * kernel
        losses.append(loss(other).item())
    assert gradient.first.weight[1, 0, 2, 1] == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-5)
    model.save(tmp_path / "net.npz")
    again = Net(rng=5)
    again.load(tmp_path / "net.npz")
    np.testing.assert_array_equal(again(x).numpy(), model(x).numpy())
