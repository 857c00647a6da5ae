"""Compiled search for stretches of a program that repeat.

Item i *continues* period p if items i - 2p, i - p and i have equal keys, and their places advance by the same amount
from the first to the second as from the second to the third, in every column. A repeat of c rounds of p items is a
stretch in which all items from the third round on continue p. So nothing need be known of the first round, a repeat can
be extended from any item inside it in both directions, and what does not fit at either end stays outside.

Where to look, and with what period, is guessed from windows of items with the same keys; see `find`. Guesses may be
bad: what is found is right all the same, since every item of it has been compared.
"""

import numpy as np

from tapegrad.compiled import compiled, inlined

# Odd numbers by which hashes are multiplied.
_ITEM, _COLUMN, _WINDOW = 0x2545F4914F6CDD1D, 0x1B8735939E3779B9, 0x5851F42D4C957F2D

# Windows have 4 items, or 32, 256, and so on.
_SHORTEST, _GROWTH = 4, 8
# A window may look like many before it. So many of these are tried as that of the round before, the last first.
_TRIES = 4
# A period is at most so many windows long. For longer ones there are longer windows.
_WINDOWS = 64
# How many slots there are for windows, and for periods that came to nothing.
SLOTS, FAILURES = 65536, 64
# When so many times all items have been compared, windows of this length are given up.
_PATIENCE = 16

# What `at` counts: the repeats found, those dropped again included, and items compared with windows of one length.
_FOUND, _COMPARED = range(2)

# Memory comes from outside, since compiled code that allocates any cannot be loaded without Numba. The rows of `work`,
# one number an item each: a hash of its key, the sum of its places, the window before that of this number, and the
# repeat that it is in.
_HASHES, _SUMS, _BEFORE, _INSIDE, ROWS = range(5)


@inlined
def continues(keys, mixed, i, p):
    # `mixed` has a sum of the places of each item, times fixed odd numbers, which advances evenly if they do. That they
    # do if it does is next to certain only, so `exact` has the last word.
    return (
        keys[i] == keys[i - p]
        and keys[i] == keys[i - 2 * p]
        and mixed[i] - mixed[i - p] == mixed[i - p] - mixed[i - 2 * p]
    )


def advances(places, i, p):
    even = True
    for c in range(places.shape[1]):
        even &= places[i, c] - places[i - p, c] == places[i - p, c] - places[i - 2 * p, c]
    return even


def exact(places, q, x, y, p):
    # The part of x .. y around item q in which places advance evenly in every column.
    first = last = q
    while last < y and advances(places, last, p):
        last += 1
    while first > x and last > q and advances(places, first - 1, p):
        first -= 1
    return first, last


@compiled(
    keys="int64[:]", places="int64[:, :]", stretches="int64[:, :]", least="int64", found="int64[:, :]",
    work="int64[:, :]", table="int64[:, :]", failed="int64[:, :]", at="int64[:]",
)  # fmt: skip
def find(keys, places, stretches, least, found, work, table, failed, at):
    """Find repeats in stretches of items, each given by its first item and the item after its last.

    Writes the first item, the period and the count of each to `found`, and up to which item the period is continued;
    returns how many there are. They do not overlap, have three rounds or more, and save `least` items or more.

    If the window of items that begins at item q has the keys of one that begins at an earlier item a, then q - a may be
    a period. Long windows come first. Short ones find the innermost loops, where one round looks like the next, but a
    window that is longer than an inner loop, or begins at its end, looks like that of the next outer round only.
    """
    longest = np.int64(0)
    for t in range(stretches.shape[0]):
        longest = max(longest, stretches[t, 1] - stretches[t, 0])
    mixed, before, inside = work[_SUMS], work[_BEFORE], work[_INSIDE]
    for t in range(stretches.shape[0]):
        for i in range(stretches[t, 0], stretches[t, 1]):
            h, total, factor = keys[i] * _ITEM, np.int64(0), np.int64(_COLUMN)
            for c in range(places.shape[1]):
                total += places[i, c] * factor
                factor *= _ITEM
            work[_HASHES, i], mixed[i] = (h ^ (h >> 29)) * _ITEM, total
    inside[:] = -1
    at[_FOUND] = 0
    length = np.int64(_SHORTEST)
    while length * _GROWTH * 2 <= longest:
        length *= _GROWTH
    while length >= _SHORTEST:
        shift = np.int64(0)
        while length >> (shift + 3) > 0:
            shift += 1
        slots = np.int64(64)
        while slots < SLOTS and slots < 2 * (keys.shape[0] >> shift):
            slots *= 2
        table[:slots] = -1
        failed[:] = 0
        at[_COMPARED] = 0
        for t in range(stretches.shape[0]):
            search(
                keys, mixed, places, work[_HASHES], stretches[t, 0], stretches[t, 1], length, shift, least,
                table[:slots], before, failed, found, inside, at,
            )  # fmt: skip
        length //= _GROWTH
    kept = 0
    for i in range(at[_FOUND]):
        if inside[found[i, 0]] == i:
            for c in range(found.shape[1]):
                found[kept, c] = found[i, c]
            kept += 1
    return kept


def search(keys, mixed, places, hashes, low, high, length, shift, least, table, before, failed, found, inside, at):
    # Find repeats in items low .. high by windows of one length.
    #
    # Of earlier windows every one is known that begins at a multiple of 2**shift. `table` has for each slot the last
    # window whose hash leads there, and the hash; `before` has for each known window the one before it of the same
    # hash. `inside` has for each item the repeat that it is in, or -1.
    leaving = np.int64(1)
    for _ in range(length):
        leaving *= _WINDOW
    q, h, hashed = low, np.int64(0), np.int64(-1)
    while q + length <= high and at[_COMPARED] <= _PATIENCE * keys.shape[0]:
        middle = q + length // 2
        i = inside[q]
        if i >= 0:
            # What is found next has to go on where repeat i ends. Windows before that are passed over.
            middle = found[i, 3]
            if q + length <= middle:
                q = min(middle - length + 1, found[i, 0] + found[i, 1] * found[i, 2])
                continue
        if hashed == q - 1 and hashed >= low:
            h = h * _WINDOW - hashes[q - 1] * leaving + hashes[q + length - 1]
        else:
            h = np.int64(0)
            for i in range(q, q + length):
                h = h * _WINDOW + hashes[i]
        hashed = q
        slot = (h >> 32) & (table.shape[0] - 1)
        known = table[slot, 0] if table[slot, 1] == h else np.int64(-1)
        a, tries = known, 0
        while a >= low and tries < _TRIES:
            p = q - a
            if p > _WINDOWS * length or q - 2 * p < low:
                break
            f = p & (FAILURES - 1)
            if (
                continues(keys, mixed, q, p)
                and continues(keys, mixed, middle, p)
                and continues(keys, mixed, q + length - 1, p)
                and not (failed[f, 0] == p and q < failed[f, 1])
            ):
                x, y = q, q + 1
                while y < high and continues(keys, mixed, y, p):
                    y += 1
                while x - 1 - 2 * p >= low and continues(keys, mixed, x - 1, p):
                    x -= 1
                at[_COMPARED] += y - x
                if is_enough(x, y, p, length, least):
                    x, y = exact(places, q, x, y, p)
                if is_enough(x, y, p, length, least) and add(q, x, y, p, length, least, found, inside, at):
                    break
                failed[f, 0], failed[f, 1] = p, y
            a, tries = before[a >> shift], tries + 1
        if (q >> shift) << shift == q:
            before[q >> shift], table[slot, 0], table[slot, 1] = known, q, h
        q += 1


@inlined
def is_enough(x, y, p, length, least):
    # Whether a repeat is worth it if items x .. y continue period p. What is shorter than the windows by which it was
    # found is left to shorter ones, since it may be an inner loop.
    return y - x >= p and y - x >= length and ((y - x) // p + 1) * p >= least


def add(q, x, y, p, length, least, found, inside, at):
    # Note the repeat whose items x .. y continue period p, item q among them. Where it meets others, either they are
    # dropped, or it is cut to the room between them, whichever saves more. Returns whether it was noted.
    made = at[_FOUND]
    if made == found.shape[0]:
        return False
    start, stop, others, nested, i = x - 2 * p, y - (y - x) % p, 0, 0, x - 2 * p
    while i < stop:
        if inside[i] >= 0:
            other = inside[i]
            saved = found[other, 1] * (found[other, 2] - 1)
            others += saved
            if found[other, 1] * found[other, 2] <= p:
                nested += saved
            i = found[other, 0] + found[other, 1] * found[other, 2]
        else:
            i += 1
    if others > 0:
        # What inner loops save in a round will be found again in the first round.
        saved = stop - start - p + nested // ((stop - start) // p)
        first, last = q, q
        if inside[q] >= 0:
            first = last = found[inside[q], 0] + found[inside[q], 1] * found[inside[q], 2]
        while first > start and inside[first - 1] < 0:
            first -= 1
        while last < y and inside[last] < 0:
            last += 1
        u, v = first + 2 * p, last
        if is_enough(u, v, p, length, least) and ((v - u) // p + 1) * p + others > saved:
            start, stop, y = first, v - (v - u) % p, v
        elif saved > others:
            i = start
            while i < stop:
                other = inside[i]
                if other >= 0:
                    i = found[other, 0] + found[other, 1] * found[other, 2]
                    inside[found[other, 0] : i] = -1
                else:
                    i += 1
        else:
            return False
    found[made, 0], found[made, 1], found[made, 2], found[made, 3] = start, p, (stop - start) // p, y
    inside[start:stop] = made
    at[_FOUND] += 1
    return True


def alike(keys, places, i, p, j, q):
    # Whether items i and j have equal keys, and their places advance alike to the items p and q later.
    same = keys[i] == keys[j]
    for c in range(places.shape[1]):
        same &= places[i + p, c] - places[i, c] == places[j + q, c] - places[j, c]
    return same


@compiled(
    keys="int64[:]",
    places="int64[:, :]",
    repeats="int64[:, :]",
    names="int64[:]",
    table="int64[:]",
    known="int64[:, :]",
)
def tell_apart(keys, places, repeats, names, table, known):
    """Name the items of the first rounds of repeats, one round after the other.

    Two items have equal names if they have equal keys and advance alike, in every column, to the next round. `table`
    comes as -1, a power of two long and longer than `names`. `known` is for as many items: the first that has a name,
    and the period of the repeat that it stands in.
    """
    made, at = 0, 0
    for t in range(repeats.shape[0]):
        p = repeats[t, 1]
        for i in range(repeats[t, 0], repeats[t, 0] + p):
            h = keys[i] * _ITEM
            for c in range(places.shape[1]):
                h = ((h ^ (h >> 31)) + places[i + p, c] - places[i, c]) * _COLUMN
            slot = (h >> 32) & (table.shape[0] - 1)
            name = table[slot]
            while name >= 0 and not alike(keys, places, i, p, known[name, 0], known[name, 1]):
                slot = (slot + 1) & (table.shape[0] - 1)
                name = table[slot]
            if name < 0:
                table[slot] = name = made
                known[made, 0], known[made, 1] = i, p
                made += 1
            names[at] = name
            at += 1
