"""Formats other than those of the other benchmarks, and what their indexes cost.

python benchmarks/bench_formats.py [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile

import uvloop
from _measure import Options, Report, options, read_all
from bench_keras import model_file

import asyncload
from asyncload.events import Event, StageEnded, StageStarted

CACHED_LIMIT = 5.0  # milliseconds


async def main(given: Options) -> None:
    report = Report("Formats", given)
    await index_cache(report, given)
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


async def index_cache(report: Report, given: Options) -> None:
    """Time the index of one archive as the file gives it, and as the cache does."""
    name = "EfficientNetB0" if given.quick else "EfficientNetB7"
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
            for _ in range(1 + given.rounds):
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


if __name__ == "__main__":
    uvloop.run(main(options(__doc__)))
