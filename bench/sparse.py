"""Sparse derivatives: gradient and Hessian of Rosenbrock's function, the Jacobian of bundle adjustment.

Rosenbrock's function in 100,000 variables stands for smooth optimisation: *extended*, in pairs of their own (a Hessian
of 2 x 2 blocks), and *chained*, each variable with the next (tridiagonal). Bundle adjustment is that of ADBench: every
observation of a point by a camera gives two residuals, a function of 15 numbers, and one of its weight.

tapegrad is given the function and finds pattern and colours itself, and its result is a SciPy matrix. CasADi finds
them too. JAX is told: colours of the Hessians, and which numbers an observation depends on. JAX and CasADi return the
values alone, in the order of compressed rows or columns (CasADi's own is by columns), which is the least they can do
for somebody who has stored the pattern beforehand. Before anything is timed all matrices are compared entry by entry.

What is not here, as it was slower. JAX: jacfwd of an observation (five times slower than jacrev), and either of them on
vectors instead of components (twice). CasADi: gradients by SX instead of MX (seven times and more), the Jacobian as one
SX expression (four times, after nine seconds of building it) or of one observation by SX, mapped (four times), pairs of
the extended function, mapped (seven times), chained Hessians with the colours given by hand (half as fast).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import scipy.sparse as sp

from bench.compare import Comparison, Ready, phase

VARIABLES = 100_000
CAMERAS, POINTS, OBSERVATIONS = 49, 1_700, 10_000
OF_CAMERA, OF_POINT = 11, 3  # numbers of a camera, of a point
INPUTS = 5


def entries(matrix: Any, pattern: sp.csr_array) -> np.ndarray:
    """The numbers of a sparse matrix in the order of a pattern's; AssertionError if one elsewhere is not zero."""
    assert matrix.shape == pattern.shape, f"a matrix of shape {matrix.shape}, expected {pattern.shape}"
    known, given = _keys(pattern), _keys(matrix)
    data = sp.coo_array(matrix).data
    at = np.minimum(np.searchsorted(known, given), known.size - 1)
    inside = known[at] == given
    assert not np.any(data[~inside]), f"{np.count_nonzero(data[~inside])} entries outside the pattern"
    return np.bincount(at[inside], data[inside], minlength=known.size)


def _keys(matrix: Any) -> np.ndarray:
    rows, columns = sp.coo_array(matrix).coords
    return rows.astype(np.int64) * matrix.shape[1] + columns


def jax_compiled(phases: dict[str, float], function: Callable[..., Any], *arguments: Any) -> Any:
    """A function compiled by XLA for arguments like these."""
    import jax

    with phase(phases, "trace"):
        lowered = jax.jit(function).lower(*arguments)
    with phase(phases, "compile"):
        return lowered.compile()


def casadi_buffered(f: Any) -> Callable[..., list[np.ndarray]]:
    """A function of CasADi called through its buffers: of flat arrays, returning new ones, of the non-zeros."""
    buffer, evaluate = f.buffer()
    sizes = [f.nnz_out(i) for i in range(f.n_out())]

    def run(*arrays: np.ndarray, keep: Any = (f, buffer)) -> list[np.ndarray]:  # `evaluate` does not keep these alive
        results = [np.empty(size) for size in sizes]
        for i, array in enumerate(arrays):
            buffer.set_arg(i, memoryview(array))
        for i, result in enumerate(results):
            buffer.set_res(i, memoryview(result))
        evaluate()
        return results

    return run


def casadi_matrix(f: Any, values: np.ndarray) -> sp.csc_array:
    """The first result of a function of CasADi as a matrix."""
    sparsity = f.sparsity_out(0)
    return sp.csc_array((values, sparsity.row(), sparsity.colind()), shape=sparsity.shape)


# Rosenbrock's function


def _rosenbrock(a: Any, b: Any, functions: Any) -> Any:
    return functions.sum(100.0 * (b - a**2) ** 2 + (1.0 - a) ** 2)


def extended(x: Any, functions: Any) -> Any:
    """Over pairs of variables (a, b), each in one pair, the sum of 100 (b - a^2)^2 + (1 - a)^2."""
    return _rosenbrock(x[0::2], x[1::2], functions)


def chained(x: Any, functions: Any) -> Any:
    """The same sum over neighbours."""
    return _rosenbrock(x[:-1], x[1:], functions)


def starting_points(count: int, size: int = VARIABLES) -> list[np.ndarray]:
    """The customary start (-1.2, 1, -1.2, 1, ...) and a little noise."""
    rng = np.random.default_rng(6)
    return [np.tile([-1.2, 1.0], size // 2) + 0.1 * rng.normal(size=size) for _ in range(count)]


def _colours(program: Any) -> int:
    return 2 if program is extended else 3


def _second_derivatives(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    # Of a pair: by a twice, by a and b, by b twice.
    return 1200.0 * a * a - 400.0 * b + 2.0, -400.0 * a, np.full(a.shape, 200.0)


def _gradient_by_hand(program: Any, x: np.ndarray) -> np.ndarray:
    at_a, at_b = (slice(0, None, 2), slice(1, None, 2)) if program is extended else (slice(0, -1), slice(1, None))
    a = x[at_a]
    inner = x[at_b] - a * a
    gradient = np.zeros(x.shape)
    gradient[at_a] = -400.0 * a * inner - 2.0 * (1.0 - a)
    gradient[at_b] += 200.0 * inner
    return gradient


def _hessian_by_hand(program: Any, x: np.ndarray) -> np.ndarray:
    # The values, row after row.
    if program is extended:
        blocks = np.empty((x.size // 2, 4))
        blocks[:, 0], blocks[:, 1], blocks[:, 3] = _second_derivatives(x[0::2], x[1::2])
        blocks[:, 2] = blocks[:, 1]
        return blocks.reshape(-1)
    first, mixed, second = _second_derivatives(x[:-1], x[1:])
    rows = np.zeros((x.size, 3))
    rows[1:, 0] = rows[:-1, 2] = mixed
    rows[:-1, 1] = first
    rows[1:, 1] += second
    return rows.reshape(-1)[1:-1]


def hessian_pattern(program: Any, size: int) -> sp.csr_array:
    """Where the Hessian may have a number other than zero."""
    if program is extended:
        return sp.csr_array(sp.kron(sp.eye_array(size // 2), np.ones((2, 2)), format="csr"))
    return sp.csr_array(sp.diags_array([np.ones(size - 1), np.ones(size), np.ones(size - 1)], offsets=[-1, 0, 1]))


def _tapegrad_gradient(program: Any, x: Any) -> Ready:
    import tapegrad as tg

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda x: program(x, np), x)
    with phase(phases, "compile or load"):
        recording.grad(x)
    return Ready(recording.grad, phases=phases)


def _jax_gradient(program: Any, x: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)
    phases: dict[str, float] = {}
    compiled = jax_compiled(phases, jax.grad(lambda x: program(x, jax.numpy)), x)
    return Ready(lambda x: compiled(x).block_until_ready(), prepare=jax.numpy.asarray, phases=phases)


def _casadi_gradient(program: Any, x: Any) -> Ready:
    import casadi as ca

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        symbol = ca.MX.sym("x", x.size)
        value = program(symbol, ca)
    with phase(phases, "differentiate"):
        f = ca.Function("gradient", [symbol], [ca.gradient(value, symbol)])
    run = casadi_buffered(f)
    return Ready(lambda x: run(x)[0], phases=phases)


def _tapegrad_hessian(program: Any, pattern: sp.csr_array, x: Any) -> Ready:
    import tapegrad as tg

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda x: program(x, np), x)
    with phase(phases, "pattern, colours, compile or load"):
        recording.hessian(x, sparse=True)
    return Ready(
        lambda x: recording.hessian(x, sparse=True), read=lambda matrix: entries(matrix, pattern), phases=phases
    )


def _jax_hessian(program: Any, x: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy
    colours = _colours(program)
    seeds = np.stack([(np.arange(x.size) % colours == colour) * 1.0 for colour in range(colours)])

    def values(x: Any) -> Any:
        gradient = jax.grad(lambda x: program(x, jnp))

        def product(seed: Any) -> Any:
            return jax.jvp(gradient, (x,), (seed,))[1]

        if program is extended:  # the colours of a row are its columns, in order
            return jax.vmap(product, out_axes=1)(seeds).reshape(-1)
        # Of row r the columns r - 1, r and r + 1 have the colours of these, which slices find faster than indices do.
        triples = jnp.pad(jax.vmap(product)(seeds), ((0, 0), (0, -x.size % 3))).reshape(3, -1, 3)
        rows = jnp.stack([triples[(r + k) % 3, :, r] for r in range(3) for k in (-1, 0, 1)], axis=1)
        return rows.reshape(-1)[1 : 3 * x.size - 1]

    phases: dict[str, float] = {}
    compiled = jax_compiled(phases, values, x)
    return Ready(lambda x: compiled(x).block_until_ready(), prepare=jnp.asarray, phases=phases)


def _casadi_hessian(program: Any, pattern: sp.csr_array, kind: str, x: Any) -> Ready:
    import casadi as ca

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        symbol = getattr(ca, kind).sym("x", x.size)
        value = program(symbol, ca)
    with phase(phases, "pattern, colours, differentiate"):
        f = ca.Function("hessian", [symbol], [ca.hessian(value, symbol)[0]])
    run = casadi_buffered(f)
    return Ready(
        lambda x: run(x)[0], read=lambda values: entries(casadi_matrix(f, values), pattern), phases=phases
    )  # fmt: skip


def gradient(program: Any, size: int = VARIABLES) -> Comparison:
    contestants = {
        "tapegrad": partial(_tapegrad_gradient, program),
        "jax": partial(_jax_gradient, program),
        "casadi, MX": partial(_casadi_gradient, program),
        "NumPy by hand": lambda x: Ready(partial(_gradient_by_hand, program)),
    }
    name = f"Rosenbrock, {program.__name__}, n = {size}: gradient"
    return Comparison(name, starting_points(INPUTS, size), contestants)


def hessian(program: Any, size: int = VARIABLES) -> Comparison:
    pattern = hessian_pattern(program, size)
    contestants = {
        "tapegrad": partial(_tapegrad_hessian, program, pattern),
        "jax, colours by hand, values": partial(_jax_hessian, program),
        "casadi, MX, values": partial(_casadi_hessian, program, pattern, "MX"),
        "casadi, SX, values": partial(_casadi_hessian, program, pattern, "SX"),
        "NumPy by hand, values": lambda x: Ready(partial(_hessian_by_hand, program)),
    }
    name = f"Rosenbrock, {program.__name__}, n = {size}: Hessian, {pattern.nnz} entries"
    return Comparison(name, starting_points(INPUTS, size), contestants)


# Bundle adjustment


def residuals(camera: Any, point: Any, weight: Any, feature: Any, functions: Any) -> tuple[Any, Any]:
    """Of an observation, or of many, component by component: weight (projection - feature), horizontal and vertical.

    A camera turns (Rodrigues, by a vector of which the length is the angle, not zero), and divides by depth; then its
    lens distorts radially.
    """
    r0, r1, r2, c0, c1, c2, focal, u0, u1, k1, k2 = camera
    angle = functions.sqrt(r0 * r0 + r1 * r1 + r2 * r2)
    a0, a1, a2 = r0 / angle, r1 / angle, r2 / angle
    cos, sin = functions.cos(angle), functions.sin(angle)
    d0, d1, d2 = point[0] - c0, point[1] - c1, point[2] - c2
    along = (a0 * d0 + a1 * d1 + a2 * d2) * (1.0 - cos)
    p0 = d0 * cos + (a1 * d2 - a2 * d1) * sin + a0 * along
    p1 = d1 * cos + (a2 * d0 - a0 * d2) * sin + a1 * along
    p2 = d2 * cos + (a0 * d1 - a1 * d0) * sin + a2 * along
    x, y = p0 / p2, p1 / p2
    square = x * x + y * y
    scale = (1.0 + k1 * square + k2 * square * square) * focal
    return weight * (x * scale + u0 - feature[0]), weight * (y * scale + u1 - feature[1])


def by_components(cameras: Any, points: Any, weights: Any, seen: np.ndarray, features: np.ndarray) -> Any:
    """All residuals, two an observation, then the errors of the weights; `seen` has a row (camera, point) for each."""
    camera, point = cameras[seen[:, 0]], points[seen[:, 1]]
    both = residuals(camera.T, point.T, weights, features.T, np)
    return np.concatenate([np.stack(both, axis=1).reshape(-1), 1.0 - weights * weights])


def by_vectors(cameras: Any, points: Any, weights: Any, seen: np.ndarray, features: np.ndarray) -> Any:
    """The same, with an array of shape (observations, 3) wherever there is a vector in the formulas."""
    camera, point = cameras[seen[:, 0]], points[seen[:, 1]]
    rotation = camera[:, 0:3]
    angle = np.sqrt(np.sum(rotation * rotation, axis=1, keepdims=True))
    axis, cos, sin = rotation / angle, np.cos(angle), np.sin(angle)
    d = point - camera[:, 3:6]
    cross = np.stack([axis[:, i] * d[:, j] - axis[:, j] * d[:, i] for i, j in ((1, 2), (2, 0), (0, 1))], axis=1)
    turned = d * cos + cross * sin + axis * (np.sum(axis * d, axis=1, keepdims=True) * (1.0 - cos))
    flat = turned[:, :2] / turned[:, 2:]
    square = np.sum(flat * flat, axis=1, keepdims=True)
    distorted = flat * (1.0 + camera[:, 9:10] * square + camera[:, 10:11] * square * square)
    projection = distorted * camera[:, 6:7] + camera[:, 7:9]
    return np.concatenate([(weights[:, None] * (projection - features)).reshape(-1), 1.0 - weights * weights])


def scene(cameras: int = CAMERAS, points: int = POINTS, observations: int = OBSERVATIONS, seed: int = 7) -> Any:
    """Cameras turned a little, some five units before a cloud of points; (cameras, points, weights), seen, features.

    No camera sees a point twice, and every point is seen by two cameras or more. Features are half a pixel off.
    """
    rng = np.random.default_rng(seed)
    rotation = rng.normal(size=(cameras, 3)) * 0.2
    centre = np.stack([5.0 * rotation[:, 1], -5.0 * rotation[:, 0], np.full(cameras, -5.0)], axis=1)
    centre += 0.2 * rng.normal(size=centre.shape)
    lens = [500.0, 320.0, 240.0, -0.05, 0.01] * (1.0 + 0.05 * rng.normal(size=(cameras, 5)))
    cloud = rng.uniform(-1.0, 1.0, size=(points, 3))
    counts = 2 + rng.multinomial(observations - 2 * points, np.full(points, 1.0 / points))
    turns = rng.permuted(np.tile(np.arange(cameras), (points, 1)), axis=1)
    point, turn = np.nonzero(np.arange(cameras) < counts[:, None])
    seen = np.stack([turns[point, turn], point], axis=1)
    given = np.concatenate([rotation, centre, lens], axis=1), cloud, np.ones(len(seen))
    projections = by_vectors(*given, seen, np.zeros((len(seen), 2)))[: 2 * len(seen)].reshape(-1, 2)
    return given, seen, projections + 0.5 * rng.normal(size=projections.shape)


def _columns(seen: np.ndarray, cameras: int, points: int) -> np.ndarray:
    # Of an observation, the 15 columns of its rows, ascending: of its camera, of its point, of its weight.
    camera = OF_CAMERA * seen[:, :1] + np.arange(OF_CAMERA)
    point = OF_CAMERA * cameras + OF_POINT * seen[:, 1:] + np.arange(OF_POINT)
    weight = OF_CAMERA * cameras + OF_POINT * points + np.arange(len(seen))
    return np.concatenate([camera, point, weight[:, None]], axis=1)


def jacobian_pattern(seen: np.ndarray, cameras: int, points: int) -> sp.csr_array:
    """Where the Jacobian may have a number other than zero; two more of each row are zero, each residual's own."""
    columns = _columns(seen, cameras, points)
    count, width = columns.shape
    indices = np.concatenate([np.repeat(columns, 2, axis=0).reshape(-1), columns[:, -1]])
    starts = np.concatenate([np.arange(0, 2 * count * width, width), 2 * count * width + np.arange(count + 1)])
    shape = 3 * count, OF_CAMERA * cameras + OF_POINT * points + count
    return sp.csr_array((np.ones(indices.size), indices, starts), shape=shape)


def _flat(arrays: Any) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for array in arrays])


def _tapegrad_jacobian(program: Any, seen: Any, features: Any, pattern: sp.csr_array, given: Any) -> Ready:
    import tapegrad as tg

    def run(given: Any) -> Any:
        return recording.jacobian(*given, argnums=(0, 1, 2), sparse=True)

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        recording = tg.record(lambda *given: program(*given, seen, features), *given)
    with phase(phases, "pattern, colours, compile or load"):
        run(given)
    return Ready(run, read=lambda matrix: entries(matrix, pattern), phases=phases)


def _jax_jacobian(seen: Any, features: Any, given: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp = jax.numpy

    def observation(v: Any, feature: Any) -> Any:
        v = [v[i] for i in range(OF_CAMERA + OF_POINT + 1)]
        return jnp.stack(residuals(v[:OF_CAMERA], v[OF_CAMERA:-1], v[-1], feature, jnp))

    def values(cameras: Any, points: Any, weights: Any) -> Any:
        v = jnp.concatenate([cameras[seen[:, 0]], points[seen[:, 1]], weights[:, None]], axis=1)
        blocks = jax.vmap(jax.jacrev(observation))(v, features)
        return jnp.concatenate([blocks.reshape(-1), -2.0 * weights])

    phases: dict[str, float] = {}
    compiled = jax_compiled(phases, values, *given)
    return Ready(
        lambda given: compiled(*given).block_until_ready(),
        prepare=lambda given: tuple(jnp.asarray(array) for array in given),
        phases=phases,
    )


def _casadi_parts(seen: Any, features: Any, given: Any) -> tuple[Any, Any]:
    # The symbol of all numbers, and of all observations the 15 they depend on, each number's a vector.
    import casadi as ca

    x = ca.MX.sym("x", sum(array.size for array in given))
    return x, [x[column.tolist()] for column in _columns(seen, len(given[0]), len(given[1])).T]


def _casadi_residuals(v: Any, features: Any) -> Any:
    import casadi as ca

    return residuals(v[:OF_CAMERA], v[OF_CAMERA:-1], v[-1], [ca.DM(column) for column in features.T], ca)


def _casadi_jacobian(seen: Any, features: Any, pattern: sp.csr_array, given: Any) -> Ready:
    # CasADi finds pattern and colours.
    import casadi as ca

    phases: dict[str, float] = {}
    with phase(phases, "record"):
        x, v = _casadi_parts(seen, features, given)
        both = ca.vec(ca.horzcat(*_casadi_residuals(v, features)).T)
        result = ca.vertcat(both, 1.0 - v[-1] * v[-1])
    with phase(phases, "pattern, colours, differentiate"):
        f = ca.Function("jacobian", [x], [ca.jacobian(result, x)])
    run = casadi_buffered(f)
    return Ready(
        lambda x: run(x)[0],
        prepare=_flat,
        read=lambda values: entries(casadi_matrix(f, values), pattern),
        phases=phases,
    )


def _casadi_compressed(seen: Any, features: Any, given: Any) -> Ready:
    # Observations share nothing once their numbers are gathered, so a sweep backward for each of the two is enough.
    import casadi as ca

    phases: dict[str, float] = {}
    count = len(seen)
    with phase(phases, "record"):
        x, gathered = _casadi_parts(seen, features, given)
        v = ca.MX.sym("v", count * len(gathered))
        both = _casadi_residuals(ca.vertsplit(v, count), features)
    with phase(phases, "differentiate"):
        rows = ca.Function("rows", [v], [ca.gradient(ca.sum1(residual), v) for residual in both])
        order = np.arange(2 * v.numel()).reshape(2, len(gathered), count).transpose(2, 0, 1).reshape(-1)
        blocks = ca.vertcat(*rows(ca.vertcat(*gathered)))[order.tolist()]
        f = ca.Function("jacobian", [x], [ca.vertcat(blocks, -2.0 * gathered[-1])])
    run = casadi_buffered(f)
    return Ready(lambda x: run(x)[0], prepare=_flat, phases=phases)


def bundle_adjustment() -> Comparison:
    given, seen, features = scene()
    pattern = jacobian_pattern(seen, CAMERAS, POINTS)
    rng = np.random.default_rng(8)
    inputs = [tuple(a * (1.0 + 1e-3 * rng.normal(size=a.shape)) for a in given) for _ in range(INPUTS)]
    contestants = {
        "tapegrad": partial(_tapegrad_jacobian, by_components, seen, features, pattern),
        "tapegrad, by vectors": partial(_tapegrad_jacobian, by_vectors, seen, features, pattern),
        "jax, blocks by hand, values": partial(_jax_jacobian, seen, features),
        "casadi, MX, values": partial(_casadi_jacobian, seen, features, pattern),
        "casadi, MX, blocks by hand, values": partial(_casadi_compressed, seen, features),
    }
    name = (
        f"bundle adjustment, {CAMERAS} cameras, {POINTS} points, {OBSERVATIONS} observations: Jacobian, "
        f"{pattern.nnz} entries"
    )
    return Comparison(name, inputs, contestants)


COMPARISONS = [
    partial(gradient, extended),
    partial(gradient, chained),
    partial(hessian, extended),
    partial(hessian, chained),
    bundle_adjustment,
]
