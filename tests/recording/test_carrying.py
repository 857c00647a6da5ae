"""Random generators among the arguments: every replay draws anew, as the function itself does."""

import pickle
import threading

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import nn
from tapegrad.errors import IntegerInputError, RecordingWarning, ShapeError, UnsupportedError


def noisy(w, rng):
    return np.sum((w + rng.normal(size=w.shape)) ** 2) * rng.uniform(0.5, 1.5)


def by_hand(w, rng):
    e = rng.normal(size=w.shape)
    u = rng.uniform(0.5, 1.5)
    return np.sum((w + e) ** 2) * u, 2.0 * (w + e) * u


@pytest.mark.parametrize("compile", [True, False])
def test_each_replay_draws_what_an_eager_call_would(compile):
    ours, theirs = np.random.default_rng(3), np.random.default_rng(3)
    both, slope = tg.value_and_grad(noisy, compile=compile), tg.grad(noisy, compile=compile)
    seen = set()
    for i in range(5):
        w = np.arange(3.0) + i
        value, gradient = by_hand(w, theirs)
        if i % 2:
            found, own = both(w, ours)
            np.testing.assert_allclose(found, value, rtol=1e-13)
        else:
            own = slope(w, ours)
        np.testing.assert_allclose(own, gradient, rtol=1e-13)
        seen.add(round(value, 6))
    assert ours.bit_generator.state == theirs.bit_generator.state and len(seen) == 5


def test_the_same_seed_gives_the_same_numbers_and_new_generators_are_no_new_recordings():
    calls = []

    def f(w, rng):
        calls.append(1)
        return np.sum(w * rng.standard_normal(3))

    found = [tg.grad(f)(np.ones(3), np.random.default_rng(seed)) for seed in (0, 1, 0)]
    np.testing.assert_array_equal(found[0], found[2])
    np.testing.assert_array_equal(found[1], np.random.default_rng(1).standard_normal(3))
    # Once to find out what it draws, once to record it.
    assert len(calls) == 2


def test_derivatives_of_every_kind_draw_once():
    w, v = np.array([0.5, -1.0, 2.0]), np.array([1.0, 0.0, 2.0])
    rng = lambda: np.random.default_rng(5)
    e = rng().normal(size=3)
    f = lambda w, rng: np.sum((w + rng.normal(size=3)) ** 3)
    slope, second = 3.0 * (w + e) ** 2, np.diag(6.0 * (w + e))
    used = rng()
    np.testing.assert_allclose(tg.hessian(f)(w, used), second)
    after = rng()
    after.normal(size=3)
    assert used.bit_generator.state == after.bit_generator.state
    np.testing.assert_allclose(tg.jacobian(f)(w, rng()), slope)
    np.testing.assert_allclose(tg.jacfwd(f)(w, rng()), slope)
    np.testing.assert_allclose(tg.hvp(f, (w, rng()), (v,), argnums=0), second @ v)
    np.testing.assert_allclose(tg.make_hvp(f)(w, rng())(v), second @ v)
    np.testing.assert_allclose(tg.jvp(f, (w, rng()), (v, None))[1], slope @ v)
    np.testing.assert_allclose(tg.linearize(f, w, rng())[1](v, None), slope @ v)
    value, pull = tg.vjp(f, w, rng())
    np.testing.assert_allclose(value, np.sum((w + e) ** 3))
    assert len(pull(1.0)) == 2
    np.testing.assert_allclose(pull(1.0)[0], slope)
    nested = tg.grad(lambda w, rng: tg.grad(f)(w, rng) @ v)
    np.testing.assert_allclose(nested(w, rng()), second @ v)
    recording = tg.record(f, w, rng())
    np.testing.assert_allclose(recording.grad(w, rng()), slope)
    np.testing.assert_allclose(recording(w, rng()), value)
    np.testing.assert_allclose(tg.recorded(f).hessian(w, rng()), second)
    np.testing.assert_allclose(tg.grad(f, argnums=-2)(w, rng()), slope)


def test_has_aux_and_several_arguments():
    def f(w, data, rng):
        e = rng.random(2)
        return np.sum(w["a"] * e) + data, (e, w["a"] + 1.0)

    (value, (e, more)), gradient = tg.value_and_grad(f, has_aux=True)({"a": np.ones(2)}, 2.0, np.random.default_rng(1))
    wanted = np.random.default_rng(1).random(2)
    np.testing.assert_array_equal(e, wanted)
    np.testing.assert_array_equal(gradient["a"], wanted)
    assert value == pytest.approx(wanted.sum() + 2.0) and more.tolist() == [2.0, 2.0]


def test_parameters_that_are_values_have_gradients():
    def f(p, rng):
        x = rng.normal(p[0], p[1], size=4)
        return np.sum(x**2) + rng.uniform(p[0], p[1]) + rng.exponential(p[1], size=2).sum()

    p = np.array([0.3, 1.7])
    eager = np.random.default_rng(7)
    x = eager.normal(0.3, 1.7, size=4)
    u, e = eager.uniform(0.3, 1.7), eager.exponential(1.7, size=2)
    value, gradient = tg.value_and_grad(f)(p, np.random.default_rng(7))
    assert value == pytest.approx(np.sum(x**2) + u + e.sum(), rel=1e-13)
    z, t = (x - 0.3) / 1.7, (u - 0.3) / 1.4
    np.testing.assert_allclose(gradient, [2 * x.sum() + 1 - t, 2 * x @ z + t + e.sum() / 1.7], rtol=1e-12)


def test_one_generator_twice_is_not_two_generators():
    f = lambda w, a, b: w * a.random() + 10.0 * w * b.random()
    slope = tg.grad(f)
    one, other = np.random.default_rng(0), np.random.default_rng(0)
    assert slope(1.0, one, one) == pytest.approx(other.random() + 10.0 * other.random())
    a, b = np.random.default_rng(1), np.random.default_rng(2)
    wanted = np.random.default_rng(1).random() + 10.0 * np.random.default_rng(2).random()
    assert slope(1.0, a, b) == pytest.approx(wanted)
    assert slope(1.0, one, one) == pytest.approx(other.random() + 10.0 * other.random())


def test_integers_and_permutations():
    data = np.arange(10.0)
    slope = tg.grad(lambda w, d, rng: w * (np.sum(d[rng.integers(0, 10, size=4)]) + d[rng.permutation(10)][0]))
    ours, theirs = np.random.default_rng(4), np.random.default_rng(4)
    for _ in range(3):
        rows, order = theirs.integers(0, 10, size=4), theirs.permutation(10)
        assert slope(2.0, data, ours) == pytest.approx(data[rows].sum() + data[order][0])


def test_a_float32_function_draws_float32():
    f = lambda w, rng: np.sum(w * rng.random(3, dtype=np.float32))
    found = tg.grad(f)(np.ones(3, np.float32), np.random.default_rng(0))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.random.default_rng(0).random(3, dtype=np.float32))


def test_branches_draw_alike_or_are_refused():
    def same(w, rng):
        e = rng.normal()
        return w * e if w > 0.0 else -2.0 * w * e

    slope = tg.grad(same)
    ours, theirs = np.random.default_rng(0), np.random.default_rng(0)
    for w in (1.0, -1.0, 2.0, -3.0):
        assert slope(w, ours) == pytest.approx((1.0 if w > 0 else -2.0) * theirs.normal())

    def other(w, rng):
        return w * rng.normal() if w > 0.0 else w * rng.random()

    slope = tg.grad(other)
    slope(1.0, np.random.default_rng(0))
    with pytest.raises(UnsupportedError, match=r"branch that it takes: first normal\(.*now random"):
        slope(-1.0, np.random.default_rng(0))
    late = tg.grad(lambda w, rng: w if w > 0.0 else w * rng.random())
    assert late(1.0, np.random.default_rng(0)) == 1.0
    with pytest.raises(UnsupportedError, match="first nothing, now random"):
        late(-1.0, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("draw", "match"),
    [
        (lambda rng, w: rng.shuffle([1.0, 2.0]), "rng.shuffle .* cannot be carried out"),
        (lambda rng, w: rng.bytes(3), "rng.bytes"),
        (lambda rng, w: rng.bit_generator.state, "rng.bit_generator"),
        (lambda rng, w: rng.spawn(2), "rng.spawn"),
        (lambda rng, w: rng.standard_gamma(w, size=2), "takes plain numbers"),
        (lambda rng, w: rng.random(3, out=np.zeros(3)), "leave out= away"),
        (lambda rng, w: rng.choice(["a", "b"]), "gives no numbers"),
    ],
)
def test_what_cannot_be_drawn_again_is_refused(draw, match):
    with pytest.raises(UnsupportedError, match=match):
        tg.grad(lambda w, rng: (draw(rng, w), w * w)[1])(1.0, np.random.default_rng(0))


def test_a_generator_among_what_is_differentiated():
    def f(w, options):
        return np.sum(tg.dropout(w, 0.5, options["rng"])) * options["scale"]

    w, advice = np.ones(6), r"pass the generator as an argument of its own, as in tg.grad\(f\)\(w, rng\)"
    options = lambda seed: {"rng": np.random.default_rng(seed), "scale": 2.0}
    apart = tg.grad(lambda w, rng: 2.0 * np.sum(tg.dropout(w, 0.5, rng)))
    assert np.array_equal(tg.grad(f)(w, options(0)), apart(w, np.random.default_rng(0)))
    recording = tg.record(f, w, options(0))
    for gradient in (tg.grad(f, argnums=1), tg.hessian(f, argnums=1), lambda *xs: recording.grad(*xs, argnums=1),
                     lambda *xs: tg.grad(lambda w, o: tg.grad(f, argnums=1)(w, o)["scale"])(*xs)):  # fmt: skip
        with pytest.raises(IntegerInputError, match=f"argument 1 holds a random generator: .*{advice}"):
            gradient(w, options(0))
    with pytest.raises(ShapeError, match="argument 1: recorded with a random generator, called with an integer"):
        recording(w, {"rng": 0, "scale": 2.0})


def test_what_looks_at_the_program_is_refused(tmp_path):
    recording = tg.record(noisy, np.ones(3), np.random.default_rng(0))
    for use in (
        lambda: recording.save(tmp_path / "f.tape"),
        lambda: recording.to_c(tmp_path / "f.c"),
        lambda: pickle.dumps(recording),
        lambda: recording.batch.value_and_grad_sum(np.ones((2, 3)), np.random.default_rng(0), in_axes=(0, None)),
        lambda: tg.vmap(noisy, in_axes=(0, None))(np.ones((20, 3)), np.random.default_rng(0)),
        recording.sparsity,
    ):
        with pytest.raises(UnsupportedError, match="no arguments of it|eval"):
            use()
    assert "carries" in repr(recording) and "carries" in str(recording)


def test_the_function_itself_and_isinstance():
    def f(w, rng):
        assert isinstance(rng, np.random.Generator)
        return np.sum(w * rng.normal(size=2))

    assert tg.grad(f)(np.ones(2), np.random.default_rng(0)).shape == (2,)
    # Called with a Value it is the function: it draws at once.
    rng = np.random.default_rng(0)
    x = tg.Value(np.ones(2))
    y = f(x, rng)
    y.backward()
    np.testing.assert_array_equal(x.grad, np.random.default_rng(0).normal(size=2))


def test_steps_of_a_loop_draw_each():
    def walk(w, rng):
        return tg.scan(lambda x, _: (x * w + rng.normal(), None), 0.0, None, 30)[0]

    def plain(w, rng):
        x = 0.0
        for _ in range(30):
            x = x * w + rng.normal()
        return x

    value, slope = tg.value_and_grad(walk)(0.9, np.random.default_rng(2))
    assert value == pytest.approx(plain(0.9, np.random.default_rng(2)))
    h = 1e-6
    up, down = (plain(0.9 + s, np.random.default_rng(2)) for s in (h, -h))
    assert slope == pytest.approx((up - down) / (2 * h), rel=1e-6)


def test_dropout_function():
    x = np.ones((200, 50))
    ours, theirs = np.random.default_rng(0), np.random.default_rng(0)
    slope = tg.grad(lambda x, rng: np.sum(tg.dropout(x, 0.25, rng)))
    first, second = slope(x, ours), slope(x, ours)
    np.testing.assert_allclose(first, tg.dropout(x, 0.25, theirs))
    np.testing.assert_allclose(second, tg.dropout(x, 0.25, theirs))
    assert (first != second).any()
    assert set(np.unique(first).round(12)) == {0.0, round(4 / 3, 12)}
    assert abs((first == 0).mean() - 0.25) < 0.02
    np.testing.assert_array_equal(tg.dropout(x, 1.0, 0), 0.0 * x)
    assert tg.dropout(x, 0.5, training=False) is x and tg.dropout(x, 0.0, 0) is x
    assert tg.dropout(x.astype(np.float32), 0.5, 0).dtype == np.float32
    for p in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="p must be a number from 0 to 1"):
            tg.dropout(x, p, 0)
    with pytest.raises(UnsupportedError, match="an argument of that function"):
        tg.grad(lambda x: np.sum(tg.dropout(x, 0.5, ours)))(x)
    with pytest.raises(UnsupportedError, match="an argument of that function"):
        tg.grad(lambda x: np.sum(tg.dropout(x, 0.5)))(x)
    with pytest.raises(TypeError, match="floats"):
        tg.dropout(np.arange(3), 0.5, 0)


def test_calls_of_several_threads_lose_no_writes():
    class Counted(nn.Module):
        def __init__(self):
            self.n = nn.Buffer(np.array(0.0))

        def forward(self, x):
            self.n = self.n + 1.0
            return x * self.n

    model = Counted()
    f = tg.value_and_grad(lambda x: np.sum(model(x)))
    f(np.ones(2))
    found: list[float] = []

    def work():
        for _ in range(100):
            found.append(f(np.ones(2))[0])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.n == 401.0 and sorted(found) == [2.0 * k for k in range(2, 402)]


@pytest.mark.parametrize("how", [tg.grad, lambda f: tg.record(f, np.ones(3), np.random.default_rng()).grad])
def test_what_is_drawn_follows_what_the_function_reads(how):
    spread, data = 1.0, np.arange(5.0)

    def f(w, rng):
        return np.sum(w * rng.normal(0.0, spread, 3) * rng.choice(data, 3))

    g, rng, other = how(f), np.random.default_rng(0), np.random.default_rng(0)

    def check():
        np.testing.assert_allclose(g(np.ones(3), rng), other.normal(0.0, spread, 3) * other.choice(data, 3))

    check()
    spread = 5.0
    check()
    check()
    data *= 2.0
    with pytest.warns(RecordingWarning, match="`data`, which has been changed in place"):
        check()
    check()


def test_a_function_that_draws_and_counts_its_calls_is_not_recorded_for_ever():
    calls = []

    def f(w, rng):
        calls.append(1)
        return np.sum(w * rng.normal(size=3)) * (2.0 if np.sum(w) > 0.0 else 1.0)

    g, rng, other = tg.grad(f), np.random.default_rng(0), np.random.default_rng(0)
    for i in range(30):
        sign = (-1.0) ** (i // 3)
        np.testing.assert_allclose(g(np.full(3, sign), rng), other.normal(size=3) * (2.0 if sign > 0.0 else 1.0))
    assert len(calls) < 12
