"""Buffers and modes: read and written by every call, replays included, and never out of date."""

import copy
import pickle
import threading

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim, pytree
from tapegrad.errors import DTypeError, ShapeError, StructureError, UnsupportedError

X = np.random.default_rng(0).normal(size=(8, 3)) + 1.0


class Average(nn.Module):
    """In training it follows the mean of its inputs, and in evaluation subtracts it."""

    def __init__(self, n=3, dtype=np.float64):
        self.mean = nn.Buffer(np.zeros(n, dtype))
        self.steps = nn.Buffer(np.array(0))
        self.scale = nn.Parameter(np.ones(n, dtype))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * np.mean(x, 0)
            self.steps = self.steps + 1
            return x * self.scale
        return (x - self.mean) * self.scale


class Pair(nn.Module):
    def __init__(self):
        self.first, self.rest = Average(), [Average(), Average()]

    def forward(self, x):
        return self.rest[1](self.rest[0](self.first(x)))


def followed(*batches, start=0.0):
    mean = np.zeros(3) + start
    for x in batches:
        mean = 0.9 * mean + 0.1 * x.mean(0)
    return mean


def loss(model, x):
    return np.mean(model(x) ** 2)


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_eager_calls_write_at_once():
    model = Average()
    model(X)
    close(model.mean, followed(X))
    model(tg.Value(X))
    close(model.mean, followed(X, X))
    assert model.steps == 2 and model.steps.dtype == np.int64 and not isinstance(model.mean, tg.Value)


@pytest.mark.parametrize("data", [1, 1.0, [1.0, 2.0], [[1, 2]], True])
def test_operators_in_place_write_what_an_assignment_writes(data):
    numbers = np.array(data)

    class InPlace(nn.Module):
        def __init__(self):
            self.n = nn.Buffer(numbers)

        def forward(self, x):
            before = self.n
            if numbers.dtype == bool:
                self.n = np.logical_not(before)
            else:
                self.n += 2
                self.n *= 3
                self.n -= before
            return np.sum(before * x**2)

    def check(call):
        model, expected = InPlace(), numbers.copy()
        for _ in range(3):
            held, inside = model.n, model.buffers()[0]
            result, was = call(model), expected
            expected = np.logical_not(was) if was.dtype == bool else (was + 2) * 3 - was
            assert result == np.sum(was * 4.0), "what was read before is what it was"
            assert np.array_equal(held, was) and np.array_equal(inside, was)
            assert np.array_equal(model.n, expected) and model.n.dtype == numbers.dtype

    check(lambda model: model(2.0))
    for compile in (True, False):
        both = tg.value_and_grad(lambda x, model: model(x), compile=compile)
        check(lambda model, both=both: both(2.0, model)[0])


def test_truth_values_and_bits_change_in_place_too():
    model = Average()
    model.seen, model.bits = nn.Buffer(np.zeros(3, bool)), nn.Buffer(np.array([1, 2, 4]))
    held = model.seen, model.bits
    model.seen |= np.array([True, False, True])
    model.seen ^= np.array([True, True, False])
    model.seen &= True
    model.bits <<= 3
    model.bits >>= 1
    assert model.seen.tolist() == [False, True, True] and model.bits.tolist() == [4, 8, 16]
    assert not held[0].any() and held[1].tolist() == [1, 2, 4]


def test_no_array_that_was_read_can_be_written():
    model = Average()
    for change in (
        lambda: model.mean.__setitem__(0, 1.0), lambda: np.add(model.mean, 1.0, out=model.mean),
        lambda: model.mean[1:].fill(1.0), lambda: model.buffers()[0].fill(1.0), lambda: np.copyto(model.mean, 1.0),
        lambda: model.named_buffers()[0][1].__iadd__(1.0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="read-only"):
            change()
    assert not model.mean.any()


@pytest.mark.parametrize("compile", [True, False, None])
def test_each_replay_writes(compile):
    model = Average()
    both = tg.value_and_grad(loss, compile=compile)
    rng = np.random.default_rng(1)
    batches = [rng.normal(size=(8, 3)) for _ in range(5)]
    for i, x in enumerate(batches):
        value, gradient = both(model, x)
        assert value == pytest.approx(np.mean(x**2))
        close(gradient.scale, 2.0 * np.mean(x**2, 0) / 3.0)
        close(model.mean, followed(*batches[: i + 1]))
    assert model.steps == 5


@pytest.mark.parametrize("given", ["argument", "closure"])
def test_the_mode_is_never_out_of_date(given):
    model = Average()
    model.mean = np.array([1.0, 2.0, 3.0])
    flat = np.array(model.flat.data)
    if given == "argument":
        both = tg.value_and_grad(loss)
        call = lambda: both(model, X)[0]
    else:
        both = tg.value_and_grad(lambda flat: np.mean(model.call_with(flat, X) ** 2))
        call = lambda: both(flat)[0]
    training = np.mean(X**2)
    assert call() == pytest.approx(training)
    before = model.mean
    model.eval()
    for mean in (before, np.zeros(3), np.ones(3)):
        # Neither the mode nor what the buffer holds.
        model.mean = mean
        assert call() == pytest.approx(np.mean((X - mean) ** 2))
        close(model.mean, mean)
    model.train()
    assert call() == pytest.approx(training)
    close(model.mean, followed(X, start=1.0))
    model.training = False
    assert call() == pytest.approx(np.mean((X - model.mean) ** 2))


def test_a_recording_that_is_kept_notices_the_mode():
    model = Average()
    flat = np.array(model.flat.data)
    recording = tg.record(lambda flat: model.call_with(flat, X).sum(), flat)
    assert recording(flat) == pytest.approx(X.sum())
    model.eval()
    mean = model.mean
    assert recording(flat) == pytest.approx((X - mean).sum())
    close(recording.grad(flat), (X - mean).sum(0))
    of_module = tg.record(loss, model, X)
    model.train()
    with pytest.raises(ShapeError, match="differ"):
        of_module(model, X)


def test_a_mode_deep_inside_is_noticed():
    model = Pair()
    both = tg.value_and_grad(loss)
    both(model, X)
    model.rest[1].eval()
    before = model.rest[1].mean
    value, _ = both(model, X)
    assert value == pytest.approx(np.mean((X - before) ** 2))
    close(model.rest[1].mean, before)
    assert model.training and not model.rest[1].training
    model.eval()
    assert not model.rest[0].training
    assert model.train() is model and model.rest[1].training


class Centred(nn.Module):
    """Without parameters. In training it counts, and in evaluation subtracts the mean."""

    def __init__(self):
        self.mean, self.steps = nn.Buffer(np.arange(3.0)), nn.Buffer(np.array(0))

    def forward(self, x):
        if self.training:
            self.steps = self.steps + 1
            return x * 2.0
        return x - self.mean


@pytest.mark.parametrize("given", ["the module", "a function of it", "with a gradient"])
def test_lanes_do_not_write(given):
    """Nobody could tell how often."""
    model, x = nn.Sequential(nn.Linear(3, 2, rng=0), nn.BatchNorm1d(2)), np.stack([X, 2.0 * X])
    f = {
        "the module": tg.vmap(model), "a function of it": tg.vmap(lambda x: model(x)),
        "with a gradient": tg.grad(lambda x: np.sum(tg.vmap(model)(x) ** 2)),
    }[given]  # fmt: skip
    with pytest.raises(UnsupportedError, match=r"BatchNorm1d.running_mean is written .*tg.vmap.* call model.eval\(\)"):
        f(x)
    assert int(model[1].num_batches_tracked) == 0
    model.eval()
    assert f(x).shape == ((2, 8, 2) if given != "with a gradient" else x.shape)


def test_a_mode_changed_by_another_thread_while_recording_is_an_error():
    """The recording would be neither of the one mode nor of the other."""
    model = Centred()

    def f(x):
        other = threading.Thread(target=model.train, args=(not model._training,))
        other.start()
        other.join()
        return loss(model, x)

    with pytest.raises(UnsupportedError, match=r"mode of a Centred was changed by another thread.* between calls"):
        tg.grad(f)(X)


def test_a_function_may_set_the_mode_itself():
    model, calls = Centred(), []

    def f(x):
        calls.append(1)
        model.eval()
        y = loss(model, x)
        model.train()
        return y + loss(model, x)

    gradient = tg.grad(f)
    for _ in range(5):
        close(gradient(X), 2.0 * (X - np.arange(3.0)) / X.size + 8.0 * X / X.size)
    assert len(calls) <= 3 and int(model.steps) == 5


def test_other_derivatives_write_once():
    model = Average()
    flat = np.array(model.flat.data)
    f = lambda flat: np.sum(model.call_with(flat, X) ** 2)
    diagonal = np.diag(2.0 * np.sum(X**2, 0))
    calls = [
        lambda: close(tg.hessian(f)(flat), diagonal),
        lambda: close(tg.jacobian(f)(flat), 2.0 * np.sum(X**2, 0)),
        lambda: close(tg.hvp(f, (flat,), (flat,)), diagonal @ flat),
        lambda: close(tg.jvp(f, (flat,), (flat,))[1], diagonal @ flat @ flat),
        lambda: close(tg.vjp(f, flat)[1](1.0)[0], 2.0 * np.sum(X**2, 0)),
        lambda: close(tg.grad(lambda p: np.sum(tg.grad(f)(p)))(flat), diagonal.sum(0)),
        lambda: tg.record(f, flat)(flat),
        lambda: tg.record(f, flat).value_and_grad(flat),
        lambda: tg.recorded(f)(flat),
    ]
    wanted = np.zeros(3)
    for call in calls:
        call()
        wanted = followed(X, start=wanted)
        close(model.mean, wanted)


def test_every_step_of_a_loop_writes():
    model = Average()
    flat = np.array(model.flat.data)

    def f(flat):
        return tg.scan(lambda s, _: (s + np.sum(model.call_with(flat, X)), None), 0.0, None, 12)[0]

    assert tg.value_and_grad(f)(flat)[0] == pytest.approx(12 * X.sum())
    close(model.mean, followed(*[X] * 12))


def test_a_long_loop_may_read():
    model = Average().eval()
    model.mean = np.array([0.1, 0.2, 0.3])
    flat = np.array(model.flat.data)
    slope = tg.grad(lambda flat: np.sum(tg.scan(lambda x, _: (0.5 * model.call_with(flat, x), None), X, None, 5000)[0]))
    recording = tg.record(slope, flat)
    assert len(recording) < 1000
    fixed = 0.5 * -model.mean / (1.0 - 0.5)
    close(slope(flat), 8 * 2.0 * fixed)
    model.mean = np.zeros(3)
    close(slope(flat), np.zeros(3))


def test_used_twice_it_writes_twice():
    model = Average()
    f = tg.value_and_grad(lambda m, x: np.sum(m(m(x))))
    f(model, X)
    f(model, X)
    close(model.mean, followed(X, X, X, X))
    assert model.steps == 4


def test_no_gradient_flows_through_a_buffer():
    class Late(nn.Module):
        def __init__(self):
            self.w, self.kept = nn.Parameter(np.array([2.0])), nn.Buffer(np.zeros(1))

        def forward(self, x):
            self.kept = self.w * x
            return self.kept * self.w

    model = Late()
    assert tg.grad(lambda m: np.sum(m(3.0)))(model).w.tolist() == [6.0]
    y = model(3.0).sum()
    y.backward()
    assert model.w.grad.tolist() == [6.0]


def test_branches_may_use_other_buffers():
    class Either(nn.Module):
        def __init__(self):
            self.low, self.high = nn.Buffer(np.array(0.0)), nn.Buffer(np.array(0.0))

        def forward(self, x):
            if np.sum(x) < 0.0:
                self.low = self.low + 1.0
            else:
                self.high = self.high + np.sum(x)
            return np.sum(x * x)

    model = Either()
    slope = tg.grad(lambda x, m: m(x))
    for x in ([1.0, 2.0], [-1.0, 0.5], [-2.0, 0.0], [4.0, 0.0]):
        close(slope(np.array(x), model), 2.0 * np.array(x))
    assert model.low == 2.0 and model.high == 7.0


def test_where_it_cannot_be_written_is_refused(tmp_path):
    model = Average()
    flat = np.array(model.flat.data)
    f = lambda flat, x: np.sum(model.call_with(flat, x))
    with pytest.raises(UnsupportedError, match="eval"):
        tg.vmap(f, in_axes=(None, 0))(flat, np.zeros((20, 8, 3)))
    with pytest.raises(UnsupportedError, match="eval"):
        tg.record(f, flat, X).save(tmp_path / "f.tape")
    with pytest.raises(UnsupportedError, match="eval"):
        tg.record(f, flat, X).to_c(tmp_path / "f.c")
    for mode in (True, False):
        model.train(mode)
        with pytest.raises(UnsupportedError, match="functions of their arguments alone"):
            tg.grad(tg.checkpoint(lambda flat: f(flat, X)))(flat)
    close(model.mean, np.zeros(3))
    # What looks at the program, or takes it elsewhere, finds the numbers of now.
    for mean in (np.zeros(3), np.ones(3)):
        model.mean = mean
        xs = np.random.default_rng(0).normal(size=(20, 8, 3))
        close(tg.vmap(f, in_axes=(None, 0))(flat, xs), (xs - mean).sum((1, 2)))
        recording = tg.record(f, flat, X)
        recording.save(tmp_path / "f.tape")
        recording.to_c(tmp_path / "f.c")
        assert tg.load(tmp_path / "f.tape")(flat, X) == pytest.approx((X - mean).sum())
        assert recording.sparsity(flat, X).pattern.shape == (1, 3) and len(recording.program.code.rows)
    # A module among the arguments, in evaluation and with nothing to read, is an ordinary recording.
    plain = nn.Sequential(nn.Linear(3, 1), nn.Dropout()).eval()
    assert len(tg.record(loss, plain, X).program.code.rows)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compiled_steps_carry_buffers(dtype):
    model = nn.Sequential(Average(dtype=dtype), nn.Linear(3, 2, dtype=dtype, rng=0))
    other = copy.deepcopy(model)
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(22, 3)).astype(dtype), rng.normal(size=(22, 2)).astype(dtype)
    optimizer = optim.SGD(model, 0.1)
    training = nn.Training(model, optimizer, "mean_squared_error", batch_size=4)
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    for epoch in range(3):
        training.epoch(x, y, rng=epoch)
        order = np.random.default_rng(epoch).permutation(22)
        for start in range(0, 22, 4):
            rows = order[start : start + 4]
            value = np.mean((other(x[rows]) - y[rows]) ** 2)
            other.zero_grad()
            value.backward()
            other.flat.data = other.flat.data - dtype(0.1) * other.flat.grad
        np.testing.assert_allclose(model[0].mean, other[0].mean, rtol=rtol)
        np.testing.assert_allclose(model.flat.data, other.flat.data, rtol=10 * rtol)
        assert model[0].steps == other[0].steps == 6 * (epoch + 1)
        before = model.state_dict()
        wanted = np.mean((other.eval()(x).data - y) ** 2)
        assert training.evaluate(x, y).loss == pytest.approx(wanted, rel=1e-5)
        np.testing.assert_allclose(training.predict(x), other(x).data, rtol=1e-4, atol=1e-6)
        other.train()
        # Neither of these changes anything.
        assert all((before[name] == now).all() for name, now in model.state_dict().items())
        assert model.training and model[0].training
    model[0].mean = np.zeros(3, dtype)
    assert training.evaluate(x, y).loss != pytest.approx(wanted, rel=1e-5)


class FromFirst(nn.Module):
    """Takes away the mean of the first batch that it met."""

    def __init__(self, dtype):
        self.mean, self.begun = nn.Buffer(np.zeros(3, dtype)), nn.Buffer(np.array(False))
        self.scale = nn.Parameter(np.ones(3, dtype))

    def forward(self, x):
        if not self.begun:
            self.mean, self.begun = np.mean(x, 0), np.array(True)
        return (x - self.mean) * self.scale


class Constant(nn.Module):
    """Writes what is no result of anything."""

    def __init__(self, dtype):
        self.mark, self.count = nn.Buffer(np.zeros(3, dtype)), nn.Buffer(np.array(0))
        self.scale = nn.Parameter(np.ones(3, dtype))

    def forward(self, x):
        y = (x + self.mark) * self.scale + self.count
        self.mark, self.count = np.array([0.5, -0.25, 2.0]), 3
        return y


class Switched(nn.Module):
    """From the third call on it takes another branch, in which it writes something else too."""

    def __init__(self, dtype):
        self.calls, self.mean = nn.Buffer(np.array(0)), nn.Buffer(np.zeros(3, dtype))
        self.scale = nn.Parameter(np.ones(3, dtype))

    def forward(self, x):
        self.calls = self.calls + 1
        if self.calls > 2:
            self.mean = 0.5 * self.mean + 0.5 * np.mean(x, 0)
        return (x - self.mean) * self.scale


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", [FromFirst, Constant, Switched])
def test_each_compiled_step_reads_what_the_one_before_has_written(kind, dtype):
    model, other = kind(dtype), kind(dtype)
    x = X[:, None].repeat(3, 1).reshape(24, 3).astype(dtype)[np.random.default_rng(1).permutation(24)]
    training = nn.Training(model, optim.SGD(model, 0.1), step=loss, batch_size=4)
    for _ in range(2):
        found, losses = training.run(training.samples(x), np.arange(24)).loss, []
        for start in range(0, 24, 4):
            value = loss(other, x[start : start + 4])
            other.zero_grad()
            value.backward()
            other.flat.data = other.flat.data - dtype(0.1) * other.flat.grad
            losses.append(float(value.data))
        rtol = 1e-12 if dtype == np.float64 else 1e-5
        np.testing.assert_allclose(found, np.mean(losses), rtol=rtol)
        for name, numbers in other.state_dict().items():
            np.testing.assert_allclose(model.state_dict()[name], numbers, rtol=10 * rtol, err_msg=name)


def test_an_epoch_is_in_training_and_frozen_parts_stay_frozen():
    model = Pair()
    training = nn.Training(model, optim.SGD(model, 0.0), "mean_squared_error", batch_size=8)
    model.eval()
    training.epoch(X, 0.0 * X)
    assert model.first.steps == 1 and model.rest[1].steps == 1 and not model.training and not model.first.training
    model.train().rest[0].eval()
    training.epoch(X, 0.0 * X)
    assert [m.steps.item() for m in (model.first, *model.rest)] == [2, 1, 2]
    assert model.training and not model.rest[0].training


def test_a_step_that_fails_leaves_what_was_learnt_before():
    class Checked(nn.Module):
        def __init__(self):
            self.w, self.steps = nn.Parameter(np.ones(1)), nn.Buffer(np.array(0))

        def forward(self, x):
            self.steps = self.steps + 1
            if np.max(x) > 5.0:
                raise ValueError("too large")
            return x * self.w

    model = Checked()
    training = nn.Training(model, optim.SGD(model, 0.0), "mean_squared_error", batch_size=1)
    x = np.array([[1.0], [2.0], [9.0], [3.0]])
    order = list(np.random.default_rng(0).permutation(4))
    with pytest.raises(ValueError, match="too large"):
        training.epoch(x, x, rng=0)
    assert model.steps == order.index(2)


def test_a_captured_module_of_the_loss():
    teacher, model = Average(), nn.Linear(3, 3, rng=0)
    teacher.eval().mean = np.ones(3)
    numbers = np.array(teacher.flat.data)
    training = nn.Training(
        model, optim.SGD(model, 0.0), lambda out, y: np.mean((out - teacher.call_with(numbers, y)) ** 2), batch_size=8
    )
    out = model(X).data
    assert training.epoch(X, X).loss == pytest.approx(np.mean((out - (X - 1.0)) ** 2))
    teacher.train()
    assert training.epoch(X, X).loss == pytest.approx(np.mean((out - X) ** 2))
    close(teacher.mean, followed(X, start=1.0))
    teacher.eval()
    assert training.epoch(X, X).loss == pytest.approx(np.mean((out - (X - teacher.mean)) ** 2))


def test_saving(tmp_path):
    model = Pair()
    model(X)
    saved = model.state_dict()
    assert list(saved) == [
        *(f"{at}.scale" for at in ("first", "rest.0", "rest.1")),
        *(f"{at}.{name}" for at in ("first", "rest.0", "rest.1") for name in ("mean", "steps")),
    ]
    assert [name for name, _ in model.named_buffers()] == list(saved)[3:] and len(model.buffers()) == 6
    assert model.flat.size == 9 and len(model.parameters()) == 3
    model.save(tmp_path / "model.npz")
    for made in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        made(X)
        close(made.first.mean, followed(X, X))
        close(model.first.mean, followed(X))
        made.load(tmp_path / "model.npz")
        close(made.first.mean, followed(X))
    with pytest.raises(StructureError, match=r"missing: 'first.mean'"):
        model.load_state_dict({name: x for name, x in saved.items() if name != "first.mean"})
    with pytest.raises(ShapeError, match="buffer 'first.mean'"):
        model.load_state_dict(saved | {"first.mean": np.zeros(4)})
    with pytest.raises(DTypeError, match="buffer 'first.steps'"):
        model.load_state_dict(saved | {"first.steps": np.array(0.0)})


def test_bad_buffers():
    model = Average()
    with pytest.raises(ShapeError, match=r"Average.mean has shape \(3,\), it cannot take numbers of shape \(\)"):
        model.mean = 1.0
    with pytest.raises(DTypeError, match="Average.mean holds numbers"):
        model.mean = np.array(["a", "b", "c"])
    with pytest.raises(ValueError, match="read-only"):
        model.mean[0] = 1.0
    with pytest.raises(DTypeError, match="a buffer holds"):
        nn.Buffer(np.array([1j]))
    with pytest.raises(ValueError, match="True or False"):
        model.training = 1
    silent = Average()
    silent.extra = nn.Buffer(np.zeros(2), persistent=False)
    assert "extra" not in silent.state_dict() and len(silent.buffers()) == 3
    silent.extra = None
    assert len(silent.buffers()) == 2


def test_a_gradient_holds_no_buffers():
    model = Average()
    gradient = tg.grad(loss)(model, X)
    assert isinstance(gradient, Average) and [x.shape for x in pytree.flatten(gradient)[0]] == [(3,)]
