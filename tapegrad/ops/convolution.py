"""Convolutions: three operations that are each other's derivatives, and one with a bias.

All operands and results are dense: x (n, groups, ci, i1, i2, i3), w (groups, co, ci, k1, k2, k3) and
y (n, groups, co, o1, o2, o3). Parameters in the record: n, groups, ci, co, then for each of three axes the lengths of
x, w and y, strides, paddings and dilations: i1, i2, i3, k1, ... The kernels stand in `windows`, which
says what is summed.
"""

import math

import numpy as np

from tapegrad.compiled import read, room, write
from tapegrad.ops.planes import LENGTH, axis, reach, zeros
from tapegrad.ops.record import operand_at, params_at, params_of_two, result_at, result_size, wants_flag
from tapegrad.ops.spec import BY_NAME, structured
from tapegrad.ops.windows import (
    AS_IT_IS,
    AS_ZERO,
    INPUT,
    KERNEL,
    OUTPUT,
    add_input,
    add_kernel,
    add_output,
    begun,
    calls,
)

# The largest memory for planes that parameters from a file may ask for, in numbers.
MOST = 1 << 24
# And how much they may ask for to be computed: no more than large networks take.
LONGEST = 1 << 42


def cleared(side, k, d):
    # The place of the result, whose numbers are made zero.
    zeros(d, result_at(side, k), result_size(side, k))
    return result_at(side, k)


@calls(OUTPUT)
def output_forward(side, k, v):
    p, x, w, y = params_of_two(k), operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
    add_output(side, p, v, x, v, w, v, y, AS_ZERO)
    return True


@calls(INPUT, KERNEL)
def output_reverse(side, k, flags, v, g):
    p, x, w, y = params_of_two(k), operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
    if flags[wants_flag(k, 0)]:
        add_input(side, p, g, y, v, w, g, x)
    if flags[wants_flag(k, 1)]:
        add_kernel(side, p, v, x, g, y, g, w)


@calls(OUTPUT)
def output_tangent(side, k, flags, v, t):
    tangent(side, k, flags, v, t, params_of_two(k), AS_ZERO)


def tangent(side, k, flags, v, t, p, begin):
    x, w, y = operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
    if not (flags[wants_flag(k, 0)] or flags[wants_flag(k, 1)]):
        begun(side, p, t, y, begin)
    if flags[wants_flag(k, 0)]:
        add_output(side, p, t, x, v, w, t, y, begin)
    if flags[wants_flag(k, 1)]:
        add_output(side, p, v, x, t, w, t, y, AS_IT_IS if flags[wants_flag(k, 0)] else begin)


@calls(INPUT)
def input_forward(side, k, v):
    add_input(side, params_of_two(k), v, operand_at(side, k, 0), v, operand_at(side, k, 1), v, cleared(side, k, v))
    return True


@calls(OUTPUT, KERNEL)
def input_reverse(side, k, flags, v, g):
    p, y, w, x = params_of_two(k), operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
    if flags[wants_flag(k, 0)]:
        add_output(side, p, g, x, v, w, g, y, AS_IT_IS)
    if flags[wants_flag(k, 1)]:
        add_kernel(side, p, g, x, v, y, g, w)


@calls(INPUT)
def input_tangent(side, k, flags, v, t):
    p, y, w, x = params_of_two(k), operand_at(side, k, 0), operand_at(side, k, 1), cleared(side, k, t)
    if flags[wants_flag(k, 0)]:
        add_input(side, p, t, y, v, w, t, x)
    if flags[wants_flag(k, 1)]:
        add_input(side, p, v, y, t, w, t, x)


@calls(KERNEL)
def kernel_forward(side, k, v):
    add_kernel(side, params_of_two(k), v, operand_at(side, k, 0), v, operand_at(side, k, 1), v, cleared(side, k, v))
    return True


@calls(INPUT, OUTPUT)
def kernel_reverse(side, k, flags, v, g):
    p, x, y, w = params_of_two(k), operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
    if flags[wants_flag(k, 0)]:
        add_input(side, p, v, y, g, w, g, x)
    if flags[wants_flag(k, 1)]:
        add_output(side, p, v, x, g, w, g, y, AS_IT_IS)


@calls(KERNEL)
def kernel_tangent(side, k, flags, v, t):
    p, x, y, w = params_of_two(k), operand_at(side, k, 0), operand_at(side, k, 1), cleared(side, k, t)
    if flags[wants_flag(k, 0)]:
        add_kernel(side, p, t, x, v, y, t, w)
    if flags[wants_flag(k, 1)]:
        add_kernel(side, p, v, x, t, y, t, w)


# With a bias for each channel of the output.


def channels(side, k):
    # Where the bias stands, how many images and channels there are, and how many numbers a channel has.
    p = params_at(side, k)
    return operand_at(side, k, 2), side[p], side[p + 1] * side[p + 3], side[p + 10] * side[p + 11] * side[p + 12]


@calls(OUTPUT)
def biased_forward(side, k, v):
    p, x, w, y = params_at(side, k), operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
    add_output(side, p, v, x, v, w, v, y, operand_at(side, k, 2))
    return True


# The adjoints of a channel of an image are added up by so many sums beside each other.
SUMS = 16


@calls(INPUT, KERNEL)
def biased_reverse(side, k, flags, v, g):
    p, x, w, y = params_at(side, k), operand_at(side, k, 0), operand_at(side, k, 1), result_at(side, k)
    if flags[wants_flag(k, 0)]:
        add_input(side, p, g, y, v, w, g, x)
    if flags[wants_flag(k, 1)]:
        add_kernel(side, p, v, x, g, y, g, w)
    if flags[wants_flag(k, 2)]:
        b, n, count, size = channels(side, k)
        sums, whole = room(g), size // SUMS * SUMS
        for c in range(count):
            total = np.float64(0.0)
            for i in range(n):
                row = y + (i * count + c) * size
                zeros(sums, 0, SUMS)
                for j in range(0, whole, SUMS):
                    for m in range(SUMS):
                        write(sums, m, read(sums, m) + read(g, row + j + m))
                for j in range(whole, size):
                    write(sums, j - whole, read(sums, j - whole) + read(g, row + j))
                for m in range(SUMS):
                    total += read(sums, m)
            g[b + c] += total


@calls(OUTPUT)
def biased_tangent(side, k, flags, v, t):
    tangent(side, k, flags, v, t, params_at(side, k), operand_at(side, k, 2) if flags[wants_flag(k, 2)] else AS_ZERO)


# The rules. Roles of operands and results are named x, w and y, the operation by what it makes: `made("y")`.

MADE = {"y": "convolution", "x": "convolution_input", "w": "convolution_kernel"}
# The axes of each role before those of space, by the position of their lengths in the parameters: n, groups, ci, co.
AXES = {"x": (0, 1, 2), "w": (1, 3, 2), "y": (0, 1, 3)}
# Where its lengths along the axes of space begin there.
SPACE = {"x": 4, "w": 7, "y": 10}


def shape_of(p, role):
    return (*(p[a] for a in AXES[role]), *p[SPACE[role] : SPACE[role] + 3])


def dense(shape):
    return [math.prod(shape[d + 1 :]) for d in range(len(shape))]


def views_of(roles, made):
    def views(p):
        return [(shape, dense(shape)) for shape in (shape_of(p, role) for role in roles)], shape_of(p, made)

    return views


def product(p, made, **given):
    # The sum over everything, but for the axes of what is made. Which of x, w and y are given is said by name.
    return BY_NAME[MADE[made]](*(given[role] for role in "xyw" if role in given), params=list(p))


def rules(roles, made):
    a, b = roles

    def pullback(p, z, gz, x, y):
        return product(p, a, **{made: gz, b: y}), product(p, b, **{made: gz, a: x})

    def pushforward(p, z, operands, tangents):
        (x, y), (tx, ty) = operands, tangents
        terms = [] if tx is None else [product(p, made, **{a: tx, b: y})]
        return sum(terms if ty is None else [*terms, product(p, made, **{a: x, b: ty})])

    def batched(p, lanes, x, y):
        # Lanes join an axis that all arrays have which differ from lane to lane, and no other: with two of the three,
        # images, or channels of the input or the output; with all three, groups.
        own = [role for role, value in zip(roles, (x, y)) if value.ndim == 7]
        (axis,) = (1,) if len(own) == 2 else set(AXES[own[0]]) & set(AXES[made]) - {1}
        wide = [n * lanes if j == axis else n for j, n in enumerate(p)]
        given = {
            role: joined(value, AXES[role].index(axis)) if role in own else value
            for role, value in zip(roles, (x, y))
        }
        place = AXES[made].index(axis)
        shape = shape_of(p, made)
        result = product(wide, made, **given).reshape(*shape[:place], lanes, *shape[place:])
        return np.moveaxis(result, place, -1)

    def depends(p, *numbers):
        found = terms(p)
        return [(found[made], found[role]) for role in roles]

    return {
        "views": views_of(roles, made), "pullback": pullback, "pushforward": pushforward, "batched": batched,
        "depends": depends, "accepts": accepts, "note": note, "products": products, "reads": ((True, True), False),
    }  # fmt: skip


def joined(value, place):
    # An operand with lanes as its last axis, which become a part of another axis.
    moved = np.moveaxis(value, -1, place)
    return moved.reshape(*moved.shape[:place], moved.shape[place] * moved.shape[place + 1], *moved.shape[place + 2 :])


def terms(p):
    # For each product that is added up, the numbers of the elements of x, w and y.
    n, groups, ci, co = p[:4]
    lengths = n, groups, ci, co, *p[7:10], *p[10:13]
    image, group, a, b, *places = np.indices(lengths, sparse=True)
    at = [places[3 + d] * p[13 + d] + places[d] * p[19 + d] - p[16 + d] for d in range(3)]
    inside = np.ones(lengths, bool)
    for d in range(3):
        inside &= (at[d] >= 0) & (at[d] < p[4 + d])
    index = {"x": (image, group, a, *at), "w": (group, b, a, *places[:3]), "y": (image, group, b, *places[3:])}
    found = {}
    for role, axes in index.items():
        flat = sum(i * step for i, step in zip(axes, dense(shape_of(p, role))))
        found[role] = np.broadcast_to(flat, lengths)[inside]
    return found


def accepts(p):
    if len(p) != LENGTH or min(p) < 0 or min(p[7:10]) < 1 or min(p[13:16]) < 1 or min(p[19:22]) < 1:
        return False
    if max(p) > MOST:
        return False
    # Planes of a few rows are the least that is computed at a time.
    count, few, all_rows = 1, 1, 1
    for d in range(3):
        i, k, o, s, pad, dilation = axis(p, 0, d)
        if (o - 1) * s + (k - 1) * dilation > i + 2 * pad:
            return False
        planes, offset = reach(k, s, dilation)
        longest = max(o, (i - 1 + pad) // s - pad // s + 1) + offset
        count, few, all_rows = count * planes, few * (longest if d == 2 else 4 + offset), all_rows * longest
    own = p[2] * count + p[3]
    return own * few <= MOST and p[0] * p[1] * own * all_rows <= LONGEST and products(p) <= LONGEST


def products(p):
    return math.prod(p[:4]) * math.prod(p[7:13])


def note(p):
    def spatial(role):
        lengths = p[SPACE[role] : SPACE[role] + 3]
        return ",".join(map(str, lengths[next((d for d in range(3) if p[4 + d] > 1 or p[7 + d] > 1), 2) :]))

    groups = f" in {p[1]} groups" if p[1] != 1 else ""
    return f"{p[0]} of ({p[1] * p[2]},{spatial('x')}) by ({p[1] * p[3]},{p[2]},{spatial('w')}){groups}"


# The rules of the convolution, of which those of the one with a bias are made.
OWN = rules("xw", "y")

convolution = structured("convolution", "z = y, y_ncp = sum_dk x_nd,(p+k) w_cdk", arity=2,
    forward=output_forward, reverse=output_reverse, tangent=output_tangent, **OWN)

convolution_input = structured("convolution_input", "z = x, x_ndq = sum_ckp y_ncp w_cdk, p + k = q", arity=2,
    forward=input_forward, reverse=input_reverse, tangent=input_tangent, **rules("yw", "x"))

convolution_kernel = structured("convolution_kernel", "z = w, w_cdk = sum_np x_nd,(p+k) y_ncp", arity=2,
    forward=kernel_forward, reverse=kernel_reverse, tangent=kernel_tangent, **rules("xy", "w"))


def biased_views(p):
    operands, shape = OWN["views"](p)
    return [*operands, ((p[1] * p[3],), (1,))], shape


def biased_depends(p, *numbers):
    size = math.prod(shape_of(p, "y"))
    outputs = np.arange(size)
    return [*OWN["depends"](p), (outputs, outputs // math.prod(p[10:13]) % (p[1] * p[3]))]


def biased_pullback(p, z, gz, x, w, b):
    return *OWN["pullback"](p, z, gz, x, w), np.sum(gz, (0, 3, 4, 5)).reshape(-1)


def along_channels(p, b):
    # One number a channel, shown to each of the output.
    return np.broadcast_to(b.reshape(1, p[1], p[3], 1, 1, 1, *b.shape[1:]), (*shape_of(p, "y"), *b.shape[1:]))


def biased_pushforward(p, z, operands, tangents):
    *own, tb = tangents
    if own[0] is None and own[1] is None:
        return along_channels(p, tb)
    moved = OWN["pushforward"](p, z, operands[:2], own)
    return moved if tb is None else moved + along_channels(p, tb)


def biased_in_lanes(p, lanes, x, w, b):
    if x.ndim == w.ndim == 6:
        sums = product(p, "y", x=x, w=w)[..., None]
    else:
        sums = OWN["batched"](p, lanes, x, w)
    return sums + along_channels(p, b if b.ndim == 2 else b[:, None])


biased_convolution = structured("biased_convolution", "z_ncp = b_c + sum_dk x_nd,(p+k) w_cdk", arity=3,
    forward=biased_forward, reverse=biased_reverse, tangent=biased_tangent, views=biased_views,
    pullback=biased_pullback, pushforward=biased_pushforward, batched=biased_in_lanes, depends=biased_depends,
    accepts=accepts, note=note, products=products, reads=((True, True, False), False))
