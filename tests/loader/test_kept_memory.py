"""Memory of dropped weights serves the next load, and never one that is still looked at."""

from __future__ import annotations

import asyncio
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import asyncload
from tests.zoo import save


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(3):
        path = tmp_path / f"{number}.safetensors"
        tensors = {name: np.full(3 << 20, number, "float32") for name in "ab"}
        safetensors.numpy.save_file(tensors, path)
        paths.append(path)
    return paths


async def test_the_next_load_takes_it(files: list[Path]) -> None:
    async with asyncload.Loader(processes=1) as loader:
        weights = await loader.load_weights(files[0])
        where = weights["a"].ctypes.data
        del weights
        await asyncio.sleep(0.01)  # the tasks that brought them end with the loop's next turns
        again = await loader.load_weights(files[1])
        assert again["a"].ctypes.data == where
        assert (again["b"] == 1).all()


async def test_what_is_still_held_stays_as_it_is(files: list[Path]) -> None:
    async with asyncload.Loader(processes=1) as loader:
        first = await loader.load_weights(files[0])
        kept = first["b"]
        del first
        for path in files[1:] * 3:
            other = await loader.load_weights(path)
            assert not np.shares_memory(other["a"], kept)
            del other
        assert (kept == 0).all()
    assert (kept == 0).all(), "it outlives its Loader"


async def test_a_dropped_model_is_gone(tmp_path: Path) -> None:
    path = save("functional", tmp_path)
    async with asyncload.Loader(processes=1) as loader:
        for _ in range(3):
            model = await loader.load(path)
            gone = weakref.ref(model)
            del model
            await asyncio.sleep(0.01)  # the construction thread lets go of its last call
            gc.collect()
            assert gone() is None


async def test_keep_nothing(files: list[Path]) -> None:
    async with asyncload.Loader(processes=1, keep=0) as loader:
        weights = await loader.load_weights(files[0])
        gone = weakref.ref(weights)
        del weights
        await asyncio.sleep(0)
        assert gone() is None
        assert loader._resources.arenas.idle_bytes == 0


async def test_dropped_signatures_are_gone(tmp_path: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.v = tf.Variable(tf.ones([1 << 20]))
    module.run = tf.function(lambda: tf.reduce_sum(module.v), input_signature=[])
    tf.saved_model.save(module, tmp_path / "m", signatures=module.run)
    async with asyncload.Loader(processes=1) as loader:
        await loader.load(tmp_path / "m")
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                served = await loader.load(tmp_path / "m")
                assert float(served()["output_0"]) == 1 << 20
                gone = weakref.ref(served)
                del served
                await asyncio.sleep(0.05)  # the construction thread lets go of its last call
                assert gone() is None
                assert loader._resources.arenas.idle_bytes
        finally:
            gc.enable()
