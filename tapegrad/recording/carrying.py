"""Recordings of functions that read or write numbers which are no arguments of theirs, or draw random ones.

What such a function reads or draws becomes one more argument of a recording, and what it writes one more result. So
there is an ordinary recording behind, of a function that depends on its arguments alone.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation, matching
from tapegrad.arguments import GENERATOR, Input, Spec, argument_numbers, dtype_of, leaf_spec
from tapegrad.attached import named_like
from tapegrad.captures import captures_of
from tapegrad.carried import Carrier, NeedsCarrierError, Plan, UnplannedError, generators_in, with_stand_ins
from tapegrad.errors import UnsupportedAttributeError, UnsupportedError
from tapegrad.program import Branches
from tapegrad.recording.direct import Short, never
from tapegrad.recording.recording import Recording
from tapegrad.recording.stats import Stats
from tapegrad.value.exact import limit

# What the function of an inner recording returns: the result; with what is written; or, of (number, aux), the number
# and both of the rest.
_RESULT, _WRITTEN, _BESIDE_AUX = range(3)


class Carrying(Recording):
    """A recording that carries numbers: each call reads those of now, draws random ones, and writes what is new.

    A derivative of another kind than value and gradient writes too, what one call of the function would write. What
    looks at the program itself, or takes it elsewhere, is refused.
    """

    def __init__(self, f: Callable[..., Any], spec: Spec, leaves: Sequence[Any], compile: bool | None) -> None:
        self.f, self.forced, self.spec = f, compile, spec
        self._plain = None
        # Calls of several threads follow one another: each reads what the one before has written.
        self._lock = threading.RLock()
        self._frozen: tuple[_Way, list[np.ndarray], Recording] | None = None
        self._ways: list[_Way] = []
        given = [leaf.value for leaf in spec.leaves if not isinstance(leaf, Input)]
        # Asked where random numbers are drawn, which is before any recording can notice a change.
        self.around = captures_of(f, [*given, *pytree.behind(spec.structure)])
        self._example = leaves
        self._way(leaves)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        way = self._way(self._example)
        if not way.plan.written and not way.plan.draws:
            return getattr(self._with_constants(way), name)
        raise UnsupportedAttributeError(
            f"{self.name} reads, writes or draws numbers that are no arguments of it (running statistics, random "
            "numbers), so its recording cannot be vectorised, saved, exported, looked at or searched for patterns. "
            "Call model.eval() before, or pass the numbers as arguments"
        )

    def _with_constants(self, way: _Way) -> Recording:
        """An ordinary recording, in which the numbers that are read are constants: those of now."""
        numbers = [cell.numbers for cell in way.plan.cells]
        if self._frozen is None or self._frozen[0] is not way or any(
            a is not b for a, b in zip(self._frozen[1], numbers, strict=True)
        ):
            function = _alone(self.f, way.plan, _RESULT, (way.plan.inputs(), []))
            recording = Recording(function, self.spec, self._example, None, compile=self.forced)
            self._frozen = way, numbers, recording
        return self._frozen[2]

    def __reduce__(self) -> Any:
        raise UnsupportedError(
            f"the recording of {self.name} cannot be pickled, as it carries numbers: call model.eval(), and save it"
        )

    def __repr__(self) -> str:
        return f"<Recording of {self.name}, which carries {len(self._ways[0].plan.cells)} arrays>"

    __str__ = __repr__

    def __len__(self) -> int:
        return len(self._behind())

    @property
    def name(self) -> str:
        """The function's name, for messages."""
        return str(getattr(self.f, "__qualname__", repr(self.f)))

    def _behind(self) -> Recording:
        """One of the recordings behind it, made if there is none yet."""
        way = self._way(self._example)
        if not way.recordings:
            generators = copy.deepcopy(generators_in(self._example))
            draws = [call.drawn(generators) for call in way.plan.draws]
            way.recording(_RESULT, [*self._example, *way.plan.inputs(), *draws])
        return next(iter(way.recordings.values()))

    def stats(self) -> Stats:
        """What is known about the recording behind it; see `Recording.stats`."""
        return self._behind().stats()

    def compile(self) -> Recording:
        """Compile what there is; see `Recording.compile`."""
        self._behind()
        for recording in self._ways[0].recordings.values():
            recording.compile()
        return self

    def short_way(self, argnums: Any, alone: bool = False) -> Short:
        """There is none."""
        return never

    def renew_short_ways(self) -> None:
        """There are none."""

    # Calls

    def _way(self, leaves: Sequence[Any]) -> _Way:
        """What was found for modules in the modes in which they are; found anew where there is nothing."""
        for i, way in enumerate(self._ways):
            if way.plan.holds:
                if i:
                    self._ways.insert(0, self._ways.pop(i))
                return self._drawing_as_now(way, leaves) if way.plan.draws else way
        way = _Way(self, self._found(leaves))
        # Of modules that change their mode again and again there are two modes each.
        self._ways = [way, *self._ways[:7]]
        return way

    def _drawing_as_now(self, way: _Way, leaves: Sequence[Any]) -> _Way:
        """A way that draws; another in its place where what the function takes from around it has changed, and with
        that what it draws: numbers are drawn before a recording could notice."""
        if self.around.current() is not way.token:
            now = _Way(self, self._found(leaves))
            if now.plan.draws_as(way.plan):
                way.token = now.token
            else:
                self._ways[0] = way = now
        return way

    def _found(self, leaves: Sequence[Any]) -> Plan:
        """The plan of the branch that is taken at leaves."""
        f, plan = self.f, Plan()

        @named_like(f)
        def find(*args: Any) -> Any:
            # It may be called again, in float64.
            plan.__init__()  # type: ignore[misc]
            carrier = Carrier(plan)
            with carrier.in_force():
                result = f(*with_stand_ins(args, carrier))
            return result

        Branches(find, self.spec, leaves, None, same_prefixes=False, forced=self.forced)
        return plan

    def _carried(self, leaves: Sequence[Any], use: Callable[[_Way, list[Any]], Any]) -> Any:
        """use(way, the numbers that are carried); again, where a branch carries more than those before."""
        with self._lock:
            way = self._way(leaves)
            draws = way.drawn(leaves, dtype_of(self.spec))
            while True:
                try:
                    return use(way, [*way.plan.inputs(), *draws])
                except UnplannedError:
                    size = len(way.plan.cells), len(way.plan.written)
                    way.plan.join(self._found(leaves))
                    if size == (len(way.plan.cells), len(way.plan.written)):
                        raise UnsupportedError(
                            f"{self.name} reads or writes other numbers at each call with the same arguments"
                        ) from None
                    way.recordings.clear()

    def evaluate(
        self, leaves: Sequence[Any], argnums: int | Sequence[int], has_aux: bool, alone: bool = False
    ) -> tuple[Any, Any]:
        """See `Recording.evaluate`."""
        numbers = self._numbers(argnums)

        def use(way: _Way, carried: list[Any]) -> tuple[Any, Any]:
            given = [*leaves, *carried]
            if not way.plan.written:
                return way.recording(_RESULT, given).evaluate(given, numbers, has_aux, alone)
            how = _BESIDE_AUX if has_aux else _WRITTEN
            (result, rest), gradient = way.recording(how, given).evaluate(given, numbers, True)
            if has_aux:
                aux, rest = rest
                result = result, aux
            way.plan.put(rest)
            return result, gradient

        found: tuple[Any, Any] = self._carried(leaves, use)
        return found

    def __call__(self, *args: Any) -> Any:
        """The value; see `Recording`."""
        if evaluation.on_tape(args):
            return self.f(*args)
        leaves = self.check(args)

        def use(way: _Way, carried: list[Any]) -> Any:
            result, written = way.recording(_WRITTEN, [*leaves, *carried])(*args, way.nested(carried))
            way.plan.put(written)
            return result

        return self._carried(leaves, use)

    def _value_and_grad(self, args: Sequence[Any], argnums: int | Sequence[int], alone: bool) -> tuple[Any, Any]:
        if evaluation.on_tape(args):
            return derivatives.value_and_grad(self.f, args, argnums, False)
        return self.evaluate(self.check(args), argnums, False, alone)

    def _numbers(self, argnums: int | Sequence[int]) -> Any:
        """`argnums` counted from the front, as behind there is one argument more."""
        count = len(pytree.children(self.spec.structure))
        numbers = evaluation.checked(argument_numbers(argnums), count)
        return tuple(numbers) if isinstance(argnums, tuple | list) else numbers[0]

    def _other(self, args: Sequence[Any], derivative: Callable[[Recording, Any], Any]) -> Any:
        """derivative(recording of the result alone, the numbers that are carried), and what is written is written."""
        leaves = self.check(args)

        def use(way: _Way, carried: list[Any]) -> Any:
            given, nested = [*leaves, *carried], way.nested(carried)
            found = derivative(way.recording(_RESULT, given), nested)
            if way.plan.written:
                way.plan.put(way.recording(_WRITTEN, given)(*args, nested)[1])
            return found

        return self._carried(leaves, use)

    def vjp(self, *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        """See `Recording.vjp`."""
        if evaluation.on_tape(primals):
            return super().vjp(*primals)
        result, pull = self._other(primals, lambda r, carried: r.vjp(*primals, carried))
        return result, lambda cotangent: pull(cotangent)[:-1]

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """See `Recording.jvp`."""
        matching.check_tuples(primals, tangents)
        if evaluation.on_tape((primals, tangents)):
            return super().jvp(primals, tangents)
        found: tuple[Any, Any] = self._other(
            primals, lambda r, carried: r.jvp((*primals, carried), (*tangents, None))
        )
        return found

    def linearize(self, *primals: Any) -> tuple[Any, Callable[..., Any]]:
        """See `Recording.linearize`."""
        if evaluation.on_tape(primals):
            return super().linearize(*primals)
        result, push = self._other(primals, lambda r, carried: r.linearize(*primals, carried))
        return result, lambda *tangents: push(*tangents, None)

    def _jacobian(self, args: Sequence[Any], argnums: int | Sequence[int], back: bool | None, sparse: bool) -> Any:
        if evaluation.on_tape(args) and not sparse:
            return super()._jacobian(args, argnums, back, sparse)
        own = self._numbers(argnums)
        return self._other(args, lambda r, carried: r._jacobian((*args, carried), own, back, sparse))

    def hessian(self, *args: Any, argnums: int | Sequence[int] = 0, sparse: bool = False) -> Any:
        """See `Recording.hessian`."""
        if evaluation.on_tape(args) and not sparse:
            return super().hessian(*args, argnums=argnums)
        own = self._numbers(argnums)
        return self._other(args, lambda r, carried: r.hessian(*args, carried, argnums=own, sparse=sparse))

    def hvp(self, primals: Sequence[Any], tangents: Sequence[Any], argnums: int | Sequence[int] | None = None) -> Any:
        """See `Recording.hvp`."""
        matching.check_tuples(primals, tangents)
        if evaluation.on_tape((primals, tangents)):
            return super().hvp(primals, tangents, argnums)
        chosen, own = matching.chosen_tangents(primals, tangents, argnums)
        numbers = self._numbers(chosen)
        return self._other(primals, lambda r, carried: r.hvp((*primals, carried), tuple(own), numbers))

    def make_hvp(self, *args: Any, argnums: int | Sequence[int] = 0) -> Callable[[Any], Any]:
        """See `Recording.make_hvp`."""
        if evaluation.on_tape(args):
            return super().make_hvp(*args, argnums=argnums)
        own = self._numbers(argnums)
        product: Callable[[Any], Any] = self._other(
            args, lambda r, carried: r.make_hvp(*args, carried, argnums=own)
        )
        return product

    def blame(self, *args: Any, argnums: int | Sequence[int] | None = 0, **how: Any) -> Any:
        """See `Recording.blame`. Nothing is written."""
        leaves = self.check(args)
        own = None if argnums is None else self._numbers(argnums)

        def use(way: _Way, carried: list[Any]) -> Any:
            recording = way.recording(_RESULT, [*leaves, *carried])
            return recording.blame(*args, way.nested(carried), argnums=own, **how)

        return self._carried(leaves, use)


class _Way:
    """A plan, a token of what the function took from around it when that was made, and the recordings made with it."""

    def __init__(self, owner: Carrying, plan: Plan) -> None:
        self.plan, self.recordings = plan, dict[int, Recording]()
        self._around = owner.around
        self.token = self._around.settled()
        self._f, self._spec, self._forced = owner.f, owner.spec, owner.forced

    def drawn(self, leaves: Sequence[Any], dtype: np.dtype) -> list[Any]:
        """Random numbers, drawn now from the generators among leaves of the arguments."""
        generators = generators_in(leaves) if self.plan.draws else ()
        found = [call.drawn(generators) for call in self.plan.draws]
        for call, x in zip(self.plan.draws, found, strict=True):
            if isinstance(x, int | np.integer) and abs(int(x)) > limit(dtype):
                raise UnsupportedError(f"{call} gives whole numbers that {dtype} does not hold")
        return found

    def nested(self, carried: list[Any]) -> Any:
        """The numbers that are carried, nested as one argument."""
        n = len(self.plan.cells)
        return carried[:n], carried[n:]

    def recording(self, how: int, leaves: Sequence[Any]) -> Recording:
        """The recording whose function returns what `how` says."""
        known = self.recordings.get(how)
        if known is None:
            n = len(self._spec.leaves)
            carried = leaves[n:]
            specs = [leaf_spec(x) for x in carried]
            _, structure = pytree.flatten(self.nested(list(carried)))
            spec = Spec(
                pytree.tuple_of([*pytree.children(self._spec.structure), structure]), (*self._spec.leaves, *specs)
            )
            function = _alone(self._f, self.plan, how)
            known = self.recordings[how] = Recording(function, spec, leaves, None, compile=self._forced)
            # What the function has changed itself meanwhile, a count of calls say, is no reason to look again.
            self.token = self._around.settled()
        return known


def _alone(f: Callable[..., Any], plan: Plan, how: int, constant: Any = None) -> Callable[..., Any]:
    """A function of the arguments of f and of what it carries, which returns what `how` says. Where what is carried is
    `constant`, it is one of the arguments of f."""

    @named_like(f)
    def alone(*args: Any) -> Any:
        *own, (cells, draws) = args if constant is None else (*args, constant)
        carrier = Carrier(plan, cells, draws)
        with carrier.in_force():
            result = f(*with_stand_ins(tuple(own), carrier))
        written = carrier.written()
        if how == _RESULT:
            return result
        if how == _WRITTEN:
            return result, written
        number, aux = result
        return number, (aux, written)

    return alone


def recording_of(
    f: Callable[..., Any], spec: Spec, leaves: Sequence[Any], compile: bool | None, make: Callable[[], Recording]
) -> Recording:
    """What `make` makes; where the function carries numbers, a recording that carries them."""
    if GENERATOR not in spec.leaves:
        try:
            return make()
        except NeedsCarrierError:
            pass
    return Carrying(f, spec, leaves, compile)
