"""Pictures of a value's graph, as autograd tutorials draw them."""

from __future__ import annotations

import operator
from pathlib import Path
from typing import Any

from tapegrad.errors import ExtraMissingError, GraphError
from tapegrad.inspect.dot import Graph
from tapegrad.value import Value

_DIRECTIONS = ("LR", "RL", "TB", "BT")
_FORMATS = ("svg", "png", "pdf")


class Drawing:
    """A picture, made by `draw`. It shows itself in Jupyter.

    `source` is its text in the DOT language, for which no program is needed; `svg` and `save` run Graphviz.
    """

    def __init__(self, source: str, values: int, operations: int) -> None:
        self.source = source
        self.values = values
        self.operations = operations

    def __repr__(self) -> str:
        return f"<Drawing of {self.values} values and {self.operations} operations>"

    def svg(self) -> str:
        """The picture as SVG text.

        Raises ExtraMissingError where the graphviz package or the Graphviz program `dot` is missing.
        """
        return _rendered(self.source, "svg").decode("utf-8")

    def _repr_svg_(self) -> str:
        return self.svg()

    def save(self, path: str | Path) -> Path:
        """Write the picture to a file: .svg, .png or .pdf, or .dot for its source. Returns the path.

        Raises GraphError for another suffix, ExtraMissingError where the graphviz package or the Graphviz program
        `dot` is missing.
        """
        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind == "dot":
            path.write_text(self.source, encoding="utf-8")
        elif kind in _FORMATS:
            # On screens of today, 96 dots an inch look coarse.
            source = self.source.replace("graph [", "graph [dpi=192, ", 1) if kind == "png" else self.source
            path.write_bytes(_rendered(source, kind))
        else:
            raise GraphError(f"a picture is saved as .svg, .png, .pdf or .dot, not as {path.name!r}")
        return path


def _rendered(source: str, kind: str) -> bytes:
    try:
        import graphviz
    except ImportError as error:
        raise ExtraMissingError(
            'drawing needs the graphviz package: pip install "tapegrad[examples]" (`.source` is there without it)'
        ) from error
    try:
        picture: bytes = graphviz.Source(source).pipe(format=kind)
    except graphviz.ExecutableNotFound as error:
        raise ExtraMissingError(
            "drawing needs the Graphviz program `dot`, which is not on the PATH: install it with your system's "
            "package manager (apt, brew, winget or conda install graphviz); `.source` is there without it"
        ) from error
    except graphviz.CalledProcessError as error:
        raise GraphError(f"Graphviz could not draw this: {error}") from error
    return picture


def draw(value: Value, *, direction: str = "LR", max_nodes: int = 500, depth: int | None = None) -> Drawing:
    """The graph that a value was computed by: a box for every value, between them the operations.

    A box shows label, shape, data and gradient; leaves are blue, `value` itself is yellow, constants are grey and
    drawn wherever they are used. Views are no operations: an edge says which part of an array it takes.
    Gradients are those accumulated by `backward`, 0 before it.

    Args:
        value: what to draw, with all that it depends on.
        direction: where the graph runs, "LR" (left to right), "RL", "TB" (top to bottom) or "BT".
        max_nodes: draw no more values than this.
        depth: show only so many operations back from the value.

    Raises GraphError for a graph of more than `max_nodes` values, a value without elements or another direction;
    StaleValueError for a value that is no longer on its tape.

    >>> import tapegrad as tg
    >>> a, b = tg.Value(2.0, label="a"), tg.Value(-3.0, label="b")
    >>> picture = draw(a * b + a)
    >>> picture
    <Drawing of 4 values and 2 operations>
    >>> "{a | data 2.0000 | grad 0.0000}" in picture.source
    True
    """
    given: Any = value
    if not isinstance(given, Value):
        raise GraphError(f"draw takes a Value, not {type(given).__name__}")
    if direction not in _DIRECTIONS:
        raise GraphError(f"direction must be one of {', '.join(_DIRECTIONS)}, not {direction!r}")
    if depth is not None and operator.index(depth) < 0:
        raise GraphError(f"depth must not be negative, it is {depth}")
    graph = Graph(value, direction, max_nodes, depth)
    return Drawing(graph.source(), len(graph.instructions), graph.operations)
