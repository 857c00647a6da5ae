"""Windows that are not weighted: their largest elements and their sums.

An operand is (n, i1, i2, i3), one number a window is (n, o1, o2, o3), both dense. Parameters in the record: n, then
for each of three axes the lengths i and o, the window's length k, strides, paddings and dilations: i1, i2, i3, o1, ...
Element j of window o stands at o * stride + j * dilation - padding; what lies beyond the ends is left out.

The largest element of each window is found by `window_argmax` and taken by `window_take`. What is found is how far the
element stands behind the window's first, in the flat array, which does not grow with the array's length, and which
derivatives of every order take as it is: `window_put` is the transpose of `window_take`.
"""

import math

import numpy as np

from tapegrad.compiled import ROOM, read, room, write
from tapegrad.ops.record import operand_at, params_of_one, params_of_two, result_at, result_size
from tapegrad.ops.spec import BY_NAME, structured

LENGTH = 19
# So many windows are looked at together.
TOGETHER = ROOM // 2


def pool_axis(side, p, d):
    # The lengths of an axis, in the operand, of windows and in number of windows; stride, padding and dilation.
    return side[p + 1 + d], side[p + 7 + d], side[p + 4 + d], side[p + 10 + d], side[p + 13 + d], side[p + 16 + d]


def ends(i, o, s, first):
    # Those windows whose element is inside, if that of window 0 is at `first`.
    low = min(o, max(0, -(first // s)))
    return low, max(low, min(o, (i - first + s - 1) // s))


def argmax_forward(side, k, v):
    p, x, out = params_of_one(k), operand_at(side, k, 0), result_at(side, k)
    n = side[p]
    i1, k1, o1, s1, p1, d1 = pool_axis(side, p, 0)
    i2, k2, o2, s2, p2, d2 = pool_axis(side, p, 1)
    i3, k3, o3, s3, p3, d3 = pool_axis(side, p, 2)
    best = room(v)
    for m in range(n):
        for u1 in range(o1):
            for u2 in range(o2):
                row = out + ((m * o1 + u1) * o2 + u2) * o3
                for start in range(0, o3, TOGETHER):
                    many = min(TOGETHER, o3 - start)
                    for j in range(many):
                        write(best, j, -np.inf)
                        write(best, TOGETHER + j, -1.0)
                    for j1 in range(k1):
                        e1 = u1 * s1 + j1 * d1 - p1
                        for j2 in range(k2):
                            e2 = u2 * s2 + j2 * d2 - p2
                            if e1 >= 0 and e1 < i1 and e2 >= 0 and e2 < i2:
                                for j3 in range(k3):
                                    first = start * s3 + j3 * d3 - p3
                                    low, high = ends(i3, many, s3, first)
                                    a = x + ((m * i1 + e1) * i2 + e2) * i3 + first
                                    behind = (j1 * d1 * i2 + j2 * d2) * i3 + j3 * d3
                                    if s3 == 1:
                                        better(v, a, 1, low, high, best, behind)
                                    elif s3 == 2:
                                        better(v, a, 2, low, high, best, behind)
                                    else:
                                        better(v, a, s3, low, high, best, behind)
                    for j in range(many):
                        write(v, row + start + j, read(best, TOGETHER + j))
    return True


def better(v, a, step, low, high, best, behind):
    # The first NaN is taken for the largest, and else the first of the largest. What has found nothing yet is -1.
    for j in range(low, high):
        c, top, at = read(v, a + j * step), read(best, j), read(best, TOGETHER + j)
        new = (c > top) | ((c != c) & (top == top)) | (at < 0.0)
        write(best, j, c if new else top)
        write(best, TOGETHER + j, behind if new else at)


def found(v, choice, first, end):
    # The place of what stands so far behind `first`, if that is where the operand ends or begins; else -1.
    c = read(v, choice)
    if c >= 0.0 and c < 1e15:
        at = first + int(c)
        if at >= 0 and at < end:
            return at
    return -1


def take(side, k, v, d, wide, narrow, choice, mode):
    # Copy to the windows' numbers the elements that were chosen (0), or add them (1), or add the windows' numbers to
    # those (2).
    p = params_of_two(k)
    i1, _, o1, s1, p1, _ = pool_axis(side, p, 0)
    i2, _, o2, s2, p2, _ = pool_axis(side, p, 1)
    i3, _, o3, s3, p3, _ = pool_axis(side, p, 2)
    size, o = i1 * i2 * i3, 0
    for m in range(side[p]):
        for u1 in range(o1):
            for u2 in range(o2):
                first = ((u1 * s1 - p1) * i2 + u2 * s2 - p2) * i3 - p3
                for u3 in range(o3):
                    at = found(v, choice + o, first + u3 * s3, size)
                    to, of = narrow + o, wide + m * size + at
                    if mode == 0:
                        write(d, to, read(d, of) if at >= 0 else 0.0)
                    elif at >= 0:
                        if mode == 1:
                            write(d, to, read(d, to) + read(d, of))
                        else:
                            write(d, of, read(d, of) + read(d, to))
                    o += 1


def zero_result(side, k, d):
    for i in range(result_at(side, k), result_at(side, k) + result_size(side, k)):
        write(d, i, 0.0)


def no_reverse(side, k, v, g):
    pass


def no_tangent(side, k, v, t):
    zero_result(side, k, t)


def take_forward(side, k, v):
    take(side, k, v, v, operand_at(side, k, 0), result_at(side, k), operand_at(side, k, 1), 0)
    return True


def take_reverse(side, k, v, g):
    take(side, k, v, g, operand_at(side, k, 0), result_at(side, k), operand_at(side, k, 1), 2)


def take_tangent(side, k, v, t):
    take(side, k, v, t, operand_at(side, k, 0), result_at(side, k), operand_at(side, k, 1), 0)


def put_forward(side, k, v):
    zero_result(side, k, v)
    take(side, k, v, v, result_at(side, k), operand_at(side, k, 0), operand_at(side, k, 1), 2)
    return True


def put_reverse(side, k, v, g):
    take(side, k, v, g, result_at(side, k), operand_at(side, k, 0), operand_at(side, k, 1), 1)


def put_tangent(side, k, v, t):
    zero_result(side, k, t)
    take(side, k, v, t, result_at(side, k), operand_at(side, k, 0), operand_at(side, k, 1), 2)


# Sums.


def windows(side, k, d, wide, narrow, back):
    # Add the elements of each window to its number; or, back, the number to each element.
    p = params_of_one(k)
    i1, k1, o1, s1, p1, d1 = pool_axis(side, p, 0)
    i2, k2, o2, s2, p2, d2 = pool_axis(side, p, 1)
    i3, k3, o3, s3, p3, d3 = pool_axis(side, p, 2)
    for m in range(side[p]):
        for u1 in range(o1):
            for u2 in range(o2):
                row = narrow + ((m * o1 + u1) * o2 + u2) * o3
                for j1 in range(k1):
                    e1 = u1 * s1 + j1 * d1 - p1
                    for j2 in range(k2):
                        e2 = u2 * s2 + j2 * d2 - p2
                        if e1 >= 0 and e1 < i1 and e2 >= 0 and e2 < i2:
                            for j3 in range(k3):
                                first = j3 * d3 - p3
                                low, high = ends(i3, o3, s3, first)
                                a = wide + ((m * i1 + e1) * i2 + e2) * i3 + first
                                if s3 == 1:
                                    along(d, a, 1, row, low, high, back)
                                elif s3 == 2:
                                    along(d, a, 2, row, low, high, back)
                                else:
                                    along(d, a, s3, row, low, high, back)


def along(d, a, step, row, low, high, back):
    if back:
        for j in range(low, high):
            write(d, a + j * step, read(d, a + j * step) + read(d, row + j))
    else:
        for j in range(low, high):
            write(d, row + j, read(d, row + j) + read(d, a + j * step))


def sum_forward(side, k, v):
    zero_result(side, k, v)
    windows(side, k, v, operand_at(side, k, 0), result_at(side, k), False)
    return True


def sum_reverse(side, k, v, g):
    windows(side, k, g, operand_at(side, k, 0), result_at(side, k), True)


def sum_tangent(side, k, v, t):
    sum_forward(side, k, t)


def spread_forward(side, k, v):
    zero_result(side, k, v)
    windows(side, k, v, result_at(side, k), operand_at(side, k, 0), True)
    return True


def spread_reverse(side, k, v, g):
    windows(side, k, g, result_at(side, k), operand_at(side, k, 0), False)


def spread_tangent(side, k, v, t):
    spread_forward(side, k, t)


# The rules.


def wide_shape(p):
    return tuple(p[:4])


def narrow_shape(p):
    return (p[0], *p[4:7])


def dense(shape):
    _, b, c, d = shape
    return shape, (b * c * d, c * d, d, 1)


def accepts(p):
    # Positions are products of these, and must not overflow; nor may windows be without end.
    if len(p) != LENGTH or min(p) < 0 or min(p[7:13]) < 1 or min(p[16:]) < 1 or max(p[1:]) >= 1 << 20:
        return False
    return math.prod(p[4:10]) * p[0] <= 1 << 42


def elements(p):
    # For each element of each window, the number of the window, the element's own, and which of the window's it is.
    n, spatial = p[0], np.indices((p[0], *p[4:7], *p[7:10]), sparse=True)
    image, windows_at, inside_at = spatial[0], spatial[1:4], spatial[4:7]
    at = [windows_at[d] * p[10 + d] + inside_at[d] * p[16 + d] - p[13 + d] for d in range(3)]
    inside = np.ones((n, *p[4:7], *p[7:10]), bool)
    for d in range(3):
        inside &= (at[d] >= 0) & (at[d] < p[1 + d])
    element = ((image * p[1] + at[0]) * p[2] + at[1]) * p[3] + at[2]
    window = ((image * p[4] + windows_at[0]) * p[5] + windows_at[1]) * p[6] + windows_at[2]
    which = (inside_at[0] * p[8] + inside_at[1]) * p[9] + inside_at[2]
    return tuple(np.broadcast_to(x, inside.shape)[inside] for x in (window, element, which))


def gap(p, z, x):
    # The distance between the largest element of a window and the second largest.
    window, element, which = elements(p)
    shown = np.full((z.size, p[7] * p[8] * p[9]), -np.inf)
    shown[window, which] = np.reshape(x, -1)[element]
    ordered = np.sort(shown, 1)[:, -2:]
    return (ordered[:, -1] - ordered[:, 0] if ordered.shape[1] > 1 else np.full(z.size, np.inf)).reshape(z.shape)


NOTHING = np.zeros(0, np.int64)


def by_windows(p, *numbers):
    window, element, _ = elements(p)
    return [(window, element)] + [(NOTHING, NOTHING)] * (len(numbers) - 1)


def by_elements(p, *numbers):
    window, element, _ = elements(p)
    return [(element, window)] + [(NOTHING, NOTHING)] * (len(numbers) - 1)


def in_lanes(name):
    # Lanes are more arrays.
    def batched(p, lanes, *operands):
        shown = [x if x.ndim == 5 else np.broadcast_to(x[..., None], (*x.shape, lanes)) for x in operands]
        wide = [lanes * p[0], *p[1:]]
        first = [np.moveaxis(x, -1, 0).reshape(wide[0], *x.shape[1:-1]) for x in shown]
        result = BY_NAME[name](*first, params=wide)
        return np.moveaxis(result.reshape(lanes, p[0], *result.shape[1:]), 0, -1)

    return batched


def linear(name, transposed):
    # The rules of an operation that is linear in its first operand.
    def pullback(p, z, gz, *operands):
        return BY_NAME[transposed](gz, *operands[1:], params=p), *[None] * (len(operands) - 1)

    def pushforward(p, z, operands, tangents):
        return BY_NAME[name](tangents[0], *operands[1:], params=p)

    return {
        "pullback": pullback, "pushforward": pushforward, "batched": in_lanes(name), "accepts": accepts, "note": note,
    }  # fmt: skip


def note(p):
    def lengths(at):
        return ",".join(map(str, p[at : at + 3]))

    return f"{p[0]:,} of ({lengths(1)}), windows of ({lengths(7)})"


window_argmax = structured("window_argmax", "z = how far the first largest of a window is behind its first", arity=1,
    forward=argmax_forward, reverse=no_reverse, tangent=no_tangent, passive=True, kink=gap, accepts=accepts,
    views=lambda p: ([dense(wide_shape(p))], narrow_shape(p)), note=note, batched=in_lanes("window_argmax"))

window_take = structured("window_take", "z = the element of each window of x that is y behind its first", arity=2,
    forward=take_forward, reverse=take_reverse, tangent=take_tangent, depends=by_windows,
    views=lambda p: ([dense(wide_shape(p)), dense(narrow_shape(p))], narrow_shape(p)),
    reads=((False, True), False), kind_of=(0,), **linear("window_take", "window_put"))

window_put = structured("window_put", "z = 0, with x added to the element of each window that is y behind its first",
    arity=2, forward=put_forward, reverse=put_reverse, tangent=put_tangent, depends=by_elements,
    views=lambda p: ([dense(narrow_shape(p)), dense(narrow_shape(p))], wide_shape(p)),
    reads=((False, True), False), **linear("window_put", "window_take"))

window_sum = structured("window_sum", "z = sum of each window of x", arity=1,
    forward=sum_forward, reverse=sum_reverse, tangent=sum_tangent, depends=by_windows,
    views=lambda p: ([dense(wide_shape(p))], narrow_shape(p)),
    reads=((False,), False), **linear("window_sum", "window_spread"))

window_spread = structured("window_spread", "z = 0, with x added to each element of its window", arity=1,
    forward=spread_forward, reverse=spread_reverse, tangent=spread_tangent, depends=by_elements,
    views=lambda p: ([dense(narrow_shape(p))], wide_shape(p)),
    reads=((False,), False), **linear("window_spread", "window_sum"))
