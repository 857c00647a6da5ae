"""Recordings in files: written as plain arrays and JSON, read without trust. `docs/tape-format.md` has the format.

`container` is the outermost layer: a header, a checksum, sections of numbers. `plain` and `structures` have plain
values and the nesting of arguments as JSON, `calls` the library's own functions that instructions call. `programs`
makes sections of programs and programs of sections; `check` says whether what came of a file can be swept. `file` puts
all of it together.
"""

from tapegrad.storage.calls import kind_of_call
from tapegrad.storage.file import Function, from_bytes, load, save, to_bytes
from tapegrad.storage.structures import own_container, own_named_tuple
from tapegrad.storage.whole import write_whole, written_whole

__all__ = [
    "Function", "from_bytes", "kind_of_call", "load", "own_container", "own_named_tuple", "save", "to_bytes",
    "write_whole", "written_whole",
]  # fmt: skip
