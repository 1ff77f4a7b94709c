"""Many models within a number of bytes: single flight, leases that pin, the oldest goes first."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncload
from asyncload.errors import Corrupt, MemoryLimitExceeded, NotFound, ServingClosed
from asyncload.events import Event, Started
from asyncload.serving._cache import ModelCache
from asyncload.serving._lru import Share, to_evict
from tests.serving.models import version_of

SIZE = 160  # bytes of a model's tensors


@pytest.fixture
def begun() -> Counter[str]:
    """Return how often the load of each URI has begun."""
    return Counter()


@pytest.fixture
async def loader(begun: Counter[str]) -> AsyncIterator[asyncload.Loader]:
    def note(event: Event) -> None:
        if isinstance(event, Started):
            begun[event.uri] += 1

    async with asyncload.Loader(executor="thread", observer=note) as made:
        yield made


@pytest.fixture
def uris(saved: Path) -> list[str]:
    """Return the URIs of versions 0 (which is none) to 5."""
    return [str(saved / str(version) / "model.keras") for version in range(6)]


async def used(cache: ModelCache, uri: str) -> int:
    async with cache.get(uri) as model:
        return await asyncio.to_thread(version_of, model)


def held(cache: ModelCache) -> list[str]:
    return [model.uri for model in cache.status.models]


# --- decisions -----------------------------------------------------------------------------


def test_the_oldest_idle_ones_go() -> None:
    shares = [Share("a", 5, True), Share("b", 5, False), Share("c", 5, True), Share("d", 5, True)]
    assert to_evict(shares, 20) == []
    assert to_evict(shares, 19) == ["a"]
    assert to_evict(shares, 10) == ["a", "c"]
    assert to_evict(shares, 5) == ["a", "c", "d"]
    assert to_evict(shares, 4) is None


@given(
    st.lists(st.builds(Share, st.uuids().map(str), st.integers(0, 9), st.booleans())),
    st.integers(-5, 60),
)
def test_what_goes_is_idle_enough_and_no_more(shares: list[Share], limit: int) -> None:
    victims = to_evict(shares, limit)
    busy = sum(share.nbytes for share in shares if not share.idle)
    assert (victims is None) == (busy > limit)
    if victims:
        gone = [share for share in shares if share.uri in victims]
        assert all(share.idle for share in gone)
        left = sum(share.nbytes for share in shares) - sum(share.nbytes for share in gone)
        assert left <= limit < left + gone[-1].nbytes


# --- use -----------------------------------------------------------------------------------


async def test_the_one_used_least_recently_goes(
    loader: asyncload.Loader, uris: list[str], begun: Counter[str]
) -> None:
    async with ModelCache(loader, max_bytes=3 * SIZE) as cache:
        for version in (1, 2, 3, 1, 4, 1):
            assert await used(cache, uris[version]) == version
        assert held(cache) == [uris[3], uris[4], uris[1]]
        assert cache.status.nbytes == cache.status.max_bytes == 3 * SIZE
        assert await used(cache, uris[2]) == 2
        assert begun == {uris[1]: 1, uris[2]: 2, uris[3]: 1, uris[4]: 1}
    assert held(cache) == []


async def test_signatures_and_weights(
    loader: asyncload.Loader, exported: Path, tmp_path: Path
) -> None:
    import numpy as np

    np.save(tmp_path / "a.npy", np.ones(10))
    async with ModelCache(loader, max_bytes="1MiB") as cache:
        assert await used(cache, str(exported / "2")) == 2
        async with cache.get(tmp_path / "a.npy") as weights:
            assert [array.sum() for array in weights.values()] == [10]
        assert [each.nbytes for each in cache.status.models] == [SIZE, 80]


async def test_what_was_dropped_is_gone(loader: asyncload.Loader, uris: list[str]) -> None:
    async with ModelCache(loader, max_bytes=SIZE) as cache:
        async with cache.get(uris[1]) as model:
            gone = weakref.ref(model)
            del model
        await used(cache, uris[2])
        await asyncio.sleep(0.05)  # the construction thread lets go of its last call
        gc.collect()
        assert gone() is None


async def test_single_flight(
    loader: asyncload.Loader, uris: list[str], begun: Counter[str]
) -> None:
    async with ModelCache(loader, max_bytes=3 * SIZE) as cache:
        models: set[int] = set()

        async def use() -> None:
            async with cache.get(uris[1]) as model:
                models.add(id(model))

        await asyncio.gather(*(use() for _ in range(20)))
        assert len(models) == 1
        assert begun == {uris[1]: 1}


async def test_one_cancelled_leaves_the_rest(loader: asyncload.Loader, uris: list[str]) -> None:
    async with ModelCache(loader, max_bytes=3 * SIZE) as cache:
        first, second = (asyncio.create_task(used(cache, uris[1])) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == 1
        assert first.cancelled()


async def test_all_cancelled_ends_the_load(loader: asyncload.Loader, uris: list[str]) -> None:
    async with ModelCache(loader, max_bytes=3 * SIZE) as cache:
        for turn in range(10):
            tasks = [asyncio.create_task(used(cache, uris[1])) for _ in range(2)]
            await asyncio.sleep(turn * 0.002)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if not all(task.cancelled() for task in tasks):
                break
            assert held(cache) in ([], uris[1:2])
        assert await used(cache, uris[1]) == 1


async def test_a_lease_pins(loader: asyncload.Loader, uris: list[str]) -> None:
    async with ModelCache(loader, max_bytes=2 * SIZE) as cache:
        async with cache.get(uris[1]) as model:
            for version in (2, 3, 4):
                assert await used(cache, uris[version]) == version
            assert version_of(model) == 1
            assert not await cache.evict(uris[1])
            assert held(cache) == [uris[1], uris[4]]
        assert await cache.evict(uris[1])
        assert held(cache) == [uris[4]]


async def test_a_load_waits_for_leases_to_end(loader: asyncload.Loader, uris: list[str]) -> None:
    async with ModelCache(loader, max_bytes=SIZE) as cache:
        async with cache.get(uris[1]):
            second = asyncio.create_task(used(cache, uris[2]))
            await asyncio.sleep(0.1)
            assert not second.done()
        assert await second == 2


async def test_leases_that_do_not_end(loader: asyncload.Loader, uris: list[str]) -> None:
    async with ModelCache(loader, max_bytes=SIZE, lease_timeout=0.1) as cache:
        async with cache.get(uris[1]):
            with pytest.raises(MemoryLimitExceeded, match=r"too many.*\(160 bytes\) by task "):
                await used(cache, uris[2])
            assert held(cache) == [uris[1]]
        assert await used(cache, uris[2]) == 2


async def test_everybody_gets_what_they_asked_for(
    loader: asyncload.Loader, uris: list[str]
) -> None:
    """More are asked for at once than there is room for, each by several."""
    async with ModelCache(loader, max_bytes=2 * SIZE) as cache:
        wanted = [version for version in range(1, 6) for _ in range(4)]
        for _ in range(2):
            answers = await asyncio.gather(*(used(cache, uris[version]) for version in wanted))
            assert list(answers) == wanted
            assert cache.status.nbytes <= 2 * SIZE


async def test_preload(loader: asyncload.Loader, uris: list[str], begun: Counter[str]) -> None:
    async with ModelCache(loader, max_bytes=3 * SIZE) as cache:
        await cache.preload(uris[1:4])
        assert sorted(held(cache)) == uris[1:4]
        assert await used(cache, uris[2]) == 2
        assert begun.total() == 3
        with pytest.raises(MemoryLimitExceeded, match="4 models do not fit"):
            await cache.preload(uris[1:5])
        with pytest.raises(ExceptionGroup) as caught:
            await cache.preload([uris[0], uris[2]])
        assert [type(each) for each in caught.value.exceptions] == [NotFound]
        assert uris[2] in held(cache)


async def test_a_model_that_is_too_large(loader: asyncload.Loader, uris: list[str]) -> None:
    async with ModelCache(loader, max_bytes=SIZE - 1) as cache:
        with pytest.raises(MemoryLimitExceeded, match=r"160 bytes of tensors.*room for 159"):
            await used(cache, uris[1])
        assert cache.status.nbytes == 0


async def test_a_cache_that_is_larger_than_memory(saved: Path) -> None:
    async with asyncload.Loader(executor="thread", memory="1MiB") as loader:
        with pytest.raises(MemoryLimitExceeded, match="its Loader may use"):
            ModelCache(loader, max_bytes="2MiB")
    async with asyncload.Loader(executor="thread", memory="900TiB") as loader:
        with pytest.raises(MemoryLimitExceeded, match="this machine has"):
            ModelCache(loader, max_bytes="800TiB")


async def test_failures_are_told_and_not_kept(
    loader: asyncload.Loader, uris: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(Path(uris[1]).read_bytes()[:-500])
    async with ModelCache(loader, max_bytes=SIZE) as cache:
        outcomes: list[Any] = await asyncio.gather(
            *(used(cache, str(path)) for _ in range(3)), return_exceptions=True
        )
        assert [type(each) for each in outcomes] == [Corrupt] * 3
        assert held(cache) == []
        path.write_bytes(Path(uris[1]).read_bytes())
        assert await used(cache, str(path)) == 1


async def test_closed(loader: asyncload.Loader, uris: list[str]) -> None:
    async with ModelCache(loader, max_bytes=SIZE, lease_timeout=0.1) as cache:
        lease = cache.get(uris[1])
        model = await lease.__aenter__()
        waiting = asyncio.create_task(used(cache, uris[2]))
        await asyncio.sleep(0.01)
    with pytest.raises(ServingClosed):
        await waiting
    with pytest.raises(ServingClosed):
        await used(cache, uris[1])
    assert version_of(model) == 1
    await lease.__aexit__(None, None, None)
    await cache.aclose()


async def test_the_default_loader(uris: list[str]) -> None:
    async with ModelCache(max_bytes="1MiB") as cache:
        assert await used(cache, uris[1]) == 1
    await asyncload.aclose()
