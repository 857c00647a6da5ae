"""Which elements of its operands each element of a result depends on, by the rules of the operations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from tapegrad.ops import TABLE, Elementwise, Structured
from tapegrad.ops.rules import passes
from tapegrad.program import Program
from tapegrad.tape import Instruction


def varying(program: Program, wrt: Sequence[int]) -> np.ndarray:
    """For each place of the arena, 1 if the number there can change with the inputs, smoothly or in jumps."""
    return program.flow(program.code.steps, program.places_of(wrt), np.zeros(len(TABLE), np.uint8))[0]


def links(
    instruction: Instruction, values: np.ndarray, varies: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """For each operand of a structured instruction, two arrays: numbers of results, and places that they depend on.

    None where every result depends on every element of every operand, or may do so because indices vary with the
    inputs.
    """
    row: Structured = instruction.operation
    if row.depends is None or row.views is None:
        return None
    at = [x.places() for x in instruction.operands]
    if isinstance(row.depends, str):
        shapes = [x.layout.shape for x in instruction.operands]
        found: Sequence[Any] = _by_axes(row.depends, shapes)
    else:
        read = zip(at, instruction.operands, strict=True)
        found = row.depends(instruction.params, *[values[p].reshape(x.layout.shape) for p, x in read])
    if any(pair is None and varies[p].any() for pair, p in zip(found, at, strict=True)):
        return None
    return [(pair[0], p[pair[1]]) for pair, p in zip(found, at, strict=True) if pair is not None]


def _by_axes(depends: str, shapes: list[tuple[int, ...]]) -> list[tuple[np.ndarray, np.ndarray]]:
    inputs, _, output = depends.partition("->")
    terms = zip(inputs.split(","), shapes, strict=True)
    sizes = {c: n for term, shape in terms for c, n in zip(term, shape, strict=True)}
    found = []
    for i, term in enumerate(inputs.split(",")):
        # A letter that only the output has, as j in the running sum's "oni->oji", is an axis as long as the operand's
        # middle one: each element along it depends on all n of the operand.
        whole = {c: shapes[0][1] for c in output if c not in sizes}
        lengths = {**sizes, **whole}
        letters = list(dict.fromkeys(output + term))
        grid = dict(zip(letters, np.indices([lengths[c] for c in letters], sparse=True), strict=True))
        out = _flat(output, grid, lengths, letters)
        element = _flat(term, grid, {**lengths, **dict(zip(term, shapes[i], strict=True))}, letters)
        found.append((out, element))
    return found


def _flat(term: str, grid: dict[str, np.ndarray], lengths: dict[str, int], letters: list[str]) -> np.ndarray:
    index: Any = 0
    for c in term:
        index = index * lengths[c] + grid[c]
    return np.broadcast_to(index, [lengths[c] for c in letters]).reshape(-1)


def is_move(row: Any) -> bool:
    """Whether each result of an operation is an element of an operand, with a derivative of 1."""
    return bool(row.moves) and not row.held


@functools.cache
def _flows(count: int) -> np.ndarray:
    flows = np.ones((count, 3), np.uint8)
    for row in TABLE[:count]:
        if isinstance(row, Elementwise):
            flows[row.opcode, : row.arity] = passes(row)
    return flows


def flows() -> np.ndarray:
    """For each opcode and operand of an elementwise operation, 0 where its partial derivative is zero everywhere."""
    return _flows(len(TABLE))

