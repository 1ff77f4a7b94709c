"""Tables as TensorFlow writes them, and tables that are none."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asyncload.errors import Corrupt, FormatError, TooLarge
from asyncload.formats._leveldb import CompressedTable, read_table
from asyncload.formats._ordered_code import slice_key
from tests.formats import checkpoints
from tests.formats.tables import block, table, varint

TMP = settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40
)


def read(content: bytes) -> dict[bytes, bytes]:
    return {key: bytes(value) for key, value in read_table(memoryview(content))}


@TMP
@given(st.sets(NAMES, min_size=1, max_size=60))
def test_keys_of_tables_that_tensorflow_wrote(tmp_path: Path, names: set[str]) -> None:
    prefix = checkpoints.save(tmp_path / "c", dict.fromkeys(names, np.float32(1)))
    found = read((tmp_path / "c.index").read_bytes())
    assert list(found) == sorted([b"", *(name.encode() for name in names)])
    assert set(checkpoints.stock(prefix)) == names


def test_a_table_of_many_blocks(tmp_path: Path) -> None:
    names = {f"layer_{number}/" + "deep/" * 200: np.int8(0) for number in range(1_500)}
    checkpoints.save(tmp_path / "c", names)
    content = (tmp_path / "c.index").read_bytes()
    assert list(read(content)) == sorted([b"", *(name.encode() for name in names)])


@TMP
@given(NAMES, st.integers(0, 54), st.integers(-1, 1), st.lists(st.integers(0, 6), max_size=2))
def test_keys_of_parts_that_tensorflow_wrote(
    tmp_path: Path, name: str, bits: int, near: int, others: list[int]
) -> None:
    starts = [max((1 << bits) + near, 0), *others]
    sizes = " ".join(map(str, [1 << 55, *(7 for _ in others)]))
    spec = ":".join(f"{start},1" for start in starts)
    value = np.ones([1] * len(starts), np.float32)
    checkpoints.save_slices(tmp_path / "c", [(name, f"{sizes} {spec}", value)])
    found = read((tmp_path / "c.index").read_bytes())
    assert slice_key(name.encode(), [(start, 1) for start in starts]) in found


def test_keys_of_whole_dimensions_and_odd_names(tmp_path: Path) -> None:
    for name in ("a\xff", "ÿþ", "x" * 300):
        value = np.ones((2, 3), np.float32)
        checkpoints.save_slices(tmp_path / "c", [(name, "4 3 2,2:-", value)])
        found = read((tmp_path / "c.index").read_bytes())
        assert slice_key(name.encode(), [(2, 2), (0, -1)]) in found
    assert slice_key(b"\0\xff", []) == b"\0\0\xff\xff\0\0\1\0"


GOOD = table(block({b"a": b"1", b"b": b"22"}), block({b"c": b"333"}))


def test_what_was_forged_is_read() -> None:
    assert read(GOOD) == {b"a": b"1", b"b": b"22", b"c": b"333"}


@pytest.mark.parametrize(
    ("content", "kind", "says"),
    [
        (b"", Corrupt, "0 bytes"),
        (GOOD[:-1], Corrupt, "ends with"),
        (table(block({}), magic=1), Corrupt, "0000000000000001"),
        (GOOD.replace(b"333", b"334"), Corrupt, "CRC32C"),
        (table(block({b"a": b""}, kind=1)), CompressedTable, "snappy"),
        (table(block({b"a": b""}, kind=2)), FormatError, "zstd"),
        (table(block({b"b": b""}), block({b"a": b""})), Corrupt, "out of order"),
        (table(block({b"a": b""}), block({b"a": b""})), Corrupt, "out of order"),
        (table(block({b"a": b""}), handles=[(0, 1 << 40)]), Corrupt, "truncated or damaged"),
        (table(block({b"a": b""}), handles=[(0, 12), (0, 12)]), Corrupt, "overlap"),
        (table(block(b"\0\1\5a" + bytes(4))), Corrupt, "goes to byte 9"),
        (table(block(b"\1\1\0a" + bytes(4))), Corrupt, "shares more"),
        (table(block(b"\xff" * 3 + bytes(4))), Corrupt, "varint"),
        (table(block(b"\xff" * 4)), Corrupt, "restart points"),
        (table(block(b"")), Corrupt, "restart points"),
    ],
    ids=range(15),
)
def test_tables_that_are_none(content: bytes, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        read(content)


def test_keys_that_unfold_without_end() -> None:
    long = b"k" * 1_000_000
    body = varint(0) + varint(len(long)) + varint(0) + long
    body += b"".join(varint(len(long)) + b"\4\0" + n.to_bytes(4, "big") for n in range(50_000))
    begin = time.perf_counter()
    with pytest.raises(TooLarge, match="far longer"):
        for _ in read_table(memoryview(table(block(body + bytes(4))))):
            pass
    assert time.perf_counter() - begin < 1


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    content = bytearray(GOOD)
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    try:
        found = read(bytes(content))
    except FormatError:
        return
    assert found == read(GOOD)  # only the padding, and the handle of what nobody reads, may differ
