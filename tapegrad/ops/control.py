"""Instructions that compute nothing: leaves, by which numbers enter the tape, and guards, which check a replay."""

from tapegrad.ops.spec import BY_NAME, TABLE, Operation


def _declare(name: str, formula: str, arity: int) -> Operation:
    row = Operation(name=name, opcode=len(TABLE), arity=arity, formula=formula)
    TABLE.append(row)
    BY_NAME[name] = row
    return row


# A leaf: `b` slots that hold a constant, a parameter or an input; `a` is 1 where a gradient is wanted.
leaf = _declare("leaf", "z given", 0)

# A guard: the replay is valid only if the number of operand a equals that of operand b, a constant: the number that was
# found while recording.
expect = _declare("expect", "x must equal y", 2)
