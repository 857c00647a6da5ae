"""An instruction as the rules for derivatives see it: its operands and result as Values."""

from __future__ import annotations

from typing import Any, NamedTuple

from tapegrad.errors import UnsupportedError
from tapegrad.layout import Layout, dense_strides
from tapegrad.ops import Elementwise
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


def views_of(row: Any, params: list[int], what: str) -> tuple[list[Layout], tuple[int, ...]]:
    """The operands of an instruction over many elements as layouts, and the shape of its result.

    Raises UnsupportedError for a structured one without the rule.
    """
    if isinstance(row, Elementwise):
        ndim = params[0]
        shape = tuple(params[1 : 1 + ndim])
        starts = [2 + ndim + j * (1 + ndim) for j in range(row.arity)]
        return [Layout(shape, tuple(params[at : at + ndim])) for at in starts], shape
    if row.views is None:
        raise UnsupportedError(f"{what} {row.name} needs its rules `views`, `pullback` and `pushforward`")
    views, shape = row.views(params)
    return [Layout(tuple(n), dense_strides(n) if s is None else tuple(s)) for n, s in views], tuple(shape)
