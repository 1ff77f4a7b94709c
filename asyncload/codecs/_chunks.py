"""Chunks of an HDF5 dataset: decoded, and put where they belong in the array."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import add
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.errors import Corrupt
from asyncload.manifest import Chunked

from ._elements import Elements
from ._filters import Buffer, Filters, transpose, unshuffle

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
    itemsize = elements.itemsize
    chunk_bytes = math.prod(encoding.chunk) * itemsize
    with Filters(encoding.filters, chunk_bytes, itemsize) as filters:
        for chunk, piece in zip(encoding.chunks, stored, strict=True):
            content, width = filters.undo(piece, chunk.mask)
            if len(content) != chunk_bytes:
                raise Corrupt(
                    f"has a chunk of {len(content)} bytes at {chunk.origin}; expected {chunk_bytes}"
                )
            target = out[tuple(map(slice, chunk.origin, map(add, chunk.origin, encoding.chunk)))]
            if width == itemsize > 1 and not encoding.swap:
                _gather(content, encoding.chunk, target, itemsize)
                continue
            if width > 1:  # and in the other byte order
                content = unshuffle(content, width)
            source = elements.array(content, swap=encoding.swap).reshape(encoding.chunk)
            np.copyto(target, source[_trim(target)])


def _gather(
    shuffled: Buffer, chunk: tuple[int, ...], target: npt.NDArray[Any], itemsize: int
) -> None:
    """Put the bytes of shuffled elements straight where they belong."""
    planes = np.frombuffer(shuffled, np.uint8).reshape(itemsize, *chunk)
    places = target.view(np.uint8).reshape(*target.shape, itemsize)
    if target.shape != chunk:
        planes = planes[:, *_trim(target)]
    transpose(planes, places)


def _trim(target: npt.NDArray[Any]) -> tuple[slice, ...]:
    """Return where a chunk, which is stored whole at the array's edges too, lies within it."""
    return tuple(map(slice, target.shape))
