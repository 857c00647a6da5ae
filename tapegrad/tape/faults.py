"""Errors of operands that an instruction refused while it was computed."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.errors import IndexRangeError, LabelError, OperationError
from tapegrad.ops import RUN, TABLE
from tapegrad.tape.instruction import instruction
from tapegrad.tape.lines import Line, line_of


def operand_error(row: np.ndarray, side: np.ndarray, values: np.ndarray, line: Line | None = None) -> Exception:
    """The error for an instruction that refused its operands, made by the operation's rule `refusal` if it has one.

    It names the line that recorded the instruction, where that is known.
    """
    op = int(row[0])
    operation: Any = TABLE[op % RUN]
    error = None
    if op >= RUN and getattr(operation, "refusal", None) is not None:
        found = instruction(row[None], side, 0)
        numbers = [values[x.places()].reshape(x.layout.shape) for x in found.operands]
        error = operation.refusal(found.params, *numbers)
    if error is None:
        error = OperationError(f"the kernel of {operation.name} is missing, or refused its operands")
    return with_line(error, line)


def with_line(error: Any, line: Line | None) -> Any:
    """An error of operands, with the line that recorded the instruction, where that is known and not said yet."""
    said = any("(recorded at " in str(x) for x in error.args)
    if line is not None and not said and isinstance(error, LabelError | IndexRangeError | OperationError):
        error.args = (f"{error} (recorded at {line})", *error.args[1:])
    return error


def refused(tape: Any, row: np.ndarray) -> Exception:
    """As `operand_error`, of a tape; besides, the results of the instruction are set to NaN."""
    n = int(row[3]) if row[0] >= RUN else 1
    tape.values[row[1] : row[1] + n] = np.nan
    return operand_error(row, tape.side, tape.values, line_of(tape, int(row[1])))
