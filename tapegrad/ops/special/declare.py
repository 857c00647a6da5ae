"""How an operation that is a function of `scipy.special` is declared: one row, as for any other operation."""

from __future__ import annotations

from typing import Any

import numpy as np

from tapegrad.ops.spec import Elementwise, binary, ternary, unary
from tapegrad.ops.special.calls import number

# Ufuncs with operands by which there is no derivative (an order, a number of degrees of freedom), and their rows.
HELD: dict[np.ufunc, Elementwise] = {}
# Ufuncs with several results, and a row for each.
OUTPUTS: dict[np.ufunc, list[Elementwise]] = {}
# The ufuncs of SciPy that another operation computes.
SAME: dict[np.ufunc, Elementwise] = {}

_KINDS: dict[int, Any] = {1: unary, 2: binary, 3: ternary}


def function(ufunc: np.ufunc, formula: str, partials: Any, *, output: int | None = None, **given: Any) -> Elementwise:
    """Declare the operation that a ufunc of SciPy, or one of its results, is. Its value is SciPy's.

    `partials` and the other fields are those of `unary`, `binary` and `ternary`. An operand that is `held` has no
    derivative: where a gradient would flow to it, the ufunc refuses.
    """
    known = ufunc if output is None and not given.get("held") else None
    name = f"special_{ufunc.__name__}" if output is None else f"special_{ufunc.__name__}_{output}"
    rules: Any = {"value": number(ufunc, output), "partials": partials}
    row = _KINDS[ufunc.nin](name, formula, ufunc=known, **rules, **given)
    if output is not None:
        OUTPUTS.setdefault(ufunc, []).append(row)
        assert len(OUTPUTS[ufunc]) == output + 1
    elif known is None:
        HELD[ufunc] = row
    return row
