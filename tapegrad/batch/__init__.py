"""Many inputs at once: `vmap`, and `Recording.batch`.

`writing` writes the program of one input for many lanes, `programs` makes programs of blocks of lanes, `runs` has each
lane go its way through them, `blocks` has threads compute them, and `on_values` writes batches on a tape. `sums` adds
up values and gradients, `recorded` has the batch of a recording. `axes` knows which axes of arguments and results are
those of the lanes.
"""

from tapegrad.batch.recorded import Batch
from tapegrad.batch.vmap import vmap
from tapegrad.recording.telling import tells

__all__ = ["Batch", "vmap"]

tells("batch", Batch)
