"""How encoded bytes become a tensor: pure functions, run in workers and threads.

- ``_decode``   `decode` and `fill`: one tensor, by its encoding
- ``_chunks``   chunks of an HDF5 dataset, put where they belong
- ``_filters``  HDF5's filters undone
- ``_inflate``  DEFLATE, bounded
- ``_snappy``   Snappy, bounded
- ``_crc32c``   checksums of TensorFlow's files
- ``_strings``  string tensors of TensorFlow's files
- ``_parts``    partitioned variables, put together
"""

from ._crc32c import crc32c, joined_crc32c, unmasked
from ._decode import decode, fill
from ._parts import put_together
from ._snappy import expand
from ._strings import decode_strings

__all__ = [
    "crc32c",
    "decode",
    "decode_strings",
    "expand",
    "fill",
    "joined_crc32c",
    "put_together",
    "unmasked",
]
