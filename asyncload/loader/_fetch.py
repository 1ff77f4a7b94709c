"""How a fetch goes: open each file, see what of it is here, bring the rest, put it in its place."""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import anyio
import numpy as np

from asyncload.errors import AsyncloadError, NotFound, TransferFailed, Unsafe
from asyncload.events import BytesWritten, Event
from asyncload.interfaces import CheckedReader, Placed, Reader, Source, StreamReader
from asyncload.manifest import file_version
from asyncload.pipeline import Stretch, Stretches, pieces
from asyncload.sources import LocalReader, in_thread

from ._fetch_choice import Choice, Wanted
from ._fetch_folder import Folder, Identity, Part, would_overwrite
from ._groups import first_error

__all__ = ["Fetch", "FetchOptions", "Fetched", "FetchedFile"]

Result = TypeVar("Result")

FILES_AT_ONCE = 16  # files open together: of small ones, that is as many requests
PIECES_AT_ONCE = 32  # in memory
_LEAST_PIECE = 64 << 10  # bytes
_THREADS = 6  # that write, and wait for the disk
_SAVE_EVERY = 1.0  # seconds; what a killed process had fetched since then is fetched again
_LOCK_POLL = 0.05  # seconds
_MD5 = re.compile(r"\"?([0-9a-f]{32})\"?-\d+")  # a version that may be an MD5


@dataclass(frozen=True, slots=True)
class FetchOptions:
    """See `Loader.fetch`."""

    folder: str
    overwrite: bool = False
    verify: bool = True
    follow_links: bool = False


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """A file that was fetched.

    Attributes:
        name: below the folder.
        path: where it is.
        size: in bytes.
        version: of the file that it is a copy of, as the store tells versions apart.
        fetched: how many of its bytes were fetched now; the others lay there from before.
    """

    name: str
    path: str
    size: int
    version: str
    fetched: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """What `Loader.fetch` has brought; a path, to be loaded as it is.

    Attributes:
        uri: what it is a copy of.
        path: what to load: of the file, the folder, or the checkpoint's prefix.
        files: all files of it.
    """

    uri: str
    path: str
    files: tuple[FetchedFile, ...]

    def __fspath__(self) -> str:
        return self.path

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def fetched(self) -> int:
        """Bytes that were fetched now."""
        return sum(file.fetched for file in self.files)


@dataclass(slots=True)
class _Copy:
    """A file that is here, or on its way; ``part`` is ``None`` once it is in its place."""

    file: FetchedFile
    reader: Reader
    part: Part | None = None
    saved: int = 0  # bytes, the last time that it was noted what has come
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)  # who notes does not finish


class Fetch:
    """Copies chosen files into a folder.

    Args:
        source: where they are.
        choice: which.
        options: where to, and what may be replaced.
        emit: where events go.
        piece: bytes that are read at a time.
    """

    def __init__(
        self,
        source: Source,
        choice: Choice,
        options: FetchOptions,
        *,
        emit: Callable[[Event], None],
        piece: int,
    ) -> None:
        self._source = source
        self._choice = choice
        self._overwrite = options.overwrite
        self._verifies = options.verify
        self._follows_links = options.follow_links
        self._emit = emit
        self._folder = Folder(options.folder)
        self._threads: Executor | None = None
        self._copies: dict[str, _Copy] = {}
        self._buffers: list[memoryview] = []
        self._slots = asyncio.Semaphore(PIECES_AT_ONCE)
        # What a listing says of sizes may be nothing, or no longer true.
        largest = max((file.size for file in choice.files), default=0)
        self._piece = max(min(piece, largest), _LEAST_PIECE)

    @property
    def memory(self) -> int:
        """Bytes that reading takes at most."""
        return PIECES_AT_ONCE * self._piece

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Have the folder for this fetch alone, until the block ends."""
        threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="asyncload-fetch")
        self._threads = threads
        try:
            await self._run(self._folder.open)
            while not await self._run(self._folder.try_lock):  # noqa: ASYNC110  a file's lock
                await asyncio.sleep(_LOCK_POLL)
            yield
        finally:
            self._folder.close()
            threads.shutdown()  # nothing runs in them

    async def run(self) -> Fetched:
        """Copy the files, those of a model all or none; inside of `opened`.

        Raises:
            SourceError: a file could not be had; what has come of it stays for the next time.
            WouldOverwrite: another file is in the place of one.
            Unsafe: a name leads out of the folder.
        """
        try:
            async with first_error() as group:
                group.start_soon(self._save_now_and_then)
                await self._copy_all()
                group.cancel_scope.cancel()
            await self._put_in_place()
        finally:
            with anyio.CancelScope(shield=True):
                await self._leave()
        files = [copy.file for copy in self._in_order()]
        path = self._folder.place(self._choice.name) if self._choice.name else self._folder.path
        return Fetched(self._source.uri, path, tuple(files))

    async def _run(self, function: Callable[..., Result], *args: Any) -> Result:
        return await in_thread(self._threads, function, *args)

    # --- files ---------------------------------------------------------------------------

    async def _copy_all(self) -> None:
        waiting = iter(self._choice.files)

        async def drain() -> None:
            for wanted in waiting:
                await self._copy(wanted)

        async with first_error() as group:
            for _ in range(min(FILES_AT_ONCE, len(self._choice.files))):
                group.start_soon(drain)

    async def _copy(self, wanted: Wanted) -> None:
        reader = wanted.reader
        if reader is None:
            try:
                reader = await self._source.open(wanted.opened_as)
            except NotFound:
                if wanted.size or self._source.local:
                    raise
                return  # a store's mark for an empty folder, which is listed as a file
        if reader.path is not None and self._source.local and not self._follows_links:
            await self._run(_expect_inside, reader.path, wanted.opened_as, reader.uri)
        copy = await self._begin(wanted, reader)
        self._copies[wanted.name] = copy
        if copy.part is not None:
            await self._bring(copy, copy.part)
            if self._verifies:
                await self._verify(copy, copy.part)
        if self._choice.is_model:
            await self._save(copy)
            return
        if reader.path is not None:  # else each range was of this version
            await reader.check()
        await reader.aclose()
        await self._finish(copy)

    async def _begin(self, wanted: Wanted, reader: Reader) -> _Copy:
        """See what of a file is here."""
        identity = _identity(reader, local=self._source.local)
        place = self._folder.place(wanted.name)
        file = FetchedFile(wanted.name, place, reader.size, reader.version, 0)
        if await self._run(self._is_here, wanted.name, identity):
            self._written(wanted.name, reader.size, fetched=False)
            return _Copy(file, reader)
        part = await in_thread(
            self._threads, self._folder.begin, wanted.name, identity, undo=Part.close
        )
        self._written(wanted.name, part.done.nbytes, fetched=False)
        return _Copy(file, reader, part, part.done.nbytes)

    def _is_here(self, name: str, identity: Identity) -> bool:
        present = self._folder.present(name)
        if present is None:
            return False
        record = self._folder.record(name)
        own = file_version(present)
        if record is not None and (record.identity, record.file) == (identity, own):
            return True
        if own == identity.version:  # the very file that is to be copied
            return True
        if self._is_same(name, present, identity):
            self._folder.write_record(name, identity, own)
            return True
        if not self._overwrite:
            raise would_overwrite(self._folder.place(name))
        return False

    def _is_same(self, name: str, present: os.stat_result, identity: Identity) -> bool:
        """Whether a file that nothing is known of has the content, as far as its ETag can tell."""
        etag = _MD5.fullmatch(identity.version)
        return (
            etag is not None
            and stat.S_ISREG(present.st_mode)
            and present.st_size == identity.size
            and etag[1] == self._folder.md5(name)
        )

    # --- bytes ---------------------------------------------------------------------------

    async def _bring(self, copy: _Copy, part: Part) -> None:
        """Fetch what is missing of a file."""
        before, reader = part.done.nbytes, copy.reader
        if not _sends_whole(reader):
            try:
                await self._bring_pieces(reader, part)
            except TransferFailed:
                if not _sends_whole(reader):
                    raise
        if isinstance(reader, StreamReader) and part.done.nbytes < reader.size:
            await self._bring_stream(reader, part)
        copy.file = replace(copy.file, fetched=part.done.nbytes - before)

    async def _bring_pieces(self, reader: Reader, part: Part) -> None:
        """Fetch what is missing of a file in pieces, side by side."""
        missing = part.done.missing(part.identity.size)
        waiting = pieces(missing, self._piece)
        count = sum(1 for _ in pieces(missing, self._piece))
        async with first_error() as group:
            for _ in range(min(reader.parallel, count)):
                group.start_soon(self._drain, reader, part, waiting)

    async def _bring_stream(self, reader: StreamReader, part: Part) -> None:
        """Fetch a file from its begin to its end, whatever has come of it."""
        async with aclosing(reader.stream()) as stream:
            async for offset, data in stream:
                await self._run(self._folder.write, part, offset, data)
                before = part.done.nbytes
                part.done.add(offset, offset + data.nbytes)
                self._written(part.name, part.done.nbytes - before, fetched=True)

    async def _drain(self, reader: Reader, part: Part, waiting: Iterator[Stretch]) -> None:
        for start, stop in waiting:
            async with self._slots:
                buffer = self._buffers.pop() if self._buffers else _buffer(self._piece)
                data = buffer[: stop - start]
                await reader.read_into(start, [data])
                await self._run(self._folder.write, part, start, data)
                self._buffers.append(buffer)
            part.done.add(start, stop)
            self._written(part.name, stop - start, fetched=True)

    def _written(self, name: str, nbytes: int, *, fetched: bool) -> None:
        if nbytes:
            self._emit(
                BytesWritten(uri=self._source.uri, name=name, nbytes=nbytes, fetched=fetched)
            )

    async def _verify(self, copy: _Copy, part: Part) -> None:
        """Compare a file that has come with the checksum that the store states, if it states one.

        Raises:
            TransferFailed: it differs; what has come is dropped.
        """
        etag, found = _MD5.fullmatch(part.identity.version), ""
        if etag is not None:
            found = await self._run(self._folder.digest, part, "md5")
            if found == etag[1]:
                return
        if not isinstance(copy.reader, CheckedReader):
            return
        stated = await copy.reader.checksum()
        if stated is None:
            return
        if stated.kind != "md5" or not found:
            found = await self._run(self._folder.digest, part, stated.kind)
        if found == stated.digest:
            return
        if not stated.certain:
            # It may be no MD5. What was damaged on its way does not come so twice.
            first = found
            await self._bring_again(copy, part)
            found = await self._run(self._folder.digest, part, stated.kind)
            if found in (stated.digest, first):
                return
        await self._run(self._folder.discard, part)
        part.done = Stretches()
        copy.saved = 0
        raise TransferFailed(
            f"its {stated.kind} is {found}, but the store states {stated.digest}: it was damaged "
            "on its way, or where it is kept, and is dropped; fetch it, or upload it, again",
            uri=copy.reader.uri,
        )

    async def _bring_again(self, copy: _Copy, part: Part) -> None:
        async with copy.lock:
            part.done = Stretches()
            copy.saved = 0
            await self._run(self._folder.save, part, [])
        await self._bring(copy, part)

    # --- notes, and the end --------------------------------------------------------------

    async def _save_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_EVERY)
            for copy in list(self._copies.values()):
                await self._save(copy)

    async def _save(self, copy: _Copy) -> None:
        """Note what has come of a file, if that is more than was noted."""
        async with copy.lock:
            part = copy.part
            if part is None or part.done.nbytes <= copy.saved:
                return
            nbytes = part.done.nbytes
            await self._run(self._folder.save, part, list(part.done))
            copy.saved = nbytes

    async def _put_in_place(self) -> None:
        """Check that a model's files are still of one time, and put them in their places."""
        if not self._choice.is_model:
            return
        async with first_error() as group:
            for copy in self._copies.values():
                group.start_soon(copy.reader.check)
        for copy in self._in_order():
            await self._finish(copy)

    def _in_order(self) -> list[_Copy]:
        names = (wanted.name for wanted in self._choice.files)
        return [self._copies[name] for name in names if name in self._copies]

    async def _finish(self, copy: _Copy) -> None:
        # A cancel waits: what is in its place has no notes of what is missing.
        with anyio.CancelScope(shield=True):
            async with copy.lock:
                part = copy.part
                if part is None:
                    return
                await self._run(lambda: self._folder.finish(part, replace=self._overwrite))
                copy.part = None
                part.close()

    async def _leave(self) -> None:
        """Note what has come of files that were not finished, and close them."""
        for copy in self._copies.values():
            if copy.part is not None:
                with suppress(AsyncloadError):  # what has failed already says more
                    await self._save(copy)
                copy.part.close()


def _expect_inside(path: str, name: str, uri: str) -> None:
    """Make sure that no link leads out of the folder in which a file is known by its name.

    Raises:
        Unsafe: one does.
    """
    if not name:  # the file that the URI names, be it a link
        return
    folder = os.path.realpath(path.removesuffix(name))
    found = os.path.realpath(path)
    if os.path.commonpath([folder, found]) != folder:
        raise Unsafe(
            f"is a link to {found!r}, which lies outside of the folder; pass follow_links=True "
            "(--follow-links) if you trust whoever made the folder",
            uri=uri,
        )


def _identity(reader: Reader, *, local: bool) -> Identity:
    place = reader.place if isinstance(reader, Placed) else ""
    origin = "" if local else reader.uri
    if isinstance(reader, LocalReader) and reader.origin is not None:
        origin = reader.origin
    return Identity(reader.path or reader.uri, reader.size, reader.version, place, origin)


def _sends_whole(reader: Reader) -> bool:
    return isinstance(reader, StreamReader) and reader.whole_only


def _buffer(nbytes: int) -> memoryview:
    return np.empty(nbytes, np.uint8).data
