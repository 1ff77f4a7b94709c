"""The main job: real files through the whole house."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload.events import Event, FellBack, StageEnded
from tests.equality import assert_same_model, same_bytes
from tests.zoo import CUSTOM_OBJECTS, ZOO, save


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("zoo")
    return {name: save(name, folder) for name in ZOO}


@pytest.mark.parametrize("name", ZOO)
@pytest.mark.either_loop
async def test_a_model_equals_stock(
    name: str, models: dict[str, Path], loader: asyncload.Loader
) -> None:
    model = await loader.load(models[name], custom_objects=CUSTOM_OBJECTS)
    stock = keras.models.load_model(models[name], custom_objects=CUSTOM_OBJECTS)
    assert_same_model(model, stock)


async def test_without_compile_as_keras_does(
    models: dict[str, Path], loader: asyncload.Loader
) -> None:
    model = await loader.load(models["functional"], compile=False)
    assert_same_model(model, keras.models.load_model(models["functional"], compile=False))


async def test_the_model_predicts_fits_and_saves(
    models: dict[str, Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    model = await loader.load(models["functional"])
    stock = keras.models.load_model(models["functional"])
    x, y = np.random.default_rng(1).random((8, 16), "float32"), np.ones((8, 3), "float32")
    assert same_bytes(model.predict(x, verbose=0), stock.predict(x, verbose=0))
    mine, theirs = (m.fit(x, y, epochs=2, shuffle=False, verbose=0) for m in (model, stock))
    assert mine.history == theirs.history
    model.save(tmp_path / "again.keras")
    assert_same_model(
        await loader.load(tmp_path / "again.keras", compile=False),
        keras.models.load_model(tmp_path / "again.keras", compile=False),
    )


async def test_scopes_of_the_caller_reach_the_construction_thread(
    models: dict[str, Path], loader: asyncload.Loader
) -> None:
    with keras.saving.custom_object_scope(CUSTOM_OBJECTS):
        load = loader.prefetch(models["custom"])
    model = await load
    assert type(model.layers[-1]).__name__ == "Unregistered"


async def test_weights_of_a_keras_file_have_the_names_in_the_file(
    models: dict[str, Path], loader: asyncload.Loader
) -> None:
    weights = await loader.load_weights(models["sequential"])
    model = keras.models.load_model(models["sequential"])
    assert same_bytes(weights["layers/dense/vars/0"], model.layers[0].kernel.numpy())
    assert not weights["layers/dense/vars/0"].flags.writeable
    assert weights["layers/dense/vars/0"].ctypes.data % 64 == 0
    assert weights.manifest.format == "keras"
    with pytest.raises(KeyError, match="no tensor 'nothing'"):
        weights["nothing"]


async def test_stream_gives_every_tensor_once(
    models: dict[str, Path], loader: asyncload.Loader
) -> None:
    whole = await loader.load_weights(models["functional"])
    streamed: dict[str, Any] = {}
    async for name, array in loader.stream(models["functional"]):
        assert name not in streamed
        streamed[name] = array
    assert streamed.keys() == whole.keys()
    assert all(same_bytes(array, whole[name]) for name, array in streamed.items())


async def test_a_stream_left_early_leaves_nothing(
    models: dict[str, Path], loader: asyncload.Loader
) -> None:
    async with aclosing(loader.stream(models["functional"])) as tensors:
        async for _ in tensors:
            break
    assert await loader.load_weights(models["functional"])


async def test_inspect_reads_the_index_only(
    models: dict[str, Path], loader: asyncload.Loader
) -> None:
    manifest = await loader.inspect(models["functional"])
    assert manifest.tensors["layers/dense/vars/0"].shape == (16, 16)
    assert json.loads(manifest.documents["config.json"])["class_name"] == "Functional"
    assert asyncload.Manifest.from_json(manifest.to_json()) == manifest


async def test_events_show_building_beside_reading(models: dict[str, Path]) -> None:
    seen: list[Event] = []
    async with asyncload.Loader(processes=1, observer=seen.append) as loader:
        load = loader.prefetch(models["functional"])
        mine = [event async for event in load.events()]
        await load
    assert mine == seen
    stages = [event.stage for event in mine if isinstance(event, StageEnded)]
    assert sorted(stages) == ["bind", "build", "index", "read"]
    assert load.progress.bytes_done == load.progress.bytes_total


async def test_many_at_once_one_broken_spoils_no_other(
    models: dict[str, Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.keras"
    broken.write_bytes(models["sequential"].read_bytes()[:-50])
    uris = [models["sequential"], broken, tmp_path / "absent.keras", models["bfloat16"]]
    first, second, third, fourth = await loader.load_many(uris, return_exceptions=True)
    assert_same_model(first, keras.models.load_model(uris[0]))
    assert isinstance(second, asyncload.FormatError)
    assert isinstance(third, asyncload.NotFound)
    assert_same_model(fourth, keras.models.load_model(uris[3]))
    with pytest.raises(asyncload.AsyncloadError):
        await loader.load_many(uris)


async def test_the_same_file_with_other_options_at_once(
    models: dict[str, Path], loader: asyncload.Loader
) -> None:
    uri = models["functional"]
    one, two = await asyncio.gather(loader.load(uri), loader.load(uri, safe_mode=False))
    stock = keras.models.load_model(uri)
    assert one is not two
    assert_same_model(one, stock)
    assert_same_model(two, stock)


async def test_what_cannot_be_built_fast_falls_back_to_stock(
    models: dict[str, Path], loader: asyncload.Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncload.materialize import _private

    monkeypatch.setattr(_private, "fast_path", lambda: False)
    load = loader.prefetch(models["functional"])
    model = await load
    assert_same_model(model, keras.models.load_model(models["functional"]))
    assert [e async for e in load.events() if isinstance(e, FellBack)]


async def test_memory_uri_and_fallback_from_memory(
    models: dict[str, Path], loader: asyncload.Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncload.materialize import _private
    from asyncload.sources import forget_memory, put_memory

    put_memory("zoo/model.keras", models["functional"].read_bytes())
    try:
        stock = keras.models.load_model(models["functional"])
        assert_same_model(await loader.load("memory://zoo/model.keras"), stock)
        monkeypatch.setattr(_private, "fast_path", lambda: False)
        assert_same_model(await loader.load("memory://zoo/model.keras"), stock)
    finally:
        forget_memory("zoo")


async def test_cancel_at_every_stage_leaves_nothing(
    models: dict[str, Path], loader: asyncload.Loader
) -> None:
    await loader.load(models["functional"])
    full = loader.prefetch(models["functional"], priority="demand")
    count = len([event async for event in full.events()])
    for stop_at in range(count - 1):
        load = loader.prefetch(models["functional"], priority="demand")
        events = load.events()
        for _ in range(stop_at + 1):
            await anext(events)
        await events.aclose()
        over = load.done()
        load.cancel()
        if not over:
            with pytest.raises(asyncio.CancelledError):
                await load
        async for _ in load.events():  # until all of it has ended
            pass
    stock = keras.models.load_model(models["functional"])
    assert_same_model(await loader.load(models["functional"]), stock)
    assert loader._resources.budget.held == 0


async def test_use_after_close(models: dict[str, Path]) -> None:
    loader = asyncload.Loader()
    await loader.aclose()
    await loader.aclose()
    for call in (loader.load, loader.load_weights, loader.inspect):
        with pytest.raises(asyncload.LoaderClosed, match="make a new one"):
            await call(models["functional"])


async def test_closing_cancels_what_is_under_way(models: dict[str, Path]) -> None:
    async with asyncload.Loader(processes=1) as loader:
        load = loader.prefetch(models["functional"])
        await asyncio.sleep(0)
    with pytest.raises(asyncload.LoaderClosed):
        await load


async def test_the_default_loader_is_the_loops_own(models: dict[str, Path]) -> None:
    weights = await asyncload.load_weights(models["sequential"])
    assert len(weights)
    assert [name async for name, _ in asyncload.stream(models["sequential"])]
    await asyncload.aclose()
    await asyncload.aclose()
    assert (await asyncload.inspect(models["sequential"])).format == "keras"
    await asyncload.aclose()


def test_the_default_loader_ends_with_the_loop(models: dict[str, Path]) -> None:
    for _ in range(2):
        assert asyncio.run(asyncload.load_weights(models["sequential"]))
    gc.collect()


async def test_a_budget_smaller_than_the_model_lets_it_in_alone(models: dict[str, Path]) -> None:
    async with asyncload.Loader(processes=1, memory=1000) as loader:
        results = await loader.load_many([models["functional"]] * 3)
    assert len(results) == 3


async def test_weights_come_without_tensorflow(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"a": np.arange(6.0, dtype="float32")}, path)
    code = (
        "import asyncio, sys, asyncload\n"
        f"w = asyncio.run(asyncload.load_weights({str(path)!r}))\n"
        "assert w['a'].tolist() == [0, 1, 2, 3, 4, 5]\n"
        "assert 'tensorflow' not in sys.modules and 'keras' not in sys.modules\n"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0
