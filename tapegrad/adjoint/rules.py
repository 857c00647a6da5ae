"""The rules of the operation table as they are run on Values, and what the record of an instruction tells them."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

from tapegrad.errors import UnsupportedError
from tapegrad.layout import Layout, dense_strides
from tapegrad.ops import Elementwise


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


@functools.cache
def plain(rule: Callable[..., Any]) -> Callable[..., Any]:
    """A rule as Python, with njit functions that it names as Python too: what is run on Values."""
    rule = getattr(rule, "py_func", rule)
    names = {name: g for name, g in rule.__globals__.items() if name in rule.__code__.co_names and _is_compiled(g)}
    cells = tuple(rule.__closure__ or ())
    if not names and not any(_is_compiled(c.cell_contents) for c in cells):
        return rule
    scope = {**rule.__globals__, **{name: plain(g) for name, g in names.items()}}
    closure = tuple(types.CellType(plain(c.cell_contents)) if _is_compiled(c.cell_contents) else c for c in cells)
    return types.FunctionType(rule.__code__, scope, rule.__name__, rule.__defaults__, closure or None)


def _is_compiled(x: Any) -> bool:
    return callable(x) and isinstance(getattr(x, "py_func", None), types.FunctionType)
