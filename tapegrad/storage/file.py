"""A recorded function as one file: its arguments, and the programs of its branches."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tapegrad import pytree
from tapegrad.arguments import Input, Spec
from tapegrad.errors import DataError, OperationError, StructureError, UnsupportedError
from tapegrad.program import Program
from tapegrad.storage import plain, structures
from tapegrad.storage.container import Section, packed, unpacked
from tapegrad.storage.plain import Arrays
from tapegrad.storage.programs import BRANCH, KINDS, LAST, STEP, Reader, Writer, leaf_from_json, leaf_to_json
from tapegrad.storage.whole import write_whole

# More bytes than this are no description of programs.
_MOST_JSON = 1 << 28


class Function(NamedTuple):
    """What a file says of a function.

    Attributes:
        name: of the function, for messages.
        parameters: what it calls its arguments, as far as is known.
        spec: what its arguments are.
        programs: those of its branches.
        last: the number of the branch replayed last.
    """

    name: str
    parameters: list[str]
    spec: Spec
    programs: list[Program]
    last: int


def save(path: str | os.PathLike[str], function: Function) -> None:
    """Write a function to a file, whole or not at all. Raises what `to_bytes` raises."""
    write_whole(path, to_bytes(function))


def to_bytes(function: Function) -> bytes:
    """What a file has of a function. Raises UnsupportedError, StructureError for what cannot be written."""
    writer = Writer()
    try:
        arguments = {
            "names": function.parameters,
            "nested": structures.to_json(function.spec.structure, writer.arrays),
            "leaves": [leaf_to_json(leaf, writer.arrays) for leaf in function.spec.leaves],
        }
        for number, program in enumerate(function.programs):
            writer.program(program, LAST if number == function.last else BRANCH)
    except (StructureError, UnsupportedError) as error:
        raise type(error)(f"{function.name} cannot be saved: {error}") from None
    about = {"made by": "tapegrad", "name": function.name, "arguments": arguments, "programs": writer.entries}
    return packed([
        Section("META", 0, _bytes(json.dumps(about, ensure_ascii=False, separators=(",", ":")))),
        Section("OPER", 0, _bytes("\n".join(writer.names))),
        *writer.sections,
        *(Section("ARRY", number, raw) for number, raw in enumerate(writer.arrays.raw)),
    ])  # fmt: skip


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8)


def load(path: str | os.PathLike[str], classes: Sequence[type], most_bytes: int) -> Function:
    """Read a function from a file that may come from anywhere.

    Raises DataError for a file that is none, damaged or hostile, OperationError where it uses operations that are not
    declared here, and errors of opening a file.
    """
    # A number would be a file that somebody else has opened.
    where = os.fspath(path)
    with open(where, "rb") as file:
        return from_bytes(file.read(), str(where), classes, most_bytes)


def from_bytes(data: bytes, where: str, classes: Sequence[type], most_bytes: int) -> Function:
    """A function from what a file has of it; `where` is what errors call that. Raises DataError, OperationError."""
    try:
        return _function(unpacked(data), classes, most_bytes)
    except OperationError as error:
        raise OperationError(f"{where}: {error}") from None
    except DataError as error:
        raise DataError(f"{where}: {error}") from None
    # Whatever else a hostile file brings the reading to, it is the file's fault.
    except Exception as error:
        raise DataError(f"{where}: it is damaged: {type(error).__name__}: {error!s:.200}") from error


def _function(sections: list[Section], classes: Sequence[type], most_bytes: int) -> Function:
    kinds = [s.kind for s in sections]
    if kinds[:2] != ["META", "OPER"] or any(s.data.dtype != np.uint8 or s.number for s in sections[:2]):
        raise DataError("it does not begin with a description and the names of operations")
    about, names = (s.data.tobytes().decode("utf-8", "surrogatepass") for s in sections[:2])
    if len(about) > _MOST_JSON:
        raise DataError(f"its description has {len(about)} characters")
    maker, name, arguments, entries = plain.fields(
        json.loads(about), "the description", "made by", "name", "arguments", "programs"
    )
    plain.text_of(maker, "what made it")
    end = 2 + len(KINDS) * len(plain.items(entries, "programs"))
    arrays = sections[end:]
    if any(s[:2] != ("ARRY", i) or s.data.dtype != np.uint8 for i, s in enumerate(arrays)):
        raise DataError("there are other sections than programs and arrays")
    reader = Reader(Arrays([s.data for s in arrays]), names.split("\n"), classes, most_bytes // 8)
    parameters, spec = _arguments(arguments, reader.arrays, classes)
    inputs = [leaf for leaf in spec.leaves if isinstance(leaf, Input)]
    sizes = [math.prod(leaf.shape) for leaf in inputs]
    for number, entry in enumerate(entries):
        reader.add(sections[2 + len(KINDS) * number : 2 + len(KINDS) * (number + 1)], entry, sizes)
    stored = [s for s in reader.stored if s.role != STEP]
    last = [number for number, s in enumerate(stored) if s.role == LAST]
    if len(last) != 1:
        raise DataError(f"{len(last)} of {len(stored)} branches were replayed last")
    floats = tuple(w for w, leaf in enumerate(inputs) if leaf.dtype.kind == "f")
    if len({s.code.dtype for s in stored}) > 1 or any(s.code.wanted != floats for s in stored):
        raise DataError("its branches differ in what they are computed in, or gradients go to integers")
    programs = [s.program(spec) for s in stored]
    return Function(plain.text_of(name, "a name"), parameters, spec, programs, last[0])


def _arguments(x: object, arrays: Arrays, classes: Sequence[type]) -> tuple[list[str], Spec]:
    names, nested, leaves = plain.fields(x, "arguments", "names", "nested", "leaves")
    parameters = [plain.text_of(name, "the name of an argument") for name in plain.items(names, "names")]
    if len(set(parameters)) != len(parameters) or not all(map(structures.is_name, parameters)):
        raise DataError(f"its arguments are called {parameters[:20]}")
    structure = structures.from_json(nested, arrays, classes)
    spec = Spec(structure, tuple([leaf_from_json(leaf, arrays) for leaf in plain.items(leaves, "leaves")]))
    if structure.is_leaf() or pytree.kind(structure) is not tuple or pytree.count(structure) != len(spec.leaves):
        raise DataError(f"{len(spec.leaves)} leaves of arguments are nested otherwise")
    return parameters, spec
