"""What a step of an LSTM does beside its product of matrices, fused: gates, cell and output.

Operands are two parts of what goes into the gates, which are added, (rows, 4, n) each with the gates i, f, g and o, and
the cell before, (rows, n). The result is (7, rows, n): h, the new cell c, the four gates after their functions, and
tanh c. The latter five are there for the way back, which so computes no elementary function again.

Parameters in the record: rows, n.
"""

import numpy as np

from tapegrad.compiled import ROOM, read, room, write
from tapegrad.ops.arithmetic import chain
from tapegrad.ops.in_lanes import in_all_lanes
from tapegrad.ops.record import operand_at, params_at, result_at
from tapegrad.ops.spec import structured


def lstm_layout(side, k):
    p, x, y = params_at(side, k), operand_at(side, k, 0), operand_at(side, k, 1)
    return x, y, operand_at(side, k, 2), result_at(side, k), side[p], side[p + 1]


def added_up(v, x, y, out, rows, n):
    # The gates, which lie beside each other in each row of x and y, gate by gate.
    for i in range(rows):
        for gate in range(4):
            a, o = (4 * i + gate) * n, out + (gate * rows + i) * n
            for j in range(n):
                write(v, o + j, read(v, x + a + j) + read(v, y + a + j))


def put_logistic(v, start, n):
    # The exponential of a large number is infinite, and one divided by it is zero, as it should be.
    one = v.dtype.type(1.0)
    for i in range(start, start + n):
        write(v, i, one / (one + np.exp(-read(v, i))))


def put_tanh(v, start, n):
    for i in range(start, start + n):
        write(v, i, np.tanh(read(v, i)))


def lstm_forward(side, k, v):
    x, y, before, out, rows, n = lstm_layout(side, k)
    m = rows * n
    added_up(v, x, y, out + 2 * m, rows, n)
    put_logistic(v, out + 2 * m, 2 * m)
    put_tanh(v, out + 4 * m, m)
    put_logistic(v, out + 5 * m, m)
    for j in range(out, out + m):
        kept = read(v, j + 3 * m) * read(v, before + j - out)
        write(v, j + m, kept + read(v, j + 2 * m) * read(v, j + 4 * m))
    # A loop from one array to another would be asked whether they overlap, and be slow where they are one.
    for j in range(out, out + m):
        write(v, j + 6 * m, read(v, j + m))
    put_tanh(v, out + 6 * m, m)
    for j in range(out, out + m):
        write(v, j, read(v, j + 5 * m) * read(v, j + 6 * m))
    return True


def lstm_reverse(side, k, v, g):
    # A stretch of a row at a time: what is passed on is put beside first, in room that nothing else shares, so that
    # these loops become vectors. A zero adjoint is passed on to nobody, whatever the partial derivative.
    x, y, before, out, rows, n = lstm_layout(side, k)
    m = rows * n
    di, df, du, do, dc = room(v), room(v), room(v), room(v), room(v)
    one, zero = v.dtype.type(1.0), v.dtype.type(0.0)
    for row in range(rows):
        for at in range(0, n, ROOM):
            some = min(ROOM, n - at)
            p, q = out + row * n + at, before + row * n + at
            for j in range(some):
                i, f, u = read(v, p + 2 * m + j), read(v, p + 3 * m + j), read(v, p + 4 * m + j)
                o, t, dh = read(v, p + 5 * m + j), read(v, p + 6 * m + j), read(g, p + j)
                a = read(g, p + 5 * m + j) + (dh * t if dh != zero else zero)
                write(do, j, a * (o * (one - o)) if a != zero else zero)
                a = read(g, p + 6 * m + j) + (dh * o if dh != zero else zero)
                c = read(g, p + m + j) + (a * (one - t * t) if a != zero else zero)
                a = read(g, p + 2 * m + j) + (c * u if c != zero else zero)
                write(di, j, a * (i * (one - i)) if a != zero else zero)
                a = read(g, p + 3 * m + j) + (c * read(v, q + j) if c != zero else zero)
                write(df, j, a * (f * (one - f)) if a != zero else zero)
                a = read(g, p + 4 * m + j) + (c * i if c != zero else zero)
                write(du, j, a * (one - u * u) if a != zero else zero)
                write(dc, j, c * f if c != zero else zero)
            a = 4 * row * n + at
            add_gates(g, x + a, n, some, di, df, du, do)
            add_gates(g, y + a, n, some, di, df, du, do)
            add_to(g, q, some, dc)


def add_gates(g, start, n, some, di, df, du, do):
    add_to(g, start, some, di)
    add_to(g, start + n, some, df)
    add_to(g, start + 2 * n, some, du)
    add_to(g, start + 3 * n, some, do)


def add_to(g, start, some, d):
    for j in range(some):
        write(g, start + j, read(g, start + j) + read(d, j))


def lstm_tangent(side, k, v, t):
    x, y, before, out, rows, n = lstm_layout(side, k)
    m = rows * n
    one = v.dtype.type(1.0)
    added_up(t, x, y, out + 2 * m, rows, n)
    for j in range(m):
        p = out + j
        i, f, u, o, c = v[p + 2 * m], v[p + 3 * m], v[p + 4 * m], v[p + 5 * m], v[p + 6 * m]
        t[p + 2 * m] *= i * (one - i)
        t[p + 3 * m] *= f * (one - f)
        t[p + 4 * m] *= one - u * u
        t[p + 5 * m] *= o * (one - o)
        t[p + m] = t[p + 3 * m] * v[before + j] + f * t[before + j] + t[p + 2 * m] * u + i * t[p + 4 * m]
        t[p + 6 * m] = t[p + m] * (one - c * c)
        t[p] = t[p + 5 * m] * c + o * t[p + 6 * m]


def lstm_pullback(p, z, gz, x, y, before):
    i, f, u, o, c = z[2], z[3], z[4], z[5], z[6]
    dc = gz[1] + chain(chain(gz[0], o) + gz[6], 1.0 - c * c)
    gates = np.stack([
        chain(chain(dc, u) + gz[2], i * (1.0 - i)),
        chain(chain(dc, before) + gz[3], f * (1.0 - f)),
        chain(chain(dc, i) + gz[4], 1.0 - u * u),
        chain(chain(gz[0], c) + gz[5], o * (1.0 - o)),
    ], 1)  # fmt: skip
    return gates, gates, chain(dc, f)


def lstm_pushforward(p, z, operands, tangents):
    before, (tx, ty, told) = operands[2], tangents
    i, f, u, o, c = z[2], z[3], z[4], z[5], z[6]
    given = [t for t in (tx, ty) if t is not None]
    nothing = np.zeros((p[0], p[1]), z.dtype)
    t = [sum(x[:, gate] for x in given) if given else nothing for gate in range(4)]
    ti, tf, tu, to = t[0] * (i * (1.0 - i)), t[1] * (f * (1.0 - f)), t[2] * (1.0 - u * u), t[3] * (o * (1.0 - o))
    tc = tf * before + ti * u + i * tu + (0.0 if told is None else f * told)
    tt = tc * (1.0 - c * c)
    return np.stack([to * c + o * tt, tc, ti, tf, tu, to, tt])


def lstm_in_lanes(p, lanes, x, y, before):
    # Numbers of a row and lanes are one axis.
    rows, n = p
    wide = [in_all_lanes(z, axes, lanes) for z, axes in ((x, 3), (y, 3), (before, 2))]
    return lstm_gates(*wide, params=[rows, n * lanes]).reshape(7, rows, n, lanes)


def lstm_links(p, x, y, before):
    # All that is computed for a number of a row depends on its four gates and its cell.
    rows, n = p
    k, gate, row, j = np.indices((7, 4, rows, n), sparse=True)
    result = np.broadcast_to((k * rows + row) * n + j, (7, 4, rows, n))
    gates = np.broadcast_to((row * 4 + gate) * n + j, (7, 4, rows, n))
    cells = np.broadcast_to(row * n + j, (7, 1, rows, n))
    pair = result.reshape(-1), gates.reshape(-1)
    return [pair, pair, (result[:, :1].reshape(-1), cells.reshape(-1))]


lstm_gates = structured("lstm_gates", "z = h, c, and the gates of an LSTM", arity=3,
    accepts=lambda p: len(p) == 2 and min(p) >= 0,
    forward=lstm_forward, reverse=lstm_reverse, tangent=lstm_tangent,
    views=lambda p: ([((p[0], 4, p[1]), None), ((p[0], 4, p[1]), None), ((p[0], p[1]), None)], (7, p[0], p[1])),
    depends=lstm_links, pullback=lstm_pullback, pushforward=lstm_pushforward, batched=lstm_in_lanes,
    reads=((False, False, True), True), note=lambda p: f"{p[0]:,} {'row' if p[0] == 1 else 'rows'} of {p[1]}")
