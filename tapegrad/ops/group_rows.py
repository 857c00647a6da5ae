"""The kernels of `group_norms`: normalising groups whose numbers stand together, and the way back from it.

Mean, variance and result of a group are computed while it is in the first-level cache, so an array is read once and
written once. On the way back the mean and the variance are found again, which takes less time than to read them with
another pass over the numbers.
"""

import numpy as np

from tapegrad.compiled import add_up, read, write
from tapegrad.compiled.tiles import borrow, give_back
from tapegrad.ops.groups import ROWS, STRETCH, is_zero, kept, spread_of_row, sums_of_rows, with_lost
from tapegrad.ops.planes import zeros
from tapegrad.ops.record import operand_at, params_at, result_at, wants_flag

# So many numbers lie between the two sums of channels: loads from one are otherwise taken to wait for stores to the
# other where they are 4096 bytes apart, since processors compare the last twelve bits of addresses first.
APART = 80


def shape_of_groups(side, k):
    p = params_at(side, k)
    return side[p], side[p + 1], side[p + 2], side[p + 3]


def mean_and_scale(v, x, n, eps):
    # Of a group of n numbers, in the array's dtype. The sums are about a number of the group itself: what cancels is
    # then at most as many times the variance as it has numbers.
    first = read(v, x)
    total, square = spread_of_row(v, x, first, n)
    share = np.float64(1.0) / n
    var = max(square - total * (total * share), 0.0) * share
    return v.dtype.type(first + total * share), v.dtype.type(np.float64(1.0) / np.sqrt(var + read(v, eps)))


def groups_forward(side, k, v):
    samples, groups, channels, each = shape_of_groups(side, k)
    x, w, b = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    eps, out, size = operand_at(side, k, 3), result_at(side, k), channels * each
    for i in range(samples * groups):
        first = i % groups * channels
        middle, factor = mean_and_scale(v, x + i * size, size, eps)
        if each == 1:
            at, to = x + i * size, out + i * size
            for j in range(size):
                write(v, to + j, (read(v, at + j) - middle) * factor * read(v, w + first + j) + read(v, b + first + j))
        else:
            for c in range(channels):
                at, to = x + i * size + c * each, out + i * size + c * each
                whole, plus = factor * read(v, w + first + c), read(v, b + first + c)
                for j in range(each):
                    write(v, to + j, (read(v, at + j) - middle) * whole + plus)
    return True


def groups_reverse(side, k, flags, v, g):
    samples, groups, channels, each = shape_of_groups(side, k)
    x, w, b = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    eps, out = operand_at(side, k, 3), result_at(side, k)
    passed_back(
        samples, groups, channels, each, v, x, w, eps, g, out, g, 1,
        x if flags[wants_flag(k, 0)] else -1, w if flags[wants_flag(k, 1)] else -1,
        b if flags[wants_flag(k, 2)] else -1, eps if flags[wants_flag(k, 3)] else -1,
    )


def back_forward(side, k, v):
    samples, groups, channels, each = shape_of_groups(side, k)
    back, x, w = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    eps, out, count = operand_at(side, k, 3), result_at(side, k), groups * channels
    to_w = out + samples * count * each
    zeros(v, to_w, 2 * count + 1)
    passed_back(
        samples, groups, channels, each, v, x, w, eps, v, back, v, 0, out, to_w, to_w + count, to_w + 2 * count,
    )  # fmt: skip
    return True


def passed_back(samples, groups, channels, each, v, x, w, eps, u, back, r, adds, to_x, to_w, to_b, to_eps):
    # Adds what reaches the operands to r, at the places named; those below 0 are left out. At to_x it is written and
    # not added where `adds` is 0.
    size, count, by_eps = channels * each, groups * channels, np.float64(0.0)
    # For each channel the sums of u h and of u; see `kept`.
    pitch = count + APART
    sums = borrow(v, 6 * pitch)
    zeros(sums, 0, 6 * pitch)
    for i in range(samples):
        for m in range(groups):
            at, first = (i * groups + m) * size, m * channels
            if is_zero(u, back + at, size):
                if to_x >= 0 and adds == 0:
                    zeros(r, to_x + at, size)
                continue
            middle, factor = mean_and_scale(v, x + at, size, eps)
            if each == 1:
                total, along = sums_of_channels(v, x + at, w + first, u, back + at, middle, factor, sums, first, pitch,
                                                size)
            else:
                total, along = np.float64(0.0), np.float64(0.0)
                for c in range(channels):
                    one, other = sums_of_rows(v, x + at + c * each, middle, u, back + at + c * each, each)
                    weight = read(v, w + first + c)
                    total += one * weight
                    along += other * weight
                    write(sums, first + c, read(sums, first + c) + other * factor)
                    write(sums, pitch + first + c, read(sums, pitch + first + c) + one)
            by_eps -= 0.5 * along * factor * factor * factor
            if to_x >= 0:
                plain, slope = v.dtype.type(total / size), v.dtype.type(along * factor * factor / size)
                spread_back(v, x + at, w + first, u, back + at, middle, factor, plain, slope, r, to_x + at,
                            adds, channels, each)
        if i % ROWS == ROWS - 1:
            kept(sums, 2 * pitch)
    kept(sums, 2 * pitch)
    for j in range(count):
        if to_w >= 0:
            write(r, to_w + j, read(r, to_w + j) + with_lost(sums, j, 2 * pitch))
        if to_b >= 0:
            write(r, to_b + j, read(r, to_b + j) + with_lost(sums, pitch + j, 2 * pitch))
    if to_eps >= 0:
        write(r, to_eps, read(r, to_eps) + by_eps)
    give_back(sums)


def sums_of_channels(v, x, w, u, back, middle, factor, sums, first, pitch, n):
    # For a group whose n channels have one number each: the sums of a and of a (x - mean), and those of channels.
    total, along, zero = np.float64(0.0), np.float64(0.0), middle - middle
    for start in range(0, n, STRETCH):
        one, other = zero, zero
        for j in range(start, min(start + STRETCH, n)):
            given, centred = read(u, back + j), read(v, x + j) - middle
            a = given * read(v, w + j)
            one, other = add_up(one, a), add_up(other, a * centred)
            write(sums, first + j, read(sums, first + j) + given * (centred * factor))
            write(sums, pitch + first + j, read(sums, pitch + first + j) + given)
        total += np.float64(one)
        along += np.float64(other)
    return total, along


def spread_back(v, x, w, u, back, middle, factor, plain, slope, r, to_x, adds, channels, each):
    # What reaches the numbers of a group: s (a - E a - (x - mean) s E(a h)).
    if each == 1:
        if adds:
            for j in range(channels):
                given, centred = read(u, back + j) * read(v, w + j), read(v, x + j) - middle
                write(r, to_x + j, read(r, to_x + j) + (given - plain - centred * slope) * factor)
        else:
            for j in range(channels):
                given, centred = read(u, back + j) * read(v, w + j), read(v, x + j) - middle
                write(r, to_x + j, (given - plain - centred * slope) * factor)
    else:
        for c in range(channels):
            at, own = c * each, read(v, w + c)
            if adds:
                for j in range(at, at + each):
                    given, centred = read(u, back + j) * own, read(v, x + j) - middle
                    write(r, to_x + j, read(r, to_x + j) + (given - plain - centred * slope) * factor)
            else:
                for j in range(at, at + each):
                    given, centred = read(u, back + j) * own, read(v, x + j) - middle
                    write(r, to_x + j, (given - plain - centred * slope) * factor)


def groups_tangent(side, k, flags, v, t):
    samples, groups, channels, each = shape_of_groups(side, k)
    x, w, b = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    along_x, along_w, along_b, along_eps = (
        flags[wants_flag(k, 0)], flags[wants_flag(k, 1)], flags[wants_flag(k, 2)], flags[wants_flag(k, 3)]
    )  # fmt: skip
    eps, out, size = operand_at(side, k, 3), result_at(side, k), channels * each
    for i in range(samples * groups):
        first = i % groups * channels
        middle, factor = mean_and_scale(v, x + i * size, size, eps)
        plain, slope = np.float64(0.0), np.float64(0.0)
        if along_x:
            plain, slope = sums_of_rows(v, x + i * size, middle, t, x + i * size, size)
        plain, slope = plain / size, slope * factor * factor / size
        if along_eps:
            slope += 0.5 * factor * factor * read(t, eps)
        for c in range(channels):
            weight, by_w = read(v, w + first + c), read(t, w + first + c) if along_w else 0.0
            by_b = read(t, b + first + c) if along_b else 0.0
            for j in range(each):
                at = i * size + c * each + j
                centred = read(v, x + at) - middle
                moved = (read(t, x + at) if along_x else 0.0) - plain - centred * slope
                write(t, out + at, factor * (moved * weight + centred * by_w) + by_b)


def back_reverse(side, k, flags, v, g):
    # The adjoint q of the result weighs the four parts of the way back. Their sum is u times the tangent of z along q,
    # so u gets that tangent, and the other operands the derivative of the sum by h, (s), w and eps.
    samples, groups, channels, each = shape_of_groups(side, k)
    back, x, w = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    eps, out, size, count = operand_at(side, k, 3), result_at(side, k), channels * each, groups * channels
    q_w = out + samples * groups * size
    q_b, q_eps = q_w + count, read(g, q_w + 2 * count)
    for i in range(samples * groups):
        at, first = i * size, i % groups * channels
        if q_eps == 0.0 and is_zero(g, out + at, size) and is_zero(g, q_w + first, channels) and is_zero(
                g, q_b + first, channels):
            continue
        middle, s = mean_and_scale(v, x + at, size, eps)
        mean_q, q_h = sums_of_rows(v, x + at, middle, g, out + at, size)
        mean_q, q_h = mean_q / size, q_h * s / size
        if flags[wants_flag(k, 0)]:
            for c in range(channels):
                weight, by_w, by_b = read(v, w + first + c), read(g, q_w + first + c), read(g, q_b + first + c)
                for j in range(at + c * each, at + (c + 1) * each):
                    h = (read(v, x + j) - middle) * s
                    moved = s * (read(g, out + j) - mean_q - h * (q_h + 0.5 * s * q_eps))
                    write(g, back + j, read(g, back + j) + (moved * weight + h * by_w + by_b))
        if is_zero(v, back + at, size):
            continue
        # The sums of a (q - E q), of a h, of f and of f h, where f is the derivative by h.
        a_q, a_h, f_one, f_h = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
        for c in range(channels):
            weight = read(v, w + first + c)
            for j in range(at + c * each, at + (c + 1) * each):
                a = read(v, back + j) * weight
                a_q += a * (read(g, out + j) - mean_q)
                a_h += a * ((read(v, x + j) - middle) * s)
        for c in range(channels):
            weight, by_w, to_w = read(v, w + first + c), read(g, q_w + first + c), np.float64(0.0)
            for j in range(at + c * each, at + (c + 1) * each):
                u, q, h = read(v, back + j), read(g, out + j), (read(v, x + j) - middle) * s
                f = by_h(u, weight, q, by_w, s, q_h, a_h / size, q_eps)
                f_one += f
                f_h += f * h
                to_w += u * (s * (q - mean_q - h * (q_h + 0.5 * s * q_eps)))
            if flags[wants_flag(k, 2)]:
                write(g, w + first + c, read(g, w + first + c) + to_w)
        by_s = a_q - a_h * q_h - s * q_eps * a_h
        if flags[wants_flag(k, 1)]:
            for c in range(channels):
                weight, by_w = read(v, w + first + c), read(g, q_w + first + c)
                for j in range(at + c * each, at + (c + 1) * each):
                    u, q, h = read(v, back + j), read(g, out + j), (read(v, x + j) - middle) * s
                    f = by_h(u, weight, q, by_w, s, q_h, a_h / size, q_eps)
                    to_x = s * (f - f_one / size - h * (f_h / size)) - by_s * s * s * h / size
                    write(g, x + j, read(g, x + j) + to_x)
        if flags[wants_flag(k, 3)]:
            write(g, eps, read(g, eps) - 0.5 * s * s * (by_s * s + f_h))


def by_h(u, weight, q, by_w, s, q_h, a_h, q_eps):
    # See `back_reverse`: q_h and a_h are the means of q h and a h.
    return u * by_w - s * (u * weight * (q_h + 0.5 * s * q_eps) + a_h * q)


def back_tangent(side, k, flags, v, t):
    samples, groups, channels, each = shape_of_groups(side, k)
    back, x, w = operand_at(side, k, 0), operand_at(side, k, 1), operand_at(side, k, 2)
    eps, out, size, count = operand_at(side, k, 3), result_at(side, k), channels * each, groups * channels
    along_u, along_x, along_w = flags[wants_flag(k, 0)], flags[wants_flag(k, 1)], flags[wants_flag(k, 2)]
    t_eps = read(t, eps) if flags[wants_flag(k, 3)] else 0.0
    to_w = out + samples * groups * size
    to_b, to_eps = to_w + count, np.float64(0.0)
    zeros(t, to_w, 2 * count)
    for i in range(samples * groups):
        at, first = i * size, i % groups * channels
        if is_zero(v, back + at, size) and not (along_u and not is_zero(t, back + at, size)):
            zeros(t, out + at, size)
            continue
        middle, s = mean_and_scale(v, x + at, size, eps)
        mean_t, h_t = np.float64(0.0), np.float64(0.0)
        if along_x:
            mean_t, h_t = sums_of_rows(v, x + at, middle, t, x + at, size)
        mean_t, h_t = mean_t / size, h_t * s / size
        # How s changes, relative to s; the means of a and of a h, and how these change.
        rel = -s * h_t - 0.5 * s * s * t_eps
        a_one, a_h, ta_one, ta_h = np.float64(0.0), np.float64(0.0), np.float64(0.0), np.float64(0.0)
        for c in range(channels):
            weight, t_w = read(v, w + first + c), read(t, w + first + c) if along_w else 0.0
            by_w, by_b = np.float64(0.0), np.float64(0.0)
            for j in range(at + c * each, at + (c + 1) * each):
                u, h = read(v, back + j), (read(v, x + j) - middle) * s
                t_u = read(t, back + j) if along_u else 0.0
                t_h = s * ((read(t, x + j) if along_x else 0.0) - mean_t) + h * rel
                a_one += u * weight
                a_h += u * weight * h
                ta_one += t_u * weight + u * t_w
                ta_h += (t_u * weight + u * t_w) * h + u * weight * t_h
                by_w += t_u * h + u * t_h
                by_b += t_u
            write(t, to_w + first + c, read(t, to_w + first + c) + by_w)
            write(t, to_b + first + c, read(t, to_b + first + c) + by_b)
        to_eps -= 0.5 * s * s * (2.0 * rel * a_h + ta_h)
        a_one, a_h, ta_one, ta_h = a_one / size, a_h / size, ta_one / size, ta_h / size
        for c in range(channels):
            weight, t_w = read(v, w + first + c), read(t, w + first + c) if along_w else 0.0
            for j in range(at + c * each, at + (c + 1) * each):
                u, h = read(v, back + j), (read(v, x + j) - middle) * s
                t_u = read(t, back + j) if along_u else 0.0
                t_h = s * ((read(t, x + j) if along_x else 0.0) - mean_t) + h * rel
                plain = u * weight - a_one - h * a_h
                moved = t_u * weight + u * t_w - ta_one - t_h * a_h - h * ta_h
                write(t, out + j, s * (rel * plain + moved))
    write(t, to_w + 2 * count, to_eps)
