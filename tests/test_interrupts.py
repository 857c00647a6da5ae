"""Ctrl-C takes effect soon, wherever it comes, and leaves everything as it was. `tests/interrupts.py` has the calls."""

import ctypes
import itertools
import random
import signal
import subprocess
import sys
from pathlib import Path

import interrupts
import llvmlite.binding as llvm
import pytest

from tapegrad.compiled import machine

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")


@pytest.mark.slow
@pytest.mark.parametrize("name", interrupts.CALLS)
def test_every_long_call_can_be_interrupted(name):
    _, waited, met, wrong = interrupts.interrupted(interrupts.CALLS[name](), 6, random.Random(name), 15.0)
    assert not wrong
    # A second on an idle machine; tests run side by side.
    assert waited < 3.0 and met


def test_what_is_left_behind_is_found(monkeypatch):
    """What tests must do themselves: fail."""
    import builtins

    monkeypatch.setattr(builtins, "max", min)
    assert interrupts.faults_left() == ["Python's own names stand for other functions"]
    monkeypatch.undo()
    assert interrupts.faults_left() == []
    results = itertools.count()
    *_, wrong = interrupts.interrupted(lambda: next(results), 2, random.Random(0), 0.1)
    assert wrong == ["the same call has another result"]


LLVM_AT_WORK = """
import os, signal, threading, time
import tapegrad as tg
from tapegrad.native import build

compiled, begun = build._compiled, threading.Event()

def slow(*args):
    # LLVM does not look at signals, whatever it is at; nor does this thread.
    begun.set()
    until = time.monotonic() + 2.0
    while time.monotonic() < until:
        time.sleep(0.01)
    return compiled(*args)

build._compiled = slow
find, build.store.find = build.store.find, lambda name: None if name.startswith("native") else find(name)
recording = tg.record(lambda x: x * x * x + x, 2.0)

def interrupt():
    begun.wait()
    time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=interrupt).start()
started = time.monotonic()
try:
    recording.compile()
except KeyboardInterrupt:
    print(time.monotonic() - started < 1.5, recording.grad(2.0))
build._compiled = compiled
print(recording.compile().grad(3.0), [runs.how for runs in recording.stats().runs])
"""


def test_ctrl_c_does_not_wait_for_llvm():
    done = subprocess.run(
        [sys.executable, "-c", LLVM_AT_WORK], capture_output=True, text=True, timeout=200, check=False,
        cwd=Path(__file__).parents[1],
    )  # fmt: skip
    assert done.stdout == "True 13.0\n28.0 ['compiled', 'compiled']\n", (done.stdout, done.stderr[-2000:])


@pytest.fixture
def code():
    module = llvm.parse_assembly("define i64 @seven() {\n  ret i64 7\n}")
    return machine.target_of_host().emit_object(module)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_engine_that_fails_to_load_is_kept(code, error, monkeypatch):
    """It owns what all engines are made with: were it freed, the next one would end the process."""
    plain, before = llvm.ObjectFileRef.from_data, len(machine._engines)

    def failing(data):
        if error is RuntimeError:
            raise error
        signal.raise_signal(signal.SIGINT)
        return plain(data)

    with monkeypatch.context() as patch:
        patch.setattr(llvm.ObjectFileRef, "from_data", staticmethod(failing))
        with pytest.raises(error):
            machine.load(code, "seven")
    assert len(machine._engines) == before + 1
    assert ctypes.CFUNCTYPE(ctypes.c_int64)(machine.load(code, "seven"))() == 7
