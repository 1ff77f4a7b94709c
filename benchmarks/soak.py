"""Load, cancel, break and kill for minutes; what the process holds must stay level.

python benchmarks/soak.py [--minutes M] [--seed N]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import psutil
import safetensors.numpy
import uvloop
from _measure import CACHE
from rich.console import Console

import asyncload

WARM_UP = 30  # turns before the first look: caches and pools fill in them
KEEP = 32 << 20  # bytes of dropped arrays' memory that the Loader keeps: else gigabytes, in the end
LEVEL = 64 << 20  # bytes by which resident memory may differ between the looks
SLABS = 64 << 20  # bytes of slabs that a pool may hold when nothing loads
DESCRIPTORS = 8  # by which open descriptors may differ, slabs' apart: a worker more or less

Turn = Callable[[asyncload.Loader, dict[str, Path], random.Random], Awaitable[None]]


def files() -> dict[str, Path]:
    """Return inputs of each kind, made on first use: good, encoded, broken."""
    folder = CACHE / "soak"
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).standard_normal((8, 512, 512), np.float32)
    arrays = {f"layer{i}/kernel": np.ascontiguousarray(values[i]) for i in range(len(values))}
    found = {
        "raw": folder / "raw.safetensors",
        "packed": folder / "packed.npz",
        "broken": folder / "broken.safetensors",
        "served": folder / "served",
    }
    if not found["served"].exists():
        save_model(found["served"])
    safetensors.numpy.save_file(arrays, found["raw"])
    np.savez_compressed(found["packed"], *arrays.values())
    found["broken"].write_bytes(found["raw"].read_bytes()[:-4096])
    return found


def save_model(folder: Path) -> None:
    """Save a SavedModel with variables and a table, which its signature needs."""
    import tensorflow as tf

    module = tf.Module()
    module.kernel = tf.Variable(tf.random.stateless_normal([512, 512], (1, 2)))
    keys = tf.lookup.KeyValueTensorInitializer([0, 1], [1.0, 2.0], tf.int64, tf.float32)
    module.table = tf.lookup.StaticHashTable(keys, 0.0)
    module.run = tf.function(
        lambda x, key: module.table.lookup(key) * tf.matmul(x, module.kernel),
        input_signature=[
            tf.TensorSpec([None, 512], tf.float32, "x"),
            tf.TensorSpec([], tf.int64, "key"),
        ],
    )
    tf.saved_model.save(module, folder, signatures=module.run)


async def load(loader: asyncload.Loader, uris: dict[str, Path], chance: random.Random) -> None:
    """Load several at once, to the end."""
    await loader.load_many([uris["raw"], uris["packed"]] * chance.randint(1, 3))


async def serve(loader: asyncload.Loader, uris: dict[str, Path], chance: random.Random) -> None:
    """Load signatures, two of them at once, and ask each for an answer."""
    models = await loader.load_many([uris["served"]] * chance.randint(1, 2))
    x, key = np.ones((1, 512), np.float32), chance.randint(0, 1)
    answers = [model(x=x, key=key)["output_0"].numpy().tobytes() for model in models]
    if len(set(answers)) != 1:
        raise SystemExit("two loads of one model gave two answers")


async def cancel(loader: asyncload.Loader, uris: dict[str, Path], chance: random.Random) -> None:
    """Cancel a load at some moment."""
    task = loader.prefetch(uris[chance.choice(["raw", "packed", "served"])])
    await asyncio.sleep(chance.random() * 0.05)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def broken(loader: asyncload.Loader, uris: dict[str, Path], chance: random.Random) -> None:
    """Load a truncated file beside a good one."""
    good = uris[chance.choice(["raw", "packed"])]
    results = await loader.load_many([uris["broken"], good], return_exceptions=True)
    if not isinstance(results[0], asyncload.AsyncloadError) or isinstance(results[1], Exception):
        raise SystemExit(f"expected an error and weights, got {results}")


async def kill(loader: asyncload.Loader, uris: dict[str, Path], chance: random.Random) -> None:
    """Kill a worker while it decodes; the load must come through all the same."""
    task = loader.prefetch(uris["packed"])
    await asyncio.sleep(chance.random() * 0.02)
    if workers := _workers():
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(workers), signal.SIGKILL)
    with contextlib.suppress(asyncload.WorkerCrashed):
        await task


TURNS: dict[Turn, int] = {load: 10, serve: 10, cancel: 10, broken: 4, kill: 1}


def _workers() -> list[int]:
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):  # one that was killed is gone, or a zombie yet
            if "resource_tracker" not in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


def slab_descriptors() -> list[os.stat_result]:
    """Return what each descriptor of shared memory refers to; a slab may have several."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            if link.readlink().name.startswith("memfd:asyncload"):
                found.append(link.stat())
    return found


async def held(loader: asyncload.Loader, uris: dict[str, Path]) -> dict[str, int]:
    """Return what the process holds now, its workers up whatever the last turn did to them."""
    await loader.load_weights(uris["packed"])
    gc.collect()
    own = psutil.Process()
    slabs = slab_descriptors()
    return {
        "resident": own.memory_info().rss,
        "descriptors": own.num_fds() - len(slabs),
        "slabs": sum({slab.st_ino: slab.st_size for slab in slabs}.values()),
        "tasks": len(asyncio.all_tasks()),
    }


async def main(minutes: float, seed: int) -> None:
    console, chance, uris = Console(), random.Random(seed), files()
    counts: Counter[str] = Counter()
    async with asyncload.Loader(processes=2, keep=KEEP) as loader:
        before: dict[str, int] | None = None
        end = time.monotonic() + minutes * 60
        while time.monotonic() < end or before is None:
            (turn,) = chance.choices(list(TURNS), list(TURNS.values()))
            await turn(loader, uris, chance)
            counts[turn.__name__] += 1
            if before is None and counts.total() == WARM_UP:
                before = await held(loader, uris)
        after = await held(loader, uris)
    console.print({"turns": dict(counts), "before": before, "after": after})
    grown = {name: after[name] - before[name] for name in after}
    if grown["resident"] > LEVEL or grown["descriptors"] > DESCRIPTORS or grown["tasks"] > 0:
        raise SystemExit(f"not level: {grown}")
    if after["slabs"] > SLABS:
        raise SystemExit(f"{after['slabs']} bytes of slabs are held; a pool keeps {SLABS}")
    if left := _workers():
        raise SystemExit(f"workers left after closing: {left}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    uvloop.run(main(given.minutes, given.seed))
