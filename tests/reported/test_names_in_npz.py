"""Names of arrays in an ``.npz`` are keys, as to `numpy.load`: nothing is written by them."""

from __future__ import annotations

import io
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest

import asyncload
from tests.formats.forge import Forged, forge

pytestmark = pytest.mark.either_loop

KEYS = ["global_step:0", "/params/w", "a//b", "a\\b", "..", "../a", ".", "", "a/", "C:/a", "ä b"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
async def test_any_key_is_a_name(tmp_path: Path, save) -> None:  # type: ignore[no-untyped-def]
    arrays = {key: np.full(3, number) for number, key in enumerate(KEYS)}
    save(tmp_path / "w.npz", **arrays)
    found = await asyncload.load_weights(tmp_path / "w.npz")
    assert list(found) == list(np.load(tmp_path / "w.npz").files) == KEYS
    for key, array in arrays.items():
        assert np.array_equal(found[key], array)
        assert found[key].dtype == array.dtype


def npy(value: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(value))
    return buffer.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
async def test_an_array_needs_no_ending(tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w", method) as archive:
        archive.writestr("a", npy([1.0, 2.0]))
        archive.writestr("folder/", b"")
        archive.writestr("b.bin", npy(np.arange(6).reshape(2, 3)))
        archive.writestr("notes.txt", b"no array")
        archive.writestr("short", b"\x93NUM")
        archive.writestr("nothing", b"")
    manifest = await asyncload.inspect(tmp_path / "w.npz")
    found = await asyncload.load_weights(tmp_path / "w.npz")
    with np.load(tmp_path / "w.npz") as stock:
        assert list(found) == ["a", "b.bin"]
        assert all(np.array_equal(found[name], stock[name]) for name in found)
    assert set(manifest.assets) == {"notes.txt", "short", "nothing"}


async def test_two_members_for_one_array_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.npz", "w") as archive:
        archive.writestr("a.npy", npy(1.0))
        archive.writestr("a", npy(2.0))
    with pytest.raises(asyncload.Unsafe, match="two members for this array"):
        await asyncload.load_weights(tmp_path / "w.npz")


async def test_a_member_that_calls_itself_a_link_is_an_array(tmp_path: Path) -> None:
    link = (stat.S_IFLNK | 0o777) << 16
    member = Forged(name=b"a.npy", content=npy([3.0]), attributes=link)
    (tmp_path / "w.npz").write_bytes(forge([member]))
    found = await asyncload.load_weights(tmp_path / "w.npz")
    assert found["a"] == np.load(tmp_path / "w.npz")["a"] == [3.0]
