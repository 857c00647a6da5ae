"""The one number among the outputs of a program whose gradient can be taken."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.adjoint import matching
from tapegrad.errors import NonScalarError
from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import OPCODE, OUT
from tapegrad.program.code import Code


def scalar_place(code: Code, structure: Any, has_aux: bool) -> int:
    """The place of the only output, or with `has_aux` of the first, which is one number.

    Raises NonScalarError, StructureError, DTypeError where there is none.
    """
    matching.check_one_result(structure, has_aux)
    output = code.outputs[0]
    if output.place is None:
        if isinstance(output.constant, bool | np.bool_):
            raise matching.truth_result()
        if isinstance(output.constant, int | float | np.number) or (
            isinstance(output.constant, np.ndarray) and output.constant.size == 1
        ):
            # The result does not depend on the inputs, so its gradient is zero: the adjoint of one is put at the
            # place after the last, which no instruction reads.
            return code.size
        raise NonScalarError(f"the function returned {type(output.constant).__name__}, not a scalar Value")
    if output.layout.size != 1:
        raise NonScalarError(
            f"a gradient needs a scalar result, the function returned shape {output.shape}: sum it first"
        )
    made = code.rows[code.rows[:, OUT] == output.place, OPCODE]
    if len(made) and TABLE[int(made[0]) % RUN].truth:
        raise matching.truth_result()
    return output.place
