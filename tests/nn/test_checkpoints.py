"""Checkpoints: a training that is resumed goes on with the same bits, and what does not fit changes nothing."""

import json

import numpy as np
import pytest

from tapegrad import nn, optim
from tapegrad.errors import DataError, NonFiniteError, ShapeError, StructureError, TapegradError
from tapegrad.optim.archive import read_arrays, write_arrays


def data(n=50, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, n)
    return rng.normal(size=(n, 4)) + y[:, None], y


KINDS = {
    "sgd": lambda m: optim.SGD(m, optim.cosine(0.1, 30), momentum=0.9),
    "adam in groups": lambda m: optim.Adam(
        m, optim.warmup(3, optim.constant(0.02)), groups=[{"params": "*.bias", "lr": 0.1}]
    ),
    "rmsprop": lambda m: optim.RMSprop(m, 0.01, centered=True, momentum=0.5),
}  # fmt: skip


def made(kind="adam in groups", seed=0, width=5, **options):
    model = nn.MLP([4, width, 3], "tanh", seed=seed)
    return nn.Training(model, KINDS[kind](model), batch_size=16, **options)


def same(one, other):
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def numbers(history):
    return [{name: x for name, x in row.items() if name != "seconds"} for row in history]


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox, np.random.SFC64])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_has_the_same_bits(tmp_path, kind, bits):
    train, held = data(), data(20, seed=1)
    path = tmp_path / "training.npz"
    whole, first = made(kind), made(kind)
    whole.fit(train, epochs=6, validation=held, rng=np.random.Generator(bits(3)))
    first.fit(train, epochs=3, validation=held, rng=np.random.Generator(bits(3)), callbacks=nn.Checkpoint(path))
    # Another model with other numbers, which the checkpoint replaces.
    second = made(kind, seed=9)
    history = second.fit(train, epochs=6, validation=held, resume=path, rng=77)
    assert np.array_equal(second.model.flat.data, whole.model.flat.data)
    assert same(second.optimizer.state_dict(), whole.optimizer.state_dict())
    assert numbers(history) == numbers(whole.history) and len(history) == 6
    # All epochs are done already.
    assert len(made(kind).fit(train, epochs=3, resume=path)) == 3


def test_an_interrupted_epoch_is_begun_again(tmp_path):
    class Interrupts(nn.Callback):
        def on_step(self, training, step, losses):
            if training.optimizer.steps == 10:
                raise KeyboardInterrupt

    path, train = tmp_path / "training.npz", data()
    whole, broken, again = made(), made(), made()
    whole.fit(train, epochs=4, rng=1)
    with pytest.raises(KeyboardInterrupt):
        broken.fit(train, epochs=4, rng=1, callbacks=[nn.Checkpoint(path), Interrupts()])
    again.fit(train, epochs=4, resume=path)
    assert np.array_equal(again.model.flat.data, whole.model.flat.data)


def test_what_callbacks_remember_is_resumed(tmp_path):
    rng = np.random.default_rng(0)
    train, held = (rng.normal(size=(20, 4)), rng.integers(0, 3, 20)), (rng.normal(size=(30, 4)), rng.integers(0, 3, 30))

    def made():
        model = nn.MLP([4, 16, 3], "tanh", seed=0)
        return nn.Training(model, optim.Adam(model, 0.05), batch_size=10)

    path = tmp_path / "training.npz"
    whole, first, second = made(), made(), made()
    expected, stopping, resumed = (nn.EarlyStopping(4) for _ in range(3))
    whole.fit(train, epochs=200, validation=held, rng=0, callbacks=expected)
    assert len(whole.history) < 200
    # Given in front of the other one, and called after it all the same.
    first.fit(train, epochs=len(whole.history) - 2, validation=held, rng=0, callbacks=[nn.Checkpoint(path), stopping])
    history = second.fit(train, epochs=200, validation=held, resume=path, callbacks=[nn.Checkpoint(path), resumed])
    assert len(history) == len(whole.history)
    assert (resumed.best, resumed.best_epoch, resumed.waited) == (expected.best, expected.best_epoch, expected.waited)
    assert np.array_equal(second.model.flat.data, whole.model.flat.data)


def test_which_epochs_are_written(tmp_path):
    train, held = data(), data(20, seed=1)
    made().fit(train, epochs=5, callbacks=nn.Checkpoint(tmp_path / "{epoch}.npz", every=2), rng=0)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["2.npz", "4.npz"]
    best = tmp_path / "best.npz"
    training = made()
    training.fit(train, epochs=5, validation=held, callbacks=nn.Checkpoint(best, monitor="validation_accuracy"), rng=0)
    losses = training.history["validation_accuracy"]
    again = made()
    again.load(best)
    assert len(again.history) == int(np.argmax(losses)) + 1
    assert again.evaluate(*held).accuracy == losses.max()
    with pytest.raises(ValueError, match="every 0"):
        nn.Checkpoint(best, every=0)
    with pytest.raises(StructureError, match="looks at 'validation_loss'"):
        made().fit(train, epochs=1, callbacks=nn.Checkpoint(best, monitor="validation_loss"))


def test_a_checkpoint_of_something_else_changes_nothing(tmp_path):
    path = tmp_path / "training.npz"
    made().fit(data(), epochs=2, callbacks=nn.Checkpoint(path))
    for other, error, text in (
        (made(width=6), ShapeError, "parameter '0.weight' has shape|has shape"),
        (made("sgd"), StructureError, "is of Adam, this is SGD"),
        (nn.Training(nn.Linear(4, 3), optim.Adam()), StructureError, "not those of this Linear"),
    ):
        other.fit(data(), epochs=1, rng=0)
        before, state = other.model.state_dict(), other.optimizer.state_dict()
        with pytest.raises(error, match=text):
            other.load(path)
        assert same(other.model.state_dict(), before) and same(other.optimizer.state_dict(), state)
        assert len(other.history) == 1
    model = nn.MLP([4, 5, 3], "tanh")
    model.save(tmp_path / "model.npz")
    with pytest.raises(StructureError, match=r"model\.npz is no checkpoint of a training"):
        made().load(tmp_path / "model.npz")
    with pytest.raises(FileNotFoundError):
        made().fit(data(), epochs=1, resume=tmp_path / "nothing.npz")


def test_damaged_checkpoints_raise_our_errors_only(tmp_path):
    path, training = tmp_path / "training.npz", made()
    stopping = nn.EarlyStopping(2, "loss")
    training.fit(data(), epochs=2, callbacks=[stopping, nn.Checkpoint(path)], rng=0)
    good = read_arrays(path, lambda names: None)
    before = training.model.state_dict()
    states = json.loads(str(good["generator"]))
    for name, array in (
        ("history", np.array("[1, 2]")), ("history", np.array("no json")), ("history", np.zeros(3)),
        ("history", np.array('[{"loss": "low"}]')), ("generator", np.array("{}")), ("kind", np.array("other")),
        ("generator", np.array(json.dumps(states | {"bit_generator": "os"}))),
        ("generator", np.array(json.dumps(states | {"state": {"state": "x", "inc": 2}}))),
        ("callback0EarlyStopping.numbers", np.zeros(7)), ("optimizer.steps", np.array(-1)),
        ("model.extra", np.zeros(1)),
    ):  # fmt: skip
        write_arrays(path, good | {name: array})
        with pytest.raises(TapegradError):
            training.load(path)
        assert same(training.model.state_dict(), before), name
        assert len(training.history) == 2 and stopping.best_epoch == 2
    write_arrays(path, {name: x for name, x in good.items() if name != "generator"})
    with pytest.raises(StructureError, match="no checkpoint"):
        training.load(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(DataError):
        training.load(path)
    write_arrays(path, good)
    training.load(path)


def made_with_state(seed=0):
    layers = nn.Linear(4, 6, rng=seed), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3, rng=seed), nn.Linear(6, 3, rng=1)
    model = nn.Sequential(*layers)
    return nn.Training(model, optim.Adam(model, 0.02), batch_size=16)


def test_running_statistics_and_dropout_are_resumed_and_not_used_in_validation(tmp_path):
    train, held = data(), data(20, seed=1)
    path = tmp_path / "training.npz"
    whole, first, second = made_with_state(), made_with_state(), made_with_state(seed=5)
    whole.fit(train, epochs=6, validation=held, rng=3)
    first.fit(train, epochs=3, validation=held, rng=3, callbacks=nn.Checkpoint(path))
    history = second.fit(train, epochs=6, validation=held, resume=path)
    assert same(second.model.state_dict(), whole.model.state_dict())
    assert numbers(history) == numbers(whole.history)
    # In evaluation nothing is drawn, so that it is the same each time.
    assert whole.evaluate(*held).loss == whole.evaluate(*held).loss == whole.history[-1]["validation_loss"]


def test_early_stopping_restores_running_statistics():
    train, held = data(20), data(30, seed=1)
    training, kept = made_with_state(), {}
    stopping = nn.EarlyStopping(2)
    training.fit(
        train, epochs=60, validation=held, rng=0,
        callbacks=[stopping, lambda t, row: kept.update({row["epoch"]: t.model.state_dict()})],
    )  # fmt: skip
    assert same(training.model.state_dict(), kept[stopping.best_epoch])
    assert training.evaluate(*held).loss == stopping.best


def test_a_nan_leaves_running_statistics_as_before_it():
    x, y = data(64)
    x[50, 2] = np.nan
    order = np.random.default_rng(3).permutation(64)
    batch = order.tolist().index(50) // 16
    training, plain = made_with_state(), made_with_state()
    with pytest.raises(NonFiniteError, match=f"epoch 1, step {batch + 1} "):
        training.fit((x, y), epochs=2, rng=3)
    if batch:
        plain.run(plain.samples((x, y)), order[: 16 * batch])
    assert same(training.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("kind", ["plain", "adam in groups", "group"])
def test_a_rate_that_a_callback_has_set_is_kept(tmp_path, kind):
    def halve(training, row):
        holder = training.optimizer if kind == "plain" else training.optimizer.groups[0]
        holder.lr *= 0.5

    def training_of():
        model = nn.MLP([4, 5, 3], "tanh", seed=0)
        makers = {
            "plain": lambda m: optim.Adam(m, 0.1),
            "group": lambda m: optim.SGD([{"params": m[0], "lr": 0.1}, {"params": m[2]}], 0.2),
        }
        return nn.Training(model, (KINDS | makers)[kind](model), batch_size=16)

    path = tmp_path / "training.npz"
    whole, first, second = training_of(), training_of(), training_of()
    whole.fit(data(), epochs=6, rng=0, callbacks=halve)
    first.fit(data(), epochs=3, rng=0, callbacks=[halve, nn.Checkpoint(path)])
    second.fit(data(), epochs=6, resume=path, callbacks=halve)
    assert numbers(second.history) == numbers(whole.history)
    assert np.array_equal(second.model.flat.data, whole.model.flat.data)
    assert same(second.optimizer.state_dict(), whole.optimizer.state_dict())
    # What does not fit is refused, and changes nothing.
    other = nn.Training(nn.MLP([4, 6, 3], seed=0), optim.Adam(lr=0.7), batch_size=16)
    with pytest.raises(Exception, match="expected|saved|shape"):
        other.load(path)
    assert other.optimizer.lr == 0.7
