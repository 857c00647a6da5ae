"""What takes a recording out of the process that it was made in."""

from __future__ import annotations

import os
from typing import Any

from tapegrad import export, storage
from tapegrad.recording.standing import StandIn
from tapegrad.storage import names


class Saving(StandIn):
    """The methods of a recording that write files."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, from which `tapegrad.load` makes a recording again, in a process that has none of the
        source that it was recorded from.

        The file has the programs of all branches that were recorded so far, the constants, the labels, and what the
        arguments are: no code, and no pickle. docs/tape-format.md says how it is laid out. It is written whole or not
        at all, in place of what was there.

        Raises UnsupportedError where the recording calls a Python function (`external`, `checkpoint`, `custom_vjp`,
        solvers), whose code cannot be in a file; StructureError where an argument or result is nested in, or is, what a
        file cannot say: a module of `tapegrad.nn`, a function.
        """
        storage.save(path, self._stored())

    def to_bytes(self) -> bytes:
        """What `save` writes to a file, as bytes. Raises what `save` raises."""
        return storage.to_bytes(self._stored())

    def _stored(self) -> storage.Function:
        recording: Any = self
        programs = recording.programs
        return storage.Function(
            recording.name, names.parameters_of(recording.f), recording.spec, programs,
            programs.index(recording.program),
        )  # fmt: skip

    def to_c(self, path: str | os.PathLike[str], name: str | None = None, *, sparse: bool = False) -> None:
        """Write it as a C file, and a header beside it, that need no library but `math.h`.

        Functions begin with `name`, by default that of the file. They take one array with the numbers of all arguments,
        one after the other, and are, for a recording `f`: `f_value`; `f_jvp` and `f_vjp`, products with the Jacobian
        from either side; `f_jacobian`, by these, and with `sparse` `f_sparse_jacobian`, the entries of the pattern; and
        for a result that is one number `f_gradient`, and `f_hessian_product`. The header says what each takes. They
        return 1 where the arguments take a branch that was not recorded, 2 where an index is out of range, 3 where a
        matrix is singular. They keep nothing and allocate nothing: whoever calls them gives them room. Blocks of
        instructions that repeat are loops, and so are those of `scan` and the like. Of matrix functions there are
        solve, inv, det, slogdet, Cholesky's and LU factors, and triangular systems. Derivatives are with respect to all
        arguments that are floats, those by integers are zero.

        Raises UnsupportedError where the recording calls Python functions, other matrix functions, Fourier transforms
        or functions of SciPy, or returns nothing with numbers; OperationError for a path that does not end with `.c`,
        or a name that C cannot use.

        >>> import os, tempfile
        >>> import numpy as np
        >>> import tapegrad as tg
        >>> path = os.path.join(tempfile.mkdtemp(), "sines.c")
        >>> tg.record(lambda x: np.sum(np.sin(x) * x), np.ones(3)).to_c(path)
        >>> with open(path.replace(".c", ".h")) as header:
        ...     [line.strip() for line in header if "gradient(" in line]
        ['int sines_gradient(const double *x, double *y, double *g, double *work);']
        """
        export.to_c(self, path, name, sparse)

    def to_numpy_source(self, name: str | None = None) -> str:
        """It as a text of Python that needs nothing but NumPy: one line for each instruction, a function for each
        branch. For people who want to read what was recorded; it computes the value, and no derivative.

        Raises UnsupportedError for operations that NumPy has no function for, and calls of Python functions.

        >>> import numpy as np
        >>> import tapegrad as tg
        >>> def f(x, y):
        ...     return np.sum(np.sin(x) * y)
        >>> text = tg.record(f, np.ones(3), 2.0).to_numpy_source()
        >>> for line in text.splitlines()[3:]:
        ...     line
        'def f(x, y):'
        '    v0 = np.asarray(x, np.float64)'
        '    v2 = np.sin(v0)'
        '    v3 = v2 * y'
        '    v4 = np.sum(np.reshape(v3, (1, 3, 1)), 1)'
        '    return float(v4.item())'
        """
        return export.to_numpy_source(self, name)
