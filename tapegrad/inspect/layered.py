"""Where the boxes of a graph stand, and how its arrows run: a layout in layers, left to right.

Each box stands in the layer before its nearest reader, so that an input is beside what it goes into. Arrows that pass
layers get a place in each of them. The order within layers is found by barycentres, up and down again, and the order
with the fewest crossings is kept; then boxes are moved to where their neighbours are, as far as the order allows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

Point = tuple[float, float]

# How often the layers are gone through, to order them and to place what is in them.
_ORDERINGS, _PLACINGS = 8, 16
# An arrow that passes a layer takes so much room there. It resists bending so much, and so do two boxes of which one
# leads to the other alone.
_PASSAGE, _STIFF = 6.0, 8.0


@dataclass(frozen=True)
class Placed:
    """A layout.

    Attributes:
        width, height: of the whole.
        centres: of the boxes.
        routes: for each edge the points that it goes through, from the side of one box to that of another.
    """

    width: float
    height: float
    centres: list[Point]
    routes: list[list[Point]]


def layered(
    sizes: Sequence[Point], edges: Sequence[tuple[int, int]], direction: str = "LR", across: float = 34.0,
    between: float = 14.0,
) -> Placed:  # fmt: skip
    """Boxes of given sizes in layers, edges running in one direction.

    Args:
        sizes: width and height of each box.
        edges: pairs of boxes, from and to, without a circle.
        direction: "LR" (left to right), "RL", "TB" (top to bottom) or "BT".
        across: the distance from layer to layer.
        between: the distance of boxes in a layer.

    >>> placed = layered([(10, 10), (10, 10), (20, 10)], [(0, 2), (1, 2)])
    >>> placed.centres
    [(5.0, 5.0), (5.0, 29.0), (54.0, 17.0)]
    >>> placed.routes[0]
    [(10.0, 5.0), (44.0, 17.0)]
    """
    upright = direction in ("TB", "BT")
    lengths = [(h, w) if upright else (w, h) for w, h in sizes]
    graph = _Layers(lengths, edges)
    graph.order()
    along = graph.columns(across)
    beside = graph.placed(between)
    width, height = graph.extent(along, beside)
    mirrored = direction in ("RL", "BT")

    def turned(point: Point) -> Point:
        x, y = (width - point[0], point[1]) if mirrored else point
        return (y, x) if upright else (x, y)

    centres = [turned((along[graph.layer[v]], beside[v])) for v in range(len(sizes))]
    routes = [[turned(p) for p in graph.route(chain, along, beside)] for chain in graph.chains]
    return Placed(*((height, width) if upright else (width, height)), centres, routes)


class _Layers:
    """A graph whose boxes have layers; edges that pass layers are chains of points, one in each."""

    def __init__(self, sizes: Sequence[Point], edges: Sequence[tuple[int, int]]) -> None:
        self.boxes = len(sizes)
        self.layer = _layers(self.boxes, edges)
        self.sizes = list(sizes)
        self.chains: list[list[int]] = []
        # Arrows from one box run together as far as they go, so that one passage in each layer is enough. Otherwise an
        # input that a thousand steps in a row read would need half a million.
        passages: dict[tuple[int, int], int] = {}
        for a, b in edges:
            chain = [a]
            for between in range(self.layer[a] + 1, self.layer[b]):
                if (a, between) not in passages:
                    passages[a, between] = len(self.sizes)
                    self.sizes.append((0.0, _PASSAGE))
                    self.layer.append(between)
                chain.append(passages[a, between])
            self.chains.append([*chain, b])
        count = len(self.sizes)
        self.before: list[list[int]] = [[] for _ in range(count)]
        self.after: list[list[int]] = [[] for _ in range(count)]
        for a, b in sorted({pair for chain in self.chains for pair in pairwise(chain)}):
            self.before[b].append(a)
            self.after[a].append(b)
        self.layers: list[list[int]] = [[] for _ in range(max(self.layer, default=-1) + 1)]
        for v in self._depth_first():
            self.layers[self.layer[v]].append(v)

    def _depth_first(self) -> Iterator[int]:
        # From the results back: what an operation reads begins in the order in which it is read.
        seen = [False] * len(self.sizes)
        for root in sorted(range(len(self.sizes)), key=lambda v: (-self.layer[v], v)):
            stack = [root]
            while stack:
                v = stack.pop()
                if not seen[v]:
                    seen[v] = True
                    yield v
                    stack += reversed(self.before[v])

    # The order within layers

    def order(self) -> None:
        """Order each layer so that few arrows cross."""
        best, fewest = [list(row) for row in self.layers], self._crossings()
        for turn in range(_ORDERINGS):
            if fewest == 0:
                break
            rows, beside = (self.layers[1:], self.before) if turn % 2 else (self.layers[-2::-1], self.after)
            at = self._positions()
            for row in rows:
                wish = {v: sum(at[u] for u in beside[v]) / len(beside[v]) if beside[v] else at[v] for v in row}
                row.sort(key=wish.__getitem__)
                at.update((v, float(i)) for i, v in enumerate(row))
            if (found := self._crossings()) < fewest:
                best, fewest = [list(row) for row in self.layers], found
        self.layers = best

    def _positions(self) -> dict[int, float]:
        return {v: float(i) for row in self.layers for i, v in enumerate(row)}

    def _crossings(self) -> int:
        at, found = self._positions(), 0
        for row in self.layers[:-1]:
            ends = np.array([at[w] for v in row for w in sorted(self.after[v], key=at.__getitem__)])
            # Two arrows cross if the one that begins first ends last.
            for chunk in range(0, len(ends), 512):
                part = ends[chunk : chunk + 512]
                found += int((part[:, None] > ends[None, chunk:]).astype(np.int8)[
                    np.arange(len(part))[:, None] < np.arange(len(ends) - chunk)[None, :]
                ].sum())  # fmt: skip
        return found

    # Coordinates: `along` of the layers, `beside` of what is in them

    def columns(self, across: float) -> list[float]:
        """The middle of each layer."""
        middles, at = [], 0.0
        self.halves = [max((self.sizes[v][0] for v in row), default=0.0) / 2 for row in self.layers]
        for row in self.layers:
            width = max((self.sizes[v][0] for v in row), default=0.0)
            # Where many arrows go up and down between two layers, they need room to do so.
            middles.append(at + width / 2)
            at += width + across + min(60.0, 1.5 * max(0, len(row) - 8))
        return middles

    def placed(self, between: float) -> list[float]:
        """For each box and passage where its middle is in its layer."""
        at = [0.0] * len(self.sizes)
        rooms = [self._rooms(row, between) for row in self.layers]
        for row, room in zip(self.layers, rooms, strict=True):
            for v, y in zip(row, room, strict=True):
                at[v] = float(y)
        before = [[(u, self._pull(u, v)) for u in row] for v, row in enumerate(self.before)]
        after = [[(w, self._pull(v, w)) for w in row] for v, row in enumerate(self.after)]
        for turn in range(_PLACINGS):
            numbers = range(len(self.layers))
            # At first each layer follows the one before it, or after it; then both.
            for n in numbers if turn % 2 == 0 else reversed(numbers):
                row = self.layers[n]
                wishes, weights = [], []
                for v in row:
                    beside = before[v] + after[v] if turn > 3 else before[v] if turn % 2 == 0 else after[v]
                    weight = sum(pull for _, pull in beside)
                    wishes.append(sum(at[u] * pull for u, pull in beside) / weight if beside else at[v])
                    weights.append(weight if beside else 0.2)
                for v, y in zip(row, _apart(np.array(wishes), np.array(weights), rooms[n]), strict=True):
                    at[v] = float(y)
        lowest = min((at[v] - self.sizes[v][1] / 2 for v in range(len(at))), default=0.0)
        return [y - lowest for y in at]

    def _pull(self, a: int, b: int) -> float:
        """How strongly two neighbours are to stand at the same height."""
        passages = (a >= self.boxes) + (b >= self.boxes)
        alone = len(self.after[a]) == 1 == len(self.before[b])
        return _STIFF if passages == 2 or alone else 1.0 + passages

    def _rooms(self, row: Sequence[int], between: float) -> np.ndarray:
        """Where the middles in a layer would be if all of them stood as close as they may."""
        heights = np.array([self.sizes[v][1] for v in row])
        middles = np.cumsum(heights + between) - heights / 2 - between
        return np.asarray(middles)

    def extent(self, along: Sequence[float], beside: Sequence[float]) -> Point:
        """How large the whole is."""
        boxes = range(len(self.sizes))
        return (
            max((along[self.layer[v]] + self.sizes[v][0] / 2 for v in boxes), default=0.0),
            max((beside[v] + self.sizes[v][1] / 2 for v in boxes), default=0.0),
        )

    def route(self, chain: Sequence[int], along: Sequence[float], beside: Sequence[float]) -> list[Point]:
        """The points that an edge goes through."""
        a, b = chain[0], chain[-1]
        # To the edge of its layer an arrow runs straight, so that it passes no wider box that stands there.
        points = [(along[self.layer[a]] + self.sizes[a][0] / 2, beside[a])]
        points.append((along[self.layer[a]] + self.halves[self.layer[a]], beside[a]))
        for v in [*chain[1:-1], b]:
            middle, half, y = along[self.layer[v]], self.halves[self.layer[v]], beside[v]
            first, last = (middle - half, y), (middle + half if v != b else middle - self.sizes[b][0] / 2, y)
            if abs(points[-1][1] - y) < 0.1:
                points[-1] = last
            else:
                points += [first, last]
        return [point for point, next in pairwise(points) if point != next] + points[-1:]


def _layers(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """For each box its layer: that before its nearest reader; for one without readers that after what it reads."""
    after: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for a, b in edges:
        after[a].append(b)
        waiting[a] += 1
    before: list[list[int]] = [[] for _ in range(count)]
    for a, b in edges:
        before[b].append(a)
    from_end = [0] * count
    ready = [v for v in range(count) if not waiting[v]]
    while ready:
        v = ready.pop()
        for u in before[v]:
            from_end[u] = max(from_end[u], from_end[v] + 1)
            waiting[u] -= 1
            if not waiting[u]:
                ready.append(u)
    most = max(from_end, default=0)
    layers = [most - n for n in from_end]
    for v in range(count):
        # What nobody reads stands right behind what it reads, rather than at the end.
        if not after[v] and before[v]:
            layers[v] = 1 + max(layers[u] for u in before[v])
    return layers


def _apart(wishes: np.ndarray, weights: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The places nearest to what is wished for, in the sense of least squares, that keep the order and leave room.

    Less the room that comes before it, each place must be at least that of its neighbour. So neighbours that would be
    in the wrong order are put together at their mean, until none are.
    """
    blocks: list[tuple[float, float, int]] = []
    for wish, weight in zip((wishes - room).tolist(), weights.tolist(), strict=True):
        mean, total, count = wish, weight, 1
        while blocks and blocks[-1][0] >= mean:
            other, heavy, n = blocks.pop()
            mean, total, count = (mean * total + other * heavy) / (total + heavy), total + heavy, count + n
        blocks.append((mean, total, count))
    return np.repeat([mean for mean, _, _ in blocks], [n for _, _, n in blocks]) + room


def path(route: Sequence[Point], direction: str = "LR") -> str:
    """A route as the data of an SVG path: straight past boxes, and between these in curves that leave and arrive in the
    direction of the graph.

    >>> path([(0.0, 0.0), (10.0, 4.0)])
    'M0 0C5 0 5 4 10 4'
    """
    upright = direction in ("TB", "BT")
    text = [f"M{_short(route[0][0])} {_short(route[0][1])}"]
    for (x0, y0), (x1, y1) in pairwise(route):
        if abs(x1 - x0 if upright else y1 - y0) < 0.1:
            text.append(f"L{_short(x1)} {_short(y1)}")
        else:
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            bends = [(x0, y), (x1, y)] if upright else [(x, y0), (x, y1)]
            text.append("C" + " ".join(f"{_short(x)} {_short(y)}" for x, y in [*bends, (x1, y1)]))
    return "".join(text)


def _short(x: float) -> str:
    return f"{round(x, 1):g}"
