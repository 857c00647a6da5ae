"""Values: handles to numbers on a tape.

`Value` is put together in `value` from parts: `handle` has the tape, slot and layout, `reading` shows the numbers, and
`apply` records operations. Above these, `operators` has Python's operators, `views` indexing and reshaping, `protocol`
what NumPy calls, `methods` the methods and attributes of arrays, `gathering` indexing by arrays, and `advice` what to
write in place of a line that would lose a gradient. `integer` has whole numbers of recorded functions, which stand for
Python's ints. Every operation on Values is recorded by `apply`, or in the same
way by `operators`.
"""

from tapegrad.value.apply import contiguous, of_truths, operand, tape_of
from tapegrad.value.gathering import gather, gather_flat
from tapegrad.value.handle import view
from tapegrad.value.integer import Integer, integer_at, put_integer
from tapegrad.value.integers import number_of
from tapegrad.value.numbers import refuse_unlike
from tapegrad.value.protocol import IMPLEMENTATIONS, LATER, REFUSALS
from tapegrad.value.value import Value, apply, as_value, handle, leaf, structured

__all__ = [
    "IMPLEMENTATIONS", "Integer", "LATER", "REFUSALS", "Value", "apply", "as_value", "contiguous", "gather",
    "gather_flat",
    "handle", "integer_at", "leaf", "number_of", "of_truths", "operand", "put_integer", "refuse_unlike", "structured",
    "tape_of", "view",
]  # fmt: skip
