"""How encoded bytes become a tensor: pure functions, run in workers and threads.

- ``_decode``   `decode` and `fill`: one tensor, by its encoding
- ``_chunks``   chunks of an HDF5 dataset, put where they belong
- ``_filters``  HDF5's filters undone
- ``_inflate``  DEFLATE, bounded
"""

from ._decode import decode, fill

__all__ = ["decode", "fill"]
