"""LevelDB tables and bundle messages of any kind, valid or not: every part can be forged."""

from __future__ import annotations

from collections.abc import Mapping

import google_crc32c

MAGIC = 0xDB4775248B80FB57
NAME = "ckpt"


def varint(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def masked(content: bytes) -> int:
    checksum = google_crc32c.value(content)
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def block(items: Mapping[bytes, bytes] | bytes, kind: int = 0) -> bytes:
    """Return a block and its trailer: of keys and values, in full, or of any content."""
    if not isinstance(items, bytes):
        body = b"".join(
            varint(0) + varint(len(key)) + varint(len(value)) + key + value
            for key, value in items.items()
        )
        items = body + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
    content = items + bytes([kind])
    return content + masked(content).to_bytes(4, "little")


def table(
    *blocks: bytes, handles: list[tuple[int, int]] | None = None, magic: int = MAGIC
) -> bytes:
    """Return a table of data blocks; ``handles`` says where they are, if it is not to be true."""
    places = []
    position = 0
    for each in blocks:
        places.append((position, len(each) - 5))
        position += len(each)
    named = {
        number.to_bytes(2, "big"): varint(offset) + varint(size)
        for number, (offset, size) in enumerate(handles or places)
    }
    index = block(named)
    footer = varint(0) + varint(0) + varint(position) + varint(len(index) - 5)
    return b"".join(blocks) + index + footer.ljust(40, b"\0") + magic.to_bytes(8, "little")


def field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if number == 6:  # the one fixed32
        return varint(number << 3 | 5) + value.to_bytes(4, "little")
    return varint(number << 3) + varint(value & (1 << 64) - 1)


def shape(*sizes: int) -> bytes:
    return b"".join(field(2, field(1, size)) for size in sizes)


def entry(
    dtype: int = 1,
    sizes: tuple[int, ...] = (2,),
    offset: int = 0,
    length: int = 8,
    *,
    shard: int = 0,
    content: bytes = b"",
    more: bytes = b"",
) -> bytes:
    """Return a BundleEntryProto; float32 of two elements by default."""
    return (
        field(1, dtype)
        + field(2, shape(*sizes))
        + field(3, shard)
        + field(4, offset)
        + field(5, length)
        + field(6, masked(content or bytes(length if 0 < length < 1000 else 8)))
        + more
    )


HEADER = field(1, 1) + field(3, field(1, 1))


def bundle(
    entries: Mapping[bytes, bytes], *, header: bytes = HEADER, size: int = 64
) -> dict[str, bytes]:
    """Return the files of a checkpoint of one shard, which has ``size`` zeros."""
    index = table(block({b"": header, **dict(sorted(entries.items()))}))
    return {f"{NAME}.index": index, f"{NAME}.data-00000-of-00001": bytes(size)}
