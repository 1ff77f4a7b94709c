"""Formats other than those of the other benchmarks, and what their indexes cost.

python benchmarks/bench_formats.py [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from pathlib import Path
from typing import Any

import uvloop
from _measure import CACHE, Options, Report, alternate, options, read_all
from bench_keras import check, model_file

import asyncload
from asyncload.events import Event, StageEnded, StageStarted

CACHED_LIMIT = 5.0  # milliseconds
LEGACY = 4.0  # times as fast as keras.models.load_model
CHECKPOINT = 2.0  # times as fast as tf.train.load_checkpoint and get_tensor


async def main(given: Options) -> None:
    report = Report("Formats", given)
    name = "EfficientNetB0" if given.quick else "EfficientNetB7"
    await index_cache(report, name, given.rounds)
    await legacy_model(report, name, given.rounds)
    await checkpoint(report, name, given.rounds)
    report.finish()


# --- the index cache ---------------------------------------------------------------------


class IndexTimes:
    """An observer that keeps how long each load's index stage took, in seconds."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self._begin = 0.0

    def __call__(self, event: Event) -> None:
        """Note an event."""
        if isinstance(event, StageStarted) and event.stage == "index":
            self._begin = event.time
        elif isinstance(event, StageEnded) and event.stage == "index":
            self.taken.append(event.time - self._begin)


async def index_cache(report: Report, name: str, rounds: int) -> None:
    """Time the index of one archive as the file gives it, and as the cache does."""
    path = await asyncio.to_thread(model_file, name)
    await asyncio.to_thread(read_all, [path])
    file, cache = IndexTimes(), IndexTimes()
    with tempfile.TemporaryDirectory() as folder:
        async with asyncload.Loader(index_cache=folder) as first:  # closing it completes the cache
            tensors = len((await first.inspect(path)).tensors)
        async with (
            asyncload.Loader(observer=file, index_cache=False) as uncached,
            asyncload.Loader(observer=cache, index_cache=folder) as cached,
        ):
            for _ in range(1 + rounds):
                fresh, kept = await uncached.inspect(path), await cached.inspect(path)
                if fresh != kept:
                    raise SystemExit(f"{path.name}: the cache holds another index than the file")
    # The first of each started the workers, and imported what the cache needs.
    fresh_times, cached_times = file.taken[1:], cache.taken[1:]
    what = f"index of a .keras of {tensors:,} tensors"
    report.runs(what, {"uncached": fresh_times, "cached": cached_times})
    for way, times in (("uncached", fresh_times), ("cached", cached_times)):
        report.note(f"{what}, {way}, median", statistics.median(times) * 1e3, "ms")
    report.bound(f"{what}, cached", min(cached_times) * 1e3, "ms", at_most=CACHED_LIMIT)


# --- legacy HDF5 -------------------------------------------------------------------------


async def legacy_model(report: Report, name: str, rounds: int) -> None:
    """Load a legacy HDF5 model, its index not cached, beside Keras."""
    import keras

    path = await asyncio.to_thread(model_file, name, ".h5")
    await asyncio.to_thread(read_all, [path])
    async with asyncload.Loader(index_cache=False) as loader:

        async def ours() -> Any:
            return await loader.load(path, compile=False)

        async def stock() -> Any:
            return await asyncio.to_thread(keras.models.load_model, path, compile=False)

        check(await ours(), await stock(), path.name)
        took = await alternate({"asyncload": ours, "keras": stock}, rounds)
    report.runs(path.name, took)
    ratio = min(took["keras"]) / min(took["asyncload"])
    report.figure(f"{path.name}, times as fast as Keras", ratio, "x", at_least=LEGACY)


# --- checkpoints -------------------------------------------------------------------------


def checkpoint_file(name: str) -> Path:
    """Return the prefix of a checkpoint of a ``keras.applications`` model."""
    prefix = CACHE / f"{name}.checkpoint" / "ckpt"
    if not prefix.parent.exists():
        import keras
        import tensorflow as tf

        unfinished = prefix.parent.with_name(f"unfinished-{prefix.parent.name}")
        model = getattr(keras.applications, name)(weights=None)
        tf.train.Checkpoint(model=model).write(str(unfinished / prefix.name))
        unfinished.rename(prefix.parent)
    return prefix


def read_stock(prefix: Path) -> dict[str, Any]:
    """Read every tensor of a checkpoint with TensorFlow, but for the object graph."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    names = reader.get_variable_to_shape_map()
    return {name: reader.get_tensor(name) for name in names if not name.startswith("_CHECK")}


async def checkpoint(report: Report, name: str, rounds: int) -> None:
    """Read a checkpoint's weights, checksums compared, beside TensorFlow, which compares too."""
    prefix = await asyncio.to_thread(checkpoint_file, name)
    await asyncio.to_thread(read_all, list(prefix.parent.iterdir()))
    async with asyncload.Loader() as loader:

        async def ours() -> Any:
            return await loader.load_weights(prefix)

        async def stock() -> Any:
            return await asyncio.to_thread(read_stock, prefix)

        weights, expected = await ours(), await stock()
        if any(weights[key].tobytes() != array.tobytes() for key, array in expected.items()):
            raise SystemExit(f"{name}: other weights than TensorFlow reads")
        del weights, expected
        took = await alternate({"asyncload": ours, "tensorflow": stock}, rounds)
    report.runs(f"{name}, checkpoint", took)
    ratio = min(took["tensorflow"]) / min(took["asyncload"])
    report.figure(f"{name}, checkpoint, times as fast", ratio, "x", at_least=CHECKPOINT)


if __name__ == "__main__":
    uvloop.run(main(options(__doc__)))
