"""Partitioned variables: their parts, put where they belong."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asyncload.errors import DecodeError
from asyncload.manifest import Partitioned, TensorEntry

from ._elements import Elements

__all__ = ["put_together"]


def put_together(entry: TensorEntry, stored: Sequence[memoryview], out: memoryview) -> None:
    """Copy the parts of a `Partitioned` tensor into it; lets other threads run meanwhile.

    Args:
        entry: what is stored.
        stored: the bytes of each part that has any, in their order.
        out: ``entry.nbytes`` writable bytes.
    """
    if not isinstance(entry.encoding, Partitioned):
        raise DecodeError("is not stored in parts", tensor=entry.name)
    carrier = Elements.of(entry.dtype).carrier
    whole = np.frombuffer(out, carrier).reshape(entry.shape)
    parts = [part for part in entry.encoding.parts if part.length]
    for part, content in zip(parts, stored, strict=True):
        place = tuple(
            slice(start, start + size) for start, size in zip(part.origin, part.shape, strict=True)
        )
        whole[place] = np.frombuffer(content, carrier).reshape(part.shape)
