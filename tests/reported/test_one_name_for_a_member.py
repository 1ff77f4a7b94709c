"""A member of an archive has one name: what is checked is what is used."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import h5py
import pytest

import asyncload
from tests.formats.forge import Forged, forge

pytestmark = pytest.mark.either_loop

CONFIG = Forged(name=b"config.json", content=b'{"class_name": "Sequential", "config": {}}')


def unicode_path(name: bytes, other: bytes, *, crc32: int | None = None) -> bytes:
    """Return an extra field by which ``name`` is also called ``other``."""
    checksum = zlib.crc32(name) if crc32 is None else crc32
    return struct.pack("<HHBL", 0x7075, 5 + len(other), 1, checksum) + other


def archive(path: Path, *members: Forged) -> Path:
    with h5py.File(path, "w"):
        pass
    weights = Forged(name=b"model.weights.h5", content=path.read_bytes())
    path.write_bytes(forge([CONFIG, weights, *members]))
    return path


@pytest.mark.parametrize("other", [b"/tmp/elsewhere", b"../../a", b"assets/b", b"assets/\xff"])
@pytest.mark.parametrize("crc32", [None, 0])
async def test_a_second_name_is_refused(tmp_path: Path, other: bytes, crc32: int | None) -> None:
    name = b"assets/a"
    member = Forged(name=name, content=b"1", directory_extra=unicode_path(name, other, crc32=crc32))
    with pytest.raises(asyncload.FormatError, match=r"second name|[Uu]nicode"):
        await asyncload.inspect(archive(tmp_path / "m.keras", member))
    (tmp_path / "w.npz").write_bytes(forge([member]))
    with pytest.raises(asyncload.FormatError, match=r"second name|[Uu]nicode"):
        await asyncload.inspect(tmp_path / "w.npz")


async def test_the_same_name_twice_is_one(tmp_path: Path) -> None:
    name = "assets/ä".encode()
    member = Forged(name=name, content=b"1", flags=0x800, directory_extra=unicode_path(name, name))
    manifest = await asyncload.inspect(archive(tmp_path / "m.keras", member))
    assert list(manifest.assets) == ["ä"]


@pytest.mark.parametrize(
    "names",
    [
        [b"assets/" + b"x" * 300],
        [b"assets/" + b"/".join([b"x" * 200] * 20)],
        [b"assets/" + "ä".encode() * 130],
        [b"assets/" + b"a/" * 500 + b"b"],
        [b"assets/a", b"assets/a/b"],
        [b"assets/a/b/c", b"assets/a-", b"assets/a"],
        [b"assets/a/"],
        [b"assets/../a"],
    ],
)
async def test_names_of_no_file_are_refused_before_anything_is_read(
    tmp_path: Path, names: list[bytes]
) -> None:
    members = [Forged(name=name, content=b"1", flags=0x800) for name in names]
    with pytest.raises(asyncload.Unsafe, match="member 'assets/"):
        await asyncload.inspect(archive(tmp_path / "m.keras", *members))


async def test_names_that_begin_alike_are_accepted(tmp_path: Path) -> None:
    members = [Forged(name=name, content=b"1") for name in (b"assets/a", b"assets/ab/c")]
    manifest = await asyncload.inspect(archive(tmp_path / "m.keras", *members))
    assert list(manifest.assets) == ["a", "ab/c"]
