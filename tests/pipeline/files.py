"""Files of raw and encoded tensors, with the manifests that a format would write for them."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from asyncload.interfaces import OpenFiles
from asyncload.manifest import (
    Chunk,
    Chunked,
    Deflate,
    Encoding,
    Inline,
    Manifest,
    Reorder,
    TensorEntry,
)
from asyncload.memory import SlabPool
from asyncload.pipeline import Pipeline
from asyncload.sources import open_source
from asyncload.workers import Workers

Array = npt.NDArray[Any]

DEFLATE = 1  # HDF5's number for it


@dataclass
class FileMaker:
    """Writes tensors into a file, one after the other, each encoded in its own way."""

    path: Path
    file: int = 0
    content: bytearray = field(default_factory=lambda: bytearray(b"header!"))
    entries: list[TensorEntry] = field(default_factory=list)
    expected: dict[str, Array] = field(default_factory=dict)

    def _append(self, data: bytes) -> tuple[int, int]:
        offset = len(self.content)
        self.content += data
        return offset, len(data)

    def _add(
        self, name: str, array: Array, where: tuple[int, int], encoding: Encoding | None
    ) -> None:
        dtype = array.dtype.name
        self.entries.append(TensorEntry(name, dtype, array.shape, self.file, *where, encoding))
        self.expected[name] = array

    def gap(self, nbytes: int) -> None:
        """Leave bytes that belong to nothing."""
        self._append(b"\xee" * nbytes)

    def raw(self, name: str, array: Array) -> None:
        self._add(name, array, self._append(array.tobytes()), None)

    def deflated(self, name: str, array: Array, skip: int = 10) -> None:
        plain = b"\xaa" * skip + array.tobytes()
        deflater = zlib.compressobj(1, zlib.DEFLATED, -15)
        stored = deflater.compress(plain) + deflater.flush()
        encoding = Deflate(skip, len(plain), zlib.crc32(plain))
        self._add(name, array, self._append(stored), encoding)

    def fortran(self, name: str, array: Array) -> None:
        self._add(name, array, self._append(array.tobytes(order="F")), Reorder("F"))

    def swapped(self, name: str, array: Array) -> None:
        self._add(name, array, self._append(array.byteswap().tobytes()), Reorder("C", swap=True))

    def inline(self, name: str, array: Array) -> None:
        self._add(name, array, (0, 0), Inline(array.tobytes()))

    def chunked(
        self, name: str, array: Array, chunk: tuple[int, ...], *, holes: int = 0, fill: float = 0.0
    ) -> None:
        """Write chunks, but every ``holes``-th one, which then has the fill value."""
        expected, chunks = array.copy(), []
        counts = [-(-size // step) for size, step in zip(array.shape, chunk, strict=True)]
        for index, where in enumerate(np.ndindex(*counts)):
            origin = tuple(w * c for w, c in zip(where, chunk, strict=True))
            window = tuple(slice(o, o + c) for o, c in zip(origin, chunk, strict=True))
            if holes and index % holes == 0:
                expected[window] = fill
                continue
            whole = np.zeros(chunk, array.dtype)
            part = array[window]
            whole[tuple(slice(0, n) for n in part.shape)] = part
            offset, length = self._append(zlib.compress(whole.tobytes(), 1))
            chunks.append(Chunk(origin, offset, length))
        value = np.array(fill, array.dtype).tobytes() if fill else b""
        encoding = Chunked(chunk, ((DEFLATE, (1,)),), tuple(chunks), value)
        total = sum(one.length for one in chunks)
        first = min((one.offset for one in chunks), default=0)
        self._add(name, expected, (first, total), encoding)

    def write(self) -> None:
        self.path.write_bytes(self.content)


@dataclass
class Opened:
    """Open files and all that a pipeline needs."""

    manifest: Manifest
    files: OpenFiles
    workers: Workers
    slabs: SlabPool
    expected: dict[str, Array]

    def pipeline(
        self,
        names: Sequence[str] | None = None,
        on_tensor: Callable[[TensorEntry], None] | None = None,
    ) -> Pipeline:
        return Pipeline(
            self.manifest,
            self.files,
            workers=self.workers,
            slabs=self.slabs,
            names=names,
            on_tensor=on_tensor,
        )


@asynccontextmanager
async def opened(*makers: FileMaker, executor: Any = "thread") -> AsyncIterator[Opened]:
    """Open what ``makers`` wrote, as the Loader would."""
    workers, slabs, files = Workers(executor, processes=2), SlabPool(), OpenFiles()
    sources = [open_source(maker.path, threads=workers.threads) for maker in makers]
    try:
        for source in sources:
            files.add(await source.open())
        entries = {one.name: one for maker in makers for one in maker.entries}
        expected = {name: array for maker in makers for name, array in maker.expected.items()}
        manifest = Manifest("the.uri", "test", files.entries(), entries)
        yield Opened(manifest, files, workers, slabs, expected)
    finally:
        for source in sources:
            await source.aclose()
        slabs.close()
        await workers.aclose()
