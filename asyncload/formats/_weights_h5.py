"""HDF5 files of plain datasets: Keras' ``*.weights.h5``, and any other."""

from __future__ import annotations

from asyncload.interfaces import Indexing
from asyncload.manifest import Manifest

from ._hdf5 import MAGIC, index_hdf5

__all__ = ["WeightsH5"]

_SUFFIXES = (".weights.h5", ".h5", ".hdf5")


class WeightsH5:
    """Format of ``*.weights.h5``, and of HDF5 files by other names.

    Tensors are named by the path of their dataset (``layers/dense/vars/0``).
    """

    name = "keras-weights"
    costly = True

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name is that of an HDF5 file, or the bytes begin as one."""
        return name.endswith(_SUFFIXES) or head.startswith(MAGIC)

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the file."""
        tensors = await index_hdf5(indexing, 0)
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=tensors,
        )
