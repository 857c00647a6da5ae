"""Gradients of functions that Numba compiles: they are compiled again for numbers that append to a tape.

`numbers` has the types of such numbers, `rules` and `scalars` their operators and functions, read from the operation
table, `arrays` and `products` what is done with arrays of them. `twins` compiles a user's function for them, `drivers`
what calls it; `linked` says how all these are compiled, `kept` keeps them on disk, found by `keys`. `leash` is
`checkpointed_loop`, `nesting`, `states` and `handed` what its steps are given. Only these import Numba, and only where
somebody has a function of it. `memory` is the tape, `sweeps` its loops, `kept_loops` those whose steps it does not
keep, `runs` one call, `derivatives` what follows from one, and `recordable` writes one as an ordinary recording.
"""

from tapegrad.njit.recognise import is_numba

__all__ = ["is_numba"]
