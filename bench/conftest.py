"""Threads are set before anything that starts some is imported, and only what is asked for is collected."""

import os

from bench.machine import thread_environment, threads

os.environ.update(thread_environment(threads()))
collect_ignore = ["__main__.py"]
