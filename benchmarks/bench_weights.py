"""Weights without a model: raw safetensors, and HDF5 with gzip and shuffle, in turns with stock.

python benchmarks/bench_weights.py [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import safetensors.numpy
import uvloop
from _measure import (
    CACHE,
    Options,
    Report,
    alternate,
    copy_bandwidth,
    options,
    read_all,
)
from _peak import peak_above

import asyncload

Array = npt.NDArray[Any]

SHARDS = 4
SHARD_BYTES = 256 << 20
PARTS = 4
PART_BYTES = 64 << 20
PROCESSES = 2
MEMORY_FIXED = 64 << 20  # bytes above the weights that are allowed, whatever their size
MEMORY_SHARE = 0.10


# --- inputs ------------------------------------------------------------------------------


def raw_shards(nbytes: int) -> tuple[Path, list[Path]]:
    """Return an index file and its safetensors shards, ``nbytes`` each, made on first use."""
    folder = CACHE / f"raw-{SHARDS}x{nbytes >> 20}"
    index = folder / "model.safetensors.index.json"
    shards = [folder / f"model-{i:05d}-of-{SHARDS:05d}.safetensors" for i in range(SHARDS)]
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        weight_map: dict[str, str] = {}
        for number, shard in enumerate(shards):
            tensors = layers(f"block{number}", nbytes, seed=number)
            safetensors.numpy.save_file(tensors, shard)
            weight_map |= dict.fromkeys(tensors, shard.name)
        total = nbytes * SHARDS
        index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return index, shards


def packed_parts(nbytes: int) -> list[Path]:
    """Return HDF5 weight files with gzip and shuffle, ``nbytes`` decoded each."""
    folder = CACHE / f"gzip-{PARTS}x{nbytes >> 20}"
    parts = [folder / f"part{i}.weights.h5" for i in range(PARTS)]
    for number, part in enumerate(parts):
        if part.exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = part.with_name(f"unfinished-{part.name}")
        with h5py.File(unfinished, "w") as file:
            for name, array in layers(f"part{number}", nbytes, seed=number).items():
                file.create_dataset(name, data=array, compression="gzip", shuffle=True)
        unfinished.rename(part)
    return parts


def layers(prefix: str, nbytes: int, *, seed: int) -> dict[str, Array]:
    """Return arrays as layers have them: large kernels and small biases, normal values."""
    random = np.random.default_rng(seed)
    width = 2048
    count = nbytes // (width * width * 4)
    arrays: dict[str, Array] = {}
    for index in range(count):
        kernel = random.standard_normal((width, width), np.float32) * 0.02
        arrays[f"{prefix}/dense{index}/kernel"] = kernel
        arrays[f"{prefix}/dense{index}/bias"] = random.standard_normal(width, np.float32)
    return arrays


# --- stock -------------------------------------------------------------------------------


def read_hdf5(path: Path) -> dict[str, Array]:
    """Read every dataset with h5py."""
    found: dict[str, Array] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                found.__setitem__(name, item[()]) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def load_shards(shards: list[Path]) -> dict[str, Array]:
    """Load shards one after the other with safetensors."""
    found: dict[str, Array] = {}
    for shard in shards:
        found |= safetensors.numpy.load_file(shard)
    return found


# --- the benchmarks ----------------------------------------------------------------------


async def raw(report: Report, given: Options, loader: asyncload.Loader) -> None:
    """Measure safetensors in shards, every byte in memory at the end."""
    nbytes = SHARD_BYTES // 8 if given.quick else SHARD_BYTES
    index, shards = await asyncio.to_thread(raw_shards, nbytes)
    total = await asyncio.to_thread(read_all, shards)

    async def ours() -> Any:
        return await loader.load_weights(index)

    async def stock() -> Any:
        return await asyncio.to_thread(load_shards, shards)

    compare(await ours(), await stock())
    took = await alternate({"asyncload": ours, "safetensors.numpy": stock}, given.rounds)
    bandwidth = await asyncio.to_thread(copy_bandwidth)
    name = f"safetensors, {SHARDS} x {nbytes >> 20} MiB"
    report.runs(name, took)
    best = min(took["asyncload"])
    ratio = min(took["safetensors.numpy"]) / best
    report.figure("raw, times as fast as safetensors.numpy", ratio, "x", at_least=3.0)
    report.note("memory's copy bandwidth, 2 threads", bandwidth / 1e9, "GB/s")
    report.note("raw, asyncload", total / best / 1e9, "GB/s")
    share = total / best / bandwidth
    report.figure("raw, share of the copy bandwidth", share, "", at_least=0.7)
    await memory(report, "raw", loader, [index])


async def packed(report: Report, given: Options, loader: asyncload.Loader) -> None:
    """Measure gzip and shuffle in parts, beside serial h5py and a warm pool."""
    nbytes = PART_BYTES // 4 if given.quick else PART_BYTES
    parts = await asyncio.to_thread(packed_parts, nbytes)
    await asyncio.to_thread(read_all, parts)
    context = multiprocessing.get_context("spawn")

    with context.Pool(PROCESSES) as pool:
        pool.map(abs, range(PROCESSES * 8))  # started and warm

        async def ours() -> Any:
            return merge(await loader.load_many(parts))

        async def serial() -> Any:
            return await asyncio.to_thread(lambda: merge([read_hdf5(part) for part in parts]))

        async def pooled() -> Any:
            return await asyncio.to_thread(lambda: merge(pool.map(read_hdf5, parts, chunksize=1)))

        compare(await ours(), await serial())
        compare(await pooled(), await serial())
        ways = {"asyncload": ours, "h5py, serial": serial, "multiprocessing.Pool": pooled}
        took = await alternate(ways, given.rounds)
    report.runs(f"gzip + shuffle HDF5, {PARTS} x {nbytes >> 20} MiB", took)
    best = min(took["asyncload"])
    for way, factor in (("h5py, serial", 1.7), ("multiprocessing.Pool", 4.0)):
        ratio = min(took[way]) / best
        report.figure(f"gzip + shuffle, times as fast as {way}", ratio, "x", at_least=factor)
    await memory(report, "gzip + shuffle", loader, parts)


def merge(parts: list[Any]) -> dict[str, Array]:
    """Join what the parts hold."""
    return {name: array for part in parts for name, array in part.items()}


def compare(ours: Any, stock: Any) -> None:
    """Refuse to measure what is not the same."""
    if set(ours) != set(stock):
        raise SystemExit("the names differ")
    for name, array in stock.items():
        if not np.array_equal(array, ours[name]):
            raise SystemExit(f"{name} differs")


async def memory(report: Report, name: str, loader: asyncload.Loader, uris: list[Path]) -> None:
    """Measure the peak above the weights' own bytes."""
    nbytes = sum([(await loader.inspect(uri)).nbytes for uri in uris])
    above = await peak_above("weights", uris) / 2**20
    allowed = (MEMORY_FIXED + MEMORY_SHARE * nbytes) / 2**20
    report.bound(f"{name}, peak memory above the weights", above, "MiB", at_most=allowed)


async def main(given: Options) -> None:
    report = Report("Weights", given)
    async with asyncload.Loader() as loader:
        await raw(report, given, loader)
        await packed(report, given, loader)
    report.finish()


if __name__ == "__main__":
    uvloop.run(main(options(__doc__)))
