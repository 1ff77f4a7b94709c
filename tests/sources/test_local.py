"""Files on disk, and all that can go wrong with them."""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import socket
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from asyncload.errors import (
    AccessDenied,
    NotFound,
    SourceChanged,
    SourceError,
    TransferFailed,
)
from asyncload.sources import LocalReader, open_source
from asyncload.sources._reader import _after, _read_into
from tests.contracts.source_contract import SourceContract


class TestLocalSource(SourceContract):
    def put(self, files: dict[str, bytes], tmp_path: Path) -> str:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "new").write_bytes(content)
            (tmp_path / "new").rename(tmp_path / name)
        return str(tmp_path)


class TestFileURI(SourceContract):
    def put(self, files: dict[str, bytes], tmp_path: Path) -> str:
        for name, content in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)
        return f"file://{tmp_path}"


def in_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path)


async def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.bin").write_bytes(b"a")
    (tmp_path / "b.bin").write_bytes(b"b")
    in_folder(tmp_path, monkeypatch)
    async with open_source("a.bin") as source:
        reader, other = await source.open(), await source.open("b.bin")
        in_folder(tmp_path.parent, monkeypatch)
        assert reader.path == str(tmp_path / "a.bin")
        await reader.check()
        await other.check()


async def test_a_symbolic_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "blob").write_bytes(b"content")
    (tmp_path / "link").symlink_to("blob")
    async with open_source(tmp_path / "link") as source:
        reader = await source.open()
        assert await reader.read(0, 7) == b"content"
        await reader.check()


async def test_names_that_no_file_can_have() -> None:
    for name in ("a\0b", "x" * 300, ""):
        async with open_source(name) as source:
            with pytest.raises(NotFound):
                await source.open()


async def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    async with open_source(tmp_path / "a") as source:
        with pytest.raises(TransferFailed, match="symbolic links"):
            await source.open()


async def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name in ("pipe", "/dev/null"):
            async with open_source(tmp_path / name) as source, asyncio.timeout(5):
                with pytest.raises(SourceError, match="no regular file"):
                    await source.open()
        async with open_source(tmp_path / "socket") as source:
            with pytest.raises(SourceError):
                await source.open()


async def test_unreadable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "secret").chmod(0)
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "file").write_bytes(b"x")
    (tmp_path / "closed").chmod(0)
    try:
        # Root may read all; a thread of its own may ask as nobody.
        with ThreadPoolExecutor(1, initializer=_become_nobody) as threads:
            for path in (tmp_path / "secret", tmp_path / "closed" / "file"):
                async with open_source(path, threads=threads) as source:
                    with pytest.raises(AccessDenied, match="user of this process") as caught:
                        await source.open()
                    assert isinstance(caught.value, PermissionError)
                    assert caught.value.uri == str(path)
                    assert isinstance(caught.value.__cause__, PermissionError)
            async with open_source(tmp_path / "closed", threads=threads) as source:
                with pytest.raises(AccessDenied):
                    await source.list()
    finally:
        (tmp_path / "closed").chmod(0o700)


def _become_nobody() -> None:
    if os.geteuid() == 0 and sys.platform == "linux":
        ctypes.CDLL(None).setfsuid(65534)  # this thread's only


async def test_the_disk_fails_to_read() -> None:
    """The kernel answers EIO to a read of address 0 of a process, as it does for a bad sector."""
    if not Path("/proc/self/mem").exists():
        return
    reader = await LocalReader.open("/proc/self/mem", uri="bad.keras")
    try:
        with pytest.raises(TransferFailed, match="Input/output error") as caught:
            await reader.read_into(0, [memoryview(bytearray(10))])
        assert isinstance(caught.value, OSError)
        assert caught.value.uri == "bad.keras"
        assert "check the disk" in str(caught.value)
    finally:
        await reader.aclose()


async def test_too_many_open_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with ThreadPoolExecutor(1) as threads:
        threads.submit(os.getpid).result()
        async with open_source(tmp_path / "a", threads=threads) as source:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(TransferFailed, match="ulimit -n"):
                    await source.open()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class TestChanges:
    """A file that changes while it is read is never mixed with what it was."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "file"
        path.write_bytes(b"\1" * 100_000)
        return path

    async def test_truncated(self, path: Path) -> None:
        async with open_source(path) as source:
            reader = await source.open()
            os.truncate(path, 50_000)
            assert await reader.read(0, 10) == b"\1" * 10
            with pytest.raises(SourceChanged, match="truncated"):
                await reader.read(40_000, 20_000)
            with pytest.raises(SourceChanged, match="truncated"):
                await reader.read_into(60_000, [memoryview(bytearray(10))])
            with pytest.raises(SourceChanged, match="truncated"):
                await reader.check()

    async def test_grown(self, path: Path) -> None:
        async with open_source(path) as source:
            reader = await source.open()
            with path.open("ab") as file:
                file.write(b"more")
            with pytest.raises(SourceChanged, match="rewritten"):
                await reader.check()

    async def test_rewritten_in_place(self, path: Path) -> None:
        async with open_source(path) as source:
            reader = await source.open()
            await asyncio.sleep(0.02)  # file systems keep time in steps of up to 10 ms
            with path.open("r+b") as file:
                file.write(b"\2" * 100_000)
            with pytest.raises(SourceChanged, match="rewritten"):
                await reader.check()

    async def test_replaced(self, path: Path) -> None:
        async with open_source(path) as source:
            reader = await source.open()
            path.with_name("new").write_bytes(b"\1" * 100_000)
            path.with_name("new").rename(path)
            assert await reader.read(0, 3) == b"\1" * 3
            with pytest.raises(SourceChanged, match="replaced"):
                await reader.check()

    async def test_removed(self, path: Path) -> None:
        async with open_source(path) as source:
            reader = await source.open()
            path.unlink()
            with pytest.raises(SourceChanged, match="removed"):
                await reader.check()

    async def test_read_and_touched_by_none_is_unchanged(self, path: Path) -> None:
        async with open_source(path) as source:
            reader = await source.open()
            path.read_bytes()
            path.chmod(0o644)
            await reader.check()


class TestDescriptors:
    async def test_a_number_is_not_read_once_it_is_anothers(self, tmp_path: Path) -> None:
        """Close a reader in the middle of its reads, and open other files at once."""
        (tmp_path / "mine").write_bytes(b"\1" * (8 << 20))
        (tmp_path / "others").write_bytes(b"\2" * (8 << 20))
        with ThreadPoolExecutor(2) as threads:
            for delay in (0, 0, 0.0005, 0.001, 0.002):
                async with open_source(tmp_path / "mine", threads=threads) as source:
                    reader = await source.open()
                    target = bytearray(8 << 20)
                    reads = [
                        asyncio.create_task(reader.read_into(0, [memoryview(target)]))
                        for _ in range(6)
                    ]
                    await asyncio.sleep(delay)
                    for read in reads[::2]:
                        read.cancel()
                    closing = asyncio.create_task(reader.aclose())
                    await asyncio.sleep(0)
                    async with open_source(tmp_path / "others") as other:
                        for _ in range(10):
                            await other.open()
                        await asyncio.gather(*reads, closing, return_exceptions=True)
                    assert not target.count(2)

    async def test_cancelling_the_close_closes_all_the_same(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(bytes(32 << 20))
        source = open_source(tmp_path / "a")
        reader = await source.open()
        read = asyncio.create_task(reader.read(0, 32 << 20))
        await asyncio.sleep(0.001)
        closing = asyncio.create_task(source.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.gather(read, closing, return_exceptions=True)
        assert _open_to(tmp_path / "a") == 0

    async def test_cancelling_an_open_leaves_no_descriptor(self, tmp_path: Path) -> None:
        (tmp_path / "a").write_bytes(b"x")
        for turns in range(12):
            async with open_source(tmp_path / "a") as source:
                task = asyncio.create_task(source.open())
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        assert _open_to(tmp_path / "a") == 0


def _open_to(path: Path) -> int:
    if not Path("/proc/self/fd").exists():
        return 0
    targets = []
    for name in os.listdir("/proc/self/fd"):
        try:
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:  # the listing's own
            continue
    return targets.count(str(path))


class TestShortReads:
    def test_what_is_left(self) -> None:
        buffers = [memoryview(b"abc"), memoryview(b"de"), memoryview(b"f")]
        joined = [b"".join(_after(buffers, n)) for n in range(7)]
        assert joined == [b"abcdef"[n:] for n in range(7)]

    def test_a_read_goes_on_where_the_system_stopped(self, tmp_path: Path) -> None:
        """One call takes 2 GiB at most; a pipe-like file gives less than was asked for."""
        path = tmp_path / "sparse"
        with path.open("wb") as file:
            file.truncate(1 << 20)
            file.seek(0)
            file.write(b"\1" * 5000)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            target = memoryview(bytearray(2 << 20))
            pieces = [target[start : start + 700] for start in range(0, 2 << 20, 700)]
            assert _read_into(descriptor, 100, pieces) == (1 << 20) - 100
            assert target[:4900] == b"\1" * 4900
            assert target[4900 : 1 << 20] == bytes((1 << 20) - 4900)
        finally:
            os.close(descriptor)
