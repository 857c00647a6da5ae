"""Which elements of its operands each element of a result depends on, by the rules of the operations."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tapegrad.adjoint.instruction import views_of
from tapegrad.layout import Layout
from tapegrad.ops import RUN, TABLE, Elementwise, Structured
from tapegrad.ops.record import operand_spans, parameters, result_at, result_size
from tapegrad.ops.rules import passes
from tapegrad.program import Program


class Wide(NamedTuple):
    """An instruction over many elements: where its operands and its result stand."""

    row: Any
    params: list[int]
    operands: list[tuple[int, Layout]]
    out: int
    size: int


def wide(side: np.ndarray, op: int, k: int) -> Wide:
    """The instruction whose record stands at k."""
    row: Any = TABLE[op % RUN]
    params = parameters(side, k)
    spans = operand_spans(side, k)
    if isinstance(row, Structured) and row.views is None:
        # All that is known of an operand are the slots that it reaches.
        operands = [(low, Layout((high - low,), (1,))) for _, low, high in spans]
    else:
        layouts, _ = views_of(row, params, "the pattern of")
        operands = [(span[0], layout) for span, layout in zip(spans, layouts, strict=True)]
    return Wide(row, params, operands, int(result_at(side, k)), int(result_size(side, k)))


def places(slot: int, layout: Layout) -> np.ndarray:
    """Where the elements of a view stand, in row-major order."""
    return slot + layout.offsets()


def varying(program: Program, windows: Sequence[int]) -> np.ndarray:
    """For each place of the arena, 1 if the number there can change with the inputs, smoothly or in jumps."""
    return program.flow(program.code.steps, program.places_of(windows), np.zeros(len(TABLE), np.uint8))[0]


def links(
    instruction: Wide, values: np.ndarray, varies: np.ndarray
) -> list[tuple[np.ndarray, np.ndarray]] | None:
    """Of a structured instruction: for each operand, which result (counted) depends on which place of the arena.

    None where every result depends on every operand element, or may: where the indices themselves vary.
    """
    row: Structured = instruction.row
    if row.depends is None or row.views is None:
        return None
    at = [places(slot, layout) for slot, layout in instruction.operands]
    if isinstance(row.depends, str):
        shapes = [layout.shape for _, layout in instruction.operands]
        found: Sequence[Any] = _by_axes(row.depends, shapes)
    else:
        found = row.depends(instruction.params, *[values[p].reshape(x.shape) for p, (_, x) in
                                                  zip(at, instruction.operands, strict=True)])
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

