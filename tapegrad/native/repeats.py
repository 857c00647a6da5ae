"""Compiled search for stretches of a program that repeat.

Item i *continues* period p if items i - 2p, i - p and i have equal keys, and their places advance by the same amount
from the first to the second as from the second to the third, in every column. A repeat of c rounds of p items is a
stretch in which all items from the third round on continue p. So nothing need be known of the first round, a repeat can
be extended from any item inside it in both directions, and what does not fit at either end stays outside.

Where to look, and with what period, is guessed from windows of items that look the same; see `find`. Guesses may be
bad: what is found is right all the same, since every item of it has been compared.
"""

import numpy as np

from tapegrad.compiled import compiled

# Odd numbers by which hashes are multiplied.
_ITEM, _COLUMN, _WINDOW = 0x2545F4914F6CDD1D, 0x1B8735939E3779B9, 0x5851F42D4C957F2D

# How an item looks: its key alone; or also how far away its operands are if they are near, since values that a round
# hands to itself, or to the next, stay at that distance; or also where the others stand, since many are the same in
# every round.
KEYS, NEAR, ALL = range(3)
# Places up to this distance from the result are near.
_REACH = 256

# Windows have 4 items, or 16, 64, and so on.
_SHORTEST, _GROWTH = 4, 4
# A window may look like many before it: so many are tried as the one that stands a period earlier, the last first.
_TRIES = 4
# Periods are at most so many windows long: for longer ones, there are longer windows.
_WINDOWS = 64
# How many periods that came to nothing are remembered.
_FAILURES = 64
# For each item so many comparisons may come to nothing, before the search goes on with shorter windows.
_PATIENCE = 16


def continues(keys, places, i, p):
    if keys[i] != keys[i - p] or keys[i] != keys[i - 2 * p]:
        return False
    for c in range(places.shape[1]):
        if places[i, c] - places[i - p, c] != places[i - p, c] - places[i - 2 * p, c]:
            return False
    return True


def look(keys, places, kind, i):
    # A number that items which look the same have in common.
    h = keys[i] * _ITEM
    if kind != KEYS:
        for c in range(1, places.shape[1]):
            distance = places[i, 0] - places[i, c]
            h = (h ^ (h >> 31)) * _COLUMN
            if 0 < distance and distance <= _REACH:
                h += distance
            elif kind == ALL:
                h -= places[i, c]
    return (h ^ (h >> 29)) * _ITEM


@compiled(
    keys="int64[:]", places="int64[:, :]", stretches="int64[:, :]", least="int64", found="int64[:, :]"
)  # fmt: skip
def find(keys, places, stretches, least, found):
    """Find repeats in stretches of items, given by their first item and the item after their last, in ascending order.

    Writes the first item, the period and the count of each to `found`, and returns how many there are. They do not
    overlap, have three rounds or more, and save `least` items or more.

    If the window of items that begins at item q looks like that at an earlier item a, the period may be q - a. Long
    windows come first, since short ones find the innermost loops, whose rounds look alike: a window that is longer than
    an inner loop looks like that of the next outer round only. Whatever is found is left out from then on, but for its
    first round, which the caller searches next.
    """
    n, longest, room = keys.shape[0], np.int64(0), found.shape[0] + stretches.shape[0]
    free, rest, amount = np.empty((room, 2), np.int64), np.empty((room, 2), np.int64), stretches.shape[0]
    for t in range(amount):
        free[t, 0], free[t, 1] = stretches[t, 0], stretches[t, 1]
        longest = max(longest, free[t, 1] - free[t, 0])
    looks = np.empty((3, n), np.int64)
    for t in range(amount):
        for kind in range(3):
            for i in range(free[t, 0], free[t, 1]):
                looks[kind, i] = look(keys, places, kind, i)
    length = np.int64(_SHORTEST)
    while length * _GROWTH * 2 <= longest:
        length *= _GROWTH
    # The beginnings of earlier windows, one of every `step`, by their hashes: the last of each slot of a table, and for
    # each the one before it in the same slot.
    slots = np.int64(64)
    while slots < 65536 and slots < n:
        slots *= 2
    last, before, hashes = np.empty(slots, np.int64), np.empty(n, np.int64), np.empty(n, np.int64)
    failed, until = np.empty(_FAILURES, np.int64), np.empty(_FAILURES, np.int64)
    made = 0
    while length >= _SHORTEST:
        step, leaving = length // 4, np.int64(1)
        for _ in range(length):
            leaving *= _WINDOW
        for kind in (ALL, NEAR, KEYS):
            last[:] = -1
            failed[:] = 0
            pieces, wasted = 0, 0
            for t in range(amount):
                low, high = free[t, 0], free[t, 1]
                q, fresh, h = low, True, np.int64(0)
                while q + length <= high and wasted <= _PATIENCE * n:
                    if fresh:
                        h = np.int64(0)
                        for i in range(q, q + length):
                            h = h * _WINDOW + looks[kind, i]
                        fresh = False
                    slot = (h >> 32) & (slots - 1)
                    a, tries, period, x, y = last[slot], 0, np.int64(0), q, q
                    while a >= low and tries < _TRIES:
                        p = q - a
                        if hashes[a // step] == h and p <= _WINDOWS * length and q - 2 * p >= low:
                            f = p & (_FAILURES - 1)
                            if not (failed[f] == p and q < until[f]) and continues(keys, places, q, p):
                                x, y = q, q + 1
                                while y < high and continues(keys, places, y, p):
                                    y += 1
                                while x - 1 - 2 * p >= low and continues(keys, places, x - 1, p):
                                    x -= 1
                                if y - x >= max(p, length) and ((y - x) // p + 1) * p >= least:
                                    period = p
                                    break
                                wasted += y - x
                                failed[f], until[f] = p, y
                        a, tries = before[a // step], tries + 1
                    if period > 0:
                        start, count = x - 2 * period, (y - x) // period + 2
                        found[made, 0], found[made, 1], found[made, 2] = start, period, count
                        made += 1
                        if start > low:
                            rest[pieces, 0], rest[pieces, 1] = low, start
                            pieces += 1
                        low = start + count * period
                        q, fresh = low, True
                    else:
                        if q % step == 0:
                            before[q // step], hashes[q // step], last[slot] = last[slot], h, q
                        if q + length < high:
                            h = h * _WINDOW - looks[kind, q] * leaving + looks[kind, q + length]
                        q += 1
                if high > low:
                    rest[pieces, 0], rest[pieces, 1] = low, high
                    pieces += 1
            free, rest, amount = rest, free, pieces
        length //= _GROWTH
    return made


def alike(keys, places, i, p, j, q):
    # Whether items i and j have equal keys, and their places advance alike to the items p and q later.
    if keys[i] != keys[j]:
        return False
    for c in range(places.shape[1]):
        if places[i + p, c] - places[i, c] != places[j + q, c] - places[j, c]:
            return False
    return True


@compiled(keys="int64[:]", places="int64[:, :]", repeats="int64[:, :]", names="int64[:]")
def tell_apart(keys, places, repeats, names):
    """Name the items of the first rounds of repeats, one round after the other.

    Two items have equal names if they have equal keys and advance alike, in every column, to the next round.
    """
    slots = np.int64(64)
    while slots < 2 * names.shape[0]:
        slots *= 2
    # For each name the first item that has it, and the period of the repeat that this item stands in.
    table, item, period = np.full(slots, -1, np.int64), np.empty_like(names), np.empty_like(names)
    known, at = 0, 0
    for t in range(repeats.shape[0]):
        p = repeats[t, 1]
        for i in range(repeats[t, 0], repeats[t, 0] + p):
            h = keys[i] * _ITEM
            for c in range(places.shape[1]):
                h = ((h ^ (h >> 31)) + places[i + p, c] - places[i, c]) * _COLUMN
            slot = (h >> 32) & (slots - 1)
            while table[slot] >= 0 and not alike(keys, places, i, p, item[table[slot]], period[table[slot]]):
                slot = (slot + 1) & (slots - 1)
            if table[slot] < 0:
                table[slot], item[known], period[known] = known, i, p
                known += 1
            names[at] = table[slot]
            at += 1
