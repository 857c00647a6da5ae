"""Values: handles to numbers on a tape.

`handle` is what a handle is; `operators`, `views` and `protocol` are what it does with Python, shapes and NumPy; and
`value` puts them together. Whatever is computed ends in `apply`.
"""

from tapegrad.value.apply import apply, apply_structured, as_value, contiguous, operand, tape_of
from tapegrad.value.handle import HANDLERS, handle, leaf, view
from tapegrad.value.value import Value

__all__ = [
    "HANDLERS", "Value", "apply", "apply_structured", "as_value", "contiguous", "handle", "leaf", "operand", "tape_of",
    "view",
]  # fmt: skip
