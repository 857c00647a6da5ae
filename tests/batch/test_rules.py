"""How each operation over whole arrays is carried out in lanes: with the same results as lane by lane."""

import itertools

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.batch import programs
from tapegrad.functions.products import affine
from tapegrad.functions.recurrence import lstm_steps
from tapegrad.ops import BY_NAME, TABLE, Structured

RNG = np.random.default_rng(3)
X, W, INDEX = RNG.normal(size=(3, 4)), RNG.normal(size=(4, 2)), np.array([2, 0, -1, 2])
CUBE = RNG.normal(size=(2, 3, 4))
IMAGES, KERNEL, MAPS = RNG.normal(size=(2, 2, 6, 5)), RNG.normal(size=(3, 2, 3, 2)), RNG.normal(size=(2, 3, 3, 2))


def by(f):
    """The gradient of f with respect to its first argument."""
    return lambda *args: tg.grad(f)(*args)


# For each operation functions that record it, and their arguments; operands have several layouts.
CASES = {
    "sum": [(lambda x: np.sum(x, 0) * np.sum(x, 1)[0], X), (lambda x: np.sum(x.T[::2], 1), X), (np.sum, CUBE[:, ::2])],
    "prod": [(lambda x: np.prod(x, 1), X), (lambda x: np.prod(x, 1), CUBE), (lambda x: np.prod(x.T, 0), X)],
    "max": [(lambda x: np.max(x, 0), X), (lambda x: np.min(x, 1), CUBE), (lambda x: np.max(x[:, ::-2]), X)],
    "logsumexp": [(lambda x: tg.logsumexp(x, axis=0), X), (lambda x: tg.logsumexp(x.T, axis=0), X)],
    "norm": [(lambda x: np.linalg.norm(x, axis=1), X), (lambda x: np.linalg.norm(x[::2]), X)],
    "cumsum": [(lambda x: np.cumsum(x, 0), X), (lambda x: np.cumsum(x, 1), CUBE), (lambda x: np.cumsum(x.T, 1), X)],
    "argmax": [(lambda x: x[np.argmax(x)], X[0]), (lambda x: x[np.argmin(x, 1)], X[:, :3])],
    "argsort": [(lambda x: np.sort(x, 1) ** 2, X), (lambda x: np.sort(x, 0), CUBE[0])],
    "gather": [
        (lambda x, i: x[i] ** 2, X[0], INDEX),
        (lambda x, i: x[:, i] * 2.0, X, INDEX),
        (lambda x, i: x[:, i, :], CUBE, INDEX[:2]),
        (lambda x, i: np.take(x, i, axis=0), X, INDEX[:3].reshape(3, 1)),
    ],
    "scatter": [
        (by(lambda x, i: np.sum(x[i] ** 3)), X[0], INDEX),
        (by(lambda x, i: np.sum(x[:, i, :] ** 3)), CUBE, INDEX[:2]),
        (by(lambda x, i: np.sum(x[i])), X[0], INDEX),
    ],
    "concatenate": [
        (lambda x, w: np.concatenate([x[:, :2], w.T[:, :2], x[:, ::2]]), X, W),
        (lambda x, w: np.concatenate([x, w], 1), X, X + 1.0),
    ],
    "assemble": [
        (by(lambda x: np.sum(x[1:] * x[:-1]) + np.sum(x[:, ::2] ** 3)), X),
        (by(lambda x: np.sum(np.broadcast_to(x, (2, 3, 4)) ** 2) * x[0, 0]), X),
        (by(lambda x: x[0] * x[1] + np.sin(x[2])), X[0, :3]),
        (by(lambda x, w: np.sum(x[:, :2] @ w) * x[0, 3]), X, W[:2]),
    ],
    "matmul": [
        (lambda x, w: x @ w, X, W),
        (lambda x, w: w.T @ x.T, X, W),
        (lambda x, w: x[0] @ w * (x[:, 0] @ x[:, 1]), X, W),
        (lambda x, w: np.matmul(x, w), CUBE, np.stack([W, W])),
        (lambda x, w: np.matmul(w.swapaxes(1, 2), x.swapaxes(1, 2)), CUBE, np.stack([W, W])),
        (lambda x, w: x @ w, RNG.normal(size=(5, 12)), RNG.normal(size=(12, 6))),
    ],
    "affine": [(affine, X, W, W[0]), (lambda x, w, b: affine(x.T, w.T, b), W, RNG.normal(size=(5, 4)), np.ones(5))],
    "cross_entropy": [
        (lambda x, i: tg.cross_entropy(x, i, reduction="none"), X, np.array([1, 3, 0])),
        (lambda x, i: tg.cross_entropy(x.T, i), X, np.array([1, 2, 0, 1])),
    ],
    "at_labels": [
        (lambda x, i: tg.nll_loss(x, i, reduction="none"), X, np.array([1, 3, 0])),
        (lambda x, i: tg.nll_loss(x.T, i), X, np.array([1, 2, 0, 1])),
    ],
    "moments": [(lambda x: tg.batch_norm(x), X), (lambda x: tg.batch_norm(x), CUBE)],
    "normalize": [(lambda x, m, w: tg.batch_norm(x, m, np.exp(m), w, m), X, X[1], X[0])],
    "normalize_groups": [
        (lambda x, w: tg.layer_norm(x, 4, w, w), X, X[0]), (lambda x: tg.group_norm(x, 3), CUBE),
        (lambda x, m: tg.group_norm(x, x.shape[1], m, m), CUBE, np.arange(1.0, 1.0 + CUBE.shape[1])),
        (lambda x, e: tg.layer_norm(x, 4, eps=e[0] ** 2), X, np.array([0.5])),
    ],
    "normalize_groups_back": [
        (lambda x, w: tg.grad(lambda x: np.sum(tg.layer_norm(x, 4, w, w) ** 3))(x), X, X[0]),
        (lambda x, w: tg.grad(lambda w: np.sum(tg.group_norm(x, 3, w, w) ** 3))(w), CUBE,
         np.arange(1.0, 1.0 + CUBE.shape[1])),
    ],
    "convolution": [
        (lambda x, w: tg.conv(x, w, stride=2, padding=1), IMAGES, KERNEL),
        (lambda x, w: tg.conv(x[:, :, 0], w[:2, :1, 0], groups=2), IMAGES, KERNEL),
    ],
    "biased_convolution": [(lambda x, w, b: tg.conv(x, w, b), IMAGES, KERNEL, np.arange(3.0))],
    "convolution_input": [(lambda y, w: tg.conv_transpose(y, w, stride=2), MAPS, KERNEL)],
    "convolution_kernel": [(by(lambda w, x: np.sum(np.tanh(tg.conv(x, w)))), KERNEL, IMAGES)],
    "window_argmax": [(lambda x: tg.max_pool(x, (2, 2)), IMAGES)],
    "window_take": [(lambda x: tg.max_pool(x, (3,), stride=1, padding=1), X)],
    "window_put": [(by(lambda x: np.sum(tg.max_pool(x, (2, 2)) ** 2)), IMAGES)],
    "window_sum": [(lambda x: tg.avg_pool(x, (2, 2)), IMAGES)],
    "window_spread": [(by(lambda x: np.sum(tg.avg_pool(x, (2, 2), stride=1) ** 2)), IMAGES)],
    "lstm_gates": [(lambda a, w, h, c: lstm_steps(a, w, h, c)[0], RNG.normal(size=(3, 2, 8)), RNG.normal(size=(8, 2)),
                    X[:2, :2], X[1:, 2:])],
    "normalize_sums": [(lambda x, w: tg.grad(lambda x: np.sum(tg.batch_norm(x, weight=w, bias=w) ** 3))(x), X, X[0])],
}  # fmt: skip
NAMED = [(name, number) for name, cases in CASES.items() for number in range(len(cases))]


def test_every_operation_of_the_library_is_tried():
    declared = {row.name for row in TABLE if isinstance(row, Structured) and row.batched is not None}
    assert {name for name in declared if BY_NAME[name].batched.__module__.startswith("tapegrad.")} == set(CASES)


@pytest.mark.parametrize(("name", "number"), NAMED)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_lanes_are_as_one_after_the_other(name, number, dtype, monkeypatch):
    f, *args = CASES[name][number]
    args = [a.astype(dtype) if a.dtype.kind == "f" else a for a in args]
    used = []
    row, rule = BY_NAME[name], BY_NAME[name].batched
    for mask in itertools.product([True, False], repeat=len(args)):
        if not any(mask):
            continue
        lanes = []
        for a, own in zip(args, mask):
            # Indices and labels are given to other lanes by rotation.
            turned = [np.roll(a, k, -1) if a.dtype.kind == "i" else a + RNG.normal(size=a.shape) for k in range(5)]
            lanes.append(np.stack(turned).astype(a.dtype) if own else a)
        axes = tuple(0 if own else None for own in mask)
        found = []
        for batched in (lambda *given: (used.append(name), rule(*given))[1], None):
            object.__setattr__(row, "batched", batched)
            try:
                # A function of its own, so that nothing is remembered.
                found.append(tg.vmap(lambda *args: f(*args), in_axes=axes, compile=False)(*lanes))
            finally:
                object.__setattr__(row, "batched", rule)
        assert found[0].dtype == dtype or found[0].dtype.kind == "i"
        # A rule may add up in another order.
        close = 1e-12 if dtype == np.float64 else 1e-5
        np.testing.assert_allclose(*found, rtol=close, atol=close * np.abs(found[1]).max())
        alone = [f(*(a[k] if own else a for a, own in zip(lanes, mask))) for k in range(5)]
        np.testing.assert_allclose(found[0], [np.asarray(getattr(y, "data", y)) for y in alone],
                                   rtol=close, atol=close * np.abs(found[1]).max())  # fmt: skip
    assert used


def test_indices_out_of_range_are_refused_in_any_lane():
    f = tg.vmap(lambda x, i: x[i], compile=False)
    x = RNG.normal(size=(40, 3))
    for wrong in (3, -4):
        index = np.zeros((40, 2), int)
        index[17, 1] = wrong
        with pytest.raises(IndexError) as found:
            f(x, index)
        assert "in lane 17 of the batch" in found.value.__notes__
    assert np.array_equal(f(x, np.full((40, 1), -1)), x[:, -1:])


def test_an_operation_of_a_user_without_a_rule_goes_lane_by_lane():
    x = RNG.normal(size=(6, 5))
    even = np.array([0.5, 0.0, 0.5, 0.0, 0.5])
    halves = tg.external(lambda x: x[::2] * 0.5, lambda g, z, x: (np.repeat(g, 2)[:5] * even,))
    np.testing.assert_allclose(tg.vmap(halves)(x), x[:, ::2] * 0.5)
    gradient = tg.vmap(tg.grad(lambda x: np.sum(halves(x) ** 2)))(x)
    np.testing.assert_allclose(gradient, np.where(np.arange(5) % 2, 0.0, 0.5 * x))


def test_only_what_depends_on_the_batch_is_written_for_each_lane():
    def f(w, x):
        return np.sum(np.tanh(w) @ np.cos(w)) * x

    recording = tg.record(f, np.ones(1000), 1.0)
    lanes = programs.lanes_of(recording.program, (False, True), 64)
    assert lanes.program.code.size < 5000
    x = np.arange(3.0)
    assert np.allclose(recording.batch(np.ones(1000), x, in_axes=(None, 0)), f(np.ones(1000), x))


def test_blocks_are_no_larger_than_they_should_be():
    small, large = tg.record(lambda x: x * x, 1.0), tg.record(lambda x: np.cumsum(np.sin(x)) * x, np.ones(3_000_000))
    assert programs.lanes_for(small.program, 10_000) == 1024
    assert programs.lanes_for(small.program, 3) == 32 and programs.lanes_for(large.program, 3) <= 4
    assert programs.lanes_for(large.program, 10_000) * large.program.code.size <= 1 << 26


def test_rules_keep_float32():
    # A constant of float64 among them would make float64 of the recording around them.
    x, i = X[0].astype(np.float32), np.stack([INDEX, INDEX[::-1]])
    lanes = np.stack([x, 2.0 * x]).astype(np.float32)
    gathered = tg.grad(lambda lanes, i: np.sum(tg.vmap(lambda x, i: x[i] ** 2)(lanes, i)))
    assert gathered(lanes, i).dtype == np.float32
    recording = tg.record(lambda lanes, i: tg.vmap(lambda x, i: x[i] ** 2)(lanes, i), lanes, i)
    assert recording(lanes, i).dtype == np.float32
