"""``memory://`` files."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from asyncload.errors import NotFound, Unsafe
from asyncload.sources import forget_memory, open_source, put_memory
from tests.contracts.source_contract import SourceContract


class TestMemorySource(SourceContract):
    @pytest.fixture(autouse=True)
    def _clean(self) -> Iterator[None]:
        yield
        forget_memory("tests")

    def put(self, files: dict[str, bytes], tmp_path: Path) -> str:
        return put_memory("tests/folder", files)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    yield
    forget_memory("one")


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_one_file(kind: type[bytes]) -> None:
    assert put_memory("one/file", kind(b"content")) == "memory://one/file"
    async with open_source("memory://one/file") as source:
        assert await source.list() is None
        assert await (await source.open()).read(0, 7) == b"content"


async def test_what_was_put_is_a_copy() -> None:
    data = bytearray(b"content")
    put_memory("one", data)
    data[:] = b"another"
    async with open_source("memory://one") as source:
        assert await (await source.open()).read(0, 7) == b"content"


async def test_putting_again_replaces_all() -> None:
    put_memory("one", {"a": b"1", "b": b"2"})
    put_memory("one", {"b": b"3"})
    async with open_source("memory://one") as source:
        assert await source.list() == ["b"]
        assert await (await source.open("b")).read(0, 1) == b"3"


async def test_a_load_under_way_goes_on_when_it_is_forgotten() -> None:
    put_memory("one", b"content")
    async with open_source("memory://one") as source:
        reader = await source.open()
        forget_memory("one")
        assert await reader.read(0, 7) == b"content"
        await reader.check()
    async with open_source("memory://one") as source:
        with pytest.raises(NotFound, match="put_memory"):
            await source.open()


async def test_a_folder_may_have_folders() -> None:
    put_memory("one", {"a": b"1", "sub/b": b"22", "sub/deep/c": b"333"})
    async with open_source("memory://one") as source:
        assert await source.list() == ["a", "sub"]
        assert (await source.open("sub/deep/c")).size == 3
    async with open_source("memory://one/sub") as source:
        assert await source.list() == ["b", "deep"]


def test_file_names_stay_in_the_folder() -> None:
    with pytest.raises(Unsafe):
        put_memory("one", {"../two": b""})


def test_forgetting_frees() -> None:
    gc.collect()
    before = psutil.virtual_memory().shared
    put_memory("one", bytes(64 << 20))
    assert psutil.virtual_memory().shared - before > 50 << 20
    forget_memory("one")
    assert psutil.virtual_memory().shared - before < 30 << 20
