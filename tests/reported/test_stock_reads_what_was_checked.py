"""Where Keras or TensorFlow load themselves, they get what was checked: values, and version."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

from asyncload import Loader
from asyncload.errors import SourceChanged
from asyncload.events import Event, FellBack
from tests.equality import assert_same_model
from tests.zoo import CUSTOM_OBJECTS, ZOO, save


def _as_it_is(following: Any, **options: Any) -> Any:
    return following(**options)


async def by_stock(path: Path, creator: Any = _as_it_is, **options: Any) -> Any:
    """Load within a scope that only stock knows."""
    events: list[Event] = []
    with tf.variable_creator_scope(creator):
        async with Loader(executor="thread", observer=events.append) as loader:
            loaded = await loader.load(path, **options)
    assert any(isinstance(event, FellBack) for event in events)
    return loaded


def _unzipped(path: Path, folder: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return folder


@pytest.mark.either_loop
@pytest.mark.parametrize("name", ZOO)
async def test_it_is_the_same_model(tmp_path: Path, name: str) -> None:
    """What Keras makes of what was written anew is what it makes of the file."""
    path = save(name, tmp_path)
    loaded = await by_stock(path, custom_objects=CUSTOM_OBJECTS)
    stock = keras.models.load_model(path, custom_objects=CUSTOM_OBJECTS)
    assert_same_model(loaded, stock)


@pytest.mark.parametrize("compile", [True, False])
async def test_it_is_the_same_legacy_model(tmp_path: Path, compile: bool) -> None:
    """Names of layers that take several attributes, weights of the model, optimizer."""
    path = tmp_path / "model.h5"
    x = inputs = keras.Input((2,))
    for number in range(6):
        x = keras.layers.Dense(2, name=f"{'long' * 3000}_{number}")(x)
    model = keras.Model(inputs, x)
    model.compile("adam", keras.losses.MeanSquaredError())
    model.fit(np.ones((2, 2)), np.ones((2, 2)), verbose=0)
    model.save(path)
    loaded = await by_stock(path, compile=compile)
    assert_same_model(loaded, keras.models.load_model(path, compile=compile))


async def test_it_is_the_same_folder(tmp_path: Path) -> None:
    """A model that was saved without a ZIP archive."""
    folder = _unzipped(save("functional", tmp_path), tmp_path / "folder")
    assert_same_model(await by_stock(folder), keras.models.load_model(folder))


def _never_ending(path: Path) -> None:
    """Have an attribute of a dataset lie in a heap in which the HDF5 library goes in circles.

    Keras asks each dataset for it. Nothing else needs it.
    """
    with h5py.File(path, "a") as file:
        file["layers/dense/vars/0"].attrs["dtype"] = "float32"
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL")
    while at >= 0:
        content[at + 16 : at + 32] = bytes(16)  # the first object: none, of no bytes
        at = content.find(b"GCOL", at + 4)
    path.write_bytes(content)


async def test_the_library_gets_no_file_from_elsewhere(tmp_path: Path) -> None:
    """A file of 14 KB, on which stock hangs for ever, and holds the GIL."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    folder = _unzipped(tmp_path / "model.keras", tmp_path / "folder")
    _never_ending(folder / "model.weights.h5")
    with zipfile.ZipFile(tmp_path / "bad.keras", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, file.name)
    loaded = await by_stock(tmp_path / "bad.keras")
    assert np.array_equal(loaded.get_weights()[0], model.get_weights()[0])


class Swap:
    """Puts another version in the place of files, once, when a variable is first made."""

    def __init__(self, swap: Callable[[], None]) -> None:
        self._swap = swap
        self.swapped = False

    def __call__(self, following: Any, **options: Any) -> Any:
        if not self.swapped:
            self.swapped = True
            self._swap()
        return following(**options)


def _two_models(path: Path) -> tuple[Any, Path]:
    models = [keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]) for _ in range(2)]
    other = path.with_name(f"other{path.suffix}")
    for model, where in zip(models, (path, other), strict=True):
        model.save(where)
    return models[0], other


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
async def test_a_model_that_is_swapped_meanwhile(tmp_path: Path, suffix: str) -> None:
    """The values are of the version that was checked."""
    path = tmp_path / f"model{suffix}"
    model, other = _two_models(path)
    swap = Swap(lambda: os.replace(other, path))
    loaded = await by_stock(path, swap)
    assert swap.swapped
    assert np.array_equal(loaded.get_weights()[0], model.get_weights()[0])


def _saved(folder: Path, value: float) -> None:
    module = tf.Module()
    module.v = tf.Variable([value, value])
    module.call = tf.function(lambda x: {"y": x * module.v}, [tf.TensorSpec([2], tf.float32)])
    tf.saved_model.save(module, str(folder), signatures=module.call)


@pytest.mark.parametrize("whole", [True, False])
async def test_a_saved_model_that_is_swapped_meanwhile(tmp_path: Path, whole: bool) -> None:
    """It is an error, whatever TensorFlow read."""
    _saved(tmp_path / "model", 1.0)
    _saved(tmp_path / "other", 2.0)

    def swap() -> None:
        shutil.rmtree(tmp_path / "model" / "variables")
        os.rename(tmp_path / "other" / "variables", tmp_path / "model" / "variables")

    with pytest.raises(SourceChanged):
        await by_stock(tmp_path / "model", Swap(swap), whole=whole)


async def test_a_checkpoint_that_is_swapped_meanwhile(tmp_path: Path) -> None:
    """It is an error, whatever TensorFlow read."""
    for name, value in (("one", 1.0), ("two", 2.0)):
        tf.train.Checkpoint(v=tf.Variable([value])).save(str(tmp_path / name))

    def swap() -> None:
        for file in tmp_path.glob("two-*"):
            os.replace(file, tmp_path / file.name.replace("two", "one"))

    target = tf.train.Checkpoint(v=tf.Variable([0.0]))
    with tf.variable_creator_scope(Swap(swap)):
        async with Loader(executor="thread") as loader:
            with pytest.raises(SourceChanged):
                await loader.load_into(target, tmp_path / "one-1")
