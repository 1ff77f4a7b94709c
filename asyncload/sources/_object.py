"""`ObjectSource`: what lies in object storage (S3, GCS, Azure) or on an HTTP server."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from asyncload.closing import Closing
from asyncload.errors import AccessDenied, NotFound, SourceError
from asyncload.interfaces import ListEntry

from ._location import Location, check_name, expect_reachable, neighbour
from ._object_reader import ObjectReader
from ._object_stores import Store, Stores
from ._object_version import Version
from ._threads import in_thread

__all__ = ["ObjectSource"]


class ObjectSource(Closing):
    """An object, or all objects whose keys begin alike. See `interfaces.Source`.

    Args:
        location: where it is.
        threads: where answers are copied; ``None`` for the loop's default executor.
        stores: what it shares with others; ``None`` for connections of its own.
        options: ``storage_options``.
    """

    local = False

    def __init__(
        self,
        location: Location,
        threads: Executor | None = None,
        *,
        stores: Stores | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.uri = location.uri
        self.name = location.name
        self._location = location
        self._threads = threads
        self._stores = stores
        self._own = Stores() if stores is None else None
        self._options = options or {}
        self._readers: builtins.list[ObjectReader] = []
        self._closed = False
        self._folder: bool | None = True if location.folder else None
        self._seen: Version | None = None  # of the URI's own object, when it was looked for

    async def open(self, name: str = "") -> ObjectReader:
        """Open an object, pinned to its present version; see `interfaces.Source.open`."""
        key, uri = self._location.path, self.uri
        if name:
            check_name(name, uri=self.uri)
            folder = await self._is_folder()
            key = self._location.key_of(name, folder=folder)
            uri = neighbour(uri, name, folder=folder)
        elif not key or self._location.folder:
            raise SourceError("is a folder; name the file in it that you want", uri=uri)
        store = await self._store()
        version = None
        if not name:
            version, self._seen = self._seen, None
        if version is None:
            version = await store.ask(key, uri)
        if self._closed:
            raise self._refusal()
        reader = ObjectReader(store, key, version, uri=uri, name=name, threads=self._threads)
        self._readers.append(reader)
        return reader

    async def list(self) -> builtins.list[str] | None:
        """Return the names below the URI; ``None`` for an object; see `interfaces.Source.list`."""
        if await self._own_version() is not None:
            return None
        return sorted({entry.name.rstrip("/") for entry in await self._below(recursive=False)})

    async def entries(self, *, recursive: bool = False) -> builtins.list[ListEntry]:
        """Return what is at the URI; see `interfaces.Source.entries`."""
        own = await self._own_version()
        if own is not None:
            return [ListEntry(self.name, own.size, own.shown, own.modified)]
        return sorted(await self._below(recursive=recursive), key=lambda entry: entry.name)

    async def _own_version(self) -> Version | None:
        """Return the version of the object that the URI names; ``None`` if it may be a folder.

        Raises:
            NotFound: it is neither, as far as that is known.
        """
        if not self._location.folder:
            try:
                self._seen = await (await self._store()).ask(self._location.path, self.uri)
            except NotFound as error:
                missing: SourceError = error
            except AccessDenied as error:
                missing = error  # as S3 answers for what is not there, if one may not list
            else:
                self._folder = False
                return self._seen
            if self._location.scheme == "http":
                raise missing
        elif self._location.scheme == "http":
            raise NotFound(
                "an HTTP server lists no folders; check the URL, or name a file", uri=self.uri
            )
        return None

    async def _below(self, *, recursive: bool) -> builtins.list[ListEntry]:
        """Return the objects and folders below the URI's path, by their names there."""
        store, key = await self._store(), self._location.path
        cut = len(key) + 1 if key else 0
        found = await store.list_below(key, self.uri, recursive=recursive)
        entries = await in_thread(self._threads, _named, found, cut, recursive)
        self._folder = bool(entries)
        if not entries:
            raise NotFound("there is no such object, nor any below it; check it", uri=self.uri)
        return entries

    async def _is_folder(self) -> bool:
        if self._folder is None:
            if self._location.scheme == "http":
                self._folder = False
            else:
                try:
                    await self.list()
                except SourceError as error:
                    if not error.may_be_absent:
                        raise
                    self._folder = False
        return bool(self._folder)

    async def _store(self) -> Store:
        if self._closed:
            raise self._refusal()
        expect_reachable(self._location)
        stores = self._own if self._stores is None else self._stores
        assert stores is not None  # noqa: S101  one of the two is there
        return await stores.get(self._location, self._options, self._threads)

    def _refusal(self) -> SourceError:
        return SourceError("this source was closed; open it again", uri=self.uri)

    async def aclose(self) -> None:
        """Close the source and its readers; closing twice is fine."""
        self._closed = True
        for reader in self._readers:
            reader.close_soon()
        for reader in self._readers:
            await reader.aclose()
        if self._own is not None:
            await self._own.aclose()


def _named(entries: list[ListEntry], cut: int, recursive: bool) -> list[ListEntry]:
    """Return what was found by its names below a key, without what only marks folders.

    Such an object is empty, and its key ends in a slash, which the client does not show.
    """
    named = [replace(entry, name=entry.name[cut:]) for entry in entries]
    folders = {entry.name.rpartition("/")[0] for entry in named} if recursive else set()
    return [entry for entry in named if entry.size or (entry.name not in folders and entry.name)]
