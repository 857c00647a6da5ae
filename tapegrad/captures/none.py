"""What a function takes from around it that came from a file: nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.captures.captures import Captures


def _nothing() -> None:
    pass


class NoCaptures(Captures):
    """Of a function whose code is not here: nothing that it reads can change."""

    def __init__(self) -> None:
        super().__init__(_nothing)

    def settled(self) -> object:
        """As `current`."""
        return self.token

    def watch(self, call: Callable[..., Any], *args: Any, is_called: bool = True) -> Any:
        """The result of a call."""
        return call(*args)
