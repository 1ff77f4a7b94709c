"""What a worker does: encoded bytes in one slab become tensors in another."""

from __future__ import annotations

from asyncload import codecs
from asyncload.manifest import TensorEntry
from asyncload.memory import SlabHandle, attach

__all__ = ["Order", "decode_pieces"]

# A tensor or a part of one; its stored stretches as (offset in the input slab, length); its offset
# in the output slab; whether the fill value has to come first.
Order = tuple[TensorEntry, tuple[tuple[int, int], ...], int, bool]


def decode_pieces(source: SlabHandle, target: SlabHandle, orders: tuple[Order, ...]) -> None:
    """Decode tensors from one slab into another.

    Raises:
        DecodeError, Corrupt: the stored bytes are damaged; names the tensor.
    """
    with attach(source) as encoded, attach(target) as decoded:
        for entry, spans, at, fill in orders:
            out = decoded[at : at + entry.nbytes]
            if fill:
                codecs.fill(entry, out)
            stored = [encoded[offset : offset + length] for offset, length in spans]
            codecs.decode(entry, stored, out)
