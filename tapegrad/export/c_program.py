"""One program as a function of C: straight code, with loops where blocks of instructions repeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.errors import UnsupportedError
from tapegrad.export.c_calls import same_in_c, statements
from tapegrad.export.c_kernels import CALLS, REFUSING
from tapegrad.export.c_rules import literal
from tapegrad.native.roll import Repeat, Straight, rolled
from tapegrad.ops import RUN, TABLE, Elementwise
from tapegrad.ops.record import A, B, operand_spans, parameters
from tapegrad.program import Code
from tapegrad.sweeps import callbacks
from tapegrad.tape import EXPECT
from tapegrad.tape.instruction import views_of

# A loop must save so many instructions.
_LEAST = 16
# The places that are looked at when loops are looked for: those of the result and of so many operands.
_PLACES = 3


class ProgramInC:
    """Writes the statements that carry out a program in an arena `v`.

    Args:
        code: of the program.
        name: what functions and tables that it needs begin with.

    Attributes:
        lines: the statements.
        before: functions and tables that must stand before them.
        used: the operations that they call functions for.
        kernels: the matrix functions that they call, by name.
        room: how many numbers the arena has, with room behind it for what calls need in between.
        loops: how many loops over repeated blocks there are.
    """

    def __init__(self, code: Code, name: str = "f") -> None:
        self.code, self.name, self.lines, self.loops = code, name, list[str](), 0
        self.used: set[Any] = set()
        self.kernels: set[str] = set()
        self.before: list[str] = []
        self.room = code.size
        self._steps = [self._step(row) for row in code.steps.tolist()]
        self._places = np.array([places[: 1 + _PLACES] for _, places, _ in self._steps], np.int64).reshape(-1, 4)
        names: dict[Any, int] = {}
        keys = [names.setdefault(key, len(names)) for key, _, _ in self._steps]
        self._write(rolled(np.array(keys, np.int64), self._places, _LEAST), (), 1)

    def _step(self, row: list[int]) -> tuple[Any, list[int], tuple[int, ...]]:
        """What must be equal in all rounds of a loop, the places, and the parameters."""
        op, out, a, b, c = row
        if op < RUN:
            # Which guard did not hold need not be known, so guards may be in loops.
            return op, [out, a, b, c], ()
        operation: Any = TABLE[op - RUN]
        if not isinstance(operation, Elementwise) and operation.name not in CALLS and not operation.opaque:
            raise UnsupportedError(f"the operation {operation.name} cannot be written in C")
        slots = [slot for slot, _, _ in operand_spans(self.code.side, a)]
        params = tuple(parameters(self.code.side, a))
        # Loops know three operands; with more, each instruction is unlike any other.
        unlike = out if len(slots) > _PLACES else -1
        places = [out, *slots, *[slots[-1] if slots else out] * (_PLACES - len(slots))]
        same = same_in_c(callbacks.call_of(params[0])) if operation.opaque else None
        return (op, params if same is None else same, b, len(slots), unlike), places, params

    def _write(self, parts: Sequence[Straight | Repeat], periods: tuple[int, ...], depth: int) -> None:
        for part in parts:
            if isinstance(part, Straight):
                for j in range(part.start, part.start + part.length):
                    self._instruction(j, periods, depth)
                continue
            counter = f"t{len(periods)}"
            self.loops += 1
            self._line(depth, f"for (long {counter} = 0; {counter} < {part.count}; {counter}++) {{")
            self._write(part.body, (*periods, part.period), depth + 1)
            self._line(depth, "}")

    def _line(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def _instruction(self, j: int, periods: tuple[int, ...], depth: int) -> None:
        places = [str(p) for p in self._steps[j][1]]
        for column in range(1 + _PLACES):
            base = int(self._places[j, column])
            terms = [str(base)]
            for loop, period in enumerate(periods):
                # How far the place moves from one round to the next.
                stride = int(self._places[j + period, column]) - base
                terms += [f"t{loop}" if stride == 1 else f"{stride} * t{loop}"] if stride else []
            if column < len(places):
                places[column] = " + ".join(terms)
        op, (out, *operands), params = int(self.code.steps[j, 0]), places, self._steps[j][2]
        if op == EXPECT:
            self._line(depth, f"if (differ(v[{operands[0]}], v[{operands[1]}])) return 1;")
            return
        operation: Any = TABLE[op % RUN]
        if operation.opaque:
            given = operands[: len(operand_spans(self.code.side, int(self.code.steps[j, A])))]
            for line in statements(callbacks.call_of(params[0]), out, given, self):
                self._line(depth, line)
            return
        self.used.add(operation)
        if op < RUN:
            numbers = ", ".join(f"v[{x}]" for x in operands[: operation.arity])
            self._line(depth, f"v[{out}] = op_{operation.name}({numbers});")
        elif isinstance(operation, Elementwise):
            self._run(operation, out, operands, params, depth)
        else:
            count = len(operand_spans(self.code.side, int(self.code.steps[j, A])))
            for line in CALLS[operation.name](out, operands[:count], params, operation.name):
                refusing = operation.name in REFUSING
                self._line(depth, f"if ({line.rstrip(';')}) return 2;" if refusing else line)

    # What calls are written with

    def has_room_for(self, count: int) -> None:
        """Have so many numbers of room behind the arena."""
        self.room = max(self.room, self.code.size + count)

    def table(self, numbers: np.ndarray) -> str:
        """The name of a table of constants."""
        name = f"{self.name}_{len(self.before)}"
        self.before.append("\n".join(table_of(name, np.asarray(numbers, self.code.dtype).reshape(-1))))
        return name

    def step(self, program: Any) -> tuple[str, int, tuple[str, int, int] | None]:
        """A function that carries out another program in an arena that it is given: its name, the room that it takes,
        and a table of its constants, with their place and number, which must be in the arena already."""
        name = f"{self.name}_{len(self.before)}_step"
        written = ProgramInC(program.code, name)
        self.used |= written.used
        self.kernels |= written.kernels
        body = "\n".join([f"static int {name}(real *v)", "{", *written.lines, "    return 0;", "}"])
        self.before += [*written.before, body]
        place, numbers = constants_of(program.code)
        return name, written.room, (self.table(numbers), place, len(numbers)) if len(numbers) else None

    def _run(self, operation: Elementwise, out: str, operands: list[str], params: tuple[int, ...], depth: int) -> None:
        found = views_of(operation, params)
        assert found is not None
        layouts, shape = found
        own, step = [out], 1
        for d in reversed(range(len(shape))):
            own.append(f"i{d}" if step == 1 else f"{step} * i{d}")
            step *= shape[d]
        given = []
        for place, layout in zip(operands, layouts, strict=False):
            steps = [f"i{d}" if s == 1 else f"{s} * i{d}" for d, s in enumerate(layout.strides) if s and shape[d] > 1]
            given.append(f"v[{' + '.join([place, *steps])}]")
        for d, n in enumerate(shape):
            self._line(depth + d, f"for (long i{d} = 0; i{d} < {n}; i{d}++)")
        target = " + ".join([own[0], *(term for d, term in zip(reversed(range(len(shape))), own[1:], strict=True)
                                       if shape[d] > 1)])  # fmt: skip
        self._line(depth + len(shape), f"v[{target}] = op_{operation.name}({', '.join(given)});")


def constants_of(code: Code) -> tuple[int, np.ndarray]:
    """The place of the first constant, and the numbers of all: they stand behind each other."""
    inputs = code.rows[: code.inputs]
    return int(inputs[:, B].sum()), code.constants


def table_of(name: str, numbers: np.ndarray) -> list[str]:
    """A table of constants."""
    texts, lines = [literal(x, numbers.dtype) for x in numbers.tolist()], [f"static const real {name}[] = {{"]
    for at in range(0, len(texts), 6):
        lines.append("    " + ", ".join(texts[at : at + 6]) + ",")
    return [*lines, "};"]
