"""Each contestant as a benchmark of pytest-benchmark, in the group of its comparison: `python -m pytest bench`.

Contestants run one after the other here, on one thread unless BENCH_THREADS says otherwise; for ratios, run
`python -m bench`, which interleaves them. Agreement of values and gradients is tested first, and nothing is asserted
about time.
"""

from __future__ import annotations

import importlib
import itertools
import time

import pytest

from bench import core, machine, memory, native, start, tools
from bench.compare import OURS, check, set_up
from bench.run import MODULES

pytest.importorskip("pytest_benchmark", reason="pip install pytest-benchmark")

machine.limit_libraries()
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


def test_first_calls(benchmark):
    """Of the shortest workload; contestants must agree in processes of their own too."""
    benchmark.group = "first calls"
    comparison = native.WORKLOADS["functions"][-1]()
    row = {"name": comparison.name, "tools": dict.fromkeys(comparison.tools)}
    found = benchmark.pedantic(native.first_calls, args=([row],), rounds=1)
    assert f"| {comparison.name} | {OURS} | " in found
    assert len(found.splitlines()) == 2 + len(comparison.tools)


def test_settled_calls_long_enough_and_often_enough():
    calls = []
    tools.settled(lambda: calls.append(time.perf_counter()), seconds=0.05, least=3)
    assert len(calls) >= 3 and calls[-1] - calls[0] > 0.04
    calls.clear()
    tools.settled(lambda: calls.append(time.sleep(0.02)), seconds=0.01, least=3)
    assert len(calls) == 3


def test_memory(benchmark):
    benchmark.group = "memory"
    benchmark.extra_info["samples"] = benchmark.pedantic(memory.measure, rounds=1)
