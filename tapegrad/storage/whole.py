"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Where to write a file, which is moved to its path when the block has ended well: a crash never leaves half a file
    in place of a whole one."""
    # Where the path is a link, what it leads to is written, and the link stays.
    to = Path(os.path.realpath(path))
    scratch = to.with_name(f".{to.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        yield scratch
        os.replace(scratch, to)
    finally:
        scratch.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file of these bytes."""
    with written_whole(path) as scratch:
        scratch.write_bytes(data)
