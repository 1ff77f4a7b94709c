"""Folders that Keras saves with ``zipped=False`` load as the archive does."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import asyncload
from tests.equality import assert_same_model
from tests.zoo import CUSTOM_OBJECTS, save

pytestmark = pytest.mark.either_loop


def unzipped(kind: str, folder: Path) -> tuple[Path, Path]:
    """Save a model; return its archive, and the same as a folder."""
    path = save(kind, folder)
    loaded = keras.models.load_model(path, custom_objects=CUSTOM_OBJECTS)
    loaded.save(folder / "d", zipped=False)
    return path, folder / "d"


@pytest.mark.parametrize("kind", ["functional", "text"])
async def test_load_equals_stock(tmp_path: Path, kind: str) -> None:
    _, folder = unzipped(kind, tmp_path)
    stock = keras.models.load_model(folder, custom_objects=CUSTOM_OBJECTS)
    model = await asyncload.load(folder, custom_objects=CUSTOM_OBJECTS)
    assert_same_model(model, stock)


async def test_weights_are_those_of_the_archive(tmp_path: Path) -> None:
    path, folder = unzipped("functional", tmp_path)
    theirs, ours = await asyncload.load_weights(path), await asyncload.load_weights(folder)
    assert list(ours) == list(theirs)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    manifest = await asyncload.inspect(folder)
    assert set(manifest.documents) == {"config.json", "metadata.json"}
    assert manifest.files[0].name == "config.json"


async def test_into_a_model(tmp_path: Path) -> None:
    _, folder = unzipped("functional", tmp_path)
    stock = keras.models.load_model(folder, custom_objects=CUSTOM_OBJECTS)
    target = keras.models.clone_model(stock)
    await asyncload.load_into(target, folder)
    for one, other in zip(target.get_weights(), stock.get_weights(), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("name", ["d", "config", "model"])
async def test_a_fetched_copy_loads(tmp_path: Path, name: str) -> None:
    _, folder = unzipped("text", tmp_path)
    folder = folder.rename(tmp_path / name)
    copy = await asyncload.fetch(folder, tmp_path / "copy")
    model = await asyncload.load(copy, custom_objects=CUSTOM_OBJECTS)
    assert_same_model(model, keras.models.load_model(folder, custom_objects=CUSTOM_OBJECTS))


async def test_a_config_beside_something_else_makes_no_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(asyncload.UnknownFormat, match="Name what in it you want"):
        await asyncload.inspect(tmp_path)


async def test_weights_as_npz(tmp_path: Path) -> None:
    path, folder = unzipped("functional", tmp_path)
    weights = await asyncload.load_weights(path)
    (folder / "model.weights.h5").unlink()
    np.savez(folder / "model.weights.npz", **dict(weights))  # type: ignore[arg-type]
    found = await asyncload.load_weights(folder)
    assert {name: array.tobytes() for name, array in found.items()} == {
        name: array.tobytes() for name, array in weights.items()
    }


async def test_what_is_missing_is_named(tmp_path: Path) -> None:
    path, folder = unzipped("functional", tmp_path)
    shutil.rmtree(folder)
    with zipfile.ZipFile(path) as archive:
        archive.extract("config.json", folder)
        archive.extract("metadata.json", folder)
    with pytest.raises(asyncload.UnknownFormat):
        await asyncload.load(folder)
