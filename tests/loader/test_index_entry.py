"""Entries of the index cache are what was kept, or are refused."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.loader import _index_entry
from asyncload.loader._index_entry import Entry, Key, Unusable, decode, encode, is_lasting
from asyncload.manifest import (
    Chunk,
    Chunked,
    Deflate,
    Encoding,
    FileEntry,
    Inline,
    Manifest,
    Reorder,
    TensorEntry,
)

KEY = Key("/models/m.keras#", "1-2-3-4", "keras")
ENCODINGS: list[Encoding | None] = [
    None,
    Inline(b"\0\xff"),
    Reorder("F", swap=True),
    Deflate(skip=128, decoded=1 << 20, crc32=7),
    Chunked((2, 3), ((2, (4,)), (1, (6,))), (Chunk((0, 3), 99, 7, 1), Chunk((2, 0), 5, 6)), b"\1"),
]


def manifest(count: int = 200) -> Manifest:
    tensors = {
        name: TensorEntry(name, "float32", (2, 3), i % 2, 64 * i, 24, ENCODINGS[i % len(ENCODINGS)])
        for i, name in enumerate(f"layers/dense_{i}/vars/0" for i in range(count))
    }
    return Manifest(
        uri="m.keras",
        format="keras",
        files=(FileEntry("", 1 << 20, "1-2-3-4"), FileEntry("shard-1", 9, "5-6-7-8")),
        tensors=tensors,
        documents={"config.json": b'{"\xc3\xa9": [1]}\n' * 50, "metadata.json": b""},
        assets={"words.txt": TensorEntry("words.txt", "uint8", (5,), 0, 3, 5)},
    )


ENTRY = Entry(manifest(), (1_700_000_000_123_456_789, None))


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_it_comes_back_as_it_was(count: int) -> None:
    entry = replace(ENTRY, manifest=manifest(count))
    back = decode(encode(entry, KEY), KEY)
    assert back == entry
    assert list(back.manifest.tensors) == list(entry.manifest.tensors)
    assert list(back.manifest.documents) == list(entry.manifest.documents)


@given(
    st.lists(st.text(), unique=True),
    st.dictionaries(st.text(), st.binary()),
    st.sampled_from(ENCODINGS),
)
def test_any_names_and_documents(
    names: list[str], documents: dict[str, bytes], encoding: Encoding | None
) -> None:
    tensors = {name: TensorEntry(name, "int8", (0,), 0, 0, 0, encoding) for name in names}
    kept = Manifest("m", "keras", (FileEntry("", 1, "v"),), tensors, documents)
    assert decode(encode(Entry(kept, (None,)), KEY), KEY).manifest == kept


@pytest.mark.parametrize("tenth", range(10))
def test_what_was_cut_short_is_refused(tenth: int) -> None:
    data = encode(ENTRY, KEY)
    with pytest.raises(Unusable):
        decode(data[: len(data) * tenth // 10], KEY)


@given(st.data())
def test_one_other_byte_anywhere_is_refused(draw: st.DataObject) -> None:
    data = bytearray(encode(ENTRY, KEY))
    data[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(Unusable):
        decode(bytes(data), KEY)


@given(st.binary(max_size=200))
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(Unusable):
        decode(data, KEY)


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, location="/models/n.keras#"),
        replace(KEY, version="1-2-3-5"),
        replace(KEY, format="keras-weights"),
    ],
)
def test_an_entry_of_another_key_is_refused(other: Key) -> None:
    assert other.digest != KEY.digest
    with pytest.raises(Unusable, match="another file"):
        decode(encode(ENTRY, other), KEY)


def test_an_entry_of_another_schema_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(ENTRY, KEY)
    monkeypatch.setattr(_index_entry, "SCHEMA", _index_entry.SCHEMA + 1)
    _index_entry._form.cache_clear()
    try:
        with pytest.raises(Unusable, match="another release"):
            decode(data, KEY)
    finally:
        _index_entry._form.cache_clear()


def forged(change: Callable[[list[Any]], None]) -> bytes:
    """Return an entry of changed content, with a checksum that fits."""
    data = encode(ENTRY, KEY)
    (length,) = struct.unpack_from("<Q", data, 44)
    lines = [json.loads(line) for line in data[52 : 52 + length].split(b"\n")]
    change(lines)
    text = "\n".join(map(json.dumps, lines)).encode()
    body = struct.pack("<Q", len(text)) + text + data[52 + length :]
    return data[:40] + struct.pack("<I", zlib.crc32(body)) + body


def first_tensor(lines: list[Any], column: int, value: Any) -> None:
    lines[2]["tensors"][0][column] = value


FORGERIES: dict[str, Callable[[list[Any]], None]] = {
    "a file that is not there": lambda lines: first_tensor(lines, 3, 2),
    "a file before the first": lambda lines: first_tensor(lines, 3, -1),
    "a file by name": lambda lines: first_tensor(lines, 3, "0"),
    "an unknown dtype": lambda lines: first_tensor(lines, 1, "nothing"),
    "a list for a dtype": lambda lines: first_tensor(lines, 1, ["float32"]),
    "objects": lambda lines: first_tensor(lines, 1, "object"),
    "an unknown encoding": lambda lines: first_tensor(lines, 6, {"kind": "pickle"}),
    "no shape": lambda lines: first_tensor(lines, 2, None),
    "a short row": lambda lines: lines[2]["tensors"][0].pop(0),
    "no lines": lambda lines: lines.clear(),
    "one line": lambda lines: lines.__delitem__(slice(1, None)),
    "a list for a line": lambda lines: lines.__setitem__(2, []),
    "files of no name": lambda lines: lines[1]["files"].__setitem__(1, ["", 9, "v"]),
    "files of a number": lambda lines: lines[1]["files"].__setitem__(1, [7, 9, "v"]),
    "documents of no length": lambda lines: lines[0].update(documents=[["config.json", None]]),
    "documents of no name": lambda lines: lines[0].update(documents=[[[], 3]]),
    "no times": lambda lines: lines[0].pop("changed"),
}


@pytest.mark.parametrize("what", FORGERIES)
def test_forged_content_is_refused(what: str) -> None:
    with pytest.raises(Unusable):
        decode(forged(FORGERIES[what]), KEY)


def unchanged(lines: list[Any]) -> None:
    pass


def test_the_forger_forges() -> None:
    assert decode(forged(unchanged), KEY) == ENTRY


def test_nesting_is_refused() -> None:
    text = b"[" * 1_000_000
    body = struct.pack("<Q", len(text)) + text
    data = struct.pack("<8s32sI", b"asyncidx", KEY.digest, zlib.crc32(body)) + body
    with pytest.raises(Unusable):
        decode(data, KEY)


def test_what_later_loads_cannot_open_does_not_last() -> None:
    assert is_lasting(ENTRY.manifest)
    inflated = (FileEntry("", 1, "v"), FileEntry("", 2, "w"))
    assert not is_lasting(replace(ENTRY.manifest, files=inflated))
    renamed = {"other": ENTRY.manifest.tensors["layers/dense_0/vars/0"]}
    assert not is_lasting(replace(ENTRY.manifest, tensors=renamed))


def test_no_line_takes_long_to_parse() -> None:
    chunks = tuple(Chunk((i,), 64 * i, 64) for i in range(4000))
    heavy = Chunked((1,), ((1, (6,)),), chunks)
    tensors = {
        name: TensorEntry(name, "int8", (4000,), 0, 0, 256_000, heavy) for name in ("a", "b", "c")
    }
    kept = replace(ENTRY.manifest, tensors={**tensors, **ENTRY.manifest.tensors})
    assert is_lasting(kept)
    data = encode(replace(ENTRY, manifest=kept), KEY)
    assert decode(data, KEY).manifest == kept
    assert max(map(len, data.split(b"\n"))) < 250_000
    heavier = replace(heavy, chunks=chunks + chunks)
    tensors["c"] = replace(tensors["c"], encoding=heavier)
    assert not is_lasting(replace(kept, tensors=tensors))
