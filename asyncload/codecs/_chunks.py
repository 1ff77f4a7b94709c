"""Chunks of an HDF5 dataset: decoded, and put where they belong in the array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.errors import Corrupt
from asyncload.manifest import Chunk, Chunked

from ._elements import Elements
from ._filters import Filters, unshuffle

__all__ = ["decode_chunks"]


def decode_chunks(
    encoding: Chunked, stored: Sequence[memoryview], out: npt.NDArray[Any], elements: Elements
) -> None:
    """Decode chunks into the array.

    Args:
        encoding: which chunks, and how they are encoded.
        stored: the bytes of each of them.
        out: the array, of ``elements.carrier``; only what the chunks cover is written.
        elements: what it holds.

    Raises:
        Corrupt: a chunk's bytes are damaged; names no tensor.
    """
    chunk_bytes = math.prod(encoding.chunk) * elements.itemsize
    scratch = np.empty(chunk_bytes, np.uint8)
    with Filters(encoding.filters, chunk_bytes) as filters:
        for chunk, piece in zip(encoding.chunks, stored, strict=True):
            content, width = filters.undo(piece, chunk.mask)
            if len(content) != chunk_bytes:
                raise Corrupt(
                    f"has a chunk of {len(content)} bytes at {chunk.origin}; expected {chunk_bytes}"
                )
            target = out[_region(chunk, encoding.chunk, out.shape)]
            whole = target.shape == encoding.chunk and target.flags.c_contiguous
            if width > 1:
                straight = whole and not encoding.swap
                place = target.reshape(-1).view(np.uint8) if straight else scratch
                content = unshuffle(content, width, place).data
                if straight:
                    continue
            _place(content, encoding, target, elements)


def _region(chunk: Chunk, shape: tuple[int, ...], bounds: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(
        slice(begin, min(begin + size, bound))
        for begin, size, bound in zip(chunk.origin, shape, bounds, strict=True)
    )


def _place(
    content: bytes | memoryview, encoding: Chunked, target: npt.NDArray[Any], elements: Elements
) -> None:
    source = elements.array(content, swap=encoding.swap).reshape(encoding.chunk)
    np.copyto(target, source[tuple(slice(size) for size in target.shape)])
