"""Long arguments are read, and long results written, where they stand: never beyond, and never a number of another."""

import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import tapegrad as tg


def chained(x):
    return np.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2)


def smoothed(x):
    inner = x[2:] - 2.0 * x[1:-1] + x[:-2]
    return np.sum(inner * inner * np.tanh(x[1:-1]))


def far(x):
    return np.sum(x[30:] * x[:-30]) + np.sum(np.exp(-x))


def twice(x, y):
    return x * y + np.sum(x), np.tanh(y)


def early(x):
    return np.sum(np.tanh(x[:-3] * x[3:]) * x[2:-1])


PROGRAMS = [chained, early, smoothed, far, lambda x: np.sum(np.log1p(x * x))]


def outer_of(recording, key=None):
    program = recording.program if key is None else recording.derived.programs(key)[0]
    return program.native.outer


def recordings(f, *args):
    return tg.record(f, *args, compile=True), tg.record(f, *args, compile=False)


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert np.shape(a) == np.shape(b)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12 * np.abs(b).max(initial=1.0))


@pytest.mark.parametrize("f", PROGRAMS)
@pytest.mark.parametrize("n", [4096, 4097, 4127, 4128, 4129, 4159, 4160, 4191, 8191, 8192, 8193])
def test_gradients_of_long_arguments(f, n):
    x = np.random.default_rng(n).normal(size=n)
    compiled, interpreted = recordings(f, x)
    compiled.value_and_grad(x)
    key = next(k for k in compiled.derived.asked() if k[0] == "value_and_grad")
    assert outer_of(compiled, key).inputs, "the argument is copied"
    assert outer_of(compiled, key).outputs, "the gradient is copied"
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=n)
        same(compiled.value_and_grad(x), interpreted.value_and_grad(x))
        same([compiled(x)], [interpreted(x)])


# An array ends where memory that must not be touched begins, or begins where such memory ends.
GUARDED = """
    import ctypes, mmap, sys
    import numpy as np
    import tapegrad as tg
    sys.path.insert(0, {folder!r})
    from test_outer import PROGRAMS, twice

    PAGE = mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    kept = []

    def guarded(numbers, at_end):
        pages = -(-numbers.nbytes // PAGE)
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        kept.append(memory)
        first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        offset = PAGE * (pages + 1) - numbers.nbytes if at_end else PAGE
        x = np.frombuffer(memory, numbers.dtype, len(numbers), offset)
        x[:] = numbers
        for page in (first, first + PAGE * (pages + 1)):
            assert libc.mprotect(page, PAGE, 0) == 0, ctypes.get_errno()
        return x

    # Results stand in such memory, too.
    plain, calls = np.empty, [0]

    def empty(shape, dtype=float, *how, **other):
        if isinstance(shape, tuple) and len(shape) == 1 and shape[0] >= 4096 and np.dtype(dtype).kind == "f":
            calls[0] += 1
            return guarded(np.full(shape, np.nan, dtype), calls[0] % 2 == 0)
        return plain(shape, dtype, *how, **other)

    np.empty = empty
    rng = np.random.default_rng(0)
    for dtype in (np.float64, np.float32):
        for n in (4096, 4113, 4120, 4159):
            numbers = rng.normal(size=n).astype(dtype)
            for f in PROGRAMS:
                recording = tg.record(f, numbers, compile=True)
                expected = recording.value_and_grad(numbers)
                for at_end in (True, False, False, True):
                    x = guarded(numbers, at_end)
                    value, gradient = recording.value_and_grad(x)
                    assert value == expected[0] and (gradient == expected[1]).all()
                    assert recording(x) == recording(numbers)
            recording = tg.record(twice, numbers, numbers, compile=True)
            for at_end in (True, False):
                for a, b in zip(recording(guarded(numbers, at_end), guarded(numbers, not at_end)),
                                recording(numbers, numbers)):
                    assert (a == b).all()
    assert calls[0] > 40, calls
    # That the guard is one: what is behind the array cannot be read.
    print("done", flush=True)
    x = guarded(np.ones(1024), True)
    ctypes.string_at(x.ctypes.data + x.nbytes, 1)
    print("read", flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect")
def test_nothing_beyond_an_argument_is_touched():
    text = textwrap.dedent(GUARDED).format(folder=str(Path(__file__).parent))
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert "done" in done.stdout, f"ended with {done.returncode}: {done.stderr[-2000:]}"
    assert "read" not in done.stdout


def test_arguments_that_cannot_be_read_in_place_are_copied():
    x = np.random.default_rng(0).normal(size=4500)
    compiled, interpreted = recordings(chained, x)
    expected = interpreted.value_and_grad(x)
    compiled.value_and_grad(x)
    wide = np.zeros(9000)
    wide[::2] = x
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float64)
    raw[:] = x
    fixed = x.copy()
    fixed.flags.writeable = False
    for other in (wide[::2], x[::-1].copy()[::-1], raw, fixed, x.copy()):
        same(compiled.value_and_grad(other), expected)
        same([compiled(other)], expected[:1])
    # And a call that copies leaves no trace in one that does not, nor the other way round.
    y = np.random.default_rng(1).normal(size=4500)
    for given in (y, wide[::2], y, fixed, wide[::2]):
        same(compiled.value_and_grad(given), interpreted.value_and_grad(given))


def test_results_are_arrays_of_their_own():
    x, y = (np.random.default_rng(seed).normal(size=5200) for seed in range(2))
    compiled, interpreted = recordings(twice, x, y)
    first = compiled(x, y)
    assert len(outer_of(compiled).outputs) == 2
    before = [a.copy() for a in first]
    second = compiled(y, x)
    for a, b in zip(first, before):
        assert a.tobytes() == b.tobytes()
    arrays = [*first, *second, x, y]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    first[0][:] = np.nan
    same(compiled(x, y), interpreted(x, y))
    gradient = tg.record(lambda x: np.sum(np.exp(x)), x, compile=True)
    g = gradient.grad(x)
    kept = g.copy()
    x += 1.0
    assert g.tobytes() == kept.tobytes()
    same([gradient.grad(x)], [np.exp(x)])


def test_arguments_that_are_the_same_array_or_overlap():
    whole = np.random.default_rng(0).normal(size=4300)
    x, y = whole[:4200], whole[100:]
    compiled, interpreted = recordings(twice, x, y)
    for given in ((x, y), (x, x), (y, x)):
        same(compiled(*given), interpreted(*given))


@pytest.mark.parametrize("f", [
    lambda x: (x, x + 1.0),
    lambda x: (x + 1.0, x),
    lambda x: (2.0 * x,) * 2,
    lambda x: (np.ones(len(x)), 2.0 * x),
    lambda x: (np.exp(x), np.exp(x)[:1100], np.exp(x)[::-1]),
    lambda x: (x * 2.0, np.sum(x * 2.0), (x * 2.0)[3]),
    lambda x: (np.sort(x), np.sin(x)),
    lambda x: (np.cumsum(x * 2.0), x * 3.0),
    lambda x: (np.concatenate([x, x * x]), x[::2] * 3.0),
    lambda x: (x[:1000].reshape(20, 50) @ np.ones((50, 2)), np.cos(x)),
    lambda x: (x[1:] - x[:-1], x[40:] * 2.0),
    lambda x: (x[0] * x[-1], x * x),
    lambda x: (np.where(np.sum(x) > 0.0, x, -x), x[5] * x),
])  # fmt: skip
def test_results_of_every_kind(f):
    x = np.random.default_rng(3).normal(size=5200)
    compiled, interpreted = recordings(f, x)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=5200)
        found, expected = compiled(x), interpreted(x)
        same(found, expected)
        arrays = [a for a in found if np.ndim(a)] + [x]
        assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])


def test_branches_and_shapes_after_calls_in_place():
    def f(x):
        return np.sum(x * x) if x[0] > 0.0 else np.sum(np.exp(x))

    x = np.abs(np.random.default_rng(0).normal(size=5200))
    compiled, interpreted = recordings(f, x)
    for given in (x, -x, x, -x, x[::-1].copy(), -x):
        same(compiled.value_and_grad(given), interpreted.value_and_grad(given))
        same([compiled(given)], [interpreted(given)])


def test_other_derivatives_of_long_arguments():
    x, v = (np.random.default_rng(seed).normal(size=4111) for seed in range(2))
    compiled, interpreted = recordings(chained, x)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=4111)
        same([compiled.hvp((x,), (v,))], [interpreted.hvp((x,), (v,))])
        same(compiled.jvp((x,), (v,)), interpreted.jvp((x,), (v,)))
        same([compiled.hessian(x, sparse=True).toarray()], [interpreted.hessian(x, sparse=True).toarray()])


def test_several_threads():
    x = np.random.default_rng(0).normal(size=5000)
    compiled, interpreted = recordings(chained, x)
    inputs = [np.random.default_rng(seed).normal(size=5000) for seed in range(4)]
    expected = [interpreted.value_and_grad(y) for y in inputs]
    wrong = []

    def work(k):
        for _ in range(50):
            value, gradient = compiled.value_and_grad(inputs[k])
            if abs(value - expected[k][0]) > 1e-9 * abs(value) or np.abs(gradient - expected[k][1]).max() > 1e-9:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
