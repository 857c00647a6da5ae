"""Operations over whole arrays in C: a function for each, and how it is called with the parameters of a record.

Sums are compensated as the library's are, so that results agree to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tapegrad.ops.parts import assemble_parts

# Each function takes the arena, the place of the result, and then what `CALLS` says.
TEXTS = {
    "sum": """
static void k_sum(real *v, long z, long x, long outer, long n, long inner, long so, long sn, long si)
{
    for (long i = 0; i < outer; i++)
        for (long m = 0; m < inner; m++, z++) {
            double total = 0.0, lost = 0.0;
            for (long j = 0; j < n; j++) {
                const double a = v[x + i * so + j * sn + m * si], next = total + a;
                lost += fabs(total) >= fabs(a) ? (total - next) + a : (a - next) + total;
                total = next;
            }
            v[z] = (real)(total - total == 0.0 ? total + lost : total);
        }
}""",
    "prod": """
static void k_prod(real *v, long z, long x, long outer, long n, long inner, long so, long sn, long si)
{
    for (long i = 0; i < outer; i++)
        for (long m = 0; m < inner; m++, z++) {
            v[z] = 1;
            for (long j = 0; j < n; j++) v[z] *= v[x + i * so + j * sn + m * si];
        }
}""",
    "max": """
static void k_max(real *v, long z, long x, long outer, long n, long inner, long so, long sn, long si, int sign)
{
    for (long i = 0; i < outer; i++)
        for (long m = 0; m < inner; m++, z++) {
            v[z] = v[x + i * so + m * si];
            for (long j = 1; j < n; j++) {
                const real a = v[x + i * so + j * sn + m * si];
                if ((sign > 0 ? a > v[z] : a < v[z]) || a != a) v[z] = a;
            }
        }
}""",
    "argmax": """
static void k_argmax(real *v, long z, long x, long outer, long n, long inner, long so, long sn, long si, int sign)
{
    for (long i = 0; i < outer; i++)
        for (long m = 0; m < inner; m++, z++) {
            real best = v[x + i * so + m * si];
            v[z] = 0;
            for (long j = 1; j < n && best == best; j++) {
                const real a = v[x + i * so + j * sn + m * si];
                if ((sign > 0 ? a > best : a < best) || a != a) { best = a; v[z] = (real)j; }
            }
        }
}""",
    "logsumexp": """
static void k_logsumexp(real *v, long z, long x, long outer, long n, long inner, long so, long sn, long si)
{
    for (long i = 0; i < outer; i++)
        for (long m = 0; m < inner; m++, z++) {
            double best = v[x + i * so + m * si], total = 0.0;
            for (long j = 1; j < n; j++)
                if (v[x + i * so + j * sn + m * si] > best) best = v[x + i * so + j * sn + m * si];
            for (long j = 0; j < n; j++) total += exp(v[x + i * so + j * sn + m * si] - best);
            v[z] = (real)(best - best == 0.0 ? best + log(total) : best);
        }
}""",
    "norm": """
static void k_norm(real *v, long z, long x, long outer, long n, long inner, long so, long sn, long si)
{
    for (long i = 0; i < outer; i++)
        for (long m = 0; m < inner; m++, z++) {
            double scale = 0.0, total = 0.0;
            for (long j = 0; j < n; j++) {
                const double a = fabs((double)v[x + i * so + j * sn + m * si]);
                if (!(a <= scale)) scale = a;
            }
            const double by = scale > 1e140 || scale < 1e-140 ? scale : 1.0;
            for (long j = 0; j < n; j++) {
                const double a = v[x + i * so + j * sn + m * si] / by;
                total += a * a;
            }
            v[z] = (real)(scale == 0.0 || scale - scale != 0.0 ? scale : by * sqrt(total));
        }
}""",
    "cumsum": """
static void k_cumsum(real *v, long z, long x, long outer, long n, long inner, long so, long sn, long si)
{
    for (long i = 0; i < outer; i++)
        for (long m = 0; m < inner; m++) {
            real total = 0;
            for (long j = 0; j < n; j++) {
                total += v[x + i * so + j * sn + m * si];
                v[z + (i * n + j) * inner + m] = total;
            }
        }
}""",
    "argsort": """
static void k_argsort(real *v, long z, long x, long outer, long n, long inner, long so, long sn, long si)
{
    /* By insertion, which is stable; NaN goes to the end. */
    for (long i = 0; i < outer; i++)
        for (long m = 0; m < inner; m++)
            for (long j = 0; j < n; j++) {
                const real a = v[x + i * so + j * sn + m * si];
                long k = j;
                for (; k > 0; k--) {
                    const real b = v[x + i * so + (long)v[z + (i * n + k - 1) * inner + m] * sn + m * si];
                    if (!(a < b || (b != b && a == a))) break;
                    v[z + (i * n + k) * inner + m] = v[z + (i * n + k - 1) * inner + m];
                }
                v[z + (i * n + k) * inner + m] = (real)j;
            }
}""",
    "gather": """
static int k_gather(real *v, long z, long x, long index, long outer, long size, long inner, long n)
{
    for (long j = 0; j < n; j++) {
        const real a = v[index + j];
        if (!(a >= -size && a < size && a == floor(a))) return 2;
        const long k = a < 0 ? (long)a + size : (long)a;
        for (long i = 0; i < outer; i++)
            for (long m = 0; m < inner; m++) v[z + (i * n + j) * inner + m] = v[x + (i * size + k) * inner + m];
    }
    return 0;
}""",
    "scatter": """
static int k_scatter(real *v, long z, long x, long index, long outer, long size, long inner, long n)
{
    for (long i = 0; i < outer * size * inner; i++) v[z + i] = 0;
    for (long j = 0; j < n; j++) {
        const real a = v[index + j];
        if (!(a >= -size && a < size && a == floor(a))) return 2;
        const long k = a < 0 ? (long)a + size : (long)a;
        for (long i = 0; i < outer; i++)
            for (long m = 0; m < inner; m++) v[z + (i * size + k) * inner + m] += v[x + (i * n + j) * inner + m];
    }
    return 0;
}""",
    "concatenate": """
static void k_concatenate(real *v, long z, long x, long outer, long total, long row)
{
    for (long i = 0; i < outer; i++)
        for (long m = 0; m < row; m++) v[z + i * total + m] = v[x + i * row + m];
}""",
    "matmul": """
static void k_matmul(real *v, long z, long x, long y, long batch, long m, long k, long n,
                     long sx, long xi, long xj, long sy, long yi, long yj)
{
    for (long b = 0; b < batch; b++)
        for (long i = 0; i < m; i++)
            for (long j = 0; j < n; j++, z++) {
                real total = 0;
                for (long l = 0; l < k; l++)
                    total += v[x + b * sx + i * xi + l * xj] * v[y + b * sy + l * yi + j * yj];
                v[z] = total;
            }
}""",
    "affine": """
static void k_affine(real *v, long z, long x, long y, long b, long m, long k, long n,
                     long xi, long xj, long yi, long yj)
{
    for (long i = 0; i < m; i++)
        for (long j = 0; j < n; j++, z++) {
            real total = v[b + j];
            for (long l = 0; l < k; l++) total += v[x + i * xi + l * xj] * v[y + l * yi + j * yj];
            v[z] = total;
        }
}""",
    "cross_entropy": """
static int k_cross_entropy(real *v, long z, long x, long labels, long n, long classes)
{
    for (long i = 0; i < n; i++) {
        const real label = v[labels + i];
        if (!(label >= 0 && label < classes && label == floor(label))) return 2;
        double best = v[x + i * classes], total = 0.0;
        for (long j = 1; j < classes; j++)
            if (v[x + i * classes + j] > best) best = v[x + i * classes + j];
        for (long j = 0; j < classes; j++) total += exp(v[x + i * classes + j] - best);
        v[z + i] = (real)(log(total) + (best - v[x + i * classes + (long)label]));
    }
    return 0;
}""",
    "at_labels": """
static int k_at_labels(real *v, long z, long x, long labels, long n, long classes)
{
    for (long i = 0; i < n; i++) {
        const real label = v[labels + i];
        if (!(label >= 0 && label < classes && label == floor(label))) return 2;
        v[z + i] = v[x + i * classes + (long)label];
    }
    return 0;
}""",
    "lstm_gates": """
static void k_lstm_gates(real *v, long z, long x, long y, long before, long rows, long n)
{
    const long m = rows * n;
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < n; j++) {
            const long o = z + i * n + j;
            for (long gate = 0; gate < 4; gate++) {
                const real a = v[x + (4 * i + gate) * n + j] + v[y + (4 * i + gate) * n + j];
                v[o + (2 + gate) * m] = (real)(gate == 2 ? tanh(a) : 1.0 / (1.0 + exp(-a)));
            }
            v[o + m] = v[o + 3 * m] * v[before + i * n + j] + v[o + 2 * m] * v[o + 4 * m];
            v[o + 6 * m] = (real)tanh(v[o + m]);
            v[o] = v[o + 5 * m] * v[o + 6 * m];
        }
}""",
    "moments": """
static void k_moments(real *v, long z, long x, long n, long g, long k, long s, long across)
{
    const long count = across ? g : n * g, step = across ? g : n * g, size = across ? n * s : k * s;
    for (long m = 0; m < count; m++) {
        double mean = 0.0, var = 0.0;
        for (long i = m; i < n * g; i += step)
            for (long j = 0; j < k * s; j++) mean += v[x + i * k * s + j];
        mean /= size;
        for (long i = m; i < n * g; i += step)
            for (long j = 0; j < k * s; j++) var += (v[x + i * k * s + j] - mean) * (v[x + i * k * s + j] - mean);
        v[z + m] = (real)mean;
        v[z + count + m] = (real)(var / size);
    }
}""",
    "normalize": """
static void k_normalize(real *v, long z, long x, long mean, long scale, long w, long b, long n, long g, long k,
                        long s, long across, long chains)
{
    for (long i = 0; i < n * g; i++)
        for (long c = 0; c < k; c++)
            for (long j = 0; j < s; j++) {
                const long at = (i * k + c) * s + j, m = across ? i % g : i, channel = i % g * k + c;
                const real one = v[x + at] - v[mean + m], other = v[scale + m] * v[w + channel];
                v[z + at] = (chains && (one == 0 || other == 0) ? 0 : one * other) + v[b + channel];
            }
}""",
    "normalize_groups": """
static void k_normalize_groups(real *v, long z, long x, long w, long b, long eps, long n, long g, long k, long s)
{
    const long size = k * s;
    for (long m = 0; m < n * g; m++) {
        double mean = 0.0, var = 0.0;
        for (long j = m * size; j < (m + 1) * size; j++) mean += v[x + j];
        mean /= size;
        for (long j = m * size; j < (m + 1) * size; j++) var += (v[x + j] - mean) * (v[x + j] - mean);
        const double scale = 1.0 / sqrt(var / size + v[eps]);
        for (long j = 0; j < size; j++) {
            const long channel = m % g * k + j / s;
            v[z + m * size + j] = (real)((v[x + m * size + j] - mean) * scale * v[w + channel] + v[b + channel]);
        }
    }
}""",
    "normalize_groups_back": """
static void k_normalize_groups_back(real *v, long z, long back, long x, long w, long eps, long n, long g, long k,
                                    long s)
{
    const long size = k * s, to_w = z + n * g * size, to_b = to_w + g * k, to_eps = to_b + g * k;
    for (long i = to_w; i <= to_eps; i++) v[i] = 0;
    for (long m = 0; m < n * g; m++) {
        const long at = m * size, first = m % g * k;
        long j = 0;
        while (j < size && v[back + at + j] == 0) j++;
        if (j == size) {
            for (j = 0; j < size; j++) v[z + at + j] = 0;
            continue;
        }
        double mean = 0.0, var = 0.0, total = 0.0, along = 0.0;
        for (j = at; j < at + size; j++) mean += v[x + j];
        mean /= size;
        for (j = at; j < at + size; j++) var += (v[x + j] - mean) * (v[x + j] - mean);
        const double scale = 1.0 / sqrt(var / size + v[eps]);
        for (j = 0; j < size; j++) {
            const double given = v[back + at + j], h = (v[x + at + j] - mean) * scale;
            const double own = v[w + first + j / s];
            total += given * own;
            along += given * own * h;
            v[to_w + first + j / s] += (real)(given * h);
            v[to_b + first + j / s] += (real)given;
        }
        for (j = 0; j < size; j++) {
            const double h = (v[x + at + j] - mean) * scale;
            v[z + at + j] = (real)(scale * (v[back + at + j] * v[w + first + j / s] - (total + h * along) / size));
        }
        v[to_eps] -= (real)(0.5 * scale * scale * along);
    }
}""",
    "normalize_sums": """
static void k_normalize_sums(real *v, long z, long back, long x, long mean, long scale, long w, long n, long g,
                             long k, long s, long across)
{
    const long count = across ? g : n * g;
    for (long i = 0; i < 2 * (count + g * k); i++) v[z + i] = 0;
    for (long i = 0; i < n * g; i++)
        for (long c = 0; c < k; c++)
            for (long j = 0; j < s; j++) {
                const long at = (i * k + c) * s + j, m = across ? i % g : i, channel = i % g * k + c;
                const real given = v[back + at], one = v[x + at] - v[mean + m];
                if (given == 0) continue;
                v[z + m] -= given * v[scale + m] * v[w + channel];
                v[z + count + m] += given * one * v[w + channel];
                v[z + 2 * count + channel] += given * one * v[scale + m];
                v[z + 2 * count + g * k + channel] += given;
            }
}""",
}

# Those that return 0, or 2 where they refuse their operands.
REFUSING = ("gather", "scatter", "cross_entropy", "at_labels")


def _along_axis(z: str, places: Sequence[str], p: Sequence[int], name: str) -> list[str]:
    sign = f", {p[6]}" if name in ("max", "argmax") else ""
    return [f"k_{name}(v, {z}, {places[0]}, {', '.join(map(str, p[:6]))}{sign});"]


def _with_parameters(z: str, places: Sequence[str], p: Sequence[int], name: str) -> list[str]:
    return [f"k_{name}(v, {', '.join([z, *places, *map(str, p)])});"]


def _joined(z: str, places: Sequence[str], p: Sequence[int], name: str) -> list[str]:
    found, at = [], 0
    for place, row in zip(places, p[2:], strict=True):
        found.append(f"k_concatenate(v, {z} + {at}, {place}, {p[0]}, {p[1]}, {row});")
        at += row
    return found


def _product(z: str, places: Sequence[str], p: Sequence[int], name: str) -> list[str]:
    batch, m, k, n, sx, tx, ldx, sy, ty, ldy = p
    x, y = (1, ldx) if tx else (ldx, 1), (1, ldy) if ty else (ldy, 1)
    numbers = [m, k, n, *x, *y] if name == "affine" else [batch, m, k, n, sx, *x, sy, *y]
    return [f"k_{name}(v, {', '.join([z, *places, *map(str, numbers)])});"]


def _assembled(z: str, places: Sequence[str], p: Sequence[int], name: str) -> list[str]:
    found = [f"for (long i = 0; i < {p[0]}; i++) v[{z} + i] = 0;"]
    for place, (offset, shape, strides, to) in zip(places, assemble_parts(list(p)), strict=True):
        loops = " ".join(f"for (long i{d} = 0; i{d} < {n}; i{d}++)" for d, n in enumerate(shape))
        target, source = (
            " + ".join([base, *(f"i{d} * {s}" for d, s in enumerate(steps))])
            for base, steps in ((f"{z} + {offset}", to), (place, strides))
        )
        found.append(f"{loops} v[{target}] += v[{source}];")
    return found


# For each operation what makes the statements that carry it out, of the place of the result, those of the operands,
# the parameters and the name.
CALLS: dict[str, Callable[[str, Sequence[str], Sequence[int], str], list[str]]] = {
    "concatenate": _joined, "matmul": _product, "affine": _product, "assemble": _assembled,
    **dict.fromkeys(("sum", "prod", "max", "argmax", "logsumexp", "norm", "cumsum", "argsort"), _along_axis),
    **dict.fromkeys(
        ("gather", "scatter", "cross_entropy", "at_labels", "lstm_gates", "moments", "normalize", "normalize_sums",
         "normalize_groups", "normalize_groups_back"),
        _with_parameters,
    ),
}  # fmt: skip
