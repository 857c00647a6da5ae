"""Whether arrays that may come from anywhere are a program: all that sweeps and kernels take for granted.

A sweep reads and writes an arena at places that instructions state, and trusts them. So each is held to its bounds here
before any sweep may see it. What is required is what recordings look like, and no more general:

- leaves come first, those of the inputs before constants; results follow each other in the arena without gaps, in the
  order of the instructions. So there is one interval for each result, and the arena has as many numbers as are made;
- an instruction reads what stands before its own result, so numbers are made before they are read;
- records of instructions over many elements follow each other in the side array in the same order, without gaps;
- the parameters of a record are such as the kernel accepts, and say of each operand that it lies within the span of
  places that the record states.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import DataError
from tapegrad.layout import Layout, is_dense
from tapegrad.ops import RUN, TABLE, Elementwise, Structured, record
from tapegrad.ops.record import DENSE, ELEMENTWISE, STRUCTURED, UNIFORM, A, B, C, Record
from tapegrad.program import Code
from tapegrad.tape import EXPECT, LEAF
from tapegrad.tape.instruction import views_of

_MOST_PLACES = 1 << 32
# No length or stride is larger, so that no product of it with an index overflows.
_LARGEST = 1 << 40


def check(code: Code, input_sizes: Sequence[int], most: int) -> None:
    """Raise DataError unless code can be swept. `most` numbers are what an arena may have, a result of the function,
    and an operand that shows the same numbers again and again."""
    rows = code.rows.astype(np.int64)
    sizes = _check_leaves(rows, code.inputs, input_sizes, len(code.constants))
    first = len(sizes)
    _check_operations(rows[first:, record.OPCODE])
    wide = rows[first:, record.OPCODE] >= RUN
    counts = np.concatenate([sizes, np.where(wide, rows[first:, B], 1)])
    # No sum of as many numbers below 2**32 overflows.
    ends = np.cumsum(counts)
    size = int(ends[-1]) if len(ends) else 0
    if not np.array_equal(rows[:, record.OUT], ends - counts):
        raise DataError("results do not follow each other in the arena")
    if size != code.size or size > min(most, _MOST_PLACES - 2):
        raise DataError(f"an arena of {size} numbers, of which {code.size} are declared and {most} allowed")
    steps = rows[first:]
    _check_scalars(steps[~wide], int(sizes[: code.inputs].sum()), int(sizes.sum()))
    _check_records(steps[wide], code.side, most)
    _check_outputs(code, most)


def _check_leaves(rows: np.ndarray, inputs: int, input_sizes: Sequence[int], constants: int) -> np.ndarray:
    """The sizes of the leaves, which come first."""
    leaves = int(np.argmin(np.append(rows[:, record.OPCODE] == LEAF, False)))
    own = rows[:leaves]
    if inputs != len(input_sizes) or inputs > leaves or list(input_sizes) != own[:inputs, B].tolist():
        raise DataError(f"inputs of {own[:inputs, B].tolist()[:20]} numbers, arguments of {list(input_sizes)[:20]}")
    if np.any(own[:, C]) or np.any(own[:, A] > 1):
        raise DataError("a leaf has an operand")
    if int(own[inputs:, B].sum()) != constants:
        raise DataError(f"{constants} numbers for constants of {int(own[inputs:, B].sum())}")
    sizes: np.ndarray = own[:, B]
    return sizes


def _check_operations(opcodes: np.ndarray) -> None:
    for op in np.unique(opcodes).tolist():
        row = TABLE[op % RUN] if op < 2 * RUN and op % RUN < len(TABLE) else None
        if not (op == EXPECT or isinstance(row, Elementwise) or (op >= RUN and isinstance(row, Structured))):
            name = "" if row is None else f", {row.name}"
            raise DataError(f"an instruction has the operation {op}{name}, which cannot stand there")


def _check_scalars(steps: np.ndarray, first_constant: int, first_result: int) -> None:
    if np.any(steps[:, A:] >= steps[:, record.OUT, None]):
        raise DataError("an instruction reads a number that is not computed before it")
    guards = steps[steps[:, record.OPCODE] == EXPECT]
    # What a guard found is known before any replay.
    if np.any((guards[:, B] < first_constant) | (guards[:, B] >= first_result)):
        raise DataError("a guard compares with what is no constant")


def _check_records(steps: np.ndarray, side: np.ndarray, most: int) -> None:
    numbers, at = side.tolist(), 0
    # Many instructions have the same shapes.
    known: set[tuple[int, ...]] = set()
    for op, out, k, count, zero in steps.tolist():
        found = record.read(numbers, k) if k == at and not zero else None
        if found is None or found.out != out or found.size != count:
            raise DataError(f"an instruction over many elements has no record of its own at {k}")
        at = k + found.length
        operation: Any = TABLE[op - RUN]
        if len(found.operands) != operation.arity and operation.arity >= 0:
            raise DataError(f"{operation.name} has {len(found.operands)} operands")
        for slot, low, high in found.operands:
            empty = low == high == 0 and 0 <= slot <= out
            if not empty and not 0 <= slot + low < slot + high <= out:
                raise DataError(f"an operand of {operation.name} reaches places {slot + low} to {slot + high}")
        key = (op, found.kind, count, *found.params, *(x for _, *span in found.operands for x in span))
        if key not in known:
            _check_parameters(operation, found, most)
            known.add(key)
    if (at != len(numbers)) if at else (numbers != [0]):
        raise DataError(f"records end at {at}, the side array at {len(numbers)}")


def _check_parameters(operation: Any, found: Record, most: int) -> None:
    if any(abs(x) > _LARGEST for x in found.params):
        raise DataError(f"{operation.name} cannot have parameters as large as {max(found.params, key=abs)}")
    if isinstance(operation, Elementwise):
        modes = record.modes(found.params, operation.arity) if found.kind == ELEMENTWISE else None
        accepted = modes is not None
    else:
        modes, accepted = None, found.kind == STRUCTURED and _accepts(operation, found.params)
    said = views_of(operation, found.params) if accepted else None
    if said is None:
        raise DataError(f"{operation.name} cannot have the parameters {found.params[:12]}")
    layouts, shape = said
    if not _bounded(shape, most) or math.prod(shape) != found.size or len(layouts) != len(found.operands):
        raise DataError(f"{operation.name} of {len(found.operands)} operands makes {shape}, not {found.size} numbers")
    for j, (layout, (_, low, high)) in enumerate(zip(layouts, found.operands, strict=True)):
        if not _bounded(layout.shape, most) or layout.reach != (low, high):
            raise DataError(
                f"operand {j} of {operation.name} is said to reach {low} to {high}, and reaches {layout.reach}"
            )
        if modes is not None and not _has_mode(modes[j], layout):
            raise DataError(f"operand {j} of {operation.name} does not have the strides of its mode")


def _accepts(operation: Any, params: list[int]) -> bool:
    if operation.accepts is None:
        raise DataError(
            f"{operation.name} is declared without the rule `accepts`, so that nothing is known of the parameters that "
            "its kernels can be given"
        )
    return bool(operation.accepts(params))


def _bounded(shape: Sequence[int], most: int) -> bool:
    """Whether so many elements may be gone through. A length of zero does not make others harmless: a kernel may go
    through these all the same."""
    return all(n >= 0 for n in shape) and math.prod(n for n in shape if n) <= most


def _has_mode(mode: int, layout: Layout) -> bool:
    if mode == DENSE:
        return is_dense(layout.shape, layout.strides)
    return mode == record.STRIDED or (mode == UNIFORM and not any(layout.strides))


def _check_outputs(code: Code, most: int) -> None:
    for output in code.outputs:
        if output.place is None:
            continue
        strides = output.layout.strides
        if not _bounded(output.shape, most) or not output.layout.size or any(abs(s) > _LARGEST for s in strides):
            raise DataError(f"a result of shape {output.shape}")
        low, high = (output.place + offset for offset in output.layout.reach)
        if not 0 <= low < high <= min(code.size, _end_of_result(code, low)):
            raise DataError(f"a result is said to stand at places {low} to {high}")
    _check_labels(code)


def _end_of_result(code: Code, place: int) -> int:
    """Where the result ends that has a place: an output is a view of what one instruction has made."""
    if not 0 <= place < code.size:
        return 0
    op, start, _, count, _ = code.rows[np.searchsorted(code.rows[:, record.OUT], place, "right") - 1].tolist()
    return int(start + (count if op == LEAF or op >= RUN else 1))


def _check_labels(code: Code) -> None:
    labelled = np.array(list(code.labels), np.int64).reshape(-1, 2)
    if np.any((labelled < 0) | (labelled > code.size)) or np.any(labelled.sum(1) > code.size):
        raise DataError("a label names what is not in the arena")
