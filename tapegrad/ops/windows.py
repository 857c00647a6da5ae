"""The kernels of convolutions: sums of products over windows, as three functions that are each other's transposes.

With x (n, groups, ci, i1, i2, i3), w (groups, co, ci, k1, k2, k3) and y (n, groups, co, o1, o2, o3), all dense, there
is one sum over everything,

    T = sum of x[.., o * stride + k * dilation - padding] w[.., k] y[.., o],

where x counts as zero outside of its ends. `add_output` adds dT/dy to y, which is the convolution of x by w;
`add_input` adds dT/dx, `add_kernel` dT/dw. T is linear in each of the three, so their derivatives are these again.

Windows are not copied out. Each channel of x is copied to planes that have its zeros around it, one plane for each
remainder of the position by the stride. Then what the window's element k meets at output (o1, o2, o3) stands at that
plus an offset that depends on k alone, so an output is a sum over channels and elements k of whole rows of numbers, and
many rows are one: where a row of the output ends, some numbers are computed that nobody reads. See `tiles`.
"""

import numpy as np

from tapegrad.compiled import compiled_in, read, room, write
from tapegrad.compiled.tiles import VECTORS, borrow, borrow_whole, copy_row, give_back, products_of_rows
from tapegrad.ops.planes import (
    CACHE,
    axis,
    block,
    fill,
    is_empty,
    lanes,
    multiply,
    planes_filled,
    reach,
    rows_of,
    sizes,
    up,
    width,
    window_offsets,
    zeros,
)

# What y begins as, before anything is added: what it is, or zero, or where it is neither of these, the biases that
# stand there in the array of y, one for each channel.
AS_IT_IS, AS_ZERO = -2, -1


def begun(side, p, ys, y, begin):
    # Make the numbers of y what they begin as.
    n, count, size = side[p], side[p + 1] * side[p + 3], side[p + 10] * side[p + 11] * side[p + 12]
    for i in range(n):
        for c in range(count):
            number = read(ys, begin + c) if begin >= 0 else 0.0
            row = y + (i * count + c) * size
            for j in range(size):
                write(ys, row + j, number)


def output_added(side, p, xs, x, ws, w, ys, y, begin):
    if is_empty(side, p):
        if begin != AS_IT_IS:
            begun(side, p, ys, y, begin)
        return
    n, groups, ci, co, taps = sizes(side, p)
    i1, k1, o1, s1, p1, d1 = axis(side, p, 0)
    i2, k2, o2, s2, p2, d2 = axis(side, p, 1)
    i3, k3, o3, s3, p3, d3 = axis(side, p, 2)
    q1, b1 = reach(k1, s1, d1)
    q2, b2 = reach(k2, s2, d2)
    q3, b3 = reach(k3, s3, d3)
    l3, planes_each, wide = o3 + b3, q1 * q2 * q3, width(co, ys)
    m1, m2 = block(o1, o2, b1, b2, (ci * planes_each + co) * l3, CACHE // ys.itemsize)
    count = ci * taps
    packed = borrow(ws, groups * co * count)
    for g in range(groups):
        c = 0
        while c < co:
            rows = rows_of(co - c)
            at = (g * co + c) * count
            for i in range(rows):
                for q in range(count):
                    write(packed, at + q * rows + i, read(ws, w + at + i * count + q))
            c += rows
    longest = ci * planes_each * (m1 + b1) * (m2 + b2) * l3
    planes = borrow(xs, longest + wide)
    zeros(planes, 0, longest + wide)
    offsets, alone = borrow_whole(count), m1 == o1 and m2 == o2
    sums = borrow(ys, co * up(m1 * (m2 + b2) * l3, wide))
    for i in range(n):
        for g in range(groups):
            for at1 in range(0, o1, m1):
                for at2 in range(0, o2, m2):
                    r1, r2 = min(m1, o1 - at1), min(m2, o2 - at2)
                    l1, l2 = r1 + b1, r2 + b2
                    size, length = planes_each * l1 * l2 * l3, ((r1 - 1) * l2 + r2 - 1) * l3 + o3
                    pitch = up(length, wide)
                    # Where all is one block, zeros and offsets are the same for all images.
                    if not alone:
                        zeros(planes, 0, ci * size)
                    if not alone or i + g == 0:
                        window_offsets(side, p, ci, size, l1, l2, l3, offsets)
                    fill(xs, x + (i * groups + g) * ci * i1 * i2 * i3, ci, i1, i2, i3, i1, i2, i3,
                         at1 * s1 - p1, at2 * s2 - p2, -p3, s1, s2, s3, q1, q2, q3, l1, l2, l3, planes, 0, size)
                    multiply(packed, g * co * count, planes, offsets, 0, count, co, length, sums, pitch)
                    for c in range(co):
                        if begin >= 0:
                            first = read(ys, begin + g * co + c)
                            for j in range(c * pitch, c * pitch + length):
                                write(sums, j, first + read(sums, j))
                        for u1 in range(r1):
                            for u2 in range(r2):
                                to = y + ((((i * groups + g) * co + c) * o1 + at1 + u1) * o2 + at2 + u2) * o3
                                of = c * pitch + (u1 * l2 + u2) * l3
                                if begin == AS_IT_IS:
                                    for j in range(o3):
                                        write(ys, to + j, read(ys, to + j) + read(sums, of + j))
                                else:
                                    copy_row(ys, to, sums, of, o3)
    give_back(sums)
    give_back(offsets)
    give_back(planes)
    give_back(packed)


def order_of_taps(side, p, first, order):
    # The elements of a window by their plane: those of plane r are order[first[r]] to order[first[r + 1] - 1].
    _, k1, _, s1, _, d1 = axis(side, p, 0)
    _, k2, _, s2, _, d2 = axis(side, p, 1)
    _, k3, _, s3, _, d3 = axis(side, p, 2)
    q1, _ = reach(k1, s1, d1)
    q2, _ = reach(k2, s2, d2)
    q3, _ = reach(k3, s3, d3)
    at = 0
    for r1 in range(q1):
        for r2 in range(q2):
            for r3 in range(q3):
                first[(r1 * q2 + r2) * q3 + r3] = at
                for j1 in range(k1):
                    for j2 in range(k2):
                        for j3 in range(k3):
                            if j1 * d1 % s1 == r1 and j2 * d2 % s2 == r2 and j3 * d3 % s3 == r3:
                                order[at] = (j1 * k2 + j2) * k3 + j3
                                at += 1
    first[q1 * q2 * q3] = at


def input_added(side, p, ys, y, ws, w, xs, x):
    # The plane of remainder r of the padded input, at h, meets output h - (k * dilation) // stride.
    if is_empty(side, p):
        return
    n, groups, ci, co, taps = sizes(side, p)
    i1, k1, o1, s1, p1, d1 = axis(side, p, 0)
    i2, k2, o2, s2, p2, d2 = axis(side, p, 1)
    i3, k3, o3, s3, p3, d3 = axis(side, p, 2)
    q1, b1 = reach(k1, s1, d1)
    q2, b2 = reach(k2, s2, d2)
    q3, b3 = reach(k3, s3, d3)
    h1, h2, h3 = p1 // s1, p2 // s2, p3 // s3
    c1, c2, c3 = (i1 - 1 + p1) // s1 - h1 + 1, (i2 - 1 + p2) // s2 - h2 + 1, (i3 - 1 + p3) // s3 - h3 + 1
    l3, wide = c3 + b3, width(ci, xs)
    m1, m2 = block(c1, c2, b1, b2, (co + ci) * l3, CACHE // ys.itemsize)
    first, order = borrow_whole(q1 * q2 * q3 + 1), borrow_whole(taps)
    order_of_taps(side, p, first, order)
    packed = borrow(ws, groups * co * ci * taps)
    for g in range(groups):
        for r in range(q1 * q2 * q3):
            many = first[r + 1] - first[r]
            c = 0
            while c < ci:
                rows = rows_of(ci - c)
                at = (g * taps + first[r]) * co * ci + c * co * many
                for e in range(co):
                    for q in range(many):
                        for i in range(rows):
                            number = read(ws, w + ((g * co + e) * ci + c + i) * taps + order[first[r] + q])
                            write(packed, at + (e * many + q) * rows + i, number)
                c += rows
    longest = co * (m1 + b1) * (m2 + b2) * l3
    planes = borrow(ys, longest + wide)
    zeros(planes, 0, longest + wide)
    offsets, alone = borrow_whole(co * taps), m1 == c1 and m2 == c2
    sums = borrow(xs, ci * up(m1 * (m2 + b2) * l3, wide))
    for i in range(n):
        for g in range(groups):
            for at1 in range(0, c1, m1):
                for at2 in range(0, c2, m2):
                    r1, r2 = min(m1, c1 - at1), min(m2, c2 - at2)
                    l1, l2 = r1 + b1, r2 + b2
                    length = ((r1 - 1) * l2 + r2 - 1) * l3 + c3
                    pitch = up(length, wide)
                    if not alone:
                        zeros(planes, 0, co * l1 * l2 * l3)
                    fill(ys, y + (i * groups + g) * co * o1 * o2 * o3, co, o1, o2, o3, o1, o2, o3,
                         at1 + h1 - b1, at2 + h2 - b2, h3 - b3, 1, 1, 1, 1, 1, 1, l1, l2, l3, planes, 0, l1 * l2 * l3)
                    for r in range(q1 * q2 * q3):
                        many = first[r + 1] - first[r]
                        if many == 0:
                            continue
                        at = 0
                        for e in range(co):
                            for q in range(first[r], first[r + 1]):
                                j1, j2, j3 = order[q] // (k2 * k3), order[q] // k3 % k2, order[q] % k3
                                u1, u2, u3 = b1 - j1 * d1 // s1, b2 - j2 * d2 // s2, b3 - j3 * d3 // s3
                                offsets[at] = ((e * l1 + u1) * l2 + u2) * l3 + u3
                                at += 1
                        wo = (g * taps + first[r]) * co * ci
                        multiply(packed, wo, planes, offsets, 0, co * many, ci, length, sums, pitch)
                        # Where this plane of the input begins.
                        f1 = (at1 + h1) * s1 + r // (q2 * q3) - p1
                        f2 = (at2 + h2) * s2 + r // q3 % q2 - p2
                        f3 = h3 * s3 + r % q3 - p3
                        low, high = max(0, -(f3 // s3)), min(c3, (i3 - f3 + s3 - 1) // s3)
                        for c in range(ci):
                            for u1 in range(r1):
                                for u2 in range(r2):
                                    e1, e2 = f1 + u1 * s1, f2 + u2 * s2
                                    to = x + ((((i * groups + g) * ci + c) * i1 + e1) * i2 + e2) * i3 + f3
                                    of = c * pitch + (u1 * l2 + u2) * l3
                                    if e1 >= 0 and e1 < i1 and e2 >= 0 and e2 < i2:
                                        if s3 == 1:
                                            for j in range(low, high):
                                                write(xs, to + j, read(xs, to + j) + read(sums, of + j))
                                        else:
                                            for j in range(low, high):
                                                a = to + j * s3
                                                write(xs, a, read(xs, a) + read(sums, of + j))
    give_back(sums)
    give_back(offsets)
    give_back(planes)
    give_back(packed)
    give_back(order)
    give_back(first)


def kernel_added(side, p, xs, x, ys, y, ws, w):
    # The rows of y are as long as those of the planes of x, with zeros at their ends.
    if is_empty(side, p):
        return
    n, groups, ci, co, taps = sizes(side, p)
    i1, k1, o1, s1, p1, d1 = axis(side, p, 0)
    i2, k2, o2, s2, p2, d2 = axis(side, p, 1)
    i3, k3, o3, s3, p3, d3 = axis(side, p, 2)
    q1, b1 = reach(k1, s1, d1)
    q2, b2 = reach(k2, s2, d2)
    q3, b3 = reach(k3, s3, d3)
    l3, planes_each, one = o3 + b3, q1 * q2 * q3, lanes(ws)
    limit = CACHE // ws.itemsize
    m1, m2 = block(o1, o2, b1, b2, (ci * planes_each + co) * l3, limit)
    x_size, y_size = planes_each * (m1 + b1) * (m2 + b2) * l3, up(m1 * (m2 + b2) * l3, one)
    together = min(n, max(1, limit // (ci * x_size + co * y_size)))
    count = ci * taps
    planes, rows_of_y = borrow(xs, together * ci * x_size + one), borrow(ys, together * co * y_size)
    offsets, t, alone = borrow_whole(count), room(ws), m1 == o1 and m2 == o2
    # The last vector may reach beyond the planes. What it finds there meets zeros, and must be finite.
    zeros(planes, 0, together * ci * x_size + one)
    zeros(rows_of_y, 0, together * co * y_size)
    for g in range(groups):
        for i in range(0, n, together):
            images = min(together, n - i)
            for at1 in range(0, o1, m1):
                for at2 in range(0, o2, m2):
                    r1, r2 = min(m1, o1 - at1), min(m2, o2 - at2)
                    l1, l2 = r1 + b1, r2 + b2
                    size, length = planes_each * l1 * l2 * l3, ((r1 - 1) * l2 + r2 - 1) * l3 + o3
                    if not alone:
                        zeros(planes, 0, images * ci * size + one)
                        zeros(rows_of_y, 0, images * co * y_size)
                    for m in range(images):
                        image = (i + m) * groups + g
                        fill(xs, x + image * ci * i1 * i2 * i3, ci, i1, i2, i3, i1, i2, i3,
                             at1 * s1 - p1, at2 * s2 - p2, -p3, s1, s2, s3, q1, q2, q3, l1, l2, l3,
                             planes, m * ci * size, size)
                        fill(ys, y + image * co * o1 * o2 * o3, co, o1, o2, o3, at1 + r1, at2 + r2, o3,
                             at1, at2, 0, 1, 1, 1, 1, 1, 1, r1, l2, l3, rows_of_y, m * co * y_size, y_size)
                    if not alone or i + g == 0:
                        window_offsets(side, p, ci, size, l1, l2, l3, offsets)
                    many = (length + one - 1) // one
                    c = 0
                    while c < co:
                        rows = rows_of(co - c)
                        for q in range(0, count, VECTORS):
                            some = min(VECTORS, count - q)
                            products_of_rows(rows_of_y, c * y_size, y_size, planes, 0, offsets, q, many, images,
                                             co * y_size, ci * size, rows, some, t)
                            if not all_finite(t, rows * some):
                                exact_products(rows_of_y, c * y_size, y_size, planes, offsets, q, images, co * y_size,
                                               ci * size, r1, r2, o3, l2, l3, rows, some, t)
                            for a in range(rows):
                                for b in range(some):
                                    to = w + (g * co + c + a) * count + q + b
                                    write(ws, to, read(ws, to) + t[a * some + b])
                        c += rows
    give_back(offsets)
    give_back(rows_of_y)
    give_back(planes)


def all_finite(t, n):
    wrong = False
    for j in range(n):
        wrong |= not np.isfinite(read(t, j))
    return not wrong


def exact_products(rows_of_y, y, pitch, planes, offsets, q, images, y_step, x_step, r1, r2, o3, l2, l3, rows, some, t):
    # As `products_of_rows`, but for the numbers of windows alone, one by one. Zeros beside rows of y meet numbers of x
    # that are in no window, or of another channel, and where these are infinite or NaN they must not be seen.
    for a in range(rows):
        for b in range(some):
            total = 0.0
            for m in range(images):
                for u1 in range(r1):
                    for u2 in range(r2):
                        row = (u1 * l2 + u2) * l3
                        of_y, of_x = y + a * pitch + m * y_step + row, offsets[q + b] + m * x_step + row
                        for j in range(o3):
                            total += read(rows_of_y, of_y + j) * read(planes, of_x + j)
            write(t, a * some + b, total)


# Functions that are compiled once, each by itself, and called by address: as parts of all kernels that call them, they
# would be compiled with each of these. With the kinds of their arguments: the side array, whole numbers, arrays.
PARTS = (
    (planes_filled, "v" + 20 * "i" + "vii"),
    (output_added, "sivivivii"),
    (input_added, "sivivivi"),
    (kernel_added, "sivivivi"),
)
FILL, OUTPUT, INPUT, KERNEL = range(4)


def calls(*parts):
    """Mark a kernel with the parts that it calls."""

    def mark(function):
        function.__parts__ = (FILL, *parts)
        return function

    return mark


@compiled_in("tapegrad.sweeps.part_calls")
def add_output(side, p, xs, x, ws, w, ys, y, begin):
    output_added(side, p, xs, x, ws, w, ys, y, begin)


@compiled_in("tapegrad.sweeps.part_calls")
def add_input(side, p, ys, y, ws, w, xs, x):
    input_added(side, p, ys, y, ws, w, xs, x)


@compiled_in("tapegrad.sweeps.part_calls")
def add_kernel(side, p, xs, x, ys, y, ws, w):
    kernel_added(side, p, xs, x, ys, y, ws, w)
