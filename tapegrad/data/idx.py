"""The IDX file format: a magic number, the dimensions, then the elements, all big-endian.

    byte 0-1   zero
    byte 2     element type, a key of `DTYPES`
    byte 3     number of dimensions, d
    4 d bytes  the dimensions, uint32
    the rest   the elements, last dimension fastest

A header is a claim, and a damaged file may claim anything. So nothing is allocated on the header's word: a
plain file must have the size that its header implies, and a gzip file is unpacked piece by piece, up to
that size.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tapegrad.errors import DataError

__all__ = ["read_idx"]

DTYPES: dict[int, np.dtype[Any]] = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}

GZIP_MAGIC = b"\x1f\x8b"
MAX_DIMS = 32
MAX_BYTES = 1 << 32  # 4 GiB; MNIST needs 47 MB
PIECE = 1 << 20


def read_idx(
    path: str | os.PathLike[str],
    *,
    shape: tuple[int, ...] | None = None,
    sha256: str | None = None,
) -> npt.NDArray[Any]:
    """Read an IDX file, plain or compressed with gzip, as an array.

    Args:
        path: the file. Compression is recognised by content, not by name.
        shape: the shape the file must have, where it is known.
        sha256: the checksum, in hexadecimal, that the uncompressed file must have, where it is known.

    Returns:
        A new array with the shape the file states, in native byte order; dtype uint8, int8, int16, int32,
        float32 or float64, as the file states.

    Raises:
        DataError: the file is missing or unreadable, or its magic number, dimensions, byte count, compression
            or checksum is wrong. The message names the file, what was expected and what was found.

    Source: the format is described in LeCun, Cortes and Burges, "The MNIST database of handwritten digits".

    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "tiny"
    ...     _ = file.write_bytes(bytes([0, 0, 8, 2,  0, 0, 0, 2,  0, 0, 0, 3,  1, 2, 3, 4, 5, 6]))
    ...     read_idx(file)
    array([[1, 2, 3],
           [4, 5, 6]], dtype=uint8)
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            if not packed:
                return _read(path, raw, shape, sha256, size=os.fstat(raw.fileno()).st_size)
            with gzip.open(raw) as unpacked:
                return _read(path, cast(BinaryIO, unpacked), shape, sha256, size=None)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: expected a whole gzip file, found a damaged one ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _read(
    path: Path, stream: BinaryIO, shape: tuple[int, ...] | None, sha256: str | None, size: int | None
) -> npt.NDArray[Any]:
    """Read and check one uncompressed stream; `size` is its length in bytes, where known beforehand."""
    magic = stream.read(4)
    if len(magic) < 4:
        raise DataError(f"{path}: expected a magic number of 4 bytes, found {len(magic)} bytes in all")
    zeros, code, ndim = struct.unpack(">HBB", magic)
    if zeros != 0 or code not in DTYPES or not 1 <= ndim <= MAX_DIMS:
        raise DataError(
            f"{path}: expected an IDX magic number (00 00, a type of 08 09 0b 0c 0d 0e, 1 to {MAX_DIMS} "
            f"dimensions), found {magic.hex(' ')}"
        )
    packed_dims = stream.read(4 * ndim)
    if len(packed_dims) < 4 * ndim:
        raise DataError(
            f"{path}: expected a header of {4 + 4 * ndim} bytes, found {4 + len(packed_dims)} bytes in all"
        )
    dims = struct.unpack(f">{ndim}I", packed_dims)
    if shape is not None and dims != shape:
        raise DataError(f"{path}: expected dimensions {shape}, found {dims}")

    dtype = DTYPES[code]
    header = magic + packed_dims
    expected = math.prod(dims) * dtype.itemsize  # Python integers: no overflow
    if math.prod(max(dim, 1) for dim in dims) * dtype.itemsize > MAX_BYTES:  # NumPy counts 0 as 1 here, too
        raise DataError(f"{path}: expected dimensions of at most {MAX_BYTES} bytes, found {dims}")
    if size is not None and size - len(header) != expected:
        raise DataError(
            f"{path}: expected {expected} bytes of data for dimensions {dims}, found {size - len(header)}"
        )

    data = bytearray()
    # One byte more is asked for than is due: that finds what is too long, and makes gzip check its checksum.
    while piece := stream.read(min(PIECE, expected + 1 - len(data))):
        data += piece
    if len(data) != expected:
        found = f"{len(data)}" if len(data) < expected else "more"
        raise DataError(f"{path}: expected {expected} bytes of data for dimensions {dims}, found {found}")
    if sha256 is not None:
        digest = hashlib.sha256(header)
        digest.update(data)
        if digest.hexdigest() != sha256:
            raise DataError(f"{path}: expected SHA-256 {sha256}, found {digest.hexdigest()}")
    return np.frombuffer(data, dtype).reshape(dims).astype(dtype.newbyteorder("="), copy=False)
