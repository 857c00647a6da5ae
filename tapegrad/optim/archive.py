"""Named arrays in one `.npz` file, without pickle: what `numpy.load` reads, written whole or not at all."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tapegrad.errors import DataError, TapegradError
from tapegrad.storage import written_whole

# How many bytes may come of a packed one, and how many do not matter. What is written here is not packed at all.
_MAX_RATIO, _SMALL = 100, 1 << 24
# Others unpack as much as they like at once.
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write arrays of numbers under their names. Raises DataError for an array of objects.

    `numpy.savez` would not do: it adds `.npz` to a name without it, and takes no array named `file`.
    """
    for name, array in arrays.items():
        if np.asarray(array).dtype.hasobject:
            raise DataError(f"{os.fspath(path)}: {name!r} is an array of objects, which would need pickle")
    with written_whole(path) as scratch, zipfile.ZipFile(scratch, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


def read_arrays(path: str | os.PathLike[str], check_names: Callable[[list[str]], None]) -> dict[str, np.ndarray]:
    """All arrays of a file by name.

    A file may come from anywhere. `check_names` raises where names are not those expected, before anything is unpacked.
    An array that says it is larger than what is packed can be is refused before there is memory for it.

    Raises FileNotFoundError and other errors of opening a file, DataError for one that is no archive of plain arrays,
    and what `check_names` raises.
    """
    where = os.fspath(path)
    with open(path, "rb") as file:
        try:
            if file.read(6) == b"\x93NUMPY":
                raise DataError(f"{where}: expected an .npz archive of named arrays, found a single array")
            with zipfile.ZipFile(file) as archive:
                return _arrays(archive, where, check_names)
        except TapegradError:
            raise
        # Whatever a damaged or hostile file brings the unpacking to, it is the file's fault.
        except Exception as error:
            raise DataError(
                f"{where}: expected an .npz archive of named plain arrays, found {type(error).__name__}: {error}"
            ) from error


def _arrays(
    archive: zipfile.ZipFile, where: str, check_names: Callable[[list[str]], None]
) -> dict[str, np.ndarray]:
    entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise DataError(f"{where}: two entries have the same name")
    check_names(list(entries))
    found = {}
    for name, entry in entries.items():
        if entry.compress_type not in _PACKINGS:
            raise DataError(f"{where}: {name!r} is packed in a way that NumPy does not use")
        with archive.open(entry) as member:
            version = np.lib.format.read_magic(member)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)  # fmt: skip
            if read_header is None:
                raise DataError(f"{where}: {name!r} is of the unknown version {version}")
            shape, by_columns, dtype = read_header(member)
            size = math.prod(shape) * dtype.itemsize
            # Checked before there is memory for it.
            if dtype.hasobject or any(n < 0 for n in shape) or size > _MAX_RATIO * entry.compress_size + _SMALL:
                raise DataError(
                    f"{where}: {name!r} says that it is {dtype} of shape {shape}, from {entry.compress_size} bytes"
                )
            data = member.read(size + 1)
        if len(data) != size:
            raise DataError(f"{where}: {name!r} says that it has {size} bytes, there are {len(data)} or more")
        array = np.frombuffer(data, dtype) if size else np.zeros(math.prod(shape), dtype)
        found[name] = array.reshape(shape, order="F" if by_columns else "C").copy(order="C")
    return found
