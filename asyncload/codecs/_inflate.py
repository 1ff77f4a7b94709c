"""DEFLATE streams (RFC 1950 and 1951), inflated no further than they may be.

ISA-L is two to three times faster than zlib; where it has no build, zlib does the same.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from asyncload.errors import Corrupt

fastest: Any = zlib
with suppress(ImportError):
    fastest = importlib.import_module("isal.isal_zlib")

__all__ = ["RAW", "ZLIB", "crc32", "inflate", "inflate_into"]

# Window sizes, as zlib takes them: a header and a checksum around the stream, or nothing.
ZLIB = zlib.MAX_WBITS
RAW = -zlib.MAX_WBITS

# Stored bytes inflated at once: what comes of them is at most 1032 times as long, and stays in
# the processor's cache as a rule.
_STEP = 64 << 10

crc32: Callable[[bytes, int], int] = fastest.crc32
_FAILURES: tuple[type[Exception], ...] = (zlib.error, fastest.error)


def inflate(stored: bytes | memoryview, limit: int) -> bytes:
    """Inflate a zlib stream.

    Args:
        stored: the stream, and nothing behind it.
        limit: the most bytes that it may be decoded.

    Raises:
        Corrupt: it is damaged, cut off, or longer; names no tensor.
    """
    decoder = fastest.decompressobj(ZLIB)
    try:
        # One more, as otherwise a decoder may stop before it has seen the end.
        decoded: bytes = decoder.decompress(stored, limit + 1)
    except _FAILURES as error:
        raise Corrupt(f"its compressed bytes are damaged: {error}") from error
    if len(decoded) > limit or not decoder.eof:
        raise Corrupt(f"its compressed bytes end early, or exceed the {limit} bytes that they are")
    return decoded


def inflate_into(stored: memoryview, out: memoryview, *, skip: int, decoded: int) -> int:
    """Inflate a raw stream.

    Args:
        stored: the stream.
        out: where its bytes from the ``skip``th on go; ``decoded - skip`` of them.
        skip: bytes at its begin that are dropped.
        decoded: bytes that it must have.

    Returns:
        The CRC-32 of all its bytes.

    Raises:
        Corrupt: it is damaged, or has another length; names no tensor.
    """
    decoder: Any = fastest.decompressobj(RAW)
    position = checksum = 0
    for begin in range(0, len(stored), _STEP):
        try:
            piece = decoder.decompress(stored[begin : begin + _STEP], decoded - position + 1)
        except _FAILURES as error:
            raise Corrupt(f"its compressed bytes are damaged: {error}") from error
        checksum = crc32(piece, checksum)
        _place(piece, position - skip, out)
        position += len(piece)
        if decoder.eof or position > decoded:
            break
    if position != decoded or not decoder.eof:
        raise Corrupt(
            f"its compressed bytes hold {'more' if position > decoded else position} bytes; "
            f"expected {decoded}"
        )
    return checksum


def _place(piece: bytes, at: int, out: memoryview) -> None:
    """Write ``piece`` to ``out`` from ``at`` on, as far as it lies within."""
    first, end = max(0, -at), min(len(piece), len(out) - at)
    if first < end:
        out[at + first : at + end] = memoryview(piece)[first:end]
