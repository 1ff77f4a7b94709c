"""`.keras` archives: asyncload beside ``keras.models.load_model(compile=False)``, in turns.

python benchmarks/bench_keras.py [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import uvloop
from _measure import CACHE, Options, Report, alternate, options, read_all
from _peak import peak_above

import asyncload

# Model -> how many times faster than stock it should load.
MODELS = {"VGG16": 20.0, "ResNet152": 5.0, "EfficientNetB7": 5.0}
QUICK = {"EfficientNetB0": 5.0}

MEMORY_FIXED = 64 << 20  # bytes above the weights that are allowed, whatever their size
MEMORY_SHARE = 0.10


def model_file(name: str, ending: str = ".keras") -> Path:
    """Return a saved ``keras.applications`` model with random weights, made on first use."""
    path = CACHE / f"{name}{ending}"
    if not path.exists():
        import keras

        unfinished = path.with_name(f"unfinished-{path.name}")
        getattr(keras.applications, name)(weights=None).save(unfinished)
        unfinished.rename(path)
    return path


async def main(given: Options) -> None:
    import keras

    report = Report("Keras archives", given)
    # Any load, not the second one of a file.
    async with asyncload.Loader(index_cache=False) as loader:
        for name, factor in (QUICK if given.quick else MODELS).items():
            path = await asyncio.to_thread(model_file, name)
            await asyncio.to_thread(read_all, [path])

            async def ours(path: Path = path) -> Any:
                return await loader.load(path, compile=False)

            async def stock(path: Path = path) -> Any:
                return await asyncio.to_thread(keras.models.load_model, path, compile=False)

            check(await ours(), await stock(), name)
            took = await alternate({"asyncload": ours, "keras": stock}, given.rounds)
            report.runs(name, took)
            ratio = min(took["keras"]) / min(took["asyncload"])
            report.figure(f"{name}, times as fast as Keras", ratio, "x", at_least=factor)
            await memory(report, name, loader, path)
    report.finish()


def check(ours: Any, stock: Any, name: str) -> None:
    """Refuse to measure what is not the same model."""
    for one, other in zip(ours.weights, stock.weights, strict=True):
        if one.numpy().tobytes() != other.numpy().tobytes():
            raise SystemExit(f"{name}: {one.path} differs from what Keras loads")


async def memory(report: Report, name: str, loader: asyncload.Loader, path: Path) -> None:
    """Measure the peak above the weights' own bytes."""
    nbytes = (await loader.inspect(path)).nbytes
    above = await peak_above("model", [path]) / 2**20
    allowed = (MEMORY_FIXED + MEMORY_SHARE * nbytes) / 2**20
    report.bound(f"{name}, peak memory above its weights", above, "MiB", at_most=allowed)


if __name__ == "__main__":
    uvloop.run(main(options(__doc__)))
