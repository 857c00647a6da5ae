"""Marks on functions that are not compiled like others."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_F = TypeVar("_F", bound=Callable[..., object])


def compiled_in(module: str) -> Callable[[_F], _F]:
    """Mark a function in place of which compiled code calls the function of the same name in `module`.

    The marked function runs where nothing is compiled. `module` is imported only when something is compiled.
    """

    def mark(function: _F) -> _F:
        function.__compiled_in__ = module  # type: ignore[attr-defined]
        return function

    return mark


def inlined(function: _F) -> _F:
    """Mark a function that returns one expression. In compiled code its calls are replaced by the text of that
    expression, so that Numba has no call to compile."""
    function.__inlined__ = True  # type: ignore[attr-defined]
    return function
