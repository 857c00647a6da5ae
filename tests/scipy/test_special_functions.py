"""What tapegrad.scipy.special has besides SciPy's ufuncs: against SciPy, differences and JAX."""

import numpy as np
import pytest
import scipy.special as sp

import tapegrad as tg
from tapegrad.errors import UnsupportedError
from tapegrad.scipy import special

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(2, 3, 4))
POSITIVE = RNG.uniform(0.5, 4.0, (3, 4))
INNER = RNG.uniform(-0.8, 0.8, 5)

# Name, function of the arrays (by a namespace: ours or SciPy's), arrays.
CASES = {
    "logsumexp": (lambda s, a: s.logsumexp(a), (A,)),
    "logsumexp, axis": (lambda s, a: s.logsumexp(a, axis=1, keepdims=True), (A,)),
    "logsumexp, b": (lambda s, a, b: s.logsumexp(a, axis=0, b=b), (A, POSITIVE)),
    "logsumexp, b broadcast": (lambda s, a, b: s.logsumexp(a, axis=(0, 1), b=b[0], keepdims=True), (A, POSITIVE)),
    "logsumexp, sign": (lambda s, a, b: s.logsumexp(a, axis=1, b=b, return_sign=True)[0], (A, B)),
    "softmax": (lambda s, a: s.softmax(a), (A,)),
    "softmax, axis": (lambda s, a: s.softmax(a, axis=1), (A,)),
    "log_softmax": (lambda s, a: s.log_softmax(a, axis=0), (A,)),
    "polygamma": (lambda s, x: s.polygamma(2, x), (POSITIVE,)),
    "zeta": (lambda s, q: s.zeta(2.5, q), (POSITIVE,)),
    "multigammaln": (lambda s, a: s.multigammaln(a + 1.0, 3), (POSITIVE,)),
    "comb": (lambda s, n: s.comb(n + 2.0, 1.5), (POSITIVE,)),
    "comb, k": (lambda s, k: s.comb(6.0, k), (POSITIVE,)),
    "perm": (lambda s, n, k: s.perm(n + 4.0, k), (POSITIVE, 0.5 * POSITIVE)),
    "factorial": (lambda s, n: s.gamma(n + 1.0) if s is sp else s.factorial(n), (POSITIVE,)),
    "softplus": (lambda s, x: np.logaddexp(0.0, x) if s is sp else s.softplus(x), (A,)),
    "sinc": (lambda s, x: np.sinc(x) if s is sp else s.sinc(x), (A,)),
    "diric": (lambda s, x: s.diric(x, 4), (A,)),
    "hyp2f1": (lambda s, x: s.hyp2f1(0.5, 1.5, 2.5, x), (INNER,)),
    "spherical_jn": (lambda s, x: s.spherical_jn(2, x), (POSITIVE,)),
    "spherical_jn, derivative": (lambda s, x: s.spherical_jn(2, x, True), (POSITIVE,)),
    "spherical_yn": (lambda s, x: s.spherical_yn(1, x), (POSITIVE,)),
    "spherical_in": (lambda s, x: s.spherical_in(1, x), (POSITIVE,)),
    "spherical_kn": (lambda s, x: s.spherical_kn(2, x), (POSITIVE,)),
    "spherical_kn, derivative": (lambda s, x: s.spherical_kn(2, x, derivative=True), (POSITIVE,)),
}


@pytest.mark.parametrize("name", CASES)
def test_values_and_derivatives_to_the_second_order(name):
    f, arrays = CASES[name]
    expected = f(sp, *arrays)
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(f(special, *arrays), expected, rtol=1e-13)
    # Recorded at other points.
    recording = tg.record(lambda *xs: f(special, *xs), *[0.9 * x for x in arrays])
    np.testing.assert_allclose(recording(*arrays), expected, rtol=3e-13)
    assert np.shape(recording(*arrays)) == np.shape(expected)
    tg.check_grads(lambda *xs: f(special, *xs), arrays, order=2)


SINGLE = {
    "polygamma": (lambda s, x: s.polygamma(1, x), sp.polygamma(2, 0.7)),
    "multigammaln": (lambda s, x: s.multigammaln(x, 1), sp.psi(0.7)),
    "factorial": (lambda s, x: s.factorial(x - 1.0 + 1.0), sp.gamma(1.7) * sp.psi(1.7)),
    "softmax": (lambda s, x: s.softmax(x), 0.0), "logsumexp": (lambda s, x: s.logsumexp(x), 1.0),
    "logsumexp, b": (lambda s, x: s.logsumexp(x, b=2.0), 1.0), "sinc": (lambda s, x: s.sinc(x), None),
    "diric": (lambda s, x: s.diric(x, 3), None), "spherical_jn": (lambda s, x: s.spherical_jn(1, x), None),
    "comb": (lambda s, x: s.comb(x + 3.0, 2.0), None), "hyp2f1": (lambda s, x: s.hyp2f1(1.0, 2.0, 3.0, x), None),
    "zeta": (lambda s, x: s.zeta(2.0, x), -2.0 * sp.zeta(3.0, 0.7)),
    "softplus": (lambda s, x: s.softplus(x), sp.expit(0.7)),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_single_numbers(name):
    f, slope = SINGLE[name]
    value, found = tg.value_and_grad(lambda x: f(special, x))(0.7)
    assert value == pytest.approx(float(f(special, 0.7)), rel=1e-14)
    if slope is not None:
        assert found == pytest.approx(float(slope), rel=1e-12, abs=1e-15)
    tg.check_grads(lambda x: f(special, x), (0.7,), order=2)


def test_logsumexp_of_what_overflows_and_vanishes():
    a = np.array([1000.0, -np.inf, 999.0])
    b = np.array([1.0, 5.0, -1.0])
    for kwargs in ({}, {"b": b}, {"b": np.array([1.0, 0.0, 2.0])}):
        np.testing.assert_allclose(special.logsumexp(tg.Value(a), **kwargs).data, sp.logsumexp(a, **kwargs), rtol=1e-14)
    found = special.logsumexp(tg.Value(a), b=-b, return_sign=True)
    np.testing.assert_allclose([x.data for x in found], sp.logsumexp(a, b=-b, return_sign=True), rtol=1e-14)
    assert special.logsumexp(tg.Value([0.0, 0.0]), b=np.zeros(2)).item() == -np.inf
    assert np.isnan(special.logsumexp(tg.Value([0.0, 1.0]), b=np.array([1.0, -1.0])).item())
    # What is multiplied by zero does not count, nor does its gradient.
    gradient = tg.grad(lambda a: special.logsumexp(a, b=np.array([0.0, 1.0])))(np.array([np.inf, 2.0]))
    np.testing.assert_array_equal(gradient, [0.0, 1.0])


def test_against_jax():
    jax = pytest.importorskip("oracles").jax
    js = jax.scipy.special
    pairs = {
        "gammaln": (POSITIVE,), "digamma": (POSITIVE,), "erf": (A,), "erfc": (A,), "erfinv": (INNER,), "ndtr": (A,),
        "log_ndtr": (10.0 * A,), "ndtri": (0.5 * (INNER + 1.0),), "expit": (A,), "logit": (0.5 * (INNER + 1.0),),
        "xlogy": (A, POSITIVE), "xlog1py": (A, POSITIVE), "entr": (POSITIVE,), "rel_entr": (POSITIVE, POSITIVE[::-1]),
        "kl_div": (POSITIVE, POSITIVE[::-1]), "i0": (A,), "i0e": (A,), "i1": (A,), "i1e": (A,),
        "betaln": (POSITIVE, B**2),
        "beta": (POSITIVE, 0.1 + B**2), "exp1": (POSITIVE,), "expi": (POSITIVE,),
    }  # fmt: skip
    for name, arrays in pairs.items():
        ours, theirs = getattr(special, name), getattr(js, name)
        every = tuple(range(len(arrays)))
        found = tg.grad(lambda *xs, f=ours: np.sum(f(*xs)), argnums=every)(*arrays)
        expected = jax.grad(lambda *xs, f=theirs: f(*xs).sum(), argnums=every)(*arrays)
        for g, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(g, e, rtol=1e-8, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_float32(name):
    x = A.astype(np.float32)
    value, gradient = tg.value_and_grad(lambda x: np.sum(getattr(special, name)(x, axis=1) ** 2))(x)
    exact = tg.grad(lambda x: np.sum(getattr(special, name)(x, axis=1) ** 2))(A)
    assert gradient.dtype == np.float32
    np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-5)
    assert value == pytest.approx(float(np.sum(getattr(sp, name)(A, axis=1) ** 2)), rel=1e-5)


def test_what_is_refused_says_what_to_do():
    with pytest.raises(UnsupportedError, match="polygamma has no derivative by its operand 0"):
        special.polygamma(tg.Value(1.0), 2.0)
    with pytest.raises(UnsupportedError, match=r"lambertw.*wrightomega\(log\(x\)\).*tapegrad.external"):
        special.lambertw(tg.Value(1.0))
    with pytest.raises(UnsupportedError, match="exact=True"):
        special.comb(tg.Value(5.0), 2, exact=True)
    with pytest.raises(UnsupportedError, match="must be plain numbers"):
        special.hyp2f1(tg.Value(1.0), 1.0, 2.0, 0.5)
    with pytest.raises(UnsupportedError, match="no derivative by its operand 0"):
        special.spherical_jn(tg.Value(1.0), 2.0)
    with pytest.raises(AttributeError):
        getattr(special, "nothing_of_that_name")  # noqa: B009


def test_it_stands_in_for_scipy():
    assert special.gammaln is sp.gammaln and special.jn_zeros(0, 2).tolist() == sp.jn_zeros(0, 2).tolist()
    assert set(sp.__all__) <= set(dir(special))
    for name in sp.__all__:
        assert getattr(special, name) is not None
