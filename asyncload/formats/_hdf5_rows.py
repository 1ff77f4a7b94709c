"""What crosses from the worker that walks an HDF5 file: tuples, as they pickle fastest."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np

__all__ = [
    "RawChunk",
    "RawEncoding",
    "RawFilter",
    "Row",
    "chunks_of",
    "pack",
    "pack_chunks",
    "unpack",
]

# Unpickling holds the GIL: so many rows at a time take a millisecond.
_PIECE = 1000
_CHUNKS = 4096  # so for chunks

# (HDF5 filter id, client data)
RawFilter = tuple[int, tuple[int, ...]]
# (origin, offset, length, mask), as in `manifest.Chunk`; the offset is that in the HDF5 file.
RawChunk = tuple[tuple[int, ...], int, int, int]
RawEncoding = (
    tuple[Literal["inline"], bytes]
    | tuple[Literal["reorder"], bool]
    | tuple[
        Literal["chunked"],
        tuple[int, ...],
        tuple[RawFilter, ...],
        bytes,  # the chunks, by `pack_chunks`
        bytes,
        bool,
    ]
)
# (name, dtype, shape, offset, length, encoding), as in `manifest.TensorEntry`.
Row = tuple[str, str, tuple[int, ...], int, int, RawEncoding | None]


def pack(rows: Sequence[Row]) -> list[bytes]:
    """Return rows in pieces, each of which is soon unpacked."""
    return [
        pickle.dumps(rows[first : first + _PIECE], pickle.HIGHEST_PROTOCOL)
        for first in range(0, len(rows), _PIECE)
    ]


def unpack(pieces: Sequence[bytes]) -> Iterator[Row]:
    """Yield the rows that `pack` was given."""
    for piece in pieces:
        yield from pickle.loads(piece)  # noqa: S301  a worker made it


def pack_chunks(chunks: Sequence[RawChunk]) -> bytes:
    """Return chunks as a table: one row for each, of origin, offset, length and mask."""
    table = [(*origin, offset, length, mask) for origin, offset, length, mask in chunks]
    return np.array(table, np.int64).tobytes()


def chunks_of(packed: bytes, dimensions: int) -> Iterator[RawChunk]:
    """Yield the chunks that `pack_chunks` was given, of an array of so many dimensions."""
    table: Any = np.frombuffer(packed, np.int64).reshape(-1, dimensions + 3)
    for first in range(0, len(table), _CHUNKS):
        for row in table[first : first + _CHUNKS].tolist():
            yield tuple(row[:-3]), row[-3], row[-2], row[-1]
