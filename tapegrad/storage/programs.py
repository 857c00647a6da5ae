"""Programs as sections of a file, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.arguments import Input, Spec, Static
from tapegrad.errors import DataError, OperationError, StructureError, UnsupportedError
from tapegrad.layout import FlagLayout, Layout, dense
from tapegrad.ops import BY_NAME, RUN, TABLE, Structured
from tapegrad.ops.record import OPCODE, A, B, parameters, params_at
from tapegrad.program import Code, Output, Program
from tapegrad.program.code import with_calls
from tapegrad.storage import calls, plain, structures
from tapegrad.storage.check import check
from tapegrad.storage.container import Section
from tapegrad.storage.plain import Arrays
from tapegrad.tape import EXPECT, LEAF
from tapegrad.value import Value

_REALS: dict[int, np.dtype] = {8: np.dtype(np.float64), 4: np.dtype(np.float32)}
# The operations whose numbers are the same in every file.
_FIRST = [TABLE[LEAF].name, TABLE[EXPECT].name]
_EXTERNAL = BY_NAME["external"].opcode + RUN
# What an output is: a constant, numbers of the arena, a whole number, truth values, or an array without elements.
_CONSTANT, _NUMBERS, _WHOLE, _TRUTHS, _EMPTY = range(5)
# What a program is: the step of a loop, a branch of the function, or that which was replayed last.
STEP, BRANCH, LAST = range(3)
# The sections of each program, in order.
KINDS = ("PROG", "ROWS", "SIDE", "CONS", "OUTS")

# What single numbers among the arguments may be.
_OF_NUMBERS = tuple(map(np.dtype, (np.float16, np.float32, np.float64, np.int64)))


class Writer:
    """Makes the sections of programs, and gives each a number. What a program calls comes before it."""

    def __init__(self) -> None:
        self.arrays, self.names = Arrays(), list(_FIRST)
        self.sections: list[Section] = []
        self.entries: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}

    def program(self, program: Program, role: int = STEP) -> int:
        """The number of a program, written if it is not yet."""
        known = self._numbers.get(id(program))
        if known is not None:
            return known
        code = program.code
        called = {number: calls.to_json(call, self) for number, call in program.calls.items()}
        rows, side = self._renumbered(code, list(called))
        number = self._numbers[id(program)] = len(self.entries)
        head = np.array([code.dtype.itemsize, code.inputs, code.size, len(code.outputs), role], np.int64)
        outputs = np.array([x for output in code.outputs for x in _output_numbers(output)], np.int64)
        data = (head, rows.reshape(-1), side, code.constants, outputs)
        self.sections += [Section(kind, number, array) for kind, array in zip(KINDS, data, strict=True)]
        self.entries.append({
            "result": structures.to_json(program.structure, self.arrays),
            "constants": [self._constant(output) for output in code.outputs],
            "labels": [[place, n, label] for (place, n), label in code.labels.items()],
            # The folder is nobody's business who gets the file.
            "reads": [r and [r[0].replace("\\", "/").rsplit("/", 1)[-1], r[1], r[2]] for r in program.reads],
            "calls": list(called.values()),
        })  # fmt: skip
        return number

    def _renumbered(self, code: Code, called: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Instructions and records with operations numbered by their names, calls by their order."""
        to = np.zeros(max(code.operations, default=0) + 1, np.uint32)
        for opcode, name in code.operations.items():
            _check_declared(TABLE[opcode], name)
            if name not in self.names:
                self.names.append(name)
            to[opcode] = self.names.index(name)
        rows, side = code.rows.copy(), side_with_calls(code, called)
        rows[:, OPCODE] = to[rows[:, OPCODE] % RUN] + rows[:, OPCODE] // RUN * RUN
        return rows, side

    def _constant(self, output: Output) -> Any:
        if output.place is not None or isinstance(output.constant, Value):
            return None
        try:
            return plain.encoded(output.constant, self.arrays)
        except StructureError as error:
            raise StructureError(f"a result that depends on no argument: {error}") from None


def side_with_calls(code: Code, called: Sequence[int]) -> np.ndarray:
    """The records, with the functions that instructions call numbered by their place in `called`: the numbers that they
    have in a process say nothing to another one."""
    side = code.side.copy()
    for k in code.rows[code.rows[:, OPCODE] == _EXTERNAL, A].tolist():
        side[params_at(side, k)] = called.index(int(side[params_at(side, k)]))
    return side


def _check_declared(row: Any, name: str) -> None:
    if isinstance(row, Structured) and row.accepts is None:
        raise UnsupportedError(
            f"the operation {name} is declared without the rule `accepts`, which says of parameters in a file whether "
            "its kernels can be given them"
        )


def _output_numbers(output: Output) -> list[int]:
    kind = _CONSTANT if output.place is None else _WHOLE if output.whole else _NUMBERS
    if isinstance(output.constant, Value):
        kind = _EMPTY
    elif output.place is not None and isinstance(output.layout, FlagLayout):
        kind = _TRUTHS
    layout = output.layout if kind != _CONSTANT else dense(())
    return [kind, output.place or 0, len(layout.shape), *layout.shape, *layout.strides]


class Stored(NamedTuple):
    """A program as it stood in a file, checked: what it is, its code, the functions that it calls, and the rest."""

    role: int
    code: Code
    structure: Any
    calls: dict[int, Any]
    reads: list[Any]

    def program(self, spec: Spec) -> Program:
        """The program of a function of arguments that fit a spec."""
        made = Program(self.code, self.structure, spec, (), self.calls)
        made.reads = self.reads
        return made


class Reader:
    """Makes programs of sections. Raises DataError for what no program can be, OperationError for an operation that is
    not declared here.

    Args:
        arrays: those of the file.
        names: of its operations.
        classes: what named tuples and dataclasses may be.
        most: how many numbers an arena may have.
    """

    def __init__(self, arrays: Arrays, names: Sequence[str], classes: Sequence[type], most: int) -> None:
        self.arrays, self.most, self._classes = arrays, most, classes
        self._opcodes = _opcodes(names)
        self.stored: list[Stored] = []
        # What loops have made of programs, by whatever tells it apart.
        self.bodies: dict[Any, Any] = {}

    def add(self, sections: Sequence[Section], entry: Any, sizes: Sequence[int]) -> None:
        """Read the next program. `sizes` are those of the arguments; the operands of a step are not known yet."""
        number = len(self.stored)
        if [(s.kind, s.number) for s in sections] != [(kind, number) for kind in KINDS]:
            raise DataError(f"the sections of program {number} are missing, or in another order")
        head, rows, side, constants, outputs = (s.data for s in sections)
        real = _REALS.get(int(head[0]) if head.size == 5 else 0)
        types = [x.dtype for x in (head, rows, side, constants, outputs)]
        whole = np.dtype(np.int64)
        if real is None or types != [whole, np.dtype(np.uint32), whole, real, whole] or rows.size % 5:
            raise DataError(f"the sections of program {number} have other types than they must")
        given = plain.fields(entry, f"program {number}", "result", "constants", "labels", "reads", "calls")
        result, kept, labels, reads, called = given
        own = rows.reshape(-1, 5)
        own[:, OPCODE] = self._in_this_process(own[:, OPCODE])
        code = Code(
            dtype=real, rows=own, side=side, constants=constants, inputs=int(head[1]), size=int(head[2]),
            outputs=self._outputs(outputs, int(head[3]), kept, real),
            labels=dict(_label(label) for label in plain.items(labels, "labels")),
        )  # fmt: skip
        role = int(head[4])
        if not 0 <= code.inputs <= len(own) or role not in (STEP, BRANCH, LAST):
            raise DataError(f"program {number} has {code.inputs} inputs, and is of the kind {role}")
        check(code, own[: code.inputs, B].tolist() if role == STEP else sizes, self.most)
        structure = structures.from_json(result, self.arrays, self._classes)
        if structure.num_leaves != len(code.outputs):
            raise DataError(f"{len(code.outputs)} results, nested as {structure.num_leaves}")
        code, functions = self._called(code, plain.items(called, "calls"))
        where = [_read(r) for r in plain.items(reads, "reads")]
        self.stored.append(Stored(role, code, structure, functions, where))

    def _in_this_process(self, opcodes: np.ndarray) -> np.ndarray:
        if np.any(opcodes % RUN >= len(self._opcodes)):
            raise DataError("an instruction has an operation without a name")
        found: np.ndarray = self._opcodes[opcodes % RUN] + opcodes // RUN * RUN
        return found

    def _outputs(self, numbers: np.ndarray, count: int, kept: Any, dtype: np.dtype) -> tuple[Output, ...]:
        given, found, at = numbers.tolist(), [], 0
        for constant in plain.items(kept, "constants", count):
            kind, place, ndim = given[at : at + 3] if at + 3 <= len(given) else (-1, 0, 0)
            end = at + 3 + 2 * ndim
            if not (0 <= kind <= _EMPTY and 0 <= ndim <= 64 and end <= len(given)):
                raise DataError("a result is described by other numbers than it must be")
            shape, strides, at = tuple(given[at + 3 : end - ndim]), tuple(given[end - ndim : end]), end
            if any(n < 0 for n in shape) or (kind == _CONSTANT and ndim):
                raise DataError(f"a result of shape {shape}")
            if kind == _CONSTANT:
                x = plain.decoded(constant, self.arrays)
                found.append(Output(None, dense(np.shape(x)), x))
            elif constant is not None:
                raise DataError("a result is computed and a constant at once")
            elif kind == _EMPTY:
                layout = dense(plain.shape_of(list(shape)))
                if layout.size:
                    raise DataError(f"a result without elements has the shape {shape}")
                found.append(Output(None, layout, np.zeros(shape, dtype)))
            else:
                layout = (FlagLayout if kind == _TRUTHS else Layout)(shape, strides)
                found.append(Output(place, layout, None, kind == _WHOLE))
                if kind == _WHOLE and shape:
                    raise DataError("a whole number has a shape")
        if at != len(given):
            raise DataError("there are numbers behind those of the last result")
        return tuple(found)

    def _called(self, code: Code, entries: list[Any]) -> tuple[Code, dict[int, Any]]:
        """The code with functions of this process, each of which is called by what fits it."""
        found = [calls.from_json(entry, self) for entry in entries]
        rows = code.rows[code.rows[:, OPCODE] == _EXTERNAL]
        used = set()
        for k in rows[:, A].tolist():
            number, size, *sizes = parameters(code.side, k)
            used.add(number)
            if number >= len(found) or (size, sizes) != found[number][1:]:
                raise DataError(f"an instruction calls function {number} for {size} numbers of {sizes}")
        if used != set(range(len(found))):
            raise DataError("a function is called by no instruction")
        return with_calls(code, {i: call for i, (call, *_) in enumerate(found)}) if found else (code, {})


def _opcodes(names: Sequence[str]) -> np.ndarray:
    if list(names[: len(_FIRST)]) != _FIRST or len(set(names)) != len(names) or len(names) > RUN:
        raise DataError("the names of operations are not those of a program")
    if any(name.startswith("special_") for name in names):
        # The functions of scipy.special are declared when one is first used.
        from tapegrad.ops import special  # noqa: F401
    missing = [name for name in names if name not in BY_NAME]
    if missing:
        raise OperationError(
            f"it uses {', '.join(missing)[:500]}: declare the operation here, too, before the file is loaded"
        )
    return np.array([BY_NAME[name].opcode for name in names], np.uint32)


def _label(x: Any) -> tuple[tuple[int, int], str]:
    place, n, label = plain.items(x, "a label", 3)
    at = plain.whole(place, "a place", 0, 1 << 32), plain.whole(n, "a length", 0, 1 << 32)
    return at, plain.text_of(label, "a label")


def _read(x: Any) -> tuple[str, int, str] | None:
    if x is None:
        return None
    file, line, what = plain.items(x, "where a number was read", 3)
    return plain.text_of(file, "a file"), plain.whole(line, "a line", 0, 1 << 32), plain.text_of(what, "what was read")


def leaf_to_json(leaf: Any, arrays: Arrays) -> Any:
    """What a leaf of the arguments is, as JSON."""
    if isinstance(leaf, Input):
        return ["input", leaf.dtype.name, list(leaf.shape), leaf.scalar]
    try:
        return ["static", plain.encoded(leaf.value, arrays)]
    except StructureError:
        raise StructureError(
            f"an argument was the {type(leaf.value).__name__} {leaf.value!r:.60}, which is part of the recording and "
            "cannot be saved; numbers, arrays, truth values, texts and None can"
        ) from None


def leaf_from_json(x: Any, arrays: Arrays) -> Any:
    """The leaf that a file says."""
    kind, *rest = plain.items(x, "a leaf", most=4) or [None]
    if kind == "static" and len(rest) == 1:
        value = plain.decoded(rest[0], arrays)
        if not isinstance(value, np.ndarray | tuple):
            return Static(type(value), value)
    if kind == "input" and len(rest) == 3 and type(rest[2]) is bool:
        own = Input(plain.shape_of(rest[1]), plain.dtype_named(rest[0]), rest[2])
        if not own.scalar or (not own.shape and own.dtype in _OF_NUMBERS):
            return own
    raise DataError(f"{x!r:.80} is no leaf of arguments")


