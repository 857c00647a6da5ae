"""Pictures of a value's graph, as autograd tutorials draw them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tapegrad.errors import ExtraMissingError, GraphError
from tapegrad.inspect import dot, vector
from tapegrad.inspect.graph import Graph
from tapegrad.inspect.picture import Picture
from tapegrad.inspect.text import whole_number
from tapegrad.recording import Recording
from tapegrad.value import Value

_DIRECTIONS = ("LR", "RL", "TB", "BT")
_FORMATS = ("png", "pdf")
_ENGINES = (None, "dot", "own")


class Drawing:
    """A picture, made by `draw`. It shows itself in Jupyter.

    `svg` needs no program: where Graphviz is there, its program `dot` lays the picture out, and otherwise a layout of
    our own. `source` is the picture's text in the DOT language.

    Attributes:
        values, operations: how many are drawn.
        note: what was left out or folded, in words; "" where everything is drawn.
    """

    def __init__(self, picture: Picture, operations: int) -> None:
        self._picture = picture
        self.source = dot.source(picture)
        self.values, self.operations, self.note = picture.values, operations, picture.note

    def __repr__(self) -> str:
        return f"<Drawing of {self.values} values and {self.operations} operations>"

    def svg(self, engine: str | None = None) -> str:
        """The picture as SVG text.

        Args:
            engine: "dot" for Graphviz, "own" for the layout that needs nothing installed; None for Graphviz where it is
                there.

        Raises GraphError for another engine, ExtraMissingError where it is "dot", and the graphviz package or the
        Graphviz program `dot` is missing.
        """
        if engine not in _ENGINES:
            raise GraphError(f'engine must be "dot", "own" or None, not {engine!r}')
        if engine != "own":
            try:
                return _rendered(self.source, "svg").decode("utf-8")
            except ExtraMissingError:
                if engine == "dot":
                    raise
        return vector.drawn(self._picture)

    def _repr_svg_(self) -> str:
        return self.svg()

    def save(self, path: str | Path) -> Path:
        """Write the picture to a file: .svg, or .dot for its source, for which nothing need be installed; .png or .pdf,
        which Graphviz makes. Returns the path.

        Raises GraphError for another suffix, ExtraMissingError where the graphviz package or the Graphviz program
        `dot` is needed and missing.
        """
        path = Path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind == "dot":
            path.write_text(self.source, encoding="utf-8")
        elif kind == "svg":
            path.write_text(self.svg(), encoding="utf-8")
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
            'this needs the graphviz package: pip install "tapegrad[examples]" (`.source`, and .svg by our own layout, '
            "are there without it)"
        ) from error
    try:
        picture: bytes = graphviz.Source(source).pipe(format=kind)
    except graphviz.ExecutableNotFound as error:
        raise ExtraMissingError(
            "this needs the Graphviz program `dot`, which is not on the PATH: install it with your system's package "
            "manager (apt, brew, winget or conda install graphviz); `.source`, and .svg by our own layout, are there "
            "without it"
        ) from error
    except graphviz.CalledProcessError as error:
        raise GraphError(f"Graphviz could not draw this: {error}") from error
    return picture


def draw(
    value: Value | Recording, *, direction: str = "LR", max_nodes: int = 150, depth: int | None = None,
    fold: bool | None = None,
) -> Drawing:  # fmt: skip
    """The graph that a value was computed by: a box for every value, between them the operations.

    A box shows label, shape, data and gradient; leaves are blue, `value` itself is yellow, constants are grey and
    drawn wherever they are used. Views are no operations: an edge says which part of an array it takes.
    Gradients are those accumulated by `backward`, 0 before it. Of a recording what it returns is drawn, with the
    numbers of the latest replay, and with gradients once one was computed.

    Of a large graph, blocks of operations that repeat are drawn once: `×1,000` says how often, a dashed arrow leads to
    the next round, and boxes show the numbers of the first and the last round. If that is still too much, the
    operations nearest to the result are drawn, and `…` stands for the rest. So a picture always comes.

    Args:
        value: what to draw, with all that it depends on: a Value, or a recording.
        direction: where the graph runs, "LR" (left to right), "RL", "TB" (top to bottom) or "BT".
        max_nodes: draw no more values than this, but all results.
        depth: show only so many operations back from the value.
        fold: whether to draw repeated blocks once; None for where there would be more than `max_nodes` values.

    Raises GraphError for another direction, a value without elements, a recording whose result does not depend on its
    arguments; StaleValueError for a value that is no longer on its tape.

    >>> import numpy as np
    >>> import tapegrad as tg
    >>> a, b = tg.Value(2.0, label="a"), tg.Value(-3.0, label="b")
    >>> picture = draw(a * b + a)
    >>> picture
    <Drawing of 4 values and 2 operations>
    >>> "{a | data 2.0000 | grad 0.0000}" in picture.source
    True
    >>> picture.svg(engine="own").startswith("<svg")
    True
    >>> for _ in range(1000):
    ...     a = np.sin(a)
    >>> draw(a).note
    '1,001 values; what repeats is drawn once, with ×n for n times'
    """
    given: Any = value
    if not isinstance(given, Value | Recording):
        raise GraphError(f"draw takes a Value or a recording, not {type(given).__name__}")
    if direction not in _DIRECTIONS:
        raise GraphError(f"direction must be one of {', '.join(_DIRECTIONS)}, not {direction!r}")
    if depth is not None and whole_number(depth, "depth") < 0:
        raise GraphError(f"depth must not be negative, it is {depth}")
    if whole_number(max_nodes, "max_nodes") < 1:
        raise GraphError(f"max_nodes must be at least 1, it is {max_nodes}")
    graph = Graph(given, max_nodes, depth, fold)
    return Drawing(graph.picture(direction), graph.operations)
