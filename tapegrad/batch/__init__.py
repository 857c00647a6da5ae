"""Many inputs at once: `vmap`, and `Recording.batch`.

`writing` writes the program of one input for many lanes, `programs` makes programs of blocks of lanes, `runs` has each
lane go its way through them, `blocks` has threads compute them, and `on_values` writes batches on a tape. `axes` knows
which axes of arguments and results are those of the lanes.
"""

from tapegrad.batch.vmap import vmap

__all__ = ["vmap"]
