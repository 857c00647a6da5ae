"""The lanes of a sparse Jacobian that carry adjoints back, written as instructions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tapegrad import pytree
from tapegrad.adjoint.evaluation import zeros
from tapegrad.adjoint.reverse import pull_back
from tapegrad.program import write_with
from tapegrad.sparse import CompressedJacobian
from tapegrad.tape import current_tape
from tapegrad.value import Value, as_value


def lanes_back(compressed: CompressedJacobian) -> Callable[..., Any] | None:
    """A function of the leaves of the arguments that returns, for each lane, the adjoints that the entries are read
    from; None where these cannot be told apart."""
    program, sources = compressed.program, compressed.sources
    if sources is None:
        return None

    def lanes(*leaves: Any) -> Any:
        tape = current_tape()
        inputs = [as_value(leaves[i], tape, "an argument") for i in program.leaves]
        result, values = write_with(program, tape, inputs, sources)
        outputs, _ = pytree.flatten(result)
        return [_adjoints(values, outputs, seeds) for seeds in compressed.back_seeds()]

    return lanes


def _adjoints(values: Sequence[Value], outputs: Sequence[Any], seeds: Sequence[Any]) -> list[Value]:
    known = [(y, as_value(s, y._tape, "a seed")) for y, s in zip(outputs, seeds, strict=True) if isinstance(y, Value)]
    found = pull_back(values, [y for y, _ in known], [s for _, s in known])
    return [zeros(x) if g is None else g for x, g in zip(values, found, strict=True)]
