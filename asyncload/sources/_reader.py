"""`LocalReader`: one open file of this machine, read at positions through aiofiles."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from typing import Any, NoReturn, TypeVar

from asyncload.errors import NotFound, SourceChanged, SourceError, TransferFailed
from asyncload.manifest import file_version
from asyncload.resting import is_resting, rest_when_due

from ._errors import translated
from ._origin import origin_of
from ._threads import in_thread

__all__ = ["PARALLEL", "LocalReader"]

Result = TypeVar("Result")

# In flight: more than there are threads, so that none waits for the loop between two.
PARALLEL = 6  # reads
_BIT = 512 << 10  # bytes that are read between two rests: 0.1 to 0.2 ms from memory
_IOV_MAX = 1024  # buffers in one preadv; what Linux and macOS both take


class LocalReader:
    """One open file: one descriptor for any number of reads at once, and no cursor to share.

    Made by `LocalReader.open`. See `interfaces.Reader` for what its attributes and methods mean.

    Attributes:
        origin: URI that the file is a copy of; ``None`` for one that no fetch has brought.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        path: str,
        origin: str | None,
        uri: str,
        name: str,
        threads: Executor | None,
        owner: object,
    ) -> None:
        status = os.fstat(descriptor)
        self.uri = uri
        self.name = name
        self.size = status.st_size
        self.version = file_version(status)
        self.path: str | None = path
        self.origin = origin
        self.parallel = PARALLEL
        self._path = path
        self._descriptor = descriptor
        self._threads = threads
        self._owner = owner
        self._uses = 0
        self._closed = False
        self._released = asyncio.Event()

    @classmethod
    async def open(
        cls,
        path: str,
        *,
        uri: str,
        name: str = "",
        threads: Executor | None = None,
        owner: object = None,
    ) -> LocalReader:
        """Open a file, pinned to its present version.

        Args:
            path: where it is.
            uri: for messages, without credentials.
            name: relative to its source.
            threads: where reads run; ``None`` for the loop's default executor.
            owner: kept alive until the reader is closed: the memory behind ``path``, say.

        Raises:
            NotFound: there is nothing, or a folder.
            AccessDenied, TransferFailed: as they say.
            SourceError: it is something else that is not a file.
        """
        try:
            opened = await in_thread(threads, _open, path, uri, undo=_close_opened)
        except (OSError, ValueError) as error:
            if isinstance(error, SourceError):
                raise
            raise translated(error, uri) from error
        descriptor, path, origin = opened
        return cls(
            descriptor, path=path, origin=origin, uri=uri, name=name, threads=threads, owner=owner
        )

    async def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``; see `interfaces.Reader.read`."""
        if offset + length > self.size:  # files say how long: allocate nothing on their word
            await self._ended_early(offset, self.size - offset, length)
        data = await self._run(_read, self._descriptor, offset, length)
        if len(data) < length:
            await self._ended_early(offset, len(data), length)
        return data

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill ``buffers`` with the bytes from ``offset``; see `interfaces.Reader.read_into`."""
        length = sum(buffer.nbytes for buffer in buffers)
        got = await self._run(_read_into, self._descriptor, offset, buffers)
        if got < length:
            await self._ended_early(offset, got, length)

    async def check(self) -> None:
        """Raise `SourceChanged` if the file is no longer the version that was opened."""
        opened, named = await self._run(_versions, self._descriptor, self._path)
        if opened != self.version:
            raise self._changed("was rewritten or truncated")
        if named is None:
            raise self._changed("was removed or renamed")
        if named != self.version:
            raise self._changed("was replaced by another file")

    async def aclose(self) -> None:
        """Close the file once its reads have ended; closing twice is fine."""
        self.close_soon()
        await self._released.wait()

    def close_soon(self) -> None:
        """Take no more reads, and close the file with the last one."""
        self._closed = True
        self._release()

    async def _run(self, function: Callable[..., Result], *args: Any) -> Result:
        if self._closed:
            raise SourceError("this file was closed; open it again to read it", uri=self.uri)
        self._uses += 1
        try:
            return await in_thread(self._threads, function, *args)
        except OSError as error:
            raise translated(error, self.uri) from error
        finally:
            self._uses -= 1
            self._release()

    def _release(self) -> None:
        # Only after the last use: the number may stand for another file the moment it is closed.
        if self._closed and not self._uses and not self._released.is_set():
            os.close(self._descriptor)
            self._owner = None
            self._released.set()

    async def _ended_early(self, offset: int, got: int, length: int) -> NoReturn:
        await self.check()
        raise TransferFailed(
            f"{length:,} bytes from byte {offset:,} were wanted, but {max(got, 0):,} are there; "
            f"the file has {self.size:,} bytes and may have been cut short: fetch it again",
            uri=self.uri,
        )

    def _changed(self, how: str) -> SourceChanged:
        return SourceChanged(
            f"{how} while it was being read; load it again, and have its writer write a new file "
            "and rename that",
            uri=self.uri,
        )


def _open(path: str, uri: str) -> tuple[int, str, str | None]:
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _expect_file(os.fstat(descriptor).st_mode, uri)
        return descriptor, os.path.join(os.getcwd(), path), origin_of(path)
    except BaseException:
        os.close(descriptor)
        raise


def _expect_file(mode: int, uri: str) -> None:
    if stat.S_ISDIR(mode):
        raise NotFound("is a folder; name the file in it that you want", uri=uri)
    if not stat.S_ISREG(mode):
        raise SourceError("is no regular file but a pipe, socket or device", uri=uri)


def _close_opened(opened: tuple[int, str, str | None]) -> None:
    os.close(opened[0])


def _read(descriptor: int, offset: int, length: int) -> bytes:
    """Read until ``length`` bytes or the file's end have come."""
    data = os.pread(descriptor, length, offset)
    parts = [data]
    got = len(data)
    while data and got < length:
        data = os.pread(descriptor, length - got, offset + got)
        parts.append(data)
        got += len(data)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _read_into(descriptor: int, offset: int, buffers: Sequence[memoryview]) -> int:
    """Read until ``buffers`` are full or the file's end has come; return how much has."""
    remaining = [buffer for buffer in buffers if buffer.nbytes]
    position = offset
    while remaining:
        some = _first(remaining, _BIT) if is_resting() else remaining
        got = os.preadv(descriptor, some[:_IOV_MAX], position)
        rest_when_due()
        if got == 0:
            break
        position += got
        remaining = _after(remaining, got)
    return position - offset


def _first(buffers: list[memoryview], nbytes: int) -> list[memoryview]:
    """Return the first ``nbytes`` bytes of ``buffers``, or all that they have."""
    taken = []
    for buffer in buffers:
        taken.append(buffer[:nbytes])
        nbytes -= buffer.nbytes
        if nbytes <= 0:
            break
    return taken


def _after(buffers: list[memoryview], nbytes: int) -> list[memoryview]:
    """Return what is left of ``buffers`` behind their first ``nbytes`` bytes."""
    for index, buffer in enumerate(buffers):
        if nbytes < buffer.nbytes:
            return [buffer[nbytes:], *buffers[index + 1 :]]
        nbytes -= buffer.nbytes
    return []


def _versions(descriptor: int, path: str) -> tuple[str, str | None]:
    """Return the version of the open file, and of what has its path now, if anything has."""
    opened = file_version(os.fstat(descriptor))
    try:
        return opened, file_version(os.stat(path))
    except (FileNotFoundError, NotADirectoryError):
        return opened, None
