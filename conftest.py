"""How the tests are run: all of them on all cores, on compiled code that is made once, before the first test."""

import importlib.util
import signal
import subprocess
import sys

import pytest

# Without Dask there is nothing to run of what needs it.
collect_ignore_glob = [] if importlib.util.find_spec("distributed") else ["tapegrad/dask/*", "tests/dask/*"]

# What a shell runs in the background ignores interrupts, and so would the processes that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """All tests run on all cores; files that are named run in this process, where a debugger and prints work."""
    return None if config.args_source is pytest.Config.ArgsSource.TESTPATHS else 0


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session):
    """Compile what the tests need before there are workers, or each would compile the same for itself."""
    config = session.config
    in_parallel = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if in_parallel and not config.option.collectonly:
        command = [sys.executable, "-m", "tests.warm"]
        running = [subprocess.Popen([*command, name], cwd=config.rootpath) for name in ("float64", "float32")]
        if any([process.wait() for process in running]):
            pytest.exit("tests/warm.py failed", returncode=1)
