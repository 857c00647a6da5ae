"""What a program is, apart from what a replay needs: plain arrays, workspaces, short runs."""

import threading

import numpy as np
import pytest

import tapegrad as tg
from tapegrad import pytree
from tapegrad.arguments import spec_of
from tapegrad.layout import Layout
from tapegrad.ops import BY_NAME, RUN
from tapegrad.ops.record import OPCODE
from tapegrad.program import Code, Output, Program
from tapegrad.sweeps import ADJOINTS, VALUES
from tapegrad.tape import LEAF

dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def opcode(name):
    return BY_NAME[name].opcode


@dtypes
def test_a_program_from_plain_arrays(dtype):
    """No tape and no Value: clip(x * y, low, 2.5) + x, written down by hand."""
    rows = np.array([
        [LEAF, 0, 1, 1, 0],
        [LEAF, 1, 1, 1, 0],
        [LEAF, 2, 0, 1, 0],
        [LEAF, 3, 0, 1, 0],
        [opcode("multiply"), 4, 0, 1, 1],
        [opcode("clip"), 5, 4, 2, 3],
        [opcode("add"), 6, 5, 0, 0],
    ], np.uint32)  # fmt: skip
    spec, _ = spec_of([dtype(1.0), dtype(1.0)])
    code = Code(
        dtype=np.dtype(dtype), rows=rows, side=np.zeros(1, np.int64), constants=np.array([0.5, 2.5], dtype), inputs=2,
        size=7, outputs=(Output(6, Layout((), ()), None),), labels={},
    )  # fmt: skip
    program = Program(code, pytree.flatten(0.0)[1], spec)
    workspace = program.take()
    for x, y, value, slopes in [(1.5, 1.0, 3.0, (2.0, 1.5)), (2.0, 2.0, 4.5, (1.0, 0.0)), (0.5, 0.5, 1.0, (1.0, 0.0))]:
        workspace.fill([x, y])
        assert program.sweep(workspace, VALUES | ADJOINTS, program.seed(False), None) < 0
        assert program.result(workspace) == value
        assert [float(g) for g in workspace.gradients] == list(slopes)
    assert code.operations[opcode("clip")] == "clip" and code.spans == [(0, 1), (1, 1)] and code.wanted == (0, 1)


def test_code_does_not_change():
    code = tg.record(lambda x: np.sum(np.sin(x) * np.arange(40.0)), np.ones(40)).code
    for array in (code.rows, code.side, code.constants):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def mixed(x, p):
    """Vectors of two and three, joined, sliced, broadcast; a long one; operations with and without a branch."""
    y = np.stack([x[1], -x[0] * p[0]])
    z = np.concatenate([y, x * 2.0, p[1:2]])
    w = np.clip(z, -1.0, 1.5) + np.tan(0.1 * z[::-1]) * p[0]
    m = w.reshape(5, 1) * y
    long = np.sin(np.arange(100.0, dtype=x.dtype) * p[0])
    return np.sum(m * m.T.reshape(5, 2)) + np.sum(long[:5] * w) + np.sum(long)


@dtypes
def test_short_runs_are_scalars_and_leave_the_arena_as_recorded(dtype, rng):
    x0, p0, x, p = (rng.uniform(0.3, 1.2, 2).astype(dtype) for _ in range(4))
    r = tg.record(mixed, x0, p0, compile=False)
    program = r.program
    short = (program.steps[:, OPCODE] < RUN).sum()
    assert short > (r.code.steps[:, OPCODE] < RUN).sum() and (program.steps[:, OPCODE] >= RUN).any()
    value, grads = r.value_and_grad(x, p, argnums=(0, 1))
    swept = program.latest()
    plain = Program(r.code, program.structure, r.spec)
    plain.steps = r.code.steps
    plain._groups[:] = 0
    workspace = plain.take()
    plain.prepare()
    workspace.frames.clear()
    workspace.fill([x, p])
    assert plain.sweep(workspace, VALUES | ADJOINTS, plain.seed(False), (0, 1)) < 0
    rtol = 1e-14 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(swept.values, workspace.values, rtol=rtol)
    for ours, theirs in zip(grads, workspace.gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=50 * rtol)
    assert value == pytest.approx(float(workspace.values[program.scalar]), rel=rtol)


def test_labels_and_gradients_of_what_short_runs_bypass():
    """A joined array that its readers look past has its own numbers, and so has its gradient where it is an output."""
    f = lambda x: np.concatenate([x[1:], x[:1]])
    r = tg.record(f, np.arange(3.0))
    np.testing.assert_array_equal(r(np.array([4.0, 5.0, 6.0])), [5.0, 6.0, 4.0])
    np.testing.assert_array_equal(r.jacobian(np.ones(3)), np.roll(np.eye(3), 1, 1))
    np.testing.assert_array_equal(r.vjp(np.ones(3))[1](np.array([1.0, 2.0, 3.0]))[0], [3.0, 1.0, 2.0])


def test_threads_replay_at_the_same_time():
    n, rounds = 4, 200
    r = tg.record(lambda x: np.sum(np.tanh(x) * x[::-1]), np.ones(2000))
    xs = np.random.default_rng(0).normal(size=(n, 2000))
    expected = [r.value_and_grad(x) for x in xs]
    wrong = []

    def work(i):
        for _ in range(rounds):
            value, gradient = r.value_and_grad(xs[i])
            if value != expected[i][0] or not np.array_equal(gradient, expected[i][1]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong and 1 <= len(r.program.workspaces) <= n


def test_a_replay_that_its_own_function_calls_again_takes_another_workspace():
    depth = []

    def inner(x):
        depth.append(len(depth))
        return float(g(x - 1.0)) if x > 1.0 else x

    g = tg.record(lambda x: tg.external(inner, lambda w, y, x: w)(x) + x * x, 0.5)
    assert g(2.5) == 0.5 + 0.25 + 1.5**2 + 2.5**2 and len(depth) >= 3
