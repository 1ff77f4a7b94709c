"""TensorFlow's string tensors: bytes become an array of `bytes`."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.errors import AsyncloadError, Corrupt
from asyncload.manifest import TensorEntry

from ._crc32c import crc32c, unmasked

__all__ = ["decode_strings"]

Array = npt.NDArray[Any]

_CHECKSUM = 4  # bytes, between the lengths and the strings
_VARINT = 10  # bytes at most
_LONG = 1 << 32  # a length from which on it is summed up as a uint64


def decode_strings(entry: TensorEntry, stored: memoryview, verify: bool = True) -> Array:
    """Return the read-only array of a `Strings` tensor.

    Args:
        entry: what is stored.
        stored: its ``entry.length`` bytes; they are copied.
        verify: compare the checksums.

    Raises:
        Corrupt: the bytes are damaged; names the tensor.
    """
    try:
        lengths, end = _lengths(stored, int(np.prod(entry.shape, dtype=np.int64)))
        if verify:
            _verify(stored, lengths, end, entry.crc32c)
        return _strings(stored, lengths, end + _CHECKSUM).reshape(entry.shape)
    except AsyncloadError as error:
        error.tensor = entry.name
        raise


def _lengths(stored: memoryview, count: int) -> tuple[npt.NDArray[np.uint64], int]:
    """Return the ``count`` lengths at the beginning, and the position behind them."""
    begin = np.frombuffer(stored[: count * _VARINT], np.uint8)
    last = np.flatnonzero(begin < 0x80)[:count]
    if len(last) < count:
        raise Corrupt(f"has the lengths of {len(last)} strings; expected {count}")
    first = np.concatenate(([0], last[:-1] + 1)) if count else last
    sizes = last - first + 1
    if count and int(sizes.max()) >= _VARINT:  # 63 bits are in nine bytes
        raise Corrupt("has a string longer than any file")
    lengths = np.zeros(count, np.uint64)
    for index in range(int(sizes.max()) if count else 0):
        longer = sizes > index
        bits = (begin[first[longer] + index] & 0x7F).astype(np.uint64)
        lengths[longer] |= bits << np.uint64(7 * index)
    return lengths, int(last[-1]) + 1 if count else 0


def _verify(
    stored: memoryview, lengths: npt.NDArray[np.uint64], end: int, expected: int | None
) -> None:
    checksum = stored[end : end + _CHECKSUM]
    found = _sum_lengths(lengths)
    if len(checksum) < _CHECKSUM or found != unmasked(int.from_bytes(checksum, "little")):
        raise Corrupt(
            "the lengths of its strings do not have the checksum that stands behind them. Copy or "
            "download the file again."
        )
    if expected is None:
        return
    found = crc32c(stored[end:], found)
    if found != expected:
        raise Corrupt(
            f"its strings have the CRC32C {found:08x}; expected {expected:08x}. Copy or download "
            "the file again."
        )


def _sum_lengths(lengths: npt.NDArray[np.uint64]) -> int:
    if not (lengths >= _LONG).any():
        return crc32c(lengths.astype("<u4").tobytes())
    checksum = 0
    for length in lengths.tolist():
        checksum = crc32c(length.to_bytes(4 if length < _LONG else 8, "little"), checksum)
    return checksum


def _strings(stored: memoryview, lengths: npt.NDArray[np.uint64], start: int) -> Array:
    there = len(stored) - start
    if there < 0 or int(lengths.max(initial=0)) > there or _total(lengths) != there:
        raise Corrupt(
            f"has strings of {_total(lengths):,} bytes in all, but {max(there, 0):,} are stored"
        )
    ends = (np.cumsum(lengths, dtype=np.int64) + start).tolist()
    array = np.empty(len(lengths), object)
    array[:] = [bytes(stored[begin:end]) for begin, end in pairwise([start, *ends])]
    array.flags.writeable = False
    return array


def _total(lengths: npt.NDArray[np.uint64]) -> int:
    return sum(lengths.tolist())
