"""What slots and caches hold counts in their Loader's budget, and no longer than it is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload.events import Event, Finished

MIB = 1 << 20


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Return three files of weights, of 8, 8 and 16 MiB."""
    paths = [tmp_path / f"{index}.safetensors" for index in range(3)]
    for path, size in zip(paths, (8, 8, 16), strict=True):
        safetensors.numpy.save_file({"a": np.ones(size * MIB, "uint8")}, path)
    return [str(path) for path in paths]


class Cancelling:
    """An observer that cancels a task in the moment in which a load has ended."""

    def __init__(self) -> None:
        self.task: asyncio.Task[object] | None = None

    def __call__(self, event: Event) -> None:
        if self.task is not None and isinstance(event, Finished):
            self.task.cancel()


@pytest.fixture
def cancelling() -> Cancelling:
    return Cancelling()


@pytest.fixture
async def loader(cancelling: Cancelling) -> AsyncIterator[asyncload.Loader]:
    """A Loader with memory for the small ones, or the large one, but not for all."""
    async with asyncload.Loader(
        executor="thread", memory=28 * MIB, keep=0, observer=cancelling
    ) as made:
        yield made


async def test_a_slot_counts_what_serves(loader: asyncload.Loader, files: list[str]) -> None:
    async with asyncload.ModelSlot(files[0], loader=loader) as slot:
        assert loader.budget.kept == 8 * MIB
        await slot.swap(files[2])
        assert loader.budget.kept == 16 * MIB
        with pytest.raises(asyncload.NotFound):
            await slot.swap("nothing.safetensors")
        assert loader.budget.kept == 16 * MIB
    assert loader.budget.held == 0


async def test_what_a_check_refuses_counts_no_more(
    loader: asyncload.Loader, files: list[str]
) -> None:
    async def check(weights: asyncload.Weights) -> None:
        if weights.nbytes > 8 * MIB:
            raise ValueError("too large")

    async with asyncload.ModelSlot(files[0], loader=loader, check=check) as slot:
        with pytest.raises(asyncload.errors.SwapRefused):
            await slot.swap(files[2])
        assert loader.budget.kept == 8 * MIB


async def test_a_swap_that_is_cancelled_as_its_load_ends(
    loader: asyncload.Loader, files: list[str], cancelling: Cancelling
) -> None:
    async with asyncload.ModelSlot(files[0], loader=loader) as slot:
        cancelling.task = asyncio.create_task(slot.swap(files[1]))
        await asyncio.wait([cancelling.task])
        assert cancelling.task.cancelled()
        cancelling.task = None
        async with asyncio.timeout(5):
            while loader.budget.held != 8 * MIB:
                await asyncio.sleep(0.01)


async def test_a_cache_counts_what_it_holds(loader: asyncload.Loader, files: list[str]) -> None:
    async with asyncload.ModelCache(loader, max_bytes=20 * MIB) as cache:
        await cache.preload(files[:2])
        assert loader.budget.kept == 16 * MIB
        assert await cache.evict(files[0])
        assert loader.budget.kept == 8 * MIB
    assert loader.budget.held == 0


async def test_a_load_that_is_cancelled_as_it_ends_counts_no_more(
    loader: asyncload.Loader, files: list[str], cancelling: Cancelling
) -> None:
    async with asyncload.ModelCache(loader, max_bytes=20 * MIB) as cache:

        async def use() -> None:
            async with cache.get(files[0]):
                pass

        cancelling.task = asyncio.create_task(use())
        await asyncio.wait([cancelling.task])
        assert cancelling.task.cancelled()
        cancelling.task = None
        async with asyncio.timeout(5):
            while loader.budget.kept != sum(each.nbytes for each in cache.status.models):
                await asyncio.sleep(0.01)
    assert loader.budget.held == 0


async def test_a_load_on_demand_has_idle_models_evicted(
    loader: asyncload.Loader, files: list[str]
) -> None:
    async with asyncload.ModelCache(loader, max_bytes=20 * MIB) as cache:
        await cache.preload(files[:2])
        async with cache.get(files[0]):
            async with asyncio.timeout(5):
                weights = await loader.load(files[2])
            assert weights.nbytes == 16 * MIB
            assert [model.uri for model in cache.status.models] == [files[0]]
        assert loader.budget.kept == 8 * MIB
