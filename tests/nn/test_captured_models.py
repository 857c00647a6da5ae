"""Models that a recorded function reads from around it: in gradients, and in the steps of another model's training."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn, optim
from tapegrad.errors import NonFiniteError

X = np.random.default_rng(5).normal(size=(12, 2))


def plain_epochs(student, teacher_of, epochs, rate=0.1):
    """Gradient descent written out, in the order of the samples, with the teacher that there is in each epoch."""
    w, b = np.array(student.weight.data), np.array(student.bias.data)
    for epoch in range(epochs):
        tw, tb = teacher_of(epoch)
        for start in range(0, len(X), 4):
            x = X[start : start + 4]
            off = 2.0 * (x @ w + b - (x @ tw + tb)) / len(x)
            w, b = w - rate * x.T @ off, b - rate * off.sum(0)
    return w, b


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_captured_model_that_was_never_called(dtype):
    teacher, student = (nn.Linear(2, 1, rng=i, dtype=dtype) for i in range(2))
    x = X.astype(dtype)
    f = tg.value_and_grad(lambda s, x: np.mean((s(x) - teacher(x)) ** 2))
    value, gradient = f(student, x)
    off = x @ student.weight.data - x @ teacher.weight.data
    np.testing.assert_allclose(value.data, np.mean(off**2), rtol=1e-6)
    np.testing.assert_allclose(gradient.weight.data, 2.0 * x.T @ off / len(x), rtol=1e-5)
    teacher.weight.data = np.zeros((2, 1), dtype)
    np.testing.assert_allclose(f(student, x)[0].data, np.mean((x @ student.weight.data) ** 2), rtol=1e-6)
    assert [w.label for w in teacher.parameters()] == ["weight", "bias"]


def distillation(teacher_of, step=None):
    student = nn.Linear(2, 1, rng=1)

    def own(m, batch):
        return np.mean((m(batch["x"]) - teacher_of()(batch["x"])) ** 2)

    return student, nn.Training(student, optim.SGD(student, 0.1), step=step or own, batch_size=4)


def in_order(training, epochs=1):
    samples = training.samples({"x": X})
    for _ in range(epochs):
        training.run(samples, np.arange(len(X)))


@pytest.mark.parametrize("called", [False, True])
@pytest.mark.parametrize("change", ["numbers", "parameter", "gathered", "layer"])
def test_a_teacher_in_a_step_is_read_anew_each_epoch(called, change):
    teacher = nn.Sequential(nn.Linear(2, 1, rng=0))
    if called:
        teacher(X)
    student, training = distillation(lambda: teacher)
    known = plain_epochs(student, lambda _: (teacher[0].weight.data, 0.0), 2)
    in_order(training, 2)
    np.testing.assert_allclose(student.weight.data, known[0], rtol=1e-12)
    np.testing.assert_allclose(student.bias.data, known[1], rtol=1e-12, atol=1e-14)
    new = np.array([[3.0], [-4.0]])
    if change == "numbers":
        teacher[0].weight.data = new
    elif change == "parameter":
        object.__setattr__(teacher[0], "weight", nn.Parameter(new))
    elif change == "gathered":
        whole = nn.Sequential(nn.Linear(1, 1), teacher)
        whole.parameters()
        teacher[0].weight.data = new
    else:
        teacher.modules = [nn.Linear(2, 1, rng=7)]
        teacher[0].weight.data = new
    known = plain_epochs(student, lambda _: (new, 0.0), 2)
    in_order(training, 2)
    np.testing.assert_allclose(student.weight.data, known[0], rtol=1e-12)
    np.testing.assert_allclose(student.bias.data, known[1], rtol=1e-12, atol=1e-14)
    assert np.array_equal(teacher[0].weight.data, new)


def test_a_moving_average_of_the_student_as_the_teacher():
    teacher = nn.Linear(2, 1, rng=0)
    student, training = distillation(lambda: teacher)
    kept = []
    for _ in range(3):
        kept.append((np.array(teacher.weight.data), np.array(teacher.bias.data)))
        start = nn.Linear(2, 1)
        start.load_state_dict(student.state_dict())
        in_order(training)
        known = plain_epochs(start, lambda _: kept[-1], 1)
        np.testing.assert_allclose(student.weight.data, known[0], rtol=1e-12)
        for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
            own.data = 0.5 * own.data + 0.5 * other.data


def test_a_number_of_another_model_is_no_constant_of_the_step():
    scale = nn.Linear(1, 1, rng=0)
    student, training = distillation(None, lambda m, batch: scale.bias.sum() * np.mean(m(batch["x"])))
    before = np.array(student.bias.data)
    in_order(training)
    np.testing.assert_allclose(student.bias.data, before)
    scale.bias.data = np.array([2.0])
    in_order(training)
    np.testing.assert_allclose(student.bias.data, before - 3 * 0.1 * 2.0, rtol=1e-12)


def test_a_captured_teacher_with_buffers_and_a_captured_student():
    teacher = nn.Sequential(nn.Linear(2, 1, rng=0), nn.BatchNorm1d(1)).eval()
    student, training = distillation(lambda: teacher)
    known = plain_epochs(student, lambda _: (teacher[0].weight.data / np.sqrt(1.0 + 1e-5), 0.0), 1)
    in_order(training)
    np.testing.assert_allclose(student.weight.data, known[0], rtol=1e-12)
    mine, other = nn.Linear(2, 1, rng=1), nn.Linear(2, 1, rng=1)
    steps = [lambda m, batch: np.mean(mine(batch["x"]) ** 2), lambda m, batch: np.mean(m(batch["x"]) ** 2)]
    for model, step in zip((mine, other), steps, strict=True):
        training = nn.Training(model, optim.SGD(model, 0.1), step=step, batch_size=4)
        in_order(training)
    assert np.array_equal(mine.weight.data, other.weight.data)


def test_a_loss_with_a_teacher_that_is_not_finite_is_explained():
    teacher = nn.Linear(2, 1, rng=0)
    _, training = distillation(None, lambda m, b: np.mean(np.log(m(b["x"]) - m(b["x"]) - teacher(b["x"]) ** 2)))
    with pytest.raises(NonFiniteError, match=r"the loss is not finite\nNaN made.* = ln v"):
        training.fit({"x": X}, epochs=1, rng=0)
