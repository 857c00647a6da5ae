"""Which inputs a sparsity pattern may hang on, and which integers decide the branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import OPCODE, A, B, operand_spans


def indexing(program: Any, whole: Sequence[bool]) -> tuple[int, ...]:
    """The inputs of a program that are no floats, but for those that are one integer (`whole`) and reach no index.

    Otherwise every iteration number would be a pattern of its own.
    """
    code = program.code
    opcodes = code.steps[:, OPCODE].tolist()
    rows = [i for i, op in enumerate(opcodes) if op >= RUN and _is_indexing(TABLE[op % RUN])]
    read = [span for i in rows for span in operand_spans(code.side, int(code.steps[i, A]))]

    def reaches(place: int) -> bool:
        active, _ = program.flow(code.steps, np.array([place]), np.zeros(len(TABLE), np.uint8))
        return any(active[low:high].any() for _, low, high in read)

    given = [w for w in range(len(whole)) if w not in program.floats]
    return tuple(w for w in given if not whole[w] or reaches(code.spans[w][0]))


def _is_indexing(row: Any) -> bool:
    # Which elements depend on each other is said by a function of the numbers only where these are indices.
    return callable(getattr(row, "depends", None))


def decided(code: Any, whole: dict[int, int], arena: np.ndarray) -> dict[int, int]:
    """The numbers that guards hold integers among the arguments to, by leaf; `whole` has the leaf of each place."""
    held = code.steps[code.guards][:, [A, B]].tolist() if whole else []
    return {whole[a]: int(arena[b]) for a, b in held if a in whole}
