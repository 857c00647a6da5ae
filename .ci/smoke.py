"""What an installed tapegrad must do without its source, its tests and the extras: run by `.ci/run` on the wheel."""

from importlib.metadata import version

import numpy as np

import tapegrad as tg

assert tg.__version__ == version("tapegrad"), (tg.__version__, version("tapegrad"))
assert "site-packages" in tg.__file__, tg.__file__

f = lambda x: np.sum(np.sin(x) * x)
x = np.linspace(0.0, 1.0, 5)
expected = np.cos(x) * x + np.sin(x)
assert np.allclose(tg.grad(f)(x), expected)
assert np.allclose(tg.grad(f, compile=True)(x), expected)
assert tg.Value(2.0).backward() is None
