"""The costs that the instructions, the sweeps and the recording machinery decide, one after the other.

    python -m bench.core                                     # everything, a few minutes
    python -m bench.core --only ternary calls --rounds 31
    python -m bench.core --adjoint-steps 100 --save /tmp/before.json
    python -m bench.core --against /tmp/before.json          # what was saved stands beside what is measured now

Only tapegrad's public functions are called, so that the same file measures the code before and after a change of what
is inside. As everywhere in this folder, results are compared before anything is timed, and contestants take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from bench import machine

if __name__ == "__main__":
    # Before NumPy is imported: libraries read these when they are.
    os.environ.update(machine.thread_environment(machine.threads()))

import numpy as np

from bench import calls, programs, replay, start, tools
from bench.compare import (
    OURS,
    Comparison,
    Ready,
    duration,
    measure_together,
    numbers,
    set_up_table,
    summary,
    table,
    timed,
)

Row = dict[str, Any]  # as `compare.summary` makes them

CHAIN = 10_000  # operations in a chain of scalars, so many that the cost of the call does not show
RECORDED_STEPS = 30  # of the N-body that is recorded again and again
ROUNDS_OF_ARRAYS = 50  # of the array program that is recorded again and again
PENDULUM_STEPS, PENDULUM_DT = 100, 0.05
# Of an N-body that takes some 50 µs; calls of each thread in a round, a multiple of the eight inputs it has.
THREAD_STEPS, THREAD_CALLS = 20, 2000


# Operations of three scalars, beside a product.


def _product(x: Any, functions: Any) -> Any:
    z, factors = x[0], [x[1 + i] for i in range(8)]
    for i in range(CHAIN):
        z = z * factors[i % 8]
    return z


def _clip(x: Any, functions: Any) -> Any:
    # The first bounds hold and all others do not, so the adjoint travels the whole chain and ends at a bound.
    def clip(z: Any, low: Any, high: Any) -> Any:
        return np.clip(z, low, high) if functions is np else functions.fmin(functions.fmax(z, low), high)

    lows, highs = [x[3 + i] for i in range(4)], [x[7 + i] for i in range(4)]
    z = clip(x[0], x[1], x[2])
    for i in range(CHAIN - 1):
        z = clip(z, lows[i % 4], highs[i % 4])
    return z


def _where(x: Any, functions: Any) -> Any:
    # Two numbers that change places or do not: neither gets lost, so that no adjoint is zero.
    choose = np.where if functions is np else functions.if_else
    z, w = x[0], x[1]
    flags = [x[2 + i] > 0.0 for i in range(8)]
    for i in range(CHAIN // 2):
        flag = flags[i % 8]
        z, w = choose(flag, z, w), choose(flag, w, z)
    return z - 2.0 * w


def ternary() -> list[Comparison]:
    rng = np.random.default_rng(20)
    count = 9
    clipped = np.array([3.0, -1.0, 1.0] + [-2.0] * 4 + [2.0] * 4) + 0.01 * rng.normal(size=(count, 11))
    clipped[::3, 0] *= -1.0
    made = [
        ("clip", clipped, _clip),
        ("where", rng.normal(size=(count, 10)), _where),
        ("product", 1.0 + 1e-3 * rng.normal(size=(count, 9)), _product),
    ]
    return [
        Comparison(
            f"scalar {name}, {CHAIN} on a tape, replayed forward and back", list(inputs),
            {tool: partial(getattr(tools, tool), program) for tool in ("tapegrad", "casadi")},
            per=CHAIN, unit="operation",
        )
        for name, inputs, program in made
    ]  # fmt: skip


# Recording from Python.


def _recorded_nbody(x: Any, functions: Any) -> Any:
    return programs.nbody(x, functions.sqrt, RECORDED_STEPS)


def _array_program(x: Any, functions: Any) -> Any:
    # Six operations a round, and two slices, which are not counted.
    z, total = x, 0.0
    for _ in range(ROUNDS_OF_ARRAYS):
        z = functions.sin(z * x + 0.5)
        total = functions.sum(z[1:] * z[:-1]) + total
    return total


def _tapegrad_records(program: tools.Program, fresh: Any, x: Any) -> Ready:
    import tapegrad as tg

    return Ready(lambda x: tg.record(lambda x: program(x, np), x), read=lambda r: r.value_and_grad(fresh))


def _casadi_records(program: tools.Program, fresh: Any, x: Any) -> Ready:
    import casadi as ca

    def run(x: Any) -> Any:
        symbol = ca.SX.sym("x", len(x))
        return symbol, program(symbol, ca)

    def read(result: Any) -> Any:
        symbol, value = result
        outputs = ca.Function("f", [symbol], [value, ca.gradient(value, symbol)])(fresh)
        return [output.full() for output in outputs]

    return Ready(run, read=read)


def _jax_records(program: tools.Program, fresh: Any, x: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)

    def function(x: Any) -> Any:
        return program(x, jax.numpy)

    # A function that was traced at a shape is not traced again, so each call has one of its own.
    return Ready(
        lambda x: jax.make_jaxpr(lambda x: function(x))(x), jax.numpy.asarray,
        lambda _: jax.value_and_grad(function)(fresh),
    )  # fmt: skip


def _floats(program: tools.Program, x: Any) -> Ready:
    import math

    return Ready(lambda x: program(x, math), lambda x: x.tolist())


def recording() -> list[Comparison]:
    states = programs.nbody_states(6)
    count = programs.operations(lambda x: programs.nbody(x, programs.Counter.sqrt, RECORDED_STEPS), states[0])
    arrays = list(np.random.default_rng(22).normal(size=(6, 16)))
    name = f"N-body of {count} scalar operations"
    return [
        Comparison(
            f"recording: {name}", states[:-1],
            {
                "tapegrad": partial(_tapegrad_records, _recorded_nbody, states[-1]),
                "casadi, SX": partial(_casadi_records, _recorded_nbody, states[-1]),
            }, count, "operation",
        ),
        Comparison(
            f"not recording: {name}", states, {"Python's floats": partial(_floats, _recorded_nbody)}, count,
            "operation", checked=False,
        ),
        Comparison(
            f"recording: {6 * ROUNDS_OF_ARRAYS} operations on arrays of 16", arrays[:-1],
            {
                "tapegrad": partial(_tapegrad_records, _array_program, arrays[-1]),
                "jax, make_jaxpr": partial(_jax_records, _array_program, arrays[-1]),
            }, 6 * ROUNDS_OF_ARRAYS, "operation",
        ),
    ]  # fmt: skip


# Calls.


def _three(a: Any, b: Any, c: Any, functions: Any) -> Any:
    return a * b + functions.sin(c) * a


def _six(p: Any, functions: Any) -> Any:
    h = functions.tanh(functions.tanh(p["x"] @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"])
    return functions.sum(h * p["y"])


def _call_tapegrad(program: Any, argnums: Any, args: Any) -> Ready:
    import tapegrad as tg

    gradient = tg.grad(partial(program, functions=np), argnums)
    gradient(*args)
    return Ready(lambda args: gradient(*args))


def _call_jax(program: Any, argnums: Any, args: Any) -> Ready:
    import jax

    jax.config.update("jax_enable_x64", True)
    gradient = jax.jit(jax.grad(partial(program, functions=jax.numpy), argnums))
    gradient(*args)
    return Ready(
        lambda args: jax.block_until_ready(gradient(*args)), lambda args: jax.tree.map(jax.numpy.asarray, args)
    )


def _six_arrays(rng: np.random.Generator) -> dict[str, np.ndarray]:
    # In the order of the letters, in which JAX returns them.
    shapes = {"b1": (3,), "b2": (2,), "w1": (2, 3), "w2": (3, 2), "x": (4, 2), "y": (4, 2)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def call() -> list[Comparison]:
    rng = np.random.default_rng(23)
    return [
        Comparison(
            "gradient of a function of three scalars", [tuple(x) for x in rng.normal(size=(9, 3)).tolist()],
            {
                "tapegrad": partial(_call_tapegrad, _three, (0, 1, 2)),
                "jax.jit": partial(_call_jax, _three, (0, 1, 2)),
            },
        ),
        Comparison(
            "gradient of a dict of six small arrays", [(_six_arrays(rng),) for _ in range(9)],
            {"tapegrad": partial(_call_tapegrad, _six, 0), "jax.jit": partial(_call_jax, _six, 0)},
        ),
    ]  # fmt: skip


# Arrays of two elements, beside the same in scalars.


def _rk4(f: Any, y: Any) -> Any:
    h = PENDULUM_DT
    k1 = f(y)
    k2 = f(y + 0.5 * h * k1)
    k3 = f(y + 0.5 * h * k2)
    k4 = f(y + h * k3)
    return y + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)


def _rk4_scalars(f: Any, y: Any) -> Any:
    h = PENDULUM_DT
    k1 = f(y)
    k2 = f([a + 0.5 * h * k for a, k in zip(y, k1)])
    k3 = f([a + 0.5 * h * k for a, k in zip(y, k2)])
    k4 = f([a + h * k for a, k in zip(y, k3)])
    return [a + h / 6.0 * (p + 2.0 * q + 2.0 * r + s) for a, p, q, r, s in zip(y, k1, k2, k3, k4)]


def _pendulum(way: str, x: Any, functions: Any) -> Any:
    """The squared angle and speed at the end, from the first ones, the damping and the stiffness: four numbers."""
    damping, stiffness = x[2], x[3]

    def stack(y: Any) -> Any:
        return functions.stack([y[1], -damping * y[1] - stiffness * functions.sin(y[0])])

    def concatenate(y: Any) -> Any:
        return functions.concatenate([y[1:], -damping * y[1:] - stiffness * functions.sin(y[:1])])

    def scalars(y: Any) -> Any:
        return [y[1], -damping * y[1] - stiffness * functions.sin(y[0])]

    if way == "scalars":
        y = [x[0], x[1]]
        for _ in range(PENDULUM_STEPS):
            y = _rk4_scalars(scalars, y)
    else:
        y = x[:2]
        for _ in range(PENDULUM_STEPS):
            y = _rk4(stack if way == "np.stack" else concatenate, y)
    return y[0] * y[0] + y[1] * y[1]


def short_runs() -> list[Comparison]:
    rng = np.random.default_rng(24)
    inputs = [np.array([1.0, 0.0, 0.2, 1.5]) + 0.1 * rng.normal(size=4) for _ in range(9)]
    scalars = partial(_pendulum, "scalars")
    others = {"tapegrad, scalars": partial(tools.tapegrad, scalars), "casadi, scalars": partial(tools.casadi, scalars)}
    return [
        Comparison(
            f"pendulum, {PENDULUM_STEPS} steps of RK4, on vectors of two by {way}", inputs,
            {"tapegrad": partial(tools.tapegrad, partial(_pendulum, way))} | others, PENDULUM_STEPS, "step",
        )
        for way in ("np.stack", "np.concatenate")
    ]  # fmt: skip


# Of what other modules measure, the rows that belong here.


def _some(comparison: Comparison, *wanted: str) -> Comparison:
    return dataclasses.replace(comparison, tools={tool: comparison.tools[tool] for tool in wanted})


def _sin_times_x() -> Comparison:
    return _some(calls.sin_times_x(), "tapegrad", "casadi, buffers", "jax.jit", "jax.jit, NumPy input")


def _nbody() -> Comparison:
    return _some(replay.nbody(), "tapegrad", "casadi")


# What is measured otherwise than by calling the same thing again and again.


def adjoint(rounds: int, steps: int) -> list[Row]:
    """The first Hessian times a vector, for which a gradient is written as a program."""
    import tapegrad as tg

    states = programs.nbody_states(3)
    direction = np.random.default_rng(25).normal(size=states[0].shape)

    def program(steps: int, x: Any) -> Any:
        return programs.nbody(x, np.sqrt, steps)

    def first_product(steps: int) -> dict[str, tuple[Any, Any]]:
        f = partial(program, steps)
        done = {"record": timed(lambda: tg.record(f, states[0]))}
        own = done["record"][1]
        done["gradient"] = timed(lambda: own.grad(states[1]))
        done["first"] = timed(lambda: own.hvp((states[1],), (direction,)))
        done["later"] = timed(lambda: own.hvp((states[2],), (direction,)))
        done["nested"] = timed(lambda: tg.record(tg.grad(f), states[0]))
        return done

    first_product(2)  # compiles, or loads
    casadi, skipped = None, {}
    try:
        casadi = _casadi_product(steps, states[1], direction)
    except ImportError as error:
        skipped = {"casadi": f"not installed ({error.name})"}
    times: dict[str, list[Any]] = {}
    for _ in range(rounds):
        done = first_product(steps)
        product = done["first"][1]
        _check_product(done["record"][1], states[1], direction, product)
        if casadi:
            done["casadi"] = timed(casadi)
            np.testing.assert_allclose(done["casadi"][1], product, rtol=1e-6, atol=1e-7 * np.abs(product).max())
        for name, (seconds, _) in done.items():
            times.setdefault(name, []).append(seconds)
    instructions = len(done["record"][1])
    name = f"N-body of {steps} steps, {instructions} instructions"
    first = {OURS: times["first"]} | ({"casadi, recorded before": times["casadi"]} if casadi else {})
    return [
        summary(f"first hvp of a recording: {name}", "call", first, skipped=skipped),
        summary(f"first hvp of a recording: {name}", "instruction", first, instructions, skipped=skipped),
        summary(f"tg.record(tg.grad(f)): {name}", "call", {OURS: times["nested"], "tg.record(f)": times["record"]}),
        summary(f"later hvp of a recording: {name}", "call", {OURS: times["later"], "gradient": times["gradient"]}),
    ]


def _casadi_product(steps: int, point: Any, direction: Any) -> Callable[[], Any]:
    import casadi as ca

    symbol, seed = ca.SX.sym("x", len(point)), ca.SX.sym("v", len(point))
    value = programs.nbody(symbol, ca.sqrt, steps)

    def run() -> Any:
        product = ca.jtimes(ca.gradient(value, symbol), symbol, seed)
        return ca.Function("product", [symbol, seed], [product])(point, direction).full().reshape(-1)

    return run


def _check_product(recording: Any, point: Any, direction: Any, product: Any) -> None:
    # Against differences of gradients. The orbits part quickly, so a larger step would show third derivatives.
    step = 1e-6
    ahead, behind = (recording.grad(point + sign * step * direction) for sign in (1.0, -1.0))
    slope = (ahead - behind) / (2.0 * step)
    np.testing.assert_allclose(product, slope, rtol=1e-4, atol=1e-4 * np.abs(slope).max())


def threads(rounds: int) -> list[Row]:
    """Two threads that replay one recording at once, beside one thread, and beside a recording for each.

    How far two threads can get on the machine at that time is told by NumPy's sine, whose loop leaves Python's lock.
    """
    import tapegrad as tg

    states = programs.nbody_states(17)
    recordings = [tg.record(lambda x: programs.nbody(x, np.sqrt, THREAD_STEPS), states[0]) for _ in range(2)]
    angles = list(np.random.default_rng(26).normal(size=(16, 5000)))

    def job(run: Callable[[Any], Any], inputs: Sequence[Any], found: list[Any]) -> threading.Thread:
        def work() -> None:
            found.extend(run(inputs[i % 8]) for i in range(THREAD_CALLS))

        return threading.Thread(target=work)

    def together(workers: Sequence[threading.Thread]) -> None:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    shared, own = recordings[0].value_and_grad, recordings[1].value_and_grad
    one = "tapegrad, one thread"
    ways: dict[str, tuple[list[Callable[[Any], Any]], list[Any]]] = {
        OURS: ([shared, shared], states[1:]),
        one: ([shared], states[1:]),
        "tapegrad, two threads, a recording each": ([shared, own], states[1:]),
        "NumPy's sine": ([np.sin, np.sin], angles),
        "NumPy's sine, one thread": ([np.sin], angles),
    }
    expected = {way: [numbers(runs[0](x)) for x in inputs] for way, (runs, inputs) in ways.items()}
    times: dict[str, list[Any]] = {way: [] for way in ways}
    order = list(ways)
    for _ in range(rounds):
        for way in order:
            runs, inputs = ways[way]
            found: list[list[Any]] = [[] for _ in runs]
            workers = [job(run, inputs[8 * n :], found[n]) for n, run in enumerate(runs)]
            (seconds, cores), _ = timed(partial(together, workers))
            times[way].append((seconds / (len(runs) * THREAD_CALLS), cores))
            for result, known in zip((r for results in found for r in results[-8:]), expected[way]):
                np.testing.assert_array_equal(numbers(result), known, "threads disturb each other")
        order = order[1:] + order[:1]
    two, single = (times.pop(way) for way in ("NumPy's sine", "NumPy's sine, one thread"))
    scaled = [(t * a / b, cores) for (t, _), (a, cores), (b, _) in zip(times[one], two, single)]
    times[f"{one}, made faster as two threads make NumPy's sine"] = scaled
    name = f"two threads replay one recording, N-body of {THREAD_STEPS} steps (half the time is twice the throughput)"
    return [summary(name, "call of either", times)]


def starts(rounds: int) -> list[Row]:
    """Whole processes that import the tool and compute one gradient, with empty caches and with filled ones."""
    rows = []
    for kind in start.PROGRAMS:
        times: dict[str, dict[str, list[Any]]] = {"cold": {}, "warm": {}}
        skipped = {}
        for _ in range(rounds):
            for found in start.measure(kind, 3, ("tapegrad", "jax")):
                if "skipped" in found:
                    skipped[found["tool"]] = found["skipped"]
                    continue
                for state, t in times.items():
                    t.setdefault(found["tool"], []).append((found[state]["process"], found[state]["cores"]))
        rows += [
            summary(f"{state} start to the first gradient, {kind}, whole process", "process", t, skipped=skipped)
            for state, t in times.items()
        ]
    return rows


# Comparisons by aim. Those of an aim are measured together; OWN are those that no other module measures.
OWN = {"ternary": ternary, "recording": recording, "calls": call, "short-runs": short_runs}
COMPARISONS = OWN | {"calls": lambda: [_sin_times_x(), *call()], "replay": lambda: [_nbody()]}
AIMS = (*COMPARISONS, "adjoint", "threads", "starts")


def _beside(row: Row, other: Row, name: str) -> None:
    """Put the first contestant of another comparison, measured in the same rounds, among those of this one."""
    entry = next(iter(other["tools"].values()))
    row["tools"][name] = entry | {"ratio": row["tools"][OURS]["median"] / entry["median"], "phases": {}}


def rows_of(aim: str, rounds: int, adjoint_steps: int) -> list[Row]:
    """What was measured for one of AIMS."""
    if aim == "adjoint":
        return adjoint(max(3, rounds // 5), adjoint_steps)
    if aim == "threads":
        return threads(rounds)
    if aim == "starts":
        return starts(max(1, rounds // 5))
    rows = measure_together(COMPARISONS[aim](), rounds)
    if aim == "ternary":
        clip, where, product = rows
        for row in (clip, where):
            _beside(row, product, "tapegrad, product")
    elif aim == "recording":
        scalars, floats, arrays = rows
        _beside(scalars, floats, "Python's floats, nothing recorded")
        rows = [scalars, arrays]
    return rows


def change(before: Sequence[Row], now: Sequence[Row]) -> str:
    """tapegrad's own times of two runs as a Markdown table, where both have measured the same."""
    known = {(row["name"], row["unit"]): row["tools"][OURS]["median"] for row in before if OURS in row["tools"]}
    lines = ["| workload | per | before | now | now / before |", "|---|---|---|---|---|"]
    for row in now:
        old, new = known.get((row["name"], row["unit"])), row["tools"][OURS]["median"]
        if old:
            lines.append(f"| {row['name']} | {row['unit']} | {duration(old)} | {duration(new)} | {new / old:.3g} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="The costs that instructions, sweeps and recording decide.")
    parser.add_argument("--only", nargs="*", choices=AIMS, default=AIMS, help="leave out the others")
    parser.add_argument("--rounds", type=int, default=15, help="default 15; a fifth of it for what takes seconds")
    parser.add_argument("--adjoint-steps", type=int, default=1000, help="of the N-body whose gradient is written")
    parser.add_argument("--save", type=Path, help="also write what was measured to this file")
    parser.add_argument("--against", type=Path, help="a file so written, to stand beside")
    options = parser.parse_args()
    machine.limit_libraries()
    rows = []
    for aim in options.only:
        found = rows_of(aim, options.rounds, options.adjoint_steps)
        rows += found
        print("\n\n".join(filter(None, [f"### {aim}", table(found), set_up_table(found)])), end="\n\n", flush=True)
    if options.save:
        options.save.write_text(json.dumps(rows))
    if options.against:
        print(change(json.loads(options.against.read_text()), rows))


if __name__ == "__main__":
    main()
