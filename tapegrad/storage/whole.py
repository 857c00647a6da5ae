"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write a file, which is moved to its path when the block has ended well: a crash never leaves half a file
    in place of a whole one.

    Raises IsADirectoryError for a folder, FileNotFoundError where the folder is missing, and other errors of opening a
    file, all of which name the path that was given.
    """
    # Where the path is a link, what it leads to is written, and the link stays.
    to = Path(os.path.realpath(path))
    scratch = to.with_name(f".{to.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    if to.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
    try:
        yield scratch
        os.replace(scratch, to)
    except OSError as error:
        if error.filename is None or os.fspath(error.filename) != os.fspath(scratch):
            raise
        # Nobody but this function knows of the other file.
        raise type(error)(error.errno, error.strerror, os.fspath(path)) from None
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file of these bytes."""
    with written_whole(path) as scratch:
        scratch.write_bytes(data)
