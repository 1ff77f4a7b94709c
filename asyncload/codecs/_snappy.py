"""Snappy's raw blocks, expanded no further than they may be.

(https://github.com/google/snappy/blob/main/format_description.txt)
"""

from __future__ import annotations

from asyncload.errors import Corrupt, TooLarge

__all__ = ["expand"]

# A copy of 64 bytes takes three; what is declared beyond that cannot be there.
_EXPANSION = 22
_HEADER = 10  # bytes of the longest varint


def expand(stored: bytes | memoryview, limit: int) -> bytes:
    """Expand a block.

    Args:
        stored: the block, and nothing behind it.
        limit: the most bytes that it may be expanded.

    Raises:
        Corrupt: it is damaged; names no tensor.
        TooLarge: it declares more than ``limit``.
    """
    # A library in native code, which only the workers that expand blocks need load.
    from cramjam import DecompressionError, snappy

    content = bytes(stored)
    try:
        declared = snappy.decompress_raw_len(content[:_HEADER])
        if declared > _EXPANSION * len(content):
            raise Corrupt(f"declares {declared:,} bytes in {len(content):,} that are compressed")
        if declared > limit:
            raise TooLarge(f"has {declared:,} bytes expanded; the limit is {limit:,}")
        expanded = bytearray(declared)
        snappy.decompress_raw_into(content, expanded)
    except DecompressionError as error:
        raise Corrupt(f"its compressed bytes are damaged: {error}") from error
    return bytes(expanded)
