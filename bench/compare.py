"""Contestants at one task: checked to agree, then run interleaved in one process, and reported as ratios of medians.

A `Comparison` names a task and, for each tool, a function that sets it up. Setting up imports the tool, records or
compiles at the first input, and returns a `Ready`. What is timed is `run` alone, at inputs that setting up has not
seen, converted by `prepare` beforehand. A tool that is not installed is skipped, and the reason reported.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OURS = "tapegrad"
# How far two tools may differ: a few roundings a step, relative to the largest number of the result.
TOLERANCE = {np.dtype(np.float64): 1e-10, np.dtype(np.float32): 2e-4}
# Below this many cores kept busy a process was waiting for one that somebody else held, and its ratio is marked.
BUSY = 0.9


@dataclass
class Ready:
    """A tool that is set up: `run(prepare(x))` does the task, `read` makes arrays of what it returns."""

    run: Callable[[Any], Any]
    prepare: Callable[[Any], Any] = lambda x: x
    read: Callable[[Any], Any] = lambda result: result
    # What setting up cost, by name: recording, tracing, compiling.
    phases: dict[str, float] = field(default_factory=dict)


@dataclass
class Comparison:
    """One task, the tools that do it, and inputs for it: the first to set up at, the others to run at."""

    name: str
    inputs: Sequence[Any]
    tools: dict[str, Callable[[Any], Ready]]
    # Times are reported per `per` units of work: operations, say, as many as a call does.
    per: int = 1
    unit: str = "call"
    dtype: Any = np.float64
    # Comparisons without a common result (building a graph) have nothing to agree on.
    checked: bool = True
    # For results of so many steps that roundings have grown; None takes that of the dtype.
    tolerance: float | None = None
    # One call is a round where it takes this long or more, in seconds.
    round_time: float = 0.03
    # Where a call takes seconds: no more rounds than these, however many are asked for.
    most_rounds: int | None = None


@contextmanager
def phase(phases: dict[str, float], name: str):
    """Add the time of a block to what setting up cost."""
    start = time.perf_counter()
    yield
    phases[name] = phases.get(name, 0.0) + time.perf_counter() - start


def set_up(comparison: Comparison) -> tuple[dict[str, Ready], dict[str, str]]:
    """The contestants that are installed, and for each that is not, the reason."""
    ready, skipped = {}, {}
    for tool, make in comparison.tools.items():
        try:
            ready[tool] = make(comparison.inputs[0])
        except ImportError as error:
            skipped[tool] = f"not installed ({error.name or error})"
    return ready, skipped


def numbers(result: Any) -> np.ndarray:
    """All numbers of a nested result, in one flat array."""
    if isinstance(result, dict):
        result = list(result.values())
    if isinstance(result, list | tuple):
        parts = [numbers(x) for x in result]
        return np.concatenate(parts) if parts else np.zeros(0)
    return np.asarray(result, np.float64).reshape(-1)


def check(comparison: Comparison, ready: dict[str, Ready]) -> None:
    """Raise AssertionError unless all contestants give the same values and gradients at inputs not seen in set-up."""
    tolerance = comparison.tolerance or TOLERANCE[np.dtype(comparison.dtype)]
    reference_tool = OURS if OURS in ready else next(iter(ready))
    for x in comparison.inputs[1:4]:
        results = {tool: r.read(r.run(r.prepare(x))) for tool, r in ready.items()}
        everything = {tool: numbers(result) for tool, result in results.items()}
        compared = [everything]
        # Of a value and a gradient, the gradient once more by itself: a value may be much larger.
        if all(isinstance(result, tuple) and len(result) == 2 for result in results.values()):
            compared.append({tool: numbers(result[1]) for tool, result in results.items()})
        for found in compared:
            reference = found[reference_tool]
            atol = tolerance * np.abs(reference).max()
            for tool, result in found.items():
                what = f"{comparison.name}: {tool} and {reference_tool}"
                np.testing.assert_allclose(result, reference, rtol=tolerance, atol=atol, err_msg=what)


def _time(run: Callable[[Any], Any], inputs: list[Any], calls: int) -> tuple[float, float]:
    # Seconds a call, and processor seconds a second: how many cores it kept busy.
    turn = list(itertools.islice(itertools.cycle(inputs), calls))
    cpu, start = time.process_time(), time.perf_counter()
    for x in turn:
        run(x)
    wall = time.perf_counter() - start
    return wall / calls, (time.process_time() - cpu) / wall


def measure(comparison: Comparison, rounds: int = 7) -> dict[str, Any]:
    """Run a comparison; returns its table row as plain data.

    Each round times every contestant for about `round_time`, in an order that changes from round to round.
    """
    return measure_together([comparison], rounds)[0]


def measure_together(comparisons: Sequence[Comparison], rounds: int = 7) -> list[dict[str, Any]]:
    """Run comparisons whose times are to be set against each other: all their contestants take turns; a row of each."""
    contestants: dict[tuple[int, str], Ready] = {}
    skipped, inputs, calls = [], {}, {}
    for number, comparison in enumerate(comparisons):
        ready, missing = set_up(comparison)
        skipped.append(missing)
        if comparison.checked:
            check(comparison, ready)
        for tool, r in ready.items():
            at = number, tool
            contestants[at] = r
            inputs[at] = [r.prepare(x) for x in comparison.inputs[1:]]
            once = min(_time(r.run, inputs[at], 1)[0] for _ in range(2))
            calls[at] = max(1, min(20_000, int(comparison.round_time / once)))
            _time(r.run, inputs[at], calls[at] // 4 + 1)
    timings: dict[tuple[int, str], list[tuple[float, float]]] = {at: [] for at in contestants}
    order = list(contestants)
    gc.collect()
    for _ in range(min([rounds, *(c.most_rounds for c in comparisons if c.most_rounds)])):
        for at in order:
            timings[at].append(_time(contestants[at].run, inputs[at], calls[at]))
        order = order[1:] + order[:1]
    rows = []
    for number, comparison in enumerate(comparisons):
        own = {tool: t for (n, tool), t in timings.items() if n == number}
        phases = {tool: contestants[number, tool].phases for tool in own}
        rows.append(summary(comparison.name, comparison.unit, own, comparison.per, phases, skipped[number]))
    return rows


def summary(
    name: str,
    unit: str,
    timings: dict[str, list[tuple[float, float]]],
    per: int = 1,
    phases: dict[str, dict[str, float]] | None = None,
    skipped: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A table row as plain data, from each contestant's (seconds, cores kept busy) of every round."""
    medians = {tool: statistics.median(seconds for seconds, _ in t) / per for tool, t in timings.items()}
    tools = {}
    for tool, t in timings.items():
        times = [seconds / per for seconds, _ in t]
        tools[tool] = {
            "median": medians[tool],
            "spread": (max(times) - min(times)) / medians[tool],
            "ratio": medians[OURS] / medians[tool] if OURS in medians else None,
            "cores": statistics.median(cores for _, cores in t),
            "phases": (phases or {}).get(tool, {}),
        }
    return {"name": name, "unit": unit, "tools": tools, "skipped": skipped or {}}


def timed(run: Callable[[], Any]) -> tuple[tuple[float, float], Any]:
    """One call: (seconds, cores kept busy), and what it returned."""
    cpu, start = time.process_time(), time.perf_counter()
    result = run()
    wall = time.perf_counter() - start
    return (wall, (time.process_time() - cpu) / wall), result


def duration(seconds: float) -> str:
    """A time in the unit that gives it three digits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e9:.3g} ns"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Results as a Markdown table. A ratio below one means that tapegrad is faster."""
    lines = [
        "| workload | per | tapegrad | peer | peer's time | tapegrad / peer | cores kept busy | set-up of the peer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        ours = row["tools"].get(OURS)
        start = f"| {row['name']} | {row['unit']} | {duration(ours['median']) if ours else '-'} "
        peers = {tool: t for tool, t in row["tools"].items() if tool != OURS}
        for tool, t in peers.items():
            waited = min(t["cores"], ours["cores"] if ours else 1.0) < BUSY
            ratio = f"{t['ratio']:.3g}{' *' if waited else ''}" if t["ratio"] else "-"
            cores = f"{ours['cores']:.1f} / {t['cores']:.1f}" if ours else f"- / {t['cores']:.1f}"
            lines.append(f"{start}| {tool} | {duration(t['median'])} | {ratio} | {cores} | {_phases(t)} |")
        if not peers and ours:
            lines.append(f"{start}| - | | | {ours['cores']:.1f} | |")
        lines += [f"{start}| {tool} | skipped: {why} | | | |" for tool, why in row["skipped"].items()]
    return "\n".join(lines)


def _phases(tool: dict[str, Any]) -> str:
    return ", ".join(f"{name} {duration(seconds)}" for name, seconds in tool["phases"].items())


def set_up_table(rows: Sequence[dict[str, Any]]) -> str:
    """What recording and compiling cost tapegrad, once, before the replays of the table; empty if nothing is known."""
    if not any(row["tools"].get(OURS, {}).get("phases") for row in rows):
        return ""
    lines = ["| workload | set-up of tapegrad, once |", "|---|---|"]
    for row in rows:
        ours = row["tools"].get(OURS)
        if ours and ours["phases"]:
            lines.append(f"| {row['name']} | {_phases(ours)} |")
    return "\n".join(lines)
