"""`CachedSource` and `OfflineSource`: what a store has, by way of this machine's disk."""

from __future__ import annotations

import builtins
import datetime as dt
from collections.abc import Mapping
from concurrent.futures import Executor
from types import TracebackType
from typing import Any

import anyio

from asyncload.closing import Closing
from asyncload.errors import NotFound, SourceError, TransferFailed
from asyncload.interfaces import ListEntry, Reader

from ._cache_key import digest_of, is_lasting, place_of
from ._cache_record import KeptFile, Record
from ._cached_reader import CachedReader, OfflineReader, Traffic
from ._location import Location, check_name, neighbour
from ._object import ObjectSource
from ._object_cache import ObjectCache
from ._object_stores import Stores
from ._storage_options import StorageOptions
from ._threads import in_thread

__all__ = ["CachedSource", "OfflineSource"]


class CachedSource(Closing):
    """An object, or objects, whose bytes are fetched once. See `interfaces.Source`.

    The store is asked for the version of each object, with the caller's own credentials: what is
    kept is given to nobody whom the store refuses.

    Args:
        location: where it is.
        threads: where disks are read; ``None`` for the loop's default executor.
        stores: what it shares with others; ``None`` for connections of its own.
        options: ``storage_options``.
        cache: where bytes are kept.
    """

    local = False

    def __init__(
        self,
        location: Location,
        threads: Executor | None = None,
        *,
        stores: Stores | None = None,
        options: Mapping[str, Any] | None = None,
        cache: ObjectCache,
    ) -> None:
        self.uri = location.uri
        self.name = location.name
        self._location = location
        self._threads = threads
        self._options = options or {}
        self._cache = cache
        self._inner = ObjectSource(location, threads, stores=stores, options=options)
        self._readers: builtins.list[CachedReader] = []
        self._traffic = Traffic()
        self._found = Record()
        self._listed = False
        self._place: str | None = None
        self._closed = False

    async def open(self, name: str = "") -> Reader:
        """Open an object, pinned to its present version; see `interfaces.Source.open`."""
        try:
            inner = await self._inner.open(name)
        except TransferFailed as error:
            await self._hint(error)
            raise
        key, version = inner.identity
        if not is_lasting(version, self._location.scheme, dt.datetime.now(dt.UTC)):
            self._traffic.fetched = True
            return inner
        digest = digest_of(await self._placed(), key, version)
        entry = await in_thread(
            self._threads,
            self._cache.open_entry,
            digest,
            version.size,
            undo=self._cache.release,
        )
        if entry is None:
            self._traffic.fetched = True
            return inner
        if self._closed:
            await in_thread(self._threads, self._cache.release, entry)
            raise _refusal(self.uri)
        reader = CachedReader(
            inner,
            entry,
            self._cache,
            traffic=self._traffic,
            threads=self._threads,
        )
        self._readers.append(reader)
        self._found.files[name] = KeptFile(version.size, version.name, digest.hex())
        return reader

    async def list(self) -> builtins.list[str] | None:
        """Return the names below the URI; ``None`` for an object; see `interfaces.Source.list`."""
        if not self._listed:  # one load finds one listing, however often it looks
            try:
                self._found.names = await self._inner.list()
            except TransferFailed as error:
                await self._hint(error)
                raise
            self._listed = True
        return self._found.names

    async def entries(self, *, recursive: bool = False) -> builtins.list[ListEntry]:
        """Return what is at the URI; see `interfaces.Source.entries`."""
        return await self._inner.entries(recursive=recursive)

    async def _placed(self) -> str:
        if self._place is None:
            self._place = await _place(self._location, self._options, self._threads)
        return self._place

    async def _hint(self, error: TransferFailed) -> None:
        """Have an error say that there is a cached version, if there is."""
        digest = digest_of(await self._placed(), self._location.path)
        if await in_thread(self._threads, self._cache.record, digest) is not None:
            error.message += (
                ". A version of it is in the cache: Loader(offline=True) asks no store, and loads "
                "that"
            )

    async def aclose(self) -> None:
        """Close the source and its readers; closing twice is fine."""
        self._closed = True
        for reader in self._readers:
            reader.close_soon()
        for reader in self._readers:
            await reader.aclose()
        await self._inner.aclose()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None and self._found.files:
                digest = digest_of(await self._placed(), self._location.path)
                await in_thread(self._threads, self._cache.keep_record, digest, self._found)
        finally:
            await self.aclose()


class OfflineSource(Closing):
    """What the last load of a URI found, as far as it is kept. See `interfaces.Source`.

    Args:
        location: where it was.
        threads: where disks are read; ``None`` for the loop's default executor.
        options: ``storage_options``, which say where it was.
        cache: where bytes are kept.
    """

    local = False

    def __init__(
        self,
        location: Location,
        threads: Executor | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        cache: ObjectCache,
    ) -> None:
        self.uri = location.uri
        self.name = location.name
        self._location = location
        self._threads = threads
        self._options = options or {}
        self._cache = cache
        self._readers: builtins.list[OfflineReader] = []
        self._record: Record | None = None
        self._closed = False

    async def open(self, name: str = "") -> OfflineReader:
        """Open a file in the version that was loaded last; see `interfaces.Source.open`."""
        record = await self._known()
        uri = self.uri
        if name:
            check_name(name, uri=uri)
            folder = self._location.folder or record.names is not None
            uri = neighbour(uri, name, folder=folder)
        elif self._location.folder or ("" not in record.files and record.names is not None):
            raise SourceError("is a folder; name the file in it that you want", uri=uri)
        file = record.files.get(name)
        if file is None:
            raise self._missing(uri)
        digest = bytes.fromhex(file.digest)
        entry = await in_thread(
            self._threads, self._cache.open_kept, digest, file.size, undo=self._cache.release
        )
        if entry is None:
            raise self._missing(uri)
        if self._closed:
            await in_thread(self._threads, self._cache.release, entry)
            raise _refusal(self.uri)
        reader = OfflineReader(
            entry,
            self._cache,
            uri=uri,
            name=name,
            version=file.version,
            place=await self._place_of(name),
            threads=self._threads,
        )
        self._readers.append(reader)
        return reader

    async def list(self) -> builtins.list[str] | None:
        """Return the names that the folder had; see `interfaces.Source.list`."""
        record = await self._known()
        if record.names is not None:
            return record.names
        if "" not in record.files:
            raise self._missing(self.uri)
        return None

    async def entries(self, *, recursive: bool = False) -> builtins.list[ListEntry]:
        """Return what is kept of the URI; see `interfaces.Source.entries`."""
        record = await self._known()
        if (own := record.files.get("")) is not None:
            return [ListEntry(self.name, own.size, own.version)]
        if record.names is None:
            raise self._missing(self.uri)
        if recursive:
            names = sorted(record.files)
        else:
            names = sorted(
                name if name in record.files else f"{name}/"
                for name in record.names
                if name in record.files or any(each.startswith(f"{name}/") for each in record.files)
            )
        return [
            ListEntry(name, file.size, file.version)
            if (file := record.files.get(name))
            else ListEntry(name)
            for name in names
        ]

    async def _place_of(self, name: str) -> str:
        key, folder = self._location.path, self._location.folder
        if name:
            record = await self._known()
            key = self._location.key_of(name, folder=folder or record.names is not None)
        place = await _place(self._location, self._options, self._threads)
        return digest_of(place, key).hex()

    async def _known(self) -> Record:
        if self._closed:
            raise _refusal(self.uri)
        if self._record is None:
            place = await _place(self._location, self._options, self._threads)
            digest = digest_of(place, self._location.path)
            self._record = await in_thread(self._threads, self._cache.record, digest) or Record()
        return self._record

    def _missing(self, uri: str) -> NotFound:
        return NotFound(
            f"is not in the cache at {self._cache.folder}, and offline=True asks no store; load "
            f"{self.uri} once with cache='read', the same cache_dir, and without offline=True",
            uri=uri,
        )

    async def aclose(self) -> None:
        """Close the source and its readers; closing twice is fine."""
        self._closed = True
        for reader in self._readers:
            reader.close_soon()
        with anyio.CancelScope(shield=True):
            for reader in self._readers:
                await reader.aclose()


async def _place(location: Location, options: Mapping[str, Any], threads: Executor | None) -> str:
    return await in_thread(threads, place_of, location, StorageOptions.parse(options))


def _refusal(uri: str) -> SourceError:
    return SourceError("this source was closed; open it again", uri=uri)
