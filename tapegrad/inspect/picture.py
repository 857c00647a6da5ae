"""What a picture of a graph consists of, however it is put on paper: boxes, signs, arrows, and words below it."""

from __future__ import annotations

from dataclasses import dataclass, field

# What a node is: a value; a constant, beside what reads it; an operation; or what is left out, as three dots.
VALUE, CONSTANT, OPERATION, MORE = "value", "constant", "operation", "more"
# How a value's box is filled.
LEAF, RESULT, PLAIN = "leaf", "result", "plain"


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes:
        name: unlike that of any other node.
        kind: VALUE, CONSTANT, OPERATION or MORE.
        head: of a value what it is called, and the shape of an array; of others what is written in them, in lines.
        fields: of a value ("data", lines) and ("grad", lines).
        array: whether a value is an array, whose numbers stand below its name.
        look: LEAF, RESULT or PLAIN.
        times: how often the block it is in repeats.
        tip: what is said where a pointer rests on it.
    """

    name: str
    kind: str
    head: tuple[str, ...]
    fields: tuple[tuple[str, tuple[str, ...]], ...] = ()
    array: bool = False
    look: str = PLAIN
    times: int = 1
    tip: str = ""


@dataclass(frozen=True)
class Edge:
    """An arrow between two nodes, by their names. `label` says which part of an array is taken; one that is `carried`
    leads back to a block that repeats."""

    start: str
    end: str
    label: str = ""
    carried: bool = False


@dataclass
class Picture:
    """Nodes and arrows, in the direction "LR", "RL", "TB" or "BT", and a note on what was left out."""

    direction: str
    nodes: list[Node] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    note: str = ""

    @property
    def values(self) -> int:
        """How many values are drawn, constants that stand beside operations among them."""
        return sum(1 for node in self.nodes if node.kind == VALUE)
