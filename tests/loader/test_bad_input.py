"""Bad input through the whole house: a typed error, soon, that names the file and the remedy."""

from __future__ import annotations

import asyncio
import io
import json
import os
import time
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload import (
    AsyncloadError,
    Corrupt,
    FormatError,
    MismatchError,
    NotFound,
    SourceChanged,
    SourceError,
    TooLarge,
    TransferFailed,
    UnknownFormat,
    Unsafe,
)
from tests.zoo import save

SOON = 1.0  # seconds


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(processes=1) as made:
        # So that the time until an error is not that of starting a process.
        await made._resources.workers.run(os.getpid)
        yield made


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save("functional", tmp_path_factory.mktemp("good"))


async def fails(
    loader: asyncload.Loader,
    path: Path,
    *kinds: type[Exception],
    says: str | None = None,
    **options: Any,
) -> AsyncloadError:
    begin = time.perf_counter()
    with pytest.raises(kinds or AsyncloadError, match=says) as caught:
        await loader.load(path, **options)
    assert time.perf_counter() - begin < SOON
    error = caught.value
    assert isinstance(error, AsyncloadError)
    assert os.path.basename(path) in str(error)
    assert loader._resources.budget.held == 0
    return error


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write(path: Path, content: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


async def test_missing(loader: asyncload.Loader, tmp_path: Path) -> None:
    error = await fails(loader, tmp_path / "absent.keras", NotFound)
    assert isinstance(error, FileNotFoundError)


async def test_a_folder(loader: asyncload.Loader, tmp_path: Path) -> None:
    (tmp_path / "model.keras").mkdir()
    await fails(loader, tmp_path / "model.keras", UnknownFormat, SourceError, says="folder")


@pytest.mark.parametrize(
    "name", ["m.keras", "m.weights.h5", "m.safetensors", "m.npz", "m.npy", "m.bin"]
)
@pytest.mark.parametrize("content", [b"", b"not what it says it is" * 100])
async def test_empty_and_wrong(
    name: str, content: bytes, loader: asyncload.Loader, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    await fails(loader, tmp_path / name, FormatError)


async def test_truncated_at_every_tenth(
    loader: asyncload.Loader, good: Path, tmp_path: Path
) -> None:
    whole = good.read_bytes()
    for tenth in range(10):
        path = tmp_path / f"{tenth}.keras"
        path.write_bytes(whole[: len(whole) * tenth // 10])
        await fails(loader, path, FormatError)


@pytest.mark.parametrize("missing", ["config.json", "model.weights.h5"])
async def test_a_member_missing(
    missing: str, loader: asyncload.Loader, good: Path, tmp_path: Path
) -> None:
    content = members(good)
    del content[missing]
    await fails(loader, write(tmp_path / "m.keras", content), Corrupt, says=missing)


async def test_broken_json(loader: asyncload.Loader, good: Path, tmp_path: Path) -> None:
    content = {**members(good), "config.json": b'{"class_name": '}
    await fails(loader, write(tmp_path / "m.keras", content), Corrupt, says="JSON")


async def test_unknown_class(loader: asyncload.Loader, tmp_path: Path) -> None:
    await fails(loader, save("custom", tmp_path), FormatError, says="custom_objects=")


async def test_a_lambda(loader: asyncload.Loader, tmp_path: Path) -> None:
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x * 2, output_shape=(2,))(inputs))
    model.save(tmp_path / "m.keras")
    await fails(loader, tmp_path / "m.keras", Unsafe, says="safe_mode=False")
    assert await loader.load(tmp_path / "m.keras", safe_mode=False)


def with_weights(good: Path, path: Path, change: Callable[[h5py.File], None]) -> Path:
    content = members(good)
    buffer = io.BytesIO(content["model.weights.h5"])
    with h5py.File(buffer, "r+") as file:
        change(file)
    return write(path, {**content, "model.weights.h5": buffer.getvalue()})


async def test_weights_truncated_inside(
    loader: asyncload.Loader, good: Path, tmp_path: Path
) -> None:
    content = members(good)
    for tenth in range(1, 10):
        weights = content["model.weights.h5"]
        cut = {**content, "model.weights.h5": weights[: len(weights) * tenth // 10]}
        await fails(loader, write(tmp_path / f"{tenth}.keras", cut), FormatError)


def soft_link(file: h5py.File) -> None:
    file["layers/dense/vars/9"] = h5py.SoftLink("/layers/dense/vars/0")


def external_link(file: h5py.File) -> None:
    file["layers/dense/vars/9"] = h5py.ExternalLink("/etc/hostname", "/x")


def external_storage(file: h5py.File) -> None:
    del file["layers/dense/vars/0"]
    file.create_dataset(
        "layers/dense/vars/0", (16, 16), "float32", external=[("/etc/passwd", 0, 1024)]
    )


def shape_bomb(file: h5py.File) -> None:
    del file["layers/dense/vars/0"]
    file.create_dataset("layers/dense/vars/0", (1 << 20, 1 << 14), "float32", chunks=(1, 1 << 14))


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (soft_link, Unsafe),
        (external_link, Unsafe),
        (external_storage, Unsafe),
        (shape_bomb, TooLarge),
    ],
)
async def test_weights_that_reach_out_or_blow_up(
    change: Callable[[h5py.File], None],
    kind: type[AsyncloadError],
    loader: asyncload.Loader,
    good: Path,
    tmp_path: Path,
) -> None:
    await fails(loader, with_weights(good, tmp_path / "m.keras", change), kind)


# Keras' own, for a layer whose weights did not load; stock gives it too.
@pytest.mark.filterwarnings("ignore:Skipping nested container")
async def test_weights_that_do_not_fit(
    loader: asyncload.Loader, good: Path, tmp_path: Path
) -> None:
    def change(file: h5py.File) -> None:
        for name in ("dense", "dense_1"):
            del file[f"layers/{name}/vars/0"]
            file[f"layers/{name}/vars/0"] = np.zeros((2, 3), "float32")

    error = await fails(loader, with_weights(good, tmp_path / "m.keras", change), MismatchError)
    assert "layers/dense/vars/0" in str(error)
    assert "layers/dense_1/vars/0" in str(error)
    assert "(2, 3)" in str(error)


async def test_a_shard_missing_and_a_shard_elsewhere(
    loader: asyncload.Loader, tmp_path: Path
) -> None:
    index = tmp_path / "m.safetensors.index.json"
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "one.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(NotFound, match=r"two\.safetensors"):
        await loader.load(index)
    index.write_text(json.dumps({"weight_map": {"a": "../one.safetensors"}}))
    with pytest.raises(Unsafe, match=r"\.\./one\.safetensors"):
        await loader.load(index)


async def test_replaced_or_cut_during_the_load(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    first = {"a": np.zeros(1 << 20, "float32"), "b": np.ones(1 << 20, "float32")}

    def replace() -> None:
        safetensors.numpy.save_file(first, tmp_path / "next")
        os.replace(tmp_path / "next", path)

    def cut() -> None:
        os.truncate(path, 5000)

    def rewrite() -> None:
        with path.open("r+b") as file:
            file.seek(9000)
            file.write(b"x")

    for change in (replace, cut, rewrite):
        safetensors.numpy.save_file(first, path)
        async with asyncload.Loader(processes=1) as loader:
            load = loader.prefetch(path)
            async for event in load.events():
                if type(event).__name__ == "Indexed":
                    change()
            with pytest.raises((SourceChanged, TransferFailed)) as caught:
                await load
            assert "m.safetensors" in str(caught.value)


async def test_a_failing_load_leaves_the_others_alone(
    loader: asyncload.Loader, good: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.keras").write_bytes(b"PK\x03\x04 nothing")
    uris = [good, tmp_path / "bad.keras"] * 4
    results = await loader.load_many(uris, return_exceptions=True)
    assert [isinstance(result, FormatError) for result in results] == [False, True] * 4
    assert await asyncio.gather(*(loader.load_weights(good) for _ in range(3)))
