"""Functions of arrays in exported C: those of matrices that `export.c_matrices` has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapegrad.calls.arrays import ArrayCall
from tapegrad.export.c_calls import call_in_c
from tapegrad.export.c_matrices import written


def _matrix_function(call: ArrayCall, out: str, operands: Sequence[str], program: Any) -> list[str]:
    found, own = written(call.function.key, call.all_shapes), iter(operands)
    given = [f"v + {next(own)}" if x is None else program.table(x) for x in call.kept]
    program.kernels.add(found.kernel)
    room = [f"v + {program.code.size}"] if found.room else []
    program.has_room_for(found.room)
    arguments = ", ".join([f"v + {out}", *given, *room, *map(str, found.numbers)])
    return [f"if (k_{found.kernel}({arguments})) return 3;"]


def _same(call: ArrayCall) -> Any:
    constants = tuple([None if x is None else x.tobytes() for x in call.kept])
    return call.function.key, tuple(call.all_shapes), constants


call_in_c(ArrayCall, _matrix_function, _same)
