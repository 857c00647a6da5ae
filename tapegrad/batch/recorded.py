"""`Recording.batch`: the value and the derivatives of a recorded function for many inputs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tapegrad import pytree
from tapegrad.adjoint import derivatives, matching
from tapegrad.attached import named_like
from tapegrad.batch import axes as axes_of
from tapegrad.batch.blocks import thread_count
from tapegrad.batch.runs import Run
from tapegrad.batch.sums import Progress, Sum
from tapegrad.batch.vmap import check_integers, lane_args, put_together, run
from tapegrad.errors import UnsupportedError
from tapegrad.native import choice
from tapegrad.program.outputs import scalar_place
from tapegrad.recording import Known, Recording, branches_of
from tapegrad.recording.plans import Plans, hashable
from tapegrad.value import Value

# The recordings of derivatives of one lane, by what they are.
_derived: weakref.WeakKeyDictionary[Recording, dict[Any, Known]] = weakref.WeakKeyDictionary()


class Batch:
    """A recorded function of one lane for many lanes. Its methods are those of `Recording`.

    Arguments have their lanes along the axes that `in_axes` says, by default the first axis of each; results have them
    where `out_axes` says; on how many threads blocks of lanes are computed, `threads` says. See `tapegrad.vmap`.

    >>> import numpy as np
    >>> from tapegrad import record
    >>> recording = record(lambda x, k: k * np.sum(x**2), np.zeros(2), 1.0)
    >>> xs, ks = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([1.0, 10.0])
    >>> recording.batch(xs, ks)
    array([  5., 250.])
    >>> recording.batch.grad(xs, ks)
    array([[ 2.,  4.],
           [60., 80.]])
    >>> recording.batch.value_and_grad_sum(xs, 1.0, in_axes=(0, None))
    (30.0, array([ 8., 12.]))
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording

    def __call__(self, *args: Any, in_axes: Any = 0, out_axes: Any = 0, threads: int | None = None) -> Any:
        """The value of each lane.

        Raises ShapeError for lanes of other shapes than recorded, and what `tapegrad.vmap` raises.
        """
        leaves, axes, total, structure = self._lanes(args, in_axes)
        self._recording.check(lane_args(leaves, axes, structure, 0))
        return put_together(run(self._recording, leaves, axes, total, threads), out_axes)

    def value_and_grad(
        self, *args: Any, argnums: int | Sequence[int] = 0, in_axes: Any = 0, out_axes: Any = 0,
        threads: int | None = None,
    ) -> tuple[Any, Any]:  # fmt: skip
        """The value and the gradient of each lane; see `Recording.value_and_grad`."""

        def both(of: Recording, *args: Any) -> Any:
            return derivatives.value_and_grad(of.written, args, argnums, False)

        key = "value_and_grad", hashable(argnums)
        found: tuple[Any, Any] = self._derivative(key, both, args, in_axes, out_axes, threads)
        return found

    def grad(self, *args: Any, argnums: int | Sequence[int] = 0, **how: Any) -> Any:
        """The gradient of each lane; `how` is as for `value_and_grad`."""
        how.setdefault("in_axes", 0)
        out_axes = how.pop("out_axes", 0)
        return self.value_and_grad(*args, argnums=argnums, out_axes=(0, out_axes), **how)[1]

    def jacobian(
        self, *args: Any, argnums: int | Sequence[int] = 0, in_axes: Any = 0, out_axes: Any = 0,
        threads: int | None = None,
    ) -> Any:  # fmt: skip
        """The Jacobian of each lane; see `Recording.jacobian`."""

        def matrix(of: Recording, *args: Any) -> Any:
            return derivatives.jacobian(of.written, args, argnums, None)

        return self._derivative(("jacobian", hashable(argnums)), matrix, args, in_axes, out_axes, threads)

    def hessian(
        self, *args: Any, argnums: int | Sequence[int] = 0, in_axes: Any = 0, out_axes: Any = 0,
        threads: int | None = None,
    ) -> Any:  # fmt: skip
        """The Hessian of each lane; see `Recording.hessian`."""

        def matrix(of: Recording, *args: Any) -> Any:
            return derivatives.jacobian(derivatives.gradient_of(of.written, argnums), args, argnums, False)

        return self._derivative(("hessian", hashable(argnums)), matrix, args, in_axes, out_axes, threads)

    def hvp(
        self, primals: Sequence[Any], tangents: Sequence[Any], argnums: int | Sequence[int] | None = None, *,
        in_axes: Any = 0, out_axes: Any = 0, threads: int | None = None,
    ) -> Any:  # fmt: skip
        """The Hessian of each lane times tangents; see `Recording.hvp`.

        `in_axes` are those of the primals; each tangent has lanes of its own, along the first axis.
        """
        matching.check_tuples(primals, tangents)
        count = len(primals)

        def product(of: Recording, *args: Any) -> Any:
            return derivatives.hvp(of.written, args[:count], args[count:], argnums)

        in_axes = tuple(in_axes) if isinstance(in_axes, tuple | list) else (in_axes,) * count
        key = "hvp", None if argnums is None else hashable(argnums), count
        axes = (*in_axes, *([0] * len(tangents)))
        return self._derivative(key, product, (*primals, *tangents), axes, out_axes, threads, primals=count)

    def value_and_grad_sum(
        self, *args: Any, argnums: int | Sequence[int] = 0, in_axes: Any = 0, mean: bool = False,
        progress: bool | Progress | None = None, threads: int | None = None,
    ) -> tuple[float, Any]:  # fmt: skip
        """The sum over all lanes of the values, and that of the gradients; with `mean`, what they are on average.

        Args:
            args, argnums: as for `value_and_grad`.
            in_axes: as for `vmap`. What is the same in all lanes has None: `(None, 0, 0)` for parameters, inputs and
                targets of a model.
            mean: whether to divide by the number of lanes.
            progress: True for tqdm's bar; or a function, called with the number of lanes that are done, and of all.
            threads: as for `vmap`. Blocks are added up in their order, so sums have the same bits for any number.

        Of the lanes only blocks are in memory: arguments may be `np.memmap`, larger than memory, and no gradient is
        stored for a lane. Where the function branches, each lane is first looked at to find its branch.

        Raises NonScalarError unless the result is one number, IntegerInputError for an argument that holds integers,
        ExtraMissingError where a bar is wanted and tqdm is not installed; and what `vmap` raises.

        >>> import numpy as np
        >>> from tapegrad import record
        >>> loss = record(lambda w, x, y: (x @ w - y) ** 2, np.zeros(2), np.zeros(2), 0.0)
        >>> x, y = np.arange(6.0).reshape(3, 2), np.ones(3)
        >>> loss.batch.value_and_grad_sum(np.zeros(2), x, y, in_axes=(None, 0, 0))
        (3.0, array([-12., -18.]))
        >>> loss.batch.value_and_grad_sum(np.zeros(2), x, y, in_axes=(None, 0, 0), mean=True)
        (1.0, array([-4., -6.]))
        """
        leaves, axes, total, structure = self._lanes(args, in_axes)
        found = self.sums(leaves, axes, total, structure, argnums, progress, threads)
        return self.shaped([np.asarray(x / total) for x in found] if mean else found, argnums)

    def sums(
        self, leaves: list[Any], axes: list[int | None], total: int, structure: Any, argnums: int | Sequence[int],
        progress: bool | Progress | None = None, threads: int | None = None,
    ) -> list[np.ndarray]:  # fmt: skip
        """The sum of the values, and for each input that has a gradient that of its gradients, in float64.

        The leaves of the arguments are given with the axis of the lanes of each. Sums of the parts of a batch can be
        added up, and `shaped` makes of them what `value_and_grad_sum` returns. Raises what that raises.
        """
        recording = self._recording
        recording.check(lane_args(leaves, axes, structure, 0))
        check_integers(recording, leaves, axes)
        chosen = self._plans().plan(argnums).chosen
        how, count = choice.mode(recording.forced), thread_count(threads)
        lanes = Run(branches_of(recording), leaves, axes, total, how, count, keep=False)
        return Sum(lanes, leaves, axes, total, how, count, chosen).all_lanes(progress)

    def check_summed(self, argnums: int | Sequence[int]) -> None:
        """Raise what `value_and_grad_sum` raises for this function and `argnums`, whatever the lanes."""
        self._plans().plan(argnums)
        program = self._recording.program
        scalar_place(program.code, program.structure, False)

    def shaped(self, sums: Sequence[np.ndarray], argnums: int | Sequence[int]) -> tuple[float, Any]:
        """Sums, or means, as a value and a gradient that is nested as the arguments are, in their dtypes."""
        plans = self._plans()
        plan, (value, *grads) = plans.plan(argnums), sums
        return float(value), plans.shaped(plan, dict(zip(plan.chosen, grads, strict=True)), copy=False)

    def _plans(self) -> Plans:
        spec = self._recording.spec
        return Plans(spec, [False] * len(spec.leaves))

    def _lanes(self, args: Any, in_axes: Any) -> tuple[list[Any], list[int | None], int, Any]:
        leaves, structure = pytree.flatten(tuple(args))
        if any(isinstance(x, Value) for x in leaves):
            raise UnsupportedError("a recording's batch takes plain arrays: call tapegrad.vmap(f) with Values")
        said = axes_of.of_arguments(in_axes, args, {})
        leaves = [
            np.asarray(x) if axis is not None and hasattr(x, "__array__") else x
            for x, axis in zip(leaves, said, strict=True)
        ]
        axes, total = axes_of.checked(said, leaves, pytree.paths(structure, "args"))
        return leaves, axes, total, structure

    def _derivative(
        self, key: Any, f: Callable[..., Any], args: Sequence[Any], in_axes: Any, out_axes: Any, threads: int | None,
        primals: int | None = None,
    ) -> Any:  # fmt: skip
        """f(recording, *arguments of one lane), written on a tape and recorded, for all lanes."""
        leaves, axes, total, structure = self._lanes(args, in_axes)
        of_lane = lane_args(leaves, axes, structure, 0)
        self._recording.check(of_lane[:primals])
        known = _derived.setdefault(self._recording, {})
        if key not in known:
            # A weak reference, so that there is no circle.
            own = weakref.ref(self._recording)
            g = named_like(self._recording.f)(lambda *args: f(own(), *args))
            known[key] = Known(g, self._recording.forced)
        recording, _ = known[key].at(of_lane)
        return put_together(run(recording, leaves, axes, total, threads), out_axes)
