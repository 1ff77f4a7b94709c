"""What every Format must do; the test of each inherits this.

A subclass says in `make` how the stock writer makes a file, and what the stock reader
finds in it. Everything else follows from the interface.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pytest

from asyncload.codecs import decode, fill
from asyncload.errors import AsyncloadError, FormatError
from asyncload.formats import FORMATS, detect
from asyncload.interfaces import Indexing, OpenFiles, Reader
from asyncload.manifest import Chunked, Inline, Manifest, TensorEntry, numpy_dtype
from asyncload.pipeline import unpack
from asyncload.sources import open_source
from asyncload.workers import Workers

__all__ = ["Arrays", "FormatContract", "indexed", "read_tensor"]

Arrays = dict[str, npt.NDArray[Any]]

_HEAD = 16  # bytes, as the Loader reads


@asynccontextmanager
async def indexed(path: Path) -> AsyncIterator[tuple[Manifest, OpenFiles]]:
    """Index a file as the Loader does, workers being threads."""
    workers, files = Workers("thread"), OpenFiles()
    try:
        async with open_source(path, threads=workers.threads) as source:
            files.add(await source.open())
            reader = files.readers[0]
            head = await reader.read(0, min(_HEAD, reader.size))

            async def unpacked(*where: Any) -> Reader:
                return await unpack(*where, workers=workers)

            indexing = Indexing(source, files, workers, unpacked)
            yield await detect(source.name, head, uri=source.uri).index(indexing), files
            for opened in files.readers:
                await opened.check()
    finally:
        for opened in files.readers:  # those that were unpacked belong to no source
            await opened.aclose()
        await workers.aclose()


async def read_tensor(entry: TensorEntry, files: OpenFiles) -> npt.NDArray[Any]:
    """Read one tensor: every span, then the codec."""
    stored = [await files.readers[entry.file].read(*span) for span in entry.spans()]
    out = bytearray(entry.nbytes)
    if isinstance(entry.encoding, Chunked | Inline):
        fill(entry, memoryview(out))
    if not isinstance(entry.encoding, Inline):
        decode(entry, [memoryview(piece) for piece in stored], memoryview(out))
    return np.frombuffer(out, numpy_dtype(entry.dtype)).reshape(entry.shape)


class FormatContract:
    """Inherit as ``TestSomething(FormatContract)``."""

    format_name: ClassVar[str]
    file_name: ClassVar[str]

    def make(self, path: Path) -> Arrays:
        """Write a file, with the stock writer; return what the stock reader finds."""
        raise NotImplementedError

    def test_is_registered_and_told_by_its_name(self) -> None:
        assert self.format_name in [each.name for each in FORMATS]
        assert detect(self.file_name, b"", uri="x").name == self.format_name
        assert detect(self.file_name.upper(), b"", uri="x").name == self.format_name

    async def test_every_tensor_equals_what_the_stock_reader_finds(self, tmp_path: Path) -> None:
        expected = self.make(tmp_path / self.file_name)
        async with indexed(tmp_path / self.file_name) as (manifest, files):
            assert set(manifest.tensors) == set(expected)
            for name, entry in manifest.tensors.items():
                found = await read_tensor(entry, files)
                assert found.dtype == expected[name].dtype.newbyteorder("=")
                assert found.shape == expected[name].shape
                assert found.tobytes() == expected[name].astype(found.dtype, order="C").tobytes()

    async def test_the_manifest_is_whole(self, tmp_path: Path) -> None:
        self.make(tmp_path / self.file_name)
        async with indexed(tmp_path / self.file_name) as (manifest, files):
            assert manifest.format == self.format_name
            assert manifest.files == files.entries()
            assert Manifest.from_json(manifest.to_json()) == manifest
            for entry in [*manifest.tensors.values(), *manifest.assets.values()]:
                for offset, length in entry.spans():
                    assert 0 <= offset <= offset + length <= manifest.files[entry.file].size

    @pytest.mark.parametrize("tenths", range(10))
    async def test_a_truncated_file_is_an_error_at_once(self, tmp_path: Path, tenths: int) -> None:
        path = tmp_path / self.file_name
        self.make(path)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * tenths // 10])
        await self._expect_error(path)

    async def test_other_bytes_under_its_name_are_an_error_at_once(self, tmp_path: Path) -> None:
        path = tmp_path / self.file_name
        path.write_bytes(random.Random(0).randbytes(5000))
        await self._expect_error(path)

    async def _expect_error(self, path: Path) -> None:
        begun = time.perf_counter()
        with pytest.raises(FormatError) as caught:
            async with indexed(path):
                pass
        assert time.perf_counter() - begun < 1
        assert path.name in str(caught.value)

    async def test_damage_is_an_error_of_ours_or_harmless(self, tmp_path: Path) -> None:
        path = tmp_path / self.file_name
        self.make(path)
        whole = path.read_bytes()
        rng = random.Random(1)
        for _ in range(25):
            damaged = bytearray(whole)
            for _ in range(rng.choice([1, 1, 3, 20])):
                damaged[self._place(rng, len(whole))] = rng.randrange(256)
            path.write_bytes(damaged)
            with suppress(AsyncloadError):
                async with indexed(path) as (manifest, files):
                    for entry in manifest.tensors.values():
                        await read_tensor(entry, files)

    @staticmethod
    def _place(rng: random.Random, size: int) -> int:
        """Pick a byte, mostly near the ends, where headers and directories lie."""
        near = min(size, 2000)
        return rng.choice(
            [rng.randrange(near), size - 1 - rng.randrange(near), rng.randrange(size)]
        )
