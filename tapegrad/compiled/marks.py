"""Marks on functions that compiled code treats in a way of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_F = TypeVar("_F", bound=Callable[..., object])


def compiled_in(module: str) -> Callable[[_F], _F]:
    """Mark a function whose place in compiled code is taken by another of the same name, which stands in `module`.

    The marked function is what runs where nothing is compiled; that module is imported only to compile.
    """

    def mark(function: _F) -> _F:
        function.__compiled_in__ = module  # type: ignore[attr-defined]
        return function

    return mark


def inlined(function: _F) -> _F:
    """Mark a function of one expression that is put in place of its calls, as text: it costs nothing to compile."""
    function.__inlined__ = True  # type: ignore[attr-defined]
    return function
