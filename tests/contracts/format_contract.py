"""What every Format must do; the test of each inherits this.

A subclass says in `make` how the stock writer makes a file (or a folder, or the files that begin
with a prefix), and what the stock reader finds in it. Everything else follows from the interface.
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

from asyncload.codecs import crc32c, decode, decode_strings, fill, put_together
from asyncload.errors import AsyncloadError, Corrupt, FormatError
from asyncload.formats import FORMATS, detect
from asyncload.interfaces import Format, Indexing, OpenFiles, Reader
from asyncload.loader._find import find_format
from asyncload.manifest import (
    Chunked,
    Inline,
    Manifest,
    Part,
    Partitioned,
    Strings,
    TensorEntry,
    numpy_dtype,
)
from asyncload.pipeline import unpack
from asyncload.sources import open_source
from asyncload.workers import Workers

__all__ = ["Arrays", "FormatContract", "indexed", "read_tensor"]

Arrays = dict[str, npt.NDArray[Any]]


@asynccontextmanager
async def indexed(path: Path) -> AsyncIterator[tuple[Manifest, OpenFiles]]:
    """Index what a path names as the Loader does, workers being threads."""
    workers, files = Workers("thread"), OpenFiles()
    try:
        async with open_source(path, threads=workers.threads) as source:
            chosen, reader = await find_format(source)
            files.add(reader)

            async def unpacked(*where: Any) -> Reader:
                return await unpack(*where, workers=workers)

            indexing = Indexing(source, files, workers, unpacked)
            yield await chosen.index(indexing), files
            for opened in files.readers:
                await opened.check()
    finally:
        for opened in files.readers:  # those that were unpacked belong to no source
            await opened.aclose()
        await workers.aclose()


async def read_tensor(entry: TensorEntry, files: OpenFiles) -> npt.NDArray[Any]:
    """Read one tensor: every span, then the codec."""
    if isinstance(entry.encoding, Partitioned):
        parts = [await _read_part(part, files) for part in entry.encoding.parts if part.length]
        whole = bytearray(entry.nbytes)
        put_together(entry, parts, memoryview(whole))
        return np.frombuffer(whole, numpy_dtype(entry.dtype)).reshape(entry.shape)
    stored = [await files.readers[entry.file].read(*span) for span in entry.spans()]
    if isinstance(entry.encoding, Strings):
        return decode_strings(entry, memoryview(stored[0]))
    if entry.crc32c is not None and crc32c(stored[0]) != entry.crc32c:
        raise Corrupt("has another checksum", tensor=entry.name)
    out = bytearray(entry.nbytes)
    if isinstance(entry.encoding, Chunked | Inline):
        fill(entry, memoryview(out))
    if not isinstance(entry.encoding, Inline):
        decode(entry, [memoryview(piece) for piece in stored], memoryview(out))
    return np.frombuffer(out, numpy_dtype(entry.dtype)).reshape(entry.shape)


async def _read_part(part: Part, files: OpenFiles) -> memoryview:
    content = await files.readers[part.file].read(part.offset, part.length)
    if crc32c(content) != part.crc32c:
        raise Corrupt("has a part of another checksum")
    return memoryview(content)


class FormatContract:
    """Inherit as ``TestSomething(FormatContract)``.

    Attributes:
        format_name: as the Format says.
        file_name: what the URI names, relative to a folder: a file, a folder or a prefix.
        index_files: the files that the index is made of, relative to the same folder; by default
            the URI's own.
        all_files: the files that are to be damaged; by default the same.
    """

    format_name: ClassVar[str]
    file_name: ClassVar[str]
    index_files: ClassVar[tuple[str, ...]] = ()
    all_files: ClassVar[tuple[str, ...]] = ()

    def make(self, path: Path) -> Arrays:
        """Write a file, with the stock writer; return what the stock reader finds."""
        raise NotImplementedError

    def test_is_registered_and_told_by_its_name(self) -> None:
        assert self.format_name in [each.name for each in FORMATS]
        for name in (self.file_name, self.file_name.upper()):
            assert self.detected(name).name == self.format_name

    def detected(self, name: str) -> Format:
        """Return the format that is told by a URI's name alone."""
        return detect(name, b"", uri="x")

    async def test_every_tensor_equals_what_the_stock_reader_finds(self, tmp_path: Path) -> None:
        expected = self.make(tmp_path / self.file_name)
        async with indexed(tmp_path / self.file_name) as (manifest, files):
            assert set(manifest.tensors) == set(expected)
            for name, entry in manifest.tensors.items():
                found = await read_tensor(entry, files)
                assert found.dtype == expected[name].dtype.newbyteorder("=")
                assert found.shape == expected[name].shape
                if found.dtype.hasobject:
                    assert found.tolist() == expected[name].tolist()
                    continue
                assert found.tobytes() == expected[name].astype(found.dtype, order="C").tobytes()

    async def test_the_manifest_is_whole(self, tmp_path: Path) -> None:
        self.make(tmp_path / self.file_name)
        async with indexed(tmp_path / self.file_name) as (manifest, files):
            assert manifest.format == self.format_name
            assert manifest.files == files.entries()
            assert Manifest.from_json(manifest.to_json()) == manifest
            for entry in [*manifest.tensors.values(), *manifest.assets.values()]:
                spans = [(entry.file, *span) for span in entry.spans()]
                if isinstance(entry.encoding, Partitioned):
                    spans = [(part.file, part.offset, part.length) for part in entry.encoding.parts]
                for file, offset, length in spans:
                    assert 0 <= offset <= offset + length <= manifest.files[file].size

    @pytest.mark.parametrize("tenths", range(10))
    async def test_a_truncated_file_is_an_error_at_once(self, tmp_path: Path, tenths: int) -> None:
        self.make(tmp_path / self.file_name)
        for name in self.all_files or (self.file_name,):
            path = tmp_path / name
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) * tenths // 10])
            await self._expect_error(tmp_path / self.file_name, path)
            path.write_bytes(whole)

    async def test_other_bytes_under_its_name_are_an_error_at_once(self, tmp_path: Path) -> None:
        self.make(tmp_path / self.file_name)
        for name in self.index_files or (self.file_name,):
            path = tmp_path / name
            whole = path.read_bytes()
            path.write_bytes(random.Random(0).randbytes(5000))
            await self._expect_error(tmp_path / self.file_name, path)
            path.write_bytes(whole)

    async def _expect_error(self, uri: Path, path: Path) -> None:
        begun = time.perf_counter()
        with pytest.raises(FormatError) as caught:
            async with indexed(uri):
                pass
        assert time.perf_counter() - begun < 1
        assert path.name in str(caught.value)

    async def test_damage_is_an_error_of_ours_or_harmless(self, tmp_path: Path) -> None:
        self.make(tmp_path / self.file_name)
        names = {*self.index_files, *self.all_files} or {self.file_name}
        for name in sorted(names):
            await self._damage(tmp_path / name, tmp_path / self.file_name)

    async def _damage(self, path: Path, uri: Path) -> None:
        whole = path.read_bytes()
        rng = random.Random(1)
        for _ in range(25):
            damaged = bytearray(whole)
            for _ in range(rng.choice([1, 1, 3, 20])):
                damaged[self._place(rng, len(whole))] = rng.randrange(256)
            path.write_bytes(damaged)
            with suppress(AsyncloadError):
                async with indexed(uri) as (manifest, files):
                    for entry in manifest.tensors.values():
                        await read_tensor(entry, files)
        path.write_bytes(whole)

    @staticmethod
    def _place(rng: random.Random, size: int) -> int:
        """Pick a byte, mostly near the ends, where headers and directories lie."""
        near = min(size, 2000)
        return rng.choice(
            [rng.randrange(near), size - 1 - rng.randrange(near), rng.randrange(size)]
        )
