"""Several epochs: history, validation, callbacks, early stopping, NaN, and trainings that are broken off."""

import sys

import numpy as np
import pytest

from tapegrad import nn, optim
from tapegrad.errors import ExtraMissingError, LabelError, NonFiniteError, ShapeError, StructureError


def data(n=60, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return rng.normal(size=(n, 4)) + y[:, None], y


def made(seed=0, **options):
    model = nn.MLP([4, 6, 3], "tanh", seed=seed)
    return nn.Training(model, optim.Adam(model, optim.cosine(0.02, 40)), batch_size=16, **options)


def test_fit_is_a_loop_of_epochs():
    (x, y), (xv, yv) = data(), data(25, seed=1)
    by_fit, by_hand = made(), made()
    history = by_fit.fit((x, y), epochs=4, validation=(xv, yv), rng=7)
    rng = np.random.default_rng(7)
    assert len(history) == 4 and history is by_fit.history
    for i, row in enumerate(history):
        result, held = by_hand.epoch(x, y, rng), by_hand.evaluate(xv, yv)
        assert (row["loss"], row["accuracy"]) == result
        assert (row["validation_loss"], row["validation_accuracy"]) == held
        assert row["epoch"] == i + 1 and row["steps"] == 4 * (i + 1) and row["seconds"] > 0.0
        assert row["rate"] == by_hand.optimizer.rate(4 * i + 3)
    assert np.array_equal(by_fit.model.flat.data, by_hand.model.flat.data)
    assert history["loss"].tolist() == [row["loss"] for row in history]
    # Another one goes on with the model and has a history of its own.
    assert len(by_fit.fit((x, y), epochs=2, rng=1)) == 2 and by_fit.optimizer.steps == 24


def test_no_epochs():
    training = made()
    before = np.array(training.model.flat.data)
    history = training.fit(data(), epochs=0)
    assert not history and repr(history) == "History(no epochs)" and np.array_equal(training.model.flat.data, before)
    with pytest.raises(ValueError, match="0 or more, not -1"):
        training.fit(data(), epochs=-1)


def test_callbacks_are_told_and_may_end_it():
    told = []

    class Told(nn.Callback):
        every = 3

        def on_start(self, training):
            told.append("start")

        def on_step(self, training, step, losses):
            told.append((step, len(losses), training.optimizer.steps))
            assert np.isfinite(losses).all()

        def on_epoch(self, training, row):
            told.append(row["epoch"])
            row["double"] = np.float32(2.0 * row["loss"])
            return row["epoch"] == 2

        def on_end(self, training):
            told.append("end")

    training, plain = made(), made()
    history = training.fit(data(), epochs=9, callbacks=[Told(), lambda training, row: told.append(training)], rng=0)
    plain.fit(data(), epochs=2, rng=0)
    assert told == ["start", (3, 3, 3), (4, 1, 4), 1, training, (3, 3, 7), (4, 1, 8), 2, training, "end"]
    assert len(history) == 2 and type(history[0]["double"]) is float
    assert history["double"] == pytest.approx(2.0 * history["loss"])
    # What is told in between changes nothing.
    np.testing.assert_allclose(training.model.flat.data, plain.model.flat.data, rtol=1e-14)
    assert history["loss"] == pytest.approx(plain.history["loss"], rel=1e-14)


def test_a_callback_that_ends_it_within_an_epoch():
    class Enough(nn.Callback):
        def on_step(self, training, step, losses):
            return step == 2

    training = made()
    history = training.fit(data(), epochs=5, callbacks=Enough())
    assert not history and training.optimizer.steps == 2


def test_a_callback_sees_gradients_of_several_batches_as_one_step():
    steps = []

    class Told(nn.Callback):
        def on_step(self, training, step, losses):
            steps.append((step, len(losses), training.optimizer.steps))

    made(accumulate=3).fit(data(70), epochs=1, callbacks=Told())
    # Five batches: a step of three, and one of two.
    assert steps == [(1, 3, 1), (2, 2, 2)]


def test_a_callback_may_change_the_rate_and_sees_the_model():
    seen = []

    class Slower(nn.Callback):
        def on_step(self, training, step, losses):
            seen.append(np.array(training.model.flat.data))
            training.optimizer.lr = 0.0

    training = made()
    training.fit(data(), epochs=1, callbacks=Slower())
    assert len(seen) == 4
    assert all(np.array_equal(seen[0], flat) for flat in seen[1:]) and np.array_equal(seen[0], training.model.flat.data)


class Shift(nn.Callback):
    """Gives the model other numbers after steps."""

    def __init__(self, every=1, end=None):
        self.every, self.end = every, end

    def on_step(self, training, step, losses):
        training.model.flat.data = np.clip(training.model.flat.data, -0.3, 0.3)
        return step == self.end


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("end", [None, 2])
def test_steps_go_on_from_what_a_callback_gives_the_model(accumulate, end):
    x, y = data()
    training, other = made(accumulate=accumulate), made(accumulate=accumulate)
    training.fit((x, y), epochs=1, callbacks=[Shift(end=end)], rng=3)
    order = np.random.default_rng(3).permutation(60)
    for start in range(0, 60, 16 * accumulate)[:end]:
        other.run(other.samples((x, y)), order[start : start + 16 * accumulate])
        other.model.flat.data = np.clip(other.model.flat.data, -0.3, 0.3)
    np.testing.assert_array_equal(training.model.flat.data, other.model.flat.data)


@pytest.mark.parametrize("step", [3, 4])
def test_a_nan_after_a_callback_that_gave_the_model_other_numbers(step):
    def with_buffers():
        model = nn.Sequential(nn.Linear(4, 6, rng=0), nn.BatchNorm1d(6), nn.Linear(6, 3, rng=1))
        return nn.Training(model, optim.Adam(model, 0.02), batch_size=16)

    x, y = data()
    order = np.random.default_rng(3).permutation(60)
    x[order[16 * (step - 1)]] = np.nan
    training, other = with_buffers(), with_buffers()
    with pytest.raises(NonFiniteError, match=f"epoch 1, step {step} "):
        training.fit((x, y), epochs=1, callbacks=[Shift(every=2)], rng=3)
    for start in range(0, 16 * (step - 1), 16):
        other.run(other.samples((x, y)), order[start : start + 16])
        if start == 16:
            other.model.flat.data = np.clip(other.model.flat.data, -0.3, 0.3)
    for name, found in training.model.state_dict().items():
        np.testing.assert_array_equal(found, other.model.state_dict()[name], err_msg=name)


def test_a_callback_that_raises_loses_nothing():
    ended = []

    class Fails(nn.Callback):
        def on_epoch(self, training, row):
            if row["epoch"] == 3:
                raise RuntimeError("out of coffee")

        def on_end(self, training):
            ended.append(len(training.history))

    training, plain = made(), made()
    with pytest.raises(RuntimeError, match="out of coffee"):
        training.fit(data(), epochs=5, callbacks=Fails(), rng=0)
    plain.fit(data(), epochs=3, rng=0)
    assert ended == [3] and len(training.history) == 3 and training.optimizer.steps == 12
    assert np.array_equal(training.model.flat.data, plain.model.flat.data)
    assert training.history["loss"].tolist() == plain.history["loss"].tolist()


def test_an_interrupt_within_an_epoch_leaves_the_epochs_before():
    class Interrupts(nn.Callback):
        def on_step(self, training, step, losses):
            if training.optimizer.steps == 6:
                raise KeyboardInterrupt

    training = made()
    with pytest.raises(KeyboardInterrupt):
        training.fit(data(), epochs=5, callbacks=Interrupts(), rng=0)
    assert len(training.history) == 1 and training.optimizer.steps == 6


@pytest.mark.parametrize("given", [3, [None], ["print"], [nn.EarlyStopping]])
def test_what_is_no_callback(given):
    with pytest.raises(StructureError, match="a callback is a Callback or a function"):
        made().fit(data(), epochs=1, callbacks=given)


def noisy_validation():
    """Targets that cannot be learnt: the validation loss rises soon."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
    return (x, y), (rng.normal(size=(30, 4)), rng.integers(0, 3, 30))


@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping_takes_the_best_weights(restore):
    train, held = noisy_validation()
    kept = {}
    stopping = nn.EarlyStopping(3, restore_best=restore)
    model = nn.MLP([4, 16, 3], "tanh", seed=0)
    training = nn.Training(model, optim.Adam(model, 0.05), batch_size=10)
    history = training.fit(
        train, epochs=200, validation=held, rng=0,
        callbacks=[stopping, lambda t, row: kept.update({row["epoch"]: np.array(t.model.flat.data)})],
    )  # fmt: skip
    losses = history["validation_loss"]
    best = int(np.argmin(losses)) + 1
    assert stopping.best_epoch == best and stopping.best == losses.min() and len(history) == best + 3 < 200
    assert np.array_equal(model.flat.data, kept[best if restore else best + 3])
    # Another training begins anew.
    training.fit(train, epochs=1, validation=held, callbacks=stopping)
    assert stopping.best_epoch == 1


def test_early_stopping_of_other_numbers():
    train, held = noisy_validation()
    training = made()
    stopping = nn.EarlyStopping(1, "validation_accuracy", min_delta=2.0)
    assert len(training.fit(train, epochs=50, validation=held, callbacks=stopping)) == 2
    with pytest.raises(StructureError, match="looks at 'validation_loss', the epoch has .*give fit a validation set"):
        training.fit(train, epochs=2, callbacks=nn.EarlyStopping())
    with pytest.raises(ValueError, match="patience"):
        nn.EarlyStopping(0)


def test_a_validation_set_must_be_like_the_data():
    x, y = data()
    training = made()
    before = np.array(training.model.flat.data)
    with pytest.raises(StructureError, match=r"a sample has shape \(4,\) there and \(5,\) here"):
        training.fit((x, y), epochs=1, validation=(np.ones((3, 5)), y[:3]))
    with pytest.raises(StructureError, match="integers where the other has floats"):
        training.fit((x, y), epochs=1, validation=(x, y.astype(float)))
    with pytest.raises(StructureError, match=r"validation must be a pair \(x, y\)"):
        training.fit((x, y), epochs=1, validation=x)
    with pytest.raises(ShapeError, match=r"validation\[0\] has 60 samples, validation\[1\] 59"):
        training.fit((x, y), epochs=1, validation=(x, y[:-1]))
    with pytest.raises(ShapeError, match="validation must have at least one sample"):
        training.fit((x, y), epochs=1, validation=(x[:0], y[:0]))
    with pytest.raises(ShapeError, match="data must have at least one sample"):
        training.fit((x[:0], y[:0]), epochs=1)
    nested = nn.Training(training.model, optim.SGD(), step=lambda m, b: np.mean(m(b["x"]) ** 2))
    with pytest.raises(StructureError, match="must be nested as the data"):
        nested.fit({"x": x}, epochs=1, validation={"z": x})
    with pytest.raises(LabelError):
        training.fit((x, y), epochs=1, validation=(x, y + 9))
    # The labels of the validation set are looked at after the first epoch.
    training.model.flat.data = before
    assert not training.history


def test_an_infinite_loss_is_found_and_blamed():
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.zeros((40, 1))
    x[17] = 0.0
    model = nn.Linear(3, 1, bias=False, rng=0)

    def squared_log(output, y):
        return np.mean(np.log(np.abs(output)) ** 2)

    training = nn.Training(model, optim.SGD(lr=1e-3), squared_log, batch_size=8)
    step = np.random.default_rng(0).permutation(40).tolist().index(17) // 8 + 1
    with pytest.raises(NonFiniteError, match=rf"epoch 1, step {step} \(of the optimiser {step}\)") as caught:
        training.fit((x, y), epochs=2, rng=0)
    report = caught.value.report
    assert report.operation == "log" and report.of.endswith("squared_log") and report.line is not None
    assert "fit(..., watch=False)" in str(caught.value)


def test_a_nan_in_parameters_that_no_later_batch_reads():
    class Table(nn.Module):
        def __init__(self):
            self.rows = nn.Parameter(np.where(np.arange(30) == 11, 0.0, 1.0))

        def forward(self, which):
            # Of the root of a square, the derivative at zero is not a number.
            return np.sqrt(self.rows[which] ** 2)

    which = np.arange(30)
    training = nn.Training(Table(), optim.SGD(lr=1e-3), lambda out, y: np.mean(out), batch_size=5)
    step = np.random.default_rng(1).permutation(30).tolist().index(11) // 5 + 1
    assert step < 6
    with pytest.raises(NonFiniteError, match=f"epoch 1, step {step} "):
        training.fit((which, which), epochs=1, rng=1)
    assert np.isfinite(training.model.flat.data).all() and training.optimizer.steps == step - 1


def test_the_step_of_a_nan_and_the_model_before_it():
    x, y = data(64)
    x[50, 2] = np.nan
    order = np.random.default_rng(3).permutation(64)
    batch = order.tolist().index(50) // 16
    training, plain = made(), made()
    where = rf"epoch 1, step {batch + 1} \(of the optimiser {batch + 1}\): the loss"
    with pytest.raises(NonFiniteError, match=where) as caught:
        training.fit((x, y), epochs=3, rng=3)
    assert "nan" in str(caught.value).lower() and caught.value.report.given
    if batch:
        plain.run(plain.samples((x, y)), order[: 16 * batch])
    assert training.optimizer.steps == batch and np.array_equal(training.model.flat.data, plain.model.flat.data)
    assert not training.history
    # Without watching it goes on.
    assert np.isnan(made().fit((x, y), epochs=1, rng=3, watch=False)["loss"]).all()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_nan_that_arises_in_a_gradient(accumulate):
    x, y = np.random.default_rng(0).normal(size=(64, 2)), np.zeros((64, 1))
    x[40] = 0.0

    def loss(output, y):
        # The root of a square is fine at zero, its derivative is not a number there.
        return np.mean(np.sqrt(output * output))

    def made():
        model = nn.Linear(2, 1, bias=False, rng=0)
        return nn.Training(model, optim.SGD(lr=0.01), loss, batch_size=8, accumulate=accumulate)

    order = np.random.default_rng(5).permutation(64)
    step = order.tolist().index(40) // (8 * accumulate)
    training, plain = made(), made()
    with pytest.raises(NonFiniteError, match=rf"epoch 1, step {step + 1} \(of the optimiser {step + 1}\)") as caught:
        training.fit((x, y), epochs=3, rng=5)
    assert caught.value.report.sweep == "reverse" and "sqrt" in str(caught.value)
    if step:
        plain.run(plain.samples((x, y)), order[: 8 * accumulate * step])
    assert np.isfinite(training.model.flat.data).all()
    assert np.array_equal(training.model.flat.data, plain.model.flat.data)
    assert training.optimizer.steps == step


def test_history_as_a_table_and_a_picture():
    pandas, pyplot = pytest.importorskip("pandas"), pytest.importorskip("matplotlib.figure")
    history = made().fit(data(), epochs=3, validation=data(20, seed=1), rng=0)
    frame = history.to_dataframe()
    assert isinstance(frame, pandas.DataFrame) and frame.index.tolist() == [1, 2, 3]
    assert frame["validation_loss"].tolist() == history["validation_loss"].tolist()
    figure = history.plot()
    assert isinstance(figure, pyplot.Figure) and len(figure.axes) == 2
    assert [len(axis.lines) for axis in figure.axes] == [2, 2]
    assert figure.axes[0].lines[1].get_ydata().tolist() == history["validation_loss"].tolist()
    assert nn.History().to_dataframe().empty
    assert repr(history).count("\n") == 3 and len(history[1:]) == 2
    with pytest.raises(KeyError, match="no 'lost'; it has epoch, steps, loss"):
        history["lost"]


def test_extras_that_are_missing_are_named(monkeypatch):
    for name in ("pandas", "matplotlib.figure", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    training = made()
    with pytest.raises(ExtraMissingError, match=r"tapegrad\[examples\]"):
        training.fit(data(), epochs=1, progress=True)
    history = training.fit(data(), epochs=1)
    with pytest.raises(ExtraMissingError, match=r"tapegrad\[pandas\]"):
        history.to_dataframe()
    with pytest.raises(ExtraMissingError, match=r"tapegrad\[examples\]"):
        history.plot()


def test_progress_draws_a_bar(capsys):
    pytest.importorskip("tqdm")
    made().fit(data(), epochs=2, progress=True)
    assert "2/2" in capsys.readouterr().err


def test_finding_a_rate_leaves_everything_as_it_was():
    training = made()
    x, y = data()
    training.epoch(x, y, rng=0)
    before, state = training.model.state_dict(), training.optimizer.state_dict()
    found = training.find_rate((x, y), low=1e-5, high=100.0, steps=60, rng=0)
    assert all(np.array_equal(before[name], array) for name, array in training.model.state_dict().items())
    assert all(np.array_equal(state[name], array) for name, array in training.optimizer.state_dict().items())
    assert len(found.rates) == len(found.losses) <= 60
    assert found.rates[0] == pytest.approx(1e-5) and (np.diff(found.rates) > 0.0).all()
    assert 1e-4 < found.suggestion < 1.0
    model = nn.MLP([4, 6, 3], "tanh", seed=0)
    learnt = nn.Training(model, optim.Adam(model, found.suggestion), batch_size=16).fit((x, y), epochs=20, rng=0)
    assert learnt[-1]["loss"] < 0.7 * learnt[0]["loss"]
    with pytest.raises(ValueError, match="0 < low < high"):
        training.find_rate((x, y), low=1.0, high=0.1)
    with pytest.raises(ValueError, match="ten steps"):
        training.find_rate((x, y), steps=3)


def test_finding_a_rate_where_the_loss_diverges():
    x = np.random.default_rng(0).normal(size=(40, 3))
    model = nn.Linear(3, 1, rng=0)
    training = nn.Training(model, optim.SGD(model, 0.1, groups=[{"params": "bias", "lr": 5.0}]), "mean_squared_error")
    before = np.array(model.flat.data)
    found = training.find_rate((x, x[:, :1]), low=1e-3, high=1e150, steps=50)
    assert np.array_equal(model.flat.data, before) and len(found.losses) < 50
    assert 1e-3 < found.suggestion < 2.0
    pytest.importorskip("matplotlib")
    assert found.plot().axes[0].get_xscale() == "log"


def test_buffers_that_are_not_kept_in_files_are_put_back_too():
    class Counted(nn.Module):
        def __init__(self):
            self.w = nn.Parameter(np.ones(1))
            self.n = nn.Buffer(np.array(0.0), persistent=False)

        def forward(self, x):
            self.n = self.n + 1.0
            return self.w * x * self.n

    x = np.ones((12, 1))
    model = Counted()
    training = nn.Training(model, optim.SGD(model, 0.01), "mean_squared_error", batch_size=1)
    training.find_rate((x, x), steps=10)
    assert model.n == 0.0 and model.flat.data.tolist() == [1.0]
    x[:] = np.inf
    with pytest.raises(NonFiniteError):
        training.fit((x, np.ones((12, 1))), epochs=1, rng=0)
    assert model.n == 0.0 and model.flat.data.tolist() == [1.0]
