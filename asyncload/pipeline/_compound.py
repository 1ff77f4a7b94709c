"""Tensors that are made of raw stretches, once these are in memory: pure."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from asyncload.manifest import Part, Partitioned, Strings, TensorEntry, numpy_dtype

__all__ = ["Compound", "compound_of", "extra_bytes", "shown_name"]

_OBJECT = 128  # bytes of one short `bytes`, and of the numbers that are kept while it is made


@dataclass(frozen=True, slots=True)
class Compound:
    """A tensor, and the raw stretches that it is made of.

    Attributes:
        entry: the tensor.
        parts: the stretches that have bytes, as raw tensors with names of their own.
        places: the byte offset of each part in the tensor, where each is one stretch of that
            too, so that it can be read to its place; ``None`` where they have to be put together.
    """

    entry: TensorEntry
    parts: tuple[TensorEntry, ...]
    places: tuple[int, ...] | None


def compound_of(entry: TensorEntry) -> Compound | None:
    """Return what a tensor is made of; ``None`` if it is no compound."""
    match entry.encoding:
        case Strings():
            # Its checksum is of other bytes: decoding compares it.
            part = TensorEntry(
                _part_name(entry, 0),
                "uint8",
                (entry.length,),
                entry.file,
                entry.offset,
                entry.length,
            )
            return Compound(entry, (part,), None)
        case Partitioned(parts):
            stored = tuple(part for part in parts if part.length)
            places = tuple(_place(entry, part) for part in stored)
            found = tuple(at for at in places if at is not None)
            named = tuple(_raw(entry, number, part) for number, part in enumerate(stored))
            return Compound(entry, named, found if len(found) == len(places) else None)
    return None


def extra_bytes(compound: Compound) -> int:
    """Return the memory that it needs beside the tensor's own."""
    stored = sum(part.length for part in compound.parts)
    if isinstance(compound.entry.encoding, Strings):
        return 2 * stored + _OBJECT * prod(compound.entry.shape)
    return stored if compound.places is None else 0


def _raw(entry: TensorEntry, number: int, part: Part) -> TensorEntry:
    return TensorEntry(
        _part_name(entry, number),
        entry.dtype,
        part.shape,
        part.file,
        part.offset,
        part.length,
        crc32c=part.crc32c,
    )


def _part_name(entry: TensorEntry, number: int) -> str:
    # No tensor of a format with compounds has a name that begins with a NUL.
    return f"\0{number}\0{entry.name}"


def shown_name(entry: TensorEntry) -> str:
    """Return the name for messages: of a part, its tensor's."""
    return entry.name.split("\0", 2)[2] if entry.name.startswith("\0") else entry.name


def _place(entry: TensorEntry, part: Part) -> int | None:
    """Return the byte offset of a part in its tensor; ``None`` where it is not in one stretch."""
    longer = [axis for axis, size in enumerate(part.shape) if size != 1]
    inner = longer[0] + 1 if longer else len(part.shape)
    if part.shape[inner:] != entry.shape[inner:]:
        return None
    index = 0
    for start, size in zip(part.origin, entry.shape, strict=True):
        index = index * size + start
    return index * numpy_dtype(entry.dtype).itemsize
