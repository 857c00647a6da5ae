"""The programs of one function, told apart by what their guards found: its branch signature.

A replay starts with the program that was used last. When a guard fails, the numbers that the guards have found so far,
that of the failed guard included, are the beginning of the signature of the right program. The replay is done again
with a program whose signature begins so; where there is none, the function is recorded at these arguments. Each program
that is tried agrees with the function up to a later guard than the one before, so this ends.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint.evaluation import called
from tapegrad.arguments import Input, Spec, dtype_of, owners
from tapegrad.captures import Captures, captures_of
from tapegrad.errors import GuardError, RecordingWarning, warn
from tapegrad.names import replaced
from tapegrad.ops.record import OPCODE, OUT, A
from tapegrad.pickling import to_pickle
from tapegrad.program.build import code_of, digests, reads_of
from tapegrad.program.memory import memory
from tapegrad.program.program import Program
from tapegrad.sweeps import ADJOINTS, VALUES, callbacks
from tapegrad.tape import EXPECT, Tape, operand_error, recording_on
from tapegrad.tape.ambient import compiling
from tapegrad.tape.faults import with_line
from tapegrad.value import as_value, put_integer
from tapegrad.value import leaf as put_leaf

# The most branches of one function that are kept. When there are as many, each new branch is recorded at every call.
MAX_BRANCHES = 64
# The same, where integers among the arguments decide: at most MAX_BRANCHES for each choice of them.
MAX_PROGRAMS = 4 * MAX_BRANCHES
# For how many choices of integers it is remembered which branch fitted.
MAX_FITTED = 1024
# Arguments of more numbers are not kept with a branch.
_FEW_NUMBERS = 1000

# What is read where branches part, and what to write instead.
ADVICE = {
    "truth": (
        "the truth of a comparison is asked for (if, while, and, or, not)",
        "write np.where(c, x, y), np.maximum, np.minimum, np.clip or tg.while_loop(..., max_steps=...), which need no "
        "branch; and max, min, any, all without `key` or `if` for Python's",
    ),
    "number": ("a number is read (v.item(), v.data)", "compute with Values, or compare them, instead"),
    "whole number": (
        "a Value is made a whole number (int(v), math.floor(v), round(v))",
        "where it is only calculated with, write np.floor(v), np.trunc(v) or np.rint(v)",
    ),
    "position": (
        "a position, count or truth of an array is asked for (np.argmax, np.any, np.count_nonzero)",
        "write np.max, np.sort or np.where, which need no branch, for what is done with it",
    ),
    "array": (
        "an array of truth values or integers is made plain numbers", "write np.where(mask, x, y), or index a Value"
    ),
    "integer": (
        "the number of an integer argument is needed (range, a slice, a shape, an index of a list, float(n), a text)",
        "each number is a branch of its own. Index a Value instead of a list or plain array, write 1.0 * n for "
        "float(n), tg.fori_loop(..., max_steps=...) for a range, np.where(np.arange(size) < n, x, 0.0) for a slice",
    ),
    "comparison of an integer": (
        "an integer argument is compared", "np.less(n, m) and its like make no branch: use them in np.where"
    ),
    "size of an integer": ("an integer is held to sizes that floats hold exactly", "use smaller integers, or floats"),
}  # fmt: skip


class Branches:
    """The recorded paths of a function of arguments that fit a spec.

    Args:
        f: the function.
        spec, leaves: of the arguments that it is first recorded at.
        argnums: the arguments with respect to which a gradient is wanted; None for all.
        same_prefixes: whether to warn where two paths recorded different instructions before the guard where they part.
        captures: what the function takes from around it; where that has changed, everything is recorded again.
        forget: called where the last program is given back to save memory. Without it, the last one stays.
        forced: whether the steps of loops are compiled; see `native.choice.mode`.
    """

    def __init__(
        self, f: Callable[..., Any], spec: Spec, leaves: Sequence[Any], argnums: Sequence[int] | None,
        same_prefixes: bool = True, captures: Captures | None = None, forget: Callable[[], Any] | None = None,
        forced: bool | None = None,
    ) -> None:  # fmt: skip
        self.f, self._forced = f, forced
        self._same_prefixes = same_prefixes
        self.spec = spec
        self.dtype = dtype_of(spec)
        self.owner = owners(spec.structure)
        self.wanted = [
            isinstance(leaf, Input) and leaf.dtype.kind == "f" and (argnums is None or self.owner[i] in argnums)
            for i, leaf in enumerate(spec.leaves)
        ]
        # A function that comes with captures is written from recordings of another, whose captures they are.
        self._is_called, self.captures = captures is None, captures or self._captures()
        self._forget = forget
        self.recorded = 0
        self._warned: set[str] = set()
        # Where numbers were read that parted branches, and how often.
        self._parted: Counter[tuple[str, int, str]] = Counter()
        self.renew(leaves)

    def _captures(self) -> Captures:
        given = [leaf.value for leaf in self.spec.leaves if not isinstance(leaf, Input)]
        return captures_of(self.f, [*given, *pytree.behind(self.spec.structure)])

    def __getstate__(self) -> dict[str, Any]:
        # The function, and the code of each branch. What is looked up in this process only stays here.
        here: dict[str, Any] = {"captures": None, "_forget": None, "_token": None, "_fitted": {}, "short_ways": {}}
        return self.__dict__ | here | {"f": to_pickle(self.f, "the recorded function")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state
        # What the function takes from around it counts as what it was when it was recorded.
        self.captures = self._captures()
        self._token = self.captures.settled()
        for program in self.programs:
            self._register(program)

    @property
    def name(self) -> str:
        """The function's name, for messages."""
        return str(getattr(self.f, "__qualname__", repr(self.f)))

    def renew(self, leaves: Sequence[Any]) -> None:
        """Forget all programs, and record the function again."""
        token = self.captures.current()
        self._begin(self.record(leaves), token)

    def _begin(self, program: Program, token: Any) -> None:
        """Have this program alone."""
        self.programs: list[Program] = [program]
        # The integers that decide something in any of the programs, and which program fitted last for their numbers.
        self._deciding = tuple(sorted(program.decided))
        self._fitted: dict[tuple[int, ...], Program] = {}
        # For each program what `recording.direct` makes of it, by the arguments to differentiate with respect to. Not
        # an attribute of the program, which it refers to: memory would be free only when Python looks for circles.
        self.short_ways: dict[Program, dict[Any, Any]] = {}
        self.program, self._token = program, token
        self._register(program)

    def _register(self, program: Program) -> None:
        program.owner = weakref.ref(self)
        memory.register(program)

    def forget(self, program: Program) -> None:
        """Do without a program, to save memory: it is recorded again when it is needed."""
        others = [p for p in self.programs if p is not program]
        if others:
            self.programs, self._fitted = others, {}
            self.short_ways.pop(program, None)
            if self.program is program:
                self.program = others[-1]
        elif self._forget is not None:
            self._forget()

    @property
    def stale(self) -> bool:
        """Whether what the function takes from around it has changed since it was recorded."""
        return self.captures.current() is not self._token

    def record(self, leaves: Sequence[Any]) -> Program:
        """Call the function, on a tape of its own."""
        self.recorded += 1
        tape = Tape(self.dtype, recording=True)
        with recording_on(tape), compiling(self._forced):
            arguments = []
            for x, leaf, wanted in zip(leaves, self.spec.leaves, self.wanted, strict=True):
                if not isinstance(leaf, Input):
                    arguments.append(x)
                    continue
                if leaf.is_integer:
                    arguments.append(put_integer(tape, int(x)))
                else:
                    arguments.append(put_leaf(tape, np.asarray(x), wanted))
            try:
                given = pytree.unflatten(self.spec.structure, arguments)
                result = self.captures.watch(_recorded, self.f, *given, is_called=self._is_called)
            except Exception:
                if not tape.too_narrow:
                    raise
            if tape.too_narrow:
                # It met arrays of float64: as in NumPy, what follows from them is float64. A tape has one dtype, so all
                # of it is, from now on.
                self.dtype = np.dtype(np.float64)
                return self.record(leaves)
            outputs, structure = pytree.flatten(result)
            outputs = [_stacked(x, tape) for x in outputs]
            inputs = sum(isinstance(leaf, Input) for leaf in self.spec.leaves)
            prefixes, reads = () if tape.spliced else digests(tape, inputs), reads_of(tape)
            code = code_of(tape, inputs, outputs)
            program = Program(code, structure, self.spec, prefixes, tape.calls)
            program.reads = reads
            # Nothing is computed here: the first replay does that, at these inputs mostly.
            program.workspaces[0].fill(leaves)
            self._note(program, leaves)
            return program

    def _note(self, program: Program, leaves: Sequence[Any]) -> None:
        """Keep arguments that take the way of a program, where guards have a say: derivatives are recorded at them.
        Those in its workspaces may be of a replay that a guard has stopped. Long ones would cost too much memory."""
        if program.taken_at is None:
            few = len(program.guards) and sum(x.size for x in leaves if isinstance(x, np.ndarray)) <= _FEW_NUMBERS
            program.taken_at = [x.copy() if isinstance(x, np.ndarray) else x for x in leaves] if few else []

    def _keep(self, program: Program) -> None:
        self.programs.append(program)
        self._register(program)
        if not program.decided.keys() <= set(self._deciding):
            self._deciding, self._fitted = tuple(sorted({*self._deciding, *program.decided})), {}

    def replay(
        self, leaves: Sequence[Any], tasks: int, wrt: tuple[int, ...] | None, read: Any, *how: Any,
        has_aux: bool = False, lean: Callable[[Program], Any] | None = None,
    ) -> Any:  # fmt: skip
        """Sweep the program that fits, and return read(program, workspace, *how).

        Adjoints are those of the scalar result, or with `has_aux` of the number in (number, aux). `lean` says what is
        to be swept and read in place of the program.
        """
        if self.stale:
            self.renew(leaves)
        deciding, fitted = self._deciding, self._fitted
        numbers = tuple([int(leaves[i]) for i in deciding])
        program, tried = fitted.get(numbers, self.program) if deciding else self.program, list[Program]()
        while True:
            program.used = True
            swept = program if lean is None else lean(program)
            workspace = swept.take()
            try:
                workspace.fill(leaves)
                seed = swept.seed(has_aux) if tasks & ADJOINTS else -1
                failed = swept.sweep(workspace, tasks, seed, wrt)
                if failed < 0:
                    if program.taken_at is None:
                        self._note(program, leaves)
                    if program.calls:
                        callbacks.check(workspace.scratch)
                    if deciding and self.program is not program and program in self.programs:
                        self.program = program
                    if deciding and self.program is program:
                        if len(fitted) > MAX_FITTED:
                            fitted.clear()
                        fitted[numbers] = program
                    return read(swept, workspace, *how)
                row = swept.steps[failed]
                if row[OPCODE] != EXPECT:
                    error = callbacks.raised(row[OPCODE])
                    if error is None and swept is not program:
                        # The operands may be overwritten by now, so they are computed again to say what is wrong.
                        lean = None
                        continue
                    line = program.line_of(int(row[OUT]))
                    if error is not None:
                        raise with_line(error, line)
                    raise operand_error(row, program.code.side, workspace.values, line)
                guard = int(np.searchsorted(swept.guards, failed))
                found = workspace.values[row[A] : row[A] + 1].tobytes()
            finally:
                swept.give(workspace)
            size = len(found)
            beginning = program.signature[: size * guard] + found
            tried.append(program)
            fits = [p for p in self.programs if p.signature.startswith(beginning) and p not in tried]
            if fits:
                self.program = program = fits[0]
            else:
                program = self._new_branch(program, guard, beginning, leaves, tried)

    def fitting(
        self, leaves: Sequence[Any], lean: Callable[[Program], Any] | None = None, always: bool = False
    ) -> Program:
        """The program that fits: where guards have a say, or `always`, a replay finds it."""
        if not always and not self.stale and not len(self.program.guards):
            return self.program
        found: Program = self.replay(leaves, VALUES, None, lambda form, _: form.whole, lean=lean)
        return found

    def _new_branch(
        self, before: Program, guard: int, beginning: bytes, leaves: Sequence[Any], tried: list[Program]
    ) -> Program:
        if sum(p not in self.programs for p in tried):
            raise GuardError(
                f"{self.name} took another branch when it was recorded again at the same inputs: it depends on "
                "something besides its arguments, or a number that decides a branch is so near to where it turns that "
                "the rounding of a replay, which is not the same as that of a recording, decides"
            )
        if self.captures.verified() is not self._token:
            # Branches of before and after a change are not to stand beside each other.
            self.renew(leaves)
            tried.clear()
            return self.program
        read = before.reads[guard] if guard < len(before.reads) else None
        if read is not None:
            self._parted[read] += 1
        program = self.record(leaves)
        if program.code.dtype != before.code.dtype:
            # Guards of other programs compare numbers that were rounded otherwise.
            self._begin(program, self._token)
            tried.clear()
            return program
        # Whoever draws random numbers was told already.
        checked = self._same_prefixes and not self.captures.draws and program.prefixes and before.prefixes
        same = not checked or program.prefixes[: guard + 1] == before.prefixes[: guard + 1]
        if not same or not program.signature.startswith(beginning):
            self._warn(
                f"{self.name} recorded other instructions or constants on the same path: it depends on something "
                "besides its arguments (random numbers, a global, state of its own), so results mix what held at "
                "different calls. Pass it as an argument"
            )
        # Branches for other integers among the arguments are counted by themselves.
        like = sum(p.decided == program.decided for p in self.programs)
        if like < MAX_BRANCHES and len(self.programs) < MAX_PROGRAMS:
            self._keep(program)
            self.program = program
        elif self._same_prefixes:
            # Of a derivative this need not be said: whatever it is a derivative of has taken as many.
            self._warn(
                f"{self.name} has taken more than {max(like, MAX_BRANCHES)} branches, and from now on is recorded at "
                f"every call that takes a new one. {self._cause()}"
            )
        return program

    def _cause(self) -> str:
        """Where most branches parted, and what to write there instead."""
        if not self._parted:
            return "Each number that it reads is a branch of its own: compute with Values instead"
        (file, line, what), _count = self._parted.most_common(1)[0]
        found, advice = ADVICE[what]
        return f"Most of them part at {file}:{line}, where {found}: {advice}"

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            warn(message, RecordingWarning)


def _recorded(f: Callable[..., Any], *args: Any) -> Any:
    """The result of a function that is being recorded, for which Python's own functions can be recorded too."""
    with replaced():
        return called(f, *args)


def _stacked(x: Any, tape: Tape) -> Any:
    """An output that holds scalar Values in an object array or such, as one Value."""
    if isinstance(x, np.ndarray) and x.dtype == object:
        return as_value(x, tape, "result")
    return x
