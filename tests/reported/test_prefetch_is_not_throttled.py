"""An awaited prefetch stayed throttled, and others' work starved loads in an idle program."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload.events import Paced
from asyncload.interfaces import Urgency
from tests.busy import busy_neighbours, busy_program

SIZE = 64 << 20
LEAST_OF_AN_IDLE_PROGRAM = 0.6  # of each thread's time


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("throttled") / "w.safetensors"
    safetensors.numpy.save_file({"w": np.ones(SIZE, "uint8")}, path)
    return path


@pytest.fixture
async def held_back(weights: Path) -> AsyncIterator[asyncload.Load[asyncload.Weights]]:
    """A load in the background of a busy program, which waits for memory."""
    with busy_program():
        async with asyncload.Loader(processes=1, max_stall_ms=1e6) as loader:
            async with loader.budget.take(loader.memory):
                load = loader.prefetch(weights)
                while load.progress.pace > 0.3:
                    await asyncio.sleep(0.001)
                yield load
            await load.over()


async def test_who_awaits_it_needs_it_now(held_back: asyncload.Load[asyncload.Weights]) -> None:
    urgencies, paces = [held_back.urgency], []
    waiting = asyncio.ensure_future(held_back)
    await asyncio.sleep(0)
    urgencies.append(held_back.urgency)
    paces.append(held_back.progress.pace)
    held_back.cancel()
    await asyncio.wait([waiting])
    assert urgencies == [Urgency.BACKGROUND, Urgency.DEMAND]
    assert paces == [1]


async def test_who_can_wait_says_so(held_back: asyncload.Load[asyncload.Weights]) -> None:
    patient = asyncio.create_task(held_back.patiently())
    await asyncio.sleep(0)
    assert held_back.urgency is Urgency.AWAITED
    waiting = asyncio.ensure_future(held_back)
    await asyncio.sleep(0)
    waiting.cancel()  # one leaves, the other waits on
    await asyncio.wait([waiting])
    urgency, pace = held_back.urgency, held_back.progress.pace
    patient.cancel()  # the last one
    await asyncio.wait([patient])
    assert (urgency, pace < 1) == (Urgency.AWAITED, True)
    assert held_back.done()


async def test_busy_neighbours_do_not_starve_it(weights: Path) -> None:
    async with asyncload.Loader(processes=1) as loader:
        with busy_neighbours(), loader.pace.errand():
            await asyncio.sleep(0.5)  # what the program does is known by then
            load, paces = loader.prefetch(weights), {loader.pace.value}
            while not load.done():
                await asyncio.sleep(0.001)
                paces |= {load.progress.pace, loader.pace.value}
    assert min(paces) >= LEAST_OF_AN_IDLE_PROGRAM


async def test_a_program_that_blocks_its_own_loop_does_not_slow_it_down(weights: Path) -> None:
    async with asyncload.Loader(processes=1, max_stall_ms=10) as loader:
        load = loader.prefetch(weights)
        while not load.done():
            time.sleep(0.03)
            await asyncio.sleep(0.001)
        paced = [event async for event in load.events() if isinstance(event, Paced)]
    assert all(event.stall < 0.01 for event in paced)
