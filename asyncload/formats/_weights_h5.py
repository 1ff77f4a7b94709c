"""HDF5 files of plain datasets: Keras' ``*.weights.h5``, and others that Keras did not write."""

from __future__ import annotations

from asyncload.interfaces import Indexing
from asyncload.manifest import Manifest

from ._hdf5 import index_hdf5

__all__ = ["WeightsH5"]

_SUFFIX = ".weights.h5"


class WeightsH5:
    """Format of ``*.weights.h5``.

    Tensors are named by the path of their dataset (``layers/dense/vars/0``).
    """

    name = "keras-weights"
    costly = True

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name ends in ``.weights.h5``."""
        del head  # other HDF5 files begin alike
        return name.endswith(_SUFFIX)

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the file."""
        tensors = await index_hdf5(indexing, 0, early=True)
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=tensors,
            left_out=indexing.left_out,
        )
