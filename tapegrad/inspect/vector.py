"""A picture as SVG, laid out and drawn here, so that no program need be installed."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from tapegrad.inspect.layered import Placed, layered, path
from tapegrad.inspect.picture import CONSTANT, LEAF, MORE, OPERATION, PLAIN, RESULT, VALUE, Node, Picture

_SIZE, _LINE, _PAD = 11.0, 15.0, 8.0
_MARGIN = 12.0
# What an arrow says: its size, the distance of lines, and how far apart it may push two layers.
_PART, _PART_LINE, _FARTHEST = 9.5, 11.0, 200.0
# Bold letters are wider.
_BOLD = 1.1
_FILL = {LEAF: "#e3f0fb", RESULT: "#fdf1d3", PLAIN: "#ffffff"}
_STYLE = """
text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif;font-variant-numeric:tabular-nums;
fill:#1f2933;white-space:pre}
.name{font-weight:600}.what,.shape,.part,.note{fill:#52606d}.part{font-size:9.5px;
paint-order:stroke;stroke:#fff;stroke-width:2.5px}.data{fill:#174f8a}.grad{fill:#93400d}
.box{stroke:#7b8794;stroke-width:.8}.rule{stroke:#cbd2d9;stroke-width:.8}.constant{fill:#f0f2f4;stroke:#cbd2d9}
.op{fill:#334e68}.sign{fill:#fff;text-anchor:middle}.middle{text-anchor:middle}
.edge{fill:none;stroke:#7b8794;stroke-width:1;marker-end:url(#tapegrad-tip)}.carried{stroke-dasharray:4 3}
"""
_DEFS = (
    '<defs><marker id="tapegrad-tip" viewBox="0 0 8 8" refX="7.2" refY="4" markerWidth="6.5" markerHeight="6.5" '
    'orient="auto"><path d="M0 .8L7.5 4L0 7.2z" fill="#7b8794"/></marker></defs>'
)
# The widths of characters in ems, for fonts of the sans-serif kind: narrow ones, wide ones; all others are between.
# Figure spaces are as wide as digits. A little more than most fonts need, so that nothing sticks out with wide ones.
_NARROW, _WIDE = set("ijl.,:;'|![]()/ "), set("mwMW@%—…→×+=<>")


def escape(text: str) -> str:
    """Text as the content of an XML element or attribute; what XML has no room for is replaced.

    >>> escape('<a & "b">' + chr(7))
    '&lt;a &amp; &quot;b&quot;&gt;\\ufffd'
    """
    return html.escape("".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text))


def width(text: str, size: float = _SIZE) -> float:
    """How wide text is, about."""
    ems = sum(
        0.36 if c in _NARROW else 0.9 if c in _WIDE else 1.0 if ord(c) > 0x2E7F else 0.7 if c.isupper() else 0.62
        for c in text
    )
    return ems * size


class _Cell:
    """A part of a value's box: what it is, and lines of text."""

    def __init__(self, what: str, lines: Sequence[str], kind: str) -> None:
        self.what, self.lines, self.kind = what, lines, kind
        # One line stands behind what it is, several below it.
        self.stacked = len(lines) > 1
        said = [what, *lines] if self.stacked else [f"{what} {lines[0]}" if what else lines[0]]
        self.width = max(map(width, said)) * (_BOLD if kind == "name" else 1.0) + 2 * _PAD
        self.height = _LINE * (len(lines) + (1 if self.stacked else 0)) + 6

    def drawn(self, x: float, y: float) -> str:
        what = f'<tspan class="what">{self.what}</tspan>' if self.what else ""
        lines = [f'<tspan class="{self.kind}">{escape(line)}</tspan>' for line in self.lines]
        text = [what, *lines] if self.stacked else [f"{what} {lines[0]}" if what else lines[0]]
        return "".join(
            f'<text x="{x + _PAD:.1f}" y="{y + _LINE * (n + 0.8) + 2:.1f}">{line}</text>' for n, line in enumerate(text)
        )


class _Box:
    """A node with its size: cells beside each other or, in a graph that runs up or down, below each other."""

    def __init__(self, node: Node, upright: bool) -> None:
        self.node = node
        names = ["name"] * len(node.head)
        if node.array and names:
            names[-1] = "shape"
        if node.kind == VALUE:
            self.cells = [_Cell("", [text], kind) for text, kind in zip(node.head, names, strict=True)]
            self.cells += [_Cell(what, lines, what) for what, lines in node.fields]
            self.columns = self._columns(upright)
            widths = [max(cell.width for cell in column) for column in self.columns]
            self.size = (
                sum(widths), max(sum(cell.height for cell in column) for column in self.columns)
            )  # fmt: skip
        else:
            lines = [self._sign(), *node.head[1:]]
            longest = max(width(text, 14.0 if node.kind == OPERATION else _SIZE) for text in lines)
            self.size = (max(longest + 14, 26.0), _LINE * len(lines) + (11 if node.kind == OPERATION else 6))

    def _columns(self, upright: bool) -> list[list[_Cell]]:
        if self.node.array and not upright:
            # An array's numbers stand below its name and shape.
            heads = len(self.node.head)
            return [self.cells[:heads], *[[cell] for cell in self.cells[heads:]]]
        return [list(self.cells)] if upright or self.node.array else [[cell] for cell in self.cells]

    def _sign(self) -> str:
        return self.node.head[0] + (f" ×{self.node.times:,}" if self.node.times > 1 else "")

    def drawn(self, centre: tuple[float, float]) -> str:
        (w, h), (cx, cy) = self.size, centre
        x, y = cx - w / 2, cy - h / 2
        tip = f"<title>{escape(self.node.tip)}</title>" if self.node.tip else ""
        if self.node.kind == MORE:
            return f'<text class="middle" x="{cx:.1f}" y="{cy + 3:.1f}">…</text>'
        if self.node.kind == OPERATION:
            size = 12 if self.node.head[0].isidentifier() else 14
            return (
                f'<g>{tip}<rect class="op" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{h / 2:.1f}"/>'
                f'<text class="sign" style="font-size:{size}px" x="{cx:.1f}" y="{cy + 4.2:.1f}">'
                f"{escape(self._sign())}</text></g>"
            )
        if self.node.kind == CONSTANT:
            lines = "".join(
                f'<text class="middle" x="{cx:.1f}" y="{y + 3 + _LINE * (n + 0.75):.1f}">{escape(line)}</text>'
                for n, line in enumerate(self.node.head)
            )
            box = f'x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="6"'
            return f'<rect class="box constant" {box}/>{lines}'
        parts = [
            f'<g>{tip}<rect class="box" fill="{_FILL[self.node.look]}" x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" '
            f'height="{h:.1f}" rx="4"/>'
        ]
        left = x
        for number, column in enumerate(self.columns):
            if number:
                parts.append(f'<path class="rule" d="M{left:.1f} {y:.1f}v{h:.1f}"/>')
            wide = max(cell.width for cell in column) if len(self.columns) > 1 else w
            top = y + (h - sum(cell.height for cell in column)) / 2
            for n, cell in enumerate(column):
                if n:
                    parts.append(f'<path class="rule" d="M{left:.1f} {top:.1f}h{wide:.1f}"/>')
                parts.append(cell.drawn(left, top))
                top += cell.height
            left += wide
        return "".join([*parts, "</g>"])


def drawn(picture: Picture) -> str:
    """A picture as SVG text."""
    upright = picture.direction in ("TB", "BT")
    boxes = [_Box(node, upright) for node in picture.nodes]
    number = {node.name: i for i, node in enumerate(picture.nodes)}
    forward = [edge for edge in picture.edges if not edge.carried]
    ends = [(number[edge.start], number[edge.end]) for edge in forward]
    # Layers are so far apart that what an arrow says has room between them.
    said = max((width(edge.label, _PART) for edge in forward), default=0.0)
    across = max(34.0, min(said + 12.0, _FARTHEST)) if not upright else 34.0
    placed = layered([box.size for box in boxes], ends, picture.direction, across)
    back = [(number[edge.start], number[edge.end]) for edge in picture.edges if edge.carried]
    loops, room = _loops(placed, boxes, back, upright)
    left, above = (room, 0.0) if upright else (0.0, room)
    lines = [picture.note] if picture.note else []
    wide = max(placed.width + left, 1.0, *map(width, lines))
    total = wide + 2 * _MARGIN, placed.height + 2 * _MARGIN + above + (22 if lines else 0)
    about = f"Graph of {picture.values} values, {picture.direction}"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{math.ceil(total[0])}" height="{math.ceil(total[1])}" '
        f'viewBox="0 0 {total[0]:.1f} {total[1]:.1f}" role="img" aria-label="{about}">',
        f"<style>{_STYLE}</style>{_DEFS}",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<g transform="translate({_MARGIN + left:g} {_MARGIN + above:g})">',
    ]
    # Two parts of one array that go into one operation take the same way: one arrow, which says both.
    together: dict[tuple[int, int], tuple[list[tuple[float, float]], list[str]]] = {}
    for pair, edge, route in zip(ends, forward, placed.routes, strict=True):
        labels = together.setdefault(pair, (route, []))[1]
        if edge.label and edge.label not in labels:
            labels.append(edge.label)
    out += [f'<path class="edge" d="{path(route, picture.direction)}"/>' for route, _ in together.values()]
    out += loops
    # Words stand above all lines, on a rim of white.
    out += [_words(labels, route) for route, labels in together.values() if labels]
    out += [box.drawn(centre) for box, centre in zip(boxes, placed.centres, strict=True)]
    out.append("</g>")
    out += [
        f'<text class="note" x="{_MARGIN:g}" y="{total[1] - _MARGIN + 2:.1f}">{escape(line)}</text>' for line in lines
    ]
    return "\n".join([*out, "</svg>", ""])


def _words(labels: Sequence[str], route: list[tuple[float, float]]) -> str:
    # Beside the last stretch, where the operation is that takes the parts; the first above the second.
    (x0, y0), (x1, y1) = route[-2:]
    return "".join(
        f'<text class="part middle" x="{(x0 + x1) / 2:.1f}" y="{(y0 + y1) / 2 - 4 - _PART_LINE * n:.1f}">'
        f"{escape(label)}</text>"
        for n, label in enumerate(reversed(labels))
    )


def _loops(placed: Placed, boxes: list[_Box], ends: list[tuple[int, int]], upright: bool) -> tuple[list[str], float]:
    """Arrows back to where a round begins: beside all boxes that they pass, each a little further out; and how far out
    the outermost is."""
    lines, out = [], 0.0
    # As in a graph that runs sideways: (along, beside) of the middles and of the sizes.
    turned = [(y, x) if upright else (x, y) for x, y in placed.centres]
    sizes = [((h, w) if upright else (w, h)) for w, h in (box.size for box in boxes)]
    for n, (a, b) in enumerate(sorted(ends, key=lambda pair: abs(turned[pair[0]][0] - turned[pair[1]][0]))):
        (ax, ay), (bx, by) = turned[a], turned[b]
        low, high = min(ax, bx), max(ax, bx)
        beside = zip(turned, sizes, strict=True)
        passed = [y - h / 2 for (x, y), (w, h) in beside if low <= x + w / 2 and x - w / 2 <= high]
        side, r = min(passed) - 12.0 - 7.0 * n, 7.0
        step = r if bx > ax else -r
        route = [(ax, ay - sizes[a][1] / 2), (ax, side + r), (ax, side), (ax + step, side)]
        route += [(bx - step, side), (bx, side), (bx, side + r), (bx, by - sizes[b][1] / 2)]
        p = [f"{y:.1f} {x:.1f}" if upright else f"{x:.1f} {y:.1f}" for x, y in route]
        line = f"M{p[0]}L{p[1]}Q{p[2]} {p[3]}L{p[4]}Q{p[5]} {p[6]}L{p[7]}"
        lines.append(f'<path class="edge carried" d="{line}"/>')
        out = max(out, -side)
    return lines, out
