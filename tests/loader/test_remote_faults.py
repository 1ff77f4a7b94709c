"""Loads through what goes wrong at a store: whole and of one version, or an error that says why."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import psutil
import pytest
import safetensors.numpy

import asyncload
from asyncload.errors import AccessDenied, SourceChanged, TransferFailed
from asyncload.events import Indexed, TensorReady
from tests.equality import same_bytes
from tests.formats import checkpoints
from tests.servers.fault_process import HttpFaults
from tests.servers.faults.settings import HttpFault, TcpFaults
from tests.servers.plugin import MakeHttpFaults, MakeTcpProxy
from tests.servers.rgw import Rgw
from tests.servers.web import Web

MIB = 1 << 20
KIB = 256  # of each tensor, where files are replaced
NAMES = [f"t{i}" for i in range(12)]
QUICK: dict[str, Any] = {
    "timeouts": {"connect": 1.0, "read": 0.5, "total": 10.0},
    "part_size": MIB,
    "concurrency": 4,
}


def weights(seed: int, kib: int = 512) -> dict[str, Any]:
    chance = np.random.default_rng(seed)
    return {name: chance.integers(0, 255, kib << 10, np.uint8) for name in NAMES}


def assert_same(found: asyncload.Weights, expected: dict[str, Any]) -> None:
    assert sorted(found) == sorted(expected)
    assert all(same_bytes(found[name], expected[name]) for name in expected)


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, Any]:
    """6 MiB of weights, in ``m.safetensors`` of the folder ``bucket``."""
    (tmp_path / "bucket").mkdir()
    safetensors.numpy.save_file(weights(0), tmp_path / "bucket" / "m.safetensors")
    return weights(0)


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    made = asyncload.Loader(executor="thread", index_cache=False, storage_options=QUICK)
    async with made:
        yield made


def s3(endpoint: str) -> dict[str, Any]:
    return {
        "endpoint": endpoint,
        "region": "x",
        "access_key_id": "AKIDSECRETLY",
        "secret_access_key": "keysecretly",
    }


# --- refused for a while --------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_refusals_are_asked_again_one_by_one(
    status: int,
    expected: dict[str, Any],
    loader: asyncload.Loader,
    http_faults: MakeHttpFaults,
    tmp_path: Path,
) -> None:
    """The client does not look at Retry-After; it pauses longer with each refusal instead."""
    fault = HttpFault(skip=2, times=9, status=status, headers={"Retry-After": "30"})
    server = http_faults(tmp_path / "bucket", fault)
    loaded = await loader.load_weights(f"{server.endpoint}/m.safetensors")
    assert_same(loaded, expected)
    answers = [seen.status for seen in server.requests("*", "GET")]
    assert answers.count(status) == 9
    assert len(answers) - 9 <= 1 + 6 + 1  # the head, and each part once
    assert server.bytes_sent() < 1.02 * sum(array.nbytes for array in expected.values())


async def test_a_store_that_is_gone_for_seconds(
    expected: dict[str, Any],
    loader: asyncload.Loader,
    http_faults: MakeHttpFaults,
    tmp_path: Path,
) -> None:
    server = http_faults(tmp_path / "bucket", HttpFault(skip=2, status=503))
    load = loader.prefetch(f"{server.endpoint}/m.safetensors")
    await asyncio.sleep(0.8)
    assert not load.done()
    server.set()
    assert_same(await load, expected)


async def test_credentials_that_expire_on_the_way(
    expected: dict[str, Any],
    loader: asyncload.Loader,
    http_faults: MakeHttpFaults,
    tmp_path: Path,
) -> None:
    server = http_faults(tmp_path, HttpFault(skip=2, status=400, code="ExpiredToken"))
    uri, begin = "s3://bucket/m.safetensors", time.perf_counter()
    with pytest.raises(AccessDenied, match="credentials have expired") as caught:
        await loader.load_weights(uri, storage_options=s3(server.endpoint))
    assert time.perf_counter() - begin < 2
    assert caught.value.uri == uri
    shown = f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert "secretly" not in shown.lower()
    server.set()
    assert_same(await loader.load_weights(uri, storage_options=s3(server.endpoint)), expected)


# --- never reached --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "endpoint", "says"),
    [
        ("https://no.such.host.invalid/m.safetensors", None, "no address"),
        ("s3://bucket/m.safetensors", "http://no.such.host.invalid", "no address"),
        ("http://127.0.0.1:1/m.safetensors", None, "nothing listens"),
        ("s3://bucket/m.safetensors", "http://127.0.0.1:1", "nothing listens"),
    ],
)
async def test_no_server(uri: str, endpoint: str | None, says: str) -> None:
    options = {**QUICK, "retries": 1, **(s3(endpoint) if endpoint else {})}
    async with asyncload.Loader(executor="thread", storage_options=options) as loader:
        with pytest.raises(TransferFailed, match=says) as caught:
            await loader.load_weights(uri)
        assert caught.value.uri == uri


async def test_tls(
    web: Web, expected: dict[str, Any], loader: asyncload.Loader, tmp_path: Path
) -> None:
    content = (tmp_path / "bucket" / "m.safetensors").read_bytes()
    name = web.put("faults/m.safetensors", content).removeprefix(web.url)
    trusted = {"ca_file": str(web.ca_file)}
    loaded = await loader.load_weights(f"{web.tls_url}{name}", storage_options=trusted)
    assert_same(loaded, expected)
    options: dict[str, Any]
    for uri, options in (
        (f"{web.tls_url}{name}", {}),  # of an authority that nobody knows
        (f"{web.url.replace('http:', 'https:')}{name}", trusted),  # no TLS at all
    ):
        with pytest.raises(TransferFailed, match="TLS failed") as caught:
            await loader.load_weights(uri, storage_options={**options, "retries": 1})
        assert caught.value.uri == uri


# --- the server ends, and is back -----------------------------------------------------------


async def test_a_server_that_is_killed_before_the_tensors(
    rgw: Rgw, expected: dict[str, Any], tmp_path: Path
) -> None:
    rgw.make_bucket("killed")
    content = (tmp_path / "bucket" / "m.safetensors").read_bytes()
    rgw.put("killed", "m.safetensors", content)
    options = {
        **QUICK,
        "endpoint": rgw.endpoint,
        "region": rgw.region,
        "access_key_id": rgw.access_key,
        "secret_access_key": rgw.secret_key,
    }

    def kill(event: asyncload.Event) -> None:
        if isinstance(event, Indexed):
            rgw.kill()

    async with asyncload.Loader(
        executor="thread", storage_options=options, observer=kill
    ) as loader:
        load = loader.prefetch("s3://killed/m.safetensors")
        try:
            async for event in load.events():
                if isinstance(event, Indexed):
                    break
            await asyncio.sleep(0.3)
            assert not load.done()
        finally:
            rgw.start()
        assert_same(await load, expected)


async def test_a_server_that_is_killed_between_the_tensors(
    web: Web,
    expected: dict[str, Any],
    loader: asyncload.Loader,
    tcp_proxy: MakeTcpProxy,
    tmp_path: Path,
) -> None:
    content = (tmp_path / "bucket" / "m.safetensors").read_bytes()
    uri = web.put("faults/killed.safetensors", content)
    proxy = tcp_proxy(web.port, TcpFaults(rate=8e6))
    load = loader.prefetch(proxy.url(uri))
    try:
        async for event in load.events():
            if isinstance(event, TensorReady):
                break
        web.kill()
        proxy.drop()
        await asyncio.sleep(0.3)
        assert not load.done()
    finally:
        web.start()
    assert_same(await load, expected)


# --- cancelled ------------------------------------------------------------------------------


def connections(port: int) -> int:
    """Return how many connections this process has to a port of this machine."""
    found = psutil.Process(os.getpid()).net_connections("tcp")
    return sum(bool(each.raddr) and each.raddr[1] == port for each in found)


async def test_a_cancelled_load_closes_its_sockets_within_100_ms(
    expected: dict[str, Any],
    loader: asyncload.Loader,
    http_faults: MakeHttpFaults,
    tmp_path: Path,
) -> None:
    server = http_faults(tmp_path / "bucket", HttpFault(skip=2, rate=100_000.0))
    seconds = []
    for _ in range(5):
        server.set(HttpFault(skip=2, rate=100_000.0))
        load = loader.prefetch(f"{server.endpoint}/m.safetensors")
        # What the system lists can be some milliseconds late: none, with four in flight.
        while server.stats().in_flight < 4 or connections(server.port) < 4:
            await asyncio.sleep(0.005)
        idle = connections(server.port) - 4  # kept for the next request, and no transfer
        begin = time.perf_counter()
        load.cancel()
        while connections(server.port) > idle:
            assert time.perf_counter() - begin < 5
            await asyncio.sleep(0.005)
        seconds.append(time.perf_counter() - begin)
        with pytest.raises(asyncio.CancelledError):
            await load
    assert statistics.median(seconds) < 0.1, seconds
    assert max(seconds) < 1, seconds


# --- replaced, at each request --------------------------------------------------------------


def save_safetensors(folder: Path, seed: int) -> str:
    safetensors.numpy.save_file(weights(seed, kib=KIB), folder / "m.safetensors")
    return "m.safetensors"


def save_shards(folder: Path, seed: int) -> str:
    arrays = weights(seed, kib=KIB)
    for shard in range(2):
        part = {name: arrays[name] for name in NAMES[shard::2]}
        safetensors.numpy.save_file(part, folder / f"s{shard}.safetensors")
    index = ", ".join(f'"{name}": "s{i % 2}.safetensors"' for i, name in enumerate(NAMES))
    (folder / "m.safetensors.index.json").write_text(f'{{"weight_map": {{{index}}}}}')
    return "m.safetensors.index.json"


def save_hdf5(folder: Path, seed: int) -> str:
    with h5py.File(folder / "m.h5", "w") as file:
        for name, array in weights(seed, kib=KIB).items():
            file[name] = array
    return "m.h5"


def save_checkpoint(folder: Path, seed: int) -> str:
    checkpoints.save(folder / "m", weights(seed, kib=KIB))
    return "m"


async def replace_during(
    request: int, load: asyncload.Load[Any], server: HttpFaults, new: Path, folder: Path
) -> bool:
    """Replace all files while a request waits for its answer; return whether it was ever made."""
    while len(server.requests()) <= request:
        if load.done():
            return False
        await asyncio.sleep(0.002)
    for path in new.iterdir():
        os.replace(path, folder / path.name)
    return True


@pytest.mark.parametrize("save", [save_safetensors, save_shards, save_hdf5, save_checkpoint])
async def test_replaced_at_each_request(
    save: Callable[[Path, int], str],
    loader: asyncload.Loader,
    http_faults: MakeHttpFaults,
    tmp_path: Path,
) -> None:
    folder, new = tmp_path / "folder", tmp_path / "new"
    folder.mkdir()
    new.mkdir()
    server = http_faults(folder)
    outcomes: list[str] = []
    for request in range(40):
        name = save(folder, 0)
        save(new, 1)
        server.forget()
        server.set(HttpFault(method="*", skip=request, times=1, delay=0.05))
        load = loader.prefetch(f"{server.endpoint}/{name}")
        if not await replace_during(request, load, server, new, folder):
            await load
            break
        try:
            loaded = await load
        except SourceChanged:
            outcomes.append("changed")
            continue
        expected = [weights(seed, kib=KIB) for seed in (0, 1)]
        seeds = [
            seed
            for seed in (0, 1)
            if all(same_bytes(loaded[key], array) for key, array in expected[seed].items())
        ]
        assert len(seeds) == 1, f"two versions mixed, replaced at request {request}"
        outcomes.append(f"seed {seeds[0]}")
    assert "changed" in outcomes
    assert outcomes[0] == "seed 1", "what is replaced before it is looked at is simply newer"


async def test_replaced_and_begun_anew(
    expected: dict[str, Any], loader: asyncload.Loader, http_faults: MakeHttpFaults, tmp_path: Path
) -> None:
    (tmp_path / "new").mkdir()
    server = http_faults(tmp_path / "bucket", HttpFault(method="*", skip=3, times=1, delay=0.05))
    safetensors.numpy.save_file(weights(1), tmp_path / "new" / "m.safetensors")
    load = loader.prefetch(f"{server.endpoint}/m.safetensors", on_change="restart")
    assert await replace_during(3, load, server, tmp_path / "new", tmp_path / "bucket")
    assert_same(await load, weights(1))


# --- cut everywhere -------------------------------------------------------------------------


async def test_a_load_whose_transfers_are_cut_anywhere(
    expected: dict[str, Any], loader: asyncload.Loader, http_faults: MakeHttpFaults, tmp_path: Path
) -> None:
    chance = random.Random(3)
    for cut in ("reset", "close", "stall"):
        faults = [
            HttpFault(skip=i, times=1, cut_after=chance.randrange(MIB), cut=cut)
            for i in range(1, 6)
        ]
        server = http_faults(tmp_path / "bucket", *faults)
        assert_same(await loader.load_weights(f"{server.endpoint}/m.safetensors"), expected)
