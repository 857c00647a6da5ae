"""What a recorded function takes from around it: a change is noticed, and the function recorded again."""

import array
import collections
import functools
import random
import time
import types
import warnings

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.captures import Captures, contents
from tapegrad.errors import RecordingWarning

X = np.array([1.0, 2.0])
rand, shared_draw = np.random.rand, random.random
factor = 2.0
table = {"rate": 1.0}


def helper(x):
    return x * factor


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("error", RecordingWarning)
        yield


def recorded(g):
    """How often the function of a recording was called."""
    return g.stats().recorded


def soon(g, x, expected):
    """What g returns as soon as it is what was expected: contents are looked at for a share of the time that passes."""
    found, end = None, time.perf_counter() + 2.0
    while time.perf_counter() < end:
        found = g(x)
        if np.all(found == expected):
            break
    return found


class Model:
    decay = 0.5

    def __init__(self):
        self.rate = 2.0
        self.weights = [3.0, 4.0]
        self.calls = 0

    def loss(self, x):
        self.calls += 1
        return self.rate * self.decay * self.weights[0] * x

    @property
    def twice(self):
        return 2.0 * self.rate


def test_the_mini_batch_closure():
    rng = np.random.default_rng(0)
    data, targets = rng.normal(size=(60, 3)), rng.normal(size=60)
    batch = np.arange(10)
    g = tg.grad(lambda w: np.sum((data[batch] @ w - targets[batch]) ** 2))
    w = np.ones(3)
    with pytest.warns(RecordingWarning, match="recorded again 8 times because `batch`.*Pass it as an argument"):
        for _ in range(20):
            batch = rng.integers(0, 60, 10)
            expected = 2.0 * data[batch].T @ (data[batch] @ w - targets[batch])
            np.testing.assert_allclose(g(w), expected, rtol=1e-13)


def changes():
    """(function, change) where the change makes the derivative at 1.0 go from 2 to 6."""
    cell = 2.0

    def set_cell():
        nonlocal cell
        cell = 6.0

    yield "cell", lambda x: cell * x, set_cell
    inner = [2.0]
    yield "inner function", lambda x: (lambda y: inner[0] * y)(x), lambda: inner.__setitem__(0, 6.0)

    space = types.SimpleNamespace(a=types.SimpleNamespace(b=2.0))
    yield "attribute of attribute", lambda x: space.a.b * x, lambda: setattr(space.a, "b", 6.0)
    other = types.SimpleNamespace(a=types.SimpleNamespace(b=2.0))
    yield "attribute", lambda x: other.a.b * x, lambda: setattr(other, "a", types.SimpleNamespace(b=6.0))
    named = types.SimpleNamespace(rate=2.0)
    yield "getattr", lambda x: getattr(named, "rate") * x, lambda: setattr(named, "rate", 6.0)  # noqa: B009
    settings = {"rate": 2.0, "nested": {"list": [2.0]}}
    yield "dict", lambda x: settings["rate"] * x, lambda: settings.update(rate=6.0)
    deep = {"nested": {"list": [2.0]}}
    yield "list in dicts", lambda x: deep["nested"]["list"][0] * x, lambda: deep["nested"]["list"].__setitem__(0, 6.0)
    grows = [1.0, 1.0]
    yield "length of a list", lambda x: sum(grows) * x, lambda: grows.extend([1.0] * 4)

    def default(x, *, a=2.0):
        return a * x

    yield "default", default, lambda: default.__kwdefaults__.update(a=6.0)
    model = Model()
    yield "self", lambda x: model.loss(x) / 1.5, lambda: setattr(model, "rate", 6.0)
    method = Model()
    yield "bound method", method.loss, lambda: setattr(method, "rate", 2.0 * 3.0 - 0.0)
    seen = Model()
    yield "attribute of the class", lambda x: seen.decay * 4.0 * x, lambda: setattr(seen, "decay", 1.5)
    shown = Model()
    yield "property", lambda x: shown.twice * 0.5 * x, lambda: setattr(shown, "rate", 6.0)
    acting = Model()
    yield "method of an object", lambda x: acting.loss(x) / 1.5, lambda: setattr(acting, "loss", lambda x: 9.0 * x)

    def counted(x):
        return counted.rate * x

    counted.rate = 2.0
    yield "attribute of a function", counted, lambda: setattr(counted, "rate", 6.0)
    part = functools.partial(lambda a, x: a[0] * x, [2.0])
    yield "partial", part, lambda: part.args[0].__setitem__(0, 6.0)


@pytest.mark.parametrize("name, f, change", [pytest.param(*c, id=c[0]) for c in changes()])
def test_a_change_is_noticed_at_the_next_call(name, f, change):
    g, r = tg.grad(f), tg.record(f, 1.0)
    first = g(1.0)
    assert r.grad(1.0) == g(2.0) == first
    assert r.hvp((1.0,), (1.0,)) == 0.0
    change()
    assert g(1.0) == r.grad(1.0) == r.jvp((1.0,), (1.0,))[1] == 3.0 * first
    assert g(1.0) == r.grad(1.0) == r.vjp(1.0)[1](1.0)[0] == r.linearize(1.0)[1](1.0) == 3.0 * first
    assert r.hvp((1.0,), (1.0,)) == 0.0
    assert recorded(r) == 2


def test_a_global_that_is_switched(monkeypatch):
    g = tg.grad(lambda x: factor * x)
    h = tg.grad(lambda x: helper(x) * 1.0)
    for value in (2.0, 3.0, 2.0):
        monkeypatch.setitem(globals(), "factor", value)
        assert [g(1.0), g(2.0), h(1.0), h(2.0)] == [value] * 4


def test_a_dict_that_is_a_global(monkeypatch):
    g = tg.grad(lambda x: table["rate"] * x)
    assert g(1.0) == 1.0
    monkeypatch.setitem(table, "rate", 5.0)
    assert g(1.0) == 5.0
    monkeypatch.setitem(globals(), "helper", lambda x: -x)
    assert tg.grad(lambda x: helper(x))(1.0) == -1.0


def test_a_second_derivative_follows(monkeypatch):
    r = tg.record(lambda x: factor * x**2, 1.0)
    assert r.hessian(3.0) == 4.0
    monkeypatch.setitem(globals(), "factor", 5.0)
    assert r.hessian(3.0) == 10.0 and r.grad(1.0) == 10.0 and r.jacobian(1.0) == 10.0


def test_equal_numbers_are_the_same(monkeypatch):
    r = tg.record(lambda x: factor * x, 1.0)
    for _ in range(5):
        monkeypatch.setitem(globals(), "factor", float("2.0"))
        assert r.grad(1.0) == 2.0
    assert recorded(r) == 1
    monkeypatch.setitem(globals(), "factor", 2)
    assert r.grad(1.0) == 2.0


def test_a_name_that_is_gone(monkeypatch):
    r = tg.record(lambda x: factor * x, 1.0)
    monkeypatch.delitem(globals(), "factor")
    with pytest.raises(NameError, match="factor"):
        r.grad(1.0)
    monkeypatch.undo()
    assert r.grad(1.0) == 2.0


def test_attributes_that_the_function_does_not_read_do_not_count():
    model = Model()
    r = tg.record(lambda x: model.rate * x, 1.0)
    for step in range(5):
        model.step = step
        assert r.grad(1.0) == 2.0
    assert recorded(r) == 1


@pytest.mark.parametrize("change", [
    lambda a: a.__setitem__(slice(None), 5.0), lambda a: a.__imul__(5.0), lambda a: a.__setitem__(-1, 5.0),
    lambda a: a.sort(), lambda a: a.__setitem__(slice(None), a[::-1].copy())])  # fmt: skip
@pytest.mark.parametrize("size", [2, 1000, 200_000])
def test_an_array_changed_in_place(change, size):
    a = np.linspace(2.0, 1.0, size)
    g = tg.grad(lambda x: np.sum(a * x))
    x = np.ones(size)
    np.testing.assert_array_equal(g(x), a)
    change(a)
    with pytest.warns(RecordingWarning, match="`a`, which has been changed in place"):
        np.testing.assert_array_equal(soon(g, x, a), a)


@pytest.mark.parametrize("make", [
    lambda: np.arange(12.0).reshape(3, 4).T, lambda: np.arange(24.0)[::2].reshape(3, 4), lambda: np.array(3.0),
    lambda: np.arange(12, dtype=np.float32).reshape(4, 3)])  # fmt: skip
def test_arrays_of_every_layout(make):
    a = make()
    g = tg.grad(lambda x: np.sum(x * a.astype(float)))
    x = np.ones(a.shape)
    g(x)
    a[...] = 7.0
    with pytest.warns(RecordingWarning, match="changed in place"):
        np.testing.assert_array_equal(soon(g, x, 7.0), np.full(a.shape, 7.0))


def test_branches_of_before_and_after_a_change_do_not_mix():
    a = np.ones(2)
    g = tg.grad(lambda x: np.sum(a * x) if x[0] > 0 else np.sum(a * x) * 2.0)
    assert g(np.ones(2)).tolist() == [1.0, 1.0]
    a[:] = 5.0
    with pytest.warns(RecordingWarning, match="changed in place"):
        assert g(-np.ones(2)).tolist() == [10.0, 10.0]
    assert g(np.ones(2)).tolist() == [5.0, 5.0]


def test_a_long_list_changed_in_place():
    numbers = [1.0] * 100
    g = tg.grad(lambda x: sum(numbers) * x)
    assert g(1.0) == 100.0
    numbers[50] = 3.0
    with pytest.warns(RecordingWarning, match="`numbers`"):
        assert soon(g, 1.0, 102.0) == 102.0


@pytest.mark.parametrize(
    "made", [collections.deque([2.0, 1.0]), array.array("d", [2.0, 1.0]), bytearray([2, 1])],
    ids=lambda x: type(x).__name__,
)
def test_other_sequences_changed_in_place(made):
    g = tg.grad(lambda x: made[0] * x)
    assert g(1.0) == 2.0
    made[0] *= 3
    with pytest.warns(RecordingWarning, match="`made`, which has been changed in place"):
        assert g(1.0) == 6.0


@pytest.mark.parametrize("zero", [0.0, np.float64(0.0), np.float32(0.0)])
def test_zero_and_minus_zero_are_two_numbers(zero):
    sign, many = zero, [zero] * 20
    f, g = tg.record(lambda x: np.copysign(x, sign), 1.0), tg.record(lambda x: np.copysign(x, many[3]), 1.0)
    assert f(2.0) == g(2.0) == 2.0
    sign = many[3] = -zero
    assert f(2.0) == -2.0
    with pytest.warns(RecordingWarning, match="`many`, which has been changed in place"):
        assert g(2.0) == -2.0


def test_an_array_of_objects_changed_in_place():
    things = np.array([[2.0, "a"], [None, 3]], dtype=object)
    g = tg.grad(lambda x: things[0, 0] * x)
    assert g(1.0) == 2.0
    things[0, 0] = 5.0
    with pytest.warns(RecordingWarning, match="`things`"):
        assert soon(g, 1.0, 5.0) == 5.0


def test_what_the_function_changes_itself_is_its_own():
    log, model = [], Model()

    def f(x):
        log.append(1)
        return model.loss(x) if x > 0 else -model.loss(x)

    g = tg.grad(f)
    for x in (1.0, -1.0, 2.0, -2.0) * 5:
        assert g(x) == np.sign(x) * 3.0
    assert len(log) == model.calls == 2
    h = tg.record(f, 1.0)
    for i in range(6):
        f(1.0)
        g(np.array([1.0, 2.0])[:1].reshape(()) * i + 1.0)
        h.grad(1.0)
    assert recorded(h) <= 3


def test_a_change_by_others_while_it_is_recorded_does_not_make_it_the_functions_own():
    space = types.SimpleNamespace(a=1.0)
    # What another thread does meanwhile: it changes the attribute in the first recording and in the third.
    meanwhile = iter([lambda: setattr(space, "a", 2.0), int, lambda: setattr(space, "a", 5.0), int, int])

    def f(x):
        y = x * space.a
        next(meanwhile)()
        return y

    g = tg.grad(f)
    g(1.0)
    for a in (3.0, 4.0, 6.0, 7.0):
        space.a = a
        assert g(1.0) == a


def test_what_is_made_at_the_first_call_counts_afterwards():
    model = types.SimpleNamespace(rate=None)

    def f(x):
        if model.rate is None:
            model.rate = 2.0
        return model.rate * x

    g = tg.grad(f)
    assert g(1.0) == g(2.0) == 2.0
    model.rate = 7.0
    assert g(1.0) == 7.0


def test_an_object_among_the_arguments():
    model = Model()
    g = tg.grad(lambda x, m: m.rate * x)
    assert g(1.0, model) == 2.0
    model.rate = 5.0
    assert g(1.0, model) == 5.0


@pytest.mark.parametrize("draw", [
    lambda rng: rng.normal(), lambda rng: random.random(), lambda rng: np.random.rand(),  # noqa: NPY002
    lambda rng: rand(), lambda rng: (lambda: shared_draw())()])  # fmt: skip
def test_random_numbers_drawn_while_recording(draw):
    rng = np.random.default_rng(0)
    g = tg.grad(lambda x: x * draw(rng))
    with pytest.warns(RecordingWarning, match="draws random numbers.*pass them as arguments"):
        first = g(1.0)
    assert g(1.0) == first


def test_functions_called_by_a_tape_may_keep_state():
    seen = []
    sine = tg.external(lambda x: seen.append(x) or np.sin(x), lambda w, y, x: w * np.cos(x))
    r = tg.record(lambda x: sine(x) * 2.0, 1.0)
    for x in (1.0, 2.0, 3.0):
        assert r.grad(x) == pytest.approx(2.0 * np.cos(x))
    assert recorded(r) == 1 and len(seen) >= 3


def test_wrapped_functions_are_looked_into(monkeypatch):
    @functools.lru_cache
    def constant():
        return 1.0

    r = tg.record(functools.wraps(helper)(lambda x: helper(x) * constant()), 1.0)
    inner = tg.grad(helper)
    outer = tg.grad(lambda x: inner(x) * x)
    assert r.grad(1.0) == outer(1.0) == 2.0
    monkeypatch.setitem(globals(), "factor", 9.0)
    assert r.grad(1.0) == outer(1.0) == 9.0


def test_recursive_structures_end():
    loop = [1.0]
    loop.append(loop)
    ring = types.SimpleNamespace(a=2.0)
    ring.a_ring = ring
    assert tg.grad(lambda x: loop[0] * ring.a * ring.a_ring.a * x)(1.0) == 4.0


def test_functions_that_read_nothing_are_not_looked_at():
    captures = Captures(lambda x: np.sum(np.sin(x) * x))
    captures.watch(lambda: None)
    assert captures.holds is None and captures.current() is captures.current()


@pytest.mark.parametrize("change", [lambda x: x.__setitem__(99_999, 5.0), lambda x: x.append(1.0)])
def test_a_long_list_is_compared_a_stretch_at_a_time(change):
    class Counting(list):
        """A list that counts the elements that are copied out of it by slices."""

        copied = 0

        def __getitem__(self, key):
            if isinstance(key, slice):
                Counting.copied += len(range(*key.indices(len(self))))
            return super().__getitem__(key)

    numbers = Counting(float(i % 7) for i in range(100_000))
    gradient = tg.grad(lambda x: x * numbers[3] * len(numbers))
    gradient(2.0)
    # To remember it, to look at it before recording, and after: not the whole list for each of its stretches.
    assert Counting.copied < 5 * len(numbers)
    change(numbers)
    with pytest.warns(RecordingWarning, match="numbers"):
        end = time.perf_counter() + 0.3
        while time.perf_counter() < end:
            gradient(2.0)
    assert gradient(2.0) == 3.0 * len(numbers)


def test_a_look_that_waits_for_the_processor_does_not_put_off_the_next_one(monkeypatch):
    look = contents._Array.look
    monkeypatch.setattr(contents._Array, "look", lambda self, i: (time.sleep(0.01), look(self, i))[1])
    a, x = np.ones(3), np.ones(3)
    g = tg.grad(lambda x: np.sum(x * a))
    assert g(x).tolist() == g(x).tolist() == [1.0, 1.0, 1.0]
    a[:] = 2.0
    with pytest.warns(RecordingWarning, match="changed in place"):
        assert g(x).tolist() == [2.0, 2.0, 2.0]
