"""From a row of the operation table to the text of the function that computes and records it in compiled code."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from tapegrad.njit import linked, numbers
from tapegrad.ops import Elementwise
from tapegrad.ops.rules import passes
from tapegrad.sweeps.generate import SweepModule

_NAMES = "xyw"
# What divides must not raise where the user's own division would: a slope may be infinite.
_QUIET = {"nogil": True, "error_model": "numpy"}


@functools.cache
def scalar(row: Elementwise, recorded: tuple[bool, ...], partials: bool) -> Callable[..., Any]:
    """The function of one or two numbers, some of them recorded, that computes an operation and appends to the tape."""
    module = SweepModule(np.float64)
    names = _NAMES[: row.arity]
    values = [f"v{name}" for name in names]
    # A whole exponent, which is held, stays one: powers are then products.
    plain = [i in row.held and not there for i, there in enumerate(recorded)]
    given = [name if whole else f"v{name}" for name, whole in zip(names, plain, strict=True)]
    (value,) = module.rule_value(row, given)
    lines = [f"v{name} = {name}._value" if there else f"v{name} = np.float64({name})"
             for name, there in zip(names, recorded, strict=True)]  # fmt: skip
    lines.append(f"z = np.float64({value})")
    first = names[recorded.index(True)]
    if not partials:
        given = [name if there else f"constant({first}, v{name})" for name, there in zip(names, recorded, strict=True)]
        lines.append(f"return operation({row.opcode}, ({', '.join(given)},), z)")
        return _function(module, lines, names)
    slopes = module.rule(row.partials, [*values, "z"])
    # Operands that nothing flows to, or that are constants, are left out.
    kept = [i for i, there in enumerate(recorded) if there and passes(row)[i]]
    if not kept:
        lines.append(f"return constant({first}, z)")
        return _function(module, lines, names)
    if any("/" in s or "**" in s for s in slopes):
        module.add_kernel("slopes", ", ".join([*values, "z"]), [f"return ({', '.join(slopes)},)"])
        lines.append(f"slopes = slopes_of({', '.join([*values, 'z'])})")
        slopes = [f"slopes[{i}]" for i in range(row.arity)]
    operands, along = ", ".join(names[i] for i in kept), ", ".join(f"np.float64({slopes[i]})" for i in kept)
    lines.append(f"return result({row.selects}, ({operands},), z, ({along},))")
    return _function(module, lines, names)


def _function(module: SweepModule, lines: list[str], names: str) -> Callable[..., Any]:
    module.add_kernel("rule", ", ".join(names), lines)
    space: dict[str, Any] = {"constant": numbers.constant, "result": numbers.result, "operation": numbers.operation}
    exec(compile(module.text(), "<operation of tapegrad>", "exec"), space)
    if "slopes" in space:
        space["slopes_of"] = linked.jit(**_QUIET)(space["slopes"])
    made: Callable[..., Any] = space["rule"]
    return made
