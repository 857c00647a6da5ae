"""Data sets for the examples: the MNIST digits, and the IDX file format they come in.

`idx` reads one file and trusts nothing in it; `mnist` finds, downloads and checks the four files of MNIST.
"""

from __future__ import annotations

from tapegrad.data.idx import read_idx
from tapegrad.data.mnist import MNIST, load_mnist

__all__ = ["MNIST", "load_mnist", "read_idx"]
