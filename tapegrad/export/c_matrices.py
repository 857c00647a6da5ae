"""Matrix functions in C: plain loops, one matrix after the other.

Each takes where the result goes, its operands, room for numbers in between, and lengths. It returns 0, or 3 where a
matrix is singular or not positive definite, as the library raises LinAlgError there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tapegrad.errors import UnsupportedError

# What several of them call.
_SWAP = """
static void k_swap(real *a, real *b, long n, long step)
{
    for (long i = 0; i < n * step; i += step) { const real t = a[i]; a[i] = b[i]; b[i] = t; }
}"""
_ELIMINATE = """
static int k_eliminate(real *a, real *b, long n, long k)
{
    /* a becomes its factors and b what is left to substitute. Returns the sign of the order of rows, 0 if singular. */
    int sign = 1;
    for (long j = 0; j < n; j++) {
        long p = j;
        for (long i = j + 1; i < n; i++)
            if (fabs(a[i * n + j]) > fabs(a[p * n + j])) p = i;
        if (a[p * n + j] == 0) return 0;
        if (p != j) {
            sign = -sign;
            k_swap(a + p * n, a + j * n, n, 1);
            k_swap(b + p * k, b + j * k, k, 1);
        }
        for (long i = j + 1; i < n; i++) {
            const real f = a[i * n + j] = a[i * n + j] / a[j * n + j];
            for (long l = j + 1; l < n; l++) a[i * n + l] -= f * a[j * n + l];
            for (long l = 0; l < k; l++) b[i * k + l] -= f * b[j * k + l];
        }
    }
    return sign;
}"""
_SUBSTITUTE = """
static int k_substitute(real *a, real *b, long n, long k)
{
    if (!k_eliminate(a, b, n, k)) return 3;
    for (long j = n - 1; j >= 0; j--)
        for (long l = 0; l < k; l++) {
            b[j * k + l] /= a[j * n + j];
            for (long i = 0; i < j; i++) b[i * k + l] -= a[i * n + j] * b[j * k + l];
        }
    return 0;
}"""

_TEXTS = {
    "solve": """
static int k_solve(real *z, const real *a, const real *b, real *w, long batch, long n, long k)
{
    for (long m = 0; m < batch; m++, z += n * k, a += n * n, b += n * k) {
        for (long i = 0; i < n * n; i++) w[i] = a[i];
        for (long i = 0; i < n * k; i++) z[i] = b[i];
        if (k_substitute(w, z, n, k)) return 3;
    }
    return 0;
}""",
    "inv": """
static int k_inv(real *z, const real *a, real *w, long batch, long n, int strict)
{
    for (long m = 0; m < batch; m++, z += n * n, a += n * n) {
        for (long i = 0; i < n * n; i++) { w[i] = a[i]; z[i] = i % (n + 1) == 0; }
        if (!k_substitute(w, z, n, n)) continue;
        if (strict) return 3;
        for (long i = 0; i < n * n; i++) z[i] = NAN;
    }
    return 0;
}""",
    "det": """
static int k_det(real *z, const real *a, real *w, long batch, long n)
{
    for (long m = 0; m < batch; m++, a += n * n) {
        for (long i = 0; i < n * n; i++) w[i] = a[i];
        z[m] = (real)k_eliminate(w, w, n, 0);
        for (long i = 0; i < n && z[m] != 0; i++) z[m] *= w[i * n + i];
    }
    return 0;
}""",
    "slogdet": """
static int k_slogdet(real *z, const real *a, real *w, long batch, long n)
{
    for (long m = 0; m < batch; m++, a += n * n) {
        for (long i = 0; i < n * n; i++) w[i] = a[i];
        z[m] = (real)k_eliminate(w, w, n, 0);
        double total = z[m] == 0 ? -INFINITY : 0.0;
        for (long i = 0; i < n && z[m] != 0; i++) {
            if (w[i * n + i] < 0) z[m] = -z[m];
            total += log(fabs(w[i * n + i]));
        }
        z[batch + m] = (real)total;
    }
    return 0;
}""",
    "cofactors": """
static int k_cofactors(real *z, const real *a, real *w, long batch, long n)
{
    /* With a = p' l d u q', l and u of diagonal one and the pivots in d the largest there are, the cofactors are
       sign p' l'^-1 c u'^-1 q', where c has for each pivot the product of the others. So a may be singular. */
    real *row = w + n * n, *column = row + n, *c = column + n;
    for (long m = 0; m < batch; m++, z += n * n, a += n * n) {
        real sign = 1, product = 1;
        int finite = 1;
        for (long i = 0; i < n * n; i++) { w[i] = a[i]; finite = finite && a[i] - a[i] == 0; }
        for (long i = 0; i < n; i++) { row[i] = (real)i; column[i] = (real)i; }
        for (long j = 0; j < n; j++) {
            long p = j, q = j;
            for (long i = j; i < n; i++)
                for (long l = j; l < n; l++)
                    if (fabs(w[i * n + l]) > fabs(w[p * n + q])) { p = i; q = l; }
            if (p != j) {
                sign = -sign;
                k_swap(row + p, row + j, 1, 1);
                k_swap(w + p * n, w + j * n, n, 1);
            }
            if (q != j) {
                sign = -sign;
                k_swap(column + q, column + j, 1, 1);
                k_swap(w + q, w + j, n, n);
            }
            if (w[j * n + j] == 0) continue;
            for (long i = j + 1; i < n; i++) {
                w[i * n + j] /= w[j * n + j];
                for (long l = j + 1; l < n; l++) w[i * n + l] -= w[i * n + j] * w[j * n + l];
            }
            for (long l = j + 1; l < n; l++) w[j * n + l] /= w[j * n + j];
        }
        for (long j = 0; j < n; j++) { c[j] = product; product *= w[j * n + j]; }
        product = sign;
        for (long j = n - 1; j >= 0; j--) { c[j] *= product; product *= w[j * n + j]; }
        /* Where a pivot is zero, so is all behind it, and l and u have there only ones in the diagonal. */
        real *x = c + n;
        for (long g = 0; g < n; g++) {
            for (long i = 0; i < n; i++) x[i] = i == g;
            for (long i = g; i < n; i++)
                for (long l = g; l < i; l++) x[i] -= w[l * n + i] * x[l];
            for (long i = 0; i < n; i++) x[i] *= c[i];
            for (long i = n - 1; i >= 0; i--)
                for (long l = i + 1; l < n; l++) x[i] -= w[l * n + i] * x[l];
            for (long i = 0; i < n; i++) z[(long)row[i] * n + (long)column[g]] = x[i];
        }
        for (long i = 0; i < n * n && !finite; i++) z[i] = NAN;
    }
    return 0;
}""",
    "cholesky": """
static int k_cholesky(real *z, const real *a, long batch, long n)
{
    for (long m = 0; m < batch; m++, z += n * n, a += n * n)
        for (long j = 0; j < n; j++)
            for (long i = 0; i < n; i++) {
                real t = i < j ? 0 : a[i * n + j];
                for (long l = 0; l < j && i >= j; l++) t -= z[i * n + l] * z[j * n + l];
                if (i == j && !(t > 0)) return 3;
                z[i * n + j] = i == j ? (real)sqrt(t) : i < j ? 0 : t / z[j * n + j];
            }
    return 0;
}""",
    "solve_triangular": """
static int k_solve_triangular(real *z, const real *a, const real *b, long batch, long n, long k,
                              int lower, int trans, int unit, int strict)
{
    const long down = trans ? 1 : n, right = trans ? n : 1;
    const int first = lower != trans;
    for (long m = 0; m < batch; m++, z += n * k, a += n * n, b += n * k) {
        int singular = 0;
        for (long i = 0; i < n && !unit; i++) singular = singular || a[i * (n + 1)] == 0;
        if (singular && strict) return 3;
        for (long l = 0; l < k; l++) {
            int any = 0;
            for (long i = 0; i < n; i++) { z[i * k + l] = b[i * k + l]; any = any || b[i * k + l] != 0; }
            for (long i = 0; i < n && singular; i++) z[i * k + l] = any ? NAN : 0;
            for (long s = 0; s < n && !singular; s++) {
                const long i = first ? s : n - 1 - s;
                for (long j = first ? 0 : i + 1; j < (first ? i : n); j++)
                    z[i * k + l] -= a[i * down + j * right] * z[j * k + l];
                if (!unit) z[i * k + l] /= a[i * (n + 1)];
            }
        }
    }
    return 0;
}""",
    "lu_factor": """
static int k_lu_factor(real *z, const real *a, long batch, long n)
{
    real *pivots = z + batch * n * n;
    for (long m = 0; m < batch; m++, z += n * n, a += n * n, pivots += n) {
        for (long i = 0; i < n * n; i++) z[i] = a[i];
        for (long j = 0; j < n; j++) {
            long p = j;
            for (long i = j + 1; i < n; i++)
                if (fabs(z[i * n + j]) > fabs(z[p * n + j])) p = i;
            pivots[j] = (real)p;
            if (p != j) k_swap(z + p * n, z + j * n, n, 1);
            for (long i = j + 1; i < n && z[j * n + j] != 0; i++) {
                z[i * n + j] /= z[j * n + j];
                for (long l = j + 1; l < n; l++) z[i * n + l] -= z[i * n + j] * z[j * n + l];
            }
        }
    }
    return 0;
}""",
    "permutation": """
static int k_permutation(real *z, const real *pivots, real *w, long batch, long n)
{
    for (long m = 0; m < batch; m++, z += n * n, pivots += n) {
        for (long i = 0; i < n; i++) w[i] = (real)i;
        for (long i = 0; i < n; i++) {
            const long p = (long)pivots[i];
            k_swap(w + i, w + p, 1, 1);
        }
        for (long i = 0; i < n; i++)
            for (long j = 0; j < n; j++) z[i * n + j] = (long)w[i] == j;
    }
    return 0;
}""",
}  # fmt: skip
# What each calls, in the order in which these stand in a file.
_NEEDS = {
    "solve": (_SWAP, _ELIMINATE, _SUBSTITUTE), "inv": (_SWAP, _ELIMINATE, _SUBSTITUTE), "det": (_SWAP, _ELIMINATE),
    "slogdet": (_SWAP, _ELIMINATE), "cofactors": (_SWAP,), "lu_factor": (_SWAP,), "permutation": (_SWAP,),
}  # fmt: skip


class Written(NamedTuple):
    """How a matrix function is called: by a kernel's name, whose arguments behind the operands are lengths and options;
    before these goes a place for so many numbers in between, if there are any."""

    kernel: str
    room: int
    numbers: list[int]


def _of_one(name: str, room: Callable[[int], int], *options: int) -> Callable[[Any, Sequence[Any]], Written]:
    """One that takes square matrices (or one vector for each) alone."""

    def written(key: Any, shapes: Sequence[Any]) -> Written:
        (shape,) = shapes
        n = shape[-1]
        batch = math.prod(shape[:-1] if name == "permutation" else shape[:-2])
        return Written(name, room(n), [batch, n, *options])

    return written


def _of_system(name: str) -> Callable[[Any, Sequence[Any]], Written]:
    """One that takes square matrices and columns."""

    def written(key: Any, shapes: Sequence[Any]) -> Written:
        a, b = shapes
        if a[:-2] != b[:-2]:
            raise UnsupportedError(f"it calls {name} of {a} and {b}, whose leading axes differ: broadcast them first")
        n, k = b[-2:]
        return Written(name, n * n if name == "solve" else 0, [math.prod(b[:-2]), n, k, *map(int, key[1:])])

    return written


_KNOWN: dict[str, Callable[[Any, Sequence[Any]], Written]] = {
    "solve": _of_system("solve"),
    "solve_triangular": _of_system("solve_triangular"),
    "inv": _of_one("inv", lambda n: n * n, 1),
    "inverse": _of_one("inv", lambda n: n * n, 0),
    "det": _of_one("det", lambda n: n * n),
    "slogdet": _of_one("slogdet", lambda n: n * n),
    "cofactors": _of_one("cofactors", lambda n: n * n + 4 * n),
    "cholesky": _of_one("cholesky", lambda n: 0),
    "lu_factor": _of_one("lu_factor", lambda n: 0),
    "permutation": _of_one("permutation", lambda n: n),
}  # fmt: skip


def written(key: Any, shapes: Sequence[Any]) -> Written:
    """How a matrix function of arrays of these shapes is called. Raises UnsupportedError where it is not in C."""
    make = _KNOWN.get(key[0])
    if make is None:
        raise UnsupportedError(
            f"it calls the matrix function {key[0]}, which is not written in C. There are solve, inv, det, slogdet, "
            "cholesky, cho_solve, solve_triangular, lu_factor and lu_solve: write it with these, or compute it outside "
            "and pass the result as an argument"
        )
    return make(key, shapes)


def texts(names: Sequence[str]) -> list[str]:
    """The functions of these kernels, and what they call."""
    found: dict[str, None] = {}
    for name in sorted(names):
        found |= dict.fromkeys((*_NEEDS.get(name, ()), _TEXTS[name]))
    return [text.strip("\n") for text in found]
