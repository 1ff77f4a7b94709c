"""LevelDB's table, as TensorFlow writes it: sorted keys and their values, in checked blocks.

TensorFlow leaves blocks as they are; other builds of it, and other programs, compress them.

(https://github.com/google/leveldb/blob/main/doc/table_format.md;
tensorflow/core/lib/io/table_builder.cc)
"""

from __future__ import annotations

from collections.abc import Iterator

from asyncload.codecs import crc32c, expand, unmasked
from asyncload.errors import Corrupt, FormatError, TooLarge

from .protobuf import varint

__all__ = ["MAGIC", "CompressedTable", "read_table"]

_MAGIC = 0xDB4775248B80FB57
MAGIC = _MAGIC.to_bytes(8, "little")  # the last bytes of a table
_FOOTER = 48  # bytes: two block handles, padding, eight bytes of magic
_TRAILER = 5  # bytes behind each block: how it is compressed, and its checksum
_WORD = 4  # bytes of each restart point, and of their number
# Keys leave out what they share with the one before them, and TensorFlow writes every 16th in full.
_EXPANSION = 64  # times a block's size that all its keys may have together
_SNAPPY = 1  # how a block is compressed
_COMPRESSIONS = {0: "none", _SNAPPY: "snappy", 2: "zstd"}
_EXPANDED_LIMIT = 256 << 20  # bytes of all blocks together, once they are expanded


class CompressedTable(Exception):
    """A table has blocks that are compressed, and nobody said that they may be expanded."""


def read_table(table: memoryview, *, expanding: bool = False) -> Iterator[tuple[bytes, memoryview]]:
    """Yield (key, value) in the order of the keys; takes time linear in the table's size.

    Args:
        table: the whole file; values share its memory, unless they were expanded.
        expanding: expand blocks that are compressed. Then the time is linear in what they are
            expanded to, which belongs in a worker.

    Raises:
        CompressedTable: it has such blocks, without ``expanding``.
        Corrupt: it is no such table, truncated or damaged; it names no URI.
        FormatError: its blocks are compressed in a way that is not known here.
        TooLarge: its blocks or keys are far longer than what is stored of them.
    """
    blocks = _Blocks(table, expanding)
    last: bytes | None = None
    end = 0
    for _, handle in _entries(blocks.at(*_index_handle(table))):
        offset, position = varint(handle, 0)
        size, _ = varint(handle, position)
        if offset < end:  # also what keeps a block from being read over and over
            raise Corrupt("has blocks that overlap; the index file is damaged")
        end = offset + size + _TRAILER
        for key, value in _entries(blocks.at(offset, size)):
            if last is not None and key <= last:
                raise Corrupt("has keys that are out of order; the index file is damaged")
            yield key, value
            last = key


def _index_handle(table: memoryview) -> tuple[int, int]:
    """Return offset and size of the block that lists the others."""
    if len(table) < _FOOTER:
        raise Corrupt(
            f"has {len(table)} bytes, but a checkpoint's index ends with {_FOOTER} of a footer; it "
            "is truncated"
        )
    footer = table[-_FOOTER:]
    magic = int.from_bytes(footer[-8:], "little")
    if magic != _MAGIC:
        raise Corrupt(
            f"ends with {magic:016x}; a checkpoint's index ends with {_MAGIC:016x}. It is "
            "truncated, or no such index."
        )
    position = 0
    for _ in range(2):  # the metaindex block, of which there is nothing to know
        _, position = varint(footer, position)
    offset, position = varint(footer, position)
    size, _ = varint(footer, position)
    return offset, size


class _Blocks:
    """The blocks of a table: see `read_table`."""

    def __init__(self, table: memoryview, expanding: bool) -> None:
        self._table = table
        self._expanding = expanding
        self._allowance = _EXPANDED_LIMIT

    def at(self, offset: int, size: int) -> memoryview:
        """Return a block's content, once its checksum is right."""
        content, compression = _stored(self._table, offset, size)
        if not compression:
            return content
        if compression != _SNAPPY:
            name = _COMPRESSIONS.get(compression, str(compression))
            raise FormatError(
                f"has blocks that are compressed in a way that is not read here ({name}); save the "
                "checkpoint again with TensorFlow"
            )
        if not self._expanding:
            raise CompressedTable("its blocks are compressed (snappy)")
        expanded = expand(content, self._allowance)
        self._allowance -= len(expanded)
        return memoryview(expanded)


def _stored(table: memoryview, offset: int, size: int) -> tuple[memoryview, int]:
    """Return a block as it is stored, and how it is compressed."""
    end = offset + size
    if end + _TRAILER > len(table) - _FOOTER:
        raise Corrupt(
            f"has a block at bytes {offset} to {end + _TRAILER}, but {len(table) - _FOOTER} bytes "
            "of blocks; it is truncated or damaged"
        )
    found = crc32c(table[offset : end + 1])
    expected = unmasked(int.from_bytes(table[end + 1 : end + _TRAILER], "little"))
    if found != expected:
        raise Corrupt(
            f"its block at byte {offset} has the CRC32C {found:08x}; expected {expected:08x}. Copy "
            "or download the file again."
        )
    return table[offset:end], table[end]


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Yield a block's keys and values."""
    allowance = _EXPANSION * len(block)
    end = _entries_end(block)
    block = block[:end]
    position = 0
    key = b""
    while position < end:
        shared, position = varint(block, position)
        rest, position = varint(block, position)
        length, position = varint(block, position)
        value = position + rest
        if shared > len(key) or value + length > end:
            raise Corrupt(
                f"has an entry that goes to byte {value + length} of a block of {end}, or whose "
                "key shares more than the one before has; the index file is damaged"
            )
        allowance -= shared + rest
        if allowance < 0:
            raise TooLarge("has keys that are far longer than the file; do not trust it")
        key = key[:shared] + bytes(block[position:value])
        position = value + length
        yield key, block[value:position]


def _entries_end(block: memoryview) -> int:
    """Return where a block's entries end and its restart points begin."""
    if len(block) < _WORD:
        raise Corrupt("has a block without a number of restart points; it is damaged")
    restarts = int.from_bytes(block[-_WORD:], "little")
    end = len(block) - _WORD - _WORD * restarts
    if end < 0:
        raise Corrupt(f"has a block of {len(block)} bytes with {restarts} restart points")
    return end
