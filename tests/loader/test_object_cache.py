"""Objects of stores that are kept on disk: fetched once, believed only if undamaged."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload.errors import AccessDenied, NotFound, SourceError, TransferFailed
from tests.equality import assert_same_model, same_bytes
from tests.formats import checkpoints
from tests.materialize.served_models import ZOO as SERVED
from tests.servers.fault_process import HttpFaults
from tests.servers.faults.settings import HttpFault
from tests.servers.plugin import MakeHttpFaults
from tests.servers.rgw import Rgw
from tests.zoo import save

Array = np.ndarray[Any, Any]
Kind = Literal["s3", "http"]
QUICK = {"retries": 0, "timeouts": {"connect": 0.5, "read": 0.5, "total": 2.0}}


def weights(seed: int = 0, count: int = 40) -> dict[str, Array]:
    chance = np.random.default_rng(seed)
    return {f"t{i}": chance.random((i + 1, 1000), "float32") for i in range(count)}


def assert_same(found: asyncload.Weights, expected: dict[str, Array]) -> None:
    assert sorted(found) == sorted(expected)
    for name in found:
        assert same_bytes(found[name], expected[name]), name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "origin" / "bucket"
    made.mkdir(parents=True)
    return made


@pytest.fixture
def server(folder: Path, http_faults: MakeHttpFaults) -> HttpFaults:
    return http_faults(folder.parent)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def make_loader(kind: Kind, server: HttpFaults, kept_in: Path, **options: Any) -> asyncload.Loader:
    storage = {"endpoint": server.endpoint, "anonymous": True} if kind == "s3" else {}
    chosen: dict[str, Any] = {"executor": "thread", "index_cache": False, "cache": "read"} | options
    storage |= chosen.pop("storage_options", {})
    return asyncload.Loader(cache_dir=kept_in, storage_options=storage, **chosen)


def uri_of(kind: Kind, server: HttpFaults, name: str) -> str:
    return f"s3://bucket/{name}" if kind == "s3" else f"{server.endpoint}/bucket/{name}"


def age(folder: Path) -> None:
    """Have files look as if they had been there for long."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, ns=(path.stat().st_mtime_ns - 10**12,) * 2)


def entries(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.object"))


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    ours = [each for each in caplog.records if each.name == "asyncload"]
    return [each.getMessage() for each in ours if each.levelno >= logging.WARNING]


def kept_bytes(cache: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in cache.iterdir())


# --- every format ----------------------------------------------------------------------------


def plain(folder: Path) -> str:
    safetensors.numpy.save_file(weights(), folder / "m.safetensors")
    return "m.safetensors"


def sharded(folder: Path) -> str:
    names = list(weights())
    for shard in range(3):
        part = {name: weights()[name] for name in names[shard::3]}
        safetensors.numpy.save_file(part, folder / f"s-{shard}.safetensors")
    mapping = {name: f"s-{i % 3}.safetensors" for i, name in enumerate(names)}
    text = json.dumps({"metadata": {}, "weight_map": mapping})
    (folder / "m.safetensors.index.json").write_text(text)
    return "m.safetensors.index.json"


def hdf5(folder: Path) -> str:
    with h5py.File(folder / "m.weights.h5", "w") as file:
        for name, array in weights().items():
            file.create_dataset(f"{name}/vars/0", data=array, compression="gzip")
    return "m.weights.h5"


def archive(folder: Path) -> str:
    return save("functional", folder).name


def checkpoint(folder: Path) -> str:
    (folder / "c").mkdir()
    checkpoints.save(folder / "c" / "model", weights())
    return "c/model"


def saved_model(folder: Path) -> str:
    next(iter(SERVED.values()))(folder / "served")
    return "served"


MAKERS = [plain, sharded, hdf5, archive, checkpoint, saved_model]


@pytest.mark.parametrize(
    ("make", "kind"),
    [*((make, "s3") for make in MAKERS), *((make, "http") for make in (sharded, saved_model))],
)
async def test_every_format(
    make: Any, kind: Kind, folder: Path, server: HttpFaults, cache: Path
) -> None:
    """Fetched once; then one HEAD for each object and no GET; then no request at all."""
    name = make(folder)
    age(folder)
    local = folder / name
    uri = uri_of(kind, server, name) + ("/" if make is saved_model and kind == "http" else "")
    async with asyncload.Loader(processes=1, index_cache=False) as loader:
        expected = dict(await loader.load_weights(local))
    async with make_loader(kind, server, cache) as loader:
        assert_same(await loader.load_weights(uri), expected)
    objects = [path for path in folder.rglob("*") if path.is_file()]
    for path in objects:
        where = f"/{path.relative_to(folder.parent)}"
        assert server.bytes_sent_twice(where) == 0
        assert server.bytes_sent(where) <= path.stat().st_size
    server.forget()
    async with make_loader(kind, server, cache) as loader:
        assert_same(await loader.load_weights(uri), expected)
    asked = [one.path for one in server.requests(method="HEAD") if one.status == 200]
    assert asked
    assert len(asked) == len(set(asked))
    assert all("list-type=2" in one.query for one in server.requests(method="GET"))
    server.close()
    async with make_loader(kind, server, cache, cache="off", offline=True) as loader:
        assert_same(await loader.load_weights(uri), expected)


async def test_models(folder: Path, server: HttpFaults, cache: Path) -> None:
    name = archive(folder)
    stock = keras.models.load_model(folder / name)
    served = saved_model(folder)
    tries: list[dict[str, Any]] = [{}, {}, {"offline": True}]
    for options in tries:
        options["index_cache"] = cache.parent / "index"
        async with make_loader("s3", server, cache, **options) as it:
            assert_same_model(await it.load(f"s3://bucket/{name}"), stock)
            assert await it.load(f"s3://bucket/{served}", trusted=True)
            with pytest.raises(asyncload.Unsafe):
                await it.load(f"s3://bucket/{served}")


async def test_from_a_real_gateway(rgw: Rgw, tmp_path: Path, cache: Path) -> None:
    rgw.make_bucket("kept")
    safetensors.numpy.save_file(weights(), tmp_path / "m")
    rgw.put("kept", "m.safetensors", (tmp_path / "m").read_bytes())
    options = {
        "endpoint": rgw.endpoint,
        "region": rgw.region,
        "access_key_id": rgw.access_key,
        "secret_access_key": rgw.secret_key,
    }
    for offline in (False, False, True):
        async with asyncload.Loader(
            processes=1, cache="read", cache_dir=cache, storage_options=options, offline=offline
        ) as loader:
            assert_same(await loader.load_weights("s3://kept/m.safetensors"), weights())
    secrets = [rgw.access_key.encode(), rgw.secret_key.encode()]
    for path in cache.iterdir():
        assert not any(secret in path.read_bytes() for secret in secrets)


# --- what is not believed --------------------------------------------------------------------


async def test_damage_is_mended(folder: Path, server: HttpFaults, cache: Path) -> None:
    name, chance = plain(folder), random.Random(7)
    async with make_loader("s3", server, cache) as loader:
        uri = uri_of("s3", server, name)
        await loader.load_weights(uri)
        for round_ in range(25):
            damage(entries(cache)[0], chance, round_)
            assert_same(await loader.load_weights(uri), weights())
            server.forget()
            assert_same(await loader.load_weights(uri), weights())
            assert server.bytes_sent() == 0


def damage(path: Path, chance: random.Random, round_: int) -> None:
    size = path.stat().st_size
    if round_ % 5 == 4:
        os.truncate(path, chance.randrange(size))
    else:
        at = chance.randrange(256 if round_ % 2 else size)  # the header and the slots, too
        with path.open("r+b") as file:
            file.seek(at)
            found = file.read(1)[0]
            file.seek(at)
            file.write(bytes([found ^ 1 << chance.randrange(8)]))


async def test_damage_while_offline(folder: Path, server: HttpFaults, cache: Path) -> None:
    name, chance = plain(folder), random.Random(8)
    uri = uri_of("s3", server, name)
    async with make_loader("s3", server, cache) as loader:
        await loader.load_weights(uri)
    (kept,) = entries(cache)
    whole = kept.read_bytes()
    refused = 0
    async with make_loader("s3", server, cache, offline=True) as loader:
        for round_ in range(15):
            damage(kept, chance, round_)
            found: Any = (await loader.load_many([uri], return_exceptions=True))[0]
            if isinstance(found, NotFound):
                refused += 1
                assert found.uri == uri
                assert "without offline=True" in str(found)
            else:
                assert_same(found, weights())
            kept.write_bytes(whole)
    assert refused > 5


async def test_a_replaced_object(folder: Path, server: HttpFaults, cache: Path) -> None:
    name = plain(folder)
    uri = uri_of("s3", server, name)
    async with make_loader("s3", server, cache) as loader:
        assert_same(await loader.load_weights(uri), weights())
        safetensors.numpy.save_file(weights(1), folder / "next")
        (folder / "next").replace(folder / name)
        assert_same(await loader.load_weights(uri), weights(1))
        assert len(entries(cache)) == 2
    async with make_loader("s3", server, cache, offline=True) as loader:
        assert_same(await loader.load_weights(uri), weights(1))


@pytest.mark.parametrize("headers", [{"ETag": None, "Last-Modified": None}, {"ETag": 'W/"1"'}])
async def test_without_a_version_nothing_is_kept(
    headers: dict[str, str | None], folder: Path, server: HttpFaults, cache: Path
) -> None:
    name = plain(folder)  # of just now, and so its time says nothing
    server.set(HttpFault(method="*", headers=headers))
    async with make_loader("http", server, cache) as loader:
        assert_same(await loader.load_weights(uri_of("http", server, name)), weights())
    assert not cache.exists() or not entries(cache)


# --- who may have it -------------------------------------------------------------------------


async def test_a_store_that_refuses_is_obeyed(
    folder: Path, server: HttpFaults, cache: Path
) -> None:
    uri = uri_of("s3", server, plain(folder))
    async with make_loader("s3", server, cache) as loader:
        await loader.load_weights(uri)
        server.set(HttpFault(method="*", status=403))
        with pytest.raises(AccessDenied):
            await loader.load_weights(uri)


async def test_other_endpoints_are_others(
    folder: Path, server: HttpFaults, http_faults: MakeHttpFaults, cache: Path
) -> None:
    uri = uri_of("s3", server, plain(folder))
    other = http_faults(folder.parent)
    async with make_loader("s3", server, cache) as loader:
        await loader.load_weights(uri)
        await loader.load_weights(uri, storage_options={"endpoint": other.endpoint})
    assert len(entries(cache)) == 2
    assert other.bytes_sent()


async def test_signed_urls(folder: Path, server: HttpFaults, cache: Path) -> None:
    name = plain(folder)
    age(folder)
    url = uri_of("http", server, name).replace("://", "://reader:password1234@")
    async with make_loader("http", server, cache) as loader:
        for signature in ("first1234", "second1234"):
            query = f"X-Amz-Signature={signature}&X-Amz-Expires=60"
            assert_same(await loader.load_weights(f"{url}?{query}"), weights())
        await loader.load_weights(f"{url}?versionId=1")
    assert server.bytes_sent() <= 2 * (folder / name).stat().st_size
    assert len(entries(cache)) == 2
    for path in cache.iterdir():
        assert b"1234" not in path.name.encode()
        assert all(s not in path.read_bytes() for s in (b"password1234", b"first1234"))


# --- several at once, and what is killed ------------------------------------------------------

PROGRAM = """
import asyncio, hashlib, sys, asyncload

async def main():
    async with asyncload.Loader(
        processes=1, executor="thread", cache="read", cache_dir=sys.argv[2],
        storage_options={"endpoint": sys.argv[1], "anonymous": True},
    ) as loader:
        found = await loader.load_weights("s3://bucket/m.safetensors")
        print(hashlib.sha256(b"".join(found[n].tobytes() for n in sorted(found))).hexdigest())

asyncio.run(main())
"""


def program(server: HttpFaults, cache: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, server.endpoint, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def digest(arrays: dict[str, Array]) -> str:
    return hashlib.sha256(b"".join(arrays[n].tobytes() for n in sorted(arrays))).hexdigest()


def test_processes_share_it(folder: Path, server: HttpFaults, cache: Path) -> None:
    plain(folder)
    for _ in range(2):
        server.forget()
        programs = [program(server, cache) for _ in range(3)]
        for each in programs:
            out, errors = each.communicate(timeout=60)
            assert (out.strip(), errors) == (digest(weights()), "")
    assert server.bytes_sent() == 0


def test_killed_while_it_fills(folder: Path, server: HttpFaults, cache: Path) -> None:
    """What was written before is of use; what was not is not believed."""
    many = weights(count=120)  # 29 MB
    safetensors.numpy.save_file(many, folder / "m.safetensors")
    size = (folder / "m.safetensors").stat().st_size
    server.set(HttpFault(rate=8e6))
    with program(server, cache) as killed:
        deadline = time.monotonic() + 30
        while not (entries(cache) and kept_bytes(cache) > 3 << 20):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
    server.set()
    server.forget()
    with program(server, cache) as again:
        out, errors = again.communicate(timeout=60)
    assert (out.strip(), errors) == (digest(many), "")
    assert 0 < server.bytes_sent() < size - (2 << 20)


async def test_removed_while_it_is_read(folder: Path, server: HttpFaults, cache: Path) -> None:
    uri = uri_of("s3", server, plain(folder))

    def remove(event: asyncload.Event) -> None:
        if isinstance(event, asyncload.events.Indexed):
            shutil.rmtree(cache)

    async with make_loader("s3", server, cache) as loader:
        await loader.load_weights(uri)
    async with make_loader("s3", server, cache, observer=remove) as loader:
        server.forget()
        assert_same(await loader.load_weights(uri), weights())
        assert server.bytes_sent() == 0


# --- bounds, and disks that will not ----------------------------------------------------------


async def test_the_longest_unused_goes_first(folder: Path, server: HttpFaults, cache: Path) -> None:
    for name in "abc":
        safetensors.numpy.save_file(weights(ord(name), 35), folder / f"{name}.safetensors")
    size = (folder / "a.safetensors").stat().st_size
    limit = 2 * size + (1 << 20)
    async with make_loader("s3", server, cache, cache_bytes=limit) as loader:
        for name in "abac":
            uri = f"s3://bucket/{name}.safetensors"
            assert_same(await loader.load_weights(uri), weights(ord(name), 35))
            assert kept_bytes(cache) <= limit
            time.sleep(0.02)  # of which the file system's clock takes note
        for name, fetched in (("a", False), ("c", False), ("b", True)):
            server.forget()
            await loader.load_weights(f"s3://bucket/{name}.safetensors")
            assert bool(server.bytes_sent()) == fetched, name


async def test_what_has_no_room_is_not_kept(folder: Path, server: HttpFaults, cache: Path) -> None:
    uri = uri_of("s3", server, plain(folder))
    async with make_loader("s3", server, cache, cache_bytes="1MiB") as loader:
        assert_same(await loader.load_weights(uri), weights())
    assert not cache.exists() or not entries(cache)


async def test_a_folder_that_cannot_be_made(
    folder: Path, server: HttpFaults, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = uri_of("s3", server, plain(folder))
    cache.write_text("no folder")
    async with make_loader("s3", server, cache / "objects") as loader:
        for _ in range(2):
            assert_same(await loader.load_weights(uri), weights())
    (warning,) = warnings(caplog)
    assert "cache_dir" in warning


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    made = tmp_path / "small"
    made.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(made)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user cannot mount a small file system")
    yield made
    subprocess.run(["umount", str(made)], check=True)


async def test_a_full_disk(
    folder: Path, server: HttpFaults, full_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    uri = uri_of("s3", server, plain(folder))
    async with make_loader("s3", server, full_disk / "objects") as loader:
        for _ in range(2):
            assert_same(await loader.load_weights(uri), weights())
    size = (folder / "m.safetensors").stat().st_size
    assert server.bytes_sent() <= 2 * size  # not even then is a byte fetched twice
    assert len(warnings(caplog)) == 1


# --- without a network ------------------------------------------------------------------------


async def test_what_is_not_there(server: HttpFaults, cache: Path) -> None:
    async with make_loader("s3", server, cache, offline=True) as loader:
        for uri in ("s3://bucket/none.safetensors", "s3://bucket/folder/", "http://none/a/"):
            with pytest.raises(NotFound, match="cache='read'") as caught:
                await loader.load_weights(uri)
            assert caught.value.uri == uri
        with pytest.raises(SourceError, match="offline"):
            await loader.load_weights("other://bucket/name")
    assert not server.requests()


async def test_a_part_alone(folder: Path, server: HttpFaults, cache: Path) -> None:
    many = weights(count=80)  # 13 MB
    safetensors.numpy.save_file(many, folder / "m.safetensors")
    uri = uri_of("s3", server, "m.safetensors")
    async with make_loader("s3", server, cache) as loader:
        await loader.inspect(uri)
    assert kept_bytes(cache) < 1 << 20
    async with make_loader("s3", server, cache, offline=True) as loader:
        assert sorted((await loader.inspect(uri)).tensors) == sorted(many)
        with pytest.raises(NotFound, match="only a part"):
            await loader.load_weights(uri)


async def test_a_store_that_cannot_be_reached(
    folder: Path, server: HttpFaults, cache: Path
) -> None:
    uri = uri_of("s3", server, plain(folder))
    async with make_loader("s3", server, cache, storage_options=QUICK) as loader:
        await loader.load_weights(uri)
        server.close()
        with pytest.raises(TransferFailed, match=r"offline=True"):
            await loader.load_weights(uri)
        with pytest.raises(TransferFailed) as caught:
            await loader.load_weights("s3://bucket/other.safetensors")
        assert "offline" not in str(caught.value)


async def test_options() -> None:
    with pytest.raises(ValueError, match="'off' or 'read'"):
        asyncload.Loader(cache="write")  # type: ignore[arg-type]
