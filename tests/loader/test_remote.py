"""Models and weights from object storage and HTTP equal those from disk."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

import asyncload
from asyncload.errors import NotFound, SourceChanged, Unsafe
from asyncload.pipeline import EarlyReads
from tests.equality import assert_same_model, same_bytes
from tests.formats import checkpoints
from tests.materialize.served_models import ZOO as SERVED
from tests.servers.faults.settings import TcpFaults
from tests.servers.plugin import MakeHttpFaults, MakeTcpProxy
from tests.servers.rgw import Rgw
from tests.servers.web import Web
from tests.zoo import save

STORES = ["s3", "http"]


@dataclass
class Remote:
    """A place for files, and the options to read them with."""

    rgw: Rgw
    web: Web
    kind: str

    def put(self, path: Path) -> str:
        """Upload a file, or all of a folder; return its URI."""
        files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
        prefix = uuid.uuid4().hex
        for file in files:
            key = f"{prefix}/{file.relative_to(path.parent)}"
            if self.kind == "s3":
                self.rgw.put("loads", key, file.read_bytes())
            else:
                self.web.put(key, file.read_bytes())
        root = "s3://loads" if self.kind == "s3" else self.web.url
        return f"{root}/{prefix}/{path.name}"

    @property
    def options(self) -> dict[str, Any]:
        if self.kind == "http":
            return {}
        return {
            "endpoint": self.rgw.endpoint,
            "region": self.rgw.region,
            "access_key_id": self.rgw.access_key,
            "secret_access_key": self.rgw.secret_key,
        }


@pytest.fixture(params=STORES)
def remote(request: pytest.FixtureRequest, rgw: Rgw, web: Web) -> Remote:
    rgw.make_bucket("loads")
    return Remote(rgw, web, request.param)


@pytest.fixture
async def loader(remote: Remote, tmp_path: Path) -> AsyncIterator[asyncload.Loader]:
    made = asyncload.Loader(
        processes=1, storage_options=remote.options, index_cache=tmp_path / "index"
    )
    async with made:
        yield made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("zoo")
    return {name: save(name, folder) for name in ("functional", "text")}


def weights(seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
    chance = np.random.default_rng(seed)
    return {f"t/{i}": chance.random((i + 1, 1000), "float32") for i in range(40)}


def assert_same(found: asyncload.Weights, expected: Any) -> None:
    assert sorted(found) == sorted(expected)
    for name in found:
        assert same_bytes(found[name], expected[name]), name


@pytest.mark.parametrize("name", ["functional", "text"])
async def test_a_model(
    name: str, models: dict[str, Path], remote: Remote, loader: asyncload.Loader
) -> None:
    model = await loader.load(remote.put(models[name]))
    assert_same_model(model, keras.models.load_model(models[name]))


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": (1, 100)}])
async def test_hdf5(
    options: dict[str, Any], remote: Remote, loader: asyncload.Loader, tmp_path: Path
) -> None:
    path = tmp_path / "m.weights.h5"
    with h5py.File(path, "w") as file:
        for name, array in weights().items():
            file.create_dataset(name, data=array, **options)
    uri = remote.put(path)
    for _ in range(2):  # the second time with the index that was kept
        assert_same(await loader.load_weights(uri), weights())


async def test_safetensors_in_shards(
    remote: Remote, loader: asyncload.Loader, tmp_path: Path
) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    names = list(weights())
    for shard in range(4):
        part = {name: weights()[name] for name in names[shard::4]}
        safetensors.numpy.save_file(part, folder / f"s-{shard}.safetensors")
    index = {name: f"s-{i % 4}.safetensors" for i, name in enumerate(names)}
    text = '{"metadata": {}, "weight_map": ' + str(index).replace("'", '"') + "}"
    (folder / "m.safetensors.index.json").write_text(text)
    uri = remote.put(folder)
    assert_same(await loader.load_weights(f"{uri}/m.safetensors.index.json"), weights())
    parts = [f"{uri}/s-{shard}.safetensors" for shard in range(4)]
    many: list[Any] = await loader.load_many([*parts, f"{uri}/none"], return_exceptions=True)
    assert isinstance(many[4], NotFound)
    found = dict(item for each in many[:4] for item in each.items())
    assert sorted(found) == sorted(names)
    streamed = {name: array async for name, array in loader.stream(parts[0])}
    assert sorted(streamed) == sorted(names[::4])


async def test_a_checkpoint(remote: Remote, loader: asyncload.Loader, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    checkpoints.save(folder / "model", weights())
    uri = remote.put(folder)
    assert_same(await loader.load_weights(f"{uri}/model"), weights())


async def test_a_saved_model(remote: Remote, loader: asyncload.Loader, tmp_path: Path) -> None:
    name, make = next(iter(SERVED.items()))
    path = tmp_path / name
    make(path)
    uri = remote.put(path) + ("/" if remote.kind == "http" else "")
    with pytest.raises(Unsafe, match="trusted=True"):
        await loader.load(uri)
    served = await loader.load(uri, trusted=True)
    assert set(served) == set(tf.saved_model.load(str(path)).signatures)


async def test_parts(remote: Remote, loader: asyncload.Loader, tmp_path: Path) -> None:
    def tail(buffer: memoryview) -> dict[str, Any]:  # sent by value: workers import no test
        return {"tail": np.frombuffer(buffer[-5:], np.uint8)}

    path = tmp_path / "part.bin"
    path.write_bytes(bytes(range(256)) * 100_000)
    results = [each async for each in loader.map_parts(tail, [remote.put(path)])]
    assert bytes(results[0].unwrap()["tail"]) == bytes([251, 252, 253, 254, 255])


# --- requests, and what changes under way ---------------------------------------------------


async def test_nothing_is_fetched_twice(
    http_faults: MakeHttpFaults, models: dict[str, Path], tmp_path: Path
) -> None:
    safetensors.numpy.save_file(
        {"a": np.zeros(40 << 20, np.uint8), "b": np.ones(3 << 20, np.uint8)}, tmp_path / "m.st"
    )
    (tmp_path / "m.st").rename(tmp_path / "m.safetensors")
    packed(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file["a"] = np.random.default_rng(1).random(3 << 20)
    shutil.copy(models["functional"], tmp_path / "m.keras")
    named: dict[str, Any] = weights()
    np.savez_compressed(tmp_path / "m.npz", **named)
    for name in ("m.safetensors", "m.weights.h5", "m.h5", "m.keras", "m.npz"):
        server = http_faults(tmp_path)
        async with asyncload.Loader(processes=1, index_cache=False) as loader:
            await loader.load_weights(f"{server.endpoint}/{name}")
        size = (tmp_path / name).stat().st_size
        assert server.bytes_sent_twice(f"/{name}") == 0, name
        assert server.bytes_sent() <= size


def packed(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Write an HDF5 file of which the bytes have to be decoded."""
    chance = np.random.default_rng(3)
    arrays = {f"dense_{i}/vars/0": chance.standard_normal((256, 512), "f") for i in range(20)}
    arrays["big/vars/0"] = chance.standard_normal(1 << 21, "f")
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, compression="gzip", shuffle=True)
    return arrays


async def test_hdf5_is_read_while_it_is_fetched(
    web: Web, tcp_proxy: MakeTcpProxy, tmp_path: Path
) -> None:
    """Much is decoded before the last bytes have come."""
    expected = packed(tmp_path / "m.weights.h5")
    size = (tmp_path / "m.weights.h5").stat().st_size
    url = web.put(f"{uuid.uuid4().hex}/m.weights.h5", (tmp_path / "m.weights.h5").read_bytes())
    proxy = tcp_proxy(web.port, TcpFaults(latency=0.01, rate=10e6))
    decoded: list[int] = []  # bytes that had come when a tensor was handed over by the codec

    def note(*args: Any) -> None:
        decoded.append(proxy.stats().bytes_down)
        hand_over(*args)

    hand_over = EarlyReads._keep
    async with asyncload.Loader(processes=1, index_cache=False) as loader:
        await loader.load_weights(
            web.put("warm/m.weights.h5", (tmp_path / "m.weights.h5").read_bytes())
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(EarlyReads, "_keep", note)
            assert_same(await loader.load_weights(proxy.url(url)), expected)
    assert sum(came < 0.97 * size for came in decoded) > len(expected) / 4


@pytest.mark.parametrize("after", [0.02, 0.1, 0.2, 0.3])
async def test_cancelled_while_hdf5_is_fetched(
    after: float, web: Web, tcp_proxy: MakeTcpProxy, tmp_path: Path
) -> None:
    packed(tmp_path / "m.weights.h5")
    url = web.put(f"{uuid.uuid4().hex}/m.weights.h5", (tmp_path / "m.weights.h5").read_bytes())
    proxy = tcp_proxy(web.port, TcpFaults(rate=20e6))
    async with asyncload.Loader(processes=1, index_cache=False) as loader:
        load = loader.prefetch(proxy.url(url))
        await asyncio.sleep(after)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        async for _ in load.events():  # until all of it has ended
            pass
        assert loader._resources.budget.held == 0
        assert loader._resources.slabs.budget.held == 0


async def test_hdf5_replaced_while_it_is_fetched(
    web: Web, tcp_proxy: MakeTcpProxy, tmp_path: Path
) -> None:
    expected = packed(tmp_path / "m.weights.h5")
    content = (tmp_path / "m.weights.h5").read_bytes()
    name = f"{uuid.uuid4().hex}/m.weights.h5"
    url = web.put(name, content)
    proxy = tcp_proxy(web.port, TcpFaults(rate=20e6))
    async with asyncload.Loader(processes=1, index_cache=False) as loader:
        loading = asyncio.create_task(loader.load_weights(proxy.url(url)))
        while proxy.stats().bytes_down < len(content) // 4:
            await asyncio.sleep(0.005)
        await asyncio.to_thread(web.put, name, content)
        with pytest.raises(SourceChanged, match="load it again"):
            await loading
        assert_same(await loader.load_weights(proxy.url(url)), expected)


async def test_a_replaced_file(remote: Remote, loader: asyncload.Loader, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    safetensors.numpy.save_file(weights(0), path)
    uri = remote.put(path)
    safetensors.numpy.save_file(weights(1), path)

    def replace() -> None:
        key = uri.split("/", 3)[3]
        if remote.kind == "s3":
            remote.rgw.put("loads", key, path.read_bytes())
        else:
            remote.web.put(key, path.read_bytes())

    def observer(event: asyncload.Event) -> None:
        if isinstance(event, asyncload.events.Indexed) and replacing:
            replacing.pop()()

    async with asyncload.Loader(
        processes=1, storage_options=remote.options, observer=observer
    ) as watched:
        replacing = [replace]
        with pytest.raises(SourceChanged, match="load it again"):
            await watched.load_weights(uri)
        safetensors.numpy.save_file(weights(2), path)
        replacing = [replace]
        assert_same(await watched.load_weights(uri, on_change="restart"), weights(2))


# --- the end ----------------------------------------------------------------------------------

PROGRAM = """
import asyncio, sys
import asyncload

async def main():
    load = asyncload.prefetch(sys.argv[1])
    if sys.argv[2] == "left":
        await asyncio.sleep(0.02)
        return
    await load
    if sys.argv[2] == "closed":
        await asyncload.aclose()

asyncio.run(main())
"""


@pytest.mark.parametrize("end", ["closed", "unclosed", "left"])
def test_programs_that_end_at_once(end: str, web: Web, tmp_path: Path) -> None:
    """Without waiting for the client, one in four aborts."""
    safetensors.numpy.save_file({"a": np.zeros(9 << 20, np.uint8)}, tmp_path / "m")
    uri = web.put("exit/m.safetensors", (tmp_path / "m").read_bytes())
    command = [sys.executable, "-c", PROGRAM, uri, end]
    for _ in range(4):
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
