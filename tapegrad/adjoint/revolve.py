"""Which states are kept where not all fit: the binomial schedule of Griewank and Walther.

To go back over a chain of steps, the state before each is needed, the last first. With places for s states, that
before the first step among them, and if no step is carried out more than r times, a chain of C(s + r, s) steps can be
gone back over, and no schedule can do more. (A. Griewank and A. Walther, Algorithm 799: Revolve, 2000.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator


def _reach(s: int, r: int) -> int:
    """How many steps s states and r repetitions are enough for."""
    return math.comb(s + r, s) if s >= 0 and r >= 0 else 0


def _repetitions(n: int, s: int) -> int:
    r = 0
    while _reach(s, r) < n:
        r += 1
    return r


def cost(n: int, s: int) -> int:
    """How many steps are carried out again to go back over n, with places for s states.

    >>> cost(1, 1), cost(4, 1), cost(10, 3), cost(10, 10)
    (0, 6, 15, 9)
    """
    r = _repetitions(n, s)
    return r * n - _reach(s + 1, r - 1)


def split(n: int, s: int) -> int:
    """How many of n steps are carried out before the next state is kept, where there are places for s, that of the
    first included."""
    r = _repetitions(n, s)
    low = max(1, _reach(s, r - 2), n - _reach(s - 1, r))
    high = min(n - 1, _reach(s, r - 1), max(1, n - _reach(s - 1, r - 1)))
    return max(low, high)


def blocks(n: int, states: int) -> tuple[int, int]:
    """Steps are gone back over in blocks, whose states are all kept meanwhile, besides those before some blocks.

    Returns how long a block is, and how many of the states are before blocks, so that the fewest steps are repeated.
    """
    best = None
    lengths = {states - 1, states // 2, *(1 << k for k in range(states.bit_length()))}
    for length in sorted(b for b in lengths if 1 <= b < states):
        taken = cost(-(-n // length), states - length) * length
        # Of two that repeat as many steps the longer blocks take fewer calls.
        if best is None or taken <= best[0]:
            best = taken, length
    assert best is not None
    return best[1], states - best[1]


def schedule(n: int, s: int) -> Iterator[tuple[str, int, int]]:
    """What is to be done to go back over steps n - 1 to 0 with places for s states.

    Pairs of what and where: ("keep", place, step) puts the state before a step at a place, ("take", place, step) makes
    that at a place the present one, ("go", from, to) carries steps out, ("back", step, 0) goes back over a step whose
    state is the present one.

    >>> [what for what, *_ in schedule(2, 2)]
    ['keep', 'go', 'keep', 'back', 'take', 'back']
    """
    kept = [0]
    yield "keep", 0, 0
    now = 0
    for end in range(n, 0, -1):
        if kept[-1] >= end:
            kept.pop()
        at = kept[-1]
        if now != at:
            yield "take", len(kept) - 1, at
        while end - at > 1:
            free = s - len(kept) + 1
            to = end - 1 if free == 1 else at + split(end - at, free)
            yield "go", at, to
            at = to
            if free > 1:
                kept.append(at)
                yield "keep", len(kept) - 1, at
            elif at == end - 1:
                break
        yield "back", end - 1, 0
        now = -1
