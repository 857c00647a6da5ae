"""An instruction as the rules for derivatives see it: its operands and result as Values."""

from __future__ import annotations

from typing import Any, NamedTuple

from tapegrad import tape
from tapegrad.errors import UnsupportedError
from tapegrad.layout import Layout
from tapegrad.value import Value

SCALAR = Layout((), ())


class Operand(NamedTuple):
    """What an instruction reads: a view into what the instruction or input `source` made."""

    value: Value
    source: int
    offset: int
    layout: Layout


class Instruction(NamedTuple):
    """An instruction with its operands and result as Values."""

    row: Any
    operands: list[Operand]
    result: Value
    params: list[int]


def views_of(row: Any, params: list[int]) -> tuple[list[Layout], tuple[int, ...]]:
    """As `tape.views_of`. Raises UnsupportedError for an operation without a rule `views`."""
    found = tape.views_of(row, params)
    if found is None:
        raise UnsupportedError(
            f"a second derivative through {row.name} needs its rules `views`, `pullback` and `pushforward`"
        )
    return found
