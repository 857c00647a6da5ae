"""Whole programs as machine code against the interpreter: random ones, and some whose places or results are special."""


import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.native import Native
from tapegrad.native.places import Places
from tapegrad.native.rows import Rows
from tapegrad.native.schedule import Schedule

from .array_programs import Function, draw, variants
from .both import Both, difference

CLOSE = {np.float64: 1e-12, np.float32: 3e-4}


def hold(function):
    """Value, gradient, jvp and hvp of a random function, at the point of the recording and at another."""
    for what, (f, args) in variants(function).items():
        both = Both(f, *args)
        for point in (args, [draw(function.rng, np.shape(x), function.dtype) for x in args]):
            found = both.run(*point)
            if found is not None:
                off = difference(*found)
                assert off <= CLOSE[function.dtype], f"{what} is off by {off}:\n{function.text}"


@pytest.mark.parametrize("seed", range(24))
def test_random_functions(seed):
    hold(Function(seed, guards=seed % 2 == 1, length=10))


@pytest.mark.parametrize("seed", range(100, 106))
def test_random_functions_in_single_precision(seed):
    hold(Function(seed, dtype=np.float32, length=10))


@pytest.mark.parametrize("seed", range(200, 210))
def test_random_functions_of_so_many_rows_that_some_are_computed_later(seed):
    hold(Function(seed, sizes=(129, 133, 161, 257), length=8))


@pytest.mark.parametrize("seed", range(300, 308))
def test_infinities_and_what_is_no_number(seed):
    function = Function(seed, length=10)
    for f, args in variants(function).values():
        both = Both(f, *args)
        for x in args:
            if np.shape(x):
                at = function.rng.random(x.shape) < 0.03
                x[at] = function.rng.choice([0.0, -0.0, np.inf, -np.inf, np.nan], size=at.sum())
        found = both.run(*args)
        assert found is None or difference(*found) <= 1e-12, function.text


# Places.


def places_of(native):
    schedule = Schedule(native.whole)
    return schedule, Places(schedule, 8)


def test_places_are_used_again_and_nothing_that_is_read_later_is_overwritten(rng):
    n = 500

    def f(x, a):
        # Each product is computed by the interpreter, so that what goes in and comes out is stored.
        first = y = np.sin(x)
        for _ in range(8):
            y = np.tanh(a @ np.cos(y))
        return y + first

    x, a = rng.normal(size=n), rng.normal(size=(n, n)) / n
    both = Both(f, x, a)
    stored = both.native._length - (n + n * n)
    # Eight rounds have sixteen arrays, of which two or three are wanted at the same time, and `first` all the time.
    assert 3 * n <= stored <= 7 * n
    assert difference(*both.run(x, a)) < 1e-14
    gradient = tg.grad(lambda x, a: np.sum(f(x, a) ** 2), argnums=(0, 1))
    assert difference(*Both(lambda x, a: gradient(x, a), x, a).run(x, a)) < 1e-13


def test_results_that_are_computed_in_one_loop_share_no_place(rng):
    x = rng.normal(size=300)
    both = Both(lambda x: [np.sort(np.sin(k * x)) for k in range(1, 6)], x)
    schedule, places = places_of(both.native)
    for at, node in enumerate(schedule.nodes):
        if isinstance(node, Rows):
            spans = sorted((int(places.to[r]), 300) for r in node.items if places.kept[r])
            assert all(a + n <= b for (a, n), (b, _) in itertools.pairwise(spans)), at
    assert difference(*both.run(x)) == 0.0


@pytest.mark.parametrize("shape", [(150, 3), (300, 2, 2), (64, 5), (70, 20)], ids=str)
def test_rows_of_several_numbers_are_stored(shape, rng):
    x, w = rng.normal(size=shape), rng.normal(size=(shape[-1], 3))

    def f(x, w):
        y = np.sin(x)
        z = np.concatenate([y, y[..., ::-1] * 2.0], axis=-1)
        g = tg.grad(lambda y: np.sum(np.sin(y[1:] * y[:-1])) + np.sum(y[..., 1:] ** 3))(y)
        return y @ w, z, g, np.sort(g, axis=-1), np.sum(g, axis=-1), y.T, np.swapaxes(np.stack([y, g], axis=1), 0, 1)

    assert difference(*Both(f, x, w).run(x, w)) < 1e-13


def test_results_that_are_views(rng):
    def f(x, s):
        y = np.sin(x) * s
        return {
            "whole": y, "turned": y.T, "every other": y[::2], "back": y[::-1, ::-1], "row": y[3], "number": y[2, 1],
            "input": x[1:], "scalar": s, "shown": np.broadcast_to(s * 2.0, (2, 3)), "diagonal": np.diagonal(y),
            "constant": np.arange(3.0), "shape": y.reshape(-1), "sum": np.sum(y[1:4], axis=0)[::-1],
        }  # fmt: skip

    x = rng.normal(size=(200, 4))
    both = Both(f, x, 0.5)
    assert difference(*both.run(x, -1.5)) < 1e-14
    # Results are copies: another replay does not change them.
    recording = tg.record(f, x, 0.5)
    native = Native(recording.program)
    workspace = native.take()
    workspace.fill(recording.check((x, 0.5)))
    native.sweep(workspace, 1, -1, None)
    result = native.result(workspace)
    kept = {name: np.copy(part) for name, part in result.items()}
    workspace.values[: native._length] = np.nan
    for name, part in result.items():
        np.testing.assert_array_equal(part, kept[name])


# Matrices with few entries.


def banded(x):
    d = x[1:] - x[:-1] ** 2
    return np.concatenate([np.sin(d) * x[1:], x[2:] * x[:-2], np.exp(x[:5]) * 2.0])


def energy(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2) + np.sum(np.sin(x[::3] * x[1::3]))


@pytest.mark.parametrize("n", [9, 66, 300])
def test_sparse_matrices(n, rng, monkeypatch):
    monkeypatch.setenv("TAPEGRAD_COMPILE", "always")
    compiled = [tg.record(banded, np.ones(n)), tg.record(energy, np.ones(n))]
    monkeypatch.setenv("TAPEGRAD_COMPILE", "never")
    interpreted = [tg.record(banded, np.ones(n)), tg.record(energy, np.ones(n))]
    for _ in range(2):
        x = rng.normal(size=n)
        jacobian, hessian = compiled[0].jacobian(x, sparse=True), compiled[1].hessian(x, sparse=True)
        assert jacobian.nnz < 5 * n and hessian.nnz < 6 * n
        np.testing.assert_allclose(jacobian.toarray(), interpreted[0].jacobian(x), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(hessian.toarray(), interpreted[1].hessian(x), rtol=1e-12, atol=1e-11)


def test_sparse_matrices_of_several_arguments(rng, monkeypatch):
    monkeypatch.setenv("TAPEGRAD_COMPILE", "always")

    def f(p):
        return p["a"][1:] * p["b"][:-1] + p["s"], np.sin(p["b"]) * 2.0

    point = {"a": rng.normal(size=80), "b": rng.normal(size=80), "s": 0.5}
    sparse, dense = tg.record(f, point).jacobian(point, sparse=True), tg.record(f, point).jacobian(point)
    whole = np.vstack([np.column_stack([block[name] for name in point]) for block in dense])
    np.testing.assert_allclose(sparse.toarray(), whole, rtol=1e-13, atol=1e-13)


# The same bits, and nothing outside.

DIGEST = """
import hashlib, sys
from tapegrad.native import build
from tests.native.array_programs import Function, variants
from tests.native.both import Both

if "kept" in sys.argv:
    build._compiled = None
digest = hashlib.sha256()
for seed in (1, 5, 9):
    for f, args in variants(Function(seed, length=8)).values():
        for result in Both(f, *args).run(*args)[1]:
            digest.update(result.tobytes())
print(digest.hexdigest())
"""


def run(text, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), **environment}
    done = subprocess.run([sys.executable, "-c", text, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr[-2000:]
    return done.stdout


def test_the_same_bits_in_other_processes_and_from_disk():
    first = run(DIGEST)
    # The second process compiles nothing: the text of a program is the same in every process.
    assert run(DIGEST, "kept", PYTHONHASHSEED="7") == first


PROTECTED = """
import ctypes, mmap, sys
import numpy as np
from tapegrad.program.workspace import Workspace
from tests.native.array_programs import Function, variants
from tests.native.both import Both, outputs

libc = ctypes.CDLL(None)


def arena(native, at_end):
    # Pages that must not be touched come right before and right behind; vectors stand at multiples of 64 bytes.
    size = native.code.dtype.itemsize
    before = -(-native._before * size // 64) * 64
    needed = before + -(-(native._length + 1) * size // 64) * 64
    pages = -(-needed // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 2) * mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    for page in (0, pages + 1):
        assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + page * mmap.PAGESIZE), mmap.PAGESIZE, 0) == 0
    start = mmap.PAGESIZE + (pages * mmap.PAGESIZE - needed if at_end else 0)
    values = whole[start + before : start + needed].view(native.code.dtype)[: native._length + 1]
    values[-1] = 0.0
    native.code.put_constants(values)
    return Workspace(native.code, native.shapes, native.leaves, values)


for seed in range(400, 408):
    for what, (f, args) in variants(Function(seed, sizes=(17, 100, 257), length=8)).items():
        both = Both(f, *args)
        expected = both.run(*args)[1]
        for at_end in (False, True):
            print(seed, what, at_end, flush=True)
            workspace = arena(both.native, at_end)
            workspace.fill(both.recording.check(args))
            assert both.native.sweep(workspace, 1, -1, None) < 0
            for a, b in zip(expected, outputs(both.native, workspace), strict=True):
                assert a.tobytes() == b.tobytes()
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="protects pages as Linux does")
def test_nothing_outside_of_the_arena_is_read_or_written():
    assert run(PROTECTED).endswith("done\n")
