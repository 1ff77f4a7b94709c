"""Checkpoints whose index is compressed (snappy), as some builds of TensorFlow write them."""

from __future__ import annotations

from pathlib import Path

import cramjam
import numpy as np
import pytest

import asyncload
from tests.formats import checkpoints
from tests.formats.tables import masked, varint

_FOOTER, _TRAILER = 48, 5  # bytes


def _number(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while content[at] & 0x80:
        value, shift, at = value | (content[at] & 0x7F) << shift, shift + 7, at + 1
    return value | content[at] << shift, at + 1


def _numbers(content: bytes, count: int, at: int = 0) -> list[int]:
    found = []
    for _ in range(count):
        value, at = _number(content, at)
        found.append(value)
    return found


def _keyed_blocks(index: bytes) -> list[tuple[bytes, bytes]]:
    """Return (last key, content) of every block that the index of a table lists."""
    _, _, offset, size = _numbers(index, 4, len(index) - _FOOTER)
    listing = index[offset : offset + size]
    (restarts,) = np.frombuffer(listing[-4:], "<u4")
    end, at, found = len(listing) - 4 - 4 * int(restarts), 0, []
    while at < end:
        shared, at = _number(listing, at)
        length, at = _number(listing, at)
        held, at = _number(listing, at)
        assert shared == 0
        key, handle = listing[at : at + length], listing[at + length : at + length + held]
        at += length + held
        offset, size = _numbers(handle, 2)
        found.append((key, index[offset : offset + size]))
    return found


def _compressed(content: bytes) -> bytes:
    stored = bytes(cramjam.snappy.compress_raw(content)) + b"\1"
    return stored + masked(stored).to_bytes(4, "little")


def compress(path: Path) -> None:
    """Compress every block of an index that TensorFlow wrote."""
    table, listing, restarts = b"", b"", b""
    blocks = _keyed_blocks(path.read_bytes())
    for key, content in blocks:
        stored = _compressed(content)
        handle = varint(len(table)) + varint(len(stored) - _TRAILER)
        restarts += len(listing).to_bytes(4, "little")
        listing += varint(0) + varint(len(key)) + varint(len(handle)) + key + handle
        table += stored
    places = []
    for content in (bytes(4) + b"\1\0\0\0", listing + restarts + len(blocks).to_bytes(4, "little")):
        stored = _compressed(content)
        places += [len(table), len(stored) - _TRAILER]
        table += stored
    footer = b"".join(map(varint, places)).ljust(40, b"\0") + checkpoints.MAGIC
    path.write_bytes(table + footer)


@pytest.mark.parametrize("count", [2, 3000])
async def test_a_compressed_index(count: int, tmp_path: Path) -> None:
    named = {f"a/{number}/kernel": np.full(3, number, "float32") for number in range(count)}
    prefix = checkpoints.save(tmp_path / "c", named)
    before = (await asyncload.inspect(prefix)).tensors
    compress(tmp_path / "c.index")
    assert len(checkpoints.stock(prefix)) == count  # stock reads it, too
    assert (await asyncload.inspect(prefix)).tensors == before
    weights = await asyncload.load_weights(prefix)
    assert all(np.array_equal(weights[name], value) for name, value in named.items())


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (varint(1 << 40), asyncload.Corrupt, "declares 1,099,511,627,776 bytes|damaged"),
        (varint(0xFFFFFFFF), asyncload.Corrupt, "declares 4,294,967,295 bytes"),
        (varint(300 << 20) + bytes(15 << 20), asyncload.TooLarge, "limit is 268,435,456"),
        (varint(30) + b"\x0c", asyncload.Corrupt, "declares 30|damaged"),
        (varint(8) + b"\x00aaa", asyncload.Corrupt, "damaged"),
        (b"", asyncload.Corrupt, "damaged"),
    ],
)
async def test_blocks_that_expand_to_what_they_are_not(
    content: bytes, kind: type[Exception], says: str, tmp_path: Path
) -> None:
    stored = content + b"\1"
    stored += masked(stored).to_bytes(4, "little")
    footer = b"".join(map(varint, [0, 0, 0, len(content)])).ljust(40, b"\0") + checkpoints.MAGIC
    (tmp_path / "c.index").write_bytes(stored + footer)
    with pytest.raises(kind, match=says):
        await asyncload.load_weights(tmp_path / "c")
