"""Short last axes, and other layouts whose elements do not follow each other: values alone, and with the gradient.

An array of (100,000, 3) times one number a row, or a column, or a transposed one; the differences of every point and
every centre, as k-means takes them; the cross product written with columns; outer products; reductions over an axis of
a few elements, and over two axes apart. Times are for an element of the largest array. NumPy computes values only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from bench.compare import Comparison, Ready, phase

N = 100_000  # rows
INPUTS = 4


class Case(NamedTuple):
    """A function of arrays and of a tool's module of functions, and the shapes of the arrays."""

    name: str
    program: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dtype: Any = np.float64


def _cross(f: Any, x: Any, y: Any) -> Any:
    columns = [x[:, i] * y[:, j] - x[:, j] * y[:, i] for i, j in ((1, 2), (2, 0), (0, 1))]
    return f.stack(columns, 1)


CASES = [
    Case("dense, for comparison: x * y", lambda f, x, y: x * y, ((N, 3), (N, 3))),
    Case("a number a row: x[:, None] * y", lambda f, x, y: x[:, None] * y, ((N,), (N, 3))),
    Case("a number a row: x[:, None] * y", lambda f, x, y: x[:, None] * y, ((N,), (N, 3)), np.float32),
    Case("a number a column: x * y", lambda f, x, y: x * y, ((3,), (N, 3))),
    Case("a number in the middle: x * y", lambda f, x, y: x * y, ((N // 4, 1, 4), (N // 4, 3, 4))),
    Case("points and centres: x - y", lambda f, x, y: x - y, ((N // 100, 1, 8), (1, 100, 8))),
    Case("transposed: x.T * y", lambda f, x, y: x.T * y, ((3, N), (N, 3))),
    Case("transposed: x.T * y", lambda f, x, y: x.T * y, ((1000, 300), (300, 1000))),
    Case("outer product", lambda f, x, y: x[:, None] * y[None, :], ((N,), (3,))),
    Case("outer product", lambda f, x, y: x[:, None] * y[None, :], ((1000,), (300,))),
    Case("cross product of columns", _cross, ((N, 3), (N, 3))),
    Case("sum over axis 1", lambda f, x: f.sum(x, axis=1), ((N, 3),)),
    Case("sum over axis 0", lambda f, x: f.sum(x, axis=0), ((N, 3),)),
    Case("sum over axis 1", lambda f, x: f.sum(x, axis=1), ((N // 4, 3, 4),)),
    Case("sum over axes 0 and 2", lambda f, x: f.sum(x, axis=(0, 2)), ((30, N // 30, 3),)),
    Case("largest over axis 1", lambda f, x: f.amax(x, axis=1), ((N, 3),)),
    Case("largest over axes 2 and 4", lambda f, x: f.amax(x, axis=(2, 4)), ((64, 20, 2, 20, 2),)),
    Case("product over axis 1", lambda f, x: f.prod(x, axis=1), ((N, 3),)),
]


def _weights(case: Case) -> np.ndarray:
    # What the results are multiplied with before they are added up to the number of which gradients are taken.
    shape = case.program(np, *(np.ones(shape) for shape in case.shapes)).shape
    return np.random.default_rng(31).normal(size=shape).astype(case.dtype)


def _weighted(case: Case, functions: Any, weights: Any) -> Callable[..., Any]:
    return lambda *arrays: functions.sum(case.program(functions, *arrays) * weights)


def _numpy_value(case: Case, arrays: Any) -> Ready:
    return Ready(lambda arrays: case.program(np, *arrays))


def _tapegrad_value(case: Case, arrays: Any) -> Ready:
    import tapegrad as tg

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda *arrays: case.program(np, *arrays), *arrays)
    return Ready(lambda arrays: recording(*arrays), phases=phases)


def _tapegrad_gradient(case: Case, arrays: Any) -> Ready:
    import tapegrad as tg

    phases: dict[str, float] = {}
    argnums = tuple(range(len(arrays)))
    with phase(phases, "record"):
        recording = tg.record(_weighted(case, np, _weights(case)), *arrays)
    with phase(phases, "compile or load"):
        recording.value_and_grad(*arrays, argnums=argnums)
    return Ready(lambda arrays: recording.value_and_grad(*arrays, argnums=argnums), phases=phases)


def _jax(case: Case, with_gradient: bool, arrays: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", case.dtype == np.float64)

    def prepare(arrays: Any) -> Any:
        # Here, as comparisons of either dtype may be set up before any runs.
        jax.config.update("jax_enable_x64", case.dtype == np.float64)
        return [jax.numpy.asarray(array) for array in arrays]

    function = lambda *arrays: case.program(jax.numpy, *arrays)
    if with_gradient:
        weighted = _weighted(case, jax.numpy, jax.numpy.asarray(_weights(case)))
        function = jax.value_and_grad(weighted, tuple(range(len(arrays))))
    phases: dict[str, float] = {}
    with phase(phases, "compile"):
        compiled = jax.jit(function).lower(*prepare(arrays)).compile()
    return Ready(lambda arrays: jax.block_until_ready(compiled(*arrays)), prepare, phases=phases)


class _Torch:
    """PyTorch's functions by the names and with the keywords of NumPy's."""

    def __getattr__(self, name: str) -> Any:
        import torch

        function = getattr(torch, name)
        return lambda x, *rest, axis=None: function(x, *rest) if axis is None else function(x, dim=axis)


def _torch_value(case: Case, arrays: Any) -> Ready:
    import torch

    def run(arrays: Any) -> Any:
        with torch.no_grad():
            return case.program(_Torch(), *arrays)

    return Ready(run, lambda arrays: [torch.tensor(array) for array in arrays])


def _torch_gradient(case: Case, arrays: Any) -> Ready:
    import torch

    weighted = _weighted(case, _Torch(), torch.tensor(_weights(case)))

    def run(arrays: Any) -> Any:
        value = weighted(*arrays)
        return value.detach(), torch.autograd.grad(value, arrays)

    return Ready(run, lambda arrays: [torch.tensor(array, requires_grad=True) for array in arrays])


def _comparison(case: Case, with_gradient: bool) -> Comparison:
    rng = np.random.default_rng(30)
    inputs = [[rng.normal(size=shape).astype(case.dtype) for shape in case.shapes] for _ in range(INPUTS)]
    tools: dict[str, Callable[[Any], Ready]] = {
        "tapegrad": partial(_tapegrad_gradient if with_gradient else _tapegrad_value, case),
        "jax": partial(_jax, case, with_gradient),
        "torch": partial(_torch_gradient if with_gradient else _torch_value, case),
    }
    if not with_gradient:
        tools["NumPy"] = partial(_numpy_value, case)
    shapes = " and ".join(map(str, case.shapes))
    largest = case.program(np, *inputs[0])
    return Comparison(
        f"{case.name}, {shapes}, {np.dtype(case.dtype).name}: {'value and gradient' if with_gradient else 'value'}",
        inputs, tools, per=max(largest.size, *(array.size for array in inputs[0])), unit="element", dtype=case.dtype,
    )  # fmt: skip


COMPARISONS = [partial(_comparison, case, with_gradient) for case in CASES for with_gradient in (False, True)]
