"""`load(..., reuse=)` through the whole house."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import weakref
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload.errors import SourceChanged
from asyncload.events import Event, FellBack, TensorReady
from asyncload.materialize.reuse import empty
from tests.equality import assert_same_model, same_bytes
from tests.live import same, scramble, unchanged, values
from tests.zoo import ZOO


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as made:
        yield made


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return where two versions of a model lie."""
    folder = tmp_path_factory.mktemp("versions")
    model = ZOO["nested"]()
    model.save(folder / "1.keras")
    scramble(model)
    model.save(folder / "2.keras")
    return folder / "1.keras", folder / "2.keras"


async def reasons(load: asyncload.Load[Any]) -> list[str]:
    return [event.reason async for event in load.events() if isinstance(event, FellBack)]


async def test_the_next_version_takes_the_place_of_the_last(
    versions: tuple[Path, Path], loader: asyncload.Loader
) -> None:
    first, second = versions
    model = await loader.load(first)
    x = np.ones((2, 4), "float32")
    model.predict(x, verbose=0)
    for path in (second, first, second):
        assert await asyncio.to_thread(empty, model)
        load = loader.prefetch(path, reuse=model)
        assert await load is model
        assert await reasons(load) == []
        stock = keras.models.load_model(path)
        assert_same_values(model, stock)
        assert same_bytes(model.predict(x, verbose=0), stock.predict(x, verbose=0))
    assert model.predict_function.experimental_get_tracing_count() == 1


def assert_same_values(model: Any, stock: Any) -> None:
    assert same(values(model), values(stock))
    assert model.optimizer.get_config() == stock.optimizer.get_config()


async def test_another_model_is_built_and_says_why(
    versions: tuple[Path, Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    first, second = versions
    for offered in (await loader.load(first, compile=False), keras.Sequential(), object()):
        load = loader.prefetch(second, reuse=offered)
        model = await load
        assert model is not offered
        assert_same_model(model, keras.models.load_model(second))
        (reason,) = await reasons(load)
        assert "offered for reuse" in reason
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"a": np.ones(3, "float32")}, path)
    load = loader.prefetch(path, reuse=offered)
    assert list(await load) == ["a"]
    assert "holds no model" in (await reasons(load))[0]


async def test_a_damaged_version_leaves_the_old_one(
    versions: tuple[Path, Path], loader: asyncload.Loader, tmp_path: Path
) -> None:
    first, second = versions
    model = await loader.load(first)
    broken = tmp_path / "broken.keras"
    content = second.read_bytes()
    for damaged in (content[: len(content) // 2], content.replace(b"class_name", b"glass_name")):
        broken.write_bytes(damaged)
        with unchanged(model), pytest.raises(asyncload.AsyncloadError):
            await loader.load(broken, reuse=model)
    assert await loader.load(second, reuse=model) is model


async def test_a_file_that_changes_meanwhile_leaves_the_old_values(
    versions: tuple[Path, Path], tmp_path: Path
) -> None:
    path = tmp_path / "2.keras"
    path.write_bytes(versions[1].read_bytes())
    armed = False

    def touch(event: Event) -> None:
        if armed and isinstance(event, TensorReady):
            os.utime(path, ns=(0, 0))

    async with asyncload.Loader(executor="thread", observer=touch) as loader:
        model = await loader.load(versions[0])
        before = values(model)
        armed = True
        with pytest.raises(SourceChanged):
            await loader.load(path, reuse=model)
        armed = False
        assert same(values(model), before)
        assert await loader.load(path, reuse=model) is model


async def test_cancelled_halfway_it_has_all_new_values_or_all_old_ones(
    versions: tuple[Path, Path], loader: asyncload.Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from asyncload.materialize._private import _rebind

    first, second = versions
    model = await loader.load(first)
    before, stock = values(model), _rebind._assign
    reached, go_on = threading.Event(), threading.Event()

    def slow(holder: Any, value: Any) -> None:
        stock(holder, value)
        reached.set()
        assert go_on.wait(10)

    monkeypatch.setattr(_rebind, "_assign", slow)
    task = asyncio.ensure_future(loader.load(second, reuse=model))
    while not reached.is_set():
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done(), "it ends when nothing changes any more"
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    monkeypatch.undo()
    expected = values(await loader.load(second))
    assert same(values(model), expected)
    assert not same(before, expected)


async def test_cancelled_before_it_begins_nothing_changes(
    versions: tuple[Path, Path], loader: asyncload.Loader
) -> None:
    first, second = versions
    model = await loader.load(first)
    with unchanged(model):
        task = asyncio.ensure_future(loader.load(second, reuse=model))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await loader.load(second, reuse=model) is model


async def test_nothing_keeps_a_model_that_was_not_taken(
    versions: tuple[Path, Path], loader: asyncload.Loader
) -> None:
    first, second = versions
    offered = await loader.load(first, compile=False)
    gone = weakref.ref(offered)
    load = loader.prefetch(second, reuse=offered)
    await load
    del offered
    await asyncio.sleep(0.05)  # the construction thread lets go of its last call
    gc.collect()
    assert gone() is None
    assert (await load).built


async def test_warm_up_finds_the_functions_traced(
    versions: tuple[Path, Path], loader: asyncload.Loader
) -> None:
    first, second = versions
    model = await loader.load(first, warmup=True)
    assert await loader.load(second, reuse=model, warmup=True) is model
    assert model.predict_function.experimental_get_tracing_count() == 1


async def test_its_memory_is_given_back_and_taken_again(tmp_path: Path) -> None:
    layers = keras.layers
    model = keras.Sequential([keras.Input((1024,)), layers.Dense(4096), layers.Normalization()])
    model.save(tmp_path / "m.keras")
    async with asyncload.Loader(executor="thread") as loader:
        pool = loader._resources.arenas
        model = await loader.load(tmp_path / "m.keras")
        for _ in range(3):
            await asyncio.sleep(0.05)  # the construction thread lets go of its last call
            idle = pool.idle_bytes
            assert await asyncio.to_thread(empty, model)
            assert pool.idle_bytes >= idle + (16 << 20)
            assert await loader.load(tmp_path / "m.keras", reuse=model) is model
            assert pool.idle_bytes <= idle


@pytest.mark.parametrize(
    ("name", "taken"),
    [("nested", True), ("int8", True), ("preprocessing", False), ("bfloat16", False)],
)
async def test_legacy_files(
    name: str, taken: bool, loader: asyncload.Loader, tmp_path: Path
) -> None:
    """Those of bfloat16, which such files hold as bytes of no type, are not shared, so built."""
    model = ZOO[name]()
    model.save(tmp_path / "1.h5")
    scramble(model)
    model.save(tmp_path / "2.h5")
    old = await loader.load(tmp_path / "1.h5", compile=False)
    scramble(old)
    load = loader.prefetch(tmp_path / "2.h5", compile=False, reuse=old)
    new = await load
    assert (await reasons(load) == []) is taken
    assert (new is old) is taken
    fresh = await loader.load(tmp_path / "2.h5", compile=False)
    assert_same_model(new, fresh)
    assert await loader.load(tmp_path / "1.h5", reuse=fresh, compile=False, safe_mode=False) != old
