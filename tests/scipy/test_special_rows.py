"""The functions of scipy.special: rows against differences, in every sweep, and every public ufunc accounted for."""

import functools
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.special as sp

import tapegrad as tg
from tapegrad.checking import check_op
from tapegrad.errors import UnsupportedError
from tapegrad.native.rules import can_write
from tapegrad.ops import BY_NAME, BY_UFUNC, TABLE
from tapegrad.ops.special import HELD, OUTPUTS, SAME
from tapegrad.scipy import special
from tapegrad.scipy.table import table, ufuncs

ROWS = [row for row in TABLE if row.name.startswith("special_")]
# SciPy warns of numbers that are no degrees or counts, on a grid of them.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


@rows
def test_rows(row):
    report = check_op(row, constant=row.held, rtol=1e-8, samples=4)
    assert report.checks > 40 and not report.skipped


@rows
def test_partials_are_finite_wherever_the_result_is_but_at_kinks(row):
    """What certificates trust, for the operands that have a derivative."""
    grid = [-2.5, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0]
    arrays = [a.reshape(-1) for a in np.meshgrid(*[grid] * row.arity)]
    free = [j for j in range(row.arity) if j not in row.held]
    operands = [tg.Value(a) if j in free else a for j, a in enumerate(arrays)]
    out = row(*operands)
    out.backward(np.ones(out.shape))
    value = out.data
    with np.errstate(all="ignore"):
        kinks = np.broadcast_to(row.kink(*arrays), value.shape) if row.kink else np.full(value.shape, np.inf)
    for j in free:
        grad = operands[j].grad if out.requires_grad else np.zeros(value.shape)
        bad = np.isfinite(value) & ~np.isfinite(grad) & (kinks != 0.0)
        assert not bad.any(), [a[bad] for a in arrays]


def test_every_public_ufunc_is_supported_or_refused_with_advice():
    supported = refused = 0
    for name, ufunc in ufuncs().items():
        values = [tg.Value(0.5) for _ in range(ufunc.nin)]
        held = HELD[ufunc].held if ufunc in HELD else ()
        given = [0.5 if j in held else v for j, v in enumerate(values)]
        if ufunc in BY_UFUNC or ufunc in HELD or ufunc in OUTPUTS:
            result = ufunc(*given)
            assert all(isinstance(x, tg.Value) for x in (result if ufunc in OUTPUTS else (result,))), name
            supported += 1
        else:
            with pytest.raises(UnsupportedError, match=f"scipy.special.{name} .*tapegrad.external"):
                ufunc(*values)
            refused += 1
    assert supported >= 140 and supported + refused == len(ufuncs())


def test_the_table_in_the_docs_is_what_the_code_says():
    docs = Path(inspect.getfile(tg)).parents[1] / "docs" / "scipy.md"
    assert docs.read_text(encoding="utf-8") == table(), "write it anew: python -m tapegrad.scipy.table > docs/scipy.md"


@pytest.mark.parametrize("ufunc", [u for u in HELD], ids=lambda u: u.__name__)
def test_a_gradient_to_an_operand_without_derivative_is_refused(ufunc):
    row = HELD[ufunc]
    for j in row.held:
        operands = [tg.Value(0.5) if i == j else 0.5 for i in range(ufunc.nin)]
        with pytest.raises(UnsupportedError, match=rf"{ufunc.__name__} has no derivative by its operand {j}"):
            ufunc(*operands)
        operands[j] = tg.stop_gradient(operands[j])
        assert isinstance(ufunc(*operands), tg.Value)


def test_an_order_that_varies_is_refused_in_every_derivative():
    for derive in (tg.grad, tg.jacfwd, tg.hessian):
        with pytest.raises(UnsupportedError, match="operand 0"):
            derive(lambda v: sp.jv(v, 1.5))(0.5)
    # A constant of an outer function is a variable of the inner one.
    with pytest.raises(UnsupportedError, match="operand 0"):
        tg.grad(lambda x: x * tg.grad(lambda v: sp.jv(v, x))(tg.stop_gradient(2.0 * x)))(0.5)
    # A whole number among the arguments is an order.
    slope = tg.grad(lambda x, n: sp.jv(n, x))
    for n in (0, 1, 4):
        assert slope(1.5, n) == pytest.approx(sp.jvp(n, 1.5), rel=1e-13)


def test_other_ways_of_calling_ufuncs():
    x = np.array([0.5, 1.5])
    np.testing.assert_array_equal(sp.gammaln(tg.Value(x)).data, sp.gammaln(x))
    np.testing.assert_allclose(sp.jv([[0.0], [1.0]], tg.Value(x)).data, sp.jv([[0.0], [1.0]], x), rtol=1e-15)
    with pytest.raises(UnsupportedError, match="where="):
        sp.gammaln(tg.Value(x), where=x > 1.0)
    with pytest.raises(UnsupportedError, match="jv with where="):
        sp.jv(1.0, tg.Value(x), where=x > 1.0)
    for name in ("sici", "shichi", "fresnel", "itj0y0", "iti0k0", "airy"):
        for found, expected in zip(getattr(sp, name)(tg.Value(x)), getattr(sp, name)(x), strict=True):
            np.testing.assert_array_equal(found.data, expected)


def test_ufuncs_that_other_operations_compute():
    x = np.array([-3.0, -0.5, 0.0, 1e-9, 0.7, 40.0])
    for ufunc in SAME:
        given = np.abs(x) if ufunc is sp.log1p else x
        np.testing.assert_allclose(ufunc(tg.Value(given)).data, ufunc(given), rtol=4e-15)


# Where the textbook formula cancels, overflows or divides by zero: the ufunc and operands, and what it is in mpmath.
HARD = [
    ("log_ndtr", (-1000.0,), lambda m, x: m.log(m.erfc(-x / m.sqrt(2)) / 2)),
    ("log_ndtr", (-1e5,), lambda m, x: m.log(m.erfc(-x / m.sqrt(2)) / 2)),
    ("log_ndtr", (8.0,), lambda m, x: m.log(m.erfc(-x / m.sqrt(2)) / 2)),
    ("erfcx", (1e4,), lambda m, x: m.exp(x * x) * m.erfc(x)),
    ("erfcx", (24.9,), lambda m, x: m.exp(x * x) * m.erfc(x)),
    ("erfcx", (25.1,), lambda m, x: m.exp(x * x) * m.erfc(x)),
    ("dawsn", (1e3,), lambda m, x: m.sqrt(m.pi) / 2 * m.exp(-x * x) * m.erfi(x)),
    ("dawsn", (-30.0,), lambda m, x: m.sqrt(m.pi) / 2 * m.exp(-x * x) * m.erfi(x)),
    ("betaln", (1e8, 2.5), lambda m, a, b: m.loggamma(a) + m.loggamma(b) - m.loggamma(a + b)),
    ("betaln", (300.0, 2.0), lambda m, a, b: m.loggamma(a) + m.loggamma(b) - m.loggamma(a + b)),
    ("exprel", (1e-9,), lambda m, x: m.expm1(x) / x),
    ("exprel", (0.3,), lambda m, x: m.expm1(x) / x),
    ("pseudo_huber", (2.0, 1e-5), lambda m, d, r: d * d * (m.sqrt(1 + (r / d) ** 2) - 1)),
    ("boxcox", (2.0, 1e-9), lambda m, x, y: (x**y - 1) / y),
    ("boxcox", (0.3, -1.7), lambda m, x, y: (x**y - 1) / y),
    ("inv_boxcox", (0.5, 1e-7), lambda m, x, y: (1 + x * y) ** (1 / y)),
    ("inv_boxcox", (0.5, 0.041), lambda m, x, y: (1 + x * y) ** (1 / y)),
    ("rgamma", (-2.0,), lambda m, x: m.rgamma(x)),
    ("rgamma", (-2.5,), lambda m, x: m.rgamma(x)),
    ("binom", (3.0, 4.0), lambda m, n, k: m.binomial(n, k)),
    ("spence", (0.99,), lambda m, x: m.polylog(2, 1 - x)),
    ("kve", (1.5, 400.0), lambda m, v, x: m.besselk(v, x) * m.exp(x)),
]


@pytest.mark.parametrize(("name", "point", "reference"), HARD, ids=[f"{name}{point}" for name, point, _ in HARD])
def test_derivatives_where_formulas_cancel(name, point, reference):
    mpmath = pytest.importorskip("mpmath")

    def varied(at, j, t):
        return reference(mpmath, *at[:j], t, *at[j + 1 :])

    ufunc = getattr(sp, name)
    held = HELD[ufunc].held if ufunc in HELD else ()
    values = [x if j in held else tg.Value(x) for j, x in enumerate(point)]
    ufunc(*values).backward()
    with mpmath.workdps(60):
        for j, v in enumerate(values):
            if j not in held:
                at = [mpmath.mpf(x) for x in point]
                exact = mpmath.diff(functools.partial(varied, at, j), at[j])
                assert v.grad == pytest.approx(float(mpmath.re(exact)), rel=3e-12 if name != "kve" else 1e-11)


EDGES = [
    (sp.xlogy, (0.0, 0.0), (-math.inf, 0.0)),
    (sp.xlogy, (0.0, 2.0), (math.log(2.0), 0.0)),
    (sp.boxcox, (2.0, 0.0), (0.5, 0.5 * math.log(2.0) ** 2)),
    (sp.inv_boxcox, (0.5, 0.0), (math.exp(0.5), -0.125 * math.exp(0.5))),
    (sp.log_ndtr, (40.0,), (0.0,)),
    (sp.rgamma, (0.0,), (1.0,)),
    (sp.ellipk, (0.0,), (math.pi / 8.0,)),
    (sp.ellipe, (0.0,), (-math.pi / 8.0,)),
    (sp.spence, (1.0,), (-1.0,)),
    (sp.berp, (0.0,), (0.0,)),
    (sp.beip, (0.0,), (0.5,)),
    (sp.huber, (1.0, 1.0), (0.0, 1.0)),
    (sp.huber, (1.0, -3.0), (2.0, -1.0)),
]


@pytest.mark.parametrize(("ufunc", "point", "partials"), EDGES, ids=lambda x: getattr(x, "__name__", ""))
def test_derivatives_at_edges(ufunc, point, partials):
    values = [tg.Value(x) for x in point]
    ufunc(*values).backward()
    np.testing.assert_allclose([v.grad for v in values], partials, rtol=1e-13)


@pytest.mark.parametrize("name", ["ellipk", "ellipe"])
@pytest.mark.parametrize("m", [-30.0, -0.5, -0.011, -0.0099, 0.0, 1e-6, 0.0099, 0.0101, 0.5, 0.99])
def test_elliptic_integrals_to_the_second_order(name, m):
    mpmath = pytest.importorskip("mpmath")
    f = getattr(sp, name)
    for order, derived in ((1, tg.grad(f)), (2, tg.grad(tg.grad(f)))):
        exact = float(mpmath.diff(getattr(mpmath, name), mpmath.mpf(m), order))
        assert derived(m) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("n", [60, 150, 170, 10**6, 10**30])
@pytest.mark.parametrize("x", [0.5, 1.0, 2.5, 40.0])
def test_polygamma_of_large_order_comes_to_an_end(n, x):
    with np.errstate(all="ignore"):
        # SciPy takes the sign from n + 1, which is n for the largest; all of these are even.
        expected = -abs(float(sp.polygamma(n, x)))
    found = special.polygamma(n, tg.Value(x)).item()
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)


@pytest.mark.parametrize("n", range(5))
@pytest.mark.parametrize("x", [-3.7, -0.5, 1e-3, 0.3, 1.0, 12.5, 1e6])
def test_polygamma(n, x):
    assert special.polygamma(n, tg.Value(x)).item() == pytest.approx(sp.polygamma(n, x), rel=4e-14)
    slope = tg.grad(lambda x: special.polygamma(n, x))(x)
    assert slope == pytest.approx(float(sp.polygamma(n + 1, x)), rel=4e-14)


def test_rows_are_written_in_machine_code():
    # A loop for Hurwitz' zeta function is the interpreter's.
    left = {row.name for row in ROWS if can_write(row) is not None}
    assert left == {"special_polygamma", "special_zeta"}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_compiled_programs(dtype):
    def f(x, y):
        airy = sp.airy(x)
        first = sp.gammaln(x) * sp.jv(1.5, y) + sp.betainc(1.5, 2.5, x / (x + y)) * airy[0]
        return np.sum(first + sp.sici(y)[0] * airy[2])

    rng = np.random.default_rng(0)
    here, there = (tuple(rng.uniform(0.5, 2.0, 37).astype(dtype) for _ in range(2)) for _ in range(2))
    plain, compiled = (tg.record(f, *there, compile=how) for how in (False, True))
    tolerance = {"rtol": 1e-12 if dtype == np.float64 else 2e-5}
    np.testing.assert_allclose(compiled(*here), plain(*here), **tolerance)
    value, gradient = compiled.value_and_grad(*here, argnums=(0, 1))
    for found, expected in zip(gradient, plain.grad(*here, argnums=(0, 1)), strict=True):
        assert found.dtype == dtype
        np.testing.assert_allclose(found, expected, **tolerance, atol=tolerance["rtol"])
    np.testing.assert_allclose(value, f(*(x.astype(float) for x in here)), rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert {runs.how for runs in compiled.stats().runs} == {"compiled"}


def test_names_do_not_take_those_of_users():
    assert "gamma" not in BY_NAME and "psi" not in BY_NAME
