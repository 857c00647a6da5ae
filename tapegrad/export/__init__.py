"""Recordings as source in other languages: C with all derivatives, and NumPy for people who want to read one.

`derivatives` makes programs of the derivatives, `c_program` writes a program as a function of C, with the elementwise
operations of `c_rules` and those over whole arrays of `c_kernels`; `c_file` puts a file and a header together.
`numpy_source` writes Python.
"""

from tapegrad.export.c_file import to_c
from tapegrad.export.numpy_source import to_numpy_source

__all__ = ["to_c", "to_numpy_source"]
