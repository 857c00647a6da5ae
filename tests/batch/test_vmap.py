"""`vmap` on plain arrays: each lane as if it had been called alone."""

import pickle
import warnings
from dataclasses import dataclass

import numba
import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import IndexRangeError, OperationError, RecordingWarning, ShapeError, StructureError
from tapegrad.ops import BY_NAME

RNG = np.random.default_rng(0)


def smooth(x):
    return np.sum(np.sin(x) * x[::-1]) + x[0] * x[1]


def branching(x):
    if x[0] > 0.0:
        return np.sum(x * x)
    return np.sum(x) * x[1] if x[1] > 0.3 else x[2] ** 3


@pytest.mark.parametrize("count", [1, 2, 7, 16, 100, 1030, 2500])
@pytest.mark.parametrize("compile", [False, None])
def test_lanes_are_calls(count, compile):
    x = RNG.normal(size=(count, 3))
    for f in (smooth, branching):
        for g in (f, tg.grad(f), tg.value_and_grad(f), tg.hessian(f)):
            found = tg.vmap(g, compile=compile)(x)
            alone = [g(row) for row in x]
            if isinstance(found, tuple):
                assert np.allclose(found[0], [v for v, _ in alone], rtol=1e-13)
                found, alone = found[1], [d for _, d in alone]
            np.testing.assert_allclose(found, alone, rtol=1e-12, atol=1e-13)


def test_axes_of_arguments_and_results():
    x, k = RNG.normal(size=(4, 5, 3)), RNG.normal(size=(3, 4))
    found = tg.vmap(lambda x, k: (x * k[:, None].T if k.ndim else x, np.sum(x)), in_axes=(1, None), out_axes=(2, -1))(
        x, k[:, 0]
    )
    for i in range(5):
        assert np.allclose(found[0][:, :, i], x[:, i] * k[:, 0]) and np.isclose(found[1][i], x[:, i].sum())
    for axis in (-3, -1, 2):
        found = tg.vmap(lambda x: 2.0 * x, in_axes=axis, out_axes=-2)(x)
        n = x.shape[axis]
        want = np.moveaxis(2.0 * x, axis, -2)
        assert found.shape == want.shape and n in found.shape and np.allclose(found, want)


def test_nested_axes_and_keywords():
    @dataclass
    class Point:
        at: object
        label: str

    model = {"w": RNG.normal(size=(6, 3)), "b": 0.5, "more": [RNG.normal(size=(2, 6)), None]}
    x = RNG.normal(size=(6, 3))

    def f(model, x, scale=1.0, *, shift=0.0):
        return {"y": model["w"] @ x + model["b"], "z": (model["more"][0] * scale, shift)}

    axes = ({"w": 0, "b": None, "more": [1, None]}, 0)
    found = tg.vmap(f, in_axes=axes, out_axes={"y": 0, "z": (1, 0)})(model, x, scale=np.arange(6.0), shift=np.ones(6))
    assert np.allclose(found["y"], np.sum(model["w"] * x, 1) + 0.5)
    assert np.allclose(found["z"][0], model["more"][0] * np.arange(6.0)) and np.allclose(found["z"][1], 1.0)
    point = Point(x, "here")
    shown = tg.vmap(lambda p: np.sum(p.at) if p.label == "here" else 0.0, in_axes=(Point(0, None),))
    assert np.allclose(shown(point), x.sum(1))


def test_what_is_the_same_in_all_lanes():
    x = np.arange(4.0)
    f = lambda x, y: (x + y, y * 2.0, 7, np.ones(2))
    found = tg.vmap(f, in_axes=(0, None), out_axes=(0, None, 0, None))(x, 3.0)
    assert np.allclose(found[0], x + 3.0) and found[1] == 6.0
    assert found[2].tolist() == [7, 7, 7, 7] and found[2].dtype.kind == "i" and found[3].shape == (2,)
    repeated = tg.vmap(lambda x, y: y * 2.0, in_axes=(0, None))(x, np.ones(2))
    assert repeated.shape == (4, 2) and np.allclose(repeated, 2.0)
    repeated[0] = 0.0
    assert np.allclose(repeated[1], 2.0)


def test_integers_a_lane():
    def power(x, n):
        total = 0.0
        for i in range(n):
            total = total + x**i
        return total

    x, n = RNG.normal(size=40), RNG.integers(0, 5, size=40)
    assert np.allclose(tg.vmap(power)(x, n), [power(a, int(b)) for a, b in zip(x, n)])
    assert np.allclose(tg.vmap(tg.grad(power))(x, n), [tg.grad(power)(a, int(b)) for a, b in zip(x, n)])
    picked = tg.vmap(lambda x, n: x[n] * 2.0)(RNG.normal(size=(5, 4)), np.array([0, 3, -1, 2, 1]))
    assert picked.shape == (5,)
    whole = tg.vmap(lambda n: n + 1)(np.arange(5))
    assert whole.dtype.kind == "i" and whole.tolist() == [1, 2, 3, 4, 5]


def test_truth_values_a_lane():
    on, x = np.array([True, False, True]), np.array([1.0, 2.0, 3.0])
    assert np.allclose(tg.vmap(lambda on, x: x if on else -x)(on, x), [1.0, -2.0, 3.0])
    mask = np.array([[True, False], [False, True]])
    chosen = tg.vmap(lambda m, x: np.sum(np.where(m, x, 0.0)))
    assert np.allclose(chosen(mask, np.array([[1.0, 2.0], [3.0, 4.0]])), [1, 4])


def test_each_lane_takes_its_branch_in_long_batches():
    x = RNG.normal(size=(3000, 3))
    value, gradient = tg.vmap(tg.value_and_grad(branching))(x)
    first, second = x[:, 0] > 0.0, x[:, 1] > 0.3
    want = np.where(first, np.sum(x * x, 1), np.where(second, np.sum(x, 1) * x[:, 1], x[:, 2] ** 3))
    assert np.allclose(value, want)
    assert np.allclose(gradient[first], 2.0 * x[first])


def test_nan_and_signed_zero_are_branches_as_in_a_call():
    f = lambda x: 1.0 / x if x.item() == 0.0 else x
    x = np.array([0.0, -0.0, 0.0, 2.0, -0.0])
    with np.errstate(divide="ignore"):
        assert tg.vmap(f)(x).tolist() == [np.inf, -np.inf, np.inf, 2.0, -np.inf]
    g = lambda x: -1.0 if x != x else x
    assert tg.vmap(g)(np.array([np.nan, 1.0, np.nan])).tolist() == [-1.0, 1.0, -1.0]


def test_branches_that_differ_in_every_lane():
    x = np.arange(100.0)
    with pytest.warns(RecordingWarning, match="more than 64 branches"):
        found = tg.vmap(lambda x: x * float(int(x)))(x)
    assert np.allclose(found, x * x)


def test_a_lane_that_may_not_be_computed_with_the_others():
    # The first branch would read past the end, were it computed for lanes that do not take it.
    data = np.arange(10.0)

    def f(i, x):
        return data[i] if i < 10 else x

    i = np.array([1, 50, 3, 99, 5])
    assert tg.vmap(lambda i, x: tg.Value(data)[0] * 0.0 + x if False else f(i, x))(i, np.full(5, -1.0)).tolist() == [
        1.0, -1.0, 3.0, -1.0, 5.0
    ]  # fmt: skip
    taken = tg.vmap(lambda v, i, x: v[i] * 2.0 if i < 10 else x, in_axes=(None, 0, 0))
    assert taken(data, i, np.full(5, -1.0)).tolist() == [2.0, -1.0, 6.0, -1.0, 10.0]
    assert taken(data, np.array([50, 1, 2]), np.full(3, -1.0)).tolist() == [-1.0, 2.0, 4.0]


def test_an_error_names_the_lane():
    gather = tg.vmap(lambda v, i: v[i], in_axes=(None, 0))
    with pytest.raises((IndexError, IndexRangeError)) as found:
        gather(np.arange(3.0), np.array([[0, 1], [2, 7]]))
    assert "in lane 1 of the batch" in found.value.__notes__


@pytest.mark.parametrize("compile", [False, True])
def test_threads_give_the_same_bits(compile, monkeypatch):
    x = RNG.normal(size=(5000, 3))
    f = tg.value_and_grad(branching)
    one = tg.vmap(f, compile=compile)(x)
    for threads in (2, 3, 8):
        other = tg.vmap(f, threads=threads, compile=compile)(x)
        assert all(np.array_equal(a, b) for a, b in zip(one, other))
    monkeypatch.setenv("TAPEGRAD_THREADS", "2")
    assert np.array_equal(tg.vmap(f, compile=compile)(x)[1], one[1])
    monkeypatch.setenv("TAPEGRAD_THREADS", "many")
    with pytest.raises(OperationError, match="TAPEGRAD_THREADS must be a whole number"):
        tg.vmap(f)(x)
    with pytest.raises(OperationError, match="threads must be a whole number of threads, at least 1, not 0"):
        tg.vmap(f, threads=0)(x)


def test_what_does_not_fit():
    x = np.ones((4, 2))
    for call, message in [
        (lambda: tg.vmap(smooth)(1.0), "is a float, which has no axes"),
        (lambda: tg.vmap(smooth, in_axes=2)(x), "has shape (4, 2)"),
        (lambda: tg.vmap(smooth, in_axes=-3)(x), "along axis -3"),
        (lambda: tg.vmap(smooth, in_axes=None)(x), "no argument is batched"),
        (lambda: tg.vmap(smooth, in_axes=(0, 0))(x), "in_axes has 2 entries, the function was called with 1"),
        (lambda: tg.vmap(np.dot)(x, np.ones((3, 2))), "args[0] has 4 along axis 0, args[1] has 3 along axis 0"),
        (lambda: tg.vmap(smooth)(np.ones((0, 2))), "the batch is empty"),
        (lambda: tg.vmap(np.sum)([np.ones(2), np.ones(3)]), "different numbers of lanes"),
        (lambda: tg.vmap(smooth, out_axes=1)(x), "out_axes is 1 for a result that has 1 axes"),
        (lambda: tg.vmap(smooth, out_axes=None)(x), "differs from lane to lane"),
        (lambda: tg.vmap(lambda x, s: x, in_axes=0)(x, "text"), "is a str"),
        (lambda: tg.vmap(np.sum)(np.array([np.ones(2), np.ones(3)], dtype=object)), "an array of objects"),
        (lambda: tg.vmap(lambda n: n)(np.array([1, 2**60])), "integers of a batch are at most"),
    ]:
        with pytest.raises(ShapeError) as found:
            call()
        assert message in str(found.value), str(found.value)
    with pytest.raises(TypeError, match="whole numbers or None"):
        tg.vmap(smooth, in_axes=0.5)(x)
    with pytest.raises(StructureError, match="in_axes has a tuple of 2 where there is"):
        tg.vmap(smooth, in_axes=((0, 0),))(x)
    with pytest.raises(StructureError, match="out_axes has a tuple of 2"):
        tg.vmap(smooth, out_axes=(0, 0))(x)
    with pytest.raises(StructureError, match="nested differently"):
        tg.vmap(lambda x: x if x > 0.0 else (x, x))(np.array([1.0, -1.0]))
    with pytest.raises(StructureError, match="shapes"):
        tg.vmap(lambda x: x[:2] if x[0] > 0.0 else x)(np.array([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]]))
    with pytest.raises(StructureError, match="must return numbers"):
        tg.vmap(lambda x: "text")(x)


def test_what_the_function_takes_from_around_it_may_change():
    scale = 2.0
    f = tg.vmap(lambda x: scale * x)
    assert f(np.ones(3)).tolist() == [2.0] * 3
    scale = 3.0
    assert f(np.ones(3)).tolist() == [3.0] * 3


def test_float32():
    x = RNG.normal(size=(50, 3)).astype(np.float32)
    found = tg.vmap(tg.grad(smooth))(x)
    assert found.dtype == np.float32
    assert np.allclose(found, [tg.grad(smooth)(row) for row in x], rtol=1e-5)
    # One branch meets float64: all is computed in it, as in one call.
    wide = np.array([1.0, 1e-9, 2.0])
    f = lambda x: np.sum(x * wide) if x[0] > 0.0 else np.sum(x)
    found = tg.vmap(f)(x)
    assert np.allclose(found, [f(row) for row in x], rtol=1e-6)


def test_functions_of_python_and_of_numba():
    calls = []

    def measured(x):
        calls.append(float(x))
        return np.exp(x)

    black_box = tg.external(measured, lambda g, y, x: (g * y,))
    x = np.linspace(0.0, 1.0, 5)
    assert np.allclose(tg.vmap(lambda x: 2.0 * black_box(x))(x), 2.0 * np.exp(x))
    assert np.allclose(tg.vmap(tg.grad(lambda x: 2.0 * black_box(x)))(x), 2.0 * np.exp(x))
    calls.clear()
    guarded = tg.vmap(lambda x: black_box(x) if x < 0.4 else x)
    assert np.allclose(guarded(x), np.where(x < 0.4, np.exp(x), x))
    assert all(c < 0.4 for c in calls)

    @numba.njit
    def loop(x):
        total = 0.0
        for i in range(len(x)):
            total += x[i] ** (i + 1)
        return total

    y = RNG.normal(size=(6, 3))
    assert np.allclose(tg.vmap(loop)(y), [loop(row) for row in y])


def test_products_of_matrices():
    w, x, y = RNG.normal(size=(3, 4)), RNG.normal(size=(20, 4)), RNG.normal(size=(20, 4, 5))
    b = RNG.normal(size=(20, 3, 4))
    for f, axes, args in [
        (lambda w, x: w @ x, (None, 0), (w, x)),
        (lambda w, x: x @ w, (None, 0), (w, b.swapaxes(1, 2))),
        (lambda w, x: w @ x, (0, 0), (b, y)),
        (lambda w, x: w @ x, (0, None), (b, y[0])),
        (lambda w, x: w.T @ x.T, (0, None), (b, y[0, :3].T)),
        (lambda w, x: w @ x, (0, 0), (b, x)),
        (lambda w, x: x @ w, (0, 0), (y, x)),
        (lambda x, y: x @ y, (0, 0), (x, x)),
        (lambda w, x: np.matmul(w, x), (0, None), (np.stack([b, b], 1), np.stack([y[0], y[1]]))),
        (lambda w, x: np.matmul(w, x), (None, 0), (np.stack([w, w]), np.stack([y, y], 1))),
        (lambda w, x: np.matmul(w, x), (0, 0), (np.stack([b, b], 1), np.stack([y, y], 1))),
    ]:
        lanes = [[a if axis is None else a[i] for a, axis in zip(args, axes)] for i in range(20)]
        alone = [f(*lane) for lane in lanes]
        np.testing.assert_allclose(tg.vmap(f, in_axes=axes)(*args), alone, rtol=1e-12, atol=1e-13)
        g = tg.grad(lambda *args, f=f: np.sum(np.sin(f(*args))), argnums=(0, 1))
        for found, k in zip(tg.vmap(g, in_axes=axes)(*args), (0, 1)):
            np.testing.assert_allclose(found, [g(*lane)[k] for lane in lanes], rtol=1e-11, atol=1e-12)


def test_large_inner_products_of_two_batches():
    a, b = RNG.normal(size=(18, 12, 20)), RNG.normal(size=(18, 20, 11))
    assert np.allclose(tg.vmap(lambda a, b: a @ b)(a, b), a @ b)


def test_no_rule_is_left_out():
    without = [row.name for row in BY_NAME.values() if hasattr(row, "batched") and row.batched is None]
    # Random numbers are drawn once for a call, not once for each lane: that is refused, see tests/nn/test_buffers.py.
    assert without == ["external", "dropout_mask"]


def test_no_warning_for_ordinary_batches():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tg.vmap(tg.grad(smooth))(np.ones((100, 3)))


def total(x):
    return np.sum(np.sin(x) * x)


def test_what_vmap_returns_can_be_pickled():
    f = tg.vmap(tg.grad(total), in_axes=1, out_axes=1, threads=2)
    x = np.random.default_rng(0).normal(size=(3, 20))
    again = pickle.loads(pickle.dumps(f))
    assert np.array_equal(again(x), f(x)) and np.allclose(f(x), np.sin(x) + x * np.cos(x))
