"""Functions that are one instruction on a tape, which calls them: black boxes, functions with rules of the user's own,
solvers, and recomputation.

`call` puts a Python function on a tape as one instruction. Made with it are `custom`, which has what users declare;
`implicit`, functions that are defined by equations; `of_numba`, functions that Numba compiles, and with it `long_loop`.
`arrays` does so for functions of whole arrays: `linalg` and `fourier`, NumPy's linear algebra and Fourier transforms;
`saved` has these in files, `in_c` those of matrices in exported C.
"""

from tapegrad.calls import fourier, in_c, linalg, saved
from tapegrad.calls.complex_value import ComplexValue
from tapegrad.calls.custom import checkpoint, custom_jvp, custom_vjp, external, stop_gradient
from tapegrad.calls.implicit import fixed_point, implicit_root
from tapegrad.calls.long_loop import checkpointed_loop
from tapegrad.calls.of_numba import njit_op

__all__ = [
    "ComplexValue", "checkpoint", "checkpointed_loop", "custom_jvp", "custom_vjp", "external", "fixed_point", "fourier",
    "implicit_root", "in_c", "linalg", "njit_op", "saved", "stop_gradient",
]  # fmt: skip
