"""Instructions that compute nothing: where numbers enter the tape, and what a replay must find unchanged."""

from tapegrad.ops.spec import BY_NAME, TABLE, Operation


def _declare(name: str, formula: str, arity: int) -> Operation:
    row = Operation(name=name, opcode=len(TABLE), arity=arity, formula=formula)
    TABLE.append(row)
    BY_NAME[name] = row
    return row


# A leaf: `b` slots that hold a constant, a parameter or an input; `a` is 1 where a gradient is wanted.
leaf = _declare("leaf", "z given", 0)

# A guard: the replay is valid only while slot a equals slot b (a constant, the value met while recording).
expect = _declare("expect", "x must equal y", 2)
