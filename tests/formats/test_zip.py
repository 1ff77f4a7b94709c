"""ZIP directories: what zipfile finds is found, and nothing unsafe or contradictory is."""

from __future__ import annotations

import asyncio
import io
import random
import stat
import time
import zipfile
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncload.errors import AsyncloadError, Corrupt, FormatError, TooLarge, Unsafe
from asyncload.formats import _zip
from asyncload.interfaces import Bounds, Indexing, OpenFiles, Reader
from tests.formats.forge import Forged, forge
from tests.formats.memory import BytesReader, BytesSource, InlineWorkers, index, load


async def _refuse_to_unpack(*where: Any) -> Reader:
    raise AssertionError("nothing is to be unpacked here")


async def read_members(
    content: bytes, base: int = 0, length: int | None = None, bounds: Bounds | None = None
) -> dict[str, bytes]:
    """Open an archive, and read every member whole."""
    reader = BytesReader("memory://x.zip", "", content)
    source = BytesSource({"x.zip": content})
    indexing = Indexing(source, OpenFiles([reader]), InlineWorkers(), _refuse_to_unpack)
    indexing.bounds = bounds or indexing.bounds
    archive = await _zip.open_archive(indexing, reader, base, length)
    found = {}
    held = await archive.read(map(_zip.whole, archive.members.values()))
    for name, member in archive.members.items():
        begin = _zip.data_offset(held.view(*_zip.head(member)), member, reader.uri)
        _zip.check_method(member, reader.uri)
        found[name] = _zip.content(held.view(begin, member.stored), member, reader.uri)
    return found


def opened(content: bytes, bounds: Bounds | None = None) -> dict[str, bytes]:
    return asyncio.run(read_members(content, bounds=bounds))


NAMES = st.lists(st.text("abcöé-. ", min_size=3), min_size=1, max_size=3).map("/".join)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(NAMES, st.binary(max_size=300), max_size=8),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    st.binary(max_size=40),
    st.booleans(),
)
def test_random_archives_equal_zipfile(
    members: dict[str, bytes], method: int, comment: bytes, streamed: bool
) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(_Unseekable(buffer) if streamed else buffer, "w", method) as archive:
        archive.comment = comment.replace(b"PK", b"--")
        for name, content in members.items():
            archive.writestr(name, content)
    if all(_can_be_written(name, members) for name in members):
        assert opened(buffer.getvalue()) == members
    else:
        with pytest.raises(Unsafe):
            opened(buffer.getvalue())


def _can_be_written(name: str, beside: Collection[str]) -> bool:
    parts = name.split("/")
    folders = {"/".join(parts[:count]) for count in range(1, len(parts))}
    fits = all(len(part.encode()) <= 255 for part in parts)
    return fits and not {".", ".."} & set(parts) and not folders & set(beside)


class _Unseekable(io.RawIOBase):
    """Makes zipfile write sizes behind the data, as it does into a pipe."""

    def __init__(self, into: io.BytesIO) -> None:
        self._into = into

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._into.write(data)  # type: ignore[arg-type]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_raises_errors_of_ours(data: st.DataObject) -> None:
    content = bytearray(SAMPLE)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(AsyncloadError):
        opened(bytes(content))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=100))
def test_random_bytes_raise_errors_of_ours(content: bytes) -> None:
    for damaged in (content, SAMPLE[:-40] + content, content + SAMPLE[-70:]):
        with suppress(AsyncloadError):
            opened(damaged)


SAMPLE = forge(
    [
        Forged(name=b"a/b", content=b"hello" * 9),
        Forged(name=b"c", content=b"hello" * 9, method=8),
        Forged(name="ö".encode(), content=b"x", flags=0x800),
    ]
)


def test_members_are_read_where_they_lie_within_a_file() -> None:
    content = b"before" + SAMPLE + b"behind"
    found = asyncio.run(read_members(content, 6, len(SAMPLE)))
    assert found == {"a/b": b"hello" * 9, "c": b"hello" * 9, "ö": b"x"}


def test_a_large_zip64_archive_is_read_by_its_ends(tmp_path: object) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        with archive.open("first", "w", force_zip64=True) as member:
            member.write(b"1")
        archive.writestr("large", random.Random(0).randbytes(1 << 20))
        for number in range(70_000 // 20):
            archive.writestr(f"small/{number}", b"")
        archive.comment = b"-" * 65_000
    found = opened(buffer.getvalue())
    assert found["first"] == b"1"
    assert len(found["large"]) == 1 << 20
    assert len(found) == 3502


def test_folders_and_padding_are_passed_over() -> None:
    archive = forge(
        [
            Forged(name=b"a/", attributes=stat.S_IFDIR << 16),
            Forged(name=b"a/b", content=b"1", extra=b"\xff\xff\x40\x00" + bytes(64)),
        ],
        between=bytes(100),
    )
    assert opened(archive) == {"a/b": b"1"}


OUTSIDE = [b"/a", b"../a", b"a/../../b", b"a\\b", b"C:/a", b"a//b", b"./a", b"a\0b", b"a/..", b""]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_leave_the_folder_are_unsafe(name: bytes) -> None:
    with pytest.raises(Unsafe, match="not a plain relative path"):
        opened(forge([Forged(name=name, content=b"1")]))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_are_unsafe(kind: int) -> None:
    with pytest.raises(Unsafe, match="link or a device"):
        opened(forge([Forged(name=b"a", content=b"/etc/passwd", attributes=(kind | 0o777) << 16)]))


@pytest.mark.parametrize("flags", [0x1, 0x41, 0x2000])
def test_encrypted_members_are_unsafe(flags: int) -> None:
    with pytest.raises(Unsafe, match="'a' is encrypted"):
        opened(forge([Forged(name=b"a", content=b"1", flags=flags)]))


def test_encryption_in_the_local_header_alone_is_corrupt() -> None:
    with pytest.raises(Corrupt, match="encryption"):
        opened(forge([Forged(name=b"a", content=b"1", local_flags=1)]))


def test_two_members_of_one_name_are_unsafe() -> None:
    with pytest.raises(Unsafe, match="two members named 'a'"):
        opened(forge([Forged(name=b"a", content=b"1"), Forged(name=b"a", content=b"2")]))


def test_members_that_overlap_are_unsafe() -> None:
    twice = [Forged(name=b"a", content=b"1" * 90), Forged(name=b"b", header=0, content=b"1" * 90)]
    with pytest.raises(Unsafe, match="overlaps"):
        opened(forge(twice))


def test_a_member_within_another_is_unsafe() -> None:
    inner = forge([Forged(name=b"b", content=b"1" * 9)])
    outer = [Forged(name=b"a", content=inner), Forged(name=b"b", header=31, content=b"1" * 9)]
    with pytest.raises(Unsafe, match="overlaps"):
        opened(forge(outer))


def test_data_pushed_into_the_next_member_is_unsafe() -> None:
    # The directory knows nothing of the local header's extra field, which moves the data.
    pushed = Forged(name=b"a", content=b"1", stored=60, decoded=60, extra=bytes(60))
    with pytest.raises(Unsafe, match="overlap"):
        opened(forge([pushed, Forged(name=b"b", content=b"2")]))


def test_a_directory_outside_the_file_is_corrupt() -> None:
    content = bytearray(SAMPLE)
    content[-10:-6] = (1 << 30).to_bytes(4, "little")  # its length
    with pytest.raises(Corrupt, match="no whole ZIP archive"):
        opened(bytes(content))
    content = bytearray(SAMPLE)
    content[-6:-2] = (1 << 30).to_bytes(4, "little")  # its offset
    with pytest.raises(Corrupt):
        opened(bytes(content))


def test_a_member_beyond_the_file_is_refused() -> None:
    with pytest.raises(FormatError, match="overlaps"):
        opened(forge([Forged(name=b"a", content=b"1", header=1 << 30)]))
    with pytest.raises(FormatError, match="overlaps"):
        opened(forge([Forged(name=b"a", content=b"1", stored=1 << 30, decoded=1 << 30)]))


def test_a_directory_that_is_too_long_is_refused_at_once() -> None:
    names = [b"%0600d" % number for number in range(8000)]
    archive = forge([Forged(name=name) for name in names])
    begun = time.perf_counter()
    with pytest.raises(TooLarge, match=r"directory takes.*Loader\(max_tensors"):
        opened(archive, Bounds(tensors=10))
    assert time.perf_counter() - begun < 1


def test_a_bomb_is_refused_by_what_it_declares() -> None:
    with pytest.raises(TooLarge, match="decompression bomb"):
        opened(forge([Forged(name=b"a", content=b"1", method=8, decoded=1 << 30)]))


def test_stored_members_do_not_pay_for_a_bomb() -> None:
    stored = Forged(name=b"s", content=bytes(12 << 20))
    bomb = Forged(name=b"a", content=b"1", method=8, decoded=1 << 30)
    with pytest.raises(TooLarge, match="decompression bomb"):
        opened(forge([stored, bomb]))


def test_many_small_bombs_are_refused_together() -> None:
    bombs = [Forged(name=b"%d" % i, content=b"1", method=8, decoded=1 << 20) for i in range(80)]
    with pytest.raises(TooLarge, match="decompression bomb"):
        opened(forge(bombs))


def test_a_stream_that_holds_more_than_declared_is_cut_and_corrupt() -> None:
    with pytest.raises(Corrupt, match="not the 10 bytes"):
        opened(forge([Forged(name=b"a", content=bytes(50 << 20), method=8, decoded=10)]))


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (Forged(name=b"a", content=b"1", signature=b"PK\x03\x05"), "begins with"),
        (Forged(name=b"a", content=b"1", local_name=b"b"), "another name"),
        (Forged(name=b"a", content=b"1", local_name=b"aa"), "another name"),
        (Forged(name=b"a", content=b"1", local_method=8), "another method"),
        (Forged(name=b"a", content=b"1", local_stored=2), "another size"),
        (Forged(name=b"a", content=b"1", local_crc32=2), "another size or checksum"),
        (Forged(name=b"a", content=b"1", crc32=2), "checksum that the directory states"),
        (Forged(name=b"a", content=b"1" * 9, crc32=2, method=8), "checksum that the directory"),
        (Forged(name=b"a", content=b"1", decoded=2), "stored as it is, in 1 bytes"),
        (Forged(name=b"a", content=b"1", stored=0, method=8), "not the 1 bytes"),
    ],
)
def test_contradictions_are_corrupt(member: Forged, says: str) -> None:
    with pytest.raises(Corrupt, match=f"'a'.*{says}"):
        opened(forge([member]))


def test_a_damaged_stream_is_corrupt() -> None:
    content = bytearray(forge([Forged(name=b"a", content=b"1" * 99, method=8)]))
    content[31:34] = b"\xff\xff\xff"
    with pytest.raises(Corrupt, match="cannot be inflated"):
        opened(bytes(content))


def test_another_method_is_named() -> None:
    with pytest.raises(FormatError, match="method 12"):
        opened(forge([Forged(name=b"a", content=b"1", method=12)]))


def test_an_archive_behind_other_bytes_is_found_as_zipfile_finds_it() -> None:
    assert opened(b"#!/bin/sh\n" + SAMPLE)["a/b"] == b"hello" * 9


def test_an_empty_archive_holds_nothing() -> None:
    assert opened(forge([])) == {}
    assert load({"w.npz": forge([])}) == {}
    with pytest.raises(Corrupt, match="holds nothing"):
        index({"m.keras": forge([])})
