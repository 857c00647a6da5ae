"""The paths of a function that came from a file: those that the file has, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tapegrad.arguments import Spec
from tapegrad.captures import Captures, NoCaptures
from tapegrad.errors import BranchError
from tapegrad.program.branches import ADVICE, Branches
from tapegrad.program.program import Program


class Absent:
    """Stands for a function whose code is not here."""

    def __init__(self, name: str) -> None:
        self.__qualname__ = name

    def __call__(self, *args: Any) -> Any:
        raise BranchError(f"{self.__qualname__} was loaded from a file, which does not have its code")


class LoadedBranches(Branches):
    """The recorded paths of a function that cannot be called.

    Args:
        name: of the function, for messages.
        spec: of its arguments.
        programs: one for each path.
        last: the number of the program that is tried first.
        forced: whether the steps of loops are compiled; see `native.choice.mode`.
    """

    def __init__(self, name: str, spec: Spec, programs: Sequence[Program], last: int, forced: bool | None) -> None:
        self._given = list(programs)
        super().__init__(Absent(name), spec, (), None, same_prefixes=False, captures=NoCaptures(), forced=forced)
        self.program, self.dtype = programs[last], programs[last].code.dtype
        self._given.clear()

    def _captures(self) -> Captures:
        return NoCaptures()

    def renew(self, leaves: Sequence[Any]) -> None:
        """Begin with all that there is."""
        first, *others = self._given
        self._begin(first, self.captures.current())
        for program in others:
            self._keep(program)

    def forget(self, program: Program) -> None:
        """Nothing: what is forgotten could not be recorded again."""

    def record(self, leaves: Sequence[Any]) -> Program:
        """There is no function to call. Raises BranchError."""
        raise BranchError(f"{self.name} was loaded from a file, and cannot be recorded again")

    def _new_branch(
        self, before: Program, guard: int, beginning: bytes, leaves: Sequence[Any], tried: list[Program]
    ) -> Program:
        read = before.reads[guard] if guard < len(before.reads) else None
        found = ADVICE.get(read[2]) if read is not None else None
        at = f", which parts from the others at {read[0]}:{read[1]}, where {found[0]}" if read and found else ""
        raise BranchError(
            f"{self.name}, which was loaded from a file, takes a branch at these arguments that the file does not "
            f"have{at}. Call the recording with such arguments before it is saved: its function is needed for that"
        )
