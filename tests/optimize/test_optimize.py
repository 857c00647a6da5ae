"""SciPy's solvers with derivatives filled in: known solutions, fewer calls than with differences, nesting, errors."""

import functools
import warnings
from collections import namedtuple

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.sparse
from scipy.optimize import BFGS, SR1, Bounds, LinearConstraint, NonlinearConstraint
from scipy.sparse.linalg import LinearOperator

import tapegrad as tg
from tapegrad.errors import (
    CutGradientError,
    DTypeError,
    NonScalarError,
    ShapeError,
    StructureError,
    TapeMismatchError,
)
from tapegrad.optimize import least_squares, minimize, root, solve_ivp
from tapegrad.optimize.choice import LEAST


class Counted:
    """A function that counts its calls."""

    def __init__(self, f):
        self.f = f
        self.calls = 0

    def __call__(self, *args):
        self.calls += 1
        return self.f(*args)


@pytest.fixture
def passed(monkeypatch):
    """What is handed to scipy.optimize.minimize, by name."""
    seen = {}
    real = scipy.optimize.minimize

    def spy(fun, x0, **options):
        seen.update(options, fun=fun, x0=x0)
        return real(fun, x0, **options)

    monkeypatch.setattr(scipy.optimize, "minimize", spy)
    return seen


# Problems of SciPy's documentation, and where their minima are.


def rosen(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def himmelblau(x):
    return (x[0] ** 2 + x[1] - 11.0) ** 2 + (x[0] + x[1] ** 2 - 7.0) ** 2


def beale(x):
    a, b = x[0], x[1]
    return (1.5 - a + a * b) ** 2 + (2.25 - a + a * b**2) ** 2 + (2.625 - a + a * b**3) ** 2


def rosen_with_args(x, a, b):
    return np.sum(a * (x[1:] - x[:-1] ** 2.0) ** 2.0 + (1 - x[:-1]) ** 2.0) + b


UNCONSTRAINED = {
    "rosen": (rosen, np.array([1.3, 0.7, 0.8, 1.9, 1.2]), (), np.ones(5)),
    "rosen, args": (rosen_with_args, np.array([1.3, 0.7, 0.8, 1.9, 1.2]), (0.5, 1.0), np.ones(5)),
    "himmelblau": (himmelblau, np.array([0.0, 0.0]), (), np.array([3.0, 2.0])),
    "beale": (beale, np.array([1.0, 1.0]), (), np.array([3.0, 0.5])),
}
FIRST = ["BFGS", "CG", "L-BFGS-B", "TNC", "SLSQP"]
SECOND = ["Newton-CG", "trust-ncg", "trust-krylov", "trust-exact"]


def by_differences(f, x0, args, method):
    """SciPy's own run; where a method insists on derivatives, they are differences too."""
    f = Counted(f)
    given = {}
    if method in SECOND:
        steps = 1e-4 * np.eye(len(x0))

        def hess(x, *args):
            # Differences of differences would be noise: second differences, with their own step.
            here, once = f(x, *args), [f(x + a, *args) for a in steps]
            h = np.zeros((len(x), len(x)))
            for i, a in enumerate(steps):
                for j, b in enumerate(steps[: i + 1]):
                    h[i, j] = h[j, i] = (f(x + a + b, *args) - once[i] - once[j] + here) / 1e-8
            return h

        given = {"jac": lambda x, *args: scipy.optimize.approx_fprime(x, f, 1.5e-8, *args), "hess": hess}
    return scipy.optimize.minimize(f, x0, args=args, method=method, **given), f.calls


def replays(result):
    """Evaluations of any kind, each one replay."""
    return sum(int(result.get(key) or 0) for key in ("nfev", "njev", "nhev"))


@pytest.mark.parametrize("method", [*FIRST, *SECOND, "trust-constr"])
@pytest.mark.parametrize("problem", UNCONSTRAINED)
def test_minimum_in_fewer_calls_than_by_differences(problem, method):
    f, x0, args, at = UNCONSTRAINED[problem]
    counted = Counted(f)
    ours = minimize(counted, x0, args, method)
    theirs, calls = by_differences(f, x0, args, method)
    assert ours.success
    np.testing.assert_allclose(ours.x, at, atol=2e-3)
    np.testing.assert_allclose(theirs.x, at, atol=2e-3)
    assert replays(ours) < calls
    if method in FIRST:
        assert ours.nfev < theirs.nfev
    # The function itself is called to record it, and once more for the gradient's own recording.
    assert counted.calls == 1


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B", *SECOND, "trust-constr"])
@pytest.mark.parametrize("problem", UNCONSTRAINED)
def test_exact_derivatives_allow_tight_tolerances(problem, method):
    f, x0, args, at = UNCONSTRAINED[problem]
    options = {"L-BFGS-B": {"ftol": 1e-15, "gtol": 1e-9}}.get(method)
    found = minimize(f, x0, args, method, tol=None if options else 1e-9, options=options)
    np.testing.assert_allclose(found.x, at, rtol=1e-7)


@pytest.mark.parametrize("method", ["Nelder-Mead", "Powell", "COBYLA"])
def test_methods_without_gradients_get_the_values_themselves(method):
    counted = Counted(himmelblau)
    ours = minimize(counted, [0.0, 0.0], method=method)
    theirs = scipy.optimize.minimize(himmelblau, [0.0, 0.0], method=method)
    assert counted.calls == 1
    assert ours.nfev == theirs.nfev
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-9)


def test_dogleg_where_the_hessian_is_positive():
    found = minimize(lambda x: np.sum(np.cosh(x - 1.0)), np.array([0.0, 3.0]), method="dogleg", tol=1e-9)
    assert found.success and found.nhev > 1
    np.testing.assert_allclose(found.x, [1.0, 1.0], rtol=1e-9)


# The tutorial's constrained Rosenbrock problem, and the example of `minimize` for SLSQP.

TUTORIAL_BOUNDS = Bounds([0.0, -0.5], [1.0, 2.0])
# On the line 2 x + y = 1, where one equation in x is left: 200 (1 - 2 x - x²) (2 + 2 x) + 2 (1 - x) = 0. The tutorial
# prints five digits of this; the methods' own tolerances leave that many.
TUTORIAL_AT = np.array([0.41494431548852434, 0.17011136902295132])


def tutorial_constraints(stack):
    linear = LinearConstraint([[1, 2], [2, 1]], [-np.inf, 1], [1, 1])
    return [linear, NonlinearConstraint(lambda x: stack([x[0] ** 2 + x[1], x[0] ** 2 - x[1]]), -np.inf, 1.0)]


def test_trust_constr_on_the_tutorial(passed):
    counted = Counted(rosen)
    common = {"method": "trust-constr", "bounds": TUTORIAL_BOUNDS}
    theirs = scipy.optimize.minimize(Counted(rosen), [0.5, 0.0], constraints=tutorial_constraints(np.array), **common)
    ours = minimize(counted, [0.5, 0.0], constraints=tutorial_constraints(np.stack), **common)
    np.testing.assert_allclose(ours.x, TUTORIAL_AT, atol=5e-6)
    np.testing.assert_allclose(theirs.x, TUTORIAL_AT, atol=5e-6)
    assert ours.nfev < theirs.nfev and counted.calls == 1
    # The constraint's function: with differences its Jacobian costs two calls more each time.
    assert ours.constr_nfev[1] < theirs.constr_nfev[1]
    # The tutorial gives these by hand.
    x, v = np.array([0.3, -0.2]), np.array([0.7, -1.3])
    nonlinear = passed["constraints"][1]
    np.testing.assert_allclose(nonlinear.jac(x), [[2 * x[0], 1.0], [2 * x[0], -1.0]], rtol=1e-14)
    np.testing.assert_allclose(nonlinear.hess(x, v), v[0] * np.diag([2.0, 0.0]) + v[1] * np.diag([2.0, 0.0]))
    hessian = [[1200 * x[0] ** 2 - 400 * x[1] + 2, -400 * x[0]], [-400 * x[0], 200.0]]
    np.testing.assert_allclose(passed["hess"](x), hessian, rtol=1e-13)
    # With these the method goes the same way.
    linear, given = tutorial_constraints(np.array)
    given.jac = lambda x: np.array([[2 * x[0], 1.0], [2 * x[0], -1.0]])
    given.hess = lambda x, v: np.diag([2.0 * (v[0] + v[1]), 0.0])
    by_hand = scipy.optimize.minimize(
        rosen, [0.5, 0.0], constraints=[linear, given], jac=scipy.optimize.rosen_der, hess=scipy.optimize.rosen_hess,
        **common,
    )  # fmt: skip
    assert (by_hand.nit, by_hand.nfev, by_hand.nhev) == (ours.nit, ours.nfev, ours.nhev)
    np.testing.assert_allclose(by_hand.x, ours.x, rtol=1e-9)


@pytest.mark.parametrize("method", ["SLSQP", "trust-constr"])
def test_dict_constraints_on_the_tutorial(method, passed):
    def ineq(x, stack=np.stack):
        return stack([1 - x[0] - 2 * x[1], 1 - x[0] ** 2 - x[1], 1 - x[0] ** 2 + x[1]])

    def dicts(ineq):
        return [
            {"type": "eq", "fun": lambda x, a: a * x[0] + x[1] - 1, "args": (2.0,)},
            {"type": "ineq", "fun": ineq},
        ]

    common = {"method": method, "bounds": TUTORIAL_BOUNDS}
    with warnings.catch_warnings():
        # An approximated Hessian of a linear function.
        warnings.simplefilter("ignore", UserWarning)
        theirs = scipy.optimize.minimize(rosen, [0.5, 0], constraints=dicts(lambda x: ineq(x, np.array)), **common)
    ours = minimize(rosen, [0.5, 0], constraints=dicts(ineq), **common)
    np.testing.assert_allclose(ours.x, TUTORIAL_AT, atol=5e-6)
    np.testing.assert_allclose(theirs.x, TUTORIAL_AT, atol=5e-6)
    assert ours.nfev < theirs.nfev
    x, v = np.array([0.3, -0.2]), np.array([0.7, -1.3, 0.4])
    second = passed["constraints"][1]
    jacobian = [[-1, -2], [-2 * x[0], -1], [-2 * x[0], 1]]
    np.testing.assert_allclose((second["jac"] if method == "SLSQP" else second.jac)(x), jacobian, rtol=1e-14)
    if method == "trust-constr":
        np.testing.assert_allclose(second.hess(x, v), np.diag([-2 * (v[1] + v[2]), 0.0]), rtol=1e-14)
        assert (second.lb, second.ub) == (0.0, np.inf)
        assert (passed["constraints"][0].lb, passed["constraints"][0].ub) == (0.0, 0.0)
    else:
        tight = minimize(rosen, [0.5, 0], constraints=dicts(ineq), **common, tol=1e-15)
        np.testing.assert_allclose(tight.x, TUTORIAL_AT, rtol=1e-8)


@pytest.mark.parametrize("method", [None, "COBYLA"])
def test_the_example_of_slsqp(method):
    def f(x):
        return (x[0] - 1) ** 2 + (x[1] - 2.5) ** 2

    constraints = (
        {"type": "ineq", "fun": lambda x: x[0] - 2 * x[1] + 2},
        {"type": "ineq", "fun": lambda x: -x[0] - 2 * x[1] + 6},
        {"type": "ineq", "fun": lambda x: -x[0] + 2 * x[1] + 2},
    )
    common = {"method": method, "bounds": ((0, None), (0, None)), "constraints": constraints}
    ours, theirs = minimize(f, (2, 0), **common), scipy.optimize.minimize(f, (2, 0), **common)
    np.testing.assert_allclose(ours.x, [1.4, 1.7], atol=2e-4 if method else 1e-12)
    if method is None:
        np.testing.assert_allclose(ours.multipliers, [0.8, 0.0, 0.0], atol=1e-12)
        assert ours.nfev < theirs.nfev
    else:
        assert ours.nfev == theirs.nfev


def test_nonlinear_constraints_for_slsqp():
    """SciPy turns them into dicts; the Jacobian must come along."""
    jacobians = Counted(lambda x: np.array([[2 * x[0], 2 * x[1]]]))
    circle = NonlinearConstraint(lambda x: x[0] ** 2 + x[1] ** 2, 1.0, 1.0)
    own = NonlinearConstraint(lambda x: x[0] ** 2 + x[1] ** 2, 1.0, 1.0, jac=jacobians)
    for constraint in (circle, [circle], own):
        found = minimize(lambda x: x[0] + x[1], [-1.0, 0.0], method="SLSQP", constraints=constraint, tol=1e-10)
        np.testing.assert_allclose(found.x, [-(0.5**0.5)] * 2, rtol=1e-9)
    assert jacobians.calls > 1


def test_default_methods(passed):
    for given, name in (
        ({}, "bfgs"),
        ({"bounds": [(0, None)] * 2}, "l-bfgs-b"),
        ({"constraints": LinearConstraint(np.eye(2), 0, 1)}, "slsqp"),
        ({"constraints": None}, "bfgs"),
    ):
        found = minimize(lambda x: np.sum((x - 0.5) ** 2), np.zeros(2), **given)
        assert passed["method"] == name and found.success
        np.testing.assert_allclose(found.x, [0.5, 0.5], rtol=1e-6)


def test_a_method_of_ones_own():
    def newton(fun, x0, args, jac, hess, hessp, bounds, constraints, callback, steps):
        assert args == () and bounds is None and hess is None
        n = len(x0)
        for _ in range(steps):
            matrix = np.stack([hessp(x0, e) for e in np.eye(n)])
            x0 = x0 - np.linalg.solve(matrix, jac(x0))
        return scipy.optimize.OptimizeResult(x=x0, fun=fun(x0), jac=jac(x0), success=True)

    found = minimize(lambda x: np.sum(np.cosh(x["a"] - 1.0)), {"a": np.zeros(2)}, method=newton, options={"steps": 6})
    np.testing.assert_allclose(found.x["a"], [1.0, 1.0], rtol=1e-12)
    assert found.jac["a"].shape == (2,)


def test_what_a_method_changes_in_place_is_its_own():
    def descent(fun, x0, args, jac, **options):
        x0 = np.array(x0)
        g = jac(x0)
        expected = scipy.optimize.rosen_der(x0)
        np.testing.assert_allclose(g, expected, rtol=1e-13)
        g *= 0.0
        np.testing.assert_allclose(jac(x0), expected, rtol=1e-13)
        before = fun(x0)
        x0 += 1.0
        assert fun(x0) != before
        return scipy.optimize.OptimizeResult(x=x0, success=True)

    minimize(rosen, [0.2, 0.7], method=descent)
    for x0 in ({"b": np.array([3.0, 4.0])}, np.array([3.0, 4.0])):
        found = minimize(lambda p: np.sum((p["b"] if isinstance(p, dict) else p) ** 2), x0)
        before = found.x_flat.copy()
        part = found.x["b"] if isinstance(x0, dict) else found.x
        part += 1.0
        np.testing.assert_array_equal(found.x_flat, before)


# What is handed over


def test_one_replay_gives_value_and_gradient(monkeypatch):
    sweeps = []
    real = tg.Recording.value_and_grad
    monkeypatch.setattr(tg.Recording, "value_and_grad", lambda *a, **k: sweeps.append(1) or real(*a, **k))
    found = minimize(rosen, np.zeros(4), method="L-BFGS-B")
    assert len(sweeps) == found.nfev == found.njev


def test_hessian_products_replay_once_a_point(monkeypatch):
    points = []
    real = tg.Recording.make_hvp
    monkeypatch.setattr(tg.Recording, "make_hvp", lambda r, x: points.append(x.copy()) or real(r, x))
    found = minimize(rosen, UNCONSTRAINED["rosen"][1], method="Newton-CG")
    assert found.nhev > len(points) == len({x.tobytes() for x in points})


def test_the_form_of_the_hessian(passed):
    """Dense where it is small, sparse where it has few entries, else products."""

    def coupled(x):
        return rosen(x) + np.sum(x) ** 2

    for f, n, kind in ((rosen, LEAST - 1, np.ndarray), (coupled, LEAST - 1, np.ndarray),
                       (rosen, LEAST, scipy.sparse.csr_array), (coupled, LEAST, LinearOperator)):  # fmt: skip
        x = np.linspace(0.5, 1.5, n)
        minimize(f, x, method="trust-constr", options={"maxiter": 2})
        hessian = passed["hess"](x)
        assert isinstance(hessian, kind)
        v = np.cos(np.arange(n))
        expected = scipy.optimize.rosen_hess_prod(x, v) + (2.0 * np.sum(v) if f is coupled else 0.0)
        np.testing.assert_allclose(hessian @ v, expected, rtol=1e-11, atol=1e-9)


def test_sparse_constraints_of_trust_constr(passed):
    n = 2 * LEAST
    x0 = np.full(n, 0.4)

    def products(x):
        return x[1:] * x[:-1]

    def start(constraints):
        minimize(rosen, x0, method="trust-constr", constraints=constraints, options={"maxiter": 2})
        return passed["constraints"]

    x, v = np.linspace(0.2, 0.9, n), np.sin(np.arange(n - 1.0))
    expected = scipy.sparse.diags([x[1:], x[:-1]], [0, 1], (n - 1, n)).toarray()
    hessian = scipy.sparse.diags([v, v], [-1, 1]).toarray()
    constraint = start(NonlinearConstraint(products, 0.0, 0.5))[0]
    assert scipy.sparse.issparse(constraint.jac(x)) and scipy.sparse.issparse(constraint.hess(x, v))
    np.testing.assert_allclose(constraint.jac(x).toarray(), expected, rtol=1e-14)
    np.testing.assert_allclose(constraint.hess(x, v).toarray(), hessian, rtol=1e-14)
    # SciPy wants all to be alike: one that is dense makes all dense.
    linear = LinearConstraint(np.ones((1, n)), 0.0, n)
    constraint = start([NonlinearConstraint(products, 0.0, 0.5), linear])[0]
    assert isinstance(constraint.jac(x), np.ndarray)
    np.testing.assert_allclose(constraint.jac(x), expected, rtol=1e-14)
    linear = LinearConstraint(scipy.sparse.csr_array(np.ones((1, n))), 0.0, n)
    assert scipy.sparse.issparse(start([linear, NonlinearConstraint(products, 0.0, 0.5)])[1].jac(x))
    assert isinstance(start(NonlinearConstraint(lambda x: np.sum(x**2), 0.0, n))[0].jac(x), np.ndarray)


def test_derivatives_of_ones_own_are_used():
    x0 = UNCONSTRAINED["rosen"][1]
    jac, hess = Counted(scipy.optimize.rosen_der), Counted(scipy.optimize.rosen_hess)
    hessp = Counted(scipy.optimize.rosen_hess_prod)
    for method, given in (
        ("BFGS", {"jac": jac}), ("trust-exact", {"jac": jac, "hess": hess}), ("trust-exact", {"hess": hess}),
        ("Newton-CG", {"hessp": hessp}), ("trust-constr", {"hessp": hessp}),
    ):  # fmt: skip
        before = {name: f.calls for name, f in given.items()}
        found = minimize(rosen, x0, method=method, tol=1e-8, **given)
        np.testing.assert_allclose(found.x, np.ones(5), atol=1e-6)
        assert all(f.calls > before[name] + 1 for name, f in given.items())


def test_a_hessian_approximation_is_used(passed):
    approximation = SR1()
    constraint = NonlinearConstraint(lambda x: x[0] * x[1], 0.0, 5.0, hess=approximation)
    found = minimize(rosen, [0.5, 2.0], method="trust-constr", hess=BFGS(), constraints=constraint)
    assert isinstance(passed["hess"], BFGS) and passed["constraints"][0].hess is approximation
    np.testing.assert_allclose(found.x, [1.0, 1.0], atol=1e-5)


# Nesting

Pair = namedtuple("Pair", "left right")


@pytest.mark.parametrize("method", ["BFGS", "L-BFGS-B", "Newton-CG", "trust-constr", "trust-exact", "Nelder-Mead"])
def test_minimize_nested(method):
    target = np.arange(6.0).reshape(2, 3)

    def f(p):
        assert p["m"].shape == (2, 3) and np.shape(p["pair"].left) == () and isinstance(p["pair"], Pair)
        left, right = p["pair"]
        return np.sum((p["m"] - target) ** 2) + (left - 2.0) ** 2 + (right[0] * left - 1) ** 2

    x0 = {"m": np.ones((2, 3), np.float32), "pair": Pair(1, np.array([1]))}
    options = {"maxiter": 3000, "maxfev": 5000} if method == "Nelder-Mead" else None
    found = minimize(f, x0, method=method, options=options)
    assert list(found.x) == ["m", "pair"] and isinstance(found.x["pair"], Pair)
    assert isinstance(found.x["pair"].left, float) and found.x["m"].dtype == np.float64
    np.testing.assert_allclose(found.x["m"], target, atol=1e-4)
    np.testing.assert_allclose([found.x["pair"].left, found.x["pair"].right[0]], [2.0, 0.5], atol=1e-4)
    numbers = [*found.x["m"].ravel(), found.x["pair"].left, found.x["pair"].right[0]]
    np.testing.assert_array_equal(found.x_flat, numbers)
    if method != "Nelder-Mead":
        gradient = found.grad if method == "trust-constr" else found.jac
        assert gradient["m"].shape == (2, 3) and isinstance(gradient["pair"].left, float)
    if method not in ("Nelder-Mead", "Newton-CG"):
        # Newton-CG returns the gradient before its last step.
        np.testing.assert_allclose(gradient["m"], 2 * (found.x["m"] - target), rtol=1e-12, atol=1e-15)


def test_shapes_of_a_start():
    def f(x):
        return np.sum((x - 1.0) ** 2)

    assert minimize(f, np.zeros((2, 3))).x.shape == (2, 3)
    assert minimize(f, np.array(0.0)).x.shape == ()
    number = minimize(f, 3).x
    assert type(number) is float and number == pytest.approx(1.0)
    for vector in ([3, 0], (3.0, 0), np.array([3, 0]), np.array([3, 0], np.float32)):
        found = minimize(f, vector)
        assert found.x.dtype == np.float64
        np.testing.assert_allclose(found.x, [1.0, 1.0], rtol=1e-6)
    parts = minimize(lambda p: f(p[0]) + f(p[1]), [np.zeros(2), 0.0]).x
    assert type(parts) is list and parts[0].shape == (2,) and type(parts[1]) is float


def test_bounds_nested():
    def f(p):
        return np.sum((p["a"] - 5.0) ** 2) + (p["b"] + 5.0) ** 2

    x0 = {"a": np.zeros((1, 2)), "b": 0.0}
    for bounds in (
        {"a": (None, 1.0), "b": (-2.0, None)},
        {"b": (-2.0, None), "a": (-np.inf, [1.0, 1.0])},
        [(None, 1.0), (None, 1.0), (-2.0, None)],
        Bounds([-np.inf, -np.inf, -2.0], [1.0, 1.0, np.inf]),
    ):
        found = minimize(f, x0, bounds=bounds)
        assert found.x["b"] == -2.0
        np.testing.assert_array_equal(found.x["a"], [[1.0, 1.0]])
    free = minimize(f, x0, bounds={"a": None, "b": (-2.0, None)})
    np.testing.assert_allclose(free.x["a"], [[5.0, 5.0]], rtol=1e-6)
    with pytest.raises(StructureError, match="nested as x0"):
        minimize(f, x0, bounds={"a": (0, 1)})
    with pytest.raises(StructureError, match=r"pair \(low, high\)"):
        minimize(f, x0, bounds={"a": (0, 1), "b": 3.0})
    with pytest.raises(ShapeError, match="do not fit"):
        minimize(f, x0, bounds={"a": (0, [1.0, 2.0, 3.0]), "b": (0, 1)})


def test_constraints_and_own_derivatives_nested():
    def f(p):
        return p["a"] ** 2 + np.sum(p["b"] ** 2)

    def plane(p):
        return p["a"] + np.sum(p["b"]) - 3.0

    def gradient(p):
        return {"a": 2 * p["a"], "b": 2 * p["b"]}

    x0 = {"a": 1.0, "b": np.zeros(2)}
    for method, constraint in (
        ("SLSQP", {"type": "eq", "fun": plane}),
        ("SLSQP", {"type": "eq", "fun": plane, "jac": lambda p: np.ones((1, 3))}),
        ("trust-constr", NonlinearConstraint(plane, 0.0, 0.0, hess=lambda p, v: np.zeros((3, 3)))),
        ("trust-constr", LinearConstraint(np.ones((1, 3)), 3.0, 3.0)),
    ):
        for jac in (None, gradient, lambda p: np.array([2 * p["a"], *(2 * p["b"])])):
            found = minimize(f, x0, method=method, jac=jac, constraints=constraint)
            np.testing.assert_allclose([found.x["a"], *found.x["b"]], 1.0, rtol=1e-6)
    with pytest.raises(ShapeError, match="what jac returns"):
        minimize(f, x0, jac=lambda p: {"a": 0.0})
    with pytest.raises(ShapeError, match=r"what jac returns: a part has shape \(3,\)"):
        minimize(f, x0, jac=lambda p: {"a": 0.0, "b": np.zeros(3)})


def test_callbacks_see_nested_numbers():
    seen = []

    def with_result(intermediate_result):
        seen.append((intermediate_result.x, intermediate_result.fun))

    def stop(x):
        raise StopIteration

    x0 = {"a": 0.0, "b": np.zeros(2)}

    def f(p):
        return np.cosh(p["a"] - 1.0) + np.sum((p["b"] - p["a"]) ** 2)

    found = minimize(f, x0, callback=with_result)
    assert len(seen) == found.nit and seen[-1][0]["a"] == found.x["a"] and seen[-1][1] == found.fun
    seen.clear()
    minimize(f, x0, callback=lambda x: seen.append(x))
    assert seen[-1]["b"].shape == (2,)
    seen.clear()
    minimize(f, x0, method="trust-constr", callback=lambda x, state: seen.append((x, state)))
    assert "a" in seen[-1][0] and "barrier_tolerance" not in seen[-1][1]
    assert minimize(f, x0, callback=stop).nit == 1
    seen.clear()
    minimize(rosen, [0.0, 0.0], callback=lambda x: seen.append(x))
    assert seen[-1].shape == (2,)


# Functions as people write them


def test_branches_are_followed():
    def huber(x, data):
        total = 0.0
        for d in data:
            r = x - d
            total = total + (0.5 * r * r if abs(r) < 1.0 else abs(r) - 0.5)
        return total

    data = np.array([0.0, 0.1, 0.2, 0.3, 50.0])
    counted = Counted(huber)
    found = minimize(counted, 20.0, (data,))
    # Of the residuals r of the four near ones, and 1 for the far one, the sum is zero.
    assert found.x == pytest.approx(0.15 + 0.25, abs=1e-5)
    assert counted.calls < found.nfev


def test_arguments_are_taken_as_they_are():
    def f(x, a, names, count, table):
        assert isinstance(a, np.ndarray) and type(count) is int and names == ["p", "q"]
        return np.sum((x - a) ** 2) + sum(x[i] ** 2 for i in range(count)) + 0.0 * len(table)

    single = np.array([1.0, 2.0], np.float32)
    found = minimize(f, [0.0, 0.0], (single, ["p", "q"], 1, {object()}))
    np.testing.assert_allclose(found.x, [0.5, 2.0], rtol=1e-6)
    assert single.dtype == np.float32
    np.testing.assert_allclose(minimize(lambda x, a: np.sum((x - a) ** 2), [0.0], 3.0).x, [3.0], rtol=1e-6)


class Told(Exception):
    pass


def trap(x):
    if x[0] < 0.5:
        raise Told("too far")
    return x[0] ** 2 + x[1] ** 2


METHODS = [*FIRST, *SECOND, "dogleg", "trust-constr", "Nelder-Mead", "Powell", "COBYLA"]


@pytest.mark.parametrize("method", METHODS)
def test_exceptions_surface_from_minimize(method):
    with pytest.raises(Told, match="too far"):
        minimize(trap, [3.0, 1.0], method=method)


@pytest.mark.parametrize("method", ["trf", "dogbox", "lm", "hybr", "root lm", "krylov", "broyden1", "df-sane"])
def test_exceptions_surface_from_systems(method):
    def equations(x):
        if x[0] < 0.5:
            raise Told("too far")
        return [x[0] - 0.1, x[1] - x[0]]

    with pytest.raises(Told, match="too far"):
        if method in ("trf", "dogbox", "lm"):
            least_squares(equations, [3.0, 1.0], method=method)
        else:
            root(equations, [3.0, 1.0], method=method.split()[-1])


@pytest.mark.parametrize("method", ["RK45", "DOP853", "Radau", "BDF", "LSODA"])
def test_exceptions_surface_from_solve_ivp(method):
    def fun(t, y):
        if t > 0.5:
            raise Told("too late")
        return -y

    with pytest.raises(Told, match="too late"):
        solve_ivp(fun, (0.0, 1.0), [1.0, 2.0], method)


# Least squares


def rosen_residuals(x):
    return [10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]]


ENZYME_U = np.array([4.0, 2.0, 1.0, 5.0e-1, 2.5e-1, 1.67e-1, 1.25e-1, 1.0e-1, 8.33e-2, 7.14e-2, 6.25e-2])
ENZYME_Y = np.array([
    1.957e-1, 1.947e-1, 1.735e-1, 1.6e-1, 8.44e-2, 6.27e-2, 4.56e-2, 3.42e-2, 3.23e-2, 2.35e-2, 2.46e-2,
])  # fmt: skip


def enzyme(x, u, y):
    return x[0] * (u**2 + x[1] * u) / (u**2 + x[2] * u + x[3]) - y


def exponential(x, t, y):
    return x[0] + x[1] * np.exp(x[2] * t) - y


def exponential_data():
    t = np.linspace(0.0, 10.0, 15)
    y = 0.5 + 2.0 * np.exp(-t) + 0.1 * np.random.default_rng(0).standard_normal(15)
    y[::4] += 1.0
    return t, y


# SciPy's examples; the cost and solution of the first two are those of its documentation.
FREE = (-np.inf, np.inf)
SQUARES = {
    "rosenbrock": (rosen_residuals, [2.0, 2.0], (), {}, [1.0, 1.0], 0.0),
    "rosenbrock within bounds": (
        rosen_residuals, [2.0, 2.0], (), {"bounds": ([-np.inf, 1.5], np.inf)}, [1.22437075, 1.5], 0.025213093946805685
    ),
    "enzyme": (
        enzyme, [2.5, 3.9, 4.15, 3.9], (ENZYME_U, ENZYME_Y), {"bounds": (0, 100)},
        [0.19280596, 0.19130423, 0.12306063, 0.13607247], 0.00015375280234150847,
    ),
    "exponential, soft_l1": (
        exponential, [1.0, 1.0, 0.0], exponential_data(), {"loss": "soft_l1", "f_scale": 0.1}, None, None
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("problem", "method"), [*((p, m) for p in SQUARES for m in ("trf", "dogbox")), ("rosenbrock", "lm")]
)
def test_least_squares_in_fewer_calls_than_by_differences(problem, method):
    f, x0, args, given, at, cost = SQUARES[problem]
    ours_counted, theirs_counted = Counted(f), Counted(lambda *a: np.asarray(f(*a)))
    ours = least_squares(ours_counted, x0, args, method=method, **given)
    theirs = scipy.optimize.least_squares(theirs_counted, x0, args=args, method=method, **given)
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-5)
    np.testing.assert_allclose(ours.cost, theirs.cost, rtol=1e-6, atol=1e-15)
    if at is not None:
        # The enzyme's parameters are determined badly, and the printed ones good to four digits: its cost tells.
        np.testing.assert_allclose(ours.x, at, rtol=3e-4 if problem == "enzyme" else 1e-8)
        np.testing.assert_allclose(ours.cost, cost, rtol=1e-9, atol=1e-20)
    assert ours.nfev + ours.njev < theirs_counted.calls
    assert ours_counted.calls == 1


def broyden(x):
    """Broyden's tridiagonal system, of SciPy's example of a large problem."""
    inside = np.concatenate([np.zeros(1), x, np.zeros(1)])
    return (3.0 - 2.0 * x) * x - inside[:-2] - 2.0 * inside[2:] + 1.0


def test_sparse_least_squares():
    n = 1000
    x0 = -np.ones(n)
    ours_counted, theirs_counted = Counted(broyden), Counted(broyden)
    ours = least_squares(ours_counted, x0)
    pattern = scipy.sparse.diags([np.ones(n - 1), np.ones(n), np.ones(n - 1)], [-1, 0, 1])
    theirs = scipy.optimize.least_squares(theirs_counted, x0, jac_sparsity=pattern)
    assert ours_counted.calls == 1 and ours.nfev + ours.njev < theirs_counted.calls
    assert ours.cost < 1e-15 and np.abs(broyden(ours.x)).max() < 1e-7
    np.testing.assert_allclose(ours.x, theirs.x, atol=1e-8)
    x = ours.x
    exact = scipy.sparse.diags([-np.ones(n - 1), 3.0 - 4.0 * x, -2.0 * np.ones(n - 1)], [-1, 0, 1])
    assert scipy.sparse.issparse(ours.jac) and ours.jac.nnz == 3 * n - 2
    assert abs(ours.jac - exact).max() < 1e-13


def test_when_the_jacobian_is_sparse():
    def kind(f, n, **given):
        found = least_squares(f, -np.ones(n), max_nfev=2, **given)
        return "sparse" if scipy.sparse.issparse(found.jac) else "dense"

    def coupled(x):
        return broyden(x) + np.mean(x)

    assert kind(broyden, LEAST) == "sparse" and kind(broyden, LEAST - 1) == "dense"
    assert kind(coupled, LEAST) == "dense"
    assert kind(broyden, LEAST, sparse=False) == "dense" and kind(broyden, 5, sparse=True) == "sparse"
    assert kind(broyden, LEAST, tr_solver="exact") == "dense" and kind(broyden, LEAST, method="lm") == "dense"
    assert kind(broyden, LEAST, method="dogbox") == "sparse"


def test_few_entries_at_the_start_are_not_a_sparse_pattern():
    """Where sampled rows are zero at the start, the pattern decides."""
    n = LEAST
    found = least_squares(lambda x: np.sum(x) * x + x - 0.001, np.zeros(n), max_nfev=20)
    assert isinstance(found.jac, np.ndarray)
    assert found.success and found.cost < 1e-12


def test_least_squares_nested():
    t, y = exponential_data()
    x0 = {"offset": 1, "term": (1.0, np.array([0.0]))}

    def f(p, t, *, y):
        return {"residuals": p["offset"] + p["term"][0] * np.exp(p["term"][1] * t) - y}

    flat = least_squares(exponential, [1.0, 1.0, 0.0], (t, y), method="dogbox")
    found = least_squares(f, x0, t, kwargs={"y": y}, method="dogbox")
    np.testing.assert_allclose(found.x_flat, flat.x, rtol=1e-12)
    assert type(found.x["offset"]) is float and found.x["term"][1].shape == (1,)
    assert found.fun.shape == (15,) and found.jac.shape == (15, 3) and found.grad["term"][1].shape == (1,)
    inside = {"offset": 0.1, "term": (0.1, np.array([0.0]))}
    for end in (0.4, np.array([0.4])):
        high = {"offset": 0.4, "term": (0.4, end)}
        limited = least_squares(f, inside, t, kwargs={"y": y}, bounds=(-np.inf, high))
        assert limited.x["offset"] == pytest.approx(0.4, abs=1e-3) and limited.x["term"][0] <= 0.4
    for high in (0.4, [0.4, 0.4, 0.4]):
        limited = least_squares(f, inside, t, kwargs={"y": y}, bounds=(-np.inf, high))
        assert limited.x["offset"] == pytest.approx(0.4, abs=1e-3) and limited.x["term"][0] <= 0.4
    for bad, match in (({"offset": 1.0}, "nested as x0"), ({"offset": 1, "term": (1, np.ones(2))}, "another shape")):
        with pytest.raises(ShapeError, match=match):
            least_squares(f, x0, t, kwargs={"y": y}, bounds=(-np.inf, bad))


def test_least_squares_takes_a_jacobian_and_a_callback():
    jac = Counted(lambda x: np.array([[-20.0 * x[0], 10.0], [-1.0, 0.0]]))
    seen = []
    found = least_squares(rosen_residuals, [2.0, 2.0], jac=jac, callback=lambda x: seen.append(x))
    np.testing.assert_allclose(found.x, [1.0, 1.0], rtol=1e-12)
    assert jac.calls == found.njev and len(seen) > 0


# Equations

EQUATIONS = {
    "x + 2 cos x": (lambda x: x + 2.0 * np.cos(x), [0.3], [-1.0298665293222589]),
    "two equations": (
        lambda x: [x[0] * np.cos(x[1]) - 4.0, x[0] * x[1] - x[1] - 5.0], [1, 1], [6.50409711, 0.90841421]
    ),
    "root's example": (
        lambda x: [x[0] + 0.5 * (x[0] - x[1]) ** 3 - 1.0, 0.5 * (x[1] - x[0]) ** 3 + x[1]], [0, 0],
        [0.8411639, 0.1588361],
    ),
}  # fmt: skip


@pytest.mark.parametrize("method", ["hybr", "lm"])
@pytest.mark.parametrize("problem", EQUATIONS)
def test_root_in_fewer_calls_than_by_differences(problem, method):
    f, x0, at = EQUATIONS[problem]
    counted = Counted(f)
    ours = root(counted, x0, method=method)
    theirs = scipy.optimize.root(lambda x: np.asarray(f(x)), x0, method=method)
    assert ours.success and ours.nfev < theirs.nfev and counted.calls == 1
    # To the digits that are printed.
    np.testing.assert_allclose(ours.x, at, rtol=0.0, atol=5.1e-9)
    np.testing.assert_allclose(f(ours.x), 0.0, atol=1e-10)
    if (problem, method) != ("root's example", "lm"):
        np.testing.assert_allclose(theirs.x, at, rtol=0.0, atol=5.1e-9)
    else:
        # Without derivatives lm stops elsewhere, and reports success.
        assert np.abs(f(theirs.x)).max() > 0.01


@pytest.mark.parametrize("method", ["broyden1", "krylov", "df-sane"])
def test_root_without_jacobians(method):
    f, x0, _ = EQUATIONS["two equations" if method == "krylov" else "root's example"]
    x0 = [6.0, 1.0] if method == "krylov" else x0
    ours, theirs = root(f, x0, method=method), scipy.optimize.root(lambda x: np.asarray(f(x)), x0, method=method)
    assert ours.success and ours.nfev == theirs.nfev
    np.testing.assert_allclose(ours.x, theirs.x, rtol=1e-9)


def test_root_nested():
    def f(p, goal):
        return {"a": p["a"] * np.cos(p["b"][0, 0]) - goal, "b": [p["a"] * p["b"] - p["b"] - 5.0]}

    found = root(f, {"a": 1.0, "b": np.ones((1, 1))}, 4.0)
    assert found.success and type(found.x["a"]) is float and found.x["b"].shape == (1, 1)
    np.testing.assert_allclose([found.x["a"], found.x["b"][0, 0]], [6.50409711, 0.90841421], rtol=1e-8)
    assert type(found.fun["a"]) is float and found.fun["b"][0].shape == (1, 1)
    assert type(root(lambda x: x**3 - 8.0, 1.0).x) is float
    seen = []
    matrix = root(lambda x: x**2 - 2.0, np.ones((2, 2)), method="krylov", callback=lambda x, r: seen.append((x, r)))
    np.testing.assert_allclose(matrix.x, np.full((2, 2), 2**0.5), rtol=1e-5)
    assert matrix.fun.shape == (2, 2) and seen[-1][0].shape == seen[-1][1].shape == (2, 2)


def test_root_takes_a_jacobian():
    jac = Counted(lambda x, a: np.diag(2.0 * x))
    found = root(lambda x, a: x**2 - a, [1.0, 1.0], np.array([2.0, 3.0]), jac=jac)
    np.testing.assert_allclose(found.x, np.sqrt([2.0, 3.0]), rtol=1e-9)
    assert jac.calls >= found.njev > 0


# Initial value problems


def van_der_pol(t, y, mu):
    return [y[1], mu * (1.0 - y[0] ** 2) * y[1] - y[0]]


def van_der_pol_jacobian(t, y, mu):
    return np.array([[0.0, 1.0], [-2.0 * mu * y[0] * y[1] - 1.0, mu * (1.0 - y[0] ** 2)]])


def robertson(t, y):
    return [
        -0.04 * y[0] + 1e4 * y[1] * y[2],
        0.04 * y[0] - 1e4 * y[1] * y[2] - 3e7 * y[1] ** 2,
        3e7 * y[1] ** 2,
    ]


@functools.cache
def van_der_pol_at_the_end():
    tight = {"method": "Radau", "jac": van_der_pol_jacobian, "rtol": 1e-9, "atol": 1e-12}
    return scipy.integrate.solve_ivp(van_der_pol, (0.0, 1000.0), [2.0, 0.0], args=(1e3,), **tight).y[:, -1]


STIFF = {"rtol": 1e-6, "atol": 1e-9}


@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA"])
def test_van_der_pol(method):
    counted, theirs_counted = Counted(van_der_pol), Counted(van_der_pol)
    common = {"method": method, "args": (1e3,), **STIFF}
    ours = solve_ivp(counted, (0.0, 1000.0), [2.0, 0.0], **common)
    scipy.integrate.solve_ivp(theirs_counted, (0.0, 1000.0), [2.0, 0.0], **common)
    # LSODA's count has the calls for differences; the others' has not.
    assert ours.success and ours.nfev + (0 if method == "LSODA" else ours.njev) < theirs_counted.calls
    assert counted.calls == 1
    np.testing.assert_allclose(ours.y[:, -1], van_der_pol_at_the_end(), rtol=2e-5)


@pytest.mark.parametrize("method", ["BDF", "Radau"])
def test_robertson(method):
    counted = Counted(robertson)
    tight = {"method": method, "rtol": 1e-9, "atol": 1e-13}
    found = solve_ivp(robertson, (0.0, 40.0), [1.0, 0.0, 0.0], **tight)
    # L. F. Shampine and others give this solution at t = 40.
    np.testing.assert_allclose(found.y[:, -1], [0.7158270688, 0.9185534764e-5, 0.2841637457], rtol=1e-6)
    loose = {"method": method, "rtol": 1e-6, "atol": 1e-10}
    ours = solve_ivp(robertson, (0.0, 1e5), [1.0, 0.0, 0.0], **loose)
    theirs = scipy.integrate.solve_ivp(counted, (0.0, 1e5), [1.0, 0.0, 0.0], **loose)
    assert ours.nfev + ours.njev < counted.calls
    np.testing.assert_allclose(ours.y.sum(axis=0), 1.0, rtol=1e-9)
    np.testing.assert_allclose(ours.y[:, -1], theirs.y[:, -1], rtol=1e-4)


def spying(method, seen):
    """A method that keeps what it was given."""

    class Spy(method):
        def __init__(self, fun, t0, y0, t_bound, vectorized, **options):
            seen.update(options, fun=fun)
            super().__init__(fun, t0, y0, t_bound, vectorized=vectorized, **options)

    return Spy


def test_the_jacobian_that_is_handed_over():
    seen = {}
    solve_ivp(van_der_pol, (0.0, 1.0), [2.0, 0.0], spying(scipy.integrate.Radau, seen), (1e3,))
    y = np.array([0.3, -1.2])
    np.testing.assert_allclose(seen["jac"](7.0, y), van_der_pol_jacobian(7.0, y, 1e3), rtol=1e-14)
    seen.clear()
    solve_ivp(van_der_pol, (0.0, 1.0), [2.0, 0.0], spying(scipy.integrate.RK45, seen), (1.0,))
    assert "jac" not in seen
    # Time is an argument of the recording, and not differentiated.
    solve_ivp(lambda t, y: -y * np.sin(t), (0.0, 1.0), [2.0, 0.0], spying(scipy.integrate.BDF, seen))
    np.testing.assert_allclose(seen["jac"](0.5, y), -np.sin(0.5) * np.eye(2), rtol=1e-15)
    np.testing.assert_allclose(seen["fun"](0.5, y), -np.sin(0.5) * y, rtol=1e-15)


def fisher(t, u):
    """Diffusion and growth on a line, by differences in space."""
    n = len(u)
    inside = np.concatenate([np.zeros(1), u, np.zeros(1)])
    return 0.01 * (n + 1) ** 2 * (inside[:-2] - 2.0 * u + inside[2:]) + u * (1.0 - u)


def fisher_jacobian(u):
    n = len(u)
    k = 0.01 * (n + 1) ** 2
    return scipy.sparse.diags([np.full(n - 1, k), 1.0 - 2.0 * u - 2.0 * k, np.full(n - 1, k)], [-1, 0, 1])


@pytest.mark.parametrize("method", [scipy.integrate.Radau, scipy.integrate.BDF])
def test_sparse_jacobians_of_initial_value_problems(method):
    n = LEAST
    u0 = np.sin(np.pi * np.arange(1, n + 1) / (n + 1))
    kinds = {}
    for sparse in (None, True, False):
        seen = {}
        found = solve_ivp(fisher, (0.0, 1.0), u0, spying(method, seen), sparse=sparse, **STIFF)
        assert scipy.sparse.issparse(seen["jac"](0.0, u0)) is (sparse is not False)
        assert abs(seen["jac"](0.0, u0) - fisher_jacobian(u0).toarray()).max() < 1e-10
        kinds[sparse] = found.y[:, -1]
    np.testing.assert_allclose(kinds[None], kinds[False], rtol=1e-9)
    seen = {}
    solve_ivp(fisher, (0.0, 0.01), u0[: n - 1], spying(method, seen))
    assert isinstance(seen["jac"](0.0, u0[: n - 1]), np.ndarray)


def test_bands_for_lsoda():
    u0 = np.sin(np.pi * np.arange(1, 61) / 61)
    full = solve_ivp(fisher, (0.0, 2.0), u0, "LSODA", **STIFF)
    banded = solve_ivp(fisher, (0.0, 2.0), u0, "LSODA", lband=1, uband=1, **STIFF)
    counted = Counted(fisher)
    scipy.integrate.solve_ivp(counted, (0.0, 2.0), u0, "LSODA", lband=1, uband=1, **STIFF)
    assert banded.nfev == full.nfev < counted.calls
    np.testing.assert_allclose(banded.y, full.y, rtol=1e-9)

    def upper(t, y):
        return np.concatenate([-50.0 * y[:-1] + y[1:], -y[-1:]])

    seen = {}
    solve_ivp(upper, (0.0, 1.0), np.ones(3), spying(scipy.integrate.LSODA, seen), uband=1)
    np.testing.assert_array_equal(seen["jac"](0.0, np.ones(3)), [[0.0, 1.0, 1.0], [-50.0, -50.0, -1.0]])


def test_solve_ivp_nested():
    def fun(t, s, k):
        return {"x": s["v"], "v": [-k * s["x"][0], -k * s["x"][1]]}

    def crossing(t, s, k):
        return s["x"][0]

    crossing.terminal = True
    y0 = {"x": np.array([1.0, 0.5]), "v": np.zeros(2)}
    for method in ("RK45", "Radau", "LSODA"):
        found = solve_ivp(fun, (0.0, 10.0), y0, method, (4.0,), events=crossing, rtol=1e-8, atol=1e-10)
        assert found.status == 1
        np.testing.assert_allclose(found.t_events[0], [np.pi / 4], rtol=1e-6)
        assert found.y["x"].shape == (2, len(found.t)) and found.y_events[0].shape == (1, 4)
        np.testing.assert_allclose(found.y["x"][1], 0.5 * np.cos(2.0 * found.t), atol=1e-6)
    number = solve_ivp(lambda t, y: -y, (0.0, 1.0), 2.0, "BDF", t_eval=[0.5, 1.0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(number.y, 2.0 * np.exp([-0.5, -1.0]), rtol=1e-6)
    assert solve_ivp(lambda t, y: -y, (0.0, 1.0), 2.0, t_eval=[]).y.shape == (0,)
    matrix = solve_ivp(lambda t, y: -y, (0.0, 1.0), np.ones((2, 2)), events=[lambda t, y: y[1, 1] - 0.5])
    assert matrix.y.shape == (2, 2, len(matrix.t))
    np.testing.assert_allclose(matrix.t_events[0], [np.log(2.0)], rtol=1e-3)


def test_solve_ivp_takes_a_jacobian_and_switches():
    jac = Counted(van_der_pol_jacobian)
    found = solve_ivp(van_der_pol, (0.0, 10.0), [2.0, 0.0], args=(1e3,), jac=jac, vectorized=True)
    assert found.success and jac.calls == found.njev
    counted = Counted(lambda t, y: -y if t < 1.0 else -10.0 * y)
    found = solve_ivp(counted, (0.0, 2.0), [1.0], "Radau", max_step=0.05, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(found.y[0, -1], np.exp(-11.0), rtol=1e-3)
    assert counted.calls == 2


# Errors


def square(x):
    return np.sum(x * x)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: minimize(square, [1.0], method="BFSG"), ValueError, "unknown method 'BFSG'.*l-bfgs-b"),
        (lambda: minimize(square, [1.0], method=3), ValueError, "unknown method 3"),
        (lambda: minimize(lambda x: x, [1.0, 2.0]), NonScalarError, "sum it first"),
        (lambda: minimize(lambda x: x, [1.0, 2.0], method="Powell"), NonScalarError, "sum it first"),
        (lambda: minimize(lambda x: [x[0], x[1]], [1.0, 2.0]), NonScalarError, "the function returned"),
        (lambda: minimize(lambda x: None, [1.0, 2.0]), NonScalarError, "the function returned"),
        (lambda: minimize(square, [1.0, np.nan]), ValueError, "x0 must be finite: element 1 is nan"),
        (lambda: minimize(square, {"a": np.array([1.0, -np.inf])}), ValueError, "x0 must be finite: element 1 is -inf"),
        (lambda: minimize(lambda x: np.sum(np.log(x)), [0.0, 1.0]), ValueError, "is -inf at the start"),
        (lambda: minimize(lambda x: np.sum(np.sqrt(x)), [1.0, 0.0]), ValueError, "gradient.*element 1 is inf"),
        (lambda: minimize(square, []), ValueError, "x0 holds no numbers"),
        (lambda: minimize(square, [1j]), DTypeError, "complex"),
        (lambda: minimize(square, True), DTypeError, "bool"),
        (lambda: minimize(square, {"a": "b"}), StructureError, "x0 holds a str"),
        (lambda: minimize(square, tg.Value(1.0)), CutGradientError, "implicit_root"),
        (lambda: minimize(square, [1.0], (tg.Value(1.0),)), CutGradientError, "args holds Values"),
        (lambda: minimize(lambda x: np.sum(np.asarray(x)), [1.0]), CutGradientError, "asarray"),
        (lambda: minimize(square, [1.0], jac=True), NonScalarError, "with jac=True .* one number and its gradient"),
        (lambda: minimize(lambda x: (1.0, x[:1]), [1.0, 2.0], jac=True), ShapeError, "gradient that the function"),
        (lambda: minimize(square, [1.0], jac="2-point"), ValueError, "jac is '2-point'"),
        (lambda: minimize(square, [1.0], constraints=[3]), TypeError, "constraint 0 is a int"),
        (lambda: minimize(square, [1.0], constraints={"type": "le", "fun": square}), ValueError, "'eq' or 'ineq'"),
        (lambda: minimize(square, [1.0], constraints={"type": "eq"}), ValueError, "no function 'fun'"),
        (lambda: least_squares(broyden, [1.0], method="bfgs"), ValueError, "unknown method 'bfgs'"),
        (lambda: least_squares(broyden, [1.0], sparse=True, method="lm"), ValueError, "trf or dogbox"),
        (lambda: least_squares(broyden, [1.0], sparse=True, tr_solver="exact"), ValueError, "tr_solver='exact'"),
        (lambda: least_squares(broyden, [1.0], jac_sparsity=np.eye(1)), ValueError, "jac_sparsity"),
        (lambda: least_squares(broyden, [1.0], jac="3-point"), ValueError, "jac is '3-point'"),
        (lambda: least_squares(broyden, [1.0], bounds=3.0), ValueError, "bounds must be a pair"),
        (lambda: least_squares(lambda x: np.log(x), [0.0]), ValueError, "not finite"),
        (lambda: least_squares(lambda x: None, [1.0]), StructureError, "None"),
        (lambda: root(lambda x: [x[0], "no"], [1.0]), StructureError, "a str among its numbers"),
        (lambda: root(broyden, [np.inf]), ValueError, "x0 must be finite"),
        (lambda: root(broyden, [1.0], method="newton"), ValueError, "unknown method 'newton'"),
        (lambda: root(broyden, [1.0], jac=True), ValueError, "jac is True"),
        (lambda: solve_ivp(fisher, (0, 1), [1.0], "radau"), ValueError, "unknown method 'radau'"),
        (lambda: solve_ivp(fisher, (0, 1), [1.0], "RK45", sparse=True), ValueError, "Radau or BDF"),
        (lambda: solve_ivp(fisher, (0, 1), [1.0], "LSODA", sparse=True), ValueError, "Radau or BDF"),
        (lambda: solve_ivp(fisher, (0, 1), [np.nan]), ValueError, "y0 must be finite"),
        (lambda: solve_ivp(fisher, (0, 1), [1.0], jac_sparsity=np.eye(1)), ValueError, "jac_sparsity"),
        (lambda: solve_ivp(lambda t, y: y[:1], (0, 1), [1.0, 2.0]), ShapeError, "1 numbers, for a state of 2"),
    ],
)
def test_errors(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_errors_are_not_drowned_in_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minimize(rosen, [0.5, 0.5])
        minimize(himmelblau, [0.0, 0.0], method="Nelder-Mead")
        minimize(rosen, [0.5, 0.5], method="trust-exact")
        least_squares(rosen_residuals, [2.0, 2.0])
        root(EQUATIONS["two equations"][0], [1.0, 1.0])
        solve_ivp(robertson, (0.0, 1.0), [1.0, 0.0, 0.0])
        solve_ivp(robertson, (0.0, 1e-3), [1.0, 0.0, 0.0], "RK45", jac=None)


# Inside recorded functions


def test_a_solver_inside_a_recorded_function():
    def scaled(a):
        return minimize(lambda x: (x - 3.0) ** 2, 0.0).x * a

    assert tg.grad(scaled)(2.0) == pytest.approx(3.0)
    # What would cut a gradient raises.
    with pytest.raises(TapeMismatchError):
        tg.grad(lambda a: minimize(lambda x: (x - a) ** 2, 0.0).x * a)(1.0)
    with pytest.raises(CutGradientError, match="implicit_root"):
        tg.grad(lambda a: root(lambda x, a: x - a, 0.0, (a,)).x)(1.0)


def test_gradients_through_solutions():
    def objective(x, a):
        return np.sum((x - a) ** 2 + x**4)

    def solve(a):
        return minimize(objective, np.zeros(2), (a,), "trust-exact", tol=1e-10).x

    argmin = tg.implicit_root(tg.grad(objective), solve)
    a = np.array([1.0, 2.0])
    x = solve(a)
    np.testing.assert_allclose(tg.jacobian(argmin)(a), np.diag(2.0 / (2.0 + 12.0 * x**2)), rtol=1e-8)
    cube = tg.implicit_root(lambda x, a: x**3 + x - a, lambda a: root(lambda x: x**3 + x - a, 1.0).x)
    assert tg.grad(cube)(2.0) == pytest.approx(0.25, rel=1e-9)
