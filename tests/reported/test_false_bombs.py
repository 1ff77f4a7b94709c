"""What looks like a bomb and is none: tied weights, zeros. The bound is memory."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import asyncload

MIB = 1 << 20

pytestmark = pytest.mark.either_loop


async def test_datasets_with_two_names_count_once(tmp_path: Path) -> None:
    path = tmp_path / "tied.h5"
    with h5py.File(path, "w") as file:
        file["emb"] = np.random.default_rng(0).random((400, 300))
        file.create_dataset("packed", data=np.arange(90_000.0), compression="gzip")
        for name in ("head", "a/b", "a/c"):
            file[name] = file["emb"]
            file[f"{name}-packed"] = file["packed"]
    found = await asyncload.load_weights(path)
    with h5py.File(path) as file:
        assert len(found) == 8
        for name, array in found.items():
            assert np.array_equal(array, file[name][()])
            assert array.dtype == file[name].dtype


def zeros_h5(path: Path, nbytes: int) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("m", data=np.zeros(nbytes, "u1"), compression="gzip", chunks=(MIB,))


def zeros_npz(path: Path, nbytes: int) -> None:
    np.savez_compressed(path, m=np.zeros(nbytes, "u1"))


def zeros_keras(path: Path, nbytes: int) -> None:
    inner = path.with_suffix(".h5")
    with h5py.File(inner, "w") as file:
        file["m"] = np.zeros(nbytes, "u1")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.write(inner, "model.weights.h5")


def nothing_stored(path: Path, nbytes: int) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("m", (nbytes,), "u1", fillvalue=7)


def many_names(path: Path, nbytes: int) -> None:
    with h5py.File(path, "w") as file:
        file["d"] = np.zeros(MIB // 4, "u1")
        for number in range(1, 4 * nbytes // MIB):
            file[f"d{number}"] = file["d"]


MAKERS = {
    "z.h5": zeros_h5,
    "z.npz": zeros_npz,
    "z.keras": zeros_keras,
    "n.h5": nothing_stored,
    "l.h5": many_names,
}


@pytest.mark.parametrize("name", MAKERS)
async def test_memory_is_the_bound(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    MAKERS[name](path, 100 * MIB)
    found = await asyncload.load_weights(path)
    assert found.nbytes == 100 * MIB
    assert len({int(array[-1]) for array in found.values()}) == 1
    del found
    async with asyncload.Loader(memory="80MiB") as loader:
        with pytest.raises(asyncload.TooLarge, match=r"Loader\(memory=") as caught:
            await loader.load_weights(path)
    assert caught.value.uri is not None


@pytest.mark.parametrize("name", ["many.npz", "many.h5", "many.safetensors", "many.keras"])
async def test_the_number_of_tensors_is_bounded_and_can_be_lifted(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    arrays: dict[str, Any] = {f"t{number}": np.full(1, number) for number in range(30)}
    if name.endswith(".npz"):
        np.savez(path, **arrays)
    elif name.endswith(".safetensors"):
        from safetensors.numpy import save_file

        save_file(arrays, path)
    else:
        with h5py.File(tmp_path / "w.h5", "w") as file:
            for key, array in arrays.items():
                file[key] = array
        if name.endswith(".keras"):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("config.json", "{}")
                archive.write(tmp_path / "w.h5", "model.weights.h5")
        else:
            (tmp_path / "w.h5").rename(path)
    async with asyncload.Loader(max_tensors=29) as loader:
        with pytest.raises(asyncload.TooLarge, match=r"at most 29 .*Loader\(max_tensors="):
            await loader.load_weights(path)
    for most in (30, None):
        async with asyncload.Loader(max_tensors=most) as loader:
            assert len(await loader.load_weights(path)) == 30


async def test_a_config_may_be_large(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.h5", "w"):
        pass
    config = b'{"class_name": "Sequential", "config": {}' + b" " * (70 * MIB) + b"}"
    with zipfile.ZipFile(tmp_path / "m.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", config, compresslevel=1)
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    async with asyncload.Loader(index_cache=False, memory="2GiB") as loader:
        manifest = await loader.inspect(tmp_path / "m.keras")
    assert manifest.documents["config.json"] == config
    async with asyncload.Loader(index_cache=False, memory="500MiB") as loader:
        with pytest.raises(asyncload.TooLarge, match=r"'config\.json'.*Loader\(memory="):
            await loader.inspect(tmp_path / "m.keras")
