"""Gradients over data on a cluster, with Dask: `pip install "tapegrad[dask]"`, `import tapegrad.dask`.

A function of one row is recorded on the client and travels as plain arrays; each chunk of rows is replayed in the
worker that has it. `sums` adds up values and gradients, `maps` has what each row gives, `training` trains networks.
`arguments` knows which arguments have rows, `functions` records, `travel` sends a recording, `tasks` is what workers
do, `graphs` puts tasks together and waits for them.
"""

from tapegrad.errors import ExtraMissingError

try:
    import dask.array  # noqa: F401
    import distributed  # noqa: F401
except ImportError as error:
    raise ExtraMissingError(
        f'tapegrad.dask needs {error.name}: pip install "tapegrad[dask]" brings Dask and its cluster'
    ) from error

from tapegrad.dask.maps import jacobian, vmap
from tapegrad.dask.sums import value_and_grad
from tapegrad.dask.training import Training

__all__ = ["Training", "jacobian", "value_and_grad", "vmap"]
