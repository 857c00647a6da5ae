"""A long compiled replay runs beside the main thread: a signal at any place of it ends it, and leaves all as it was."""

import sys
import threading
import time

import numpy as np
import pytest

import tapegrad as tg
from tapegrad.native import beside
from tapegrad.native.beside import Beside
from tapegrad.sweeps import VALUES


class Signal(BaseException):
    """What a handler of signals raises."""


def run_until(place):
    """A run during which a signal comes before the `place`-th instruction of Python in `beside`; whether it came, and
    what was found, after all has ended."""
    table, counts, running = np.zeros(1, np.uint64), [0], [0]

    def run():
        running[0] += 1
        for _ in range(10):
            if table[0]:
                break
            time.sleep(2e-4)
        running[0] -= 1
        return 7

    def trace(frame, event, arg):
        if frame.f_code.co_filename != beside.__file__ or frame.f_code.co_name not in ("result", "stop"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            counts[0] += 1
            if counts[0] == place:
                raise Signal
        return trace

    one, found = Beside(run, table, 0, None), None
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        found = one.result()
    except Signal:
        one.stop()
        assert not running[0], "it runs no more"
        time.sleep(1e-3)
        assert not running[0], "and never will"
        return True, found
    finally:
        sys.settrace(before)
    return False, found


def test_a_signal_before_any_instruction_of_python():
    place, came = 1, True
    while came:
        came, found = run_until(place)
        assert found is None or not came
        place += 1
    assert found == 7 and place > 20, "each was tried, up to where none came any more"


def test_a_signal_while_it_is_stopped():
    """The second one leaves `stop`, which then can be called again."""
    table = np.zeros(1, np.uint64)
    begun, go = threading.Event(), threading.Event()

    def run():
        begun.set()
        while not (table[0] and go.is_set()):
            time.sleep(1e-3)
        return 7

    one = Beside(run, table, 0, None)
    helper = threading.Thread(target=one.result)
    helper.start()
    begun.wait()

    def trace(frame, event, arg):
        if frame.f_code.co_name == "stop" and event == "line" and table[0]:
            raise Signal
        return trace

    sys.settrace(trace)
    try:
        with pytest.raises(Signal):
            one.stop()
    finally:
        sys.settrace(None)
    go.set()
    one.stop()
    helper.join()


def test_where_there_can_be_no_more_threads(monkeypatch):
    def none(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(beside._thread, "start_new_thread", none)
    assert Beside(lambda: 5, np.zeros(1), 0, None).result() == 5

    def signalled(*args):
        raise RuntimeError("the time is over")

    monkeypatch.setattr(beside._thread, "start_new_thread", signalled)
    with pytest.raises(RuntimeError, match="the time is over"):
        Beside(lambda: 5, np.zeros(1), 0, None).result()


@pytest.mark.parametrize("twice", [False, True])
def test_a_replay_that_was_stopped(twice, monkeypatch):
    """Its workspace is used again; where a second signal came before the replay had ended, nobody gets it."""
    f = lambda x: np.sum(np.sin(x) * x)
    x = np.linspace(0.0, 1.0, 1000)
    recording = tg.record(f, x).compile()
    expected = recording(x)
    form = recording.programs[0].native
    monkeypatch.setattr(form, "_long", True)

    def replay():
        workspace = form.take()
        try:
            workspace.fill([x])
            assert form.sweep(workspace, VALUES, -1, None) < 0
            return form.result(workspace)
        finally:
            form.give(workspace)

    assert replay() == expected, "beside the main thread it computes the same"
    workspace = form.workspaces[-1]

    def signalled(self):
        raise Signal

    with monkeypatch.context() as m:
        m.setattr(Beside, "result", signalled)
        if twice:
            m.setattr(Beside, "stop", signalled)
        with pytest.raises(Signal):
            replay()
    assert any(w is workspace for w in form.workspaces) is not twice
    assert replay() == expected and replay() == expected
