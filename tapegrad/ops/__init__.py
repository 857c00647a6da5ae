"""The operation table: every operation that a tape can hold, one row each.

Read `spec` for the shape of a row, then `arithmetic` for what rows look like. Importing this package fills the table;
the order of the imports is the order of the opcodes.
"""

from tapegrad.ops import (
    activation,
    arithmetic,
    control,
    external,
    indexing,
    linalg,
    loss,
    normalization,
    ordering,
    random,
    record,
    reduction,
    selection,
    transcendental,
)
from tapegrad.ops.columns import has_kernel, is_inlined, passive_rows
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
    "normalization",
    "ordering",
    "passive_rows",
    "random",
    "record",
    "reduction",
    "selection",
    "structured",
    "ternary",
    "transcendental",
    "unary",
]
