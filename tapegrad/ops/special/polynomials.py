"""Orthogonal polynomials, Legendre's functions, and elliptic integrals and functions. Degrees are plain numbers."""

import math

import numpy as np
from scipy import special

from tapegrad.ops.selection import where
from tapegrad.ops.spec import UNIT, Interval, unary
from tapegrad.ops.special.calls import number
from tapegrad.ops.special.declare import function

DEGREE = Interval(3.0, 3.0)
SHIFTED = Interval(0.05, 0.95)
PARAMETER = Interval(0.5, 1.5)


def _edge(n, x):
    # Those of a degree that is not whole are singular at an end of the interval, and there are none of negative degree.
    return np.where(n < 0.0, 0.0, np.where(n == np.rint(n), 1.0, 1.0 - np.abs(x)))


# Derivatives are polynomials of one degree less, without the singular points of the differential equations.
gegenbauer = function(special.eval_gegenbauer, "z = C_n^(a)(x), Gegenbauer polynomial",
    lambda n, a, x, z: (0.0, 0.0, where(n == 0.0, 0.0, 2.0 * a * gegenbauer(n - 1.0, a + 1.0, x))),
    held=(0, 1), kink=lambda n, a, x: _edge(n, x), samples=(DEGREE, PARAMETER, UNIT))

genlaguerre = function(special.eval_genlaguerre, "z = L_n^(a)(x), generalized Laguerre polynomial",
    lambda n, a, x, z: (0.0, 0.0, where(n == 0.0, 0.0, -genlaguerre(n - 1.0, a + 1.0, x))),
    held=(0, 1), kink=lambda n, a, x: _edge(n, x), samples=(DEGREE, PARAMETER, UNIT))

legendre = function(special.eval_legendre, "z = P_n(x), Legendre polynomial",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, gegenbauer(n - 1.0, 1.5, x))),
    held=(0,), kink=lambda n, x: _edge(n, x), samples=(DEGREE, UNIT))

sh_legendre = function(special.eval_sh_legendre, "z = P_n(2 x - 1)",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, 2.0 * gegenbauer(n - 1.0, 1.5, 2.0 * x - 1.0))),
    held=(0,), kink=lambda n, x: _edge(n, 2.0 * x - 1.0), samples=(DEGREE, SHIFTED))

chebyt = function(special.eval_chebyt, "z = T_n(x), Chebyshev polynomial of the first kind",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, n * gegenbauer(n - 1.0, 1.0, x))),
    held=(0,), kink=lambda n, x: _edge(n, x), samples=(DEGREE, UNIT))

sh_chebyt = function(special.eval_sh_chebyt, "z = T_n(2 x - 1)",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, 2.0 * n * gegenbauer(n - 1.0, 1.0, 2.0 * x - 1.0))),
    held=(0,), kink=lambda n, x: _edge(n, 2.0 * x - 1.0), samples=(DEGREE, SHIFTED))

chebyu = function(special.eval_chebyu, "z = U_n(x), Chebyshev polynomial of the second kind",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, 2.0 * gegenbauer(n - 1.0, 2.0, x))),
    held=(0,), kink=lambda n, x: _edge(n, x), samples=(DEGREE, UNIT))

sh_chebyu = function(special.eval_sh_chebyu, "z = U_n(2 x - 1)",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, 4.0 * gegenbauer(n - 1.0, 2.0, 2.0 * x - 1.0))),
    held=(0,), kink=lambda n, x: _edge(n, 2.0 * x - 1.0), samples=(DEGREE, SHIFTED))

chebyc = function(special.eval_chebyc, "z = 2 T_n(x / 2)",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, n * gegenbauer(n - 1.0, 1.0, 0.5 * x))),
    held=(0,), kink=lambda n, x: _edge(n, 0.5 * x), samples=(DEGREE, UNIT))

chebys = function(special.eval_chebys, "z = U_n(x / 2)",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, gegenbauer(n - 1.0, 2.0, 0.5 * x))),
    held=(0,), kink=lambda n, x: _edge(n, 0.5 * x), samples=(DEGREE, UNIT))

laguerre = function(special.eval_laguerre, "z = L_n(x), Laguerre polynomial",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, -genlaguerre(n - 1.0, 1.0, x))),
    held=(0,), kink=lambda n, x: _edge(n, x), samples=(DEGREE, UNIT))

hermite = function(special.eval_hermite, "z = H_n(x), Hermite polynomial",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, 2.0 * n * hermite(where(n == 0.0, 0.0, n - 1.0), x))),
    held=(0,), kink=lambda n, x: _edge(n, x), samples=(DEGREE, UNIT))

hermitenorm = function(special.eval_hermitenorm, "z = He_n(x), Hermite polynomial of the other convention",
    lambda n, x, z: (0.0, where(n == 0.0, 0.0, n * hermitenorm(where(n == 0.0, 0.0, n - 1.0), x))),
    held=(0,), kink=lambda n, x: _edge(n, x), samples=(DEGREE, UNIT))

lpmv = function(special.lpmv, "z = P_v^m(x), associated Legendre function",
    lambda m, v, x, z: (0.0, 0.0, (v * x * z - where(
        v + m == 0.0, 0.0, (v + m) * lpmv(m, where(v + m == 0.0, v, v - 1.0), x))) / (x * x - 1.0)),
    held=(0, 1), kink=lambda m, v, x: 1.0 - abs(x),
    samples=(Interval(1.0, 1.0), Interval(3.0, 3.0), Interval(-0.8, 0.8)))

# Complete elliptic integrals, of the parameter m = k^2. Their first derivatives are combinations of Carlson's integral
# R_D in which nothing cancels. The second follow from the differential equations, and near m = 0, where these are
# singular, from the power series.
ellipk_of = number(special.ellipk)
ellipe_of = number(special.ellipe)
elliprd_of = number(special.elliprd)

_HALF_PI = 0.5 * math.pi
# The coefficients of K / (pi / 2), and of E / (pi / 2).
_K = [(math.comb(2 * n, n) / 4.0**n) ** 2 for n in range(12)]
_K2, _K3, _K4, _K5, _K6, _K7, _K8, _K9 = (_HALF_PI * n * (n - 1) * _K[n] for n in range(2, 10))
_E2, _E3, _E4, _E5, _E6, _E7, _E8, _E9 = (-_HALF_PI * n * (n - 1) * _K[n] / (2 * n - 1) for n in range(2, 10))
_NEAR = 0.01


def _k_second(m):
    return _K2 + m * (_K3 + m * (_K4 + m * (_K5 + m * (_K6 + m * (_K7 + m * (_K8 + m * _K9))))))


def _e_second(m):
    return _E2 + m * (_E3 + m * (_E4 + m * (_E5 + m * (_E6 + m * (_E7 + m * (_E8 + m * _E9))))))


ellipk_slope = unary("special_ellipk_slope", "z = derivative of K(m)",
    value=lambda m: (ellipk_of(m) - elliprd_of(0.0, 1.0 - m, 1.0) / 3.0) / (2.0 * (1.0 - m)),
    partials=lambda m, z: where(
        abs(m) < _NEAR, _k_second(m),
        (0.25 * ellipk(m) - (1.0 - 2.0 * m) * z) / where(abs(m) < _NEAR, 1.0, m * (1.0 - m))),
    samples=Interval(-2.0, 0.9))

ellipe_slope = unary("special_ellipe_slope", "z = derivative of E(m)",
    value=lambda m: -elliprd_of(0.0, 1.0 - m, 1.0) / 6.0,
    partials=lambda m, z: where(
        abs(m) < _NEAR, _e_second(m), -0.5 * (z + ellipk_slope(m)) / where(abs(m) < _NEAR, 1.0, m)),
    samples=Interval(-2.0, 0.9))

ellipk = function(special.ellipk, "z = K(m), complete elliptic integral of the first kind",
    lambda m, z: ellipk_slope(m),
    samples=Interval(-2.0, 0.9))

ellipe = function(special.ellipe, "z = E(m), complete elliptic integral of the second kind",
    lambda m, z: ellipe_slope(m),
    kink=lambda m: 1.0 - m,
    samples=Interval(-2.0, 0.9))

ellipkm1_slope = unary("special_ellipkm1_slope", "z = derivative of K(1 - p)",
    value=lambda p: -(ellipk_of(1.0 - p) - elliprd_of(0.0, p, 1.0) / 3.0) / (2.0 * p),
    partials=lambda p, z: where(
        abs(1.0 - p) < _NEAR, _k_second(1.0 - p),
        (0.25 * ellipkm1(p) - (1.0 - 2.0 * p) * z) / where(abs(1.0 - p) < _NEAR, 1.0, p * (1.0 - p))),
    samples=Interval(0.1, 3.0))

ellipkm1 = function(special.ellipkm1, "z = K(1 - p)",
    lambda p, z: ellipkm1_slope(p),
    samples=Interval(0.1, 3.0))

ellipkinc = function(special.ellipkinc, "z = F(phi, m), incomplete elliptic integral of the first kind",
    lambda p, m, z: (1.0 / np.sqrt(1.0 - m * np.sin(p) * np.sin(p)), 0.0),
    held=(1,), samples=(Interval(-3.0, 3.0), Interval(-1.0, 0.9)))

ellipeinc = function(special.ellipeinc, "z = E(phi, m), incomplete elliptic integral of the second kind",
    lambda p, m, z: (np.sqrt(1.0 - m * np.sin(p) * np.sin(p)), 0.0),
    held=(1,), samples=(Interval(-3.0, 3.0), Interval(-1.0, 0.9)))
