"""Planes: how the numbers that a convolution reads are laid out, and products of them with weights; see `windows`."""

from tapegrad.compiled import compiled_in, read, write
from tapegrad.compiled.tiles import BITS, ROWS, VECTORS, VECTORS_OF_ONE, copy_row, weighted_rows

# The parameters: n, groups, ci, co, then for each of three axes the lengths of x, w and y, stride, padding, dilation.
LENGTH = 22
# Planes of so many bytes stay in the second-level cache while they are gone through.
CACHE = 1 << 19


def lanes(v):
    # How many numbers of an array a register holds.
    return BITS // (8 * v.itemsize)


def sizes(side, p):
    # n, groups, ci, co, and the number of elements of a window.
    return side[p], side[p + 1], side[p + 2], side[p + 3], side[p + 7] * side[p + 8] * side[p + 9]


def axis(side, p, d):
    # The lengths of x, w and y along an axis, stride, padding and dilation.
    return side[p + 4 + d], side[p + 7 + d], side[p + 10 + d], side[p + 13 + d], side[p + 16 + d], side[p + 19 + d]


def reach(k, s, dilation):
    # How many planes there are along an axis, and the largest offset.
    return min(s, (k - 1) * dilation + 1), (k - 1) * dilation // s


def is_empty(side, p):
    product = 1
    for j in range(13):
        product *= min(side[p + j], 1)
    return product == 0


def block(o1, o2, b1, b2, each, limit):
    # How many rows along the first two axes are computed at a time, such that the planes for them, and the sums, are no
    # longer than the limit: `each` numbers for each of the (rows + offset) along both.
    r1, r2 = o1, o2
    if (o1 + b1) * (o2 + b2) * each > limit:
        r1 = min(o1, max(1, limit // ((o2 + b2) * each) - b1))
        if r1 == 1 and (1 + b1) * (o2 + b2) * each > limit:
            r2 = min(o2, max(4, limit // ((1 + b1) * each) - b2))
    return r1, r2


def rows_of(left):
    # How many rows of a tile are computed at once, where there are so many left.
    rows = ROWS
    while rows > left:
        rows //= 2
    return rows


def up(n, to):
    return (n + to - 1) // to * to


def zeros(v, a, n):
    for j in range(a, a + n):
        write(v, j, 0.0)


def planes_filled(
    v, a, channels, e1, e2, e3, n1, n2, n3, f1, f2, f3, s1, s2, s3, q1, q2, q3, l1, l2, l3, to, at, size
):  # fmt: skip
    # Copy channels of lengths e1, e2, e3 to planes of lengths l1, l2, l3, of which there are q1 q2 q3 for a channel:
    # what stands at u in the plane of remainder r is the number at u * s + r + f. Where that is negative or not below n
    # there are to be zeros, which stand there already: they are the same for all images and channels, so whoever calls
    # this has put them there once.
    for c in range(channels):
        for r1 in range(q1):
            low1, high1 = inside(l1, n1, r1 + f1, s1)
            for r2 in range(q2):
                low2, high2 = inside(l2, n2, r2 + f2, s2)
                for r3 in range(q3):
                    low, high = inside(l3, n3, r3 + f3, s3)
                    plane = at + c * size + ((r1 * q2 + r2) * q3 + r3) * l1 * l2 * l3
                    for u1 in range(low1, high1):
                        for u2 in range(low2, high2):
                            o = plane + (u1 * l2 + u2) * l3
                            row = a + ((c * e1 + u1 * s1 + r1 + f1) * e2 + u2 * s2 + r2 + f2) * e3 + r3 + f3
                            if s3 == 1:
                                copy_row(to, o + low, v, row + low, high - low)
                            elif s3 == 2:
                                for j in range(low, high):
                                    write(to, o + j, read(v, row + 2 * j))
                            else:
                                for j in range(low, high):
                                    write(to, o + j, read(v, row + j * s3))


def inside(length, n, first, s):
    # Which of the positions u below `length` have u * s + first from 0 up to n - 1: from one, and up to before another.
    low = min(length, max(0, -(first // s)))
    return low, max(low, min(length, (n - first + s - 1) // s))


def width(channels, v):
    # How many numbers a tile is wide, where so many channels are computed.
    return (VECTORS_OF_ONE if channels == 1 else VECTORS) * lanes(v)


def multiply(w, wo, planes, offsets, at, count, channels, length, sums, pitch):
    # For each channel a row of `length` sums.
    wide = width(channels, planes)
    for start in range(0, length, wide):
        vectors = min(wide, length - start + lanes(planes) - 1) // lanes(planes)
        c = 0
        while c < channels:
            rows = rows_of(channels - c)
            weighted_rows(
                w, wo + c * count, planes, start, offsets, at, count, rows, vectors, sums, c * pitch + start, pitch
            )
            c += rows


def window_offsets(side, p, channels, size, l1, l2, l3, offsets):
    # Where in the planes of x each channel's window begins, for each of its elements.
    _, k1, _, s1, _, d1 = axis(side, p, 0)
    _, k2, _, s2, _, d2 = axis(side, p, 1)
    _, k3, _, s3, _, d3 = axis(side, p, 2)
    q2, q3 = min(s2, (k2 - 1) * d2 + 1), min(s3, (k3 - 1) * d3 + 1)
    at = 0
    for c in range(channels):
        for j1 in range(k1):
            for j2 in range(k2):
                for j3 in range(k3):
                    t1, t2, t3 = j1 * d1, j2 * d2, j3 * d3
                    plane = (t1 % s1 * q2 + t2 % s2) * q3 + t3 % s3
                    offsets[at] = c * size + ((plane * l1 + t1 // s1) * l2 + t2 // s2) * l3 + t3 // s3
                    at += 1


@compiled_in("tapegrad.sweeps.part_calls")
def fill(v, a, channels, e1, e2, e3, n1, n2, n3, f1, f2, f3, s1, s2, s3, q1, q2, q3, l1, l2, l3, to, at, size):
    planes_filled(v, a, channels, e1, e2, e3, n1, n2, n3, f1, f2, f3, s1, s2, s3, q1, q2, q3, l1, l2, l3, to, at, size)
