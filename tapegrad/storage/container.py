"""The outermost layer of a file: a header, a table, and sections of plain numbers. `docs/tape-format.md` specifies it.

Every file has exactly one way to be laid out: sections follow each other in the order of the table, each from the next
multiple of 64 bytes on, zeros between them. So there is nothing in a file that nobody looks at.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tapegrad.errors import DataError

MAGIC = b"\x89TAPE\r\n\x1a"
VERSION = 1
_HEADER, _ENTRY = struct.Struct("<8sIIQII"), struct.Struct("<4sIIIQQ")
# Where the bytes begin that the checksum is of.
_CHECKED = 16
_ALIGNED = 64
# What a section holds, by the number in the table.
_TYPES: dict[int, np.dtype] = {
    number: np.dtype(name) for number, name in enumerate(("<u1", "<u4", "<i8", "<f4", "<f8"), 1)
}
_NUMBERS = {dtype: number for number, dtype in _TYPES.items()}


class Section(NamedTuple):
    """One array of a file: what it is, four letters; of which program, or a number of its own; and its numbers."""

    kind: str
    number: int
    data: np.ndarray


def packed(sections: Sequence[Section]) -> bytes:
    """The bytes of a file."""
    at, table, parts = _HEADER.size + _ENTRY.size * len(sections), [], []
    for kind, number, data in sections:
        dtype = data.dtype.newbyteorder("<") if data.dtype.itemsize > 1 else np.dtype("<u1")
        raw = np.ascontiguousarray(data, dtype).tobytes()
        gap = -at % _ALIGNED
        table.append(_ENTRY.pack(kind.encode("ascii"), number, _NUMBERS[dtype], 0, at + gap, data.size))
        parts += [bytes(gap), raw]
        at += gap + len(raw)
    body = struct.pack("<QII", at, len(sections), 0) + b"".join(table) + b"".join(parts)
    return struct.pack("<8sII", MAGIC, VERSION, zlib.crc32(body)) + body


def unpacked(data: bytes) -> list[Section]:
    """The sections of a file.

    Raises DataError where it is another kind of file, damaged, cut off, of a later version, or laid out otherwise.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise DataError("this is no file that a recording was saved in")
    if len(data) < _HEADER.size:
        raise DataError("the file is cut off within its header")
    _, version, checksum, length, count, zero = _HEADER.unpack_from(data)
    if version != VERSION:
        raise DataError(f"it is of version {version} of the format, this tapegrad reads version {VERSION}")
    if length != len(data):
        raise DataError(f"it says that it has {length} bytes, and has {len(data)}")
    if checksum != zlib.crc32(memoryview(data)[_CHECKED:]):
        raise DataError("the checksum is wrong: it was damaged")
    at = _HEADER.size + _ENTRY.size * count
    if zero or at > length:
        raise DataError(f"its table of {count} sections does not fit")
    found = []
    for i in range(count):
        name, number, kind, zero, offset, n = _ENTRY.unpack_from(data, _HEADER.size + _ENTRY.size * i)
        dtype, gap = _TYPES.get(kind), -at % _ALIGNED
        if dtype is None or zero or not name.isalpha() or not name.isascii():
            raise DataError(f"section {i} of its table is of an unknown kind")
        if offset != at + gap or n > (length - offset) // dtype.itemsize or any(data[at:offset]):
            raise DataError(f"section {i} is not where it must be: {n} numbers from byte {offset} on")
        at = offset + n * dtype.itemsize
        # Numbers of this machine's own byte order, in memory of their own.
        numbers = np.frombuffer(data, dtype, n, offset).astype(dtype.newbyteorder("="))
        found.append(Section(name.decode("ascii"), number, numbers))
    if at != length:
        raise DataError("it goes on after its last section")
    return found
