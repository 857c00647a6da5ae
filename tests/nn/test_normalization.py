"""Normalisation and dropout against PyTorch: values, gradients, running statistics, modes."""

import copy

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import OperationError, ShapeError

dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
RTOL = {np.float64: 1e-10, np.float32: 1e-5}


@pytest.fixture(scope="module")
def torch():
    found = pytest.importorskip("torch")
    found.set_num_threads(1)
    return found


def close(ours, theirs, dtype, factor=1.0):
    theirs = theirs.detach().numpy() if hasattr(theirs, "detach") else np.asarray(theirs)
    ours = np.asarray(ours.data if isinstance(ours, tg.Value) else ours)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=factor * RTOL[dtype] * max(1.0, np.abs(theirs).max()))


def arrays(*shapes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=shape) + 0.5).astype(dtype) for shape in shapes]


CASES = {
    "batch of vectors": ((6, 5), (5,), lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True)),
    "batch of sequences": ((4, 5, 7), (5,), lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True, 0.1, 1e-3)),
    "batch of images": ((3, 4, 5, 6), (4,), lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True)),
    "batch of volumes": ((2, 3, 2, 3, 4), (3,), lambda f, x, w, b: f.batch_norm(x, None, None, w, b, True)),
    "last axis": ((3, 4, 9), (9,), lambda f, x, w, b: f.layer_norm(x, (9,), w, b)),
    "long last axis": ((2, 700), (700,), lambda f, x, w, b: f.layer_norm(x, (700,), w, b, 1e-2)),
    "last two axes": ((3, 4, 5), (4, 5), lambda f, x, w, b: f.layer_norm(x, (4, 5), w, b)),
    "groups of channels": ((3, 6, 5), (6,), lambda f, x, w, b: f.group_norm(x, 2, w, b)),
    "groups of vectors": ((3, 6), (6,), lambda f, x, w, b: f.group_norm(x, 3, w, b)),
    "one group": ((2, 4, 3, 3), (4,), lambda f, x, w, b: f.group_norm(x, 1, w, b)),
}


@dtypes
@pytest.mark.parametrize("compile", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_functions(name, compile, dtype, torch):
    shape, channels, call = CASES[name]
    given = arrays(shape, channels, channels, dtype=dtype)
    (q,) = arrays(shape, dtype=dtype, seed=1)
    leaves = [torch.tensor(x, requires_grad=True) for x in given]
    theirs = call(torch.nn.functional, *leaves)
    (theirs * torch.tensor(q)).sum().backward()
    close(call(tg, *given), theirs, dtype)
    both = tg.value_and_grad(lambda x, w, b: np.sum(call(tg, x, w, b) * q), (0, 1, 2), compile=compile)
    value, gradients = both(*given)
    assert value == pytest.approx((theirs * torch.tensor(q)).sum().item(), rel=10 * RTOL[dtype])
    for ours, leaf in zip(gradients, leaves, strict=True):
        assert ours.dtype == dtype
        close(ours, leaf.grad, dtype)


@pytest.mark.parametrize("name", CASES)
def test_second_order(name, torch):
    shape, channels, call = CASES[name]
    given = arrays(shape, channels, channels, dtype=np.float64, seed=2)
    along = arrays(shape, channels, channels, dtype=np.float64, seed=3)
    (q,) = arrays(shape, dtype=np.float64, seed=4)
    f = lambda x, w, b: np.sum(np.tanh(call(tg, x, w, b)) * q)
    theirs = lambda x, w, b: (torch.tanh(call(torch.nn.functional, x, w, b)) * torch.tensor(q)).sum()
    wanted = torch.autograd.functional.hvp(theirs, tuple(map(torch.tensor, given)), tuple(map(torch.tensor, along)))[1]
    for ours, other in zip(tg.hvp(f, tuple(given), tuple(along)), wanted, strict=True):
        close(ours, other, np.float64)
    nested = tg.grad(lambda *xs: sum(np.sum(g * v) for g, v in zip(tg.grad(f, (0, 1, 2))(*xs), along)), (0, 1, 2))
    for ours, other in zip(nested(*given), wanted, strict=True):
        close(ours, other, np.float64)
    tg.check_grads(f, tuple(given), order=3)


def test_vmap_is_as_one_after_the_other():
    (xs, w) = arrays((11, 4, 6), (6,), dtype=np.float64)
    calls = (
        lambda x: tg.layer_norm(x, 6, w, w), lambda x: tg.batch_norm(x, None, None, w, w),
        lambda x: tg.group_norm(x, 3, w),
        tg.grad(lambda x: np.sum(tg.layer_norm(x, 6, w) ** 3)), tg.grad(lambda x: np.sum(tg.batch_norm(x) ** 3)),
    )  # fmt: skip
    for f in calls:
        np.testing.assert_allclose(tg.vmap(f)(xs), np.stack([f(x) for x in xs]), rtol=1e-11, atol=1e-12)


def test_nothing_leaks_from_rows_that_are_not_chosen():
    x = np.array([[1.0, 2.0, 4.0], [np.inf, 1.0, 2.0]])
    chosen = np.array([[True], [False]])
    f = lambda x: np.sum(np.where(chosen, tg.layer_norm(x, 3), 0.0) ** 3)
    for compile in (True, False):
        gradient = tg.grad(f, compile=compile)(x)
        assert np.isfinite(gradient).all() and gradient[1].tolist() == [0.0, 0.0, 0.0] and gradient[0].any()


def test_means_far_from_zero():
    # The variance is 1 although the numbers are large, and the first of them is far from the others.
    rng = np.random.default_rng(0)
    x = 1e6 + rng.normal(size=(4, 3000))
    x[:, 0] = 1e6 + 60.0
    y = tg.layer_norm(x, 3000, eps=0.0)
    wanted = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(y, wanted, atol=1e-8)


# Modules


# The class, how it is called, and the shape of x.
MODULES = {
    "1d": ("BatchNorm1d", (5,), {}, (6, 5)),
    "1d, length": ("BatchNorm1d", (5, 1e-3, 0.3), {}, (6, 5, 3)),
    "2d": ("BatchNorm2d", (3,), {}, (4, 3, 5, 2)),
    "3d": ("BatchNorm3d", (3,), {}, (2, 3, 2, 2, 3)),
    "mean of all": ("BatchNorm1d", (4,), {"momentum": None}, (7, 4)),
    "plain": ("BatchNorm1d", (4,), {"affine": False}, (7, 4)),
    "untracked": ("BatchNorm1d", (4,), {"track_running_stats": False}, (7, 4)),
    "layer": ("LayerNorm", (6,), {}, (3, 4, 6)),
    "layer of two": ("LayerNorm", ((4, 6), 1e-3), {}, (3, 4, 6)),
    "layer without bias": ("LayerNorm", (6,), {"bias": False}, (3, 6)),
    "group": ("GroupNorm", (2, 6), {}, (3, 6, 4)),
    "plain group": ("GroupNorm", (3, 6), {"affine": False}, (3, 6, 5)),
}


@dtypes
@pytest.mark.parametrize("how", ["eager", "replayed"])
@pytest.mark.parametrize("key", MODULES)
def test_modules_over_several_steps(key, how, dtype, torch):
    name, args, options, shape = MODULES[key]
    ours = getattr(nn, name)(*args, **options, dtype=dtype)
    theirs = getattr(torch.nn, name)(*args, **options, dtype=torch.float64 if dtype == np.float64 else torch.float32)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict())
    rng = np.random.default_rng(5)
    for _, p in theirs.named_parameters():
        p.data.copy_(torch.tensor(rng.normal(size=tuple(p.shape))))
    ours.load_state_dict({name: p.numpy() for name, p in theirs.state_dict().items()})
    has_parameters = bool(ours.parameters())
    both = tg.value_and_grad(lambda m, x, q: np.sum(m(x) * q), (0, 1) if has_parameters else (1,))
    for step in range(4):
        if step == 3:
            ours.eval()
            theirs.eval()
        x, q = arrays(shape, shape, dtype=dtype, seed=step)
        leaf = torch.tensor(x, requires_grad=True)
        theirs.zero_grad()
        value = (theirs(leaf) * torch.tensor(q)).sum()
        value.backward()
        if how == "eager":
            v = tg.Value(x)
            y = np.sum(ours(v) * q)
            ours.zero_grad()
            y.backward()
            found, to_x = y.item(), v.grad
            grads = {name: p.grad for name, p in ours.named_parameters()}
        else:
            found, (*of_module, to_x) = both(ours, x, q)
            grads = dict(of_module[0].named_parameters()) if has_parameters else {}
        assert found == pytest.approx(value.item(), rel=10 * RTOL[dtype], abs=10 * RTOL[dtype])
        close(to_x, leaf.grad, dtype)
        for name, p in theirs.named_parameters():
            close(grads[name], p.grad, dtype)
        for name, b in theirs.named_buffers():
            close(dict(ours.named_buffers())[name], b, dtype)


@dtypes
def test_training_with_batch_norm(dtype, torch):
    kind = torch.float64 if dtype == np.float64 else torch.float32
    model = nn.Sequential(
        nn.Linear(4, 8, rng=0, dtype=dtype), nn.BatchNorm1d(8, dtype=dtype), nn.Tanh(),
        nn.Linear(8, 3, rng=1, dtype=dtype),
    )  # fmt: skip
    theirs = torch.nn.Sequential(
        torch.nn.Linear(4, 8, dtype=kind), torch.nn.BatchNorm1d(8, dtype=kind), torch.nn.Tanh(),
        torch.nn.Linear(8, 3, dtype=kind),
    )
    state = model.state_dict()
    theirs.load_state_dict({
        name: torch.tensor(x.T.copy() if name in ("0.weight", "3.weight") else x) for name, x in state.items()
    })
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(dtype), rng.integers(0, 3, 40)
    training = nn.Training(model, optim.SGD(model, 0.1), batch_size=8)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.1)
    for epoch in range(3):
        training.epoch(x, y, rng=epoch)
        order = np.random.default_rng(epoch).permutation(40)
        for start in range(0, 40, 8):
            rows = order[start : start + 8]
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(theirs(torch.tensor(x[rows])), torch.tensor(y[rows])).backward()
            optimizer.step()
        close(model[1].running_mean, theirs[1].running_mean, dtype, 5)
        close(model[1].running_var, theirs[1].running_var, dtype, 5)
        assert model[1].num_batches_tracked == theirs[1].num_batches_tracked.item() == 5 * (epoch + 1)
        close(model[3].weight.data.T, theirs[3].weight, dtype, 5)
    theirs.eval()
    close(training.predict(x), theirs(torch.tensor(x)), dtype, 10)


def test_bad_input():
    with pytest.raises(ShapeError, match="more than one number a channel"):
        nn.BatchNorm1d(3)(np.zeros((1, 3)))
    with pytest.raises(ShapeError, match="more than one number a channel"):
        tg.grad(lambda m, x: np.sum(m(x)))(nn.BatchNorm1d(3), np.zeros((1, 3)))
    assert nn.BatchNorm1d(3)(np.zeros((1, 3, 2))).shape == (1, 3, 2)
    assert nn.BatchNorm1d(3).eval()(np.zeros((1, 3))).shape == (1, 3)
    with pytest.raises(ShapeError, match=r"takes arrays of shape \(n, 3\) or \(n, 3, length\), not \(2, 4\)"):
        nn.BatchNorm1d(3)(np.zeros((2, 4)))
    with pytest.raises(ShapeError, match=r"takes arrays of shape \(n, 3, height, width\)"):
        nn.BatchNorm2d(3)(np.zeros((2, 3)))
    with pytest.raises(ShapeError, match=r"takes arrays of shape \(..., 4, 2\), not \(4, 3\)"):
        nn.LayerNorm((4, 2))(np.zeros((4, 3)))
    with pytest.raises(ShapeError, match=r"takes arrays of shape \(n, 4, ...\)"):
        nn.GroupNorm(2, 4)(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="5 channels do not fall into 2 groups"):
        nn.GroupNorm(2, 5)
    with pytest.raises(ValueError, match="must be positive"):
        nn.BatchNorm2d(0)
    with pytest.raises(ValueError, match="positive lengths"):
        nn.LayerNorm(())
    x = np.zeros((2, 3))
    with pytest.raises(ShapeError, match=r"weight has shape \(2,\), it must have \(3,\)"):
        tg.batch_norm(x, None, None, np.ones(2))
    with pytest.raises(ShapeError, match="running_var has shape"):
        tg.batch_norm(x, np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="both or neither"):
        tg.batch_norm(x, np.zeros(3))
    with pytest.raises(ShapeError, match="does not end with normalized_shape"):
        tg.layer_norm(x, 2)
    with pytest.raises(ShapeError, match="3 channels do not fall into 2 groups"):
        tg.group_norm(x, 2)
    with pytest.raises(ShapeError, match="axes for samples and channels"):
        tg.batch_norm(np.zeros(3))


# Dropout


def test_dropout_in_each_way_of_calling():
    layer, other = nn.Dropout(0.25, rng=3), nn.Dropout(0.25, rng=3)
    x = np.ones((100, 40))
    slope = tg.grad(lambda x: np.sum(layer(x)))
    by_module = tg.grad(lambda x, m: np.sum(m(x)))
    seen = []
    for call in (slope, slope, lambda x: by_module(x, layer), lambda x: by_module(x, layer), layer, slope):
        mask = call(x)
        np.testing.assert_allclose(mask, other(x), rtol=1e-15)
        assert abs((mask == 0).mean() - 0.25) < 0.03 and np.allclose(mask[mask != 0], 4 / 3)
        seen.append(mask)
    assert all((a != b).any() for i, a in enumerate(seen) for b in seen[:i])
    assert layer.state[2] == 6
    for call in (slope, lambda x: by_module(x, layer.eval()), layer.eval()):
        layer.eval()
        np.testing.assert_array_equal(call(x), x)
    assert layer.state[2] == 6
    layer.train()
    assert (slope(x) == 0.0).any()


def test_dropout_numbers_are_even():
    # Of one call, of calls that follow each other, of neighbours, and of other seeds.
    calls = np.stack([nn.Dropout(0.5, rng=seed)(np.ones(1000)) for seed in range(50)]) != 0
    layer = nn.Dropout(0.5, rng=0)
    after = np.stack([layer(np.ones(1001)) for _ in range(50)]) != 0
    for masks in (calls, after):
        n = masks.size
        assert abs(masks.mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
        assert abs((masks[1:] == masks[:-1]).mean() - 0.5) < 4 * 0.5 / np.sqrt(n)
        for lag in (1, 2, 250, 251, 500):
            assert abs((masks[:, lag:] == masks[:, :-lag]).mean() - 0.5) < 5 * 0.5 / np.sqrt(n / 2)


def test_dropout_counts_calls_without_end():
    layer = nn.Dropout(0.5, rng=0)
    most = (1 << 24) - 1
    layer.state = np.array([*layer.state[:2], most, 4])
    flat = tg.grad(lambda x: np.sum(layer(x)))
    flat(np.ones(3, np.float32))
    assert layer.state.tolist()[2:] == [0, 5]


@dtypes
def test_dropout_in_training_goes_on_bit_for_bit(dtype):
    def made():
        model = nn.Sequential(
            nn.Linear(4, 16, rng=0, dtype=dtype), nn.ReLU(), nn.Dropout(0.5, rng=1),
            nn.Linear(16, 3, rng=2, dtype=dtype),
        )  # fmt: skip
        return model, nn.Training(model, optim.SGD(model, 0.1), batch_size=8)

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)).astype(dtype), rng.integers(0, 3, 40)
    model, training = made()
    losses = [training.epoch(x, y, rng=0).loss]
    saved = copy.deepcopy(model.state_dict())
    losses += [training.epoch(x, y, rng=1).loss for _ in range(2)]
    assert model[2].state[2] == 15
    other, again = made()
    other.load_state_dict(saved)
    assert [again.epoch(x, y, rng=1).loss for _ in range(2)] == losses[1:]
    np.testing.assert_array_equal(other.flat.data, model.flat.data)
    # By hand, one batch after the other.
    third, _ = made()
    total = 0.0
    order = np.random.default_rng(0).permutation(40)
    for start in range(0, 40, 8):
        rows = order[start : start + 8]
        value = tg.cross_entropy(third(x[rows]), y[rows])
        third.zero_grad()
        value.backward()
        third.flat.data = third.flat.data - dtype(0.1) * third.flat.grad
        total += value.item() * 8
    assert total / 40 == pytest.approx(losses[0], rel=1e-5)
    assert training.evaluate(x, y) == training.evaluate(x, y)
    np.testing.assert_array_equal(training.predict(x), training.predict(x))


def test_dropout_of_all_or_nothing():
    x = np.ones(5)
    assert nn.Dropout(1.0)(x).tolist() == [0.0] * 5 and nn.Dropout(0.0)(x) is x
    for p in (-0.5, 1.5):
        with pytest.raises(ValueError, match="p must be a number from 0 to 1"):
            nn.Dropout(p)
    assert repr(nn.Dropout(0.1)) == "Dropout(p=0.1)"


def test_a_probability_that_is_changed_is_checked_too():
    layer, x = nn.Dropout(0.5, rng=0), np.ones(5)
    f = tg.value_and_grad(lambda x: np.sum(layer(x)))
    f(x)
    for p in (1.5, np.nan, "half", None):
        layer.p = p
        with pytest.raises(OperationError, match="p must be a number from 0 to 1"):
            f(x)
    layer.p = 1.0
    assert f(x)[0] == 0.0


def test_dropout_and_second_derivatives():
    layer = nn.Dropout(0.5, rng=0)
    again = copy.deepcopy(layer)
    w = np.linspace(-1.0, 1.0, 6)
    f = lambda w: np.sum(layer(w) ** 3)
    mask = again(np.ones(6))
    np.testing.assert_allclose(tg.hessian(f)(w), np.diag(6.0 * mask**3 * w))
    mask = again(np.ones(6))
    np.testing.assert_allclose(tg.hvp(f, (w,), (w,)), 6.0 * mask**3 * w * w)


def test_a_last_batch_of_one_sample_says_how_to_leave_it_out():
    x, y = np.random.default_rng(0).normal(size=(17, 3)), np.zeros(17, int)
    model = nn.Sequential(nn.Linear(3, 4, rng=0), nn.BatchNorm1d(4))
    before = model.state_dict()
    with pytest.raises(ShapeError, match="more than one number a channel") as caught:
        nn.Training(model, optim.SGD(lr=0.1), batch_size=8).epoch(x, y, rng=0)
    assert "of 17 samples the last batch has 1; drop_last=True leaves it out" in caught.value.__notes__
    assert all(np.array_equal(before[name], numbers) for name, numbers in model.state_dict().items())
    nn.Training(model, optim.SGD(lr=0.1), batch_size=8, drop_last=True).epoch(x, y, rng=0)
