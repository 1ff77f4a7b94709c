"""SavedModels: asyncload beside ``tf.saved_model.load``, in turns.

python benchmarks/bench_saved_model.py [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from _measure import CACHE, Options, Report, alternate, options, read_all
from bench_loop import MAX, P99

import asyncload
from asyncload._probe import LoopProbe, Stall

# Model -> side of its images, and how many times faster than stock its signatures should load.
MODELS = {"EfficientNetB7": (600, 15.0), "ResNet152": (224, 10.0)}
QUICK = {"EfficientNetB0": (224, 10.0)}

WHOLE = 1.5  # times as fast
FIRST_ANSWER = 2.0  # times as fast
NEXT_VERSION = 10.0  # times as fast


def exported(name: str) -> Path:
    """Return the export of a ``keras.applications`` model with random weights."""
    path = CACHE / f"{name}.saved_model"
    if not path.exists():
        import keras

        unfinished = path.with_name(f"unfinished-{path.name}")
        getattr(keras.applications, name)(weights=None).export(unfinished, verbose=False)
        unfinished.rename(path)
    return path


class Bench:
    """The ways of loading one SavedModel, and of getting an answer.

    Args:
        loader: asyncload's.
        path: the SavedModel's folder.
        side: of its square images.
    """

    def __init__(self, loader: asyncload.Loader, path: Path, side: int) -> None:
        self._loader = loader
        self._path = path
        self._image = np.random.default_rng(0).random((1, side, side, 3), "float32")

    async def ours(self) -> Any:
        """Load the signatures as asyncload does."""
        return await self._loader.load(self._path)

    async def stock(self) -> Any:
        """Load the whole object as TensorFlow does, in a thread."""
        import tensorflow as tf

        return await asyncio.to_thread(tf.saved_model.load, self._path)

    async def whole(self) -> Any:
        """Load the whole object as asyncload does."""
        return await self._loader.load(self._path, whole=True)

    async def our_first_answer(self) -> Any:
        """Load with asyncload, and get an answer."""
        served = await self.ours()
        return served, await self.answer(served)

    async def stock_first_answer(self) -> Any:
        """Load with TensorFlow, and get an answer."""
        loaded = await self.stock()
        return loaded, await self.answer(loaded.signatures)

    async def answer(self, signatures: Any) -> bytes:
        """Call a signature off the loop, and return the bits of what it gives."""
        import tensorflow as tf

        image = tf.constant(self._image)
        signature = signatures["serving_default"]
        (result,) = (await asyncio.to_thread(signature, image)).values()
        return bytes(result.numpy().tobytes())


async def main(given: Options) -> None:
    report = Report("SavedModels", given)
    async with asyncload.Loader() as loader:
        for name, (side, factor) in (QUICK if given.quick else MODELS).items():
            path = await asyncio.to_thread(exported, name)
            await asyncio.to_thread(read_all, [p for p in path.rglob("*") if p.is_file()])
            bench = Bench(loader, path, side)
            await check(bench, name)
            await loads(report, name, bench, given.rounds, factor)
            await first_answers(report, name, bench, given.rounds)
            await next_version(report, name, bench, given.rounds)
            await stalls(report, name, bench, given.rounds)
    report.finish()


async def check(bench: Bench, name: str) -> None:
    """Refuse to measure what does not give the same answer."""
    stock = await bench.stock()
    expected = await bench.answer(stock.signatures)
    for other in (await bench.ours(), (await bench.whole()).signatures):
        if await bench.answer(other) != expected:
            raise SystemExit(f"{name}: another answer than TensorFlow's")


async def loads(report: Report, name: str, bench: Bench, rounds: int, factor: float) -> None:
    """Measure loading, of the signatures and of the whole object."""
    ways = {"asyncload": bench.ours, "whole": bench.whole, "tensorflow": bench.stock}
    took = await alternate(ways, rounds)
    report.runs(name, took)
    stock = min(took["tensorflow"])
    report.figure(
        f"{name}, signatures, times as fast", stock / min(took["asyncload"]), "x", at_least=factor
    )
    report.figure(f"{name}, whole, times as fast", stock / min(took["whole"]), "x", at_least=WHOLE)


async def first_answers(report: Report, name: str, bench: Bench, rounds: int) -> None:
    """Measure until the first answer, with nothing of the model left in the process."""
    ways = {"asyncload": bench.our_first_answer, "tensorflow": bench.stock_first_answer}
    took = await alternate(ways, rounds)
    report.runs(f"{name}, to the first answer", took)
    ratio = min(took["tensorflow"]) / min(took["asyncload"])
    report.figure(f"{name}, to the first answer, times as fast", ratio, "x", at_least=FIRST_ANSWER)


async def next_version(report: Report, name: str, bench: Bench, rounds: int) -> None:
    """Measure until the first answer of a model, while one with the same functions serves."""
    serving = await bench.our_first_answer(), await bench.stock_first_answer()
    ways = {"asyncload": bench.our_first_answer, "tensorflow": bench.stock_first_answer}
    took = await alternate(ways, rounds)
    del serving
    report.runs(f"{name}, next version to its first answer", took)
    ratio = min(took["tensorflow"]) / min(took["asyncload"])
    report.figure(
        f"{name}, next version to its first answer, times as fast",
        ratio,
        "x",
        at_least=NEXT_VERSION,
    )


async def stalls(report: Report, name: str, bench: Bench, rounds: int) -> None:
    """Measure how long the loop stalls while signatures load."""
    for label, way in (("asyncload", bench.ours), ("tensorflow in a thread", bench.stock)):
        lags: list[float] = []
        for _ in range(rounds):
            gc.collect()
            async with LoopProbe() as probe:
                result = await way()
            del result
            lags += probe.lags
        stall = Stall.of(lags)
        if label == "asyncload":
            report.bound(f"{name}, {label}, stall p99", stall.p99, "ms", at_most=P99)
            report.bound(f"{name}, {label}, stall max", stall.max, "ms", at_most=MAX)
        else:
            report.note(f"{name}, {label}, stall p99", stall.p99, "ms")
            report.note(f"{name}, {label}, stall max", stall.max, "ms")


if __name__ == "__main__":
    uvloop.run(main(options(__doc__)))
