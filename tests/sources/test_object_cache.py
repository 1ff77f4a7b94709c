"""By what kept objects are told apart, what an entry believes, and what a record says."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import random
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.errors import SourceError
from asyncload.sources import ObjectCache, StorageOptions, open_source
from asyncload.sources._cache_entry import BLOCK, CacheEntry, blocks_in
from asyncload.sources._cache_key import digest_of, is_lasting, place_of
from asyncload.sources._cache_record import KeptFile, Record
from asyncload.sources._cached_reader import CachedReader
from asyncload.sources._location import locate
from asyncload.sources._object_version import Version
from tests.servers.fault_process import HttpFaults
from tests.servers.faults.settings import HttpFault
from tests.servers.plugin import MakeHttpFaults

SIZE = 3 * BLOCK + 12_345
CONTENT = random.Random(5).randbytes(SIZE)
DIGEST = bytes(range(32))
NOW = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)


def place(uri: str, **options: object) -> str:
    return place_of(locate(uri), StorageOptions.parse(options))


# --- keys --------------------------------------------------------------------------------------


def test_places_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "STORAGE_")):
            monkeypatch.delenv(name)
    places = {
        place("s3://bucket/a"),
        place("s3://bucket/a", endpoint="http://one"),
        place("s3://bucket/a", endpoint="http://two"),
        place("s3://other/a"),
        place("gs://bucket/a"),
        place("az://bucket/a", account_name="one"),
        place("az://bucket/a", account_name="two"),
        place("http://host/a"),
        place("https://host/a"),
        place("https://host:81/a"),
        place("https://host/a?versionId=1"),
    }
    assert len(places) == 11
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://one")
    assert place("s3://bucket/b") in places
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "two")
    assert place("az://bucket/b") in places


def test_who_asks_is_no_part_of_it() -> None:
    plain = place("s3://bucket/a", endpoint="http://host")
    assert plain == place(
        "s3://bucket/a",
        endpoint="http://me:hidden@host",
        access_key_id="hidden",
        secret_access_key="hidden",
        session_token="hidden",
    )
    assert "hidden" not in place("az://c/a", account_name="x", account_key="aGlkZGVu")
    assert place("https://h/a") == place("https://me:hidden@h/a?X-Amz-Signature=hidden")
    for signed in (
        "X-Amz-Signature=hidden&v=2&X-Amz-Expires=60",
        "v=2&X-Goog-Signature=hidden&X-Goog-Date=1",
        "AWSAccessKeyId=hidden&v=2&Signature=hidden&Expires=1",
        "GoogleAccessId=hidden&v=2&Signature=hidden&Expires=1",
        "v=2&Policy=hidden&Signature=hidden&Key-Pair-Id=hidden",
        "sv=2020&v=2&se=1&sp=r&sig=hidden",
    ):
        assert place(f"https://h/a?{signed}") == place("https://h/a?v=2"), signed


def test_what_only_looks_like_a_signature_names_an_object() -> None:
    queries = ["st=1", "st=2", "sp=1", "policy=1", "policy=2", "expires=1", "signature=1", "sig=1"]
    queries += ["n=%FE", "n=%FF", "n", "n=", "X-Amz-Signature=hidden&st=3", "sig=1&sv=1&policy=3"]
    assert len({place(f"https://h/a?{query}") for query in queries}) == len(queries)


def version(**changes: object) -> Version:
    fields = {"size": 9, "etag": '"e"', "modified": NOW, "generation": None, "name": "n"}
    return Version(**{**fields, **changes})  # type: ignore[arg-type]


def test_versions_are_told_apart() -> None:
    changes: list[dict[str, object]] = [
        {},
        {"size": 8},
        {"etag": '"f"'},
        {"modified": None},
        {"generation": "2"},
    ]
    digests = {digest_of("p", "k", version(**each)) for each in changes}
    assert len(digests | {digest_of("p", "k"), digest_of("p", "l", version())}) == 7


@pytest.mark.parametrize(
    ("changes", "scheme", "lasts"),
    [
        ({}, "s3", True),
        ({}, "http", False),  # it changed this very second
        ({"modified": NOW - dt.timedelta(seconds=3)}, "http", True),
        ({"modified": NOW - dt.timedelta(seconds=3), "etag": None}, "http", True),
        ({"modified": None}, "http", True),
        ({"modified": None, "etag": None}, "http", False),
        ({"modified": None, "etag": 'W/"e"'}, "http", False),
        ({"etag": 'W/"e"'}, "s3", False),
    ],
)
def test_what_lasts(changes: dict[str, object], scheme: str, lasts: bool) -> None:
    assert is_lasting(version(**changes), scheme, NOW) is lasts


# --- entries -----------------------------------------------------------------------------------


@contextmanager
def entry(path: Path, *, create: bool = True) -> Iterator[CacheEntry]:
    opened = CacheEntry.open(path, DIGEST, SIZE, create=create)
    assert opened is not None
    try:
        yield opened
    finally:
        opened.close()


def write(kept: CacheEntry, first: int, end: int) -> None:
    kept.write(first, [memoryview(CONTENT)[first * BLOCK : end * BLOCK]])


def test_what_is_written_is_read(tmp_path: Path) -> None:
    chance = random.Random(6)
    with entry(tmp_path / "e") as kept:
        assert not kept.complete
        write(kept, 0, 1)
        write(kept, 2, 4)
        data = bytearray(SIZE)
        assert kept.read(0, [memoryview(data)]) == [1]
        write(kept, 1, 2)
        for _ in range(200):
            begin, end = sorted(chance.randrange(SIZE + 1) for _ in range(2))
            cut = chance.randrange(begin, end + 1)
            part = bytearray(end - begin)
            views = [memoryview(part)[: cut - begin], memoryview(part)[cut - begin :]]
            assert kept.read(begin, views) == []
            assert part == CONTENT[begin:end]
    with entry(tmp_path / "e", create=False) as kept:
        assert kept.complete


@given(
    st.integers(0, 3 * BLOCK),
    st.lists(st.integers(0, BLOCK + 9), max_size=6),
)
def test_blocks_cover_a_stretch(offset: int, sizes: list[int]) -> None:
    buffers = [memoryview(bytes(size)) for size in sizes]
    position = offset
    for index, begin, views in blocks_in(offset, buffers):
        assert begin == position
        position += sum(view.nbytes for view in views)
        assert index * BLOCK <= begin < position <= (index + 1) * BLOCK
    assert position == offset + sum(sizes)


@pytest.mark.parametrize("there", ["rubbish", "shorter", "empty", "link", "pipe", "other"])
def test_what_is_no_entry_gives_way(there: str, tmp_path: Path) -> None:
    path = tmp_path / "e"
    (tmp_path / "secret").write_bytes(b"secret")
    with entry(tmp_path / "template") as kept:
        write(kept, 0, 4)
    whole = (tmp_path / "template").read_bytes()
    match there:
        case "link":
            path.symlink_to(tmp_path / "secret")
        case "pipe":
            os.mkfifo(path)
        case _:
            contents = {"rubbish": b"x" * len(whole), "shorter": whole[:-1], "empty": b""}
            path.write_bytes(contents.get(there, whole[:8] + bytes(32) + whole[40:]))
    assert CacheEntry.open(path, DIGEST, SIZE, create=False) is None
    with entry(path) as kept:
        data = bytearray(SIZE)
        assert kept.read(0, [memoryview(data)]) == [0, 1, 2, 3]
        write(kept, 0, 4)
        assert kept.read(0, [memoryview(data)]) == []
        assert data == CONTENT
    assert (tmp_path / "secret").read_bytes() == b"secret"


def test_a_disk_that_fills_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One warning, no error, and the room is given back."""
    cache = ObjectCache(tmp_path / "objects", 1 << 30)
    kept = cache.open_entry(DIGEST, SIZE)
    assert kept is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (BLOCK, hard))  # the system writes no more than that
    try:
        assert not cache.write(kept, 0, [memoryview(CONTENT)])
        assert not cache.write(kept, 0, [memoryview(CONTENT)])
        assert cache.open_entry(bytes(32), SIZE) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    cache.release(kept)
    assert cache.files() == []
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1
    cache.close()


# --- records -----------------------------------------------------------------------------------


def kept_file(number: int) -> KeptFile:
    return KeptFile(number, f"version {number}", "00" * 32)


def test_a_record_mixes_no_versions() -> None:
    first = Record(["a", "b"], {"a": kept_file(1), "b": kept_file(1)})
    assert Record(None, {"a": kept_file(1)}).after(first) == first
    newer = Record(None, {"b": kept_file(2)})
    assert newer.after(first) == newer
    beside = Record(None, {"c": kept_file(1)}).after(first)
    assert (beside.names, sorted(beside.files)) == (["a", "b"], ["a", "b", "c"])


def test_damaged_records_are_none() -> None:
    data = Record(["a"], {"a": kept_file(1)}).encode()
    assert Record.decode(data) == Record(["a"], {"a": kept_file(1)})
    for at in range(len(data)):
        assert Record.decode(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]) is None
        assert Record.decode(data[:at]) is None


# --- reads side by side ------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path, http_faults: MakeHttpFaults) -> HttpFaults:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "m").write_bytes(CONTENT)
    os.utime(tmp_path / "served" / "m", (1e9, 1e9))
    return http_faults(tmp_path / "served")


@pytest.mark.parametrize("keeps", [True, False])
async def test_neighbours_share_blocks(keeps: bool, served: HttpFaults, tmp_path: Path) -> None:
    """Where a block cannot be kept, what nobody wanted of it yet waits in memory."""
    chance, cache = random.Random(9), ObjectCache(tmp_path / "objects")
    for round_ in range(6):
        served.forget()
        cuts = sorted({0, SIZE, *(chance.randrange(SIZE) for _ in range(12))})
        async with open_source(f"{served.endpoint}/m", cache=cache) as source:
            reader = await source.open()
            assert isinstance(reader, CachedReader)
            reader._entry.writable = keeps
            parts = [bytearray(end - begin) for begin, end in pairwise(cuts)]
            async with asyncio.TaskGroup() as group:
                for begin, part in zip(cuts, parts, strict=False):
                    group.create_task(reader.read_into(begin, [memoryview(part)]))
            await reader.check()
            assert not reader._loose  # what was wanted whole takes no memory any more
        assert b"".join(parts) == CONTENT
        assert served.bytes_sent() == (0 if keeps and round_ else SIZE)
    cache.close()


async def test_one_that_is_cancelled_leaves_blocks_to_others(
    served: HttpFaults, tmp_path: Path
) -> None:
    served.set(HttpFault(rate=20e6))
    cache = ObjectCache(tmp_path / "objects")
    async with open_source(f"{served.endpoint}/m", cache=cache) as source:
        reader = await source.open()
        for delay in (0, 0.005, 0.02):
            first = asyncio.create_task(reader.read(0, SIZE))
            second = asyncio.create_task(reader.read(7, SIZE - 99))
            await asyncio.sleep(delay)
            first.cancel()
            assert await second == CONTENT[7 : SIZE - 92]
            await asyncio.gather(first, return_exceptions=True)
            assert not reader._claims  # type: ignore[attr-defined]
    cache.close()


async def test_a_fetch_that_fails_keeps_nothing_wrong(served: HttpFaults, tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "objects")
    served.set(HttpFault(status=404))
    async with open_source(f"{served.endpoint}/m", cache=cache) as source:
        reader = await source.open()
        with pytest.raises(SourceError):
            await reader.read(0, SIZE)
        served.set()
        assert await reader.read(0, SIZE) == CONTENT
    cache.close()


@pytest.mark.parametrize("offline", [False, True])
async def test_closing_that_is_cancelled_lets_go(
    offline: bool, served: HttpFaults, tmp_path: Path
) -> None:
    """Even before a thread was free for it: of the descriptor, and of the room it was promised."""
    uri, folder = f"{served.endpoint}/m", tmp_path / "objects"
    cache = ObjectCache(folder)
    async with open_source(uri, cache=cache) as source:
        await (await source.open()).read(0, SIZE)
    cache.close()
    cache = ObjectCache(folder, offline=offline)
    gate = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        source = open_source(uri, cache=cache, threads=threads)
        await (await source.open()).read(0, SIZE)
        threads.submit(gate.wait)
        closing = asyncio.create_task(source.aclose())
        await asyncio.sleep(0.01)
        closing.cancel()
        await asyncio.sleep(0.01)
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await source.aclose()
    assert not open_below(folder)
    assert not cache._promised
    cache.close()


def open_below(folder: Path) -> list[str]:
    """Return the files in a folder of which this process holds a descriptor."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # that of the listing itself
            found.append(os.readlink(descriptor))
    return [path for path in found if path.startswith(str(folder))]
