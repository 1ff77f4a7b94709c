"""The file object through which the HDF5 library reads a part of a file."""

from __future__ import annotations

import os
from collections import OrderedDict

from asyncload.errors import AsyncloadError, Corrupt, SourceChanged, TooLarge

from . import _hdf5_heap

__all__ = ["FileWindow"]

# Metadata of neighbouring datasets lies together; most requests are below 1 KiB.
_BLOCK = 16 << 10  # bytes
_BLOCKS = 1024
# The texts of a model lie in one collection of the global heap, or a few.
_HEAP_LIMIT = 128 << 20  # bytes


class FileWindow:
    """A range of an open file, read in blocks that are kept.

    It has what h5py's file-object driver calls: ``seek``, then ``read``; without ``readinto``,
    which costs a memoryview for each of a thousand small reads.

    Args:
        descriptor: stays the caller's.
        base: first byte of the range.
        length: bytes in it.
        uri: for messages.

    Attributes:
        length: as given.
        error: the first failure of a read, which HDF5 would report as its own.
    """

    def __init__(self, descriptor: int, base: int, length: int, uri: str) -> None:
        self.length = length
        self.error: Exception | None = None
        self._uri = uri
        self._position = 0
        self._heaps: set[int] = set()
        self._descriptor = descriptor
        self._base = base
        self._blocks: OrderedDict[int, bytes] = OrderedDict()

    def seek(self, position: int, whence: int = os.SEEK_SET) -> int:
        """Move to ``position``, counted from the begin or (``os.SEEK_END``) the end."""
        self._position = position if whence == os.SEEK_SET else self.length + position
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def flush(self) -> None:
        """Do nothing: nothing is ever written."""

    def read(self, length: int) -> bytes:
        """Return ``length`` bytes from the position, fewer at the end."""
        index, begin = divmod(self._position, _BLOCK)
        end = begin + length
        found = (
            self._pread(self._position, length) if end > _BLOCK else self._block(index)[begin:end]
        )
        return found if found[:4] != _hdf5_heap.SIGNATURE else self._checked(found)

    def _block(self, index: int) -> bytes:
        block = self._blocks.get(index)
        if block is None:
            block = self._blocks[index] = self._pread(index * _BLOCK, _BLOCK)
            if len(self._blocks) > _BLOCKS:
                self._blocks.popitem(last=False)
        return block

    def _checked(self, begin: bytes) -> bytes:
        """Look at a collection of the global heap whose first bytes HDF5 is about to get."""
        if self._position not in self._heaps:
            try:
                self._check_heap(begin)
            except AsyncloadError as error:
                self.error = self.error or error
                raise
            self._heaps.add(self._position)
        return begin

    def _check_heap(self, begin: bytes) -> None:
        size = _hdf5_heap.stated_size(begin)
        if size > self.length - self._position:
            return  # HDF5 finds that by itself
        if size > _HEAP_LIMIT:
            raise TooLarge(
                f"has {size} bytes of text in one place; at most {_HEAP_LIMIT} are accepted",
                uri=self._uri,
            )
        try:
            _hdf5_heap.check_collection(self._pread(self._position, size))
        except ValueError as error:
            raise Corrupt(f"is damaged: {error}. Write or copy it again.", uri=self._uri) from error

    def _pread(self, position: int, length: int) -> bytes:
        length = max(0, min(length, self.length - position))
        try:
            return self._pread_all(self._base + position, length)
        except (OSError, SourceChanged) as error:
            self.error = self.error or error
            raise

    def _pread_all(self, offset: int, length: int) -> bytes:
        pieces = []
        while length:
            piece = os.pread(self._descriptor, length, offset)
            if not piece:
                raise SourceChanged(
                    f"ends at byte {offset} now, {length} bytes short of its length when it was "
                    "opened; load it again when nothing writes to it",
                    uri=self._uri,
                )
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
