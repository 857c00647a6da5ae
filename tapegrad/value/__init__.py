"""Values: handles to numbers on a tape.

`handle` is what a handle is, `reading` shows its numbers, `apply` records; `operators`, `views` and `protocol` are what
Values do with Python, shapes and NumPy; and `value` puts them together. Whatever is computed ends in `apply`.
"""

from tapegrad.value.apply import contiguous, of_truths, operand, tape_of
from tapegrad.value.gathering import gather, gather_flat
from tapegrad.value.handle import view
from tapegrad.value.numbers import refuse_unlike
from tapegrad.value.protocol import IMPLEMENTATIONS
from tapegrad.value.value import Value, apply, as_value, handle, leaf, structured

__all__ = [
    "IMPLEMENTATIONS", "Value", "apply", "as_value", "contiguous", "gather", "gather_flat", "handle", "leaf",
    "of_truths", "operand", "refuse_unlike", "structured", "tape_of", "view",
]  # fmt: skip
