"""Whole SavedModels through the whole house: the object that TensorFlow would return."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

import asyncload
from asyncload.events import FellBack
from asyncload.sources import forget_memory, put_memory
from tests.materialize.saved_models import call, composed, exported, lookups
from tests.materialize.served_models import written_by_tensorflow_1
from tests.materialize.test_whole import assert_same_calls, assert_same_objects


@pytest.mark.parametrize("save", [composed, lookups, exported])
async def test_a_folder_equals_stock(tmp_path: Path, save: object) -> None:
    assert callable(save)
    calls = save(tmp_path / "model")
    stock = tf.saved_model.load(tmp_path / "model")
    async with asyncload.Loader(processes=1) as loader:
        load = loader.prefetch(tmp_path / "model", whole=True)
        mine = await load
        assert [e async for e in load.events() if isinstance(e, FellBack)] == []
    assert_same_objects(mine, stock)
    assert_same_calls(mine, stock, calls)


async def test_from_bytes_alone_with_assets_that_live_as_long_as_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    calls = lookups(folder)
    expected = dict(call(tf.saved_model.load(folder), calls))
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    shutil.rmtree(folder)
    uri = put_memory("whole", files)
    try:
        async with asyncload.Loader(processes=1) as loader:
            with pytest.raises(asyncload.Unsafe, match="trusted=True"):
                await loader.load(uri, whole=True)
            load = loader.prefetch(uri, whole=True, trusted=True)
            mine = await load
            assert [e async for e in load.events() if isinstance(e, FellBack)] == []
    finally:
        forget_memory("whole")
    for name, result in call(mine, calls):
        for one, other in zip(
            tf.nest.flatten(result), tf.nest.flatten(expected[name]), strict=True
        ):
            assert tf.reduce_all(tf.equal(one, other)), name
    asset = Path(mine.file.asset_path.numpy().decode())
    assert asset.exists()
    del mine, load
    gc.collect()
    assert not asset.exists()


async def test_what_tensorflow_1_wrote_falls_back_and_says_so(tmp_path: Path) -> None:
    calls = written_by_tensorflow_1(tmp_path / "one")
    async with asyncload.Loader(processes=1) as loader:
        load = loader.prefetch(tmp_path / "one", whole=True)
        mine = await load
        reasons = [e.reason async for e in load.events() if isinstance(e, FellBack)]
    assert len(reasons) == 1
    stock = tf.saved_model.load(tmp_path / "one")
    for signature, inputs in calls.items():
        one, other = (root.signatures[signature](**inputs) for root in (mine, stock))
        for name in other:
            assert tf.reduce_all(tf.equal(one[name], other[name])), name
