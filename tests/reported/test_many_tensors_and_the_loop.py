"""Files with very many tensors: the loop's thread is never busy for long, and limits can be lifted.

What is measured is CPU time of the loop's thread, which a busy machine does not change, and
whether a full garbage collection begins.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
import zipfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest

import asyncload

pytestmark = pytest.mark.either_loop

MANY = 30_000


def safetensors(path: Path) -> Path:
    header = {
        f"layers.{number:06d}.w": {
            "dtype": "U8",
            "shape": [1],
            "data_offsets": [number, number + 1],
        }
        for number in range(MANY)
    }
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(MANY))
    return path


def sharded(path: Path) -> Path:
    shard = safetensors(path.with_suffix(".safetensors"))
    named = {f"layers.{number:06d}.w": shard.name for number in range(MANY)}
    path = path.with_suffix(".safetensors.index.json")
    path.write_text(json.dumps({"weight_map": named}))
    return path


def chunks(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        file.create_dataset("c", data=np.zeros(MANY, "u1"), chunks=(1,))
    return path


def datasets(path: Path) -> Path:
    with h5py.File(path, "w", libver="latest") as file:
        for number in range(MANY // 4):
            file[f"d{number}"] = np.uint8(0)
    return path


def members(path: Path) -> Path:
    np.savez(path, **{f"d{number}": np.uint8(0) for number in range(MANY // 4)})  # type: ignore[arg-type]
    return path


@contextmanager
def full_collections() -> Iterator[list[float]]:
    """Collect the seconds that full collections took."""
    took: list[float] = []

    def notice(phase: str, info: dict[str, int]) -> None:
        if info["generation"] == 2:
            took.append(-time.perf_counter() if phase == "start" else time.perf_counter())

    gc.callbacks.append(notice)
    try:
        yield took
    finally:
        gc.callbacks.remove(notice)


async def busiest(work: Callable[[], Awaitable[object]]) -> float:
    """Return the most seconds of CPU time that the loop's thread spent in a row."""
    most = 0.0
    task = asyncio.ensure_future(work())
    before = time.thread_time()
    while not task.done():
        await asyncio.sleep(0.001)
        most, before = max(most, time.thread_time() - before), time.thread_time()
    await task
    return most


def assets(path: Path) -> Path:
    with h5py.File(path, "w"):
        pass
    weights = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", weights)
        for number in range(MANY // 4):
            archive.writestr(f"assets/{number}", b"")
    return path


MAKERS = {
    "a.keras": assets,
    "m.safetensors": safetensors,
    "i.index": sharded,
    "c.h5": chunks,
    "d.h5": datasets,
    "m.npz": members,
}


@pytest.mark.parametrize("name", MAKERS)
async def test_the_loop_goes_on(tmp_path: Path, name: str) -> None:
    path = MAKERS[name](tmp_path / name)
    asyncio.get_running_loop().set_debug(False)
    async with asyncload.Loader(index_cache=False) as loader:
        await loader.inspect(path)  # what is imported at first use is
        for work in (loader.inspect, loader.load_weights):
            gc.collect()
            with full_collections() as took:
                assert await busiest(lambda work=work: work(path)) < 0.05  # type: ignore[misc]
            assert took == []


async def test_seconds_and_memory_of_workers_are_options(tmp_path: Path) -> None:
    path = safetensors(tmp_path / "m.safetensors")
    async with asyncload.Loader(max_worker_seconds=0.05) as loader:
        with pytest.raises(asyncload.TooLarge, match=r"0\.05 s.*Loader\(max_worker_seconds="):
            await loader.inspect(path)
    async with asyncload.Loader(max_worker_memory="12MiB") as loader:
        with pytest.raises(asyncload.TooLarge, match=r"12 MiB.*Loader\(max_worker_memory="):
            await loader.inspect(path)
    async with asyncload.Loader(max_worker_seconds=None, max_worker_memory=None) as loader:
        assert len((await loader.inspect(path)).tensors) == MANY
    async with asyncload.Loader(max_tensors=MANY - 1) as loader:
        with pytest.raises(asyncload.TooLarge, match=r"Loader\(max_tensors="):
            await loader.inspect(sharded(tmp_path / "i.index"))
