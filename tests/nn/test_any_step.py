"""Training of any step function: nested batches, whole numbers that stay whole, gradients of several batches."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import (
    DTypeError,
    LabelError,
    NonScalarError,
    OperationError,
    RecordingWarning,
    ShapeError,
    StructureError,
    UnsupportedError,
)


def data(n=50, n_in=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.normal(size=(n, n_in)) + y[:, None], y


def eager(model, optimizer, step, batches):
    """Steps with Values in a loop of Python; returns the losses."""
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = step(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.data))
    return losses


def taken(data, rows):
    return {name: (taken(x, rows) if isinstance(x, dict) else x[rows]) for name, x in data.items()}


def parts(order, size):
    return [order[i : i + size] for i in range(0, len(order), size)]


class Tagger(nn.Module):
    """Looks rows up by whole numbers, and scores them."""

    def __init__(self, rng=0):
        rng = np.random.default_rng(rng)
        self.table = nn.Parameter(rng.normal(size=(7, 4)))
        self.out = nn.Linear(4, 3, rng=rng)

    def forward(self, tokens):
        return self.out(np.mean(self.table[tokens], axis=1))


def test_a_step_with_a_pair_equals_the_loss():
    x, y = data()
    models = [nn.MLP([6, 8, 3], "tanh", seed=1) for _ in range(2)]
    by_loss = nn.Training(models[0], optim.Adam(lr=0.01), batch_size=16)
    step = lambda model, batch: tg.cross_entropy(model(batch[0]), batch[1])
    by_step = nn.Training(models[1], optim.Adam(lr=0.01), step=step, batch_size=16)
    for epoch in range(2):
        first, second = by_loss.epoch(x, y, rng=epoch), by_step.epoch((x, y), rng=epoch)
        assert first.loss == pytest.approx(second.loss, rel=1e-12) and np.isnan(second.accuracy)
    np.testing.assert_allclose(models[0].flat.data, models[1].flat.data, rtol=1e-12)
    assert by_step.evaluate((x, y)).loss == pytest.approx(by_loss.evaluate(x, y).loss, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_nested_batch_equals_the_plain_loop(dtype):
    rng = np.random.default_rng(0)
    given = {
        "image": rng.normal(size=(50, 2, 3)).astype(dtype),
        "target": {"mean": rng.normal(size=(50, 3)).astype(dtype), "weight": rng.random(50).astype(dtype)},
        "label": rng.integers(0, 3, 50),
        "rows": rng.integers(0, 4, (50, 2)),
    }

    def step(model, batch):
        x = batch["image"].reshape(len(batch["label"]), -1)
        output = model(x)
        error = np.mean((output - batch["target"]["mean"]) ** 2, axis=1) * batch["target"]["weight"]
        looked_up = np.asarray(np.eye(4), dtype)[batch["rows"]]
        chosen = np.mean(looked_up[:, :, 0] * output[:, :2])
        return np.mean(error) + tg.cross_entropy(output, batch["label"]) + 0.1 * chosen

    fast, plain = (nn.MLP([6, 8, 3], "tanh", seed=1, dtype=dtype) for _ in range(2))
    training, optimizer = nn.Training(fast, optim.SGD(lr=0.1), step=step, batch_size=16), optim.SGD(plain, 0.1)
    for epoch in range(2):
        found = training.epoch(given, rng=epoch)
        chunks = parts(np.random.default_rng(epoch).permutation(50), 16)
        losses = eager(plain, optimizer, step, [taken(given, rows) for rows in chunks])
        expected = np.average(losses, weights=[len(rows) for rows in chunks])
        assert found.loss == pytest.approx(expected, rel=1e-11 if dtype == np.float64 else 1e-5)
    tolerance = 1e-11 if dtype == np.float64 else 2e-5
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("how", ["loss", "pair", "dict", "alone"])
def test_tokens_stay_whole_numbers(how):
    rng = np.random.default_rng(1)
    tokens, y = rng.integers(0, 7, (40, 5)), rng.integers(0, 3, 40)
    fast, plain = Tagger(), Tagger()

    def step(model, batch):
        pair = (batch["tokens"], batch["y"]) if how == "dict" else batch
        pair = (pair[:, :5], pair[:, 5]) if how == "alone" else pair
        return tg.cross_entropy(model(pair[0]), pair[1])

    given = {"pair": (tokens, y), "dict": {"y": y, "tokens": tokens}, "alone": np.column_stack([tokens, y])}
    options = {} if how == "loss" else {"step": step}
    training = nn.Training(fast, optim.Adam(lr=0.05), batch_size=16, **options)
    optimizer = optim.Adam(plain, 0.05)
    for epoch in range(3):
        found = training.epoch(*((tokens, y) if how == "loss" else (given[how],)), rng=epoch)
        chunks = parts(np.random.default_rng(epoch).permutation(40), 16)
        losses = eager(plain, optimizer, lambda m, rows: tg.cross_entropy(m.forward(tokens[rows]), y[rows]), chunks)
        assert found.loss == pytest.approx(np.average(losses, weights=[16, 16, 8]), rel=1e-11)
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-10, atol=1e-13)


def test_whole_numbers_for_layers_of_floats_are_converted():
    x, y = data()
    whole = np.round(10.0 * x).astype(np.int32)
    models = [nn.MLP([6, 8, 3], "tanh", seed=1) for _ in range(2)]
    losses = [
        nn.Training(model, optim.SGD(lr=0.01), batch_size=16).epoch(given, y, rng=0).loss
        for model, given in zip(models, (whole, whole.astype(float)), strict=True)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    np.testing.assert_allclose(models[0].flat.data, models[1].flat.data, rtol=1e-12)


MASKS = {
    "index": lambda y, mask: np.sum(y[mask] ** 2),
    "attention": lambda y, mask: np.sum(tg.scaled_dot_product_attention(y, y, y, mask) ** 2),
    "not": lambda y, mask: np.sum(np.where(~mask, y, 0.0) ** 2),
    "and": lambda y, mask: np.sum(np.where(mask & (y > 0.0), y, 0.0) ** 2),
    "count": lambda y, mask: np.sum(np.where(mask, y, 1.0)) / np.sum(mask),
}


@pytest.mark.parametrize("beside", ["alone", "floats", "whole numbers", "both"])
@pytest.mark.parametrize("use", MASKS)
def test_truth_values_stay_masks(use, beside):
    rng = np.random.default_rng(3)
    x, mask, counts = rng.normal(size=(20, 5)), rng.random((20, 5, 5)) < 0.5, rng.integers(1, 4, 20)
    mask[:, :, 0] = True
    given = {"mask": mask}
    given |= {"x": x} if beside in ("floats", "both") else {}
    given |= {"counts": counts} if beside in ("whole numbers", "both") else {}

    def step(model, batch):
        rows = batch["x"] if "x" in batch else np.ones((len(batch["mask"]), 5))
        y = model(rows)[:, None, :] * np.arange(1.0, 6.0)[:, None]
        loss = MASKS[use](y, batch["mask"]) / 100.0
        return loss * np.mean(batch["counts"]) if "counts" in batch else loss

    fast, plain = (nn.Linear(5, 5, rng=1) for _ in range(2))
    training, optimizer = nn.Training(fast, optim.SGD(lr=0.01), step=step, batch_size=10), optim.SGD(plain, 0.01)
    for epoch in range(2):
        found = training.epoch(given, rng=epoch)
        chunks = parts(np.random.default_rng(epoch).permutation(20), 10)
        losses = eager(plain, optimizer, step, [taken(given, rows) for rows in chunks])
        assert found.loss == pytest.approx(np.mean(losses), rel=1e-11)
    np.testing.assert_allclose(fast.flat.data, plain.flat.data, rtol=1e-11, atol=1e-13)


def test_truth_values_are_data_of_a_loss_too():
    x, y = data()
    loss = lambda output, hit: np.mean(np.where(hit, output[:, 0], 0.0) ** 2) + np.mean(output[hit][:, 1] ** 2)
    training = nn.Training(nn.Linear(6, 3, rng=0), optim.SGD(lr=0.0), loss, batch_size=50)
    output, hit = training.model(x).data, y > 0
    expected = np.mean(np.where(hit, output[:, 0], 0.0) ** 2) + np.mean(output[hit][:, 1] ** 2)
    assert training.epoch(x, hit).loss == pytest.approx(expected, rel=1e-12)
    with pytest.raises(StructureError, match="one has truth values where the other has integers"):
        training.fit((x, hit), epochs=1, validation=(x, y))


def test_an_array_with_a_mask_is_refused():
    x, y = data()
    training = nn.Training(nn.Linear(6, 3, rng=0), optim.SGD(lr=0.1))
    hidden = np.ma.masked_array(x, mask=x > 1.0)
    for call in (lambda: training.epoch(hidden, y), lambda: training.predict(hidden)):
        with pytest.raises(UnsupportedError, match=r"x: the mask of an np.ma array would be lost"):
            call()


@pytest.mark.parametrize("clips", [{}, {"clip_norm": 0.05}, {"clip_value": 0.01}])
@pytest.mark.parametrize("kind", [lambda m: optim.SGD(m, 0.5), lambda m: optim.Adam(m, optim.cosine(0.1, 20))])
@pytest.mark.parametrize("n", [48, 50, 61])  # even; with a last update of less; of batches and a remainder
def test_accumulated_gradients_are_those_of_the_larger_batch(n, kind, clips):
    x, y = data(n)
    many, large = (nn.MLP([6, 8, 3], "tanh", seed=1) for _ in range(2))
    first = nn.Training(many, kind(many), batch_size=4, accumulate=4, **clips)
    second = nn.Training(large, kind(large), batch_size=16, **clips)
    assert first.steps_per_epoch(n) == second.steps_per_epoch(n)
    for epoch in range(2):
        found, expected = first.epoch(x, y, rng=epoch), second.epoch(x, y, rng=epoch)
        assert found == pytest.approx(expected, rel=1e-11)
        np.testing.assert_allclose(many.flat.data, large.flat.data, rtol=1e-10, atol=1e-12)
    assert first.optimizer.steps == second.optimizer.steps == 2 * second.steps_per_epoch(n)


def test_accumulated_gradients_in_groups_and_with_dropped_samples():
    x, y = data(50)
    models = [nn.MLP([6, 8, 3], "tanh", seed=1, dtype=np.float32) for _ in range(2)]
    group = {"params": "*.bias", "lr": 0.2}
    results = []
    for model, batch, accumulate in zip(models, (4, 16), (4, 1), strict=True):
        optimizer = optim.SGD(model, 0.1, momentum=0.9, groups=[group])
        training = nn.Training(model, optimizer, batch_size=batch, accumulate=accumulate, drop_last=True)
        results.append([training.epoch(x, y, rng=epoch).loss for epoch in range(3)])
        assert optimizer.steps == 9
    np.testing.assert_allclose(*results, rtol=1e-5)
    np.testing.assert_allclose(models[0].flat.data, models[1].flat.data, rtol=1e-4, atol=1e-5)


def test_bad_data():
    x, y = data(20)
    model = nn.MLP([6, 3])
    step = lambda m, b: tg.cross_entropy(m(b["x"]), b["y"])
    training = nn.Training(model, optim.SGD(lr=0.1), step=step, batch_size=8)
    before = np.array(model.flat.data)
    with pytest.raises(ShapeError, match=r"data\['x'\] has 20 samples, data\['y'\] 19"):
        training.epoch({"x": x, "y": y[:19]})
    with pytest.raises(ShapeError, match="at least one sample"):
        training.epoch({"x": x[:0], "y": y[:0]})
    with pytest.raises(StructureError, match="must hold arrays, there are none"):
        training.epoch({})
    with pytest.raises(ShapeError, match=r"data\['y'\] must have one row for each sample"):
        training.epoch({"x": x, "y": 1.0})
    with pytest.raises(DTypeError, match=r"data\['y'\] must be an array of real numbers, not <U"):
        training.epoch({"x": x, "y": y.astype(str)})
    with pytest.raises(KeyError, match="x"):
        training.epoch({"z": x, "y": y})
    with pytest.raises(LabelError):
        training.epoch({"x": x, "y": y + 5})
    assert np.array_equal(model.flat.data, before) and training.optimizer.steps == 0
    with pytest.raises(StructureError, match=r"a pair \(x, y\)"):
        nn.Training(model, optim.SGD()).epoch({"x": x, "y": y})
    with pytest.raises(NonScalarError):
        nn.Training(model, optim.SGD(), step=lambda m, b: m(b)).epoch(x)
    with pytest.raises(ValueError, match="a loss or a step, not both"):
        nn.Training(model, optim.SGD(), "cross_entropy", step=lambda m, b: m(b))
    with pytest.raises(ValueError, match="to accumulate must be positive"):
        nn.Training(model, optim.SGD(), accumulate=0)
    single = nn.MLP([6, 3], dtype=np.float32)
    with pytest.raises(DTypeError, match="the whole number 16777216, but float32 holds them up to 16777215"):
        nn.Training(single, optim.SGD()).epoch(x, 0 * y + 2**24)


def test_a_step_of_an_unchanged_structure_is_recorded_once():
    x = np.random.default_rng(0).normal(size=(40, 3))
    step = lambda m, b: np.mean(m(b["x"]) ** 2)
    training = nn.Training(nn.Linear(3, 1, rng=0), optim.SGD(lr=0.1), step=step, batch_size=16)
    for epoch in range(3):
        training.epoch({"x": x}, rng=epoch)
    assert [step._branches.recorded for step in training._steps.values()] == [1, 1]


@pytest.mark.parametrize("result, named", [
    (lambda loss: None, "NoneType"), (lambda loss: (loss, 1.0), "tuple"), (lambda loss: [loss], "list"),
    (lambda loss: {"accuracy": 0.0 * loss, "loss": loss}, "dict"), (lambda loss: "0.5", "str"),
])  # fmt: skip
def test_a_step_returns_one_number(result, named):
    """Of a dict, the first entry was trained on."""
    model, x = nn.Linear(3, 3, rng=0), np.ones((5, 3))
    before = model.flat.data
    for how in ({"step": lambda m, b: result(np.mean(m(b) ** 2))}, {"loss": lambda output, y: result(np.mean(output))}):
        training = nn.Training(model, optim.SGD(lr=0.1), **how)
        with pytest.raises(NonScalarError, match=f"a loss must be one number, not a {named}"):
            training.epoch(x, *([] if "step" in how else [x]))
    assert np.array_equal(model.flat.data, before)


def test_what_a_training_is_made_of_is_checked():
    x, y = data()
    model, optimizer = nn.Linear(6, 3, rng=0), optim.SGD(lr=0.1)
    for size, fault in ((0, "positive"), (-1, "positive"), (3.5, "a whole number"), ("3", "a whole number")):
        with pytest.raises(OperationError, match=f"the batch size must be {fault}, not {size!r}"):
            nn.Training(model, optimizer, batch_size=size)
    with pytest.raises(OperationError, match=r"batches to accumulate must be a whole number, not 1.5"):
        nn.Training(model, optimizer, accumulate=1.5)
    with pytest.raises(StructureError, match=r"must be a tapegrad.nn.Module, not a SGD"):
        nn.Training(optimizer, model)
    with pytest.raises(StructureError, match=r"the optimizer must be one of tapegrad.optim, .* not <class"):
        nn.Training(model, optim.SGD)
    with pytest.raises(OperationError, match="the step must be a function, not 3"):
        nn.Training(model, optimizer, step=3)
    training = nn.Training(model, optimizer, batch_size=np.int64(16))
    with pytest.raises(OperationError, match="number of epochs must be a whole number, not 2.5"):
        training.fit((x, y), epochs=2.5)
    for call in (lambda: training.evaluate(x, y, batch_size=0), lambda: training.predict(x, batch_size=-1)):
        with pytest.raises(OperationError, match="the batch size must be positive"):
            call()
    assert len(training.fit((x, y), epochs=2, rng=0)) == 2


@pytest.mark.parametrize("how", ["loss", "step"])
def test_a_warning_names_the_function_that_was_written(how):
    x, weights = np.ones((6, 3)), np.ones(3)

    def squares(output, y):
        return np.mean(weights * output**2)

    def of_a_batch(model, x):
        return squares(model(x), None)

    options = {"loss": squares} if how == "loss" else {"step": of_a_batch}
    training = nn.Training(nn.Linear(3, 3, rng=0), optim.SGD(lr=0.0), batch_size=6, **options)
    data = (x, x) if how == "loss" else (x,)
    before = training.epoch(*data).loss
    weights *= 3.0
    with pytest.warns(RecordingWarning, match=r"squares was recorded with|of_a_batch was recorded with"):
        assert training.epoch(*data).loss == pytest.approx(3.0 * before)
