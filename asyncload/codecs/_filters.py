"""HDF5's filters, undone (https://docs.hdfgroup.org/hdf5/develop/_f_m_t4.html, section IV.A.2.l).

Each function takes one chunk's bytes as they left the filter, and returns those that entered it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from asyncload.errors import Corrupt, DecodeError

from ._inflate import inflate

__all__ = ["DEFLATE", "FLETCHER32", "LZF", "SHUFFLE", "Buffer", "Filters", "transpose", "unshuffle"]

DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3
LZF = 32000  # its number in the HDF Group's registry of filters

Buffer = bytes | memoryview
Filter = tuple[int, tuple[int, ...]]

_CHECKSUM = struct.Struct("<I")
# Words summed at once: their weighted sum stays below 2^64.
_WORDS = 1 << 20
_MODULUS = 0xFFFF
_PLANES = 32  # of bytes that are put into place one by one; no number has more


class Filters:
    """A pipeline of filters, undone for one chunk after the other; close it after the last.

    Args:
        filters: (HDF5 filter id, client data), in the order in which they encoded.
        chunk_bytes: bytes of a decoded chunk.
        itemsize: bytes of an element.

    Raises:
        Corrupt: the parameters of a filter do not fit the elements; names no tensor.
    """

    def __init__(self, filters: Sequence[Filter], chunk_bytes: int, itemsize: int) -> None:
        for number, values in filters:
            if number == SHUFFLE:
                _check_width(values, itemsize)
        self._filters = tuple(filters)
        self._limits = _limits(filters, chunk_bytes)
        self._width = itemsize
        self._lzf: _Lzf | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._lzf is not None:
            self._lzf.close()

    def undo(self, stored: Buffer, mask: int) -> tuple[Buffer, int]:
        """Undo the filters, but for a shuffle that was the first of them.

        Args:
            stored: the chunk as stored.
            mask: bit ``i`` set means that filter ``i`` was skipped.

        Returns:
            The bytes, and how many bytes wide the elements are that are still shuffled in
            them; 1 if none are.

        Raises:
            Corrupt: the bytes are damaged; names no tensor.
            DecodeError: a filter is unknown.
        """
        content = stored
        for index in reversed(range(len(self._filters))):
            if mask >> index & 1:
                continue
            number, _ = self._filters[index]
            if number == SHUFFLE:
                if index == 0:
                    return content, self._width
                content = unshuffle(content, self._width)
            else:
                content = self._undo_one(number, content, self._limits[index])
        return content, 1

    def _undo_one(self, number: int, content: Buffer, limit: int) -> Buffer:
        if number == DEFLATE:
            return inflate(content, limit)
        if number == FLETCHER32:
            return _checked(content)
        if number == LZF:
            if self._lzf is None:
                self._lzf = _Lzf()
            return self._lzf.decode(content, limit)
        raise DecodeError(f"is stored through the unknown HDF5 filter {number}; index it again")


def _check_width(values: Sequence[int], itemsize: int) -> None:
    """Refuse a shuffle of anything but elements, which is all that HDF5 writes."""
    if tuple(values) != (itemsize,):
        raise Corrupt(
            f"its shuffle filter has the parameters {tuple(values)[:4]}; expected {itemsize}, the "
            "bytes of an element. The file is damaged; copy or save it again."
        )


def _limits(filters: Sequence[Filter], chunk_bytes: int) -> tuple[int, ...]:
    """Return the most bytes that may have entered each filter, as those before it allow."""
    limits = []
    most = chunk_bytes
    for number, _ in filters:
        limits.append(most)
        if number == FLETCHER32:
            most += _CHECKSUM.size
        elif number == DEFLATE:  # zlib adds a thousandth to what it cannot compress, others more
            most += most // 8 + 64
    return tuple(limits)


def unshuffle(shuffled: Buffer, width: int) -> memoryview:
    """Gather the bytes of each element, which shuffling put one plane after the other.

    Args:
        shuffled: all first bytes, all second bytes, and so on; then what makes no element.
        width: bytes of an element.
    """
    source = np.frombuffer(shuffled, np.uint8)
    out = np.empty_like(source)
    count = len(source) // width
    whole = count * width
    transpose(source[:whole].reshape(width, count), out[:whole].reshape(count, width))
    out[whole:] = source[whole:]
    return out.data


def transpose(planes: npt.NDArray[np.uint8], places: npt.NDArray[np.uint8]) -> None:
    """Put the bytes of elements where they belong.

    Args:
        planes: all first bytes, all second bytes, and so on.
        places: the bytes of each element, in the last dimension.
    """
    if len(planes) > _PLANES:  # opaque elements: one at a time would take for ever
        places[...] = np.moveaxis(planes, 0, -1)
        return
    # One plane at a time, which is four times faster than a transposition of the whole.
    for byte, plane in enumerate(planes):
        places[..., byte] = plane


def _checked(content: Buffer) -> memoryview:
    """Return what stands before a Fletcher checksum, which is compared."""
    view = memoryview(content)
    end = len(view) - _CHECKSUM.size
    if end < 0:
        raise Corrupt(f"has a chunk of {len(view)} bytes, too few for its checksum")
    (stored,) = _CHECKSUM.unpack(view[end:])
    first, second = _fletcher(view[:end])
    # HDF5 before 1.6.3 wrote the bytes of each sum in the other order; it still reads both.
    for candidate in (stored, _swapped_halves(stored)):
        if candidate % (_MODULUS + 1) % _MODULUS == first and (
            (candidate >> 16) % _MODULUS == second
        ):
            return view[:end]
    raise Corrupt(
        "its bytes do not have the checksum that was stored with them; copy the file again"
    )


def _swapped_halves(checksum: int) -> int:
    return (checksum & 0xFF00FF) << 8 | (checksum >> 8) & 0xFF00FF


def _fletcher(content: memoryview) -> tuple[int, int]:
    """Return both sums of HDF5's Fletcher-32 modulo 65535, over big-endian words of 16 bits."""
    padded = content if len(content) % 2 == 0 else bytes(content) + b"\0"
    words = np.frombuffer(padded, ">u2")
    first = second = 0
    for begin in range(0, len(words), _WORDS):
        block = words[begin : begin + _WORDS].astype(np.uint64)
        weights = np.arange(len(block), 0, -1, dtype=np.uint64)
        second = (second + len(block) * first + int(block @ weights)) % _MODULUS
        first = (first + int(block.sum())) % _MODULUS
    return first, second


class _Lzf:
    """Decodes LZF by h5py, which has the decoder but offers it only to datasets."""

    def __init__(self) -> None:
        import h5py

        self._file: Any = h5py.File("lzf", "w", driver="core", backing_store=False)
        self._datasets: dict[int, Any] = {}

    def decode(self, content: Buffer, limit: int) -> bytes:
        """Return the decoded bytes.

        Raises:
            Corrupt: ``content`` is damaged, or decodes to more than ``limit`` bytes.
        """
        length = _lzf_length(content)
        if not 0 < length <= limit:
            raise Corrupt(f"has a chunk of {length} bytes; expected at most {limit}")
        dataset = self._datasets.get(length)
        if dataset is None:
            dataset = self._file.create_dataset(
                str(length), (length,), np.uint8, chunks=(length,), compression="lzf"
            )
            self._datasets[length] = dataset
        try:
            dataset.id.write_direct_chunk((0,), bytes(content))
            decoded: bytes = dataset[()].tobytes()
        except OSError as error:
            raise Corrupt(f"its compressed bytes are damaged: {error}") from error
        return decoded

    def close(self) -> None:
        """Free the memory."""
        self._file.close()


def _lzf_length(content: Buffer) -> int:
    """Return how many bytes an LZF stream decodes to (liblzf 3.6, lzf_d.c).

    HDF5 does not notice a stream that is too short, and would return what was in memory before.
    """
    length = position = 0
    try:
        while position < len(content):
            control = content[position]
            if control < 32:  # so many literal bytes follow, and one
                length += control + 1
                position += control + 2
            else:  # a length of 3 bits, or of 3 bits and a byte; then the rest of a distance
                count = control >> 5
                if count == 7:
                    position += 1
                    count += content[position]
                length += count + 2
                position += 2
    except IndexError:
        position = -1
    if position != len(content):
        raise Corrupt("its compressed bytes end early")
    return length
