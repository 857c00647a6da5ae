"""How programs of a recording are carried out: fixtures and helpers of the tests that look at that."""

import time

import numpy as np
import pytest

from tapegrad.native import choice
from tapegrad.recording import derived


@pytest.fixture(autouse=True)
def chosen(monkeypatch):
    """What the environment says holds for other tests."""
    monkeypatch.delenv("TAPEGRAD_COMPILE", raising=False)


@pytest.fixture
def eager(monkeypatch):
    """Compiling costs nothing, as far as the choice knows: the first replay that is counted has paid for it."""
    monkeypatch.setattr(choice, "_is_faster", lambda program, native: True)
    monkeypatch.setattr(choice, "compile_seconds", lambda program: 0.0)
    monkeypatch.setattr(derived, "_ASK_AFTER", 0.0)


def how(recording):
    return {runs.what: runs.how for runs in recording.stats().runs}


def wait_for(recording, what="compiled", seconds=60.0):
    """Wait until nothing of a recording is compiled in the background any more."""
    end = time.monotonic() + seconds
    while "compiling" in how(recording).values():
        assert time.monotonic() < end, recording.stats()
        time.sleep(0.005)


def assert_same(found, expected, rtol=1e-13):
    if isinstance(expected, tuple | list):
        assert type(found) is type(expected) and len(found) == len(expected)
        for x, y in zip(found, expected):
            assert_same(x, y, rtol)
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        assert_same(list(found.values()), list(expected.values()), rtol)
    elif hasattr(expected, "toarray"):
        assert_same(found.toarray(), expected.toarray(), rtol)
    elif expected is None:
        assert found is None
    else:
        assert type(found) is type(expected) and getattr(found, "dtype", None) == getattr(expected, "dtype", None)
        np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)
