"""A version of the same architecture takes the place of the one that was retired before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

import asyncload
from asyncload.errors import Corrupt, SwapRefused
from asyncload.events import Event, FellBack
from asyncload.serving._cache import ModelCache
from asyncload.serving._slot import ModelSlot
from tests.serving.models import ONES, version_of

POLICIES = ["availability", "resource"]


@pytest.fixture
def reasons() -> list[str]:
    """Return why models could not be taken for others."""
    return []


@pytest.fixture
async def loader(reasons: list[str], tmp_path: Path) -> AsyncIterator[asyncload.Loader]:
    def note(event: Event) -> None:
        if isinstance(event, FellBack):
            reasons.append(event.reason)

    async with asyncload.Loader(
        executor="thread", index_cache=tmp_path / "index", observer=note
    ) as made:
        yield made


async def identity(slot: ModelSlot) -> int:
    async with slot.lease() as model:
        return id(model)


@pytest.mark.parametrize("policy", POLICIES)
async def test_nothing_is_built_nor_traced(
    loader: asyncload.Loader, saved: Path, reasons: list[str], policy: Any
) -> None:
    functions: dict[int, Any] = {}

    def ask(model: Any) -> int:
        """Answer as services do, by a function of their own for each model object."""
        function = functions.setdefault(id(model), tf.function(lambda x: model(x)))
        assert version_of(function) == version_of(lambda x: model.predict(x, verbose=0))
        return version_of(model)

    async with ModelSlot(saved, loader=loader, policy=policy) as slot:
        seen = []
        for version in (1, 2, 3, 4, 5):
            await slot.swap(version)
            assert await slot.run(ask) == version
            seen.append(await identity(slot))
        skeletons = 2 if policy == "availability" else 1
        assert len(set(seen)) == skeletons
        assert [one.experimental_get_tracing_count() for one in functions.values()] == [
            1
        ] * skeletons
    assert reasons == []


@pytest.mark.parametrize("policy", POLICIES)
async def test_signatures_take_each_other_s_place(
    loader: asyncload.Loader, exported: Path, reasons: list[str], policy: Any
) -> None:
    async with ModelSlot(exported, loader=loader, policy=policy) as slot:
        seen = []
        for version in (1, 2, 3, 1, 2):
            await slot.swap(version)
            assert await slot.run(version_of) == version
            seen.append(await identity(slot))
        assert len(set(seen)) == (2 if policy == "availability" else 1)
    assert reasons == []


async def test_another_architecture_is_built(
    loader: asyncload.Loader, saved: Path, wide: Path, reasons: list[str]
) -> None:
    async with ModelSlot(saved, loader=loader) as slot:
        await slot.swap(1)  # 5 is the spare
        await slot.swap(wide)
        assert await slot.run(version_of) == 9
        assert len(reasons) == 1
        await slot.swap(2)
        await slot.swap(3)
        assert await slot.run(version_of) == 3


@pytest.mark.parametrize("policy", POLICIES)
async def test_a_swap_that_fails_spoils_no_spare(
    loader: asyncload.Loader, saved: Path, tmp_path: Path, policy: Any, reasons: list[str]
) -> None:
    refused: list[int] = []

    async def check(model: Any) -> None:
        if await asyncio.to_thread(version_of, model) in refused:
            raise ValueError("no")

    broken = tmp_path / "broken.keras"
    broken.write_bytes((saved / "2" / "model.keras").read_bytes()[:-500])
    async with ModelSlot(saved, loader=loader, policy=policy, check=check) as slot:
        await slot.swap(1)
        for turn in range(3):
            with pytest.raises(Corrupt):
                await slot.swap(broken)
            refused.append(3)
            with pytest.raises(SwapRefused):
                await slot.swap(3)
            refused.clear()
            assert await slot.run(version_of) == 1
            cancelled = asyncio.create_task(slot.swap(2))
            await asyncio.sleep(0.004 * turn)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            await slot.swap(1)
            assert await slot.run(version_of) == 1
    assert reasons == []


async def test_a_slot_s_model_is_its_own(loader: asyncload.Loader, saved: Path) -> None:
    """Who loads the same file at the same time is not given the object that will be emptied."""
    path = saved / "1" / "model.keras"
    slot, cache = ModelSlot(path, loader=loader), ModelCache(loader, max_bytes=160)

    async def use() -> int:
        async with cache.get(path) as model:
            return id(model)

    async with cache:
        model, _, cached = await asyncio.gather(loader.load(path), slot.__aenter__(), use())
        assert len({id(model), await identity(slot), cached}) == 3
        await slot.aclose()
    assert version_of(model) == 1


async def test_an_emptied_model_answers_nobody(loader: asyncload.Loader, saved: Path) -> None:
    """What keeps a model beyond its lease gets an error, not another version's answer."""
    async with ModelSlot(saved, loader=loader) as slot:
        async with slot.lease() as kept:
            pass
        await slot.swap(1)
        with pytest.raises(tf.errors.OpError):
            kept(ONES)


async def test_what_a_cache_drops_gives_its_memory_back(
    loader: asyncload.Loader, saved: Path
) -> None:
    async with ModelCache(loader, max_bytes=160) as cache:
        async with cache.get(saved / "1" / "model.keras") as kept:
            pass
        async with cache.get(saved / "2" / "model.keras") as model:
            assert version_of(model) == 2
            with pytest.raises(tf.errors.OpError):
                kept(ONES)


def test_options_of_one_load_are_refused() -> None:
    with pytest.raises(TypeError, match=r"ModelSlot\(\) got .* 'reuse'"):
        ModelSlot("m.keras", reuse=object())  # type: ignore[call-arg]
