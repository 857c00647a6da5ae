"""An instruction as the rules for derivatives see it: its operands and result as Values."""

from __future__ import annotations

from typing import Any, NamedTuple

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
