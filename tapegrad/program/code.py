"""The code of a recorded program: plain arrays that are never changed, and that all replays share."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tapegrad.errors import DataError, OperationError
from tapegrad.layout import Layout
from tapegrad.ops import BY_NAME, RUN, TABLE
from tapegrad.ops.record import OPCODE, OUT, A, B, params_at
from tapegrad.sweeps import callbacks
from tapegrad.tape import EXPECT, LEAF
from tapegrad.tape.lines import Lines
from tapegrad.value import Value


class Output(NamedTuple):
    """A result of a program: where it begins in the arena, and its layout there; or, if it does not depend on the
    inputs, itself as `constant`. `whole` says whether it is an integer."""

    place: int | None
    layout: Layout
    constant: Any
    whole: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self.layout.shape

    @property
    def places(self) -> np.ndarray | None:
        """The places of its numbers, in row-major order."""
        return None if self.place is None else self.place + self.layout.offsets()

    def read(self, arena: np.ndarray) -> Any:
        """Its number, or a copy of its numbers, as they stand in an arena."""
        if self.place is None:
            if isinstance(self.constant, Value):
                return np.zeros(self.shape, arena.dtype)
            # A copy: whoever changes what one call returned must not change what the next one returns.
            return self.constant.copy() if isinstance(self.constant, np.ndarray) else self.constant
        if self.layout.shape:
            return self.window(arena).copy()
        return _whole(arena[self.place]) if self.whole else float(arena[self.place])

    def window(self, arena: np.ndarray) -> np.ndarray:
        """Its numbers in an arena, as a view that must not be written to where numbers are shown twice."""
        assert self.place is not None
        size = arena.itemsize
        return np.ndarray(
            self.layout.shape, arena.dtype, arena, self.place * size, tuple(size * s for s in self.layout.strides)
        )


def _whole(x: Any) -> int:
    if not np.isfinite(x):
        # No function of integers has such a result, but a file may say what it likes.
        raise DataError(f"a whole number is {x}: the recording was loaded from a file that makes no sense")
    return int(x)


@dataclass(frozen=True, eq=False)
class Code:
    """A program: instructions over an arena of numbers.

    Attributes:
        dtype: float64 or float32.
        rows: (instructions, 5), uint32. Leaves are among them: those of the inputs first, then constants.
        side: int64, the records of instructions over many elements; see `ops.record`.
        constants: the numbers of the leaves that are no inputs, one after the other.
        inputs: how many leaves are inputs. Their numbers are at the places from 0 on.
        size: numbers in the arena.
        outputs: what the program returns.
        labels: names of places in the arena, with how many numbers each names.
        lines: which line of the user's code recorded each row, if that was noted.
        operations: the names of the operations that `rows` has, by opcode.
    """

    dtype: np.dtype
    rows: np.ndarray
    side: np.ndarray
    constants: np.ndarray
    inputs: int
    size: int
    outputs: tuple[Output, ...]
    labels: dict[tuple[int, int], str]
    lines: Lines | None = None

    def __post_init__(self) -> None:
        for own in (self.rows, self.side, self.constants):
            own.flags.writeable = False

    def __getstate__(self) -> dict[str, Any]:
        # What is given goes; what follows from it is found out again. Opcodes may be others in another process, so the
        # names of the operations go too.
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"operations": self.operations}

    def __setstate__(self, state: dict[str, Any]) -> None:
        names = state.pop("operations")
        missing = [name for name in names.values() if name not in BY_NAME]
        if missing:
            raise OperationError(
                f"what was recorded uses {', '.join(missing)}: declare the operation here, too, before it is unpickled"
            )
        to = np.arange(max(names, default=0) + 1, dtype=np.uint32)
        for opcode, name in names.items():
            to[opcode] = BY_NAME[name].opcode
        opcodes = state["rows"][:, OPCODE]
        state["rows"] = rows = state["rows"].copy()
        rows[:, OPCODE] = to[opcodes % RUN] + opcodes // RUN * RUN
        self.__dict__.update(state)
        self.__post_init__()

    @cached_property
    def operations(self) -> dict[int, str]:
        """The names of the operations, by opcode."""
        return {op: TABLE[op].name for op in np.unique(self.rows[:, OPCODE] % RUN).tolist()}

    @cached_property
    def steps(self) -> np.ndarray:
        """The instructions that compute something."""
        return np.ascontiguousarray(self.rows[self.rows[:, OPCODE] != LEAF])

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        """For each input its first place, and how many numbers it has."""
        return [(int(row[OUT]), int(row[B])) for row in self.rows[: self.inputs]]

    @cached_property
    def wanted(self) -> tuple[int, ...]:
        """The inputs with respect to which a gradient was wanted when the function was recorded."""
        return tuple(np.flatnonzero(self.rows[: self.inputs, A]).tolist())

    @cached_property
    def guards(self) -> np.ndarray:
        """Which steps check that a replay goes the way that was recorded."""
        return np.flatnonzero(self.steps[:, OPCODE] == EXPECT)

    @cached_property
    def counts(self) -> np.ndarray:
        """How many numbers each step computes."""
        return np.where(self.steps[:, OPCODE] >= RUN, self.steps[:, B], 1).astype(np.int64)

    @cached_property
    def output_places(self) -> np.ndarray:
        """The places of all numbers of the outputs, but of those that are constants."""
        return np.concatenate([np.zeros(0, np.int64), *(o.places for o in self.outputs if o.places is not None)])

    @property
    def nbytes(self) -> int:
        """What the arrays take in memory."""
        return sum(array.nbytes for array in (self.rows, self.side, self.constants, self.steps))

    def derivatives_in(self, arena: np.ndarray) -> list[np.ndarray | None]:
        """What stands at the places of each output in an arena of tangents; None where an output is a constant."""
        return [None if o.place is None else o.window(arena).copy() for o in self.outputs]

    def arena(self) -> np.ndarray:
        """A new arena with the constants in place, and one number more at the end, which no instruction reads."""
        values = np.zeros(self.size + 1, self.dtype)
        self.put_constants(values)
        return values

    def put_constants(self, arena: np.ndarray) -> None:
        """Put the constants where they stand in an arena."""
        at = 0
        leaves = self.rows[self.inputs :]
        for out, n in leaves[leaves[:, OPCODE] == LEAF][:, [OUT, B]].tolist():
            arena[out : out + n] = self.constants[at : at + n]
            at += n


def with_calls(code: Code, calls: dict[int, Any]) -> tuple[Code, dict[int, Any]]:
    """Code in the process where it is unpickled, in which the functions that it calls have other numbers; and these
    functions by their numbers."""
    side, own = code.side.copy(), {}
    numbers = {number: callbacks.register(call) for number, call in calls.items()}
    for row in code.rows[code.rows[:, OPCODE] == BY_NAME["external"].opcode + RUN]:
        at = params_at(side, int(row[A]))
        side[at] = number = numbers[int(side[at])]
        own[number] = callbacks.call_of(number)
    return replace(code, side=side), own
