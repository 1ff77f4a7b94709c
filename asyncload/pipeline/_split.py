"""Splits a large encoded tensor into pieces that workers decode side by side: pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

from asyncload.manifest import Chunk, Chunked, Reorder, TensorEntry
from asyncload.memory import REUSED_UP_TO

__all__ = ["Piece", "split"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor, or a part of one that can be decoded by itself.

    Attributes:
        entry: the tensor, or a tensor of the same name that has some of its rows; at home, the
            whole tensor with some of its chunks.
        at: byte offset of its first element in the whole tensor.
        stored: bytes in the file.
        decoded: bytes of the decoded piece; at home, of the whole tensor.
        home: whether the slab that it is decoded into is to be the tensor's home.
        covered: whether decoding writes every byte; if not, the fill value has to come first.
    """

    entry: TensorEntry
    at: int
    stored: int
    decoded: int
    home: bool = False
    covered: bool = True


def split(entry: TensorEntry, pack: int) -> tuple[Piece, ...]:
    """Return the pieces of a tensor, at least one.

    What does not split into rows of at most `REUSED_UP_TO` bytes has a home of its own.

    Args:
        entry: an encoded tensor, not empty, with stored bytes.
        pack: bytes that a piece is to have, as far as the encoding allows.
    """
    nbytes = entry.nbytes
    if max(nbytes, entry.length) <= pack:
        return (_whole(entry, nbytes),)
    match entry.encoding:
        case Chunked() as encoding:
            rows = _rows(entry, pack, encoding.chunk[0])
            if rows * _row_bytes(entry) <= REUSED_UP_TO:
                return tuple(_chunk_bands(entry, encoding, rows))
            return tuple(_chunk_batches(entry, encoding, pack))
        case Reorder(order="C"):
            rows = _rows(entry, pack, 1)
            if rows * _row_bytes(entry) <= REUSED_UP_TO:
                return tuple(_bands(entry, rows))
    return (_whole(entry, nbytes),)


def _whole(entry: TensorEntry, nbytes: int) -> Piece:
    home = nbytes > REUSED_UP_TO
    return Piece(entry, 0, entry.length, nbytes, home, _covered(entry))


def _covered(entry: TensorEntry) -> bool:
    encoding = entry.encoding
    if not isinstance(encoding, Chunked):
        return True
    whole = prod(
        ceil(size / chunk) for size, chunk in zip(entry.shape, encoding.chunk, strict=True)
    )
    return len(encoding.chunks) == whole


def _row_bytes(entry: TensorEntry) -> int:
    return entry.nbytes // entry.shape[0] if entry.shape else entry.nbytes


def _rows(entry: TensorEntry, pack: int, multiple: int) -> int:
    """Return how many rows a piece is to have: about ``pack`` bytes, a multiple of ``multiple``."""
    return max(pack // _row_bytes(entry) // multiple, 1) * multiple


def _bands(entry: TensorEntry, rows: int) -> Iterator[Piece]:
    row = _row_bytes(entry)
    count = entry.shape[0] if entry.shape else 1
    for first in range(0, count, rows):
        nbytes = min(rows, count - first) * row
        shape = (min(rows, count - first), *entry.shape[1:]) if entry.shape else ()
        band = replace(entry, shape=shape, offset=entry.offset + first * row, length=nbytes)
        yield Piece(band, first * row, nbytes, nbytes)


def _chunk_bands(entry: TensorEntry, encoding: Chunked, rows: int) -> Iterator[Piece]:
    row = _row_bytes(entry)
    bands: defaultdict[int, list[Chunk]] = defaultdict(list)
    for chunk in encoding.chunks:
        bands[chunk.origin[0] // rows].append(chunk)
    for index in range(ceil(entry.shape[0] / rows)):
        first = index * rows
        moved = [
            replace(chunk, origin=(chunk.origin[0] - first, *chunk.origin[1:]))
            for chunk in bands[index]
        ]
        shape = (min(rows, entry.shape[0] - first), *entry.shape[1:])
        band = _with_chunks(replace(entry, shape=shape), encoding, moved)
        yield Piece(band, first * row, band.length, band.nbytes, covered=_covered(band))


def _chunk_batches(entry: TensorEntry, encoding: Chunked, pack: int) -> Iterator[Piece]:
    covered = _covered(entry)
    batch: list[Chunk] = []
    stored = 0
    for chunk in sorted(encoding.chunks, key=lambda chunk: chunk.offset):
        if batch and stored + chunk.length > pack:
            part = _with_chunks(entry, encoding, batch)
            yield Piece(part, 0, stored, entry.nbytes, home=True, covered=covered)
            batch, stored = [], 0
        batch.append(chunk)
        stored += chunk.length
    part = _with_chunks(entry, encoding, batch)
    yield Piece(part, 0, stored, entry.nbytes, home=True, covered=covered)


def _with_chunks(entry: TensorEntry, encoding: Chunked, chunks: Sequence[Chunk]) -> TensorEntry:
    return replace(
        entry,
        offset=min((chunk.offset for chunk in chunks), default=entry.offset),
        length=sum(chunk.length for chunk in chunks),
        encoding=replace(encoding, chunks=tuple(chunks)),
    )
