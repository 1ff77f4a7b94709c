"""A file that is something else than its name says is told by what it begins with."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import tarfile
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from safetensors.numpy import save, save_file

import asyncload
from asyncload.sources import forget_memory, put_memory
from tests.formats import tables

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
ANNEX = b"/annex/objects/SHA256E-s31390--f50d7ac4c6b9031379986bc362fcefb65f1e52621ce1708d537.h5\n"
HTML = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head><body></body></html>"
XML = b"<?xml version='1.0'?>\n<Error><Code>AccessDenied</Code></Error>"
NAMES = ("m.keras", "m.h5", "m.weights.h5", "m.safetensors", "m.npz", "m.npy", "m.index")


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread", index_cache=False) as made:
        yield made


def packed() -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as archive:
        member = tarfile.TarInfo("model.keras")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return target.getvalue()


def hdf5() -> bytes:
    target = io.BytesIO()
    with h5py.File(target, "w") as file:
        file["a"] = np.zeros(3)
    return target.getvalue()


def zipped(name: str = "a/config.json") -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(name, b"{}")
    return target.getvalue()


def npy() -> bytes:
    target = io.BytesIO()
    np.save(target, np.zeros(3))
    return target.getvalue()


async def said_of(loader: asyncload.Loader, path: str | os.PathLike[str]) -> asyncload.FormatError:
    with pytest.raises(asyncload.FormatError) as caught:
        await loader.load_weights(path)
    return caught.value


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (LFS, "Git LFS"),
        (ANNEX, "git annex get"),
        (HTML, "an HTML page"),
        (XML, "an XML document"),
        (b"404: Not Found", "b'404: Not Found'"),
    ],
    ids=["lfs", "annex", "html", "xml", "text"],
)
async def test_what_servers_and_git_put_in_the_place_of_a_file(
    loader: asyncload.Loader, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    error = await said_of(loader, tmp_path / name)
    assert words in error.message
    assert str(tmp_path / name) in str(error)
    assert error.__cause__ is None


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.keras", hdf5(), ["an HDF5 file", ".h5"]),
        ("m.npz", hdf5(), ["an HDF5 file"]),
        ("m.h5", zipped(), ["a ZIP archive", ".keras"]),
        ("m.weights.h5", zipped(), ["a ZIP archive"]),
        ("m.safetensors", zipped(), ["a ZIP archive"]),
        ("m.safetensors", zipped("m/data.pkl"), ["torch.save", "safetensors"]),
        ("m.keras", zipped("m/data.pkl"), ["torch.save"]),
        ("m.pt", zipped("m/data.pkl"), ["torch.save"]),
        ("m.pkl", pickle.dumps({"a": 1}), ["a pickle", "It is code"]),
        ("m.bin", pickle.dumps({"a": 1}, protocol=2), ["a pickle"]),
        ("m.keras", gzip.compress(b"abc", mtime=0), ["gzip", "Decompress"]),
        ("m.tar.gz", gzip.compress(packed(), mtime=0), ["gzip", "Decompress"]),
        ("m.h5", bz2.compress(b"abc"), ["bzip2"]),
        ("m.npy", lzma.compress(b"abc"), ["xz"]),
        ("m.keras", packed(), ["a tar archive", "Unpack"]),
        ("m.tar", packed(), ["a tar archive"]),
        ("m.h5", npy(), ["a NumPy array", ".npy"]),
        ("m.keras", save({"a": np.zeros(3)}), ["a safetensors file", ".safetensors"]),
        ("m.safetensors", json.dumps({"weight_map": {}}).encode(), [".safetensors.index.json"]),
        ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(64), ["TensorFlow Lite"]),
        ("m.gguf", b"GGUF" + bytes(64), ["GGUF"]),
        ("m.safetensors", bytes(4096), ["zeros", "get it again"]),
        ("m.safetensors.index.json", LFS, ["Git LFS"]),
        ("m.weights.json", HTML, ["an HTML page"]),
        ("saved_model.pb", LFS, ["Git LFS"]),
    ],
)
async def test_another_kind_of_file(
    loader: asyncload.Loader, tmp_path: Path, name: str, content: bytes, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    error = await said_of(loader, tmp_path / name)
    assert all(word in error.message for word in words), error


async def test_a_shard_is_named(loader: asyncload.Loader, tmp_path: Path) -> None:
    save_file({"a": np.zeros(3)}, tmp_path / "1.safetensors")
    (tmp_path / "2.safetensors").write_bytes(LFS)
    (tmp_path / "m.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})
    )
    error = await said_of(loader, tmp_path / "m.safetensors.index.json")
    assert error.uri == str(tmp_path / "2.safetensors")
    assert "Git LFS" in error.message


async def test_a_shard_of_a_checkpoint_is_named(loader: asyncload.Loader, tmp_path: Path) -> None:
    files = tables.bundle({b"a": tables.entry(sizes=(1000,), length=4000)}, size=4000)
    for name, content in files.items():
        (tmp_path / name).write_bytes(LFS if ".data-" in name else content)
    error = await said_of(loader, tmp_path / tables.NAME)
    assert str(error.uri).endswith(".data-00000-of-00001")
    assert "Git LFS" in error.message


@pytest.mark.parametrize("ending", [".data-00000-of-00001", ".meta"])
async def test_one_file_of_a_checkpoint(
    loader: asyncload.Loader, tmp_path: Path, ending: str
) -> None:
    (tmp_path / f"ck{ending}").write_bytes(b"\x0a\x05\x01\x02\x03")
    error = await said_of(loader, tmp_path / f"ck{ending}")
    assert "what the names of all of them begin with: 'ck'" in error.message


async def test_what_is_damaged_but_of_its_kind_is_said_to_be_damaged(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    for name, content in (("m.h5", hdf5()), ("m.npz", zipped()), ("m.npy", npy())):
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        error = await said_of(loader, tmp_path / name)
        assert "begins with" not in error.message


async def test_in_memory_and_through_every_function(loader: asyncload.Loader) -> None:
    uri = put_memory("pointer", {"m.keras": LFS})
    try:
        for call in (loader.load, loader.inspect, loader.load_weights):
            with pytest.raises(asyncload.UnknownFormat, match="Git LFS"):
                await call(f"{uri}/m.keras")
        with pytest.raises(asyncload.UnknownFormat, match="Git LFS"):
            async for _ in loader.stream(f"{uri}/m.keras"):
                pass
    finally:
        forget_memory("pointer")


async def test_a_path_of_bytes_works(loader: asyncload.Loader, tmp_path: Path) -> None:
    # Not UTF-8: such a name has no other path than one of bytes, or one that Python escapes.
    path: Any = os.fsencode(tmp_path) + b"/caf\xe9.npy"
    await asyncio.to_thread(lambda: Path(os.fsdecode(path)).write_bytes(npy()))
    assert list(await loader.load_weights(path)) == [os.fsdecode(b"caf\xe9")]
    assert (await loader.inspect(path)).format == "npy"
    assert [entry.name for entry in await loader.ls(path)] == [os.fsdecode(b"caf\xe9.npy")]
    async with asyncload.ModelSlot(path, loader=loader) as slot, slot.lease() as weights:
        assert len(weights) == 1
    nothing: Any = 3
    with pytest.raises(TypeError, match="int"):
        await loader.load(nothing)
