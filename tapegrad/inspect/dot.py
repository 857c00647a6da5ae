"""A picture in the DOT language: boxes for values, ellipses for operations."""

from __future__ import annotations

from collections.abc import Iterator

from tapegrad.inspect.picture import CONSTANT, LEAF, MORE, OPERATION, PLAIN, RESULT, Edge, Node, Picture

_FONT = "Helvetica,Arial,sans-serif"
_HEAD = f"""\
  graph [rankdir=%s, bgcolor=white, pad=0.2, nodesep=0.22, ranksep=0.32, fontname="{_FONT}"]
  node [fontname="{_FONT}", fontsize=11, fontcolor="#1f2933", color="#7b8794", style=filled, penwidth=0.8]
  edge [fontname="{_FONT}", fontsize=9, fontcolor="#52606d", color="#7b8794", arrowsize=0.6, penwidth=0.8]"""
_RECORD = 'shape=record, height=0.3, margin="0.1,0.04"'
_CONSTANT = (
    'shape=box, style="filled,rounded", fillcolor="#f0f2f4", color="#cbd2d9", height=0.25, width=0.3, '
    'margin="0.07,0.03"'
)
_OPERATION = (
    'shape=ellipse, fillcolor="#334e68", fontcolor=white, color="#334e68", height=0.3, width=0.4, margin="0.05,0.02"'
)
_MORE = 'shape=plaintext, style="", height=0, width=0, margin="0.05,0"'
_FILL = {LEAF: "#e3f0fb", RESULT: "#fdf1d3", PLAIN: "white"}

_SIDES = {"LR": "e", "RL": "w", "TB": "s", "BT": "n"}


def escape(text: str) -> str:
    """Text as part of a record label between quotes.

    >>> print(escape('a|b {c} <d> "e" \\\\f & g'))
    a\\|b \\{c\\} \\<d\\> \\"e\\" \\\\f &amp; g
    """
    out = []
    for c in text:
        if c in '\\{}|<>"':
            out.append("\\" + c)
        elif c == "&":
            out.append("&amp;")
        elif c == "\n":
            out.append("\\n")
        elif c.isprintable() or c.isspace():
            # Records fold blanks; no-break ones stay.
            out.append("\u00a0" if c.isspace() and (not out or out[-1].isspace()) else " " if c.isspace() else c)
        else:
            out.append("\ufffd")
    return "".join(out)


def source(picture: Picture) -> str:
    """The DOT text."""
    lines = ["digraph {", _HEAD % picture.direction]
    if picture.note:
        lines.append(f'  label="{escape(picture.note)}"; labelloc=b; fontsize=10; fontcolor="#52606d"')
    lines += [_node(node, picture.direction) for node in picture.nodes]
    # Arrows leave a box in the direction of the graph, or they would start anywhere along its side.
    boxes = {node.name for node in picture.nodes if node.fields}
    side = _SIDES[picture.direction]
    lines += [_edge(edge, f"{edge.start}:{side}" if edge.start in boxes else edge.start) for edge in picture.edges]
    return "\n".join([*lines, "}", ""])


def _node(node: Node, direction: str) -> str:
    if node.kind == MORE:
        return f'  {node.name} [label="{node.head[0]}", {_MORE}]'
    if node.kind == CONSTANT:
        return f'  {node.name} [label="{_lines(node.head)}", {_CONSTANT}]'
    if node.kind == OPERATION:
        sign = node.head[0]
        size = "" if sign.isidentifier() else "fontsize=14, "
        times = f" ×{node.times:,}" if node.times > 1 else ""
        return f'  {node.name} [label="{escape(sign + times)}", {_OPERATION}, {size}tooltip="{escape(node.tip)}"]'
    fields = [what + ("\\l" if len(lines) > 1 else " ") + _lines(lines) for what, lines in node.fields]
    head = [escape(text) for text in node.head]
    text = f"{{{' | '.join(head)}}} | {' | '.join(fields)}" if node.array else f"{{{' | '.join(head + fields)}}}"
    # The fields of a record stand below each other in a graph that runs sideways, and beside each other in braces; in
    # one that runs up or down it is the other way round.
    if direction in ("TB", "BT"):
        text = f"{{{text}}}" if node.array else text[1:-1]
    return f'  {node.name} [label="{text}", {_RECORD}, fillcolor="{_FILL[node.look]}"]'


def _lines(lines: tuple[str, ...]) -> str:
    # The lines of a matrix start below each other, and below what they are.
    return escape(lines[0]) if len(lines) == 1 else "".join(escape(line) + "\\l" for line in lines)


def _edge(edge: Edge, start: str) -> str:
    said: Iterator[str] = filter(None, (
        f'label="{escape(edge.label)}"' if edge.label else "",
        "style=dashed, constraint=false" if edge.carried else "",
    ))  # fmt: skip
    attributes = ", ".join(said)
    return f"  {start} -> {edge.end}" + (f" [{attributes}]" if attributes else "")
