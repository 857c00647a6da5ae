"""Benchmarks against other tools. `python -m pytest bench` runs each alone, `python -m bench` writes RESULTS.md."""
