"""`Recording`: the value and the derivatives of a function that was recorded, computed by replays."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives, evaluation, matching
from tapegrad.arguments import Spec, argument_numbers, difference, plain_key, spec_of
from tapegrad.attached import named_like
from tapegrad.captures import Captures
from tapegrad.errors import ShapeError
from tapegrad.native import choice
from tapegrad.program import Branches, Code, Lean, Program, Workspace
from tapegrad.recording.again import written
from tapegrad.recording.certificate import Certificate, certify
from tapegrad.recording.compiling import compile_now, runs_of
from tapegrad.recording.derived import Derived
from tapegrad.recording.direct import Short, never, short_way
from tapegrad.recording.linear import Linear
from tapegrad.recording.matrices import Matrices, check_plain
from tapegrad.recording.on_values import OnValues
from tapegrad.recording.plans import Plan, Plans, hashable
from tapegrad.recording.saving import Saving
from tapegrad.recording.stats import Stats, stats_of
from tapegrad.recording.stepwise import stepwise
from tapegrad.recording.tangents import pushing, tangent
from tapegrad.recording.telling import Telling
from tapegrad.sparse import Sparsity
from tapegrad.sweeps import ADJOINTS, VALUES


class Recording(Saving, Telling):
    """A function recorded once, to be replayed at other inputs of the same structure, shapes and dtypes.

    Made by `record`. Call it for the value; its methods give derivatives, with the names and signatures of the
    functions of `tapegrad`. Where the function branched on a number, a replay that would branch otherwise goes on with
    the recording of that branch, and makes it if there is none, so results are always those of the function itself.
    Several threads may call it at the same time. Called with Values it is the function.

    It can be pickled: with its function, which pickle finds by name (cloudpickle takes lambdas too), and the code of
    its branches. Functions that it calls, as `external` does, go the same way. The operations that it uses must be
    declared where it is unpickled.
    """

    def __init__(
        self, f: Callable[..., Any], spec: Spec, leaves: Sequence[Any], argnums: Sequence[int] | None,
        forget: Callable[[], Any] | None = None, compile: bool | None = None,
        renew_short: Callable[[], Any] | None = None,
    ) -> None:  # fmt: skip
        self.f, self.forced = f, compile
        self.spec = spec
        # Whoever asks a recording for the pattern of its Hessian may give no arguments, so it must not forget that.
        self._forgets, self._renews = forget, renew_short
        self._branches = Branches(f, spec, leaves, argnums, forget=forget, forced=compile)
        self._plans = Plans(spec, self._branches.wanted)
        self._plain = plain_key(leaves) if all(map(pytree.is_leaf, pytree.children(spec.structure))) else None
        self._gradients: dict[Any, Branches] = {}
        self._make_derived()

    def _make_derived(self) -> None:
        self.derived = Derived(self, choice.mode(self.forced))
        self._matrices = Matrices(self._plans, self.derived)
        self._linear = Linear(self._branches, self.derived)
        self.unrolled: Recording | None = None  # With all steps of loops, made when it is first needed.

    def __getstate__(self) -> dict[str, Any]:
        # By value: the function, and the code of each branch. What was made of these is made again when it is needed.
        made = dict.fromkeys(("_forgets", "_renews", "derived", "_matrices", "_linear", "unrolled"))
        return self.__dict__ | made | {"_gradients": {}, "f": None if self.f is self._branches.f else self.f}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"f": state["f"] or state["_branches"].f}
        self._make_derived()

    def __repr__(self) -> str:
        return f"<Recording of {self._branches.name}: {len(self)} instructions, {self._branches.dtype}>"

    def __len__(self) -> int:
        return len(self.program.code.steps)

    @property
    def name(self) -> str:
        """The function's name, for messages."""
        return self._branches.name

    @property
    def captures(self) -> Captures:
        """What the function takes from around it."""
        return self._branches.captures

    @property
    def program(self) -> Program:
        """The branch replayed last."""
        return self._branches.program

    @property
    def programs(self) -> list[Program]:
        """All branches."""
        return list(self._branches.programs)

    @property
    def code(self) -> Code:
        """The instructions of the branch replayed last, as plain arrays."""
        return self.program.code

    def check(self, args: Sequence[Any]) -> Sequence[Any]:
        """The leaves of arguments. Raises ShapeError if they are not what was recorded."""
        if self._plain is not None and plain_key(args) == self._plain:
            return args
        spec, leaves = spec_of(args)
        if spec != self.spec:
            raise ShapeError(difference(self.spec, spec))
        return leaves

    def __call__(self, *args: Any) -> Any:
        """The function's value at new arguments, by replay.

        Raises ShapeError for arguments of another structure, shape or dtype than recorded; LabelError or
        IndexRangeError for labels or indices out of range.
        """
        found = self.derived.short_value(self._branches)(args)
        if found is not None:
            return found
        if evaluation.on_tape(args):
            return self.f(*args)
        return self._branches.replay(self.check(args), VALUES, None, _result_of, lean=self.derived.results)

    # First derivatives

    def value_and_grad(self, *args: Any, argnums: int | Sequence[int] = 0) -> tuple[Any, Any]:
        """The value, and its gradient with respect to the arguments numbered by `argnums`: one sweep each way.

        The gradient has the structure of the argument; for several arguments it is a tuple. Raises NonScalarError
        unless the result is one number, IntegerInputError for an argument that holds integers.
        """
        return self._value_and_grad(args, argnums, alone=False)

    def grad(self, *args: Any, argnums: int | Sequence[int] = 0) -> Any:
        """The gradient alone; see `value_and_grad`."""
        return self._value_and_grad(args, argnums, alone=True)[1]

    def _value_and_grad(self, args: Sequence[Any], argnums: int | Sequence[int], alone: bool) -> tuple[Any, Any]:
        if evaluation.on_tape(args):
            return derivatives.value_and_grad(self.f, args, argnums, False)
        found = self.short_way(hashable(argnums), alone)(args)
        return self.evaluate(self.check(args), argnums, False, alone) if found is None else found

    def evaluate(
        self, leaves: Sequence[Any], argnums: int | Sequence[int], has_aux: bool, alone: bool = False
    ) -> tuple[Any, Any]:
        """`value_and_grad` of leaves that are known to fit. With `has_aux` the value is the whole (value, aux). It may
        be None where the gradient is wanted `alone`."""
        plan = self._plans.plan(argnums)
        found = self.derived.value_and_grad(leaves, hashable(argnums), has_aux, alone) if plan.chosen else None
        if found is not None:
            return found[0], self._plans.in_own_dtypes(plan, found[1])
        return self._branches.replay(
            leaves, VALUES | ADJOINTS, plan.wrt, self._value_and_gradient, plan, has_aux, has_aux=has_aux,
            lean=Program.for_gradients,
        )  # fmt: skip

    def short_way(self, argnums: Any, alone: bool = False) -> Short:
        """A function from arguments to `value_and_grad` of the branch replayed last, or to None; see `direct`. The
        value may be None where the gradient is wanted `alone`."""
        program, holds, way = self._branches.program, self._branches.captures.holds, (argnums, alone)
        form = self.derived.form(argnums, alone)
        known = (ways := self._branches.short_ways.setdefault(program, {})).get(way)
        if known is None or known[0] is not holds or known[1] is not form or known[2][0] < 0:
            made: Short = never
            if known is not None and known[2][0] < 0:
                self.derived.answered_by_sweeps(argnums, known[2][1])
            left = 2 * [self.derived.calls_by_sweeps(argnums)]
            if not self._branches.stale:
                compiled = self.derived.short_way(argnums, holds, alone)
                made = compiled or never
                if compiled is None and left[0]:
                    made = short_way(program.for_gradients(), self.spec, self._plans.plan(argnums), holds, left)
            known = ways[way] = holds, form, left, made
        return known[3]

    def _value_and_gradient(
        self, program: Program | Lean, workspace: Workspace, plan: Plan, has_aux: bool
    ) -> tuple[Any, Any]:
        if program.scalar is not None and not has_aux:
            value: Any = float(workspace.values[program.scalar])
        else:
            value = program.result(workspace)
        if plan.single is not None:
            return value, self._plans.in_own_dtypes(plan, workspace.gradients[plan.single].copy())
        return value, self._plans.shaped(plan, dict(enumerate(workspace.gradients)))

    def vjp(self, *primals: Any) -> tuple[Any, Callable[[Any], tuple[Any, ...]]]:
        """The value, and a function from a cotangent of the result to those of the arguments; see `tapegrad.vjp`."""
        if evaluation.on_tape(primals):
            return derivatives.vjp(self.f, primals)
        leaves, plan = self.check(primals), self._plans.plan(tuple(range(len(primals))), check=False)
        result, program, pull = self._linear.backward(leaves, plan.chosen)
        shapes, dtype = [o.shape for o in program.code.outputs], program.code.dtype
        on_values = OnValues(self.f, primals)

        def pullback(cotangent: Any) -> Any:
            if on_values.wanted(cotangent):
                return on_values.pull(cotangent)
            seeds = matching.matching(cotangent, program.structure, shapes, "cotangent", "result")
            arrays = [None if s is None else matching.real_numbers(s, dtype, "a cotangent") for s in seeds]
            found = dict(zip(plan.chosen, pull(arrays), strict=True))
            return self._plans.shaped(plan, found, copy=False)

        return result, pullback

    def jvp(self, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
        """The value, and its derivative along tangents of the arguments; see `tapegrad.jvp`."""
        matching.check_tuples(primals, tangents)
        if evaluation.on_tape((primals, tangents)):
            return derivatives.jvp(self.f, primals, tangents)
        along = self._plans.tangents(tuple(range(len(primals))), tangents)
        found: tuple[Any, Any] | None = self.derived.jvp(self.check(tuple(primals)), along)
        if found is not None:
            return found
        return self._branches.replay(
            self.check(tuple(primals)), VALUES, None, lambda p, w: (p.result(w), tangent(p, w)), lean=pushing(along)
        )

    def linearize(self, *primals: Any) -> tuple[Any, Callable[..., Any]]:
        """The value, and a function from tangents of the arguments to that of the result; see `tapegrad.linearize`."""
        if evaluation.on_tape(primals):
            done = evaluation.evaluate(self.f, primals, None)
            return done.result, lambda *tangents: derivatives.pushed(done, primals, tangents)
        result, push = self._linear.forward(self.check(primals))
        plans, numbers, on_values = self._plans, tuple(range(len(primals))), OnValues(self.f, primals)

        def along(*tangents: Any) -> Any:
            return on_values.push(tangents) if on_values.wanted(tangents) else push(plans.tangents(numbers, tangents))

        return result, along

    def elementwise_grad(self, *args: Any, argnums: int | Sequence[int] = 0) -> Any:
        """The gradient of the sum of all that the function returns; see `tapegrad.elementwise_grad`."""
        numbers = evaluation.checked(argument_numbers(argnums), len(args))
        result, pullback = self.vjp(*args)
        leaves, structure = pytree.flatten(result)
        ones = [np.ones(np.shape(y), getattr(y, "dtype", float))[()] for y in leaves]
        grads = pullback(pytree.unflatten(structure, ones))
        return grads[numbers[0]] if isinstance(argnums, int) else tuple(grads[n] for n in numbers)

    # Jacobians

    def jacobian(self, *args: Any, argnums: int | Sequence[int] = 0, sparse: bool = False) -> Any:
        """The Jacobian: in reverse where there are fewer outputs than inputs, else forward; see `tapegrad.jacobian`."""
        return self._jacobian(args, argnums, None, sparse)

    def jacrev(self, *args: Any, argnums: int | Sequence[int] = 0) -> Any:
        """The Jacobian, from the outputs back."""
        return self._jacobian(args, argnums, True, False)

    def jacfwd(self, *args: Any, argnums: int | Sequence[int] = 0) -> Any:
        """The Jacobian, from the inputs forward."""
        return self._jacobian(args, argnums, False, False)

    def _jacobian(self, args: Sequence[Any], argnums: int | Sequence[int], back: bool | None, sparse: bool) -> Any:
        if sparse:
            check_plain(args)
            own = stepwise(self, Recording)
            return own._matrices.evaluate(own._branches, own.check(args), argnums, symmetric=False)
        if evaluation.on_tape(args):
            return derivatives.jacobian(self.f, args, argnums, back)
        self._plans.plan(argnums)
        return self._matrices.jacobian(self._branches, self.check(args), argnums, back)

    # Second derivatives: of the gradient's own recording

    def hessian(self, *args: Any, argnums: int | Sequence[int] = 0, sparse: bool = False) -> Any:
        """The matrix of second derivatives of a scalar function; see `tapegrad.hessian`."""
        if sparse:
            check_plain(args)
            own = stepwise(self, Recording)
            return own._matrices.evaluate(own._gradient(args, argnums), own.check(args), argnums, symmetric=True)
        if evaluation.on_tape(args):
            return derivatives.jacobian(derivatives.gradient_of(self.f, argnums), args, argnums, False)
        plan = self._plans.plan(argnums)
        if not plan.chosen:
            # The arguments hold no floats, so the gradient is as empty as they are, and has no matrix.
            self.check(args)
            return self._plans.shaped(plan, {})
        gradient = functools.partial(self._gradient, args, argnums)
        return self._matrices.hessian(self.program, gradient, self.check(args), argnums)

    def hvp(self, primals: Sequence[Any], tangents: Sequence[Any], argnums: int | Sequence[int] | None = None) -> Any:
        """The Hessian times tangents; see `tapegrad.hvp`."""
        matching.check_tuples(primals, tangents)
        if evaluation.on_tape((primals, tangents)):
            return derivatives.hvp(self.f, primals, tangents, argnums)
        chosen, own = matching.chosen_tangents(primals, tangents, argnums)
        along = self._plans.tangents(argument_numbers(chosen), own)
        plan = self._plans.plan(chosen)
        found = self.derived.hvp(self.check(tuple(primals)), along, hashable(chosen))
        if found is None:
            branches = self._gradient(primals, chosen)
            found = branches.replay(self.check(tuple(primals)), VALUES, None, tangent, lean=pushing(along))
        return self._plans.in_own_dtypes(plan, found)

    def make_hvp(self, *args: Any, argnums: int | Sequence[int] = 0) -> Callable[[Any], Any]:
        """The function v -> H v at given arguments; see `tapegrad.make_hvp`."""
        if evaluation.on_tape(args):
            done = evaluation.evaluate(derivatives.gradient_of(self.f, argnums), args, argument_numbers(argnums))
            return lambda v: derivatives.pushed(done, args, matching.spread(args, argnums, v))
        plan, numbers, on_values = self._plans.plan(argnums), argument_numbers(argnums), OnValues(self.f, args)
        gradient = functools.partial(self._gradient, args, argnums)
        push = self._linear.product(gradient, self.check(args), plan.chosen, hashable(argnums))

        def product(v: Any) -> Any:
            if on_values.wanted(v):
                return on_values.product(argnums, v)
            along = self._plans.tangents(numbers, (v,) if isinstance(argnums, int) else v)
            return self._plans.in_own_dtypes(plan, push(along))

        return product

    def _gradient(self, args: Sequence[Any], argnums: int | Sequence[int]) -> Branches:
        """The recording of the gradient: a program of its own, whose values are derivatives."""
        self._plans.plan(argnums)
        key = hashable(argnums)
        if key not in self._gradients:
            leaves = self.check(tuple(args))
            # A weak reference, so that there is no circle.
            own = weakref.ref(self)
            again = named_like(self.f)(lambda *args: own().written(*args))  # type: ignore[union-attr]
            gradient = derivatives.gradient_of(again, argnums)
            # Whether branches were recorded alike up to the guard where they part is not checked here: which of their
            # instructions are dead code differs. It was checked when the function itself was recorded.
            self._gradients[key] = Branches(
                gradient, self.spec, leaves, None, same_prefixes=False, captures=self._branches.captures,
                forget=self._forgets and functools.partial(_forget_gradient, own, key), forced=self.forced,
            )  # fmt: skip
        return self._gradients[key]

    def written(self, *args: Any) -> Any:
        """The function, called on a tape that is being recorded: what was recorded of it is written there."""
        return written(self.f, self._branches, args)

    def sparsity(self, *args: Any, argnums: int | Sequence[int] = 0, hessian: bool = False) -> Sparsity:
        """The sparsity pattern of the Jacobian, or of the Hessian, and how it is coloured.

        It is that of the branch replayed last, or of the branch taken at the arguments, where some are given.
        """
        if (own := stepwise(self, Recording)) is not self:
            return own.sparsity(*args, argnums=argnums, hessian=hessian)
        if hessian and not args and hashable(argnums) not in self._gradients:
            raise ShapeError("the pattern of a Hessian that was not evaluated yet needs arguments to record it at")
        branches = self._gradient(args, argnums) if hessian else self._branches
        return self._matrices.sparsity(branches, self.check(args) if args else None, argnums, hessian)

    # What is known about it

    def compile(self) -> Recording:
        """Compile it now, as long replays are compiled by themselves: the value, the derivatives that were asked for so
        far, and where none of them is a gradient and the result is one number, that with respect to the first argument.

        Branches that are met later are compiled when that pays. Returns the recording.

        Raises CompileError where it cannot be compiled, or must not: with `compile=False`, TAPEGRAD_COMPILE=never or
        NUMBA_DISABLE_JIT.

        >>> from tapegrad import record
        >>> recording = record(lambda x: np.sum(np.sin(x) * x), np.ones(3), compile=True).compile()
        >>> [(runs.what, runs.how) for runs in recording.stats().runs]
        [('value', 'compiled'), ('value_and_grad', 'compiled')]
        """
        compile_now(self)
        return self

    def renew_short_ways(self) -> None:
        """Make the short ways of calls anew, which refer to programs that are to be given back."""
        self._branches.short_ways.clear()
        if self._renews is not None:
            self._renews()

    def stats(self) -> Stats:
        """How large it is, what it is made of, how often it was recorded, which arrays it has captured, and how the
        value and the derivatives that were asked for are computed."""
        return stats_of(self._branches, runs_of(self))

    def certificate(self, *args: Any) -> Certificate:
        """Whether the function is differentiable at given arguments as it was recorded, or how far the next kink is."""
        return stepwise(self, Recording)._branches.replay(self.check(args), VALUES, None, certify)


def _forget_gradient(own: weakref.ref[Recording], key: Any) -> None:
    if (recording := own()) is not None:
        recording._gradients.pop(key, None)


def _result_of(program: Program | Lean, workspace: Workspace) -> Any:
    return program.result(workspace)
