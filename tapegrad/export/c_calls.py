"""Functions of the library that instructions call, in C.

Whoever makes such calls says here how C carries them out. A function of a user's is none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapegrad.errors import UnsupportedError

# Of a call, the place of its result, those of its operands, and the `ProgramInC` that is written: the statements.
Write = Callable[[Any, str, Sequence[str], Any], list[str]]
# Of a call, what is equal in calls that do the same, to be written as rounds of one loop.
Same = Callable[[Any], Any]
_kinds: dict[type, tuple[Write, Same | None]] = {}


def call_in_c(kind: type, write: Write, same: Same | None = None) -> None:
    """Have calls of a class be written in C; see `Write` and `Same`."""
    _kinds[kind] = write, same


def same_in_c(call: Any) -> Any:
    """What is equal in calls that do the same; None where each is unlike any other."""
    _, same = _kinds.get(type(call), (None, None))
    return None if same is None else same(call)


def statements(call: Any, out: str, operands: Sequence[str], program: Any) -> list[str]:
    """What carries out a call. Raises UnsupportedError where C cannot."""
    write, _ = _kinds.get(type(call), (None, None))
    if write is None:
        called = getattr(getattr(call, "rules", None), "name", type(call).__name__)
        raise UnsupportedError(
            f"it calls the Python function {called}, which C cannot. A function that is written in NumPy can be "
            "recorded itself, without `external`, `checkpoint`, `custom_vjp` or `custom_jvp` around it; of others, "
            "compute the result outside and pass it as an argument"
        )
    return write(call, out, operands, program)
