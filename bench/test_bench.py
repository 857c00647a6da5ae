"""Each contestant as a benchmark of pytest-benchmark, in the group of its comparison: `python -m pytest bench`.

Contestants run one after the other here, on one thread unless BENCH_THREADS says otherwise; for ratios, run
`python -m bench`, which interleaves them. Agreement of values and gradients is tested first, and nothing is asserted
about time.
"""

from __future__ import annotations

import importlib
import itertools

import pytest

from bench import core, memory, start
from bench.compare import check, set_up
from bench.run import MODULES

pytest.importorskip("pytest_benchmark", reason="pip install pytest-benchmark")

COMPARISONS = [make() for module in MODULES for make in importlib.import_module(f"bench.{module}").COMPARISONS]
COMPARISONS += [comparison for make in core.OWN.values() for comparison in make()]
CONTESTANTS = [(comparison, tool) for comparison in COMPARISONS for tool in comparison.tools]


@pytest.mark.parametrize("comparison", [c for c in COMPARISONS if c.checked], ids=lambda c: c.name)
def test_contestants_agree(comparison):
    check(comparison, set_up(comparison)[0])


@pytest.mark.parametrize(("comparison", "tool"), CONTESTANTS, ids=[f"{c.name}-{tool}" for c, tool in CONTESTANTS])
def test_contestant(benchmark, comparison, tool):
    try:
        ready = comparison.tools[tool](comparison.inputs[0])
    except ImportError as error:
        pytest.skip(f"not installed ({error.name or error})")
    inputs = itertools.cycle([ready.prepare(x) for x in comparison.inputs[1:]])
    benchmark.group = comparison.name
    benchmark.name = tool
    benchmark.extra_info |= {"per": comparison.per, "unit": comparison.unit, "set-up": ready.phases}
    benchmark(lambda: ready.run(next(inputs)))


@pytest.mark.parametrize("kind", start.PROGRAMS)
def test_start(benchmark, kind):
    """Time of the whole measurement; what it measured is in the extra information."""
    benchmark.group = "cold and warm start"
    rows = benchmark.pedantic(start.measure, args=(kind, 1), rounds=1)
    benchmark.extra_info["rows"] = rows


def test_memory(benchmark):
    benchmark.group = "memory"
    benchmark.extra_info["samples"] = benchmark.pedantic(memory.measure, rounds=1)
