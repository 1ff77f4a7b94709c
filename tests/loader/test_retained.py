"""What a result takes stays counted for those who keep it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import asyncload

NBYTES = 4 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    safetensors.numpy.save_file({"a": np.ones(NBYTES, "uint8")}, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


async def test_without_retain_it_counts_no_more(path: Path, loader: asyncload.Loader) -> None:
    weights = await loader.load(path)
    assert loader.budget.held == 0
    assert weights.nbytes == NBYTES


async def test_it_counts_until_it_is_released(path: Path, loader: asyncload.Loader) -> None:
    load = loader.prefetch(path)
    retained = load.retain()
    assert retained.nbytes == 0
    await load
    assert loader.budget.kept == retained.nbytes == NBYTES
    retained.resize(10)
    assert loader.budget.held == 10
    retained.release()
    retained.release()
    assert loader.budget.held == 0


async def test_there_is_no_moment_in_which_it_does_not_count(
    path: Path, loader: asyncload.Loader
) -> None:
    load = loader.prefetch(path)
    load.retain()
    began = False
    while not load.done():
        held = loader.budget.held
        began = began or held > 0
        assert not began or held >= NBYTES
        await asyncio.sleep(0)
    assert began
    assert loader.budget.held == NBYTES


async def test_those_who_share_it_count_it_once(path: Path, loader: asyncload.Loader) -> None:
    loads = [loader.prefetch(path) for _ in range(3)]
    retained = [load.retain() for load in loads]
    results = await asyncio.gather(*loads)
    assert results[0] is results[1] is results[2]
    assert loader.budget.held == NBYTES
    for each in retained[:2]:
        each.release()
        assert loader.budget.held == NBYTES
    retained[2].release()
    assert loader.budget.held == 0


async def test_of_what_failed_or_was_cancelled_nothing_counts(
    path: Path, loader: asyncload.Loader
) -> None:
    cancelled = loader.prefetch(path, shared=False)
    broken = loader.prefetch(path.with_name("none.safetensors"))
    kept = [load.retain() for load in (cancelled, broken)]
    cancelled.cancel()
    results = await asyncio.gather(cancelled, broken, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert isinstance(results[1], asyncload.NotFound)
    async for _ in cancelled.events():
        pass
    assert [each.nbytes for each in kept] == [0, 0]
    assert loader.budget.held == 0
    with pytest.raises(ValueError, match="no memory"):
        kept[1].resize(1)


async def test_one_s_own_is_shared_with_nobody(path: Path, loader: asyncload.Loader) -> None:
    loads = [loader.load(path), loader.load(path, shared=False), loader.load(path)]
    shared, own, again = await asyncio.gather(*loads)
    assert shared is again
    assert own is not shared
