"""The short way through a call gives what the long way gives, or leaves the call to it."""

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.recording.direct import never


def energy(x, y):
    return np.sum(np.sin(x) * x) * y


def long_way(f, args, argnums):
    """The same by `backward`."""
    chosen = [argnums] if isinstance(argnums, int) else argnums
    values = [tg.Value(a) if n in chosen else a for n, a in enumerate(args)]
    result = f(*values)
    result.backward()
    grads = tuple(values[n].grad for n in chosen)
    return result.item(), grads[0] if isinstance(argnums, int) else grads


@pytest.mark.parametrize("argnums", [0, 1, (0, 1), (1, 0), (0,)])
def test_arrays_and_floats(argnums, rng):
    both = tg.value_and_grad(energy, argnums)
    for x, y in [(rng.normal(size=4), 0.5), (rng.normal(size=4), -2.0), (rng.normal(size=3), 1.0)] * 2:
        value, gradient = both(x, y)
        wanted, expected = long_way(energy, (x, y), argnums)
        assert value == pytest.approx(wanted, rel=1e-14)
        assert type(gradient) is (tuple if isinstance(argnums, tuple) else type(gradient))
        pairs = zip(gradient, expected, strict=True) if isinstance(argnums, tuple) else [(gradient, expected)]
        for ours, theirs in pairs:
            assert type(ours) is (float if np.ndim(theirs) == 0 else np.ndarray)
            np.testing.assert_allclose(ours, theirs, rtol=1e-14)


def test_it_is_taken_and_given_up():
    r = tg.record(lambda x: np.sum(x * x), np.ones(3), compile=False)
    way = r.short_way(0)
    value, gradient = way((np.array([1.0, 2.0, 3.0]),))
    assert value == 14.0 and gradient.tolist() == [2.0, 4.0, 6.0]
    # Another number of arguments, shape, dtype or kind is for the long way, which knows what to say of it.
    others = [(), (np.ones(3), np.ones(3)), (np.ones(4),), (np.ones(3, np.float32),), ([1.0, 2.0, 3.0],), (1.0,)]
    others += [(np.ones(3).astype(">f8"),), (np.ma.masked_array(np.ones(3)),), (tg.Value(np.ones(3)),)]
    assert all(way(args) is None for args in others)
    counted = tg.record(lambda x, n: x**n, 2.0, 3, compile=False)
    assert counted.short_way(0)((3.0, 3)) == (27.0, 27.0) and counted.short_way(0)((3.0, 2)) == (9.0, 6.0)
    assert all(counted.short_way(0)(args) is None for args in ((3.0, True), (3.0, 2.0), (3, 2), (3.0, 2**60)))
    named = tg.record(lambda x, s: x * len(s), 2.0, "abc")
    assert named.short_way(0) is never and named.grad(3.0, "abc") == 3.0


def test_memory_of_any_layout():
    r = tg.record(lambda x: np.sum(np.exp(x) * np.arange(6.0).reshape(2, 3)), np.ones((2, 3)))
    x = np.linspace(0.0, 1.0, 12).reshape(4, 3)
    plain = np.array(x[::2])
    fixed = plain.copy()
    fixed.flags.writeable = False
    wanted = r.value_and_grad(plain)
    for same in (x[::2], np.asfortranarray(plain), fixed, np.flip(np.flip(plain).copy())):
        value, gradient = r.value_and_grad(same)
        assert value == wanted[0] and np.array_equal(gradient, wanted[1])


def test_results_are_the_callers_own():
    g = tg.grad(lambda x: np.sum(x * x))
    first, second = g(np.ones(2)), g(np.full(2, 3.0))
    first[:] = 7.0
    assert second.tolist() == [6.0, 6.0] and g(np.ones(2)).tolist() == [2.0, 2.0]


def test_branches_that_flip():
    g = tg.value_and_grad(lambda x: x * x if x < 1.0 else 2.0 * x - 1.0)
    for x in (0.5, 3.0, 0.25, 4.0, 0.75, 5.0, 1.0):
        assert g(x) == ((x * x, 2.0 * x) if x < 1.0 else (2.0 * x - 1.0, 2.0))


def test_nested_arguments_and_keywords():
    def f(p, scale=1.0):
        return scale * np.sum(p["w"] * p["w"]) + p["b"][0] * p["b"][1]

    g = tg.value_and_grad(f)
    for w in (np.ones(2), np.full(2, 3.0), np.ones(3)):
        p = {"w": w, "b": (2.0, 5.0)}
        value, gradient = g(p)
        assert value == np.sum(w * w) + 10.0 and gradient["b"] == (5.0, 2.0)
        np.testing.assert_array_equal(gradient["w"], 2.0 * w)
        assert g(p, scale=2.0)[0] == 2.0 * np.sum(w * w) + 10.0
    turned = {"b": (2.0, 5.0), "w": np.ones(2)}
    assert list(g(turned)[1]) == ["b", "w"]


def test_inside_a_recording_it_is_not_taken():
    g = tg.grad(lambda x: np.sum(x**3))
    g(np.ones(2))
    constant = np.array([1.0, 2.0])
    assert tg.grad(lambda t: np.sum(g(constant) * t))(2.0) == pytest.approx(15.0)
    assert tg.grad(lambda x: np.sum(g(x)))(constant).tolist() == [6.0, 12.0]
