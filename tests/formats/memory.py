"""Files that are bytes, and workers that are the caller: formats at their fastest, for fuzzing."""

from __future__ import annotations

import asyncio
import builtins
import os
import pickle
import tempfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Self, TypeVar
from weakref import finalize

import numpy as np
import numpy.typing as npt

from asyncload.errors import DecodeError, NotFound
from asyncload.formats import detect
from asyncload.interfaces import HeldReader, Indexing, ListEntry, OpenFiles, Reader
from asyncload.manifest import Deflate, Manifest, TensorEntry, memory_version, numpy_dtype
from asyncload.pipeline._stretches import Stretches

Result = TypeVar("Result")


class InlineWorkers:
    """Calls the function at once; what would cross to a process is pickled there and back."""

    processes = 1

    @property
    def threads(self) -> Executor:
        raise AssertionError("a format runs nothing but by the two methods below")

    async def run(
        self, function: Callable[..., Result], *args: Any, polite: bool = False
    ) -> Result:
        called, copied = pickle.loads(pickle.dumps((function, args)))
        result: Result = pickle.loads(pickle.dumps(called(*copied)))
        return result

    async def run_in_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        return function(*args)


class BytesReader:
    """A file that is bytes; counts its reads."""

    def __init__(self, uri: str, name: str, content: bytes) -> None:
        self.uri, self.name, self.content = uri, name, content
        self.size, self.version = len(content), "1"
        self.path: str | None = None
        self.parallel = 1
        self.reads: list[tuple[int, int]] = []

    async def read(self, offset: int, length: int) -> bytes:
        assert 0 <= offset <= offset + length <= self.size, "a read beyond the file"
        self.reads.append((offset, length))
        await asyncio.sleep(0)
        return self.content[offset : offset + length]

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        for buffer in buffers:
            buffer[:] = await self.read(offset, len(buffer))
            offset += len(buffer)

    async def check(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


class BytesSource:
    """Files in a folder; the first one is the URI's own."""

    local = False

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.name = next(iter(files))
        self.uri = f"memory://folder/{self.name}"
        self.readers: list[BytesReader] = []

    async def open(self, name: str = "") -> Reader:
        if (name or self.name) not in self.files:
            raise NotFound("there is no such file", uri=f"memory://folder/{name}")
        uri = f"memory://folder/{name}" if name else self.uri
        self.readers.append(BytesReader(uri, name, self.files[name or self.name]))
        return self.readers[-1]

    async def list(self) -> builtins.list[str] | None:
        return None

    async def entries(self, *, recursive: bool = False) -> builtins.list[ListEntry]:
        return [ListEntry(self.name, len(self.files[self.name]))]

    async def aclose(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass


_STEP = 16 << 10  # bytes; the least that a worker looks at


class _HeldReader(BytesReader):
    """Bytes on their way to where they can be opened by a path: some more come each time."""

    def __init__(self, uri: str, content: bytes) -> None:
        super().__init__(uri, "", content)
        file = tempfile.TemporaryFile()  # noqa: SIM115  closed with this
        file.write(bytes(len(content)))
        file.flush()
        finalize(self, file.close)
        self._descriptor = file.fileno()
        self._there = Stretches()
        self.path = f"/proc/self/fd/{self._descriptor}"
        status = os.fstat(self._descriptor)
        self.version = memory_version(status.st_ino, status.st_size)

    def present(self) -> tuple[tuple[int, int], ...]:
        return tuple(self._there)

    async def expect(self, spans: Iterable[tuple[int, int]]) -> None:
        for offset, length in spans:
            for at in range(offset // _STEP, -(-(offset + length) // _STEP)):
                self._come(at)

    async def more(self, nbytes: int) -> None:
        steps = range(-(-self.size // _STEP))
        missing = [at for at in steps if not self._there.covers(at * _STEP, at * _STEP + 1)]
        enough = len(missing) if nbytes >= self.size else 1  # for what is small
        for at in missing[:enough]:
            self._come(at)

    def _come(self, at: int) -> None:
        self._there.add(at * _STEP, (at + 1) * _STEP)
        piece = self.content[at * _STEP : (at + 1) * _STEP]
        os.pwrite(self._descriptor, piece, at * _STEP)


async def _unpack(reader: Reader, offset: int, stored: int, decoded: int, crc32: int) -> Reader:
    try:
        content = zlib.decompress(await reader.read(offset, stored), -zlib.MAX_WBITS)
    except zlib.error as error:
        raise DecodeError(str(error), uri=reader.uri) from error
    if (len(content), zlib.crc32(content)) != (decoded, crc32):
        raise DecodeError("other bytes than promised", uri=reader.uri)
    return BytesReader(reader.uri, "unpacked", content)


async def index_files(
    source: BytesSource, published: list[Mapping[str, bytes]] | None = None
) -> tuple[Manifest, OpenFiles]:
    """Detect and index the source's own file."""
    files = OpenFiles([await source.open()])
    head = await files.readers[0].read(0, min(16, files.readers[0].size))
    publish = ([] if published is None else published).append

    async def hold(file: int, offset: int, length: int) -> HeldReader:
        whole = files.readers[file]
        return _HeldReader(whole.uri, await whole.read(offset, length))

    early: dict[str, TensorEntry] = {}
    indexing = Indexing(source, files, InlineWorkers(), _unpack, publish, hold, early.update)
    manifest = await detect(source.name, head, uri=source.uri).index(indexing)
    for name, entry in early.items():
        assert manifest.tensors[name] == entry, "a tensor was not what had been said of it"
    return manifest, files


def index(files: Mapping[str, bytes]) -> Manifest:
    """Index the first of ``files`` in a loop of its own."""
    return asyncio.run(index_files(BytesSource(files)))[0]


def load(files: Mapping[str, bytes]) -> dict[str, npt.NDArray[Any]]:
    """Index the first of ``files``, and decode every tensor the obvious way."""
    manifest, opened = asyncio.run(index_files(BytesSource(files)))
    contents = [reader.content for reader in opened.readers if isinstance(reader, BytesReader)]
    entries = manifest.tensors.values()
    return {entry.name: _decode(entry, contents[entry.file]) for entry in entries}


def _decode(entry: TensorEntry, content: bytes) -> npt.NDArray[Any]:
    encoding, order, swap = entry.encoding, "C", False
    stored = content[entry.offset : entry.offset + entry.length]
    assert len(stored) == entry.length, "an entry beyond its file"
    if isinstance(encoding, Deflate):
        stored = zlib.decompress(stored, -zlib.MAX_WBITS)
        assert (len(stored), zlib.crc32(stored)) == (encoding.decoded, encoding.crc32)
        stored = stored[encoding.skip :]
    if encoding is not None:
        order, swap = encoding.order, encoding.swap  # type: ignore[union-attr]
    array = np.frombuffer(stored, numpy_dtype(entry.dtype))
    return (array.byteswap() if swap else array).reshape(entry.shape, order=order)  # type: ignore[call-overload]
