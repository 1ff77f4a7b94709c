"""`Stores`: obstore's clients, one for each bucket or server, shared by all loads of a Loader.

A client is a pool of connections, and what is known of the link: making one for each load would
mean a handshake for each, and learning anew how many requests pay.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, Protocol

from asyncload.errors import SourceError
from asyncload.interfaces import Checksum, ListEntry

from ._cache_key import placed
from ._location import Location
from ._object_version import Version
from ._request_limit import RequestLimit
from ._storage_options import StorageOptions
from ._store_settings import Settings, settings_of
from ._threads import in_thread

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from ._http_client import HttpClient

__all__ = ["NoRanges", "Store", "Stores"]


class NoRanges(Exception):
    """The server answered with the whole object where a range was asked for."""


class Store(Protocol):
    """One bucket, container or server.

    Attributes:
        limit: bounds the requests in flight to it.
        options: that it was made with.
        place: what names it in all the world, as `_cache_key.place_of` does.
    """

    limit: RequestLimit
    options: StorageOptions
    place: str

    async def ask(self, key: str, uri: str) -> Version:
        """Return the present version of an object.

        Raises:
            NotFound, AccessDenied, TransferFailed: as they say.
        """
        ...

    async def fetch(self, key: str, version: Version, start: int, stop: int, uri: str) -> Buffer:
        """Fetch bytes ``start`` to ``stop`` (exclusive) of a version.

        Returns:
            The client's own buffer, which is the caller's, and read-only.

        Raises:
            SourceChanged: there is another version now, or none.
            NoRanges: the server sends only whole objects.
            AccessDenied, TransferFailed: as they say.
        """
        ...

    def fetch_from_start(
        self, key: str, version: Version, stop: int, uri: str
    ) -> AsyncGenerator[tuple[int, memoryview], None]:
        """Yield (offset, bytes) from the object's begin until ``stop``, and ask for no range.

        Raises: as `fetch` does.
        """
        ...

    async def checksum(self, key: str, version: Version) -> Checksum | None:
        """Return what the store states of a version, if anything can be had; never fails."""
        ...

    async def list_below(self, key: str, uri: str, *, recursive: bool = False) -> list[ListEntry]:
        """Return the objects and folders below ``key``, of the top for ``""``, by their paths.

        Args:
            key: of the folder.
            uri: for messages.
            recursive: return all objects below it, and no folders.
        """
        ...


class Stores:
    """The stores in use; belongs to one event loop."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str, str], Store] = {}
        self._http: HttpClient | None = None
        self._making = asyncio.Lock()
        self._closed = False

    async def get(
        self, location: Location, options: Mapping[str, Any], threads: Executor | None
    ) -> Store:
        """Return the store of a location, made with these options.

        Args:
            location: what is in it.
            options: ``storage_options``.
            threads: where it is made: this reads files, and takes some milliseconds.

        Raises:
            ValueError: the options are not what they should be.
            SourceError: the store cannot be made with them, or this was closed.
        """
        key = (location.scheme, location.root, repr(sorted(options.items())))
        async with self._making:
            if self._closed:
                raise SourceError("its Loader is closed; make a new one", uri=location.uri)
            if key not in self._stores:
                self._stores[key] = await self._make(location, options, threads)
            return self._stores[key]

    async def _make(
        self, location: Location, options: Mapping[str, Any], threads: Executor | None
    ) -> Store:
        parsed = StorageOptions.parse(options)
        settings = await in_thread(threads, settings_of, location, parsed)
        if self._http is None:
            self._http = await in_thread(threads, _make_http_client)
        proxy = None
        if location.scheme != "http" and (endpoint := settings.guarded(parsed)):
            proxy = await self._http.guard(endpoint)
        return await in_thread(threads, _make, location, settings, parsed, self._http, proxy)

    async def aclose(self) -> None:
        """Let go of all connections, once nothing reads through them; closing twice is fine."""
        self._closed = True
        if self._http is not None:
            await self._http.aclose()
        if self._stores:
            self._stores.clear()
            await _settle()

    def abandon(self) -> None:
        """Let go of all connections of a loop that is closed."""
        self._closed = True
        self._stores.clear()
        if self._http is not None:
            self._http.end_soon()


# obstore and aiohttp take 25 and 150 ms to import: in a thread, and not at all for what loads from
# disk alone.


def _make(
    location: Location,
    settings: Settings,
    options: StorageOptions,
    http: HttpClient,
    proxy: str | None,
) -> Store:
    place = placed(location, settings, options)
    if location.scheme == "http":
        from ._http_store import HttpStore

        return HttpStore(http, settings, options, place)
    from ._store_client import make_store

    return make_store(location, settings, options, place, http, proxy)


def _make_http_client() -> HttpClient:
    from ._http_client import HttpClient

    return HttpClient()


async def _settle() -> None:
    from ._client_calls import settle

    await settle()
