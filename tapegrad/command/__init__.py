"""The command `tapegrad`: about this machine, about saved recordings, and a short measurement.

`arguments` reads the command line, `info` tells what there is, `measure` times a few programs.
"""

from tapegrad.command.arguments import main

__all__ = ["main"]
