"""A recorded program compiled: what replays it in place of the interpreter."""

from __future__ import annotations

import ctypes
import functools
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.compiled import vector
from tapegrad.compiled.callable import FLUSH, flushes
from tapegrad.native import build
from tapegrad.native.lanes import RowsWriter
from tapegrad.native.long_rows import LongRowsWriter
from tapegrad.native.places import Places
from tapegrad.native.rows import Rows
from tapegrad.native.scalars import ScalarsWriter
from tapegrad.native.schedule import Additions, Interpreted, Schedule
from tapegrad.native.writer import Writer
from tapegrad.ops import RUN, TABLE
from tapegrad.ops.record import OPCODE
from tapegrad.program.workspace import Workspace
from tapegrad.sweeps import FORWARD, VALUES
from tapegrad.tape import EXPECT

_CALL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)
# Words of the table of calls for each stretch that the interpreter carries out: the function, its words, step numbers.
_WORDS = 3


class Native:
    """A program as machine code, for its values. It is replayed as a `Program` is.

    Args:
        program: the program.

    Attributes:
        run: the compiled function, to be called with what `call` gives.
        seconds: what compiling took.
        reasons: why some operations are left to the interpreter, by their names.
    """

    def __init__(self, program: Any) -> None:
        started = time.perf_counter()
        self._whole = weakref.ref(program)
        self.structure, self.shapes, self.sweeps = program.structure, program.shapes, program.sweeps
        self.calls, self.decided, self.leaves = program.calls, program.decided, program.leaves
        schedule = Schedule(program)
        dtype = program.code.dtype
        lanes = vector.register_bits() // (8 * dtype.itemsize)
        places = Places(schedule, lanes)
        if not places.affine:
            places = Places(schedule, lanes, roll=False)
        text, end = _text(program, schedule, places, lanes)
        self._before, self._length = places.before, max(end, places.after)
        self.code, self.steps = places.moved(self._length)
        self.guards = np.flatnonzero(self.steps[:, OPCODE] == EXPECT)
        self.reasons = schedule.reasons
        self._interpreted = [np.array(n.numbers) for n in schedule.nodes if isinstance(n, Interpreted)]
        self.text = text
        self.run = _CALL(build.address_of(text, scalars=bool((program.steps[:, OPCODE] < RUN).any())))
        only = self.code.outputs[0] if program.scalar is not None else None
        self.scalar = None if only is None else only.place
        # Where the entries of a sparse matrix stand that the results make up, kept by whoever asks for it.
        self.positions: Any = None
        self.workspaces: list[Workspace] = []
        self.seconds = time.perf_counter() - started

    @property
    def whole(self) -> Any:
        """The program."""
        return self._whole()

    @property
    def nbytes(self) -> int:
        """What it takes in memory, without workspaces."""
        return int(self.steps.nbytes + self.code.nbytes)

    @property
    def arena_bytes(self) -> int:
        """What the numbers of one replay take."""
        return int((self._before + self._length) * self.code.dtype.itemsize)

    def take(self) -> Workspace:
        """A workspace that nobody else uses until it is given back."""
        try:
            return self.workspaces.pop()
        except IndexError:
            return self._workspace()

    def _workspace(self) -> Workspace:
        size = self._before + self._length
        whole = np.zeros(size + 1 + 64, self.code.dtype)
        # Vectors are loaded fastest from addresses that are multiples of their size.
        skip = (-(whole.ctypes.data // whole.itemsize) - self._before) % 16
        values = whole[skip + self._before : skip + self._before + self._length + 1]
        self.code.put_constants(values)
        return Workspace(self.code, self.shapes, self.leaves, values)

    def give(self, workspace: Workspace) -> None:
        """Give a workspace back."""
        self.workspaces.append(workspace)

    def seed(self, has_aux: bool) -> int:
        """There is none: gradients are programs of their own."""
        return -1

    def sweep(self, workspace: Workspace, tasks: int, seed: int, wrt: Any) -> int:
        """Compute the values. Returns the number of the first step that failed, or -1."""
        call = workspace.frames.get("native")
        if call is None:
            call = workspace.frames["native"] = self.call(workspace)
        return int(self.run(*call[0]))

    def call(self, workspace: Workspace) -> tuple[tuple[int, int], Any]:
        """What the compiled function is called with, and what must be kept as long."""
        values, keep, words = workspace.values, [], []
        if self._interpreted:
            self.whole.prepare(FORWARD)
        for numbers in self._interpreted:
            steps = np.ascontiguousarray(self.steps[numbers])
            flags = np.zeros(len(self.code.side), np.uint8)
            frame = self.sweeps.frame(steps, self.code.side, flags, values, values, workspace.scratch, -1, VALUES)
            numbers = numbers.astype(np.int64)
            words += [self.sweeps.sweep.address(values.dtype), frame.words.buffer_info()[0], numbers.ctypes.data]
            keep.append((frame, numbers))
        table = np.array(words or [0], np.uint64)
        return (values.ctypes.data, table.ctypes.data), (table, keep)

    def result(self, workspace: Workspace) -> Any:
        """All that the function returned, after a sweep."""
        return pytree.unflatten(self.structure, [o.read(workspace.values) for o in self.code.outputs])


def _text(program: Any, schedule: Schedule, places: Places, lanes: int) -> tuple[str, int]:
    """The program in LLVM's language, and how long its arena is, room for vectors included."""
    dtype = program.code.dtype
    functions, lines = list[str](), list[str]()
    declared: dict[str, str] = {}
    failed, interpreted, end = "-1", 0, places.size

    def take(found: str) -> None:
        # The first step that failed: as an unsigned number -1 is the largest.
        nonlocal failed
        n = len(lines)
        lines.append(f"%less{n} = icmp ult i64 {found}, {failed}")
        lines.append(f"%failed{n} = select i1 %less{n}, i64 {found}, i64 {failed}")
        failed = f"%failed{n}"

    for number, node in enumerate(schedule.nodes):
        if isinstance(node, Rows):
            writer = Writer(dtype, lanes)
            kept = places.kept.__getitem__
            given = node, writer, places, kept, places.size, places.constants
            long = LongRowsWriter(*given, schedule.owners.of)
            if long.possible:
                functions.append(long.write_rows(f"node{number}"))
                end = max(end, long.scratch_end)
            else:
                rows = RowsWriter(*given)
                functions.append(rows.write(f"node{number}"))
                end = max(end, rows.scratch_end)
            declared |= writer.declared
            lines.append(f"call void @node{number}(ptr %v)")
        elif isinstance(node, Interpreted):
            n = len(lines)
            lines += _interpreter_call(n, interpreted, failed, any(_opaque(program, i) for i in node.numbers))
            failed = f"%failed{n}"
            interpreted += 1
        elif isinstance(node, Additions):
            moved = functools.partial(_moved, schedule, places)
            functions.append(_additions(f"node{number}", node, dtype, moved))
            lines.append(f"call void @node{number}(ptr %v)")
        else:
            steps = schedule.steps[node.numbers].astype(np.int64)
            for at, segment in enumerate(places.segments[number]):
                writer = Writer(dtype, 1)
                made = ScalarsWriter(
                    writer, steps, node.numbers, functools.partial(_moved, schedule, places),
                    lambda place: bool(places.kept[schedule.owner(place)]), places.constants,
                )  # fmt: skip
                name = f"node{number}_{at}"
                functions.append(made.write(segment, name))
                declared |= writer.declared
                lines.append(f"%found{number}_{at} = call i64 @{name}(ptr %v)")
                take(f"%found{number}_{at}")
    main = ["define i64 @tapegrad_program(ptr %v, ptr %table) {", "begin:"]
    if flushes(dtype):
        before, after = _control(FLUSH)
        declared |= {"sti": "declare void @llvm.x86.sse.stmxcsr(ptr)", "ldm": "declare void @llvm.x86.sse.ldmxcsr(ptr)"}
        lines = [*before, *lines, *after]
    text = [*sorted(set(declared.values())), *functions, *main, *lines, f"ret i64 {failed}", "}"]
    return "\n".join(text), end


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
    return "\n".join([f"define internal void @{name}(ptr noalias %v) {{", *writer.lines, "ret void", "}"])


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

