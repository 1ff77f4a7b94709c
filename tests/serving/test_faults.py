"""What happens around a swap leaves the slot serving: dead workers, a loop that ends, memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import keras
import numpy as np
import psutil
import pytest

import asyncload
from asyncload.serving._slot import ModelSlot
from tests.serving.models import save, version_of


def workers() -> list[int]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # one that was killed is gone, or a zombie yet
            if "_boot.py" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


async def test_a_worker_is_killed_during_a_swap(saved: Path) -> None:
    loader = asyncload.Loader(processes=1, index_cache=False)
    async with loader, ModelSlot(saved / "1" / "model.keras", loader=loader) as slot:
        serving = 1
        for version in (2, 3):
            swap = asyncio.create_task(slot.swap(saved / str(version) / "model.keras"))
            while not (found := workers()):
                assert not swap.done()
                await asyncio.sleep(0.002)
            for pid in found:
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(asyncload.WorkerCrashed):  # died twice on the same job
                await swap
                serving = version
            assert await slot.run(version_of) == serving
        await slot.swap(saved / "4" / "model.keras")
        assert await slot.run(version_of) == 4


_STOPPED = """
import asyncio, sys
import asyncload

async def main():
    slot = asyncload.ModelSlot(sys.argv[1])
    await slot.__aenter__()
    cache = asyncload.ModelCache(max_bytes="99MiB")
    slot.swapping = asyncio.create_task(slot.swap(sys.argv[2]))
    slot.getting = asyncio.create_task(cache.get(sys.argv[2]).__aenter__())
    await asyncio.sleep(float(sys.argv[3]))
    print("ends", flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("seconds", ["0", "0.05"])
def test_the_loop_stops_during_a_prefetch(seconds: str, tmp_path: Path) -> None:
    models = [str(tmp_path / name) for name in ("small.npz", "large.npz")]
    for path, size in zip(models, (10, 3 << 20), strict=True):
        np.savez_compressed(path, np.random.default_rng(0).random(size))
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "ignore", "-c", _STOPPED, *models, seconds],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=environment,
    )
    assert (done.returncode, done.stdout) == (0, "ends\n"), done.stderr
    assert "never retrieved" not in done.stderr
    assert "was destroyed" not in done.stderr


def large(path: Path, seed: int) -> Path:
    """Save a model of 32 MB."""
    model = keras.Sequential([keras.Input((1024,)), keras.layers.Dense(8192, name="dense")])
    model.layers[0].kernel.assign(np.full((1024, 8192), seed, "float32"))
    model.save(path)
    return path


@pytest.mark.parametrize(("policy", "spare"), [("availability", False), ("resource", True)])
async def test_memory_comes_back_at_once(
    loader: asyncload.Loader, tmp_path: Path, policy: Any, spare: bool
) -> None:
    """Without the garbage collector: models refer to themselves, and it may come much later."""
    paths = [large(tmp_path / f"{seed}.keras", seed) for seed in (1, 2)]
    process, sizes = psutil.Process(), []
    async with ModelSlot(paths[0], loader=loader, policy=policy, spare=spare) as slot:
        gc.collect()
        gc.disable()
        try:
            for turn in range(6):
                await slot.swap(paths[(turn + 1) % 2])
                sizes.append(process.memory_info().rss)
        finally:
            gc.enable()
    assert max(sizes[2:]) - min(sizes[2:]) < 24 << 20, [size >> 20 for size in sizes]


async def test_without_a_spare_nothing_is_kept(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(saved, loader=loader, spare=False) as slot:
        async with slot.lease() as model:
            gone = weakref.ref(model)
            del model
        await slot.swap(1)
        await asyncio.sleep(0.05)  # the construction thread lets go of its last call
        gc.collect()
        assert gone() is None


async def test_a_model_that_is_replaced_while_it_is_loaded(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes((saved / "1" / "model.keras").read_bytes())
    async with ModelSlot(path, loader=loader) as slot:
        save(2, path)
        await slot.swap(path)
        assert await slot.run(version_of) == 2
        assert slot.status.uri == str(path)
