"""Functions that a tape calls instead of looking into: black boxes, rules of the user's own, solvers, recomputation.

`call` puts a Python function on a tape as one instruction, `custom` is what users declare with it, `implicit` the
functions that are defined by equations, and `linalg` NumPy's linear algebra.
"""

from tapegrad.calls import linalg
from tapegrad.calls.custom import checkpoint, custom_jvp, custom_vjp, external, stop_gradient
from tapegrad.calls.implicit import fixed_point, implicit_root

__all__ = [
    "checkpoint", "custom_jvp", "custom_vjp", "external", "fixed_point", "implicit_root", "linalg", "stop_gradient",
]  # fmt: skip
