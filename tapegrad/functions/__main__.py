"""Write the table of NumPy's names to the standard output, as `docs/numpy.md` has it."""

import sys

from tapegrad.functions.table import as_markdown

if __name__ == "__main__":
    sys.stdout.write(as_markdown())
