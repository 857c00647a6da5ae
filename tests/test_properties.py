"""Random programs: the compiled sweeps against the naive replay, differences, and each other."""

import hypothesis.strategies as st
import naive
import numpy as np
import pytest
from checks import check_transpose, difference, places, tangent_of
from hypothesis import given, settings

import tapegrad as tg

# Smooth on all reals and of moderate size, so that differences mean something wherever a program goes.
UNARY = {
    "sin": np.sin, "cos": np.cos, "tanh": np.tanh, "arctan": np.arctan, "negative": np.negative, "arcsinh": np.arcsinh,
    "softly": lambda x: np.log1p(x * x), "root": lambda x: np.sqrt(1.0 + x * x), "cube": lambda x: np.tanh(x) ** 3,
    "bell": lambda x: np.exp(-x * x), "whole": lambda x: x + 0.0 * np.floor(x),
}  # fmt: skip
BINARY = {
    "add": np.add, "subtract": np.subtract, "multiply": lambda x, y: np.tanh(x) * y, "divide": lambda x,
    y: x / (1.0 + y * y),
    "hypot": lambda x, y: np.hypot(x, np.cosh(np.tanh(y))), "arctan2": lambda x, y: np.arctan2(x, 1.0 + y * y),
    "logaddexp": np.logaddexp, "power": lambda x, y: (1.5 + np.tanh(x)) ** np.sin(y),
}  # fmt: skip
VIEWS = {
    "transpose": lambda x: x.T, "reversed": lambda x: x[::-1], "last": lambda x: x[..., -1], "first": lambda x: x[0],
    "flat": lambda x: x.reshape(-1), "every other": lambda x: x[::2], "new axis": lambda x: x[None],
    "broadcast": lambda x: np.broadcast_to(x, (2, *x.shape)),
}  # fmt: skip
REDUCTIONS = {
    "sum": np.sum, "mean": np.mean, "sum0": lambda x: np.sum(x, axis=0), "sum-1": lambda x: np.sum(x, axis=-1,
    keepdims=True),
    "var": np.var, "cumsum": np.cumsum, "prod": lambda x: np.prod(np.tanh(x) + 1.5, axis=-1),
    "gather": lambda x: x[[0, -1, 0]], "stack": lambda x: np.stack([x, 2.0 * x], -1), "pad": lambda x: np.pad(x, 1),
    "dot": lambda x: np.sin(x) @ x.T if x.ndim == 2 else x, "roll": lambda x: np.roll(x, 1, 0),
}  # fmt: skip

step = st.tuples(
    st.sampled_from(["unary", "binary", "view", "reduction"]),
    st.integers(0, 99),
    st.integers(0, 99),
    st.integers(0, 99),
)
programs = st.lists(step, min_size=1, max_size=14)
seeds = st.integers(0, 2**31)


def execute(program, inputs):
    """Run a program on Values or arrays alike: every step takes earlier results and appends its own."""
    known = list(inputs)
    for kind, op, i, j in program:
        x, y = known[-1 - i % len(known)], known[-1 - j % len(known)]
        if kind == "unary" or (kind in ("view", "reduction") and x.ndim == 0):
            known.append(list(UNARY.values())[op % len(UNARY)](x))
        elif kind == "binary":
            if not fits(x.shape, y.shape):
                y = np.sum(y) * 0.25
            known.append(list(BINARY.values())[op % len(BINARY)](x, y))
        else:
            table = VIEWS if kind == "view" else REDUCTIONS
            small = x.ndim < 4 and x.size < 300
            known.append(list(table.values())[op % len(table)](x) if small else np.sum(x, axis=-1))
    return sum(np.sum(np.sin(x)) for x in known[len(inputs) :])


def fits(a, b):
    return all(m == n or 1 in (m, n) for m, n in zip(a[::-1], b[::-1]))


def arrays(seed, dtype=float):
    rng = np.random.default_rng(seed)
    return [rng.uniform(-2, 2, shape).astype(dtype) for shape in ((), (), (3,), (2, 3), (3, 2, 2))]


@settings(max_examples=60)
@given(programs, seeds)
def test_gradients_are_those_of_differences(program, seed):
    points = arrays(seed)
    directions = [d / 4 for d in arrays(seed + 1)]
    values = [tg.Value(p) for p in points]
    loss = execute(program, values)
    loss.backward()

    def along(t):
        return execute(program, [np.asarray(p + t * d) for p, d in zip(points, directions)])

    np.testing.assert_allclose(loss.item(), along(0.0), rtol=1e-12, atol=1e-12)
    coarse, fine = difference(along, 2e-3), difference(along, 1e-3)
    terms = [np.sum(v.grad * d) for v, d in zip(values, directions)]
    scale = 1.0 + sum(np.abs(np.asarray(v.grad) * d).sum() for v, d in zip(values, directions))
    # The two differences tell how far they can be trusted themselves.
    assert abs(sum(terms) - fine) <= 1e-8 * scale + 2 * abs(coarse - fine)


@settings(max_examples=40)
@given(programs, seeds)
def test_sweeps_are_those_of_the_naive_replay(program, seed):
    values = [tg.Value(p) for p in arrays(seed)]
    loss = execute(program, values)
    loss.backward()
    tape = loss.tape
    code, side = tape.code[: tape.length], tape.side
    with np.errstate(all="ignore"):
        v = naive.forward(code, side, np.where(leaves(tape), tape.values, 0.0))
    np.testing.assert_allclose(tape.values[: tape.slots], v[: tape.slots], rtol=1e-12, atol=1e-13)
    g = np.zeros_like(v)
    g[places(loss)] = 1.0
    g = naive.reverse(code, side, v, g)
    rng = np.random.default_rng(seed)
    tangents = [rng.normal(size=x.shape) for x in values]
    t = np.zeros_like(v)
    for x, tangent in zip(values, tangents):
        np.testing.assert_allclose(x.grad, g[places(x)], rtol=1e-11, atol=1e-11)
        t[places(x)] = tangent
    t = naive.tangent(code, side, v, t)
    np.testing.assert_allclose(tangent_of(values, tangents, loss), t[places(loss)], rtol=1e-11, atol=1e-11)


def leaves(tape):
    """Where the arena holds numbers that were given."""
    found = np.zeros(len(tape.values), bool)
    for op, out, _, n, _ in tape.code[: tape.length].astype(int):
        if op == naive.LEAF:
            found[out : out + n] = True
    return found


@settings(max_examples=40)
@given(programs, seeds, st.sampled_from([np.float64, np.float32]))
def test_tangent_and_reverse_sweeps_are_transposes(program, seed, dtype):
    values = [tg.Value(p) for p in arrays(seed, dtype)]
    loss = execute(program, values)
    check_transpose(values, loss, np.random.default_rng(seed))


@settings(max_examples=40)
@given(programs, seeds)
def test_replays_elsewhere_are_fresh_evaluations(program, seed):
    there, here = arrays(seed), arrays(seed + 7)
    recording = tg.record(lambda *xs: execute(program, xs), *there)
    recording.value_and_grad(*there, argnums=(0, 1, 2, 3, 4))
    value, grads = recording.value_and_grad(*here, argnums=(0, 1, 2, 3, 4))
    values = [tg.Value(p) for p in here]
    loss = execute(program, values)
    loss.backward()
    # Short arrays are replayed as scalars, whose functions are those of libm and not those of libmvec.
    assert value == pytest.approx(loss.item(), rel=1e-13, abs=1e-13)
    for g, v in zip(grads, values):
        np.testing.assert_allclose(g, v.grad, rtol=1e-13, atol=1e-13)


@settings(max_examples=25)
@given(programs, seeds, st.integers(0, 3))
def test_forgetting_changes_nothing(program, seed, rounds):
    values = [tg.Value(p) for p in arrays(seed)]
    loss = execute(program, values)
    expected = loss.item()
    for _ in range(rounds):
        execute(program, values)
        tg.current_tape().collect()
    loss.backward()
    again = [tg.Value(p) for p in arrays(seed)]
    fresh = execute(program, again)
    fresh.backward()
    assert loss.item() == expected == fresh.item()
    for a, b in zip(values, again):
        np.testing.assert_array_equal(a.grad, b.grad)
