"""`record`, `grad` and `value_and_grad`: nested arguments, replay, guards, captures, threads."""

import dataclasses
import threading
from typing import NamedTuple

import numpy as np
import pytest
from checks import difference

import tapegrad as tg
from tapegrad.errors import (
    IndexRangeError,
    InPlaceError,
    IntegerInputError,
    LabelError,
    NonScalarError,
    ShapeError,
    StaleValueError,
    StructureError,
    TapeMismatchError,
    UnsupportedError,
)


@dataclasses.dataclass
class Layer:
    weight: np.ndarray
    bias: float


@dataclasses.dataclass(frozen=True, slots=True)
class Model:
    layers: list
    scale: float = 1.0
    name: str = "model"


class Point(NamedTuple):
    x: float
    y: np.ndarray


def test_values_and_gradients_of_plain_arguments():
    f = tg.value_and_grad(lambda x, y: x * x * y)
    assert f(3.0, 2.0) == (18.0, 12.0) and isinstance(f(3.0, 2.0)[0], float)
    g = tg.grad(lambda x: np.sum(np.sin(x) * x))
    for x in (np.ones(3), np.arange(3.0), np.ones((2, 3)), np.float64(2.0), np.array(2.0)):
        got = g(x)
        assert np.shape(got) == np.shape(x)
        np.testing.assert_allclose(got, np.cos(x) * x + np.sin(x), rtol=1e-14)


def test_the_gradient_has_the_structure_of_the_argument(rng):
    def f(p, q):
        total = np.sum(p["w"] * p["parts"][0]) * p["parts"][1][0] + q.x * np.sum(q.y)
        return total * p["none"][0] if p["none"] else total

    p = {"w": rng.normal(size=(2, 3)), "parts": [rng.normal(size=3), (2.0,)], "none": [], "b": 5.0}
    q = Point(3.0, rng.normal(size=2))
    gp, gq = tg.grad(f, argnums=(0, 1))(p, q)
    assert list(gp) == list(p) and gp["none"] == [] and gp["b"] == 0.0
    assert isinstance(gp["parts"], list) and isinstance(gp["parts"][1], tuple) and isinstance(gq, Point)
    np.testing.assert_allclose(gp["w"], np.broadcast_to(p["parts"][0], (2, 3)) * 2)
    np.testing.assert_allclose(gp["parts"][0], p["w"].sum(0) * 2)
    assert gp["parts"][1][0] == pytest.approx(np.sum(p["w"] * p["parts"][0]))
    assert gq.x == pytest.approx(q.y.sum()) and gq.y.tolist() == [3.0, 3.0]


def test_dataclasses(rng):
    def f(layer, x):
        return np.sum(np.tanh(layer.weight @ x + layer.bias))

    layer, x = Layer(rng.normal(size=(2, 3)), 0.5), rng.normal(size=3)
    g = tg.grad(f)(layer, x)
    assert type(g) is Layer
    slope = difference(lambda t: f(Layer(layer.weight, 0.5 + t), x))
    assert g.bias == pytest.approx(slope, rel=1e-9) and g.weight.shape == (2, 3)

    def h(m, x):
        assert m.name == "model"
        return m.scale * sum(np.sum(layer.weight) * layer.bias for layer in m.layers) + np.sum(x)

    model = Model([layer, Layer(np.ones((1, 1)), 2.0)])
    with pytest.raises(IntegerInputError, match="model"):
        tg.grad(h)(model, x)
    assert tg.grad(h, argnums=1)(model, x).tolist() == [1.0, 1.0, 1.0]


def test_argnums():
    def f(a, b, c):
        return a * b * b * c

    assert tg.grad(f, argnums=1)(2.0, 3.0, 5.0) == 60.0
    assert tg.grad(f, argnums=-1)(2.0, 3.0, 5.0) == 18.0
    assert tg.grad(f, argnums=(0, -1))(2.0, 3.0, 5.0) == (45.0, 18.0)
    assert tg.grad(f, argnums=[1])(2.0, 3.0, 5.0) == (60.0,)
    assert tg.value_and_grad(f, argnums=(1, 0))(2.0, 3.0, 5.0) == (90.0, (60.0, 45.0))
    for argnums in (3, -4, (0, 3)):
        with pytest.raises(IndexError):
            tg.grad(f, argnums=argnums)(2.0, 3.0, 5.0)


def test_has_aux():
    def f(x):
        return np.sum(x * x), {"double": 2 * x, "name": "aux", "n": 3}

    for x in (np.array([1.0, 2.0]), np.array([3.0, 4.0])):
        (value, aux), g = tg.value_and_grad(f, has_aux=True)(x)
        assert value == np.sum(x * x) and aux["name"] == "aux" and aux["n"] == 3
        np.testing.assert_array_equal(aux["double"], 2 * x)
        np.testing.assert_array_equal(g, 2 * x)
        g, aux = tg.grad(f, has_aux=True)(x)
        np.testing.assert_array_equal(g, 2 * x)
        np.testing.assert_array_equal(aux["double"], 2 * x)


def test_keyword_and_static_arguments():
    def f(x, n, mode="sum", scale=1.0):
        y = x
        for _ in range(n):
            y = y * x
        return scale * (np.sum(y) if mode == "sum" else np.prod(y))

    g = tg.grad(f)
    x = np.array([2.0, 3.0])
    assert g(x, 1).tolist() == [4.0, 6.0]
    assert g(x, 2).tolist() == [12.0, 27.0]
    assert g(x, 1, mode="prod").tolist() == [36.0, 24.0]
    assert g(x, 1, mode="sum").tolist() == [4.0, 6.0]
    assert g(x, n=2, scale=0.5).tolist() == [6.0, 13.5]
    assert g(x, n=2, scale=2.0).tolist() == [24.0, 54.0]


def test_keyword_arguments_may_be_arrays():
    g = tg.grad(lambda x, y: np.sum(x * y))
    for y in (np.array([1.0, 2.0]), np.array([3.0, 4.0])):
        assert g(np.ones(2), y=y).tolist() == y.tolist()


def test_static_arguments_that_are_equal_but_of_other_types():
    def f(x, flag):
        return x * (2.0 if isinstance(flag, bool) else 3.0)

    g = tg.grad(f)
    assert (g(1.0, 1), g(1.0, True), g(1.0, 1)) == (3.0, 2.0, 3.0)
    assert (g(1.0, flag=1), g(1.0, flag=True), g(1.0, flag=1)) == (3.0, 2.0, 3.0)


@pytest.mark.parametrize(
    "bad", [3, np.arange(3), np.array([True, False]), np.int64(3), True, {"a": 1.0, "n": 2}, [1.0, np.arange(2)]]
)
def test_integers_have_no_gradient(bad):
    with pytest.raises(IntegerInputError, match="argument 0"):
        tg.grad(lambda x, y: y)(bad, 2.0)
    assert tg.grad(lambda x, y: y * y, argnums=1)(bad, 2.0) == 4.0


def test_float32():
    f = tg.value_and_grad(lambda x, s: np.sum(x * x) * s, argnums=(0, 1))
    x = np.array([1.0, 2.0], np.float32)
    value, (gx, gs) = f(x, 2.0)
    assert value == 10.0 and gx.dtype == np.float32 and gx.tolist() == [4.0, 8.0] and gs == 5.0
    assert f(x.astype(float), 2.0)[1][0].dtype == np.float64


def test_what_a_recording_returns_is_a_copy():
    r = tg.record(lambda x: (x * 2, np.sum(x)), np.ones(2))
    first = r(np.array([1.0, 2.0]))
    second = r(np.array([5.0, 6.0]))
    assert first[0].tolist() == [2.0, 4.0] and second[0].tolist() == [10.0, 12.0] and first[1] == 3.0
    g = tg.grad(lambda x: np.sum(x * x))
    a, b = g(np.array([1.0])), g(np.array([2.0]))
    assert (a[0], b[0]) == (2.0, 4.0)


def test_arguments_that_are_not_used_or_empty(rng):
    def f(e, x, d, y):
        return np.sum(x * 7.0)

    args = (np.zeros(0), np.array([5.0, 6.0]), np.zeros((2, 0)), np.array([1.0, 2.0]))
    for _ in range(2):
        value, grads = tg.value_and_grad(f, argnums=(0, 1, 2, 3))(*args)
        assert value == 77.0 and [g.tolist() for g in grads] == [[], [7.0, 7.0], [[], []], [0.0, 0.0]]
    r = tg.record(lambda e, d, x, y: np.sum(y * 7.0), np.zeros(0), np.zeros(0), np.ones(2), np.ones(2))
    assert r(np.zeros(0), np.zeros(0), np.array([5.0, 6.0]), np.array([1.0, 2.0])) == 21.0


def test_constant_results_and_results_that_are_arguments():
    assert tg.grad(lambda x: x)(3.0) == 1.0
    assert tg.value_and_grad(lambda x: 5.0)(3.0) == (5.0, 0.0)
    assert tg.grad(lambda x: tg.Value(2.0) * 3.0)(np.ones(2)).tolist() == [0.0, 0.0]
    r = tg.record(lambda x: (x, x.T, x[0, ::-1], 4, "text"), np.arange(6.0).reshape(2, 3))
    x = np.arange(6.0).reshape(2, 3) + 10
    a, b, c, n, text = r(x)
    assert (a == x).all() and (b == x.T).all() and c.tolist() == [12.0, 11.0, 10.0] and (n, text) == (4, "text")


def test_results_that_are_no_scalar_raise():
    for f in (
        lambda x: x * 2.0,
        lambda x: (np.sum(x), np.sum(x)),
        lambda x: None,
        lambda x: "text",
        lambda x: np.ones(2),
    ):
        with pytest.raises(NonScalarError):
            tg.grad(f)(np.ones(2))
    with pytest.raises(NonScalarError, match=r"\(2, 3\)"):
        tg.grad(lambda x: x * 2.0)(np.ones((2, 3)))
    assert tg.grad(lambda x: x * 2.0)(np.ones((1, 1))).tolist() == [[2.0]]


def test_a_recording_checks_what_it_is_called_with():
    r = tg.record(lambda x, n: np.sum(x) * n, np.ones((2, 3)), 2)
    assert r(np.full((2, 3), 2.0), 2) == 24.0 and r(np.full((2, 3), 2.0), 3) == 36.0
    for args, text in (
        ((np.ones((3, 2)), 2), r"\(2, 3\).*\(3, 2\)"),
        ((np.ones((2, 3), np.float32), 2), "float64.*float32"),
        ((np.ones((2, 3)), 3.0), "an integer.*float64 number"),
        ((np.ones((2, 3)),), "nested|argument"),
        (([np.ones((2, 3))], 2), "nested|argument"),
    ):
        with pytest.raises(ShapeError, match=text):
            r(*args)
    assert r.grad(np.ones((2, 3)), 2).tolist() == [[2.0] * 3] * 2
    assert "Recording" in repr(r)


# Captures


def test_changes_of_captured_arrays_are_followed():
    a = np.array([1.0, 2.0, 3.0])
    labels, index = np.array([0, 1]), np.array([0, 2])
    g = tg.value_and_grad(
        lambda x: np.sum(x * a) + tg.cross_entropy(x.reshape(1, 3), labels[:1]) * 0.0 + np.sum(x[index])
    )
    x = np.ones(3)
    assert g(x)[1].tolist() == [2.0, 2.0, 4.0]
    a[:], labels[:], index[:] = 100.0, 2, 1
    with pytest.warns(tg.errors.RecordingWarning, match="changed in place"):
        assert g(x)[1].tolist() == [100.0, 102.0, 100.0]


def test_recordings_refuse_captured_values():
    w = tg.Value(2.0)
    x = np.array([1.0, 2.0])
    for f in (
        lambda x: np.sum(w * x),
        lambda x: np.sum(x * w),
        lambda x: tg.stack([w, x[0]]).sum(),
        lambda x: np.where(x > 0, w, x).sum(),
    ):
        with pytest.raises(TapeMismatchError, match="argument"):
            tg.record(f, x)
        # A gradient is then a Value, which depends on the one captured.
        assert isinstance(tg.grad(f)(x), tg.Value)
    with pytest.raises((StructureError, TapeMismatchError)):
        tg.grad(lambda x: w * w)(x)
    assert tg.grad(lambda x: np.sum(x * w.data))(x).tolist() == [2.0, 2.0]
    assert tg.grad(lambda x: x * x)(w).data == 4.0
    w.data = 3.0
    (w * w).backward()
    assert w.grad == 6.0


def test_values_that_leave_a_recording_are_stale():
    left = []

    def f(x):
        left[:] = [x, x * 2.0]
        return x * x

    g = tg.grad(f)
    g(3.0)
    for v in left:
        for use in (lambda v: v.data, lambda v: v * 2.0, lambda v: v.backward(), lambda v: v.sin()):
            with pytest.raises(StaleValueError):
                use(v)
    assert g(4.0) == 8.0


def test_what_a_replay_would_not_repeat_raises():
    def assigns(x):
        y = tg.Value(1.0)
        y.data = 2.0
        return x * y

    def differentiates(x):
        y = x * x
        y.backward()
        return y

    with pytest.raises(InPlaceError):
        tg.grad(assigns)(1.0)
    with pytest.raises(UnsupportedError):
        tg.grad(differentiates)(1.0)


def test_an_exception_in_the_function_leaves_nothing_behind():
    def f(x):
        if x > 1:
            raise KeyError("mine")
        return x * x

    g = tg.grad(f)
    for _ in range(2):
        assert g(0.5) == 1.0
        with pytest.raises(KeyError):
            g(2.0)
    v = tg.Value(3.0)
    (v * v).backward()
    assert v.grad == 6.0 and g(0.25) == 0.5


# Labels and indices


def test_labels_are_arguments(rng):
    f = tg.value_and_grad(lambda x, labels: tg.cross_entropy(x, labels))
    n = np.arange(5)
    h = tg.value_and_grad(lambda x, labels: -np.mean(tg.log_softmax(x)[n, labels]))
    for dtype in (int, np.uint8, np.int32, float):
        for _ in range(3):
            x, labels = rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
            value, g = f(x, labels.astype(dtype))
            if dtype is not float:
                again, slope = h(x, labels.astype(dtype))
                assert value == pytest.approx(again, rel=1e-14)
                np.testing.assert_allclose(g, slope, rtol=1e-12, atol=1e-16)
            softmax = np.exp(x) / np.exp(x).sum(1, keepdims=True)
            np.testing.assert_allclose(g, (softmax - np.eye(4)[labels]) / 5, rtol=1e-12, atol=1e-16)
    for bad in (4, -1):
        with pytest.raises(LabelError, match=rf"{bad}.*0 to 3"):
            f(x, np.array([0, 1, 2, 3, bad]))
    with pytest.raises(LabelError, match="nan"):
        f(x, np.array([0, 1, 2, 3, np.nan]))
    assert f(x, labels)[0] == pytest.approx(h(x, labels)[0], rel=1e-14)


def test_indices_and_masks_are_arguments(rng):
    x = rng.normal(size=(3, 4))
    g = tg.grad(lambda x, i: np.sum(x[i] ** 2))
    for i in ([0, 1], [2, 2], [-1, 0]):
        expected = np.zeros((3, 4))
        np.add.at(expected, i, 2 * x[i])
        np.testing.assert_allclose(g(x, np.array(i)), expected, rtol=1e-15)
    with pytest.raises(IndexRangeError, match="3"):
        g(x, np.array([0, 3]))
    m = tg.value_and_grad(lambda x, m: np.sum(x[m] * 2.0))
    part = tg.value_and_grad(lambda x, m: np.sum(x[1:][m[1:]] * 2.0))
    for _ in range(5):
        mask = rng.random((3, 4)) > 0.5
        assert m(x, mask)[0] == pytest.approx(np.sum(x[mask] * 2.0))
        value, slope = part(x, mask)
        assert value == pytest.approx(np.sum(x[1:][mask[1:]] * 2.0))
        np.testing.assert_array_equal(slope, 2.0 * np.concatenate([np.zeros((1, 4)), mask[1:]]))


# Threads


def test_threads_may_call_one_gradient_at_once(rng):
    g = tg.grad(lambda x: np.sum(np.where(x > 0, x * x, np.sin(x))) if x[0] > 0 else np.sum(x**3))
    points = rng.normal(size=(8, 50, 6))
    found = np.zeros_like(points)

    def work(i):
        for j, x in enumerate(points[i]):
            found[i, j] = g(x)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    expected = np.where(points[..., :1] > 0, np.where(points > 0, 2 * points, np.cos(points)), 3 * points**2)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


@pytest.mark.parametrize("what", ["grad", "value_and_grad", "jacobian", "jacrev", "jacfwd", "hessian", "make_hvp",
                                  "elementwise_grad", "record", "vjp", "jvp", "linearize", "hvp"])  # fmt: skip
def test_what_is_no_function_is_refused_at_once(what):
    given = {"record": (1.0,), "vjp": (1.0,), "linearize": (1.0,), "jvp": ((1.0,), (1.0,)), "hvp": ((1.0,), (1.0,))}
    with pytest.raises(StructureError, match=r"a function is needed to differentiate or record, not 3 \(int\)"):
        getattr(tg, what)(3, *given.get(what, ()))
