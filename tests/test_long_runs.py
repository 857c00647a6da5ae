"""Memory stays bounded over long runs with new functions; `python -m tests.long_runs` makes more of them."""

import sys

import long_runs
import pytest

from tapegrad.compiled import machine


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the kernel how much memory there is")
@pytest.mark.parametrize("name", long_runs.KINDS)
def test_memory_is_given_back(name):
    each, _ = long_runs.grown(long_runs.KINDS[name], 300, 600)
    # A workspace that stayed would be 16 KiB and more, compiled code 40.
    assert each < 4000


def test_programs_that_differ_in_numbers_share_what_is_loaded():
    long_runs.compile_the_same(1.0)
    before = len(machine._engines)
    for n in range(5):
        long_runs.compile_the_same(2.0 + n)
    assert len(machine._engines) == before
