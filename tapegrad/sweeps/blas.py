"""The BLAS that SciPy ships, for compiled code: a table of two addresses, found by name.

Importing SciPy's linear algebra takes longer than a first gradient. So the table first holds stand-ins that import
SciPy, replace both stand-ins by the real addresses, and pass the call on.
"""

import ctypes
from typing import Any

import numpy as np

from tapegrad.compiled.machine import add_symbol

TABLE_NAME = "tapegrad_gemm_table"
NAMES = ("dgemm", "sgemm")
_SIGNATURE = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 13)


def _address(name: str) -> int:
    """Where SciPy's BLAS has a function."""
    from scipy.linalg import cython_blas

    capsule = cython_blas.__pyx_capi__[name]
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(pointer_of(capsule, name_of(capsule)))


def _stand_in(row: int) -> Any:
    def load_and_call(*pointers: Any) -> None:
        for i, name in enumerate(NAMES):
            _addresses[i] = _address(name)
        _SIGNATURE(int(_addresses[row]))(*pointers)

    return _SIGNATURE(load_and_call)


_stand_ins = [_stand_in(row) for row in range(len(NAMES))]
_addresses = np.array([ctypes.cast(f, ctypes.c_void_p).value for f in _stand_ins], np.int64)
add_symbol(TABLE_NAME, _addresses.ctypes.data)
