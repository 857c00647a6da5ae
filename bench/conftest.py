"""Threads are set before anything that starts some is imported, and only what is asked for is collected."""

import os

from bench.machine import thread_environment, threads

os.environ.update(thread_environment(threads()))
collect_ignore = ["__main__.py"]


def pytest_configure(config):
    """A table of few columns for each comparison: those that pytest-benchmark shows unasked take 200 characters."""
    asked = " ".join(map(str, config.invocation_params.args))
    if hasattr(config.option, "benchmark_columns") and "--benchmark-columns" not in asked:
        config.option.benchmark_columns = ["median", "iqr", "rounds"]
