"""How long the event loop stalls while a model loads: asyncload, Keras in a thread, nothing.

python benchmarks/bench_loop.py [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop
from _measure import Options, Report, options, read_all, seconds
from bench_keras import model_file

import asyncload
from asyncload._probe import LoopProbe, Stall

MODELS = ("VGG16", "EfficientNetB7")
QUICK = ("EfficientNetB0",)

P99 = 2.0  # ms, while asyncload loads
MAX = 15.0  # ms
IMPORT = 60.0  # ms above a bare interpreter
IDLE = 2.0  # seconds


async def main(given: Options) -> None:
    import keras

    report = Report("Event loop", given)
    idle = await probed(lambda: asyncio.sleep(IDLE), 1)
    show(report, "nothing loads", idle[0])
    async with asyncload.Loader(index_cache=False) as loader:
        for name in QUICK if given.quick else MODELS:
            path = await asyncio.to_thread(model_file, name)
            await asyncio.to_thread(read_all, [path])

            async def ours(path: Path = path) -> Any:
                return await loader.load(path, compile=False)

            async def stock(path: Path = path) -> Any:
                return await asyncio.to_thread(keras.models.load_model, path, compile=False)

            await ours()
            await measure(report, name, ours, stock, given.rounds)
    await import_time(report)
    report.finish()


async def measure(
    report: Report,
    name: str,
    ours: Callable[[], Awaitable[Any]],
    stock: Callable[[], Awaitable[Any]],
    rounds: int,
) -> None:
    """Load in turns; the stall is over all rounds, not of the best."""
    lags: dict[str, list[float]] = {"asyncload": [], "keras": []}
    took: dict[str, list[float]] = {"asyncload": [], "keras": []}
    for _ in range(rounds):
        for way, work in (("asyncload", ours), ("keras", stock)):
            gc.collect()
            async with LoopProbe() as probe:
                elapsed, model = await seconds(work)
            del model
            took[way].append(elapsed)
            lags[way] += probe.lags
    report.runs(name, took)
    stall = Stall.of(lags["asyncload"])
    report.bound(f"{name}, asyncload, stall p99", stall.p99, "ms", at_most=P99)
    report.bound(f"{name}, asyncload, stall max", stall.max, "ms", at_most=MAX)
    show(report, f"{name}, keras in a thread", Stall.of(lags["keras"]))


async def probed(work: Callable[[], Awaitable[Any]], rounds: int) -> list[Stall]:
    """Return the stall in each of several calls."""
    stalls = []
    for _ in range(rounds):
        async with LoopProbe() as probe:
            await work()
        stalls.append(probe.stall)
    return stalls


def show(report: Report, what: str, stall: Stall) -> None:
    """Note a stall of which nothing is asked."""
    for label in ("p50", "p99", "max"):
        report.note(f"{what}, stall {label}", getattr(stall, label), "ms")


async def import_time(report: Report) -> None:
    """Measure ``import asyncload`` above a bare interpreter, best of ten in turns."""
    import sys

    async def start(code: str) -> float:
        async def once() -> None:
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
            if await process.wait():
                raise SystemExit(f"{code!r} failed")

        return (await seconds(once))[0]

    runs = [(await start("pass"), await start("import asyncload")) for _ in range(10)]
    bare, loaded = (min(column) for column in zip(*runs, strict=True))
    report.bound("import asyncload", (loaded - bare) * 1e3, "ms", at_most=IMPORT)


if __name__ == "__main__":
    uvloop.run(main(options(__doc__)))
