"""Named arrays in one `.npz` file, without pickle: what `numpy.load` reads, written whole or not at all."""

from __future__ import annotations

import os
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tapegrad.errors import DataError


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write arrays of numbers under their names. Raises DataError for an array of objects.

    `numpy.savez` would not do: it adds `.npz` to a name without it, and takes no array named `file`.
    """
    path = Path(path)
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise DataError(f"{path}: {name!r} is an array of objects, which would need pickle")
    # Written elsewhere and moved, so that a crash never leaves half a file in place of a whole one.
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with zipfile.ZipFile(scratch, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """All arrays of a file by name.

    Raises FileNotFoundError, and DataError for a file that is no archive of plain arrays.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise DataError(f"{os.fspath(path)}: expected an .npz archive of named arrays, found a single array")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError) as error:
        if isinstance(error, DataError | FileNotFoundError | PermissionError | IsADirectoryError):
            raise
        raise DataError(f"{os.fspath(path)}: expected an .npz archive of plain arrays, found {error}") from error
