"""A program as one module of LLVM's language: a function for each node, and one that calls them in order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.compiled.callable import FLUSH, flushes
from tapegrad.errors import OperationError
from tapegrad.native.lanes import RowsWriter
from tapegrad.native.long_rows import LongRowsWriter
from tapegrad.native.outer import Outer, outer_of
from tapegrad.native.places import Places
from tapegrad.native.rows import Rows
from tapegrad.native.scalars import ScalarsWriter
from tapegrad.native.schedule import Additions, Interpreted, Schedule
from tapegrad.native.vector_functions import settled
from tapegrad.native.writer import USUAL, Writer
from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import OPCODE

# The most items of a loop over rows that are written out one by one: LLVM takes minutes for a few times as many.
_MOST_ITEMS = 20_000
# Words of the table of calls for each stretch that the interpreter carries out: the function, its words, step numbers.
_WORDS = 3


class Module(NamedTuple):
    """A program in LLVM's language.

    Attributes:
        functions: what is declared, and the functions of nodes.
        lines: that call them in order.
        failed: where these leave the number of the step that failed, or -1.
        size: how long the arena is, room for vectors included.
        outer: the arrays that may stand outside of it.
        interpreted: how many stretches the interpreter carries out.
        dtype: of the numbers.
    """

    functions: list[str]
    lines: list[str]
    failed: str
    size: int
    outer: Outer
    interpreted: int
    dtype: np.dtype

    def function(self, head: str) -> list[str]:
        """The function that computes the program once, of the arena `%v` and the table of calls `%table`."""
        # The word behind those of the calls, and what comes then.
        at = _WORDS * self.interpreted
        pointers = [f"%stop = getelementptr i64, ptr %table, i64 {at}"]
        pointers.append(f"%outer = getelementptr i64, ptr %table, i64 {at + 1}")
        return [f"{head}(ptr %v, ptr %table) {{", "begin:", *pointers, *self.lines, f"ret i64 {self.failed}", "}"]

    def text(self) -> str:
        """The whole module, with the function `tapegrad_program`."""
        call = "%found = call i64 @once(ptr %v, ptr %table)"
        text = whole(self, self.function("define internal i64 @once"), [call])
        # Where results are not waited for, choices take less time than jumps.
        for mark in USUAL.values():
            text = text.replace(mark, "")
        return text


def whole(module: Module, functions: Sequence[str], lines: Sequence[str]) -> str:
    """A module whose function `tapegrad_program`, of `%v` and `%table`, returns what lines leave in `%found`."""
    declared, text = list[str](), [*module.functions, *functions]
    if flushes(module.dtype):
        before, after = _control(FLUSH)
        declared = ["declare void @llvm.x86.sse.stmxcsr(ptr)", "declare void @llvm.x86.sse.ldmxcsr(ptr)"]
        lines = [*before, *lines, *after]
    main = ["define i64 @tapegrad_program(ptr %v, ptr %table) {", "begin:", *lines, "ret i64 %found", "}"]
    return settled("\n".join([*declared, *text, *main]))


def module_of(program: Any, schedule: Schedule, places: Places, lanes: int) -> Module:
    """The program in LLVM's language."""
    dtype = program.code.dtype
    functions, lines = list[str](), list[str]()
    declared: dict[str, str] = {}
    failed, interpreted, end = "-1", 0, places.size
    writers = {n: _long_rows(program, schedule, places, lanes, n) for n in range(len(schedule.nodes))}
    short = {n: node for n, node in enumerate(schedule.nodes) if isinstance(node, Rows) and writers[n] is None}
    outer = outer_of(schedule, places, short, lanes)

    def take(found: str) -> None:
        # The first step that failed: as an unsigned number -1 is the largest.
        nonlocal failed
        n = len(lines)
        lines.append(f"%less{n} = icmp ult i64 {found}, {failed}")
        lines.append(f"%failed{n} = select i1 %less{n}, i64 {found}, i64 {failed}")
        failed = f"%failed{n}"

    for number, node in enumerate(schedule.nodes):
        if isinstance(node, Rows):
            long = writers[number]
            if long is not None:
                functions.append(long.write_rows(f"node{number}"))
                end, writer = max(end, long.scratch_end), long.w
            else:
                writer = Writer(dtype, lanes, program.long)
                kept = places.kept.__getitem__
                given = node, writer, places, kept, places.size, places.constants, outer.arrays, places.tables
                rows = RowsWriter(*given)
                functions.append(rows.write(f"node{number}"))
                end = max(end, rows.scratch_end)
            declared |= writer.declared
            lines.append(f"call void @node{number}(ptr %v, ptr %stop, ptr %outer)")
        elif isinstance(node, Interpreted):
            n = len(lines)
            lines += _interpreter_call(n, interpreted, failed, any(_opaque(program, i) for i in node.numbers))
            failed = f"%failed{n}"
            interpreted += 1
        elif isinstance(node, Additions):
            moved = functools.partial(_moved, schedule, places)
            functions.append(_additions(f"node{number}", node, dtype, moved))
            lines.append(f"call void @node{number}(ptr %v, ptr %stop)")
        else:
            steps = schedule.steps[node.numbers].astype(np.int64)
            for at, segment in enumerate(places.segments[number]):
                writer = Writer(dtype, 1, program.long)
                made = ScalarsWriter(
                    writer, steps, node.numbers, functools.partial(_moved, schedule, places),
                    lambda place: bool(places.kept[schedule.owner(place)]), places.constants,
                )  # fmt: skip
                name = f"node{number}_{at}"
                functions.append(made.write(segment, name))
                declared |= writer.declared
                lines.append(f"%found{number}_{at} = call i64 @{name}(ptr %v, ptr %stop)")
                take(f"%found{number}_{at}")
    return Module([*sorted(set(declared.values())), *functions], lines, failed, end, outer, interpreted, dtype)


def _long_rows(program: Any, schedule: Schedule, places: Places, lanes: int, number: int) -> LongRowsWriter | None:
    """The writer of a loop over rows with loops inside of rows; None for all else."""
    node = schedule.nodes[number]
    if not isinstance(node, Rows):
        return None
    writer = Writer(program.code.dtype, lanes, program.long)
    given = node, writer, places, places.kept.__getitem__, places.size, places.constants
    made = LongRowsWriter(*given, schedule.owners.of)
    if not made.possible and len(made.items) > _MOST_ITEMS:
        raise OperationError(
            f"{len(made.items)} instructions over {node.rows} rows would have to be written out, and at most "
            f"{_MOST_ITEMS} are: blocks of them that repeat could not be found, or not be made loops"
        )
    return made if made.possible else None


def _moved(schedule: Schedule, places: Places, place: int) -> int:
    """Where a place of the program's own arena is in that of the compiled program."""
    return places(schedule.owner(place), place)


def _additions(name: str, node: Additions, dtype: np.dtype, to: Callable[[int], int]) -> str:
    """The function that adds numbers to results."""
    writer = Writer(dtype, 1)
    real, size = writer.real, writer.dtype.itemsize
    for pair in node.pairs:
        p, q = (writer.new(f"getelementptr {real}, ptr %v, i64 {to(place)}", False).text for place in pair)
        x, y = (writer.new(f"load {real}, ptr {r}, align {size}", False) for r in (p, q))
        writer.lines.append(f"store {real} {writer.binary('fadd', x, y).text}, ptr {p}, align {size}")
    return "\n".join([f"define internal void @{name}(ptr noalias %v, ptr %stop) {{", *writer.lines, "ret void", "}"])


def _control(bits: int) -> tuple[list[str], list[str]]:
    """Lines that set bits of the processor's control word, and that set it back."""
    before = [
        "%control = alloca i32, align 4", "%flushing = alloca i32, align 4",
        "call void @llvm.x86.sse.stmxcsr(ptr %control)", "%before = load i32, ptr %control",
        f"%with = or i32 %before, {bits}", "store i32 %with, ptr %flushing",
        "call void @llvm.x86.sse.ldmxcsr(ptr %flushing)",
    ]  # fmt: skip
    return before, ["call void @llvm.x86.sse.ldmxcsr(ptr %control)"]


def _opaque(program: Any, step: int) -> bool:
    return bool(TABLE[int(program.steps[step, OPCODE]) % RUN].opaque)


def _interpreter_call(n: int, at: int, failed: str, opaque: bool) -> list[str]:
    """Lines that have the interpreter carry out a stretch. After a guard has failed no Python function is called."""
    words = [f"%at{n}_{i} = getelementptr i64, ptr %table, i64 {_WORDS * at + i}" for i in range(_WORDS)]
    words += [f"%p{n}_{i} = load ptr, ptr %at{n}_{i}" for i in range(_WORDS)]
    begin = []
    if opaque:
        begin = [f"%ok{n} = icmp slt i64 {failed}, 0", f"br i1 %ok{n}, label %go{n}, label %stop{n}"]
        begin += [f"stop{n}:", f"br label %end{n}", f"go{n}:"]
    else:
        begin = [f"br label %go{n}", f"go{n}:"]
    return [
        *begin, *words,
        f"%w{n}_1 = getelementptr i64, ptr %p{n}_1, i64 1", f"%w{n}_2 = getelementptr i64, ptr %p{n}_1, i64 2",
        f"%rc{n} = call i32 %p{n}_0(ptr %p{n}_1, ptr %w{n}_1, ptr %w{n}_2)",
        f"%step{n} = load i64, ptr %p{n}_1", f"%bad{n} = icmp sge i64 %step{n}, 0",
        f"br i1 %bad{n}, label %fail{n}, label %good{n}", f"fail{n}:",
        f"%which{n} = getelementptr i64, ptr %p{n}_2, i64 %step{n}", f"%number{n} = load i64, ptr %which{n}",
        f"br label %good{n}", f"good{n}:", f"%own{n} = phi i64 [-1, %go{n}], [%number{n}, %fail{n}]",
        f"%less{n} = icmp ult i64 %own{n}, {failed}",
        f"%new{n} = select i1 %less{n}, i64 %own{n}, i64 {failed}", f"br label %end{n}", f"end{n}:",
        f"%failed{n} = phi i64 [%new{n}, %good{n}]" + (f", [{failed}, %stop{n}]" if opaque else ""),
    ]  # fmt: skip
