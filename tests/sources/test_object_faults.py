"""What goes wrong between us and a store: cured where that can be, else said by name, and soon."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path
from typing import Any

import pytest

from asyncload.errors import AccessDenied, NotFound, SourceChanged, SourceError, TransferFailed
from asyncload.interfaces import Reader
from asyncload.sources import Stores, open_source
from tests.servers.faults.settings import HttpFault, TcpFaults
from tests.servers.plugin import MakeHttpFaults, MakeTcpProxy
from tests.servers.rgw import Rgw
from tests.servers.web import Web

SIZE = 3 << 20
CONTENT = random.Random(2).randbytes(SIZE)
QUICK: dict[str, Any] = {
    "timeouts": {"connect": 1.0, "read": 0.5, "total": 10.0},
    "part_size": 1 << 20,
    "concurrency": 4,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "m.bin").write_bytes(CONTENT)
    return tmp_path


async def read_all(uri: str, **options: Any) -> bytes:
    async with open_source(uri, options={**QUICK, **options}) as source:
        reader = await source.open()
        return await whole(reader)


async def whole(reader: Reader) -> bytes:
    data = bytearray(reader.size)
    await reader.read_into(0, [memoryview(data)])
    await reader.check()
    return bytes(data)


# --- what is cured ------------------------------------------------------------------------


@pytest.mark.parametrize("tenth", range(10))
async def test_a_reset_at_any_point(tenth: int, folder: Path, http_faults: MakeHttpFaults) -> None:
    after = (SIZE * tenth) // 10
    server = http_faults(folder, HttpFault(times=2, cut_after=after % (1 << 20)))
    assert await read_all(f"{server.endpoint}/m.bin") == CONTENT


@pytest.mark.parametrize(
    "fault",
    [
        HttpFault(times=4, status=503),
        HttpFault(times=4, status=500),
        HttpFault(times=2, status=429, headers={"Retry-After": "1"}),
        HttpFault(method="HEAD", times=2, status=503),
        HttpFault(times=1, cut="stall", cut_after=300_000),
        HttpFault(times=2, cut="close", cut_after=500_000),
        HttpFault(rate=4 << 20),
    ],
    ids=["503", "500", "429", "head-503", "stall", "closed", "drip"],
)
async def test_cured(fault: HttpFault, folder: Path, http_faults: MakeHttpFaults) -> None:
    server = http_faults(folder, fault)
    assert await read_all(f"{server.endpoint}/m.bin") == CONTENT


async def test_a_cut_is_resumed_where_it_was(folder: Path, http_faults: MakeHttpFaults) -> None:
    # With a reset, what was on its way would be lost, and sent again.
    server = http_faults(folder, HttpFault(times=1, cut_after=700_000, cut="close"))
    assert await read_all(f"{server.endpoint}/m.bin", part_size=SIZE) == CONTENT
    assert server.bytes_sent() < SIZE + 100_000


async def test_a_server_that_is_killed_and_started(rgw: Rgw) -> None:
    rgw.make_bucket("faults")
    rgw.put("faults", "m.bin", CONTENT)
    async with open_source("s3://faults/m.bin", options={**QUICK, **s3(rgw)}) as source:
        reader = await source.open()
        rgw.kill()
        reading = asyncio.create_task(whole(reader))
        await asyncio.sleep(0.3)
        assert not reading.done()
        rgw.start()
        assert await reading == CONTENT


async def test_a_link_that_is_slow_and_far(web: Web, tcp_proxy: MakeTcpProxy) -> None:
    proxy = tcp_proxy(web.port, TcpFaults(latency=0.02, rate=50e6))
    assert await read_all(proxy.url(web.put("far.bin", CONTENT))) == CONTENT


# --- what is an error ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (HttpFault(status=403), AccessDenied, "403"),
        (HttpFault(status=401), AccessDenied, "401"),
        (HttpFault(status=400, code="ExpiredToken"), AccessDenied, "expired"),
        (HttpFault(status=404), SourceChanged, "load it again"),
        (HttpFault(status=412), SourceChanged, "load it again"),
        (HttpFault(status=416), SourceChanged, "load it again"),
        (HttpFault(status=400), TransferFailed, "400"),
        (HttpFault(headers={"ETag": '"other"'}), SourceChanged, "load it again"),
        (HttpFault(headers={"Content-Range": "bytes 5-1048580/3145728"}), TransferFailed, "range"),
        (HttpFault(headers={"Content-Range": "bytes 0-9/99"}), SourceError, None),
        (HttpFault(headers={"Content-Range": "rubbish"}), TransferFailed, None),
        (HttpFault(headers={"Content-Range": None}), TransferFailed, None),
        (HttpFault(body_length=1000), TransferFailed, "range"),
    ],
)
async def test_ends_at_once(
    fault: HttpFault,
    kind: type[SourceError],
    says: str | None,
    folder: Path,
    http_faults: MakeHttpFaults,
) -> None:
    server = http_faults(folder, fault)
    begin = time.perf_counter()
    with pytest.raises(kind, match=says) as caught:
        await read_all(f"{server.endpoint}/m.bin?sig=secret")
    assert time.perf_counter() - begin < 1
    assert caught.value.uri == f"{server.endpoint}/m.bin"
    assert "secret" not in f"{caught.value}{caught.value.__cause__}{caught.value.__context__}"


@pytest.mark.parametrize(
    "fault",
    [
        HttpFault(status=503),
        HttpFault(status=429),
        HttpFault(cut="stall", cut_after=300_000),
        HttpFault(cut="close", cut_after=0),
        HttpFault(delay=60.0),
    ],
    ids=["503", "429", "stall", "truncated", "silence"],
)
async def test_ends_by_its_deadline(
    fault: HttpFault, folder: Path, http_faults: MakeHttpFaults
) -> None:
    server = http_faults(folder, fault)
    begin = time.perf_counter()
    timeouts = {"connect": 1.0, "read": 0.2, "total": 0.6}
    with pytest.raises(TransferFailed):
        await read_all(f"{server.endpoint}/m.bin", timeouts=timeouts)
    assert time.perf_counter() - begin < 2.5


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("http://127.0.0.1:1/m.bin", "nothing listens"),
        ("http://no.such.host.invalid/m.bin", "no address"),
    ],
)
async def test_no_server(uri: str, says: str) -> None:
    with pytest.raises(TransferFailed, match=says):
        await read_all(uri, retries=1)


def s3(rgw: Rgw, **others: Any) -> dict[str, Any]:
    return {
        "endpoint": rgw.endpoint,
        "region": rgw.region,
        "access_key_id": rgw.access_key,
        "secret_access_key": rgw.secret_key,
        **others,
    }


async def test_what_s3_refuses(rgw: Rgw) -> None:
    rgw.make_bucket("faults")
    rgw.put("faults", "m.bin", CONTENT)
    wrong = s3(rgw, secret_access_key="wrongwrongwrong")
    for uri, options, kind in (
        ("s3://no-such-bucket/m.bin", s3(rgw), NotFound),
        ("s3://faults/none", s3(rgw), NotFound),
        ("s3://faults/m.bin", wrong, AccessDenied),
        ("s3://faults/m.bin", {"endpoint": rgw.endpoint, "anonymous": True}, AccessDenied),
    ):
        with pytest.raises(kind) as caught:
            await read_all(uri, **options)
        assert caught.value.uri == uri
        shown = f"{caught.value}{caught.value.__cause__!r}"
        assert not any(secret in shown for secret in (rgw.access_key, rgw.secret_key, "wrongwrong"))
        async with open_source(uri, options=options) as source:
            with pytest.raises(kind):
                await source.list()


# --- versions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [{"ETag": None}, {"ETag": 'W/"weak"'}, {"ETag": None, "Last-Modified": None}],
    ids=["last-modified", "weak", "neither"],
)
async def test_servers_that_say_less(
    headers: dict[str, str | None], folder: Path, http_faults: MakeHttpFaults
) -> None:
    server = http_faults(folder, HttpFault(method="*", headers=headers))
    assert await read_all(f"{server.endpoint}/m.bin") == CONTENT
    async with open_source(f"{server.endpoint}/m.bin", options=QUICK) as source:
        first, second = await source.open(), await source.open()
        assert (first.version == second.version) == (len(headers) == 1)
        (folder / "m.bin").write_bytes(CONTENT + b"more")
        with pytest.raises(SourceChanged):
            await whole(first)


# --- no ranges ----------------------------------------------------------------------------


async def test_a_server_without_ranges(web: Web) -> None:
    web.put("plain.bin", CONTENT)
    uri = f"{web.norange_url}/plain.bin"
    assert await read_all(uri) == CONTENT
    async with open_source(uri, options=QUICK) as source:
        reader = await source.open()
        assert await reader.read(1000, 100_000) == CONTENT[1000:101_000]
        scattered = [bytearray(7), bytearray(0), bytearray(70_000)]
        await reader.read_into(9, [memoryview(each) for each in scattered])
        assert b"".join(scattered) == CONTENT[9 : 9 + 70_007]
        with pytest.raises(TransferFailed, match="no ranges; copy it to disk"):
            await reader.read(2 << 20, 10)


# --- many, and cancelled ------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(rgw: Rgw) -> list[str]:
    """More names than a store lists in one answer, which are a thousand."""
    names = [f"{i:05d}" for i in range(1010)]
    rgw.make_bucket("many")
    rgw.put_many("many", [f"folder/{name}" for name in names], b"x")
    return names


async def test_a_folder_of_thousands(rgw: Rgw, many: list[str]) -> None:
    page = rgw.request("GET", "many", query={"list-type": "2"}).body
    assert b"<IsTruncated>true</IsTruncated>" in page, "one page holds all: nothing is tried here"
    async with open_source("s3://many/folder", options=s3(rgw)) as source:
        assert await source.list() == many
        for recursive in (False, True):
            entries = await source.entries(recursive=recursive)
            assert [entry.name for entry in entries] == many
            assert {entry.size for entry in entries} == {1}
            assert all(entry.version and entry.modified for entry in entries)


@pytest.fixture(scope="module")
def ten_thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("buckets")
    for below in ("bucket/f", "bucket/f/sub"):
        (root / below).mkdir(parents=True)
    for i in range(10_000):
        (root / "bucket" / "f" / f"{i:05d}").write_bytes(b"x")
    (root / "bucket/f/sub/deep").write_bytes(b"x")
    return root


async def test_ten_thousand_keys_and_a_page_that_fails(
    ten_thousand: Path, http_faults: MakeHttpFaults
) -> None:
    server = http_faults(
        ten_thousand,
        HttpFault(path="/bucket", skip=3, times=2, status=503),
        HttpFault(path="/bucket", skip=5, times=1, cut_after=30_000),
    )
    options = {**QUICK, "endpoint": server.endpoint, "region": "us-east-1", "anonymous": True}
    async with open_source("s3://bucket/f", options=options) as source:
        for recursive, requests in ((False, 2 + 5 + 1 + 11), (True, 11)):
            begin = time.perf_counter()
            entries = await source.entries(recursive=recursive)
            assert time.perf_counter() - begin < 5
            assert [entry.name for entry in entries[:-1]] == [f"{i:05d}" for i in range(10_000)]
            assert entries[-1].name == ("sub/deep" if recursive else "sub/")
            # A page that is refused is asked for again; after one that was cut, all are.
            assert len(server.requests("/bucket")) == requests
            server.forget()


@pytest.mark.parametrize("recursive", [False, True])
async def test_no_folder_has_such_a_name(recursive: bool) -> None:
    async with open_source("s3://bucket/a/../", options={"anonymous": True}) as source:
        with pytest.raises(SourceError, match="another object"):
            await source.entries(recursive=recursive)


async def test_what_marks_folders_is_not_listed(rgw: Rgw) -> None:
    rgw.make_bucket("marks")
    for key in ("f/", "f/a", "f/sub/", "f/sub/b"):
        rgw.put("marks", key, b"" if key.endswith("/") else b"x")
    async with open_source("s3://marks/f", options=s3(rgw)) as source:
        assert [entry.name for entry in await source.entries()] == ["a", "sub/"]
        assert [entry.name for entry in await source.entries(recursive=True)] == ["a", "sub/b"]


async def test_what_marks_empty_folders_is_not_listed(rgw: Rgw) -> None:
    rgw.make_bucket("bare")
    for key in ("f/", "f/empty/", "f/file", "f/both", "f/both/", "f/sub/file", "f/sub/deep/"):
        rgw.put("bare", key, b"")
    async with open_source("s3://bare/f/", options=s3(rgw)) as source:
        found = [entry.name for entry in await source.entries()]
        assert found == ["both", "both/", "empty/", "file", "sub/"]
        found = [entry.name for entry in await source.entries(recursive=True)]
        assert set(found) == {"both", "file", "sub/file"}
    async with open_source("s3://bare", options=s3(rgw)) as source:
        found = [entry.name for entry in await source.entries(recursive=True)]
        assert set(found) == {"f/both", "f/file", "f/sub/file"}


async def test_one_pool_for_a_loader(folder: Path, http_faults: MakeHttpFaults) -> None:
    server = http_faults(folder)
    stores = Stores()
    for _ in range(5):
        async with open_source(f"{server.endpoint}/m.bin", stores=stores, options=QUICK) as source:
            assert await whole(await source.open()) == CONTENT
    assert server.stats().accepted <= 4
    await stores.aclose()
    async with open_source(f"{server.endpoint}/m.bin", stores=stores) as source:
        with pytest.raises(SourceError, match="closed"):
            await source.open()
