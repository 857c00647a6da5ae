"""Bessel functions and their relatives: Airy's, Kelvin's and Struve's functions. Orders are plain numbers."""

import math

import numpy as np
from scipy import special

from tapegrad.ops.selection import where
from tapegrad.ops.spec import POSITIVE, Interval
from tapegrad.ops.special.declare import function
from tapegrad.ops.special.gamma import rgamma

ORDERED = (Interval(0.2, 2.5), POSITIVE)

jv = function(special.jv, "z = J_v(x), Bessel function of the first kind",
    lambda v, x, z: (0.0, 0.5 * (jv(v - 1.0, x) - jv(v + 1.0, x))),
    held=(0,), kink=lambda v, x: np.where(v == np.rint(v), 1.0, x), samples=ORDERED)

jve = function(special.jve, "z = J_v(x), for real x",
    lambda v, x, z: (0.0, 0.5 * (jve(v - 1.0, x) - jve(v + 1.0, x))),
    held=(0,), kink=lambda v, x: np.where(v == np.rint(v), 1.0, x), samples=ORDERED)

yv = function(special.yv, "z = Y_v(x), Bessel function of the second kind",
    lambda v, x, z: (0.0, 0.5 * (yv(v - 1.0, x) - yv(v + 1.0, x))),
    held=(0,), samples=ORDERED)

yve = function(special.yve, "z = Y_v(x), for real x",
    lambda v, x, z: (0.0, 0.5 * (yve(v - 1.0, x) - yve(v + 1.0, x))),
    held=(0,), samples=ORDERED)

yn = function(special.yn, "z = Y_n(x), n whole",
    lambda n, x, z: (0.0, 0.5 * (yn(n - 1.0, x) - yn(n + 1.0, x))),
    held=(0,), samples=(Interval(1.0, 1.0), POSITIVE))

iv = function(special.iv, "z = I_v(x), modified Bessel function of the first kind",
    lambda v, x, z: (0.0, 0.5 * (iv(v - 1.0, x) + iv(v + 1.0, x))),
    held=(0,), kink=lambda v, x: np.where(v == np.rint(v), 1.0, x), samples=ORDERED)

ive = function(special.ive, "z = I_v(x) e^-|x|",
    lambda v, x, z: (0.0, 0.5 * (ive(v - 1.0, x) + ive(v + 1.0, x)) - np.sign(x) * z),
    held=(0,), kink=lambda v, x: x, samples=ORDERED)

kv = function(special.kv, "z = K_v(x), modified Bessel function of the second kind",
    lambda v, x, z: (0.0, -0.5 * (kv(v - 1.0, x) + kv(v + 1.0, x))),
    held=(0,), samples=ORDERED)

kve = function(special.kve, "z = K_v(x) e^x",
    lambda v, x, z: (0.0, z - 0.5 * (kve(v - 1.0, x) + kve(v + 1.0, x))),
    held=(0,), samples=ORDERED)

kn = function(special.kn, "z = K_n(x), n whole",
    lambda n, x, z: (0.0, -0.5 * (kn(abs(n - 1.0), x) + kn(n + 1.0, x))),
    held=(0,), samples=(Interval(1.0, 1.0), POSITIVE))

j0 = function(special.j0, "z = J_0(x)", lambda x, z: -j1(x))
j1 = function(special.j1, "z = J_1(x)", lambda x, z: 0.5 * (j0(x) - jv(2.0, x)))
y0 = function(special.y0, "z = Y_0(x)", lambda x, z: -y1(x), samples=POSITIVE)
y1 = function(special.y1, "z = Y_1(x)", lambda x, z: 0.5 * (y0(x) - yn(2.0, x)), samples=POSITIVE)
i0 = function(special.i0, "z = I_0(x)", lambda x, z: i1(x))
i1 = function(special.i1, "z = I_1(x)", lambda x, z: 0.5 * (i0(x) + iv(2.0, x)))
k0 = function(special.k0, "z = K_0(x)", lambda x, z: -k1(x), samples=POSITIVE)
k1 = function(special.k1, "z = K_1(x)", lambda x, z: -0.5 * (k0(x) + kn(2.0, x)), samples=POSITIVE)

i0e = function(special.i0e, "z = I_0(x) e^-|x|",
    lambda x, z: i1e(x) - np.sign(x) * z,
    kink=lambda x: x, samples=POSITIVE)

i1e = function(special.i1e, "z = I_1(x) e^-|x|",
    lambda x, z: 0.5 * (i0e(x) + ive(2.0, x)) - np.sign(x) * z,
    kink=lambda x: x, samples=POSITIVE)

k0e = function(special.k0e, "z = K_0(x) e^x",
    lambda x, z: z - k1e(x),
    samples=POSITIVE)

k1e = function(special.k1e, "z = K_1(x) e^x",
    lambda x, z: z - 0.5 * (k0e(x) + kve(2.0, x)),
    samples=POSITIVE)

# Their integrals, from 0 to x.
itj0y0_0 = function(special.itj0y0, "z = integral of J_0", lambda x, z: j0(x), output=0)
itj0y0_1 = function(special.itj0y0, "z = integral of Y_0", lambda x, z: y0(x), output=1, samples=POSITIVE,
    kink=lambda x: x)
iti0k0_0 = function(special.iti0k0, "z = integral of I_0", lambda x, z: i0(x), output=0)
iti0k0_1 = function(special.iti0k0, "z = integral of K_0", lambda x, z: k0(x), output=1, samples=POSITIVE,
    kink=lambda x: x)

ai = function(special.airy, "z = Ai(x)", lambda x, z: ai_slope(x), output=0)
ai_slope = function(special.airy, "z = Ai'(x)", lambda x, z: x * ai(x), output=1)
bi = function(special.airy, "z = Bi(x)", lambda x, z: bi_slope(x), output=2)
bi_slope = function(special.airy, "z = Bi'(x)", lambda x, z: x * bi(x), output=3)

# ber + i bei solves w'' + w' / x = i w, and so does ker + i kei.
ber = function(special.ber, "z = ber x", lambda x, z: berp(x))
bei = function(special.bei, "z = bei x", lambda x, z: beip(x))
berp = function(special.berp, "z = ber' x",
    lambda x, z: where(x == 0.0, 0.0, -z / where(x == 0.0, 1.0, x)) - bei(x))
beip = function(special.beip, "z = bei' x",
    lambda x, z: where(x == 0.0, -0.5, -z / where(x == 0.0, 1.0, x)) + ber(x))
ker = function(special.ker, "z = ker x", lambda x, z: kerp(x), samples=POSITIVE)
kei = function(special.kei, "z = kei x", lambda x, z: keip(x), kink=lambda x: x, samples=POSITIVE)
kerp = function(special.kerp, "z = ker' x", lambda x, z: -z / x - kei(x), samples=POSITIVE)
keip = function(special.keip, "z = kei' x",
    lambda x, z: -z / x + ker(x), kink=lambda x: x, samples=POSITIVE)


def _struve_term(v, x):
    return (0.5 * x) ** v * rgamma(v + 1.5) / math.sqrt(math.pi)


struve = function(special.struve, "z = H_v(x), Struve function",
    lambda v, x, z: (0.0, 0.5 * (struve(v - 1.0, x) - struve(v + 1.0, x) + _struve_term(v, x))),
    held=(0,), kink=lambda v, x: x, samples=ORDERED)

modstruve = function(special.modstruve, "z = L_v(x), modified Struve function",
    lambda v, x, z: (0.0, 0.5 * (modstruve(v - 1.0, x) + modstruve(v + 1.0, x) + _struve_term(v, x))),
    held=(0,), kink=lambda v, x: x, samples=ORDERED)

itstruve0 = function(special.itstruve0, "z = integral of H_0 from 0 to x",
    lambda x, z: struve(0.0, x), samples=POSITIVE)

itmodstruve0 = function(special.itmodstruve0, "z = integral of L_0 from 0 to x",
    lambda x, z: modstruve(0.0, x), samples=POSITIVE)

it2struve0 = function(special.it2struve0, "z = integral of H_0(t) / t from x to infinity",
    lambda x, z: -struve(0.0, x) / x, kink=lambda x: x, samples=POSITIVE)
