"""The keys of a partitioned variable's parts: texts and numbers as bytes that sort as they do.

(tensorflow/core/lib/strings/ordered_code.cc; saved_tensor_slice_util.cc, EncodeTensorNameSlice)
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["PART_KEY", "slice_key"]

PART_KEY = b"\0"  # what such keys begin with, and names of tensors do not

_SMALL = 64  # numbers nearer to zero than this are one byte
_BITS = 7  # bits of a number in each of its bytes: one bit of length for each
_SPECIAL = re.compile(rb"[\x00\xff]")


def slice_key(name: bytes, extents: Iterable[tuple[int, int]]) -> bytes:
    """Return the key under which a part is stored.

    Args:
        name: of the tensor.
        extents: (first element, number of elements) in each dimension; (0, -1) for all.
    """
    pairs = list(extents)
    numbers = b"".join(_signed(number) for pair in pairs for number in pair)
    return _unsigned(0) + _text(name) + _unsigned(len(pairs)) + numbers


def _text(text: bytes) -> bytes:
    return _SPECIAL.sub(_escape, text) + b"\x00\x01"


def _escape(match: re.Match[bytes]) -> bytes:
    return match[0] + (b"\xff" if match[0] == b"\x00" else b"\x00")


def _unsigned(number: int) -> bytes:
    size = -(-number.bit_length() // 8)
    return bytes([size]) + number.to_bytes(size, "big")


def _signed(number: int) -> bytes:
    """Return a number after a header of as many ones as it has bytes, inverted if negative."""
    magnitude = ~number if number < 0 else number
    if magnitude < _SMALL:
        return bytes([0x80 ^ (number & 0xFF)])
    size = magnitude.bit_length() // _BITS + 1
    header = ((1 << size) - 1) << (8 * size - size)
    return ((number & (1 << 8 * size) - 1) ^ header).to_bytes(size, "big")
