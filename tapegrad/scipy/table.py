"""What there is of `scipy.special`, as a table made from the code: `python -m tapegrad.scipy.table > docs/scipy.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
from scipy import special as _special

from tapegrad.functions.special import register
from tapegrad.ops import BY_UFUNC
from tapegrad.ops.special import HELD, OUTPUTS, SAME
from tapegrad.scipy import special
from tapegrad.value import IMPLEMENTATIONS

__all__ = ["table", "ufuncs"]

_HEAD = """# SciPy's special functions

Made from the code by `python -m tapegrad.scipy.table`; a test compares.

Ufuncs of `scipy.special` work on Values as they are. Where a column names operands that are held constant, they must be
plain numbers, whole numbers among the arguments, or go through `tapegrad.stop_gradient`: a gradient that would flow to
them is refused. Operands are counted from 0. `tapegrad.scipy.special` has the ufuncs too, and functions that SciPy does
not let others answer.
"""


def ufuncs() -> dict[str, np.ufunc]:
    """The public ufuncs of `scipy.special`, by name."""
    register(_special.psi)
    found = {name: getattr(_special, name) for name in dir(_special) if not name.startswith("_")}
    return {name: x for name, x in found.items() if isinstance(x, np.ufunc)}


def table() -> str:
    """The text of docs/scipy.md."""
    supported, refused = [], []
    for name, ufunc in sorted(ufuncs().items()):
        row = BY_UFUNC.get(ufunc) or HELD.get(ufunc)
        if ufunc in OUTPUTS:
            supported.append(f"| `{name}` | {'; '.join(row.formula for row in OUTPUTS[ufunc])} | |")
        elif row is not None:
            as_row = f", as `{row.name}`" if ufunc in SAME else ""
            held = ", ".join(map(str, row.held))
            supported.append(f"| `{name}` | {row.formula.replace('|', chr(92) + '|')}{as_row} | {held} |")
        else:
            reason = getattr(IMPLEMENTATIONS[ufunc], "__refused__")  # noqa: B009
            refused.append(f"| `{name}` | {reason} |")
    lines = [_HEAD, f"## Supported: {len(supported)} ufuncs\n", "| ufunc | value | held constant |", "|---|---|---|"]
    lines += [*supported, f"\n## Refused: {len(refused)} ufuncs\n"]
    lines += ["The message says why, and to use `tapegrad.external` with a rule of one's own.\n"]
    lines += ["| ufunc | why |", "|---|---|"]
    lines += [*refused, "\n## Functions of `tapegrad.scipy.special` that are no ufuncs of SciPy's\n", *_functions()]
    return "\n".join(lines) + "\n"


def _functions() -> Iterator[str]:
    for name in sorted(special.__all__):
        yield f"- `{name}`: {(getattr(special, name).__doc__ or '').strip().splitlines()[0]}"


if __name__ == "__main__":
    sys.stdout.write(table())
