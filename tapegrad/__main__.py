"""`python -m tapegrad`: the same as the command `tapegrad`."""

import sys

from tapegrad.command import main

if __name__ == "__main__":
    sys.exit(main())
