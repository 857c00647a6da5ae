"""Recordings are found again by whoever differentiates the same function; `recorded`; the limit of memory."""

import copy
import functools
import gc
import pickle
import threading
import weakref

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.errors import IntegerInputError

X, V = np.array([1.0, 2.0, 3.0]), np.array([1.0, -1.0, 0.5])


@pytest.fixture
def counted():
    """A function that counts how often it is called."""

    def f(x):
        f.calls += 1
        return np.sum(np.sin(x) * x**2)

    f.calls = 0
    return f


def gradient(x):
    return np.cos(x) * x**2 + 2.0 * x * np.sin(x)


def curvature(x):
    return (2.0 - x**2) * np.sin(x) + 4.0 * x * np.cos(x)


def derivatives(f):
    return [
        tg.grad(f)(X), tg.value_and_grad(f)(X)[1], tg.vjp(f, X)[1](1.0)[0], tg.jacobian(f)(X), tg.jacfwd(f)(X),
        tg.grad(f, (0,))(X)[0],
    ]  # fmt: skip


def test_all_derivatives_of_a_function_share_its_recording(counted):
    for _ in range(3):
        for found in derivatives(counted):
            np.testing.assert_allclose(found, gradient(X), rtol=1e-14)
        assert tg.jvp(counted, (X,), (V,))[1] == pytest.approx(gradient(X) @ V, rel=1e-14)
        assert tg.linearize(counted, X)[1](V) == pytest.approx(gradient(X) @ V, rel=1e-14)
        np.testing.assert_allclose(tg.hvp(counted, (X,), (V,)), curvature(X) * V, rtol=1e-13)
        np.testing.assert_allclose(tg.make_hvp(counted)(X)(V), curvature(X) * V, rtol=1e-13)
        np.testing.assert_allclose(tg.hessian(counted)(X), np.diag(curvature(X)), rtol=1e-13, atol=1e-14)
    assert counted.calls == 1


def test_each_argument_has_its_own_gradient():
    def f(x, y):
        return np.sum(x * x * y)

    for _ in range(2):
        np.testing.assert_array_equal(tg.grad(f)(X, V), 2.0 * X * V)
        np.testing.assert_array_equal(tg.grad(f, 1)(X, V), X * X)
        np.testing.assert_array_equal(tg.grad(f, (1, 0))(X, V), (X * X, 2.0 * X * V))
        np.testing.assert_array_equal(tg.grad(f, -1)(X, V), X * X)
    with pytest.raises(IntegerInputError):
        tg.grad(f, 1)(X, np.array([1, 2, 3]))


def test_functions_that_are_wrapped_are_not_taken_for_each_other(counted):
    tg.grad(counted)(X)

    @functools.wraps(counted)
    def twice(x):
        return 2.0 * counted(x)

    np.testing.assert_allclose(tg.grad(twice)(X), 2.0 * gradient(X), rtol=1e-14)
    np.testing.assert_allclose(tg.grad(counted)(X), gradient(X), rtol=1e-14)
    negative = functools.wraps(twice)(lambda x: -twice(x))
    np.testing.assert_allclose(tg.grad(negative)(X), -2.0 * gradient(X), rtol=1e-14)


def test_what_is_kept_goes_with_the_function():
    def make():
        big = np.ones(1000)
        return lambda x: np.sum(big * x)

    f = make()
    tg.grad(f)(np.ones(1000))
    tg.hvp(f, (np.ones(1000),), (np.ones(1000),))
    held = tg.memory_held()
    gone = weakref.ref(f)
    gc.disable()
    del f
    gc.enable()
    # At once, not when Python looks for circles.
    assert gone() is None and tg.memory_held() < held


def module_level(x):
    return x * x


def test_functions_with_recordings_can_be_copied_and_pickled():
    assert tg.grad(module_level)(3.0) == 6.0
    assert pickle.loads(pickle.dumps(module_level)) is module_level and copy.deepcopy(module_level) is module_level
    assert copy.copy(module_level.__dict__)
    assert pickle.loads(pickle.dumps(module_level.__dict__)) == {"__tapegrad__": {}}


class Spring:
    def __init__(self, k):
        self.k = k
        self.calls = 0

    def energy(self, x):
        self.calls += 1
        return 0.5 * self.k * np.sum(x * x)

    @tg.recorded
    def work(self, x):
        return self.k * np.sum(x)

    def __call__(self, x):
        return self.energy(x)


def test_methods_and_callables_are_found_again():
    springs = [Spring(float(k)) for k in range(1, 4)]
    counts = []
    for _ in range(4):
        for s in springs:
            np.testing.assert_array_equal(tg.grad(s.energy)(X), s.k * X)
            np.testing.assert_array_equal(tg.grad(s)(X), s.k * X)
            np.testing.assert_array_equal(s.work.grad(X), np.full(3, s.k))
        counts.append([s.calls for s in springs])
    # Both the method and the object change the count while they are recorded, and find that out at the second time.
    assert counts[1] == counts[-1]
    springs[0].k = 7.0
    np.testing.assert_array_equal(springs[0].work.grad(X), np.full(3, 7.0))
    np.testing.assert_array_equal(tg.grad(springs[0].energy)(X), 7.0 * X)


def test_many_callables_do_not_pile_up():
    first = Spring(1.0)
    gone = weakref.ref(first)
    tg.grad(first.energy)(X)
    del first
    for k in range(40):
        tg.grad(Spring(float(k)).energy)(X)
    gc.collect()
    assert gone() is None


def test_recorded(counted):
    f = tg.recorded(counted)
    for x in (X, V, -X):
        assert f(x) == pytest.approx(np.sum(np.sin(x) * x**2), rel=1e-14)
        assert f.value_and_grad(x)[0] == pytest.approx(f(x), rel=1e-15)
        for found in (f.grad(x), f.jacobian(x), f.jacrev(x), f.jacfwd(x), f.vjp(x)[1](1.0)[0], f.elementwise_grad(x)):
            np.testing.assert_allclose(found, gradient(x), rtol=1e-13)
        np.testing.assert_allclose(f.hvp((x,), (V,)), curvature(x) * V, rtol=1e-13)
        np.testing.assert_allclose(f.make_hvp(x)(V), curvature(x) * V, rtol=1e-13)
        np.testing.assert_allclose(f.hessian(x), np.diag(curvature(x)), rtol=1e-13, atol=1e-14)
        np.testing.assert_allclose(f.hessian(x, sparse=True).toarray(), np.diag(curvature(x)), rtol=1e-13, atol=1e-14)
        assert f.jvp((x,), (V,))[1] == f.linearize(x)[1](V) == pytest.approx(gradient(x) @ V, rel=1e-13)
    # Once for itself and once for `elementwise_grad`, which differentiates another function; and once more each, until
    # it is clear that the function changes `counted.calls` itself.
    calls = counted.calls
    assert calls <= 4 and f(X) == f(X) and f.elementwise_grad(V)[0] == f.grad(V)[0] and counted.calls == calls
    np.testing.assert_allclose(tg.grad(f)(X), gradient(X), rtol=1e-14)
    np.testing.assert_allclose(tg.grad(tg.record(f, X))(X), gradient(X), rtol=1e-14)
    assert counted.calls <= calls + 1 and f.__name__ == counted.__name__ and "recorded" in repr(f)


def test_recorded_takes_keywords_and_kinds_of_arguments():
    @tg.recorded
    def f(x, power=2, *, scale=1.0):
        return scale * np.sum(x**power)

    assert f(X) == 14.0 and f(X, 3) == 36.0 and f(X, scale=2.0) == 28.0 and f(2.0) == 4.0
    np.testing.assert_array_equal(f.grad(X, 3), 3.0 * X**2)
    np.testing.assert_array_equal(f.grad(X, scale=2.0), 4.0 * X)
    np.testing.assert_array_equal(f.grad(X.astype(np.float32)), 2.0 * X.astype(np.float32))
    with pytest.raises(TypeError):
        f()


def test_recorded_on_values_and_inside_recordings(counted):
    f = tg.recorded(counted)
    x = tg.Value(X)
    f(x).backward()
    np.testing.assert_allclose(x.grad, gradient(X), rtol=1e-14)
    np.testing.assert_allclose(tg.grad(lambda y: 3.0 * f(y))(X), 3.0 * gradient(X), rtol=1e-14)
    np.testing.assert_allclose(
        tg.grad(lambda y: np.sum(f.grad(y) * V))(X), curvature(X) * V, rtol=1e-13)


def long(x):
    long.calls += 1
    for _ in range(60):
        x = np.sin(x) * 1.1 + x * x * 0.01 - 0.001
        if x[0] > 5.0:
            x = x * 0.5
    return np.sum(x * x)


long.calls = 0


def test_outer_derivatives_write_inner_recordings():
    plain = tg.record(long, X)
    expected = [plain.hvp((x,), (V,)) for x in (X, 0.5 * X)]
    tg.grad(long)(X)
    before = long.calls
    for x, product in zip((X, 0.5 * X, X), (*expected, expected[0]), strict=True):
        np.testing.assert_allclose(tg.grad(lambda y: np.sum(tg.grad(long)(y) * V))(x), product, rtol=1e-11)
        np.testing.assert_allclose(tg.jvp(lambda y: tg.grad(long)(y), (x,), (V,))[1], product, rtol=1e-11)
        np.testing.assert_allclose(tg.grad(lambda y: tg.recorded(long)(y) * 2.0)(x), 2.0 * plain.grad(x), rtol=1e-12)
    assert long.calls == before


@pytest.mark.filterwarnings("error::tapegrad.errors.RecordingWarning")
def test_written_recordings_keep_to_their_branches():
    def branching(x):
        y = x
        for _ in range(100):
            y = np.sin(y) + x * 0.1 if y > 0.5 else np.cos(y) * x
        return y

    assert tg.grad(branching)(0.7) != 0.0
    outer = tg.grad(lambda x: tg.grad(branching)(x) ** 2)
    for x in (0.7, 0.1, 1.9, -0.4):
        first, second = tg.grad(branching)(x), tg.record(branching, x).hessian(x)
        assert outer(x) == pytest.approx(2.0 * first * second, rel=1e-9)


def test_threads_share_a_function():
    def f(x, n):
        return np.sum(x**2) * n

    found, errors = {}, []

    def work(k):
        try:
            for n in range(150):
                assert tg.grad(f)(X, float(k) if n % 2 else f"{n}" and n)[0] == 2.0 * (k if n % 2 else n)
            found[k] = True
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors and len(found) == 4


@pytest.fixture
def limited():
    """A limit of four million bytes more than what cannot be given back; yields a little more than that."""
    gc.collect()
    before = tg.set_memory_limit(1)
    stays = tg.memory_held()
    tg.set_memory_limit(stays + 4_000_000)
    yield stays + 5_000_000
    tg.set_memory_limit(before)


def test_recordings_stay_within_the_limit(limited):
    kept = []
    for k in range(60):
        f = functools.partial(lambda k, x: np.sum(np.sin(x * k) * x), float(k))
        g = tg.grad(f)
        x = np.linspace(0.0, 1.0, 5_000)
        np.testing.assert_allclose(g(x), np.sin(x * k) + k * x * np.cos(x * k), rtol=1e-13, atol=1e-15)
        kept.append((k, g, f))
    gc.collect()
    assert tg.memory_held() < limited
    for k, g, _ in kept[:3]:
        np.testing.assert_allclose(g(x), np.sin(x * k) + k * x * np.cos(x * k), rtol=1e-13, atol=1e-15)


def test_branches_stay_within_the_limit(limited):
    def f(x):
        for k in range(50):
            if x[k] > 0:
                x = x * 1.5
        return np.sum(x * x)

    g = tg.grad(f)
    for k in range(50):
        x = np.full(5_000, -1.0)
        x[:k] = 1.0
        np.testing.assert_allclose(g(x), 2.0 * x * 1.5 ** (2 * k), rtol=1e-12)
    assert tg.memory_held() < limited


def test_what_is_used_stays(limited):
    calls = []

    def f(x):
        calls.append(1)
        return np.sum(x * x)

    g, x = tg.grad(f), np.ones(1000)
    others = [functools.partial(lambda k, x: np.sum(x * k), float(k)) for k in range(100)]
    for other in others:
        g(x)
        tg.grad(other)(np.ones(5_000))
    assert len(calls) == 1


def test_a_recording_that_is_referred_to_stays(limited):
    calls = []

    def f(x):
        calls.append(1)
        return np.sum(x * x)

    r = tg.record(f, np.ones(1000))
    for k in range(100):
        tg.grad(functools.partial(lambda k, x: np.sum(x * k), float(k)))(np.ones(5_000))
    np.testing.assert_array_equal(r.grad(np.ones(1000)), np.full(1000, 2.0))
    assert len(calls) == 1 and len(r) >= 1 and r.stats().instructions >= 1


@pytest.mark.parametrize("wrong", [0, -1, "much", float("nan"), True, []])
def test_limits_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="number of bytes"):
        tg.set_memory_limit(wrong)


def test_a_limit_in_the_environment_that_makes_no_sense(monkeypatch):
    monkeypatch.setenv("TAPEGRAD_MEMORY", "lots")
    before = tg.memory_held()
    with pytest.raises(ValueError, match="TAPEGRAD_MEMORY must be a number of bytes, at least 1, not 'lots'"):
        tg.set_memory_limit(None)
    assert tg.memory_held() <= before


def test_keyword_arguments_where_derivatives_nest():
    f = lambda x, k=1.0, name="plain": (np.sum(x**3) * k, {"name": 2.0 * x if name == "double" else x})
    x = np.array([1.0, 2.0])
    both = tg.value_and_grad(f, has_aux=True)
    (value, aux), gradient = both(x, k=2.0, name="double")
    assert value == 18.0
    np.testing.assert_array_equal(aux["name"], 2.0 * x)
    np.testing.assert_array_equal(gradient, 6.0 * x**2)
    again = tg.grad(lambda x: np.sum(both(x, k=2.0, name="double")[1]))
    np.testing.assert_array_equal(again(x), 12.0 * x)
    v = tg.Value(3.0)
    (value, _), gradient = both(x, k=v)
    value.backward()
    assert v.grad == 9.0 and gradient.data.tolist() == (9.0 * x**2).tolist()
    with pytest.raises(IndexError, match="argnums names argument 1, the function has 1"):
        tg.value_and_grad(f, 1, has_aux=True)(x, k=2.0)


def test_the_decorator_takes_its_argument_or_none():
    def cube(x):
        return x * x * x

    for decorator in (tg.recorded, tg.recorded(compile=False), tg.recorded(compile=True)):
        made = decorator(cube)
        assert isinstance(made, tg.recorded) and made.__name__ == "cube"
        assert made(2.0) == 8.0 and made.grad(2.0) == 12.0
    assert tg.recorded(cube, compile=False).forced is False
    assert copy.copy(tg.recorded(cube)).grad(2.0) == 12.0
