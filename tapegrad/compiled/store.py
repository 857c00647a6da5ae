"""Object code on disk: one file a function, with a checksum, named by a digest of all that it was made from."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from tapegrad.cache import wanted_folder, warn_once
from tapegrad.compiled import machine, vector

_HEADER = b"tapegrad object code 2\n"


class ObjectCode(NamedTuple):
    """A compiled function: machine code, the function's name in it, and the names that it refers to and lacks."""

    symbol: str
    needs: tuple[str, ...]
    code: bytes


@cache
def _surroundings() -> bytes:
    # What code depends on besides its source: the compiler's version, the processor, and the files of this folder.
    versions = " ".join(version(name) for name in ("numba", "llvmlite", "numpy"))
    own = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    return f"{versions} {machine.processor()} {vector.settings()}".encode() + own


def digest(*parts: bytes | str) -> str:
    """A name for what is made of these parts, by this compiler, for this processor."""
    whole = hashlib.sha256(_surroundings())
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:20]


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: elsewhere first, then moved, so that nobody ever reads half of it."""
    # Opened plainly, so that it has the permissions that the user has chosen: a cache may be shared.
    scratch = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        scratch.write_bytes(data)
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise


def keep(file: str, data: bytes) -> None:
    """Keep a file in the cache. Where it cannot be written there is a warning, and the next process makes it again."""
    folder = wanted_folder()
    try:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / file, data)
            return
    except OSError:
        pass
    warn_once()


def keep_checked(file: str, header: bytes, body: bytes) -> None:
    """As `keep`: a line that says what kind of file it is, a checksum, and the rest."""
    keep(file, header + hashlib.sha256(body).digest() + body)


def checked(file: str, header: bytes) -> bytes | None:
    """The rest of what `keep_checked` has kept in a file; None if nothing, or if it is damaged or of another kind. The
    folder need not be one to write to."""
    folder = wanted_folder()
    try:
        data = b"" if folder is None else (folder / file).read_bytes()
    except OSError:
        return None
    start = len(header)
    body = data[start + 32 :]
    whole = data[:start] == header and hashlib.sha256(body).digest() == data[start : start + 32]
    return body if whole else None


def save(name: str, made: ObjectCode) -> None:
    """Keep object code under a name."""
    head = {"name": name, "symbol": made.symbol, "needs": made.needs}
    keep_checked(f"{name}.code", _HEADER, json.dumps(head).encode() + b"\n" + made.code)


def find(name: str) -> ObjectCode | None:
    """The object code that is kept under a name; None if nothing, or if it is damaged."""
    body = checked(f"{name}.code", _HEADER)
    if body is None:
        return None
    head, _, code = body.partition(b"\n")
    try:
        said = json.loads(head)
        # A file that was copied to another name is whole, and yet another function.
        if said["name"] == name:
            return ObjectCode(said["symbol"], tuple(said["needs"]), code)
    except (ValueError, KeyError, TypeError):
        pass
    return None
