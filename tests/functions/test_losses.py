"""Losses beside PyTorch's: values and gradients over their options, labels of any kind, numbers that are far out."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import LabelError, ShapeError

torch = pytest.importorskip("torch")
F = torch.nn.functional

TOLERANCE = {np.float64: 1e-10, np.float32: 1e-5}
REDUCTIONS = ["mean", "sum", "none"]


def compare(ours, theirs, x, targets, dtype, compile=None):
    """Ours and theirs of (output, targets), and their gradients in the output; targets are an argument, and are not."""
    tolerance = TOLERANCE[dtype]
    t = torch.tensor(x, requires_grad=True)
    result = theirs(t)
    weights = np.random.default_rng(9).normal(size=tuple(result.shape)).astype(dtype)
    (result * torch.tensor(weights)).sum().backward()
    expected, slope = result.detach().numpy(), t.grad.numpy()
    loss = lambda x, y: np.sum(weights * ours(x, y))
    value_and_grad = tg.value_and_grad(loss, compile=compile)
    value_and_grad(x + 1.0, np.zeros_like(targets))
    found = [value_and_grad(x, targets), tg.value_and_grad(lambda x: loss(x, targets))(x)]
    for value, gradient in found:
        assert value == pytest.approx(np.sum(weights * expected), rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(gradient, slope, rtol=tolerance, atol=tolerance * max(1.0, abs(slope).max()))
        assert gradient.dtype == dtype
    np.testing.assert_allclose(ours(x, targets), expected, rtol=tolerance, atol=tolerance)


LABELS = np.array([0, 3, 1, 2, 3, 3])
WEIGHTS = np.array([0.5, 1.5, 1.0, 0.25])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ignored", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy(reduction, dtype, weighted, ignored, smoothing):
    x = np.random.default_rng(0).normal(0, 3, (6, 4)).astype(dtype)
    weight = WEIGHTS.astype(dtype) if weighted else None
    labels = np.where(LABELS == 1, -100, LABELS) if ignored else LABELS
    options = {"ignore_index": -100} if ignored else {}
    compare(
        lambda x, y: tg.cross_entropy(x, y, reduction, weight=weight, label_smoothing=smoothing, **options),
        lambda t: F.cross_entropy(
            t, torch.tensor(labels), None if weight is None else torch.tensor(weight), reduction=reduction,
            label_smoothing=smoothing, **options,
        ),
        x, labels, dtype,
    )  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("options", [{}, {"ignore_index": 3}])
def test_nll_loss(reduction, dtype, weighted, options):
    options = {**options, "weight": WEIGHTS} if weighted else options
    x = np.random.default_rng(0).normal(0, 3, (6, 4)).astype(dtype)
    options = {k: v.astype(dtype) if k == "weight" else v for k, v in options.items()}
    compare(
        lambda x, y: tg.nll_loss(x, y, reduction, **options),
        lambda t: F.nll_loss(
            t, torch.tensor(LABELS), reduction=reduction,
            **{k: torch.tensor(v) if k == "weight" else v for k, v in options.items()},
        ),
        x, LABELS, dtype,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64, np.float64, bool])
def test_labels_of_any_kind_and_shape(kind):
    x, y = np.random.default_rng(1).normal(size=(2, 3, 2)), np.array([[0, 1, 1], [1, 0, 1]])
    expected = tg.cross_entropy(x, y, "none")
    assert expected.shape == (2, 3)
    if kind is not bool:
        assert np.array_equal(tg.cross_entropy(x, y.astype(kind), "none"), expected)
        np.testing.assert_allclose(tg.nll_loss(tg.log_softmax(x), y.astype(kind), "none"), expected, rtol=1e-14)
    recorded = tg.record(lambda x, y: tg.cross_entropy(x, y), x, y.astype(kind))
    assert recorded(x, (1 - y).astype(kind)) == pytest.approx(tg.cross_entropy(x, 1 - y))


@pytest.mark.parametrize("bad", [3, -1, np.nan, 1.5])
def test_label_out_of_range_in_every_form(bad):
    x, labels = np.zeros((2, 3)), np.array([0, bad])
    for name, loss in (("cross_entropy", tg.cross_entropy), ("nll_loss", tg.nll_loss)):
        said = f"{name}: label {bad} at position 1; labels must be whole numbers from 0 to 2"
        for options in ({}, {"weight": np.ones(3)}, {"ignore_index": 7}):
            with pytest.raises(LabelError, match=said):
                loss(x, labels, **options)
            f = lambda x, y, f=loss, o=options: f(x, y, **o)
            gradient, recording = tg.grad(f), tg.record(f, x, np.zeros(2, labels.dtype))
            gradient(x, np.zeros(2, labels.dtype))
            replays = gradient, recording, recording.grad, tg.record(f, x, np.zeros(2, labels.dtype)).compile()
            for replay in replays:
                with pytest.raises(LabelError, match=said):
                    replay(x, labels)
            assert gradient(x, np.ones(2, labels.dtype)).shape == (2, 3), "it goes on with labels that are classes"
    with pytest.raises(LabelError, match=f"cross_entropy: label {bad} at position 1"):
        tg.grad(lambda x, y: tg.cross_entropy(x, y, label_smoothing=0.1))(x, labels)


def test_nll_loss_in_every_mode():
    rng = np.random.default_rng(4)
    x, y, w = rng.normal(size=(5, 4)), np.array([3, 0, 2, 2, 1]), rng.normal(size=4)
    loss = lambda x, y: np.sum(tg.nll_loss(x**3, y, "none", weight=np.exp(w)) ** 2)
    by_indices = lambda x, y: np.sum((-np.exp(w)[y] * x[np.arange(5), y] ** 3) ** 2)
    assert loss(tg.Value(x), y).item() == pytest.approx(by_indices(x, y))
    tg.check_grads(lambda x: loss(x, y), (x,), order=2)
    assert np.allclose(tg.hessian(loss)(x, y), tg.hessian(by_indices)(x, y))
    batch = rng.normal(size=(3, 5, 4)), np.stack([y, 3 - y, y[::-1]])
    for xs, ys, axes in ((*batch, 0), (batch[0], y, (0, None)), (x, batch[1], (None, 0))):
        expected = [tg.grad(by_indices)(xs if xs is x else xs[i], ys if ys is y else ys[i]) for i in range(3)]
        assert np.allclose(tg.vmap(tg.grad(loss), in_axes=axes)(xs, ys), expected)
    pattern = tg.record(lambda x, y: tg.nll_loss(x, y, "none"), x, y).sparsity().pattern
    assert pattern.nnz == 5, "each loss depends on one number only"


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("weighted", [None, "weight", "pos_weight"])
def test_binary_cross_entropy_with_logits(reduction, dtype, weighted):
    every = {"weight": np.linspace(0.1, 2.0, 12).reshape(4, 3), "pos_weight": np.array([0.5, 2.0, 3.0])}
    options = {weighted: every[weighted]} if weighted else {}
    rng = np.random.default_rng(2)
    x, y = rng.normal(0, 4, (4, 3)).astype(dtype), rng.random((4, 3)).astype(dtype)
    options = {k: v.astype(dtype) for k, v in options.items()}
    tensors = {k: torch.tensor(v) for k, v in options.items()}
    for targets in (y, (y > 0.5).astype(np.int64)):
        compare(
            lambda x, y: tg.binary_cross_entropy_with_logits(x, y, reduction, **options),
            lambda t, targets=targets: F.binary_cross_entropy_with_logits(
                t, torch.tensor(targets.astype(dtype)), reduction=reduction, **tensors
            ),
            x, targets, dtype,
        )  # fmt: skip


def test_binary_cross_entropy_far_out():
    x = np.array([-1e4, 1e4, -1e4, 1e4])
    losses, slopes = tg.value_and_grad(lambda x: tg.binary_cross_entropy_with_logits(x, [0.0, 1.0, 1.0, 0.0]))(x)
    assert losses == 5e3 and slopes.tolist() == [0.0, 0.0, -0.25, 0.25]


PAIRS = {
    "mse_loss": ({}, {}), "l1_loss": ({}, {}), "huber_loss": ({"delta": 0.7}, {"delta": 0.7}),
    "smooth_l1_loss": ({"beta": 0.6}, {"beta": 0.6}),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("compile", [True, False])
def test_distances(name, reduction, dtype, compile):
    rng = np.random.default_rng(3)
    x, y = (rng.normal(size=(4, 3)).astype(dtype) for _ in range(2))
    x[0] = y[0]
    for ours, theirs in (({}, {}), PAIRS[name]):
        compare(
            lambda x, y, o=ours: getattr(tg, name)(x, y, reduction, **o),
            lambda t, o=theirs: getattr(F, name)(t, torch.tensor(y), reduction=reduction, **o),
            x, y, dtype, compile,
        )  # fmt: skip


def test_second_derivatives_at_zero_distance():
    for name in ("mse_loss", "huber_loss", "smooth_l1_loss"):
        f = lambda x, name=name: getattr(tg, name)(x, np.array([1.0, 1.0]), "sum")
        expected = np.eye(2) * (2.0 if name == "mse_loss" else 1.0)
        assert np.array_equal(tg.hessian(f)(np.array([1.0, 1.5])), expected)
    x = np.random.default_rng(4).normal(size=(3, 4))
    v = np.random.default_rng(5).normal(size=(3, 4))
    labels, weight = np.array([0, 3, 1]), WEIGHTS
    expected = torch.autograd.functional.hvp(
        lambda t: F.cross_entropy(t, torch.tensor(labels), torch.tensor(weight), label_smoothing=0.2),
        torch.tensor(x), torch.tensor(v),
    )[1]  # fmt: skip
    found = tg.hvp(lambda x: tg.cross_entropy(x, labels, weight=weight, label_smoothing=0.2), (x,), (v,))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("log_target", [True, False])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_kl_div(reduction, log_target, dtype):
    rng = np.random.default_rng(6)
    x = np.log(rng.dirichlet(np.ones(4), 3)).astype(dtype)
    y = rng.dirichlet(np.ones(4), 3).astype(dtype)
    y[0] = [0.0, 1.0, 0.0, 0.0]
    y = np.log(np.maximum(y, 1e-3)).astype(dtype) if log_target else y
    compare(
        lambda x, y: tg.kl_div(x, y, reduction, log_target=log_target),
        lambda t: F.kl_div(t, torch.tensor(y), reduction=reduction, log_target=log_target),
        x, y, dtype,
    )  # fmt: skip
    if not log_target:
        assert np.isfinite(tg.grad(lambda y: np.sum(tg.kl_div(x, y, reduction)))(y)).all()


def test_bad_input():
    x = np.zeros((2, 3))
    for name in ("mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "kl_div", "binary_cross_entropy_with_logits"):
        with pytest.raises(ShapeError, match=rf"{name}: the output has shape \(2, 3\), the targets \(3,\)"):
            getattr(tg, name)(x, np.zeros(3))
        with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', not 'average'"):
            getattr(tg, name)(x, x, "average")
    for name in ("cross_entropy", "nll_loss"):
        with pytest.raises(ShapeError, match=rf"{name}: .* need labels of shape \(2,\), not \(3,\)"):
            getattr(tg, name)(x, np.zeros(3, int))
        with pytest.raises(ShapeError, match=rf"{name}: 3 classes need weights of shape \(3,\), not \(2,\)"):
            getattr(tg, name)(x, [0, 1], weight=np.ones(2))
        with pytest.raises(ValueError, match="reduction must be"):
            getattr(tg, name)(x, [0, 1], "average")
    with pytest.raises(ValueError, match="from 0 to 1, not 2"):
        tg.cross_entropy(x, [0, 1], label_smoothing=2)
    with pytest.raises(ValueError, match="delta must be positive, not 0"):
        tg.huber_loss(x, x, delta=0)
    with pytest.raises(ValueError, match="beta must not be negative"):
        tg.smooth_l1_loss(x, x, beta=-1.0)


@pytest.mark.parametrize("name", [*PAIRS, "binary_cross_entropy_with_logits"])
def test_training_knows_them_by_name(name):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(40, 3))
    y = (x @ rng.normal(size=(3, 2)) > 0).astype(float)
    model = nn.Linear(3, 2, rng=0)
    training = nn.Training(model, optim.SGD(lr=0.5), loss=name, batch_size=10)
    before = training.evaluate(x, y).loss
    assert before == pytest.approx(getattr(tg, name)(model(x), y).item(), rel=1e-12)
    for epoch in range(20):
        training.epoch(x, y, rng=epoch)
    assert training.evaluate(x, y).loss < 0.9 * before
