"""One tensor's encoded bytes become its array."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asyncload.errors import Corrupt, DecodeError, FormatError
from asyncload.manifest import (
    Chunked,
    Deflate,
    Inline,
    Partitioned,
    Reorder,
    Strings,
    TensorEntry,
)

from ._chunks import decode_chunks
from ._elements import Elements
from ._inflate import inflate_into

__all__ = ["decode", "fill"]


def decode(entry: TensorEntry, stored: Sequence[memoryview], out: memoryview) -> None:
    """Decode one tensor.

    Args:
        entry: what is stored, and how. A `Chunked` one may have some of its chunks only.
        stored: the bytes of each of ``entry.spans()``; they are only read.
        out: ``entry.nbytes`` writable bytes, which become the elements in C order and in this
            machine's byte order. For `Chunked`, what no chunk covers is left as it is; see `fill`.

    Raises:
        Corrupt: the bytes are damaged; names the tensor.
        DecodeError: they are encoded in an unknown way.
    """
    lengths = tuple(len(piece) for piece in stored)
    expected = tuple(length for _, length in entry.spans())
    if lengths != expected or len(out) != entry.nbytes:
        raise DecodeError(
            f"got stretches of {lengths} bytes to decode into {len(out)}; "
            f"expected {expected} and {entry.nbytes}",
            tensor=entry.name,
        )
    try:
        _decode(entry, stored, out)
    except (DecodeError, FormatError) as error:
        error.tensor = entry.name
        raise


def _decode(entry: TensorEntry, stored: Sequence[memoryview], out: memoryview) -> None:
    match entry.encoding:
        case None:
            out[:] = stored[0]
        case Inline():
            fill(entry, out)
        case Reorder() as encoding:
            _reorder(entry, stored[0], out, encoding)
        case Deflate() as encoding:
            _inflate(entry, stored[0], out, encoding)
        case Chunked() as encoding if entry.nbytes:
            elements = Elements.of(entry.dtype)
            array = np.frombuffer(out, elements.carrier).reshape(entry.shape)
            decode_chunks(encoding, stored, array, elements)
        case Strings() | Partitioned():
            raise DecodeError("is no array of one stretch; it has a function of its own")


def fill(entry: TensorEntry, out: memoryview) -> None:
    """Write what a tensor has where nothing is stored: its fill value, or its `Inline` bytes.

    Args:
        entry: an `Inline` or `Chunked` tensor; others are stored whole, and nothing is written.
        out: ``entry.nbytes`` writable bytes.

    Raises:
        Corrupt: the inline bytes are of another length; names the tensor.
    """
    match entry.encoding:
        case Inline(data):
            if len(data) != len(out):
                raise Corrupt(
                    f"has {len(data)} bytes in the index; expected {len(out)}", tensor=entry.name
                )
            out[:] = data
        case Chunked(fill=value) if len(out):
            carrier = Elements.of(entry.dtype).carrier
            one = np.frombuffer(value or bytes(carrier.itemsize), carrier)
            np.frombuffer(out, carrier)[:] = one


def _reorder(
    entry: TensorEntry, stored: memoryview, out: memoryview, encoding: Deflate | Reorder
) -> None:
    elements = Elements.of(entry.dtype)
    source = elements.array(stored, swap=encoding.swap)
    target = np.frombuffer(out, elements.carrier).reshape(entry.shape)
    if encoding.order == "F":
        np.copyto(target, source.reshape(entry.shape[::-1]).T)
    else:
        np.copyto(target, source.reshape(entry.shape))


def _inflate(entry: TensorEntry, stored: memoryview, out: memoryview, encoding: Deflate) -> None:
    if encoding.decoded - encoding.skip != len(out):
        raise Corrupt(
            f"has {encoding.decoded - encoding.skip} bytes for its array; expected {len(out)}"
        )
    as_stored = not encoding.swap and encoding.order == "C"
    place = out if as_stored else memoryview(bytearray(len(out)))
    checksum = inflate_into(stored, place, skip=encoding.skip, decoded=encoding.decoded)
    if encoding.crc32 is not None and checksum != encoding.crc32:
        raise Corrupt(
            f"its bytes have the checksum {checksum:08x}; expected {encoding.crc32:08x}. Copy or "
            "download the file again."
        )
    if not as_stored:
        _reorder(entry, place, out, encoding)
