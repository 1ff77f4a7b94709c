"""`Weights`: the tensors of a file as a read-only mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy.typing as npt

from asyncload.manifest import Manifest
from asyncload.texts import printable

__all__ = ["Weights"]

Array = npt.NDArray[Any]


class Weights(Mapping[str, Array]):
    """The tensors of a file: name -> read-only array, in the file's own order.

    Arrays begin at 64-byte boundaries, and share memory with one another in arenas; an
    arena is given back to the system when no array of it is left. Use ``.copy()`` on an array
    that you want to write to. Strings are arrays of `bytes`, of dtype ``object``.

    Attributes:
        manifest: the index that the tensors were read by.
    """

    __slots__ = ("__weakref__", "_arrays", "manifest")

    def __init__(self, arrays: Mapping[str, Array], manifest: Manifest) -> None:
        self._arrays = dict(arrays)
        self.manifest = manifest

    def __getitem__(self, name: str) -> Array:
        try:
            return self._arrays[name]
        except KeyError:
            reason = self.manifest.left_out.get(name)
            why = "" if reason is None else f". It was left out: {reason}"
            raise KeyError(f"{self.manifest.uri} has no tensor {name!r}{why}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(array.nbytes for array in self._arrays.values())

    def __repr__(self) -> str:
        uri = printable(self.manifest.uri)
        return f"<Weights of {uri}: {len(self)} tensors, {self.nbytes:,} bytes>"
