"""A compiled program in a loop over steps: what it carries from one step to the next stays in registers.

Called for every step, a program of a few numbers takes less time than the call, and than what is copied before and
after it through memory. Here the copies are written around it in one function, of which the compiler sees the whole.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from tapegrad.native import build
from tapegrad.native.module import Module, whole
from tapegrad.native.writer import Writer

# The most numbers that are copied in a step, and of one array; and the longest text of a program: beyond that the calls
# are a small part of the time, and compiling takes longer.
_COPIED, _ARRAY, _LONG = 256, 64, 30_000
# Up to so many numbers are copied one by one, as the program reads them.
_ONE_BY_ONE = 8
_CALL = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)

# Of an array: its place in the arena, how many numbers it has, and by how much further they stand in the data for each
# step.
Copy = tuple[int, int, int]


class Copies(NamedTuple):
    """What is copied in a step.

    Attributes:
        before: from the data to the arena, before the program is computed.
        kept: from the arena to the data, then.
        after: from the arena to the data, when it was computed.
        sums: likewise, added to what is there.
        carries: for arrays that go on to the next step, the place, how many numbers, and the place there.
        by: by how much the number of a step differs from that of the one before.
        number: the place of the number of the step, or -1.
    """

    before: tuple[Copy, ...]
    kept: tuple[Copy, ...]
    after: tuple[Copy, ...]
    sums: tuple[Copy, ...]
    carries: tuple[tuple[int, int, int], ...]
    by: int
    number: int

    @property
    def arrays(self) -> tuple[Copy, ...]:
        """Those that stand in the data, in order."""
        return (*self.before, *self.kept, *self.after, *self.sums)


class Steps:
    """The functions that carry out steps of a program.

    Args:
        module: the program.
    """

    def __init__(self, module: Module) -> None:
        self._module = module
        self._known: dict[Copies, Any] = {}

    def function(self, copies: Copies) -> Callable[[int, int], int] | None:
        """What carries out steps, called with the addresses of the arena and of words: the address of the program's
        table, the number of the first step, how many there are, what is added to the number of a step, and the
        addresses of the arrays of `copies` for step 0. It returns what the program does, and ends where that failed.

        None where calls of the program are a small part of what the steps take.
        """
        if copies not in self._known:
            sizes = [n for _, n, _ in (*copies.arrays, *copies.carries)]
            small = sum(sizes) <= _COPIED and max(sizes, default=0) <= _ARRAY
            found = None
            if small:
                # Where it cannot be compiled, the program is, and is called.
                with contextlib.suppress(RuntimeError, OSError, MemoryError):
                    found = _CALL(build.address_of(_text(self._module, copies), slp=True))
            self._known[copies] = found
        return self._known[copies]


def steps_of(module: Module) -> Steps | None:
    """The steps of a program; None where it is long, or reads or writes arrays outside of its arena."""
    long = sum(map(len, (*module.functions, *module.lines))) > _LONG
    return None if long or module.outer.arrays or module.interpreted else Steps(module)


def _text(module: Module, copies: Copies) -> str:
    w = Writer(module.dtype, 1)
    arrays = copies.arrays
    words = ["table", "first", "count", "start", *(f"d{i}" for i in range(len(arrays)))]
    kinds = ["ptr", "i64", "i64", "i64", *["ptr"] * len(arrays)]
    # An array stands in the data by itself, and nothing but its copies touches it.
    taken = [f"{kind}{' noalias' if kind == 'ptr' else ''} %{word}" for kind, word in zip(kinds, words, strict=True)]
    lines = [
        f"define internal i64 @steps(ptr noalias %v, {', '.join(taken)}) {{", "begin:", "br label %step", "step:",
        "%n = phi i64 [0, %begin], [%n.next, %good]", "%t = phi i64 [%first, %begin], [%t.next, %good]",
    ]  # fmt: skip
    w.lines = lines
    data = iter(_pointers(w, arrays))
    for place, n, _ in copies.before:
        _store(w, _place(w, place), _load(w, next(data), n))
    if copies.number >= 0:
        number = w.new(f"sitofp i64 {w.new('add i64 %start, %t', False).text} to {w.real}", False)
        _store(w, _place(w, copies.number), [(0, w.real, number.text)])
    for place, n, _ in copies.kept:
        _store(w, next(data), _load(w, _place(w, place), n))
    lines += ["%failed = call i64 @once(ptr %v, ptr %table)", "%bad = icmp sge i64 %failed, 0"]
    lines += ["br i1 %bad, label %end, label %good", "good:"]
    for place, n, _ in copies.after:
        _store(w, next(data), _load(w, _place(w, place), n))
    for place, n, _ in copies.sums:
        at = next(data)
        pairs = zip(_load(w, at, n), _load(w, _place(w, place), n), strict=True)
        _store(w, at, [(i, kind, w.new(f"fadd {kind} {x}, {y}", False).text) for (i, kind, x), (_, _, y) in pairs])
    # A step may exchange two arrays, so all are read before any is written.
    moved = [(to, _load(w, _place(w, place), n)) for place, n, to in copies.carries]
    for to, numbers in moved:
        _store(w, _place(w, to), numbers)
    lines += [
        "%n.next = add nuw nsw i64 %n, 1", f"%t.next = add nsw i64 %t, {copies.by}",
        "%more = icmp ult i64 %n.next, %count", "br i1 %more, label %step, label %end", "end:", "ret i64 %failed", "}",
    ]  # fmt: skip
    once = module.function("define internal i64 @once")
    once[0] = once[0].replace(") {", ") alwaysinline {")
    # A step waits for the one before, so what is usual is computed while it is asked whether it is: by jumps, which
    # processors foresee.
    likely = [f'!{i} = !{{!"branch_weights", i32 {a}, i32 {b}}}' for i, (a, b) in enumerate([(2000, 1), (1, 2000)])]
    return whole(module, [*likely, *once, *lines], [*_read(words, kinds), _called(words, kinds)])


def _read(words: Sequence[str], kinds: Sequence[str]) -> Iterator[str]:
    """Lines that read words."""
    for i, (word, kind) in enumerate(zip(words, kinds, strict=True)):
        yield f"%at.{word} = getelementptr i64, ptr %table, i64 {i}"
        yield f"%the.{word} = load {kind}, ptr %at.{word}, align 8"


def _called(words: Sequence[str], kinds: Sequence[str]) -> str:
    given = [f"{kind} %the.{word}" for kind, word in zip(kinds, words, strict=True)]
    return f"%found = call i64 @steps(ptr %v, {', '.join(given)})"


def _pointers(w: Writer, arrays: Sequence[Copy]) -> list[str]:
    """Where arrays stand in the data in this step."""
    found = []
    for i, (_, _, stride) in enumerate(arrays):
        moved = w.new(f"mul nsw i64 %t, {stride}", False).text
        found.append(w.new(f"getelementptr {w.real}, ptr %d{i}, i64 {moved}", False).text)
    return found


def _place(w: Writer, place: int) -> str:
    return w.new(f"getelementptr {w.real}, ptr %v, i64 {place}", False).text


def _load(w: Writer, pointer: str, n: int) -> list[tuple[int, str, str]]:
    """Numbers that stand side by side: for each, or for a vector of all, where it begins, its type and its name."""
    kind, count = (w.real, n) if n <= _ONE_BY_ONE else (f"<{n} x {w.real}>", 1)
    return [(i, kind, w.new(f"load {kind}, ptr {_at(w, pointer, i)}, align {_align(w)}", False).text)
            for i in range(count)]  # fmt: skip


def _store(w: Writer, pointer: str, numbers: Sequence[tuple[int, str, str]]) -> None:
    for i, kind, x in numbers:
        w.lines.append(f"store {kind} {x}, ptr {_at(w, pointer, i)}, align {_align(w)}")


def _at(w: Writer, pointer: str, i: int) -> str:
    return w.new(f"getelementptr {w.real}, ptr {pointer}, i64 {i}", False).text if i else pointer


def _align(w: Writer) -> int:
    return int(w.dtype.itemsize)
