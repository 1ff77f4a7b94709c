"""Object storage and HTTP: asyncload beside its own client, and beside Run:ai's model streamer.

python benchmarks/bench_object.py [--quick] [--rounds N] [--json FILE] [--runai PYTHON]

Against Ceph RGW (S3) and nginx on loopback, and through a proxy that adds 20 ms to each round trip
and lets 200 MB/s through. Run:ai's streamer is left out unless ``--runai`` names an interpreter
that has it, which wants an environment of its own:

    python3 -m venv ../runai
    ../runai/bin/pip install 'runai-model-streamer[s3]' torch==2.13.0
    python benchmarks/bench_object.py --runai ../runai/bin/python
"""

from __future__ import annotations

import asyncio
import functools
import gc
import statistics
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import uvloop
from _measure import CACHE, Options, Report, alternate, options, read_all
from _object_peers import RUNAI_WAYS, WAYS, Fetch, RunAi
from bench_keras import model_file
from bench_weights import SHARD_BYTES, compare, layers, load_shards, raw_shards, read_hdf5
from obstore.store import HTTPStore, S3Store

import asyncload
from asyncload._probe import LoopProbe, Stall

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.servers.fault_process import FaultProcess
from tests.servers.faults.settings import TcpFaults
from tests.servers.rgw import Rgw
from tests.servers.web import Web

BUCKET = "bench"
LINK = TcpFaults(latency=0.020, rate=200e6)
PACKED_BYTES = 256 << 20  # decoded
FRESH, RUNAI = "asyncload, fresh memory", "Run:ai"
MODELS, QUICK_MODELS = ("VGG16", "EfficientNetB7"), ("EfficientNetB0",)

CLIENT_SHARE = 0.9
RUNAI_FACTOR = 1.5
OVERLAP = 1.1  # of the longer of fetch and decode
HIDDEN = 1.15  # of the transfer
P99, MAX = 2.0, 15.0  # ms
BYTES = 1.02  # of the object's size

Way = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where objects are, at one address.

    Attributes:
        name: for the report.
        root: URI below which the objects are.
        storage: ``storage_options``.
        store: obstore's, for the same objects.
    """

    name: str
    root: str
    storage: Mapping[str, Any]
    store: Any


@dataclass(frozen=True, slots=True)
class Servers:
    """What runs."""

    rgw: Rgw
    web: Web
    faults: FaultProcess

    def s3(self, port: int | None = None) -> Place:
        """Return the bucket, at RGW or at a proxy before it."""
        endpoint = self.rgw.endpoint if port is None else f"http://127.0.0.1:{port}"
        keys = {
            "access_key_id": self.rgw.access_key,
            "secret_access_key": self.rgw.secret_key,
            "region": self.rgw.region,
        }
        config: Any = {"endpoint": endpoint, **keys}
        store = S3Store(BUCKET, config=config, client_options={"allow_http": True})
        return Place("S3", f"s3://{BUCKET}", {"endpoint": endpoint, **keys}, store)

    def http(self) -> Place:
        """Return what nginx serves."""
        store = HTTPStore(self.web.url, client_options={"allow_http": True})
        return Place("HTTP", self.web.url, {}, store)

    def put(self, paths: list[Path]) -> None:
        """Have both servers hold files."""
        for path in paths:
            self.rgw.put(BUCKET, path.name, path.read_bytes())
            target = self.web.root / path.name
            target.unlink(missing_ok=True)
            target.symlink_to(path.resolve())

    def drop(self, paths: list[Path]) -> None:
        """Let go of objects, which RGW keeps in memory."""
        for path in paths:
            self.rgw.delete(BUCKET, path.name)


def main(given: Options) -> None:
    """Start the servers, which end with this thread, and measure."""
    report = Report("Object storage and HTTP", given)
    with ExitStack() as running:
        servers = Servers(
            running.enter_context(Rgw()),
            running.enter_context(Web()),
            running.enter_context(FaultProcess()),
        )
        servers.rgw.make_bucket(BUCKET)
        uvloop.run(measure(report, given, servers))
    report.finish()


async def measure(report: Report, given: Options, servers: Servers) -> None:
    """Take all figures."""
    await raw(report, given, servers)
    await packed(report, given, servers)
    await models(report, given, servers)
    await traffic(report, given, servers)


# --- safetensors ---------------------------------------------------------------------------


async def raw(report: Report, given: Options, servers: Servers) -> None:
    """Measure weights of 1 GB beside the client alone, and beside Run:ai's streamer."""
    nbytes = SHARD_BYTES // 8 if given.quick else SHARD_BYTES
    index, shards = await asyncio.to_thread(raw_shards, nbytes)
    files = [index, *shards]
    await asyncio.to_thread(servers.put, files)
    expected = await asyncio.to_thread(load_shards, shards)
    sizes = {path.name: path.stat().st_size for path in shards}
    for place in (servers.http(), servers.s3()):
        async with AsyncExitStack() as stack:
            ours = await loading(stack, place, index.name)
            compare(await ours(), expected)
            ways: dict[str, Way] = {
                "asyncload": ours,
                FRESH: await loading(stack, place, index.name, keep=0),
            }
            fetch = Fetch(place.store, sizes)
            ways |= {
                f"obstore, {name}": functools.partial(fetch, *way) for name, way in WAYS.items()
            }
            if place.name == "S3" and given.peer is not None:
                for name, settings in RUNAI_WAYS.items():
                    peer = runai(servers, given.peer, sizes, settings)
                    await stack.enter_async_context(peer)
                    await peer()  # which imports and connects
                    ways[f"{RUNAI}, {name}"] = peer
            took = await alternate(ways, given.rounds)
        show_rates(report, f"{place.name}, safetensors", sum(sizes.values()), took)
    del expected
    await stalls(report, given, servers, index.name, sizes)
    await asyncio.to_thread(servers.drop, files)


async def loading(stack: AsyncExitStack, place: Place, name: str, keep: int | None = None) -> Way:
    """Return what loads weights from a place, with a Loader that lives as long as ``stack``."""
    loader = asyncload.Loader(index_cache=False, storage_options=place.storage, keep=keep)
    await stack.enter_async_context(loader)

    async def ours() -> Any:
        return await loader.load_weights(f"{place.root}/{name}")

    return ours


def runai(
    servers: Servers, python: str, sizes: Mapping[str, int], settings: Mapping[str, str]
) -> RunAi:
    """Return the peer, not started yet."""
    rgw = servers.rgw
    uris = [f"s3://{BUCKET}/{key}" for key in sizes]
    return RunAi(
        python,
        uris,
        endpoint=rgw.endpoint,
        access_key=rgw.access_key,
        secret_key=rgw.secret_key,
        settings=settings,
    )


def show_rates(report: Report, what: str, total: int, took: Mapping[str, Sequence[float]]) -> None:
    """Report times, and how they compare with the client's best way."""
    name = f"{what}, {total / 1e9:.2f} GB"
    report.runs(name, took)
    best, middle = ({w: of(times) for w, times in took.items()} for of in (min, statistics.median))
    client, usual = (
        min(time for way, time in times.items() if way.startswith("obstore"))
        for times in (best, middle)
    )
    report.note(f"{name}, asyncload", total / best["asyncload"] / 1e9, "GB/s")
    share = client / best["asyncload"]
    report.figure(f"{name}, share of the client's rate", share, "", at_least=CLIENT_SHARE)
    report.note(f"{name}, the same of medians", usual / middle["asyncload"], "")
    report.note(f"{name}, into fresh memory", client / best[FRESH], "")
    peers = [time for way, time in best.items() if way.startswith(RUNAI)]
    if peers:
        factor = min(peers) / best["asyncload"]
        report.figure(f"{name}, times as fast as Run:ai", factor, "x", at_least=RUNAI_FACTOR)


# --- what has to overlap -------------------------------------------------------------------


async def packed(report: Report, given: Options, servers: Servers) -> None:
    """Measure gzip HDF5 over the link, beside the transfer alone and the decode alone."""
    path = await asyncio.to_thread(packed_file, PACKED_BYTES // (8 if given.quick else 1))
    await asyncio.to_thread(servers.put, [path])
    await asyncio.to_thread(read_all, [path])
    sizes = {path.name: path.stat().st_size}
    with servers.faults.tcp_proxy(servers.rgw.port, LINK) as proxy:
        place = servers.s3(proxy.port)
        fetch = Fetch(place.store, sizes)
        async with AsyncExitStack() as stack:
            ours = await loading(stack, place, path.name)
            local = await stack.enter_async_context(asyncload.Loader(index_cache=False))

            async def decode() -> Any:
                return await local.load_weights(path)

            compare(await ours(), await asyncio.to_thread(read_hdf5, path))
            await decode()
            ways: dict[str, Way] = {
                "total": ours,
                "fetch": functools.partial(fetch, 8 << 20, 16),
                "decode": decode,
            }
            took = await alternate(ways, given.rounds)
    name = f"link, gzip HDF5, {sizes[path.name] / 1e6:.0f} MB"
    report.runs(name, took)
    longest = max(min(took["fetch"]), min(took["decode"]))
    over = min(took["total"]) / longest
    report.bound(f"{name}, total / longer of fetch and decode", over, "", at_most=OVERLAP)
    await asyncio.to_thread(servers.drop, [path])


def packed_file(nbytes: int) -> Path:
    """Return an HDF5 weight file with gzip and shuffle, ``nbytes`` decoded, made on first use."""
    path = CACHE / f"gzip-{nbytes >> 20}.weights.h5"
    if not path.exists():
        unfinished = path.with_name(f"unfinished-{path.name}")
        with h5py.File(unfinished, "w") as file:
            for name, array in layers("model", nbytes, seed=0).items():
                file.create_dataset(name, data=array, compression="gzip", shuffle=True)
        unfinished.rename(path)
    return path


async def models(report: Report, given: Options, servers: Servers) -> None:
    """Measure `.keras` over the link, without and with latency, beside the transfer alone."""
    for name in QUICK_MODELS if given.quick else MODELS:
        path = await asyncio.to_thread(model_file, name)
        await asyncio.to_thread(servers.put, [path])
        for link in (replace(LINK, latency=0.0), LINK):
            with servers.faults.tcp_proxy(servers.rgw.port, link) as proxy:
                title = f"200 MB/s, {link.latency * 1e3:.0f} ms, {name}"
                await model(report, given, servers.s3(proxy.port), title, path)
        await asyncio.to_thread(servers.drop, [path])


async def model(report: Report, given: Options, place: Place, title: str, path: Path) -> None:
    """Measure one model over one link."""
    fetch = Fetch(place.store, {path.name: await asyncio.to_thread(lambda: path.stat().st_size)})
    async with asyncload.Loader(index_cache=False, storage_options=place.storage) as loader:

        async def ours() -> Any:
            return await loader.load(f"{place.root}/{path.name}", compile=False)

        await ours()
        lags: list[float] = []
        ways: dict[str, Way] = {
            "total": ours,
            "transfer": functools.partial(fetch, 8 << 20, 16),
            "watched": probed(ours, lags),  # apart, as entering the probe takes time
        }
        took = await alternate(ways, given.rounds)
    report.runs(title, took)
    over = min(took["total"]) / min(took["transfer"])
    report.bound(f"{title}, total / transfer", over, "", at_most=HIDDEN)
    show(report, title, lags)


# --- the loop, and what goes over the wire ---------------------------------------------------


def probed(work: Way, lags: list[float]) -> Way:
    """Return ``work`` with the loop's lags during it added to ``lags``."""

    async def call() -> Any:
        async with LoopProbe() as probe:
            result = await work()
        lags.extend(probe.lags)
        return result

    return call


def show(report: Report, title: str, lags: list[float]) -> None:
    """Report the stall over all rounds, not that of the best."""
    stall = Stall.of(lags)
    report.bound(f"{title}, stall p99", stall.p99, "ms", at_most=P99)
    report.bound(f"{title}, stall max", stall.max, "ms", at_most=MAX)


async def stalls(
    report: Report, given: Options, servers: Servers, name: str, sizes: Mapping[str, int]
) -> None:
    """Measure how long the loop stalls while weights come, over the link and at the full rate.

    At the full rate the servers take all CPUs of a small machine, and so the client alone stalls
    the loop as well: that is noted beside it.
    """
    with servers.faults.tcp_proxy(servers.rgw.port, LINK) as proxy:
        places = {"S3, 200 MB/s": servers.s3(proxy.port), "S3, full rate": servers.s3()}
        for title, place in places.items():
            lags: dict[str, list[float]] = {"asyncload": [], "obstore": []}
            fetch = functools.partial(Fetch(place.store, sizes), 8 << 20, 16)
            async with AsyncExitStack() as stack:
                ours = await loading(stack, place, name)
                for _ in range(given.rounds):
                    for way, work in (("asyncload", ours), ("obstore", fetch)):
                        gc.collect()
                        await probed(work, lags[way])()
            if place is places["S3, 200 MB/s"]:
                show(report, title, lags["asyncload"])
            for way, found in lags.items():
                stall = Stall.of(found)
                report.note(f"{title}, {way}, stall p99", stall.p99, "ms")
                report.note(f"{title}, {way}, stall max", stall.max, "ms")


async def traffic(report: Report, given: Options, servers: Servers) -> None:
    """Count the bytes that loads have a server send, of each format that is read differently."""
    _, shards = await asyncio.to_thread(
        raw_shards, SHARD_BYTES // 8 if given.quick else SHARD_BYTES
    )
    packed = await asyncio.to_thread(packed_file, PACKED_BYTES // (8 if given.quick else 1))
    model = await asyncio.to_thread(model_file, QUICK_MODELS[0] if given.quick else MODELS[1])
    for path in (shards[0], packed, model):
        await asyncio.to_thread(servers.put, [path])
        with servers.faults.http_faults(servers.rgw.port) as counting:
            place = servers.s3(counting.port)
            async with AsyncExitStack() as stack:
                ours = await loading(stack, place, path.name)
                await ours()
            key, size = f"/{BUCKET}/{path.name}", path.stat().st_size
            sent, twice = counting.bytes_sent(key), counting.bytes_sent_twice(key)
        title = path.suffixes[-1][1:]
        report.bound(f"{title}, bytes sent / size", sent / size, "", at_most=BYTES)
        report.bound(f"{title}, bytes sent twice", twice, "bytes", at_most=0)
        await asyncio.to_thread(servers.drop, [path])


if __name__ == "__main__":
    main(options(__doc__ or "", peer="runai"))
