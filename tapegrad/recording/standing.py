"""What stands for a function, and what recordings of one function share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tapegrad.arguments import Input, Spec
from tapegrad.attached import attached
from tapegrad.captures import Captures, can_change


class StandIn:
    """What stands for a function `f`: differentiating it is differentiating f."""

    f: Callable[..., Any]


def captures_for(f: Callable[..., Any], spec: Spec) -> Captures:
    """What a function takes from around it. All its recordings share this, but for those with objects among the
    arguments, whose attributes it may read."""
    given = [leaf.value for leaf in spec.leaves if not isinstance(leaf, Input)]
    return Captures(f, given) if any(map(can_change, given)) else attached(f, "captures", Captures)
