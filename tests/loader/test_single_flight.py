"""One load for all who ask for the same while it is under way, and never an older version."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload.events import Event, Finished, Started, TensorReady
from asyncload.loader._options import LoadOptions, OnChange
from asyncload.loader._sharing import comparable, key_of_load, key_of_weights
from asyncload.sources import forget_memory, put_memory
from tests.equality import assert_same_model
from tests.zoo import CUSTOM_OBJECTS, save

LIMIT = 1 << 20


def content(value: int) -> bytes:
    return safetensors.numpy.save({name: np.full(1000, value, "float32") for name in "abc"})


def replace_file(path: Path, value: int) -> None:
    made = path.with_suffix(".new")
    made.write_bytes(content(value))
    made.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "w.safetensors"
    made.write_bytes(content(1))
    return made


@pytest.fixture
def seen() -> list[Event]:
    return []


@pytest.fixture
async def loader(seen: list[Event]) -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(processes=1, memory=LIMIT, observer=seen.append) as made:
        yield made
        assert made.budget.held == 0
        assert made.budget.waiting == 0


@asynccontextmanager
async def stopped(loader: asyncload.Loader) -> AsyncIterator[None]:
    """Have loads wait for memory, once they have opened and indexed their files."""
    async with loader.budget.take(LIMIT):
        yield


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.001)


def started(seen: list[Event]) -> int:
    return sum(isinstance(event, Started) for event in seen)


def value_of(weights: Any) -> float:
    assert all((weights[name] == weights["a"][0]).all() for name in "abc")
    return float(weights["a"][0])


# --- who shares ----------------------------------------------------------------------------


async def test_all_who_ask_at_once_get_the_same(
    path: Path, loader: asyncload.Loader, seen: list[Event]
) -> None:
    asked = [loader.prefetch(path), loader.prefetch(f"file://{path}", priority="demand")]
    weights = await asyncio.gather(*asked, *(loader.load(path) for _ in range(20)))
    assert all(each is weights[0] for each in weights)
    assert started(seen) == 1
    assert seen == [event async for event in asked[0].events()]
    assert await loader.load(path) is not weights[0], "it was over"


async def test_who_comes_later_sees_all_of_it(path: Path, loader: asyncload.Loader) -> None:
    async with stopped(loader):
        first = loader.prefetch(path)
        await until(lambda: loader.budget.waiting)
        second = loader.prefetch(path)
        await until(lambda: second.progress.tensors_total)
        assert second.progress == first.progress
    assert await second is await first
    ones = [event async for event in first.events()]
    others = [event async for event in second.events()]
    assert ones == others
    assert isinstance(ones[-1], Finished)
    assert first.done()
    assert second.done()


async def test_each_kind_shares_with_its_own(
    path: Path, loader: asyncload.Loader, seen: list[Event]
) -> None:
    loads = [loader.load(path), loader.load_weights(path), loader.load_weights(path, verify=False)]
    loads += [loader.load_weights(path), loader.load_weights(path, on_change="restart")]
    one, two, three, four, five = await asyncio.gather(*loads)
    assert two is four
    assert len({id(each) for each in (one, two, three, five)}) == 4
    assert started(seen) == 4


async def test_models_are_shared_in_the_same_scopes_only(
    tmp_path: Path, loader: asyncload.Loader
) -> None:
    uri = save("custom", tmp_path)
    stock = keras.models.load_model(uri, custom_objects=CUSTOM_OBJECTS)
    loads = [loader.prefetch(uri, custom_objects=dict(CUSTOM_OBJECTS)) for _ in range(2)]
    with keras.saving.custom_object_scope(CUSTOM_OBJECTS):
        loads += [loader.prefetch(uri) for _ in range(2)]
    outside = loader.prefetch(uri)
    models = await asyncio.gather(*loads)
    assert models[0] is models[1]
    assert models[2] is models[3]
    assert models[0] is not models[2]
    for model in models[::2]:
        assert_same_model(model, stock)
    with pytest.raises(asyncload.FormatError):
        await outside


def test_options_are_the_same_if_they_mean_the_same(tmp_path: Path) -> None:
    inputs, function = np.ones(3), len

    def key(**options: Any) -> Any:
        return key_of_load(tmp_path, LoadOptions(**options), {"headers": {"a": "b"}, "retries": 3})

    same: list[dict[str, Any]] = [
        {},
        {"custom_objects": {"f": function, "g": {"unhashable": [inputs]}}},
        {"signatures": ["a", "b"]},
        {"warmup": True},
        {"warmup": 1},
        {"warmup": {"x": inputs}},
        {"warmup": inputs},
        {"warmup": inputs.copy()},
        {"trusted": False},
    ]
    keys = [key(**options) for options in same]
    assert len({*keys}) == len(same)
    assert keys[:7] == [key(**options) for options in same[:7]]
    assert key(storage_options={"retries": 3}) == keys[0], "counts with the Loader's own"
    assert keys[0] != key_of_load(tmp_path, LoadOptions(), {"retries": 3})
    assert keys[0] != key_of_weights(tmp_path, True, "error", {})
    assert comparable({"a": {1, 2}, "p": tmp_path}) == comparable({"p": tmp_path, "a": {2, 1}})


def test_paths_are_the_same_however_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    uris: list[Any] = [
        "m.keras",
        Path("m.keras"),
        tmp_path / "m.keras",
        f"file://{tmp_path}/m.keras",
    ]
    keys = {key_of_load(uri, LoadOptions(), {}) for uri in uris}
    assert len(keys) == 1
    stores = ["http://u:one@host/m", "http://u:two@host/m", "s3://m", "memory://m", "m", "m/"]
    assert len({key_of_load(uri, LoadOptions(), {}) for uri in stores}) == len(stores)


# --- versions ------------------------------------------------------------------------------


async def test_nobody_gets_an_older_version(
    path: Path, loader: asyncload.Loader, seen: list[Event]
) -> None:
    async with stopped(loader):
        first = loader.prefetch(path)
        await until(lambda: loader.budget.waiting)
        replace_file(path, 2)
        second, third = loader.prefetch(path), loader.prefetch(path)
        await until(lambda: loader.budget.waiting == 2)
        assert started(seen) == 2
    with pytest.raises(asyncload.SourceChanged):
        await first
    assert value_of(await second) == 2
    assert await second is await third


async def test_in_memory_too(loader: asyncload.Loader) -> None:
    uri = put_memory("flight", content(1))
    try:
        async with stopped(loader):
            first = loader.prefetch(uri)
            await until(lambda: loader.budget.waiting)
            same = loader.prefetch(uri)
            await until(lambda: same.progress.tensors_total)
            put_memory("flight", content(2))
            second = loader.prefetch(uri)
            await until(lambda: loader.budget.waiting == 2)
        assert await first is await same
        assert value_of(await second) == 2
    finally:
        forget_memory("flight")


async def test_a_file_of_a_folder_that_was_replaced(
    tmp_path: Path, loader: asyncload.Loader
) -> None:
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(
        '{"weight_map": {"a": "w.safetensors", "b": "w.safetensors", "c": "w.safetensors"}}'
    )
    shard = tmp_path / "w.safetensors"
    shard.write_bytes(content(1))
    async with stopped(loader):
        first = loader.prefetch(index)
        await until(lambda: loader.budget.waiting)
        replace_file(shard, 2)
        second = loader.prefetch(index)
        await until(lambda: loader.budget.waiting == 2)
    with pytest.raises(asyncload.SourceChanged):
        await first
    assert value_of(await second) == 2


@pytest.mark.parametrize("on_change", ["error", "restart"])
async def test_progress_begins_anew_with_the_version(tmp_path: Path, on_change: OnChange) -> None:
    path = tmp_path / "large.safetensors"

    def put(value: int) -> None:
        arrays = {f"{index}": np.full(16 << 20, value, "uint8") for index in range(8)}
        safetensors.numpy.save_file(arrays, tmp_path / "new")
        (tmp_path / "new").rename(path)

    put(1)
    async with asyncload.Loader(processes=1) as loader:
        first = loader.prefetch(path, on_change=on_change)
        async for event in first.events():
            if isinstance(event, TensorReady):
                break
        put(2)
        second = loader.prefetch(path, on_change=on_change)
        assert (await second)["0"][0] == 2
        with suppress(asyncload.SourceChanged):
            await first
        for load in (first, second):
            async for _ in load.events():
                pass
            assert load.progress.tensors_total == 8
            assert load.progress.tensors_done <= 8
            assert load.progress.bytes_done <= 8 * 16 << 20
        assert second.progress.tensors_done == 8
        assert second.progress.bytes_done == 8 * 16 << 20


async def test_a_file_that_was_removed(path: Path, loader: asyncload.Loader) -> None:
    async with stopped(loader):
        first = loader.prefetch(path)
        await until(lambda: loader.budget.waiting)
        path.unlink()
        with pytest.raises(asyncload.NotFound):
            await loader.load(path)
    with pytest.raises(asyncload.SourceChanged):
        await first


async def test_any_moment_of_replacing(path: Path, loader: asyncload.Loader) -> None:
    """Who asks after a version was put there never gets one that was there before."""

    async def ask(floor: int) -> None:
        with suppress(asyncload.SourceChanged):
            assert value_of(await loader.load(path, on_change="restart")) >= floor

    async with asyncio.TaskGroup() as group:
        for version in range(1, 40):
            replace_file(path, version)
            for _ in range(3):
                group.create_task(ask(version))
                await asyncio.sleep(0.0005 * (version % 4))
    assert value_of(await loader.load(path)) == 39


# --- waiters -------------------------------------------------------------------------------


async def test_one_cancelled_leaves_the_rest(path: Path, loader: asyncload.Loader) -> None:
    async with stopped(loader):
        waiting = [asyncio.ensure_future(loader.load(path)) for _ in range(3)]
        await until(lambda: loader.budget.waiting)
        waiting[0].cancel()
        waiting[2].cancel()
        await asyncio.wait([waiting[0], waiting[2]])
        await asyncio.sleep(0.01)
        assert loader.budget.waiting == 1
    assert value_of(await waiting[1]) == 1
    assert waiting[0].cancelled()


async def test_the_last_one_ends_it(path: Path, loader: asyncload.Loader) -> None:
    async with stopped(loader):
        waiting = [asyncio.ensure_future(loader.load(path)) for _ in range(3)]
        await until(lambda: loader.budget.waiting)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        await until(lambda: not loader.budget.waiting)
    assert value_of(await loader.load(path)) == 1


async def test_a_prefetch_goes_on_when_those_who_joined_it_leave(
    path: Path, loader: asyncload.Loader
) -> None:
    async with stopped(loader):
        load = loader.prefetch(path)
        joined = asyncio.ensure_future(loader.load(path))
        await until(lambda: loader.budget.waiting)
        joined.cancel()
        await asyncio.wait([joined])
        await asyncio.sleep(0.01)
        assert loader.budget.waiting == 1
    assert value_of(await load) == 1


async def test_a_cancelled_prefetch_takes_nobody_with_it(
    path: Path, loader: asyncload.Loader
) -> None:
    async with stopped(loader):
        load = loader.prefetch(path)
        joined = asyncio.ensure_future(loader.load(path))
        await until(lambda: loader.budget.waiting)
        load.cancel()
    assert value_of(await joined) == 1
    assert [event async for event in load.events()][-1].error == "CancelledError"  # type: ignore[attr-defined]


async def test_whoever_comes_when_the_last_one_leaves(path: Path, loader: asyncload.Loader) -> None:
    for turns in range(8):
        async with stopped(loader):
            first = asyncio.ensure_future(loader.load(path))
            await until(lambda: loader.budget.waiting)
            first.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            second = asyncio.ensure_future(loader.load(path))
            await asyncio.wait([first])
        assert value_of(await second) == 1


async def test_one_of_two_cancelled_at_every_event(
    tmp_path: Path, loader: asyncload.Loader
) -> None:
    uri = save("functional", tmp_path)
    stock = keras.models.load_model(uri)
    whole = loader.prefetch(uri, priority="demand")  # one in the background tells of its pace
    count = len([event async for event in whole.events()])
    del whole
    for stop_at in range(0, count - 1, 3):
        leaving = loader.prefetch(uri, priority="demand")
        staying = asyncio.ensure_future(loader.load(uri))
        events = leaving.events()
        for _ in range(stop_at + 1):
            await anext(events)
        await events.aclose()
        leaving.cancel()
        assert_same_model(await staying, stock)


async def test_an_error_is_everybodys(path: Path, loader: asyncload.Loader) -> None:
    os.truncate(path, 200)
    results = await asyncio.gather(*(loader.load(path) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(each, asyncload.FormatError) for each in results)


async def test_closing_ends_all_of_them(path: Path) -> None:
    async with asyncload.Loader(processes=1, memory=LIMIT) as loader:
        async with stopped(loader):
            waiting = [asyncio.ensure_future(loader.load(path)) for _ in range(3)]
            unawaited = loader.prefetch(path)
            await until(lambda: loader.budget.waiting)
            await loader.aclose()
        for each in (*waiting, unawaited):
            with pytest.raises(asyncload.LoaderClosed):
                await each


def test_a_loop_that_stops_during_a_prefetch(path: Path) -> None:
    async def main() -> None:
        loader = asyncload.Loader(processes=1, memory=LIMIT)
        async with stopped(loader):
            loader.prefetch(path)
            joined = asyncio.ensure_future(loader.load(path))
            await until(lambda: loader.budget.waiting)
            del joined

    asyncio.run(main())


@pytest.mark.parametrize("turns", range(10))
def test_a_loop_that_stops_at_any_turn(path: Path, turns: int) -> None:
    """The loop's end cancels what has not begun, and whoever waits for that must not hang."""

    async def main() -> None:
        loader = asyncload.Loader(executor="thread")
        loads = [asyncio.ensure_future(loader.load(path)) for _ in range(2)]
        for _ in range(turns):
            await asyncio.sleep(0)
        del loads

    asyncio.run(main())


async def test_an_unknown_priority(path: Path, loader: asyncload.Loader) -> None:
    with pytest.raises(ValueError, match="'demand' or 'background', not 'soon'"):
        loader.prefetch(path, priority="soon")  # type: ignore[arg-type]
