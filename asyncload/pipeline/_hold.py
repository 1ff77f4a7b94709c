"""A range of a remote file, fetched once into memory that workers see, too."""

from __future__ import annotations

from collections.abc import Sequence

from asyncload.interfaces import Reader, WorkerPool
from asyncload.memory import SharedSlab
from asyncload.sources import LocalReader

__all__ = ["HeldRange", "fetch_range"]


async def fetch_range(
    reader: Reader, offset: int, length: int, *, workers: WorkerPool
) -> LocalReader:
    """Fetch a range of a file into shared memory.

    Returns:
        A reader of that range alone, whose memory is freed when it is closed.

    Raises:
        SourceError: it could not be read.
        MemoryLimitExceeded: the system has no memory left for it.
    """
    slab = SharedSlab(max(length, 1))
    try:
        await reader.read_into(offset, [slab.view[:length]])
        return await LocalReader.open(
            slab.handle.path, uri=reader.uri, threads=workers.threads, owner=slab
        )
    except BaseException:
        slab.close()
        raise


class HeldRange:
    """A remote file of which a range is here already. See `interfaces.Reader`.

    Args:
        whole: the file; what is asked of it stands in ``uri``, ``name``, ``size``, ``version``.
        part: reads the range that is here.
        offset: of that range in the file.
        length: of that range, in bytes.
    """

    def __init__(self, whole: Reader, part: Reader, offset: int, length: int) -> None:
        self.uri = whole.uri
        self.name = whole.name
        self.size = whole.size
        self.version = whole.version
        self.path = whole.path
        self.parallel = part.parallel
        self._whole = whole
        self._part = part
        self._begin = offset
        self._end = offset + length

    def held(self, offset: int, length: int) -> Reader | None:
        """Return the reader of a range, if it is the one that is here."""
        same = (offset, offset + length) == (self._begin, self._end)
        return self._part if same else None

    async def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; see `interfaces.Reader.read`."""
        if self._begin <= offset and offset + length <= self._end:
            return await self._part.read(offset - self._begin, length)
        return await self._whole.read(offset, length)

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill ``buffers`` with the bytes from ``offset``; see `interfaces.Reader.read_into`."""
        length = sum(buffer.nbytes for buffer in buffers)
        if self._begin <= offset and offset + length <= self._end:
            await self._part.read_into(offset - self._begin, buffers)
        else:
            await self._whole.read_into(offset, buffers)

    async def check(self) -> None:
        """Raise `SourceChanged` if the file is no longer the version that was opened."""
        await self._whole.check()

    async def aclose(self) -> None:
        """Close the file, and free the range; closing twice is fine."""
        await self._part.aclose()
        await self._whole.aclose()
