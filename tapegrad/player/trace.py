"""What the player shows, as plain data: instructions, their numbers, and every step of both sweeps."""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad.debugging.recordings import learn_lines
from tapegrad.inspect.algebra import algebra, call, symbol
from tapegrad.inspect.fold import reads_of
from tapegrad.inspect.reading import Reader, Shown
from tapegrad.inspect.recorded import argument_names
from tapegrad.inspect.text import number
from tapegrad.ops import Elementwise
from tapegrad.ops.record import OPCODE, OUT
from tapegrad.player.partials import Rule, partials
from tapegrad.player.sweep import Passed, Sweep, step_at
from tapegrad.recording import Recording
from tapegrad.tape import LEAF, Instruction, Operand
from tapegrad.tape.lines import Line

# So many of the user's lines are shown around each line that something was recorded in.
_AROUND = 3
# Of very many inputs and constants so many are shown.
_MOST_LEAVES = 400

Json = Any


def plain(x: float) -> Json:
    """A number as JSON has it; NaN and the infinities, which JSON lacks, by name.

    >>> plain(np.float32(0.1)), plain(float("nan")), plain(-np.inf)
    (0.1, 'nan', '-inf')
    """
    if np.isfinite(x):
        # The shortest text that gives the number back, also in float32.
        return float(str(x))
    return "nan" if np.isnan(x) else "inf" if x > 0 else "-inf"


class Trace:
    """Both sweeps of a recording, written down.

    Args:
        recording: what is played.
        args: the arguments, as `Sweep` takes them.
        limit: so many steps are shown; of more, those in the middle are one step together.
        numbers: so many numbers of an array are shown.
        source: whether to find the user's lines. Where they were not noted, the function is called once more for that.
    """

    def __init__(self, recording: Recording, args: Sequence[Any], limit: int, numbers: int, source: bool) -> None:
        self.sweep = sweep = Sweep(recording, args)
        self.recording, self.most = recording, numbers
        code = sweep.program.code
        active = sweep.active.astype(np.uint8)
        shown = Shown(
            code.rows, code.side, sweep.values, np.zeros(0), active, code.labels, code.size, len(code.rows)
        )
        self.inputs = argument_names(recording)
        self.reader = Reader(shown, self.inputs)
        # The rows of the code are leaves and steps; in `steps` the leaves are left out.
        self._row_of_step = np.flatnonzero(code.rows[:, OPCODE] != LEAF)
        count = len(self._row_of_step)
        head = range(count) if count <= limit else range((limit + 1) // 2)
        tail = range(0) if count <= limit else range(count - limit // 2, count)
        self.steps, self.left_out = [*head, *tail], range(len(head), count - len(tail))
        rows = [int(self._row_of_step[step]) for step in self.steps]
        self._instructions = {row: self.reader.instruction(row) for row in rows}
        leaves = self._leaves(rows)
        self._instructions = {row: self.reader.instruction(row) for row in leaves} | self._instructions
        self.shapes = self.reader.shapes(self._instructions.values()) | dict(enumerate(sweep.program.shapes))
        self.lines = self._lines(rows) if source else {}
        self.files = sorted({line.file for line in self.lines.values()})
        # Entries of the listing: leaves and steps, and one for all that is left out, which stands where these did.
        self.entries: list[int | None] = [*leaves, *rows[: len(head)]]
        if self.left_out:
            self.entries += [None, *rows[len(head) :]]
        self.number: dict[int | None, int] = {row: n for n, row in enumerate(self.entries)}

    def _lines(self, rows: Sequence[int]) -> dict[int, Line]:
        """The user's line for each row, where it is known and can be read."""
        program = self.sweep.program
        learn_lines(self.recording._branches, program, self.sweep.leaves)
        found = {row: program.lines.of(row) for row in rows} if program.lines is not None else {}
        return {row: line for row, line in found.items() if line is not None and line.source}

    def _leaves(self, rows: Sequence[int]) -> list[int]:
        code, found = self.sweep.program.code, set(range(min(self.sweep.program.code.inputs, _MOST_LEAVES)))
        read = {self.reader.row_of(x.place) for row in rows for x in self._instructions[row].operands if x.size}
        found |= {row for row in read if code.rows[row, OPCODE] == LEAF}
        return sorted(found)[: 2 * _MOST_LEAVES]

    def _name(self, i: Instruction) -> str:
        """What a result is called. Without a label it is `v7`, and an array `V7`, which is read more easily than the
        slots from first to last."""
        plain = i.count == 1 or not i.count or i.out in self.reader.labels
        return self.reader.name(i.out, i.count) if plain else f"V{i.out}"

    def _operand(self, operand: Operand) -> str:
        if not operand.size:
            return "[]"
        owner = self.reader.instruction(self.reader.row_of(operand.place))
        if owner.count == 1:
            return self.reader.operand(operand)
        return self._name(owner) + self.reader.part(operand, owner, self.shapes.get(owner.row))

    # Numbers

    def _numbers(self, arena: np.ndarray, i: Instruction) -> Json:
        if i.count == 1:
            return plain(arena[i.out])
        return [plain(x) for x in arena[i.out : i.out + min(i.count, self.most)]]

    def _spread(self, passed: Passed, owner: Instruction) -> Json:
        """What is passed to an instruction's result, as its numbers are written; None where nothing is."""
        if owner.count == 1:
            return plain(passed.amounts[0])
        cells: list[Json] = [None] * min(owner.count, self.most)
        # Places ascend.
        shown = int(np.searchsorted(passed.places, owner.out + len(cells)))
        for place, amount in zip(passed.places[:shown].tolist(), passed.amounts, strict=False):
            cells[place - owner.out] = plain(amount)
        return cells

    # The whole

    def data(self) -> dict[str, Json]:
        """All of it, as JSON takes it. What the sweep holds is swept back by this, so it can be called once."""
        sweep, code = self.sweep, self.sweep.program.code
        entries = [self._fold() if row is None else self._entry(row) for row in self.entries]
        seeds = [
            {"to": self.number[row], "after": self._numbers(sweep.adjoints, i)}
            for row, i in self._instructions.items()
            if np.isin(sweep.seeds[0], np.arange(i.out, i.out + i.count)).any()
        ]
        return {
            "name": self.recording.name.rpartition(".")[2],
            "dtype": str(code.dtype),
            "instructions": len(code.rows),
            "slots": code.size,
            "most": self.most,
            "returns": self._returned(),
            "notes": self._notes(),
            "files": self._sources(),
            "entries": entries,
            "forward": [n for n, row in enumerate(self.entries) if row is None or not self._instructions[row].is_leaf],
            "seeds": seeds,
            "reverse": self._reverse(),
        }

    def _returned(self) -> str:
        """What the function returns, by the names of the page, where that is a few whole results."""
        places = [o.places for o in self.sweep.program.code.outputs if o.places is not None and len(o.places)]
        rows = dict.fromkeys(self.reader.row_of(int(place[0])) for place in places)
        names = [self._name(self.reader.instruction(row)) for row in rows]
        return f"returns {', '.join(names[:3]) or 'a constant'}{', …' if len(names) > 3 else ''}"

    def _notes(self) -> list[str]:
        code, notes = self.sweep.program.code, []
        if self.left_out:
            notes.append(
                f"{len(self.left_out):,} instructions in the middle are left out: the sweeps compute them, in one "
                "step. to_html(path, limit=...) shows more."
            )
        numbers = sum(o.layout.size for o in code.outputs)
        if numbers > 1:
            notes.append(
                f"The result has {numbers:,} numbers. The reverse sweep begins with 1 at each of them: what it finds "
                "is the gradient of their sum."
            )
        if not len(self.sweep.seeds[0]):
            notes.append("The result does not depend on any float among the arguments: there is no reverse sweep.")
        if sum(1 for row in self.entries if row is not None and row < code.inputs) < code.inputs:
            notes.append(f"The function has {code.inputs:,} inputs, of which not all are listed.")
        return notes

    def _entry(self, row: int) -> dict[str, Json]:
        i, reader, shown = self._instructions[row], self.reader, self.reader.shown
        operands = [self._operand(x) for x in i.operands]
        kind = "step"
        if i.is_leaf:
            kind = "input" if row < self.sweep.program.code.inputs else "constant"
        elif i.is_guard:
            kind = "guard"
        values = [self._one(x.place) if x.size == 1 else None for x in i.operands]
        entry = {
            "row": row, "kind": kind, "slot": i.out, "count": i.count, "name": self._name(i),
            "shape": list(self.shapes.get(row) or ([i.count] if i.count > 1 else [])),
            "value": self._numbers(shown.values, i), "active": bool(shown.active[i.results].any()),
            "reads": sorted({self.number[r] for r in self._read(i) if r in self.number}),
            "label": i.out in reader.labels,
        }  # fmt: skip
        if i.is_leaf and reader.is_constant(i) and i.count == 1:
            entry["name"], entry["label"] = f"v{i.out}", False
        if not i.is_leaf:
            entry["text"] = self._text(i, operands)
            entry["sign"] = symbol(i.operation) if i.title == i.operation.name else i.title
            if i.count == 1 and all(x is not None for x in values):
                entry["numbers"] = self._text(i, [number(x) for x in values if x is not None])
            if any(self._is_left_out(r) for r in self._read(i)):
                entry["reads"].append(self.number[None])
        if line := self.lines.get(row):
            entry["line"] = [self.files.index(line.file), line.number]
        return entry

    def _fold(self) -> dict[str, Json]:
        code, count = self.sweep.program.code, len(self.left_out)
        rows = self._row_of_step[self.left_out.start : self.left_out.stop]
        read = np.unique(reads_of(code.rows, code.side, rows).owner).tolist()
        return {
            "row": int(rows[0]), "kind": "fold", "slot": int(code.rows[rows[0], OUT]), "count": count,
            "name": f"{count:,} instructions", "shape": [], "value": None, "active": True, "label": False,
            "text": f"{count:,} instructions, left out here", "sign": "…",
            "reads": [self.number[row] for row in read if row in self.number],
        }  # fmt: skip

    def _is_left_out(self, row: int) -> bool:
        return bool(self.left_out) and row not in self.number and row >= self._row_of_step[self.left_out.start]

    def _one(self, place: int) -> float:
        return float(self.sweep.values[place])

    def _read(self, i: Instruction) -> list[int]:
        return [self.reader.row_of(x.place) for x in i.operands if x.size]

    def _text(self, i: Instruction, operands: Sequence[str]) -> str:
        if i.is_guard:
            return f"expect {operands[0]} == {operands[1]}"
        if isinstance(i.operation, Elementwise):
            return algebra(i.operation, operands)
        return call(i.title, operands) + (f"  {i.note}" if i.note else "")

    # The way back

    def _reverse(self) -> list[dict[str, Json]]:
        sweep, found = self.sweep, []
        if not len(sweep.seeds[0]):
            return []
        steps: list[int | None] = list(self.steps)
        if self.left_out:
            steps.insert(self.left_out.start, None)
        for step in reversed(steps):
            if step is None:
                found.append(self._fold_back())
                continue
            row = int(self._row_of_step[step])
            i = self._instructions[row]
            if sweep.active[i.results].any():
                found.append(self._back(step, row, i))
            else:
                sweep.back(step, step + 1)
        return found

    def _back(self, step: int, row: int, i: Instruction) -> dict[str, Json]:
        sweep = self.sweep
        passed = sweep.passed(step_at(sweep.program, step))
        sweep.back(step, step + 1)
        names = [self._operand(x) for x in i.operands]
        rules = self._rules(i, names)
        parts = []
        for p in passed:
            owner_row = self.reader.row_of(int(p.places[0]))
            part: dict[str, Json] = {"name": " and ".join(dict.fromkeys(names[j] for j in p.operands))}
            if owner_row in self.number:
                owner = self._instructions[owner_row]
                part |= {"to": self.number[owner_row], "add": self._spread(p, owner),
                         "after": self._numbers(sweep.adjoints, owner)}  # fmt: skip
            if len(p.operands) == 1 and rules[p.operands[0]]:
                part |= rules[p.operands[0]]
            if isinstance(i.operation, Elementwise) and len(p.places) < i.count:
                part["sum"] = True
            if p.partial is not None:
                part["partial"] = plain(p.partial)
            if len(p.places) == 1:
                part["amount"] = plain(p.amounts[0])
            parts.append(part)
        return {"of": self.number[row], "adjoint": self._numbers(sweep.adjoints, i), "parts": parts}

    def _rules(self, i: Instruction, names: Sequence[str]) -> list[dict[str, Json]]:
        """For each operand the formula of the derivative by it, in names, and for numbers in numbers."""
        if not isinstance(i.operation, Elementwise):
            return [{} for _ in names]
        result = self._name(i)
        by_number: Sequence[Rule | None] = [None] * len(names)
        numbers = []
        if i.count == 1:
            numbers = [self._one(x.place) for x in i.operands] + [self._one(i.out)]
            by_number = partials(i.operation, [number(x) for x in numbers[:-1]], number(numbers[-1]), numbers)
        return [
            ({"rule": _factor(rule)} if rule else {}) | ({"rule_numbers": _factor(own)} if own else {})
            for rule, own in zip(partials(i.operation, names, result, numbers), by_number, strict=True)
        ]

    def _fold_back(self) -> dict[str, Json]:
        before = {row: self.sweep.adjoints[i.results].copy() for row, i in self._instructions.items()}
        self.sweep.back(self.left_out.start, self.left_out.stop)
        parts = []
        for row, i in self._instructions.items():
            own = self.sweep.adjoints[i.results]
            if not np.array_equal(own, before[row], equal_nan=True) and self.sweep.active[i.results].any():
                add = own - before[row]
                parts.append({
                    "name": self._name(i), "to": self.number[row],
                    "add": plain(add[0]) if i.count == 1 else [plain(x) for x in add[: self.most]],
                    "after": self._numbers(self.sweep.adjoints, i),
                })  # fmt: skip
        return {"of": self.number[None], "adjoint": None, "parts": parts}

    # The user's source

    def _sources(self) -> list[dict[str, Json]]:
        found = []
        for file in self.files:
            text = [line.rstrip() for line in linecache.getlines(file)]
            wanted = {line.number for line in self.lines.values() if line.file == file}
            near = sorted(set().union(*(_around(text, n) for n in wanted)))
            found.append({"name": Path(file).name, "lines": [[n, text[n - 1]] for n in near]})
        return found


def _around(text: Sequence[str], line: int) -> set[int]:
    """The numbers of a line and of some around it, as far as these belong to the same function: from its `def` on, and
    before a line that is indented less."""
    shown, own = {line}, _indent(text[line - 1])
    for n in range(line - 1, max(line - _AROUND, 1) - 1, -1):
        if not text[n - 1] or (_indent(text[n - 1]) >= own and text[n - 1].lstrip().startswith("def ")):
            break
        shown.add(n)
        if text[n - 1].lstrip().startswith("def "):
            break
    for n in range(line + 1, min(line + _AROUND, len(text)) + 1):
        if not text[n - 1] or _indent(text[n - 1]) < own:
            break
        shown.add(n)
    return shown


def _indent(text: str) -> int:
    return len(text) - len(text.lstrip())


def _factor(rule: Rule) -> str:
    return f"({rule.text})" if rule.loose else rule.text
