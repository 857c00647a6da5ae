"""The arguments of a saved recording, as they are written on a command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input
from tapegrad.errors import DataError, ShapeError
from tapegrad.recording import Recording


def point(recording: Recording, texts: Sequence[str] | None) -> tuple[Any, ...]:
    """The arguments of a recording: what the texts say in JSON, lists for arrays; ones where there are none.

    Raises DataError for a text that is no JSON, ShapeError for another number of arguments, or another nesting.
    """
    spec = recording.spec
    if texts is None:
        leaves = [_ones(leaf) if isinstance(leaf, Input) else leaf.value for leaf in spec.leaves]
        return tuple(pytree.unflatten(spec.structure, leaves))
    if len(texts) != len(pytree.children(spec.structure)):
        raise ShapeError(f"the recording takes {len(pytree.children(spec.structure))} arguments, --at has {len(texts)}")
    if len(spec.leaves) == len(texts):
        pairs = zip(texts, spec.leaves, strict=True)
        return tuple(_fitting(i, _parsed(text), leaf) for i, (text, leaf) in enumerate(pairs))
    raise ShapeError("the arguments of this recording are nested, which --at cannot say: call it from Python")


def _ones(leaf: Input) -> Any:
    if leaf.is_integer:
        return 1
    return np.ones(leaf.shape, leaf.dtype) if leaf.shape else leaf.dtype.type(1)


def _fitting(number: int, x: Any, leaf: Any) -> Any:
    """What was parsed, as an array or float where the recording takes one: JSON tells neither from a list or an int."""
    if isinstance(leaf, Input) and isinstance(x, int | float | list):
        if not leaf.scalar:
            try:
                return np.asarray(x, leaf.dtype)
            except (TypeError, ValueError):
                raise ShapeError(f"argument {number}: {x!r} is no array of numbers") from None
        return float(x) if leaf.dtype.kind == "f" and isinstance(x, int) else x
    return x


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{text!r} is no JSON ({error}): write an argument as 2.5 or '[0.1, 0.2]'") from None
