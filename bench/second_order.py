"""What a Hessian times a vector costs, in gradients.

An N-body of scalar operations, Rosenbrock's function in 100,000 variables, and the cross-entropy of the 784-128-64-10
perceptron on a batch of 64, random but of MNIST's shape. JAX differentiates its gradient forward (`jvp` of `grad`),
compiled, and so does CasADi where it takes part. Gradients and products of all tools take turns, and both are compared
before either is timed. `ratio_table` puts the one over the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from bench import programs
from bench.compare import Comparison, Ready, duration, phase
from bench.mnist import batches, first_weights, logits, split
from bench.sparse import VARIABLES, casadi_buffered, chained, extended, jax_compiled, starting_points

GRADIENT = ", gradient"  # follows the name of a tool
INPUTS = 5

# An input is (point, direction, *data). A tool, set up, is its gradient and its product with a vector.
Pair = dict[str, Ready]


def _contestants(tools: dict[str, Callable[[Any], Pair]]) -> dict[str, Callable[[Any], Ready]]:
    contestants = {}
    for tool, make in tools.items():
        pair: Pair = {}
        contestants[tool] = partial(_one_of, pair, make, "product")
        contestants[tool + GRADIENT] = partial(_one_of, pair, make, "gradient")
    return contestants


def _one_of(pair: Pair, make: Callable[[Any], Pair], timed: str, x: Any) -> Ready:
    # What is not timed runs when a result is read, so that all contestants have the same results to compare.
    if not pair:
        pair.update(make(x))

    def read(result: Any) -> Any:
        at, given = result
        return [ready.read(given if name == timed else ready.run(at)) for name, ready in pair.items()]

    ready = pair[timed]
    return Ready(lambda x: (x, ready.run(x)), ready.prepare, read, ready.phases)


def _tapegrad(program: Callable[..., Any], x: Any) -> Pair:
    import tapegrad as tg

    point, _, *data = x
    phases: dict[str, dict[str, float]] = {"gradient": {}, "product": {}}
    with phase(phases["gradient"], "record"):
        recording = tg.record(program, point, *data)

    def gradient(x: Any) -> Any:
        point, _, *data = x
        return recording.grad(point, *data)

    def product(x: Any) -> Any:
        point, direction, *data = x
        return recording.hvp((point, *data), (direction,), argnums=0)

    with phase(phases["gradient"], "compile or load"):
        gradient(x)
    with phase(phases["product"], "compile or load"):
        product(x)
    return {
        "gradient": Ready(gradient, phases=phases["gradient"]),
        "product": Ready(product, phases=phases["product"]),
    }


def _jax(program: Callable[..., Any], x: Any, arrange: Callable[[Any], Any] = lambda flat: flat) -> Pair:
    # `arrange` makes of the flat vector what the program is written for.
    import jax

    def prepare(x: Any) -> Any:
        # Here, as what is set up serves two contestants, and others may have changed this in between.
        jax.config.update("jax_enable_x64", x[0].dtype == np.float64)
        point, direction, *data = x
        return jax.tree.map(jax.numpy.asarray, (arrange(point), arrange(direction), *data))

    def gradient(point: Any, direction: Any, *data: Any) -> Any:
        return jax.grad(program)(point, *data)

    def product(point: Any, direction: Any, *data: Any) -> Any:
        return jax.jvp(lambda point: jax.grad(program)(point, *data), (point,), (direction,))[1]

    def ready(function: Any) -> Ready:
        phases: dict[str, float] = {}
        first = prepare(x)
        compiled = jax_compiled(phases, function, *first)
        return Ready(lambda x: jax.block_until_ready(compiled(*x)), prepare, phases=phases)

    return {"gradient": ready(gradient), "product": ready(product)}


def _casadi(program: Callable[[Any, Any], Any], kind: str, x: Any) -> Pair:
    import casadi as ca

    phases: dict[str, dict[str, float]] = {"gradient": {}, "product": {}}
    symbol, seed = (getattr(ca, kind).sym(name, x[0].size) for name in ("x", "v"))
    with phase(phases["gradient"], "record"):
        value = program(symbol, ca)
    with phase(phases["gradient"], "differentiate"):
        gradient = ca.gradient(value, symbol)
        of_point = casadi_buffered(ca.Function("gradient", [symbol], [gradient]))
    with phase(phases["product"], "differentiate"):
        of_both = casadi_buffered(ca.Function("product", [symbol, seed], [ca.jtimes(gradient, symbol, seed)]))
    return {
        "gradient": Ready(lambda x: of_point(x[0])[0], phases=phases["gradient"]),
        "product": Ready(lambda x: of_both(*x)[0], phases=phases["product"]),
    }


def _nbody(x: Any, functions: Any) -> Any:
    return programs.nbody(x, functions.sqrt)


def _nbody_arrays(state: Any) -> Any:
    # As somebody who writes for JAX would have it: arrays over bodies inside a scan over steps.
    import jax

    jnp = jax.numpy
    masses = np.array(programs.MASSES)
    others = ~np.eye(programs.BODIES, dtype=bool)

    def step(carry: Any, _: Any) -> Any:
        x, v = carry
        d = x[None, :, :] - x[:, None, :]
        r2 = (d * d).sum(-1) + programs.SOFTENING
        strength = jnp.where(others, masses[None, :] / (r2 * jnp.sqrt(r2)), 0.0)
        v = v + programs.DT * (strength[:, :, None] * d).sum(1)
        return (x + programs.DT * v, v), None

    x, v = state.reshape(2, programs.BODIES, 3)
    (_, v), _ = jax.lax.scan(step, (x, v), None, length=programs.STEPS)
    return (v * v).sum()


def _with_directions(points: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(9)
    return [(point, rng.normal(size=point.shape).astype(point.dtype)) for point in points]


def nbody() -> Comparison:
    tools = {
        "tapegrad": partial(_tapegrad, lambda x: _nbody(x, np)),
        "jax, scan over arrays": partial(_jax, _nbody_arrays),
        "casadi, SX": partial(_casadi, _nbody, "SX"),
    }
    name = f"N-body, {programs.BODIES} bodies, {programs.STEPS} steps: Hessian times vector"
    return Comparison(name, _with_directions(programs.nbody_states(INPUTS)), _contestants(tools))


def rosenbrock(program: Any) -> Comparison:
    def for_jax(x: Any) -> Any:
        import jax

        return program(x, jax.numpy)

    tools = {
        "tapegrad": partial(_tapegrad, lambda x: program(x, np)),
        "jax": partial(_jax, for_jax),
        "casadi, MX": partial(_casadi, program, "MX"),
    }
    name = f"Rosenbrock, {program.__name__}, n = {VARIABLES}: Hessian times vector"
    return Comparison(name, _with_directions(starting_points(INPUTS)), _contestants(tools))


def _perceptron(flat: Any, x: Any, labels: Any) -> Any:
    import tapegrad as tg

    return tg.cross_entropy(logits(split(flat), x, tg.relu), labels)


def _perceptron_jax(weights: Any, x: Any, labels: Any) -> Any:
    import jax

    z = logits(weights, x, jax.nn.relu)
    chosen = jax.numpy.take_along_axis(z, labels[:, None], axis=1)[:, 0]
    return jax.numpy.mean(jax.nn.logsumexp(z, axis=1) - chosen)


def perceptron(dtype: Any) -> Comparison:
    rng = np.random.default_rng(10)
    flat = np.concatenate([weights.reshape(-1) for weights in first_weights()])
    points = [(flat + 0.01 * rng.normal(size=flat.shape)).astype(dtype) for _ in range(INPUTS)]
    data = [(images.astype(dtype), labels.astype(np.int32)) for images, labels in batches(INPUTS)]
    # tapegrad takes the weights as one vector, JAX as a list of arrays: each as it is faster with.
    tools = {
        "tapegrad": partial(_tapegrad, _perceptron),
        "jax": partial(_jax, _perceptron_jax, arrange=split),
    }
    return Comparison(
        f"MNIST perceptron, batch {len(data[0][1])}, {np.dtype(dtype).name}: Hessian times vector",
        [(*pair, *batch) for pair, batch in zip(_with_directions(points), data)],
        _contestants(tools), dtype=dtype,
    )  # fmt: skip


def ratio_table(rows: Sequence[dict[str, Any]]) -> str:
    """For each tool, Hessian times vector over gradient, as a Markdown table."""
    lines = [
        "| workload | tool | gradient | Hessian times vector | in gradients |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        tools = row["tools"]
        for tool, product in tools.items():
            gradient = tools.get(tool + GRADIENT)
            if gradient:
                times = gradient["median"], product["median"]
                lines.append(
                    f"| {row['name']} | {tool} | {duration(times[0])} | {duration(times[1])} "
                    f"| {times[1] / times[0]:.2f} |"
                )
    return "\n".join(lines)


COMPARISONS = [
    nbody,
    partial(rosenbrock, extended),
    partial(rosenbrock, chained),
    partial(perceptron, np.float64),
    partial(perceptron, np.float32),
]
