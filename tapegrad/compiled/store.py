"""Object code on disk: one file a function, with a checksum, named by a digest of all that it was made from."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from tapegrad.cache import cache_folder
from tapegrad.compiled import machine

_HEADER = b"tapegrad object code 1\n"


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
    return f"{versions} {machine.processor()}".encode() + own


def digest(*parts: bytes | str) -> str:
    """A name for what is made of these parts, by this compiler, for this processor."""
    whole = hashlib.sha256(_surroundings())
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        whole.update(len(data).to_bytes(8, "little") + data)
    return whole.hexdigest()[:20]


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: elsewhere first, then moved, so that nobody ever reads half of it."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        file.write(data)
    os.replace(file.name, path)


def save(name: str, made: ObjectCode) -> None:
    """Keep object code under a name."""
    body = json.dumps({"symbol": made.symbol, "needs": made.needs}).encode() + b"\n" + made.code
    write(cache_folder() / f"{name}.code", _HEADER + hashlib.sha256(body).digest() + body)


def find(name: str) -> ObjectCode | None:
    """What is kept under a name; None if nothing, or if it is damaged."""
    try:
        data = (cache_folder() / f"{name}.code").read_bytes()
    except OSError:
        return None
    start = len(_HEADER)
    body = data[start + 32 :]
    if data[:start] != _HEADER or hashlib.sha256(body).digest() != data[start : start + 32]:
        return None
    head, _, code = body.partition(b"\n")
    said = json.loads(head)
    return ObjectCode(said["symbol"], tuple(said["needs"]), code)
