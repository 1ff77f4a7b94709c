"""The file object through which the HDF5 library reads a part of a file."""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence

from asyncload.errors import AsyncloadError, Corrupt, SourceChanged, TooLarge

from . import _hdf5_heap

__all__ = ["BytesMissing", "FileWindow"]

# Metadata of neighbouring datasets lies together; most requests are below 1 KiB.
_BLOCK = 16 << 10  # bytes
_BLOCKS = 1024
# The texts of a model lie in one collection of the global heap, or a few.
_HEAP_LIMIT = 128 << 20  # bytes


# A node of a B-tree of version 1, as the members of a group have it (HDF5 File Format
# Specification 3.0, III.A.1), where lengths and offsets take 8 bytes.
_NODE = struct.Struct("<4sBBH16x")
_NODE_SIGNATURE, _GROUP_NODE = b"TREE", 0
_DEPTH = 3  # levels of nodes that are looked through; 3 have a hundred thousand members
_KEY_AND_CHILD = struct.Struct("<QQ")


class BytesMissing(Exception):
    """Bytes that HDF5 asked for have not come yet.

    Args:
        offset: in the range.
        length: of what was to be read.
    """

    def __init__(self, offset: int, length: int) -> None:
        super().__init__(offset, length)
        self.offset = offset
        self.length = length


class FileWindow:
    """A range of an open file, read in blocks that are kept.

    It has what h5py's file-object driver calls: ``seek``, then ``read``; without ``readinto``,
    which costs a memoryview for each of a thousand small reads.

    Args:
        descriptor: stays the caller's.
        base: first byte of the range.
        length: bytes in it.
        uri: for messages.
        present: (first byte, the one behind the last) of the stretches of it that are there, in
            order; ``None`` for all of it. Reads of others raise `BytesMissing`.

    Attributes:
        length: as given.
        error: the first failure of a read, which HDF5 would report as its own.
        ahead: offsets of blocks, not there yet, to which those point that were read.
    """

    def __init__(
        self,
        descriptor: int,
        base: int,
        length: int,
        uri: str,
        present: Sequence[tuple[int, int]] | None = None,
    ) -> None:
        self.length = length
        self.error: Exception | None = None
        self.ahead: set[int] = set()
        self._present = [(0, length)] if present is None else present
        self._complete = present is None
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
        if not self._complete and found[:4] == _NODE_SIGNATURE:
            self.ahead.update(self._missing_below(found))
        return found if found[:4] != _hdf5_heap.SIGNATURE else self._checked(found)

    def is_there(self, offset: int, length: int) -> bool:
        """Whether all bytes of a stretch have come."""
        end = min(offset + length, self.length)
        return any(begin <= offset and end <= stop for begin, stop in self._present)

    def _missing_below(self, node: bytes, depth: int = _DEPTH) -> Iterator[int]:
        """Yield where the parts of a group's list of members lie that are not there yet."""
        if len(node) < _NODE.size:
            return
        signature, kind, _, entries = _NODE.unpack_from(node)
        end = _NODE.size + entries * _KEY_AND_CHILD.size
        if signature != _NODE_SIGNATURE or kind != _GROUP_NODE or len(node) < end or not depth:
            return
        for _, child in _KEY_AND_CHILD.iter_unpack(node[_NODE.size : end]):
            if not self.is_there(child, len(node)):
                if child < self.length:
                    yield child
            else:
                yield from self._missing_below(self._pread(child, len(node)), depth - 1)

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
                f"has {size} bytes of text in one place; at most {_HEAP_LIMIT} are accepted. "
                "Save the model as .keras, which keeps its texts apart.",
                uri=self._uri,
            )
        try:
            _hdf5_heap.check_collection(self._pread(self._position, size))
        except ValueError as error:
            raise Corrupt(f"is damaged: {error}. Write or copy it again.", uri=self._uri) from error

    def _pread(self, position: int, length: int) -> bytes:
        length = max(0, min(length, self.length - position))
        try:
            self._expect(position, length)
            return self._pread_all(self._base + position, length)
        except (OSError, SourceChanged, BytesMissing) as error:
            self.error = self.error or error
            raise

    def _expect(self, position: int, length: int) -> None:
        if not self._complete and not self.is_there(position, length):
            raise BytesMissing(position, length)

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
