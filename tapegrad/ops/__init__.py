"""The operation table: every operation that a tape can hold, one row each.

Read `spec` for the shape of a row, then `arithmetic` for what rows look like. Importing this package fills the table;
the order of the imports is the order of the opcodes.
"""

from tapegrad.ops import (  # noqa: I001  (the order is the opcodes' order)
    control,
    selection,
    arithmetic,
    transcendental,
    activation,
    reduction,
    linalg,
    indexing,
    loss,
    ordering,
    external,
)
from tapegrad.ops.spec import (
    ALL,
    BY_NAME,
    BY_UFUNC,
    RUN,
    TABLE,
    Elementwise,
    Interval,
    Operation,
    Structured,
    binary,
    has_kernel,
    is_inlined,
    passive_rows,
    structured,
    ternary,
    unary,
)

__all__ = [
    "ALL",
    "BY_NAME",
    "BY_UFUNC",
    "RUN",
    "TABLE",
    "Elementwise",
    "Interval",
    "Operation",
    "Structured",
    "activation",
    "arithmetic",
    "binary",
    "control",
    "external",
    "has_kernel",
    "indexing",
    "is_inlined",
    "linalg",
    "loss",
    "ordering",
    "passive_rows",
    "reduction",
    "selection",
    "structured",
    "ternary",
    "transcendental",
    "unary",
]
