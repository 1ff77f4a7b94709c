"""Which versions of which files a load has opened, so that others can tell if it still will do."""

from __future__ import annotations

import asyncio
import builtins
from types import TracebackType
from typing import Self

import anyio

from asyncload.errors import FormatError, SourceError
from asyncload.interfaces import ListEntry, Placed, Reader, Source

__all__ = ["Sightings", "WatchedSource"]


class Sightings:
    """The files that a load opened, and the version that each had.

    A file counts from the moment before it is opened, as what stands there may be another one by
    the time that it is.
    """

    def __init__(self) -> None:
        self._versions: dict[str, asyncio.Future[str | None]] = {}

    def __bool__(self) -> bool:
        return bool(self._versions)

    def begin(self, name: str) -> None:
        """Note that a file is about to be opened."""
        known = self._versions.get(name)
        if known is None or known.done():
            self._versions[name] = asyncio.get_running_loop().create_future()

    def end(self, name: str, version: str | None) -> None:
        """Note which version it was; ``None`` if it was not opened after all."""
        take = self._versions.pop if version is None else self._versions.get
        seen = take(name, None)
        if seen is not None and not seen.done():
            seen.set_result(version)

    def clear(self) -> None:
        """Forget them, as the load begins anew."""
        for name in tuple(self._versions):
            self.end(name, None)

    async def are_current(self, source: Source) -> bool:
        """Whether every file is what stands there now.

        A file that the load has yet to open is no matter: it will find what stands there then.

        Args:
            source: another one for the same URI; files are opened in it.
        """
        stale: list[str] = []

        async def compare(name: str, seen: asyncio.Future[str | None]) -> None:
            try:
                present = (await source.open(name)).version
            except (SourceError, FormatError):  # a load of one's own will say what is wrong
                present = ""
            # Shielded, as others wait for it, too.
            if await asyncio.shield(seen) not in (present, None):
                stale.append(name)
                group.cancel_scope.cancel()

        async with anyio.create_task_group() as group:
            for name, seen in tuple(self._versions.items()):
                group.start_soon(compare, name, seen)
        return not stale


class WatchedSource:
    """A source that notes what is opened in it. See `interfaces.Source`.

    Args:
        source: what does the work.
        sightings: where it notes what it opened.
    """

    def __init__(self, source: Source, sightings: Sightings) -> None:
        self.uri = source.uri
        self.name = source.name
        self.local = source.local
        if isinstance(source, Placed):
            self.place = source.place
        self._source = source
        self._sightings = sightings

    async def open(self, name: str = "") -> Reader:
        """Open a file; see `interfaces.Source.open`."""
        self._sightings.begin(name)
        version: str | None = None
        try:
            reader = await self._source.open(name)
            version = reader.version
        finally:
            self._sightings.end(name, version)
        return reader

    async def list(self) -> builtins.list[str] | None:
        """Return the names in the folder; see `interfaces.Source.list`."""
        self._sightings.begin("")  # a store looks for the file itself, and remembers what it found
        names: builtins.list[str] | None = []
        try:
            names = await self._source.list()
        finally:
            if names is not None:
                self._sightings.end("", None)
        return names

    async def entries(self, *, recursive: bool = False) -> builtins.list[ListEntry]:
        """List what is at the URI; see `interfaces.Source.entries`."""
        return await self._source.entries(recursive=recursive)

    async def aclose(self) -> None:
        """Close it and its readers; see `interfaces.Source.aclose`."""
        await self._source.aclose()

    async def __aenter__(self) -> Self:
        await self._source.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._source.__aexit__(kind, error, traceback)
