"""What stands for a function, and what recordings of one function share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.arguments import Input, Spec
from tapegrad.attached import attached
from tapegrad.captures import Captures, can_change
from tapegrad.errors import OperationError


class StandIn:
    """What stands for a function `f`: differentiating it is differentiating f.

    Attributes:
        forced: whether its programs are compiled: True for always, False for never, None where that is chosen.
    """

    f: Callable[..., Any]
    forced: bool | None = None


def behind(f: Any, forced: bool | None) -> tuple[Any, bool | None]:
    """The function that another may stand for, and whether its programs are compiled, where that is said.

    Raises OperationError where what is said is no truth value.
    """
    if forced is not None and not isinstance(forced, bool):
        raise OperationError(f"compile must be True, False or None, not {forced!r}")
    while isinstance(f, StandIn):
        f, forced = f.f, f.forced if forced is None else forced
    return f, forced


def captures_for(f: Callable[..., Any], spec: Spec) -> Captures:
    """What a function takes from around it. All its recordings share this, but for those with objects among the
    arguments, whose attributes it may read."""
    given = [leaf.value for leaf in spec.leaves if not isinstance(leaf, Input)]
    return Captures(f, given) if any(map(can_change, given)) else attached(f, "captures", Captures)
