"""Which names the code of a function reads."""

from __future__ import annotations

import dis
import functools
import keyword
from types import CodeType
from typing import NamedTuple


class Names(NamedTuple):
    """What code names, the functions defined inside it included.

    Attributes:
        globals: names that are looked up in the module.
        attributes: names that may be those of attributes: all that stand in the code, and all strings in it that could
            be names, since `getattr` takes those.
    """

    globals: frozenset[str]
    attributes: frozenset[str]


@functools.lru_cache(1 << 12)
def names_of(code: CodeType) -> Names:
    """The names that code reads."""
    wanted = {str(i.argval) for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    attributes = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, str) and constant.isidentifier() and not keyword.iskeyword(constant):
            attributes.add(constant)
        elif isinstance(constant, CodeType):
            inner = names_of(constant)
            wanted |= inner.globals
            attributes |= inner.attributes
    return Names(frozenset(wanted), frozenset(attributes))
