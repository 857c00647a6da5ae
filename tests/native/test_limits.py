"""Where programs cannot be compiled as usual: they are too large, the processor is not known, libraries are missing."""

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.compiled.callable import INTERPRETED
from tapegrad.errors import CompileError
from tapegrad.native import build, choice

pytestmark = pytest.mark.skipif(INTERPRETED, reason="nothing is compiled")


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    """What the environment says holds for other tests."""
    monkeypatch.delenv("TAPEGRAD_COMPILE", raising=False)


def straight(count, seed=0):
    """A function of so many instructions, or a few more, no stretch of which repeats another."""
    draws = np.random.default_rng(seed).integers(0, 1 << 30, (count, 3)).tolist()

    def f(x):
        known = [x, 0.5 * x, x + 0.25]
        for kind, i, j in draws:
            p, q = known[i % len(known)], known[j % len(known)]
            known.append((p + q, p - q, p * q, np.tanh(p) - q, np.sin(q) + p)[kind % 5])
            del known[:-40]
        return sum(known)

    return f


# Size


def test_a_program_that_is_too_large_is_interpreted_even_if_compiling_is_asked_for(monkeypatch):
    monkeypatch.setattr(choice, "_MOST_FORCED", 500)
    monkeypatch.setattr(build, "address_of", lambda *args, **kwargs: pytest.fail("LLVM was called"))
    f = straight(600)
    recording, plain = tg.record(f, 0.3, compile=True), tg.record(f, 0.3, compile=False)
    for x in (0.3, -0.4):
        assert recording(x) == plain(x)
        assert recording.grad(x) == plain.grad(x)
        assert recording.jvp((x,), (1.0,)) == plain.jvp((x,), (1.0,))
        assert recording.hvp((x,), (1.0,)) == plain.hvp((x,), (1.0,))
    runs = {one.what: one for one in recording.stats().runs}
    assert set(runs) == {"value", "value_and_grad", "jvp", "hvp"}
    n = len(recording.program.steps)
    for one in runs.values():
        assert one.how == "interpreted"
        assert one.why.startswith(f"{n} of its {n} instructions do not repeat others, and at most 500 are compiled: ")
    with pytest.raises(CompileError, match=rf"f cannot be compiled: {n} of its {n} instructions .*\(compile=False\)"):
        recording.compile()


def test_a_derivative_that_is_too_large_is_interpreted(monkeypatch):
    f = straight(300)
    recording, plain = tg.record(f, 0.3, compile=True), tg.record(f, 0.3, compile=False)
    monkeypatch.setattr(choice, "_MOST_FORCED", len(recording.program.steps) + 10)
    assert recording(0.4) == pytest.approx(plain(0.4), rel=1e-13)
    assert recording.grad(0.4) == pytest.approx(plain.grad(0.4), rel=1e-12)
    value, gradient = recording.stats().runs
    assert value.how == "compiled" and gradient.how == "interpreted"
    assert "do not repeat others" in gradient.why
    with pytest.raises(CompileError, match="value_and_grad of .*f cannot be compiled: .* do not repeat others"):
        recording.compile()


def test_what_repeats_is_not_too_large(monkeypatch):
    monkeypatch.setattr(choice, "_MOST_FORCED", 500)

    def f(x):
        for i in range(2000):
            x = np.sin(x) * 0.9 + i * 1e-3
        return x

    recording = tg.record(f, 0.3, compile=True)
    assert recording.grad(0.4) == pytest.approx(tg.grad(f, compile=False)(0.4), rel=1e-12)
    assert [one.how for one in recording.stats().runs] == ["interpreted", "compiled"]  # the value was not asked for


def test_branches_are_asked_one_by_one(monkeypatch):
    large = straight(600)
    monkeypatch.setattr(choice, "_MOST_FORCED", 500)
    f = lambda x: large(x) if x > 0.0 else x * x
    recording, plain = tg.record(f, 0.3, compile=True), tg.record(f, 0.3, compile=False)
    for x in (0.3, -0.3, 0.4, -0.4):
        assert recording(x) == plain(x) and recording.grad(x) == plain.grad(x)
    assert recording.stats().branches == 2
    assert [p.native is not None for p in recording.programs] == [False, True]


def test_memory_that_runs_out_while_compiling(monkeypatch):
    def without(*args, **kwargs):
        raise MemoryError("no memory is left")

    monkeypatch.setattr(build, "address_of", without)
    recording = tg.record(lambda x: np.sum(np.sin(x)), np.ones(3), compile=True)
    np.testing.assert_allclose(recording.grad(np.ones(3)), np.cos(np.ones(3)), rtol=1e-15)
    assert recording.stats().runs[1].why == "MemoryError: no memory is left"
    with pytest.raises(CompileError, match="MemoryError: no memory is left"):
        recording.compile()


def test_threads_that_cannot_be_started(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(choice, "compile_seconds", lambda program: 0.0)
    monkeypatch.setattr(choice, "_worker", choice._Worker())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    recording = tg.record(lambda x: np.sum(np.sin(x)), np.ones(3))
    for _ in range(3):
        assert recording(np.ones(3)) == np.sum(np.sin(np.ones(3)))
    why = "no thread could be started to compile it: can't start new thread"
    assert recording.stats().runs[0].why == why


# The machine


HEAD = """
import ctypes, sys
import numpy as np
import llvmlite.binding as llvm
"""

BODY = """
import tapegrad as tg
from tapegrad.compiled import machine, vector
def f(x, s):
    return np.sum(np.tanh(x) * x**3 + np.exp(-x * x)) * s + np.sin(s)
x = np.linspace(-1.0, 2.0, 2001)
r = tg.record(f, x, 0.5, compile=True)
value, (g, d) = r.value_and_grad(x, 0.5, argnums=(0, 1))
slope = (1.0 - np.tanh(x) ** 2) * x**3 + 3.0 * x * x * np.tanh(x) - 2.0 * x * np.exp(-x * x)
np.testing.assert_allclose(g, 0.5 * slope, rtol=1e-12, atol=1e-13)
np.testing.assert_allclose(d, (value - np.sin(0.5)) / 0.5 + np.cos(0.5), rtol=1e-12)
narrow = tg.record(f, x.astype(np.float32), 0.5, compile=True)
np.testing.assert_allclose(narrow.grad(x.astype(np.float32), 0.5), 0.5 * slope, rtol=1e-4, atol=1e-5)
print([one.how for one in r.stats().runs], vector.register_bits(), vector.library() is not None)
"""


def run(head, **environment):
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(head) + BODY], capture_output=True, text=True, timeout=300,
        check=False, env=os.environ | environment, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.slow
def test_a_processor_that_llvm_does_not_know(tmp_path):
    # Nothing is known but what all processors of its kind can do.
    out = run(
        """
        def unknown():
            raise RuntimeError("failed to get host cpu features")
        llvm.get_host_cpu_features = unknown
        llvm.get_host_cpu_name = lambda: "generic"
        """,
        TAPEGRAD_CACHE=str(tmp_path),
    )
    assert out.startswith("['interpreted', 'compiled'] 128 ")


def test_a_system_without_libmvec():
    out = run("""
    load = ctypes.CDLL
    class Missing(load):
        def __init__(self, name, *args, **kwargs):
            if name is not None and "libmvec" in str(name):
                raise OSError("libmvec.so.1: cannot open shared object file")
            super().__init__(name, *args, **kwargs)
    ctypes.CDLL = Missing
    """)
    assert out.startswith("['interpreted', 'compiled'] ") and out.endswith(" False")
