"""Differential equations: against closed forms, JAX and differences of tightly solved ones."""

import concurrent.futures
import functools
import pickle

import numpy as np
import pytest
import scipy.integrate
from scipy.linalg import expm

import tapegrad as tg
import tapegrad.optimize
from tapegrad.errors import DTypeError, ShapeError, TapeMismatchError, UnsupportedError
from tapegrad.scipy.integrate import odeint, solve_ivp

TIMES = np.array([0.0, 0.3, 1.0, 2.0])
METHODS = ["RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA"]
MODES = ["adjoint", "forward"]


def differences(f, x, h=1e-3):
    """Central differences of order 8."""
    weights = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    columns = []
    for i in np.ndindex(x.shape):
        e = np.zeros(x.shape)
        e[i] = h
        columns.append(sum(w * (np.asarray(f(x + k * e)) - f(x - k * e)) for k, w in weights.items()) / h)
    return np.array(columns).reshape(x.shape + np.shape(columns[0]))


def linear(t, y, matrix):
    return matrix @ y


def through_expm(matrix, start, times, t0):
    return np.stack([expm(matrix * (t - t0)) @ start for t in times], axis=1)


@pytest.fixture(scope="module")
def system():
    rng = np.random.default_rng(0)
    matrix, start, weights = rng.normal(size=(3, 3)) - np.eye(3), rng.normal(size=3), rng.normal(size=(3, 4))
    args = matrix, start, TIMES, np.array(0.0)
    exact = [
        differences(lambda x, i=i: np.sum(weights * through_expm(*args[:i], x, *args[i + 1 :])), args[i])
        for i in range(4)
    ]
    return args, weights, exact


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_of_a_linear_system(system, method, mode):
    (matrix, start, times, t0), weights, exact = system
    rtol = 1e-6 if method == "RK23" else 1e-8

    @tg.recorded
    def loss(matrix, start, times, t0):
        found = solve_ivp(
            linear, (t0, 2.5), start, method, times, args=(matrix,), rtol=rtol, atol=1e-10, sensitivity=mode
        )
        return np.sum(weights * found.y)

    for found, wanted in zip(loss.grad(matrix, start, times, float(t0), argnums=(0, 1, 2, 3)), exact, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0.0, atol=50.0 * rtol)
    # A replay, at another matrix, up to where the gradient is known by another way.
    other = 0.5 * matrix
    wanted = differences(lambda m: np.sum(weights * through_expm(m, start, times, 0.0)), other)
    np.testing.assert_allclose(loss.grad(other, start, times, 0.0), wanted, rtol=0.0, atol=50.0 * rtol)


@pytest.mark.parametrize("mode", MODES)
def test_odeint_of_a_linear_system(system, mode):
    (matrix, start, times, _), weights, exact = system

    def loss(matrix, start, times):
        return np.sum(weights.T * odeint(linear, start, times, (matrix,), tfirst=True, sensitivity=mode))

    by_matrix, by_start, by_times = tg.grad(loss, argnums=(0, 1, 2))(matrix, start, times)
    np.testing.assert_allclose(by_matrix, exact[0], rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(by_start, exact[1], rtol=0.0, atol=1e-6)
    # Its first time is the one at which y0 stands.
    np.testing.assert_allclose(by_times, exact[2] + np.eye(4)[0] * exact[3], rtol=0.0, atol=1e-6)


def oscillator(t, y, p):
    return [y[1] + p["a"] * y[0] * np.sin(t), -p["a"] * y[0] + p["b"][1] * np.cos(y[1]) - p["b"][0] * y[1]]


POINT = np.array([0.7, 0.4, -0.3, 1.0, 0.5, 0.3, 1.0, 2.0, 0.1])


def mixed(x, method="DOP853", mode="auto", tol=1e-10):
    """Everything that can be differentiated, out of one vector, so that mixed derivatives are seen too."""
    parameters = {"a": x[0], "b": x[1:3]}
    found = solve_ivp(
        oscillator, (x[8], 2.5), x[3:5], method, x[5:8], args=(parameters,), rtol=tol, atol=tol, sensitivity=mode
    )
    return np.sum(found.y**2 * np.array([1.0, 2.0, 3.0])) + found.y[0, 1]


@pytest.fixture(scope="module")
def second():
    gradient = differences(lambda x: mixed(x, tol=1e-13), POINT)
    return gradient, differences(tg.grad(functools.partial(mixed, tol=1e-12)), POINT, 1e-2)


@pytest.mark.parametrize(("method", "tol"), [("DOP853", 1e-10), ("Radau", 1e-7), ("LSODA", 1e-10)])
@pytest.mark.parametrize("mode", MODES)
def test_second_derivatives(second, method, tol, mode):
    gradient, matrix = second
    v = np.linspace(-1.0, 1.0, 9)
    atol = 1e-6 if tol < 1e-8 else 1e-5
    f = functools.partial(mixed, method=method, mode=mode, tol=tol)
    recording = tg.record(f, POINT)
    np.testing.assert_allclose(recording.grad(POINT), gradient, rtol=0.0, atol=atol)
    np.testing.assert_allclose(recording.jvp((POINT,), (v,))[1], gradient @ v, rtol=0.0, atol=atol)
    np.testing.assert_allclose(recording.hessian(POINT), matrix, rtol=0.0, atol=atol)
    np.testing.assert_allclose(recording.hvp((POINT,), (v,)), matrix @ v, rtol=0.0, atol=atol)
    again = tg.grad(lambda x: tg.grad(f)(x) @ v)
    np.testing.assert_allclose(again(POINT), matrix @ v, rtol=0.0, atol=atol)
    _, along = tg.jvp(lambda x: tg.grad(f)(x), (POINT,), (v,))
    np.testing.assert_allclose(along, matrix @ v, rtol=0.0, atol=atol)


def test_third_derivatives():
    # y = y0 exp(-k t)
    def end(x):
        return solve_ivp(lambda t, y: -x[0] * y, (0.0, x[1]), x[2:], t_eval=[x[1]], rtol=1e-9, atol=1e-11).y[0, 0]

    x, v = np.array([0.5, 1.5, 2.0]), np.array([1.0, -0.5, 0.3])

    def exact(x):
        return x[2] * np.exp(-x[0] * x[1])

    found = tg.grad(lambda x: tg.hvp(end, (x,), (v,)) @ v)(x)
    wanted = tg.grad(lambda x: tg.hvp(exact, (x,), (v,)) @ v)(x)
    np.testing.assert_allclose(found, wanted, rtol=0.0, atol=1e-6)


def van_der_pol(t, y, mu):
    return [y[1], mu * (1.0 - y[0] ** 2) * y[1] - y[0]]


@pytest.fixture(scope="module")
def stiff():
    """Van der Pol's oscillator past its first fast jump, differentiated along by differences of a tight solution."""
    times = np.array([20.0, 100.0])

    def end(x):
        y = scipy.integrate.odeint(
            van_der_pol, x[1:], [0.0, *times], (x[0],), tfirst=True, rtol=1e-12, atol=1e-13, mxstep=10**6,
            Dfun=lambda t, y, mu: [[0.0, 1.0], [-2.0 * mu * y[0] * y[1] - 1.0, mu * (1.0 - y[0] ** 2)]],
        )  # fmt: skip
        return y[1:, 0] @ [1.0, 2.0]

    x = np.array([100.0, 2.0, 0.1])
    return times, x, differences(end, x, 1e-2)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA", "odeint"])
def test_stiff(stiff, method, mode):
    times, x, exact = stiff

    # The fast jump multiplies errors.
    rtol = 1e-8 if method == "Radau" else 1e-10
    options = {"rtol": rtol, "atol": 0.1 * rtol, "sensitivity": mode}

    def end(x):
        if method == "odeint":
            y = odeint(van_der_pol, x[1:], [0.0, *times], (x[0],), tfirst=True, **options)[1:].T
        else:
            y = solve_ivp(van_der_pol, (0.0, 100.0), x[1:], method, times, args=(x[0],), **options).y
        return y[0] @ np.array([1.0, 2.0])

    np.testing.assert_allclose(tg.grad(end)(x), exact, rtol=3e-5, atol=1e-9)


@pytest.mark.parametrize(("method", "mode"), [("odeint", "adjoint"), ("odeint", "forward"), ("LSODA", "adjoint"),
                                              ("Radau", "adjoint")])  # fmt: skip
def test_stiff_with_many_parameters(method, mode):
    # mu is the mean of 300 parameters, each of which has a three-hundredth of its derivative.
    weights = np.ones(300)

    def end(mus):
        def slope(t, y, mus):
            return van_der_pol(t, y, np.mean(mus * weights))

        options = {"rtol": 1e-9, "atol": 1e-10, "sensitivity": mode}
        if method == "odeint":
            return odeint(slope, [2.0, 0.1], [0.0, 20.0], (mus,), tfirst=True, **options)[1, 0]
        return solve_ivp(slope, (0.0, 20.0), [2.0, 0.1], method, [20.0], args=(mus,), **options).y[0, 0]

    def exact(mu):
        y = scipy.integrate.odeint(van_der_pol, [2.0, 0.1], [0.0, 20.0], (mu[0],), tfirst=True, rtol=1e-12, atol=1e-13)
        return y[1, 0]

    wanted = differences(exact, np.array([100.0]), 1e-1)
    np.testing.assert_allclose(tg.grad(end)(np.full(300, 100.0)), np.full(300, wanted / 300), rtol=1e-4)


def test_against_jax():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    jax_odeint = pytest.importorskip("jax.experimental.ode").odeint
    jnp = jax.numpy
    rng = np.random.default_rng(1)
    w, start, times = 0.5 * rng.normal(size=(4, 4)), rng.normal(size=4), np.linspace(0.0, 3.0, 7)

    def slope(xp):
        return lambda y, t, w: xp.tanh(w @ y) - 0.3 * y * xp.sin(t)

    def theirs(w, start, times):
        return jnp.sum(jax_odeint(slope(jnp), start, times, w, rtol=1e-10, atol=1e-10) ** 2)

    wanted = jax.grad(theirs, argnums=(0, 1, 2))(*map(jnp.asarray, (w, start, times)))
    for mode in MODES:

        def ours(w, start, times, mode=mode):
            return np.sum(odeint(slope(np), start, times, (w,), rtol=1e-10, atol=1e-10, sensitivity=mode) ** 2)

        for a, b in zip(tg.grad(ours, argnums=(0, 1, 2))(w, start, times), wanted, strict=True):
            np.testing.assert_allclose(a, b, rtol=0.0, atol=1e-7)


def decay(t, y, k):
    return -k * y


ENDS = np.array([0.5, 1.0, 2.0])
TIGHT = {"t_eval": ENDS, "rtol": 1e-9, "atol": 1e-11}


def in_a_cell(k):
    return lambda t, y: -k * y


def in_a_function_in_a_cell(k):
    def rate(y):
        return -k * y

    return lambda t, y: rate(y)


def nested_in_a_cell(k):
    p = {"k": [k, 2.0]}
    return lambda t, y: -p["k"][0] * y


def in_a_default(k):
    return lambda t, y, k=k: -k * y


def in_a_partial(k):
    return functools.partial(decay, k=k)


@pytest.mark.parametrize("make", [in_a_cell, in_a_function_in_a_cell, nested_in_a_cell, in_a_default, in_a_partial])
def test_values_from_around(make):
    f = tg.recorded(lambda k: np.sum(solve_ivp(make(k), (0.0, 2.0), [1.0], **TIGHT).y))
    for k in (0.7, 1.3):
        np.testing.assert_allclose(f(k), np.sum(np.exp(-k * ENDS)), rtol=0.0, atol=1e-8)
        np.testing.assert_allclose(f.grad(k), -np.sum(ENDS * np.exp(-k * ENDS)), rtol=0.0, atol=1e-8)
        np.testing.assert_allclose(f.hessian(k), np.sum(ENDS**2 * np.exp(-k * ENDS)), rtol=0.0, atol=1e-7)


class Holder:
    k = None


def test_values_that_are_not_found_are_refused():
    def loss(k):
        Holder.k = k
        return np.sum(solve_ivp(lambda t, y: -Holder.k * y, (0.0, 2.0), [k], **TIGHT).y)

    with pytest.raises(TapeMismatchError, match="pass it by args"):
        tg.grad(loss)(0.7)
    Holder.k = tg.Value(0.7)
    with pytest.raises(TapeMismatchError, match="pass it by args"):
        solve_ivp(lambda t, y: -Holder.k * y, (0.0, 2.0), [tg.Value(1.0)], **TIGHT)


def test_outside_of_recorded_functions():
    k = tg.Value(0.7)
    found = solve_ivp(decay, (0.0, 2.0), [1.0], args=(k,), **TIGHT)
    np.sum(found.y).backward()
    assert abs(k.grad + np.sum(ENDS * np.exp(-0.7 * ENDS))) < 1e-8
    plain = scipy.integrate.solve_ivp(decay, (0.0, 2.0), [1.0], args=(0.7,), **TIGHT)
    np.testing.assert_array_equal(found.t, plain.t)
    np.testing.assert_allclose(found.y.data, plain.y, rtol=1e-14)
    assert (found.success, found.status, found.nfev, found.message) == (True, 0, plain.nfev, plain.message)


def test_plain_numbers_are_solved_by_scipy():
    found = solve_ivp(decay, (0.0, 2.0), [1.0, 3.0], args=(0.7,), events=lambda t, y, k: y[0] - 0.5, dense_output=True)
    plain = scipy.integrate.solve_ivp(
        decay, (0.0, 2.0), [1.0, 3.0], args=(0.7,), events=lambda t, y, k: y[0] - 0.5, dense_output=True
    )
    np.testing.assert_allclose(found.y, plain.y, rtol=1e-14)
    np.testing.assert_allclose(found.t_events, plain.t_events, rtol=1e-12)
    assert type(found.y) is np.ndarray and found.sol(1.0).shape == (2,)
    times = np.linspace(0.0, 2.0, 5)
    np.testing.assert_allclose(
        odeint(lambda y, t, k: -k * y, [1.0, 3.0], times, (0.7,)),
        scipy.integrate.odeint(lambda y, t, k: -k * y, [1.0, 3.0], times, (0.7,)), rtol=1e-12,
    )  # fmt: skip
    y, info = odeint(decay, 1.0, times, (0.7,), tfirst=True, full_output=True)
    assert y.shape == (5, 1) and info["message"] == "Integration successful."


def test_odeint_gives_the_numbers_that_scipy_gives():
    times = [0.0, 1.0, 1.0, 2.0]
    value = odeint(decay, 1.0, times, (tg.Value(0.7),), tfirst=True)
    plain = odeint(decay, 1.0, times, (0.7,), tfirst=True)
    np.testing.assert_allclose(value.data, plain, rtol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_the_start_alone(mode):
    def start(y0, k):
        return odeint(decay, y0, [1.5], (k,), tfirst=True, sensitivity=mode)[0, 0]

    assert tg.grad(start, argnums=(0, 1))(2.0, 0.7) == (1.0, 0.0)


@pytest.mark.parametrize("mode", MODES)
def test_from_late_to_early(mode):
    def by_odeint(k):
        return odeint(decay, [1.0], [2.0, 1.0, 0.0], (k,), tfirst=True, sensitivity=mode)[-1, 0]

    def by_solve_ivp(k):
        return solve_ivp(
            decay, (2.0, 0.0), [1.0], t_eval=[1.0, 0.5, 0.0], args=(k,), rtol=1e-9, atol=1e-11, sensitivity=mode
        ).y[0, -1]

    for f in (by_odeint, by_solve_ivp):
        np.testing.assert_allclose(tg.grad(f)(0.7), 2.0 * np.exp(1.4), rtol=1e-6)


def test_nested_states():
    def slope(t, y, k):
        return {"a": -k * y["a"], "b": 1.0 * y["a"]}

    def end(k):
        start = {"a": np.array([1.0, 2.0]), "b": np.zeros(2) + k}
        found = solve_ivp(slope, (0.0, 2.0), start, args=(k,), **TIGHT)
        assert found.y["a"].shape == (2, 3)
        return found.y["b"][1, -1]

    exact = 1.0 - 2.0 * (1.0 - np.exp(-1.4)) / 0.49 + 4.0 * np.exp(-1.4) / 0.7
    np.testing.assert_allclose(tg.grad(end)(0.7), exact, rtol=0.0, atol=1e-8)


def test_losses_and_parameters_in_any_unit():
    # dy/dt = -(k / unit) y: the loss is minute, the parameter huge, and three digits of rtol are three digits still.
    unit = 1e6

    def loss(k, mode):
        return 1e-9 * np.sum(
            solve_ivp(lambda t, y: -(k / unit) * y, (0.0, 2.0), [1.0], t_eval=ENDS, sensitivity=mode).y
        )

    exact = -1e-9 * np.sum(ENDS * np.exp(-0.7 * ENDS)) / unit
    for mode in MODES:
        np.testing.assert_allclose(tg.grad(loss)(0.7 * unit, mode), exact, rtol=2e-3)


def test_branches_of_the_right_hand_side():
    # Continuous where it branches: dy/dt = -k max(y, 0.5).
    @tg.recorded
    def end(k):
        slope = lambda t, y, k: -k * y if y[0] > 0.5 else -k * (0.5 + 0.0 * y)
        return solve_ivp(slope, (0.0, 2.0), [1.0], t_eval=[2.0], args=(k,), rtol=1e-10, atol=1e-12).y[0, 0]

    for k in (0.2, 0.7, 1.0):
        reached = np.log(2.0) / k
        value = np.exp(-2.0 * k) if reached > 2.0 else 0.5 - 0.5 * k * (2.0 - reached)
        slope = -2.0 * np.exp(-2.0 * k) if reached > 2.0 else -1.0
        np.testing.assert_allclose(end.value_and_grad(k), (value, slope), rtol=0.0, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["RK45", "LSODA"])
def test_jumps_of_the_right_hand_side_are_told(method, mode, recwarn):
    def end(k, slope, t=2.0):
        return solve_ivp(
            slope, (0.0, 2.0), [1.0], method, [t], args=(k,), rtol=1e-6, atol=1e-8, sensitivity=mode
        ).y[0, 0]

    # At a time that does not move there is nothing to leave out.
    def switched(t, y, k):
        return -k * y if t < 1.0 else -3.0 * k * y

    np.testing.assert_allclose(tg.grad(end)(0.7, switched), -4.0 * np.exp(-2.8), rtol=1e-4)

    # Nor where it is continuous, in a first derivative.
    def bent(t, y, k):
        return -k * y if y[0] > 0.5 else -k * (0.5 + 0.0 * y)

    tg.grad(end)(0.7, bent)
    tg.jvp(lambda k: end(k, bent), (0.7,), (1.0,))
    assert not [w for w in recwarn if w.category is RuntimeWarning]
    with pytest.warns(RuntimeWarning, match="or a derivative of it, jumps at t = 0.99"):
        tg.hessian(lambda k: end(k, bent))(0.7)

    def by_state(t, y, k):
        return -k * y if y[0] > 0.5 else -2.0 * k * y

    def by_parameter(t, y, k):
        return -y if t < k else -2.0 * y

    with pytest.warns(RuntimeWarning, match="the right-hand side jumps at t = 0.99"):
        tg.grad(end)(0.7, by_state)
    with pytest.warns(RuntimeWarning, match="the right-hand side jumps at t = 0.7"):
        tg.grad(end)(0.7, by_parameter)
    with pytest.warns(RuntimeWarning, match="the right-hand side jumps"):
        tg.jvp(lambda k: end(k, by_state), (0.7,), (1.0,))


def test_arguments_that_are_no_floats():
    @tg.recorded
    def f(k, n, which):
        def slope(t, y, k, n, which, nothing):
            assert nothing is None
            return -k * y**n if which == "power" else 1.0 * y

        return np.sum(solve_ivp(slope, (0.0, 2.0), [1.0], args=(k, n, which, None), **TIGHT).y)

    np.testing.assert_allclose(f.grad(0.7, 1, "power"), -np.sum(ENDS * np.exp(-0.7 * ENDS)), rtol=0.0, atol=1e-8)
    # dy/dt = -k y^2 has y = 1 / (1 + k t).
    np.testing.assert_allclose(f.grad(0.7, 2, "power"), -np.sum(ENDS / (1.0 + 0.7 * ENDS) ** 2), rtol=0.0, atol=1e-8)
    assert f.grad(0.7, 2, "no power") == 0.0


def test_float32():
    @tg.recorded
    def f(k):
        return np.sum(solve_ivp(decay, (0.0, 2.0), np.ones(2, np.float32), args=(k[0],), **TIGHT).y)

    k = np.array([0.7], np.float32)
    gradient = f.grad(k)
    assert gradient.dtype == np.float32 and f.hessian(k).dtype == np.float32
    np.testing.assert_allclose(gradient, [-2.0 * np.sum(ENDS * np.exp(-0.7 * ENDS))], rtol=1e-6)


def test_replays_follow_what_is_around():
    factor = 1.0
    f = tg.recorded(lambda k: np.sum(solve_ivp(lambda t, y: -factor * k * y, (0.0, 2.0), [1.0], **TIGHT).y))
    before = f.grad(0.7)
    factor = 2.0
    after = f.grad(0.7)
    np.testing.assert_allclose(before, -np.sum(ENDS * np.exp(-0.7 * ENDS)), rtol=0.0, atol=1e-8)
    np.testing.assert_allclose(after, -2.0 * np.sum(ENDS * np.exp(-1.4 * ENDS)), rtol=0.0, atol=1e-8)


def blow_up(t, y, a):
    return a * y * y


@pytest.mark.parametrize("mode", MODES)
def test_failures(mode):
    # y = 1 / (1 - a t) ends at t = 1 / a.
    @tg.recorded
    def total(a):
        return np.sum(solve_ivp(blow_up, (0.0, 2.0), [1.0], t_eval=[0.5, 2.0], args=(a,), sensitivity=mode).y)

    assert abs(total.grad(0.2) - 0.5 / 0.9**2 - 2.0 / 0.6**2) < 0.1
    with pytest.warns(RuntimeWarning, match="step size"):
        value, gradient = total.value_and_grad(1.0)
    assert np.isnan(value) and np.isnan(gradient)

    @tg.recorded
    def guarded(a):
        found = solve_ivp(blow_up, (0.0, 2.0), [1.0], t_eval=[0.5, 2.0], args=(a,), sensitivity=mode)
        return np.sum(found.y) if found.success else 100.0 * a

    guarded(0.2)
    with pytest.warns(RuntimeWarning):
        assert guarded.value_and_grad(1.0) == (100.0, 100.0)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_number_at_the_start_does_not_go_on_for_ever(method):
    @tg.recorded
    def end(k):
        return solve_ivp(lambda t, y, k: -np.sqrt(k) * y, (0.0, 2.0), [1.0], method, [2.0], args=(k,)).y[0, 0]

    end(1.0)
    with pytest.warns(RuntimeWarning, match="not a number at the start"):
        assert np.isnan(end.grad(-1.0))


@pytest.mark.parametrize("method", ["Radau", "BDF"])
def test_a_jacobian_that_is_not_finite(method):
    def end(k):
        # The derivative of sqrt is infinite at 0.
        return solve_ivp(lambda t, y, k: k * np.sqrt(y), (0.0, 2.0), [0.0], method, [2.0], args=(k,)).y[0, 0]

    with pytest.warns(RuntimeWarning, match="derivative of fun with respect to y is not finite at t = 0"):
        assert np.isnan(tg.grad(end)(1.0))


@pytest.mark.parametrize("method", ["RK45", "LSODA"])
def test_an_adjoint_that_fails_raises(method):
    no_derivative = tg.external(np.sin, lambda w, z, x: np.nan * w)

    def slope(t, y, k):
        return -k * no_derivative(y)

    def loss(k):
        return np.sum(solve_ivp(slope, (0.0, 4.0), [1.0], method, [4.0], args=(k,), sensitivity="adjoint").y)

    with pytest.raises(ArithmeticError, match="adjoint equation"), np.errstate(all="ignore"):
        tg.grad(loss)(1.0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["RK45", "Radau", "LSODA"])
def test_right_hand_sides_that_call_black_boxes(method, mode):
    sine = tg.external(np.sin, lambda w, z, x: np.cos(x) * w)

    def end(k, sine):
        found = solve_ivp(
            lambda t, y, k: -k * sine(y), (0.0, 2.0), [1.0], method, [2.0], args=(k,), rtol=1e-8, atol=1e-10,
            sensitivity=mode,
        )  # fmt: skip
        return found.y[0, 0]

    np.testing.assert_allclose(
        tg.grad(lambda k: end(k, sine))(0.7), tg.grad(lambda k: end(k, np.sin))(0.7), rtol=0.0, atol=1e-7
    )


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"t_eval": None}, UnsupportedError, r"needs t_eval.*t_eval=\[t_span\[1\]\]"),
        ({"dense_output": True}, UnsupportedError, "dense_output"),
        ({"events": lambda t, y: y[0]}, UnsupportedError, "events"),
        ({"method": "Euler"}, ValueError, "unknown method 'Euler'"),
        ({"sensitivity": "back"}, ValueError, "unknown sensitivity 'back'"),
        ({"t_eval": [3.0]}, ValueError, "not within"),
        ({"t_eval": [1.0, 0.5]}, ValueError, "sorted"),
        ({"t_eval": []}, ShapeError, "no times"),
        ({"t_eval": ["late"]}, DTypeError, "t_eval must hold real numbers"),
        ({"stepsize": 1.0}, UnsupportedError, "does not take stepsize"),
        ({"t_span": (0.0, 1.0, 2.0)}, ShapeError, "t_span"),
        ({"y0": [1.0, 2.0], "fun": lambda t, y, k: k * y[:1]}, ShapeError, "fun returned 1 numbers, for a state of 2"),
        ({"y0": [np.inf]}, ValueError, "finite"),
    ],
)
def test_errors(options, error, match):
    given = {"fun": decay, "t_span": (0.0, 2.0), "y0": [1.0], "t_eval": [1.0]} | options
    with pytest.raises(error, match=match):
        tg.grad(lambda k: np.sum(solve_ivp(args=(k,), **given).y))(0.7)


def test_errors_of_odeint():
    for options in ({"full_output": 1}, {"tcrit": [0.5]}):
        with pytest.raises(UnsupportedError, match=f"does not take {next(iter(options))}"):
            tg.grad(lambda k: np.sum(odeint(decay, 1.0, [0.0, 1.0], (k,), tfirst=True, **options)))(0.7)  # noqa: B023
    with pytest.raises(ShapeError, match="no times"):
        tg.grad(lambda k: np.sum(odeint(decay, 1.0, [], (k,), tfirst=True)))(0.7)


def end_of_decay(k):
    return solve_ivp(decay, (0.0, 2.0), [1.0], t_eval=[2.0], args=(k,), rtol=1e-8, atol=1e-10).y[0, 0]


def test_pickle():
    recording = pickle.loads(pickle.dumps(tg.record(end_of_decay, 0.5)))
    np.testing.assert_allclose(recording.grad(0.7), -2.0 * np.exp(-1.4), rtol=0.0, atol=1e-7)


def test_large_states_and_stiff_methods_take_sparse_matrices():
    # The heat equation, on 250 points, with a rate between any two.
    n = 250

    def heat(t, u, k):
        flux = k * (u[1:] - u[:-1])
        return np.concatenate([flux[:1], flux[1:] - flux[:-1], -flux[-1:]])

    start = np.sin(np.linspace(0.0, 3.0, n)) ** 2
    k = np.linspace(1.0, 2.0, n - 1)
    weights = np.cos(np.arange(n))

    def loss(k, rtol=1e-6):
        found = solve_ivp(heat, (0.0, 5.0), start, "BDF", [5.0], args=(k,), rtol=rtol, atol=rtol * 1e-2)
        return weights @ found.y[:, 0]

    def exact(k):
        matrix = np.zeros((n, n))
        for i, own in enumerate(k):
            matrix[i : i + 2, i : i + 2] += own * np.array([[-1.0, 1.0], [1.0, -1.0]])
        return weights @ expm(5.0 * matrix) @ start

    along = np.sin(np.arange(n - 1))
    step = 1e-3
    wanted = (8 * (exact(k + step * along) - exact(k - step * along))
              - (exact(k + 2 * step * along) - exact(k - 2 * step * along))) / (12 * step)  # fmt: skip
    np.testing.assert_allclose(tg.grad(loss)(k) @ along, wanted, rtol=1e-3)


def test_times_alone_and_starts_alone():
    rotation = np.array([[0.0, 1.0], [-1.0, 0.0]])
    times, start = np.array([1.0, 2.0]), np.array([1.0, 0.0])
    tops = np.stack([np.cos(times), np.sin(times)])
    for mode in MODES:

        def first(t0, start, times, mode=mode):
            return solve_ivp(
                lambda t, y: rotation @ y, (t0, 3.0), start, t_eval=times, rtol=1e-9, atol=1e-11, sensitivity=mode
            ).y[0]

        by_times = tg.record(lambda t: first(0.0, start, t) @ np.array([1.0, 2.0]), times)
        np.testing.assert_allclose(by_times.grad(times), -np.sin(times) * [1.0, 2.0], rtol=0.0, atol=1e-7)
        np.testing.assert_allclose(by_times.hessian(times), -np.diag(np.cos(times) * [1.0, 2.0]), rtol=0.0, atol=1e-7)
        by_start = tg.record(lambda y: np.sum(first(0.0, y, times) ** 2), start)
        np.testing.assert_allclose(by_start.grad(start), 2.0 * tops @ tops.T @ start, rtol=0.0, atol=1e-7)
        np.testing.assert_allclose(by_start.hessian(start), 2.0 * tops @ tops.T, rtol=0.0, atol=1e-7)
        by_begin = tg.record(lambda t0: np.sum(first(t0, start, times)), 0.2)
        np.testing.assert_allclose(by_begin.grad(0.2), np.sum(np.sin(times - 0.2)), rtol=0.0, atol=1e-7)
        np.testing.assert_allclose(by_begin.hessian(0.2), -np.sum(np.cos(times - 0.2)), rtol=0.0, atol=1e-7)
        back = tg.jacrev(lambda y: first(0.0, y, times))(start)
        np.testing.assert_allclose(back, tops.T, rtol=0.0, atol=1e-7)


def pendulum(parameters, start):
    def slope(t, y):
        return [y[1], -parameters["k"] * np.sin(y[0]) - parameters["c"] * y[1]]

    return solve_ivp(slope, (0.0, 2.0), start, "DOP853", [0.5, 2.0], rtol=1e-12, atol=1e-12).y


def test_check_grads():
    tg.check_grads(pendulum, ({"k": 1.3, "c": 0.2}, np.array([0.5, 0.1])))


def test_fits():
    data = pendulum({"k": 1.3, "c": 0.2}, np.array([0.5, 0.1]))

    def residuals(parameters):
        return (pendulum(parameters, np.array([0.5, 0.1])) - data).reshape(-1)

    guess = {"k": 1.0, "c": 0.1}
    for found in (
        tg.optimize.minimize(lambda p: np.sum(residuals(p) ** 2), guess, method="trust-exact", options={"gtol": 1e-10}),
        tg.optimize.least_squares(residuals, guess),
    ):
        np.testing.assert_allclose([found.x["k"], found.x["c"]], [1.3, 0.2], rtol=1e-5)


def test_several_threads():
    recording = tg.record(functools.partial(end_of_decay), 0.5)
    rates = np.linspace(0.2, 1.5, 40)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: recording.grad(float(k)), rates))
    np.testing.assert_allclose(found, -2.0 * np.exp(-2.0 * rates), rtol=0.0, atol=1e-6)


def test_the_time_of_an_event_by_implicit_root():
    # As the error about events says: when y = exp(-k t) comes to a level.
    def y_at(t, k):
        return solve_ivp(decay, (0.0, 20.0), [1.0], t_eval=[t], args=(k,), rtol=1e-9, atol=1e-11).y[0, 0]

    def found(k, level):
        def reached(t, y, k):
            return y[0] - level

        reached.terminal = True
        plain = solve_ivp(decay, (0.0, 20.0), [1.0], args=(k,), events=reached, rtol=1e-9, atol=1e-11)
        return plain.t_events[0][0]

    time = tg.implicit_root(lambda t, k, level: y_at(t, k) - level, found)
    k, level = 0.7, 0.4
    t = -np.log(level) / k
    np.testing.assert_allclose(time(k, level), t, rtol=1e-7)
    np.testing.assert_allclose(tg.grad(time, argnums=(0, 1))(k, level), [-t / k, -1.0 / (k * level)], rtol=1e-6)


def test_odeint_takes_one_axis():
    with pytest.raises(ShapeError, match=r"y0 is a vector or a number, not of shape \(2, 3\)"):
        odeint(lambda y, t: -y, tg.Value(np.ones((2, 3))), [0.0, 1.0])
    with pytest.raises(ShapeError, match=r"times t are one axis, not shape \(1, 2\)"):
        odeint(lambda y, t: -y, [1.0], tg.Value(np.array([[0.0, 1.0]])))
