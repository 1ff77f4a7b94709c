"""What crosses from the worker that walks an HDF5 file: tuples, as they pickle fastest."""

from __future__ import annotations

from typing import Literal

__all__ = ["RawChunk", "RawEncoding", "RawFilter", "Row"]

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
        tuple[RawChunk, ...],
        bytes,
        bool,
    ]
)
# (name, dtype, shape, offset, length, encoding), as in `manifest.TensorEntry`.
Row = tuple[str, str, tuple[int, ...], int, int, RawEncoding | None]
