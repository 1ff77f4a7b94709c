"""What every Source and its Readers must do; the test of each inherits this.

A subclass says in `put` how files come to be where the source finds them.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from asyncload.errors import NotFound, SourceChanged, SourceError, TransferFailed, Unsafe
from asyncload.interfaces import Reader, Source
from asyncload.manifest import file_version
from asyncload.sources import open_source

__all__ = ["SourceContract"]

CONTENT = random.Random(1).randbytes(300_000)
DEEP = "sub/folder/deep.bin"
FILES = {"model.bin": CONTENT, "other.bin": CONTENT[::-1], "empty.bin": b"", DEEP: CONTENT[:9]}


class SourceContract(ABC):
    """Inherit, and implement `put`."""

    @abstractmethod
    def put(self, files: dict[str, bytes], tmp_path: Path) -> str:
        """Make ``files`` available, in the place of those before; return their folder's URI."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> str:
        return self.put(FILES, tmp_path)

    # --- where and what ----------------------------------------------------------------

    async def test_says_what_it_is(self, folder: str) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            assert source.uri == f"{folder}/model.bin"
            assert source.name == "model.bin"
            reader = await source.open()
            assert (reader.uri, reader.name, reader.size) == (source.uri, "", len(CONTENT))
            assert reader.version

    async def test_opens_a_neighbour(self, folder: str) -> None:
        for uri in (f"{folder}/model.bin", folder):
            async with open_source(uri) as source:
                reader = await source.open("other.bin")
                assert (reader.uri, reader.name) == (f"{folder}/other.bin", "other.bin")
                assert await reader.read(0, reader.size) == CONTENT[::-1]

    async def test_opens_what_lies_below(self, folder: str) -> None:
        for uri in (f"{folder}/model.bin", folder, f"{folder}/none"):
            async with open_source(uri) as source:
                reader = await source.open(DEEP)
                assert (reader.uri, reader.name) == (f"{folder}/{DEEP}", DEEP)
                assert await reader.read(0, reader.size) == CONTENT[:9]

    async def test_a_uri_may_be_what_names_begin_with(self, folder: str) -> None:
        async with open_source(f"{folder}/other") as source:
            assert source.name == "other"
            reader = await source.open("other.bin")
            assert (reader.uri, reader.name) == (f"{folder}/other.bin", "other.bin")
            with pytest.raises(NotFound):
                await source.list()
            with pytest.raises(NotFound):
                await source.open()

    async def test_lists_folders_only(self, folder: str) -> None:
        async with open_source(folder) as source:
            assert await source.list() == ["empty.bin", "model.bin", "other.bin", "sub"]
        async with open_source(f"{folder}/sub") as source:
            assert await source.list() == ["folder"]
        async with open_source(f"{folder}/model.bin") as source:
            assert await source.list() is None

    async def test_lists_sizes(self, folder: str) -> None:
        async with open_source(folder) as source:
            entries = {entry.name: entry for entry in await source.entries()}
            assert list(entries) == ["empty.bin", "model.bin", "other.bin", "sub/"]
            assert (entries["sub/"].is_folder, entries["sub/"].size) == (True, None)
            assert (entries["model.bin"].size, entries["empty.bin"].size) == (len(CONTENT), 0)
            assert entries["model.bin"].version != entries["other.bin"].version
            below = await source.entries(recursive=True)
            assert {entry.name: entry.size for entry in below} == {
                name: len(content) for name, content in FILES.items()
            }
            assert [entry.name for entry in below] == sorted(FILES)

    async def test_lists_a_file_by_its_own_name(self, folder: str) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            (entry,) = await source.entries()
            assert (entry.name, entry.size) == ("model.bin", len(CONTENT))
            assert [entry] == await source.entries(recursive=True)
            assert await (await source.open()).read(0, 9) == CONTENT[:9]
        async with open_source(f"{folder}/none") as source:
            with pytest.raises(NotFound):
                await source.entries()

    @pytest.mark.parametrize("missing", ["none.bin", "model.bin/none", "none/none.bin"])
    async def test_missing(self, folder: str, missing: str) -> None:
        async with open_source(f"{folder}/{missing}") as source:
            with pytest.raises(NotFound) as caught:
                await source.open()
            assert caught.value.uri == f"{folder}/{missing}"
            with pytest.raises(NotFound):
                await source.list()

    async def test_missing_neighbour(self, folder: str) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            with pytest.raises(NotFound) as caught:
                await source.open("none.bin")
            assert caught.value.uri == f"{folder}/none.bin"
            assert isinstance(caught.value, FileNotFoundError)

    @pytest.mark.parametrize(
        "name",
        [
            "../model.bin",
            "/etc/passwd",
            "sub/../../model.bin",
            "sub/./deep.bin",
            "sub//deep.bin",
            "sub/",
            "..",
            ".",
            "a\\b",
            "a\0b",
        ],
    )
    async def test_a_name_cannot_leave_the_folder(self, folder: str, name: str) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            with pytest.raises(Unsafe, match="same folder"):
                await source.open(name)

    async def test_a_folder_cannot_be_read(self, folder: str) -> None:
        async with open_source(folder) as source:
            with pytest.raises(SourceError):
                await source.open()

    async def test_another_process_could_open_it(self, folder: str) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            reader = await source.open()
            if reader.path is not None:
                assert os.path.isabs(reader.path)
                with open(reader.path, "rb") as file:
                    assert file_version(os.fstat(file.fileno())) == reader.version
                    assert file.read() == CONTENT

    # --- reading -----------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("offset", "length"), [(0, 0), (0, 1), (7, 100_000), (299_999, 1), (300_000, 0)]
    )
    async def test_reads_ranges(self, folder: str, offset: int, length: int) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            reader = await source.open()
            data = await reader.read(offset, length)
            assert data == CONTENT[offset : offset + length]
            assert isinstance(data, bytes)

    async def test_an_empty_file(self, folder: str) -> None:
        async with open_source(f"{folder}/empty.bin") as source:
            reader = await source.open()
            assert reader.size == 0
            assert await reader.read(0, 0) == b""
            await reader.read_into(0, [])

    @pytest.mark.parametrize("pieces", [1, 2, 17, 1500])
    async def test_scattered_reads_equal_plain_ones(self, folder: str, pieces: int) -> None:
        chance = random.Random(pieces)
        async with open_source(f"{folder}/model.bin") as source:
            reader = await source.open()
            cuts = sorted(chance.randrange(len(CONTENT)) for _ in range(pieces + 1))
            cuts[1:1] = [cuts[0]] * 2  # empty buffers too
            whole = bytearray(len(CONTENT))
            buffers = [memoryview(whole)[a:b] for a, b in pairwise(cuts)]
            await reader.read_into(cuts[0], buffers)
            expected = bytearray(len(CONTENT))
            expected[cuts[0] : cuts[-1]] = CONTENT[cuts[0] : cuts[-1]]
            assert whole == expected

    async def test_reads_at_once_do_not_mix(self, folder: str) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            reader = await source.open()
            ranges = [(offset, 5_000) for offset in range(0, 290_000, 1_000)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(reader.read(*where)) for where in ranges]
            for (offset, length), task in zip(ranges, tasks, strict=True):
                assert task.result() == CONTENT[offset : offset + length]

    @pytest.mark.parametrize(
        ("offset", "length"), [(300_000, 1), (299_999, 2), (0, 1 << 62), (1 << 40, 1)]
    )
    async def test_beyond_the_end(self, folder: str, offset: int, length: int) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            reader = await source.open()
            with pytest.raises(TransferFailed, match="300,000 bytes"):
                await reader.read(offset, length)
            end = max(offset, reader.size - 5)
            with pytest.raises(TransferFailed, match="300,000 bytes"):
                await reader.read_into(end, [memoryview(bytearray(10))])

    async def test_reads_run_in_the_threads_given(self, folder: str) -> None:
        with ThreadPoolExecutor(2, thread_name_prefix="own") as threads:
            async with open_source(f"{folder}/model.bin", threads=threads) as source:
                reader = await source.open()
                assert await reader.read(5, 5) == CONTENT[5:10]
            names = {t.name for t in threading.enumerate()}
            assert any(name.startswith("own") for name in names)

    # --- versions ----------------------------------------------------------------------

    async def test_an_unchanged_file_passes(self, folder: str) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            first, second = await source.open(), await source.open()
            assert first.version == second.version
            for reader in (first, second):
                await reader.read(0, 10)
                await reader.check()

    async def test_versions_are_never_mixed(self, folder: str, tmp_path: Path) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            reader = await source.open()
            first = await reader.read(0, 1000)
            self.put({**FILES, "model.bin": CONTENT[::-1]}, tmp_path)
            changed: SourceChanged | None = None
            try:
                rest = await reader.read(1000, reader.size - 1000)
                await reader.check()
            except SourceChanged as error:
                changed = error
            if changed is None:
                assert first + rest == CONTENT
            else:
                assert "load it again" in str(changed)
                assert changed.uri == f"{folder}/model.bin"
        async with open_source(f"{folder}/model.bin") as source:
            again = await source.open()
            assert again.version != reader.version
            assert await again.read(0, again.size) == CONTENT[::-1]

    # --- cancellation and the end ------------------------------------------------------

    async def test_a_cancelled_read_writes_no_more(self, tmp_path: Path) -> None:
        size = 64 << 20
        folder = self.put({"large.bin": bytes(size)}, tmp_path)
        async with open_source(f"{folder}/large.bin") as source:
            reader = await source.open()
            for delay in (0, 0, 0.001, 0.005):
                target = bytearray(b"\1") * size
                task = asyncio.create_task(reader.read_into(0, [memoryview(target)]))
                await asyncio.sleep(delay)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                target[:] = b"\2" * size
                await asyncio.sleep(0.02)
                assert target.count(2) == size, "a thread was still writing"

    async def test_closing_waits_for_reads(self, tmp_path: Path) -> None:
        size = 32 << 20
        folder = self.put({"large.bin": b"\1" * size}, tmp_path)
        async with open_source(f"{folder}/large.bin") as source:
            reader = await source.open()
            targets = [bytearray(size) for _ in range(2)]
            reads = [
                asyncio.create_task(reader.read_into(0, [memoryview(target)])) for target in targets
            ]
            await asyncio.sleep(0)
            await reader.aclose()
            done = await asyncio.gather(*reads, return_exceptions=True)
            assert done == [None, None]
            assert all(target.count(1) == size for target in targets)

    async def test_closed_ones_refuse(self, folder: str) -> None:
        source = open_source(f"{folder}/model.bin")
        first, second = await source.open(), await source.open()
        await first.aclose()
        await first.aclose()
        with pytest.raises(SourceError, match="closed"):
            await first.read(0, 1)
        assert await second.read(0, 1) == CONTENT[:1]
        await source.aclose()
        await source.aclose()
        with pytest.raises(SourceError, match="closed"):
            await second.read(0, 1)
        with pytest.raises(SourceError, match="closed"):
            await source.open()

    async def test_is_what_the_interfaces_say(self, folder: str) -> None:
        async with open_source(f"{folder}/model.bin") as opened:
            source: Source = opened
            reader: Reader = await source.open()
            await reader.check()
