"""Which numbers the way back of an operation reads. Others may be forgotten before it."""

from __future__ import annotations

import functools
import inspect

from tapegrad.ops.rules import parameters_read
from tapegrad.ops.spec import Elementwise, Operation, Structured


@functools.cache
def reads_back(operation: Operation) -> tuple[tuple[bool, ...], bool]:
    """Of which operands, and whether of the result, the reverse sweep reads the numbers.

    For an operation of any number of operands there is one entry, which holds for all of them.
    """
    if isinstance(operation, Elementwise):
        rule = operation.partials
        *operands, result = [name in parameters_read(rule) for name in _parameters(rule)]
        return tuple(operands), result
    if not isinstance(operation, Structured):
        return (True,), True
    if operation.reads is not None:
        return operation.reads
    # The numbers are the last parameter but one, before the adjoints. A kernel that reads any may read all.
    read = _parameters(operation.reverse)[-2] in parameters_read(operation.reverse)
    return (read,), read


def _parameters(rule: object) -> list[str]:
    return list(inspect.signature(getattr(rule, "py_func", rule)).parameters)  # type: ignore[arg-type]
