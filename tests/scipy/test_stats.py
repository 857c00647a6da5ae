"""tapegrad.scipy.stats: against SciPy, differences and JAX."""

import numpy as np
import pytest
import scipy.stats

import tapegrad as tg
from tapegrad.errors import ShapeError, UnsupportedError
from tapegrad.scipy import stats

CONTINUOUS = {
    "norm": (), "t": (2.5,), "gamma": (1.7,), "beta": (1.5, 2.2), "expon": (), "laplace": (), "logistic": (),
    "lognorm": (0.8,), "uniform": (), "cauchy": (), "chi2": (3.3,),
}  # fmt: skip
DISCRETE = {
    "poisson": ((2.3,), [-1, 0, 1.5, 3, 7]), "binom": ((5.0, 0.3), [-1, 0, 2, 5, 6, 1.5]),
    "bernoulli": ((0.3,), [-1, 0, 1, 2, 0.5]),
}  # fmt: skip
# Inside, at the ends, outside and far out.
X = np.array([-3.0, -0.5, 0.0, 0.25, 0.7, 1.0, 2.5, 40.0, np.inf, -np.inf, np.nan])
Q = np.array([0.0, 1e-9, 0.3, 0.5, 0.8, 1.0])
METHODS = ["logpdf", "pdf", "cdf", "sf", "logcdf", "logsf", "ppf", "isf"]
# Shapes by which distribution functions have no derivative.
UNBOUNDED = ("norm", "t", "laplace", "logistic", "cauchy")
FREE_OF_SHAPES = ("norm", "expon", "laplace", "logistic", "lognorm", "uniform", "cauchy")

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", CONTINUOUS)
def test_values_are_those_of_scipy(name, method):
    shapes, x = CONTINUOUS[name], Q if method in ("ppf", "isf") else X
    ours, theirs = getattr(getattr(stats, name), method), getattr(getattr(scipy.stats, name), method)
    for kwargs in ({}, {"loc": 0.3, "scale": 1.7}, {"scale": -1.0}):
        expected = theirs(x, *shapes, **kwargs)
        for found in (ours(x, *shapes, **kwargs), ours(tg.Value(x), *shapes, **kwargs).data):
            np.testing.assert_allclose(found, expected, rtol=3e-13, atol=2e-16)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_derivatives_to_the_second_order(name):
    shapes, family = CONTINUOUS[name], getattr(stats, name)
    x, q = np.array([0.2, 0.55, 0.8]), np.array([0.1, 0.45, 0.8])
    for density in (family.logpdf, family.pdf):
        tg.check_grads(lambda x, loc, scale, *s, f=density: f(x, *s, loc, scale), (x, -0.1, 1.3, *shapes), order=2)
    varying = shapes if name in FREE_OF_SHAPES else ()
    for method in METHODS[2:]:
        at = q if method in ("ppf", "isf") else x

        def f(x, loc, scale, *s, method=method):
            return getattr(family, method)(x, *(s or shapes), loc=loc, scale=scale)

        tg.check_grads(f, (at, -0.1, 1.3, *varying), order=2)


@pytest.mark.parametrize("name", [name for name in CONTINUOUS if name not in FREE_OF_SHAPES])
def test_distribution_functions_refuse_gradients_to_shapes(name):
    shapes = CONTINUOUS[name]
    with pytest.raises(UnsupportedError, match="no derivative by its operand"):
        tg.grad(lambda s: getattr(stats, name).cdf(0.4, s, *shapes[1:]))(shapes[0])


@pytest.mark.parametrize("name", CONTINUOUS)
def test_no_gradient_outside_of_the_support(name):
    low, high = getattr(stats, name).support
    ends = [x for x in (low - 1.0, high + 1.0) if np.isfinite(x)]
    assert ends or name in UNBOUNDED
    for x in ends:
        for method in METHODS[:6]:
            value, gradient = tg.value_and_grad(
                lambda x, loc, scale, m=method: getattr(getattr(stats, name), m)(x, *CONTINUOUS[name], loc, scale),
                argnums=(0, 1, 2),
            )(x, 0.0, 1.0)
            expected = getattr(getattr(scipy.stats, name), method)(x, *CONTINUOUS[name])
            assert value == expected
            # The density is scaled, and so is that of what is outside: it stays where it is.
            assert gradient[0] == gradient[1] == 0.0, (method, gradient)


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_families(name):
    shapes, k = DISCRETE[name]
    k = np.array(k, float)
    ours, theirs = getattr(stats, name), getattr(scipy.stats, name)
    for method in ("logpmf", "pmf", "cdf", "sf", "logcdf", "logsf"):
        for kwargs in ({}, {"loc": 1}):
            expected = getattr(theirs, method)(k, *shapes, **kwargs)
            for given in (k, tg.Value(k)):
                found = getattr(ours, method)(given, *shapes, **kwargs)
                found = found.data if isinstance(found, tg.Value) else found
                np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-16)
        inside = np.array([0.0, 1.0])[: 1 if method in ("cdf", "sf", "logcdf", "logsf") else 2]
        tg.check_grads(lambda p, m=method, i=inside: getattr(ours, m)(i, *shapes[:-1], p), (shapes[-1],), order=2)
    # It jumps at whole numbers.
    assert tg.grad(lambda k: ours.logpmf(k, *shapes))(1.0) == 0.0


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_moments(name):
    shapes = CONTINUOUS[name] if name in CONTINUOUS else DISCRETE[name][0]
    for kwargs in ({"loc": 0.5}, {"scale": 2.0} if name in CONTINUOUS else {}):
        for moment in ("mean", "var", "std"):
            ours, theirs = (getattr(getattr(s, name), moment) for s in (stats, scipy.stats))
            np.testing.assert_allclose(ours(*shapes, **kwargs), theirs(*shapes, **kwargs), rtol=1e-13)


def test_tails():
    for x in (-40.0, -1e4):
        assert stats.norm.logcdf(x) == pytest.approx(scipy.stats.norm.logcdf(x), rel=1e-14)
        assert tg.grad(stats.norm.logcdf)(x) == pytest.approx(-x, rel=1e-3)
        assert stats.logistic.logcdf(x) == x and stats.laplace.logcdf(x) == x - np.log(2.0)
    assert stats.cauchy.cdf(-1e12) == pytest.approx(1e-12 / np.pi, rel=1e-12)
    assert stats.expon.logcdf(1e-12) == pytest.approx(np.log(1e-12), rel=1e-12)


def test_parameters_by_position_and_name_and_frozen():
    assert stats.gamma.logpdf(0.5, a=2.0, scale=3.0) == stats.gamma.logpdf(0.5, 2.0, 0.0, 3.0)
    assert stats.gamma(2.0, scale=3.0).pdf(0.5) == stats.gamma.pdf(0.5, 2.0, scale=3.0)
    assert stats.norm(1.0, 2.0).mean() == 1.0 and stats.norm(1.0, 2.0).var() == 4.0
    for call, message in (
        (lambda: stats.gamma.pdf(0.5), "needs the parameter a"),
        (lambda: stats.norm.pdf(0.5, 0.0, 1.0, 2.0), "takes the parameters loc, scale: 3 were given"),
        (lambda: stats.norm.pdf(0.5, mu=1.0), "not 'mu'"),
        (lambda: stats.norm.pdf(0.5, 0.0, loc=1.0), "'loc' was given twice"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_broadcasting_and_float32():
    x, loc = np.array([[0.1], [0.9]]), np.array([0.0, 0.5, 1.0])
    np.testing.assert_allclose(stats.norm.logpdf(x, loc, 2.0), scipy.stats.norm.logpdf(x, loc, 2.0), rtol=1e-14)
    gradient = tg.grad(lambda loc: np.sum(stats.norm.logpdf(x, loc, 2.0)))(loc)
    np.testing.assert_allclose(gradient, ((x - loc) / 4.0).sum(0), rtol=1e-13)
    data = np.array([1, 2, 5])
    small = tg.grad(lambda s: np.sum(stats.gamma.logpdf(data, s)))(np.float32(1.5) * np.ones(3, np.float32))
    exact = tg.grad(lambda s: np.sum(stats.gamma.logpdf(data, s)))(1.5 * np.ones(3))
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, exact, rtol=1e-5, atol=1e-6)


def test_multivariate_normal():
    rng = np.random.default_rng(0)
    m = rng.normal(size=(3, 3))
    cov, mean, x = m @ m.T + np.eye(3), rng.normal(size=3), rng.normal(size=(4, 3))
    ours, theirs = stats.multivariate_normal, scipy.stats.multivariate_normal
    calls = [(x, mean, cov), (x[0], mean, cov), (x[:, 0],), (x, mean, 2.0), (x, mean, mean**2), (0.5, 0.2, 2.0)]
    for args in [*calls, (x[:, :1], [0.5])]:
        for method in ("logpdf", "pdf"):
            found = getattr(ours, method)(*args)
            np.testing.assert_allclose(found, getattr(theirs, method)(*args), rtol=1e-12)
            assert np.shape(found) == np.shape(getattr(theirs, method)(*args))
    tg.check_grads(lambda x, mean, a: ours.logpdf(x, mean, a @ a.T + np.eye(3)), (x, mean, m), order=2)
    with pytest.raises(ShapeError, match="no vectors of 3 numbers"):
        ours.logpdf(x[:, :2], mean, cov)
    with pytest.raises(ShapeError, match="does not fit"):
        ours.logpdf(x, mean[:2], cov)


def test_dirichlet():
    alpha, x = np.array([1.5, 2.0, 0.7]), np.array([0.2, 0.5, 0.3])
    ours, theirs = stats.dirichlet, scipy.stats.dirichlet
    columns = np.stack([x, x[::-1]], 1)
    for given in (x, x[:2], columns):
        np.testing.assert_allclose(ours.logpdf(given, alpha), theirs.logpdf(given, alpha), rtol=1e-13)
        np.testing.assert_allclose(ours.pdf(tg.Value(given), alpha).data, theirs.pdf(given, alpha), rtol=1e-13)
    tg.check_grads(lambda x, alpha: ours.logpdf(x, alpha), (x[:2], alpha), order=2)
    with pytest.raises(ValueError, match="add up to 1"):
        ours.logpdf(np.array([0.5, 0.6, 0.1]), alpha)
    with pytest.raises(ShapeError):
        ours.logpdf(x[:1], alpha)
    value, gradient = tg.value_and_grad(lambda x: ours.logpdf(x, alpha))(np.array([0.5, 0.9, -0.4]))
    assert value == -np.inf and not gradient.any()


def test_against_jax():
    jax = pytest.importorskip("oracles").jax
    js = jax.scipy.stats
    x = np.array([0.2, 0.55, 0.8])
    for name, shapes in CONTINUOUS.items():
        if name == "lognorm" or not hasattr(js, name):
            continue
        every = tuple(range(len(shapes) + 3))
        found = tg.grad(lambda *a, n=name: np.sum(getattr(stats, n).logpdf(*a)), argnums=every)(x, *shapes, -0.1, 1.3)
        expected = jax.grad(lambda *a, n=name: getattr(js, n).logpdf(*a).sum(), argnums=every)(x, *shapes, -0.1, 1.3)
        for g, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-9, err_msg=name)


def test_methods_without_derivatives_are_those_of_scipy():
    for family in ("norm", "gamma", "poisson"):
        args = () if family == "norm" else (2.0,)
        own, other = getattr(stats, family), getattr(scipy.stats, family)
        assert own.rvs(*args, size=3, random_state=0).tolist() == other.rvs(*args, size=3, random_state=0).tolist()
        assert own(*args).rvs(size=3, random_state=0).tolist() == other(*args).rvs(size=3, random_state=0).tolist()
        assert own(*args).interval(0.9) == other(*args).interval(0.9) and own.entropy(*args) == other.entropy(*args)
        with pytest.raises(UnsupportedError, match=f"stats.{family}.rvs is not supported on a Value"):
            own.rvs(*args, loc=tg.Value(1.0), size=3)
        with pytest.raises(AttributeError):
            own.nothing  # noqa: B018
    assert stats.dirichlet.rvs([1.0, 2.0], random_state=0).tolist() == [
        x.tolist() for x in scipy.stats.dirichlet.rvs([1.0, 2.0], random_state=0)
    ]
    assert stats.multivariate_normal.rvs(cov=np.eye(2), random_state=0).shape == (2,)


def test_normal_vectors_of_less_dimensions():
    cov = np.zeros((4, 4))
    cov[:2, :2] = [[2.0, 0.5], [0.5, 1.0]]
    on, off = np.array([0.3, -0.2, 0.0, 0.0]), np.array([0.3, -0.2, 0.1, 0.0])
    x = np.stack([on, off])
    found = stats.multivariate_normal.logpdf(tg.Value(x), cov=cov, allow_singular=True).data
    np.testing.assert_allclose(found, scipy.stats.multivariate_normal.logpdf(x, cov=cov, allow_singular=True))
    pad = np.eye(4)[:2]
    tg.check_grads(
        lambda x, m: stats.multivariate_normal.pdf(x @ pad, m @ pad, cov, allow_singular=True), (on[:2], off[:2] * 2.0)
    )
    with pytest.raises(np.linalg.LinAlgError):
        stats.multivariate_normal.logpdf(tg.Value(on), cov=-np.eye(4), allow_singular=True)


def test_entropy_of_normal_vectors():
    factor = np.random.default_rng(0).normal(size=(3, 3))
    cov = factor @ factor.T + np.eye(3)
    found = tg.record(lambda a: stats.multivariate_normal.entropy(None, a), 2.0 * cov)(cov)
    np.testing.assert_allclose(found, scipy.stats.multivariate_normal.entropy(None, cov))
    tg.check_grads(lambda f: stats.multivariate_normal.entropy(np.ones(3), f @ f.T + np.eye(3)), (factor,))
    with pytest.raises(ShapeError, match="square"):
        stats.multivariate_normal.entropy(None, tg.Value(np.ones((2, 3))))


@pytest.mark.parametrize("family", ["uniform", "cauchy", "norm", "expon", "laplace"])
@pytest.mark.parametrize("method", ["ppf", "isf"])
def test_what_is_no_probability_has_no_inverse(family, method):
    q = np.array([-0.1, 0.0, 0.3, 1.0, 1.1, np.nan])
    found = tg.record(getattr(getattr(stats, family), method), 0.0 * q)(q)
    np.testing.assert_allclose(found, getattr(getattr(scipy.stats, family), method)(q), rtol=1e-10, atol=1e-15)
    slopes = tg.elementwise_grad(getattr(getattr(stats, family), method))(q)
    assert np.isfinite(slopes[2]) and not np.any(slopes[[0, 4]])
