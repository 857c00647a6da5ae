"""What the functions of `schedules` return: functions that can be pickled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

from tapegrad.pickling import to_pickle

Given = ParamSpec("Given")


class Scheduled:
    """A schedule: a function of the number of the step. Pickled, it is what has made it, and what that was given."""

    def __init__(self, make: Any, given: Any, named: dict[str, Any]) -> None:
        self._rate: Callable[[int], float] = make.__wrapped__(*given, **named)
        self._made = make, given, named
        self.__qualname__ = make.__qualname__

    def __call__(self, step: int) -> float:
        return self._rate(step)

    def __reduce__(self) -> Any:
        make, given, named = self._made
        what = f"what {make.__qualname__} was given"
        own = {name: to_pickle(x, what) for name, x in named.items()}
        return functools.partial(make, **own), tuple([to_pickle(x, what) for x in given])


def scheduled(make: Callable[Given, Callable[[int], float]]) -> Callable[Given, Callable[[int], float]]:
    """Decorator: a function that returns a schedule has it be one that can be pickled."""

    @functools.wraps(make)
    def made(*given: Given.args, **named: Given.kwargs) -> Scheduled:
        return Scheduled(made, given, named)

    return made
