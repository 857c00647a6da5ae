"""Fixtures of all tests. What tests compute with, they import: `checks` for oracles, `naive` for the plain replay."""

import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

from tapegrad.tape.ambient import ambient, set_recording

settings.register_profile(
    "tapegrad",
    deadline=None,  # the first example of an operation compiles it
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tapegrad")


# Read by type checkers, and not to be run.
collect_ignore = ["typed_program.py"]


@pytest.fixture(autouse=True)
def fresh_tapes():
    """Each test starts on tapes of its own, so that none depends on what another recorded or broke."""
    ambient.tapes.clear()
    set_recording(None)


@pytest.fixture
def rng(request):
    """Random numbers that depend on the test's name and nothing else."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
