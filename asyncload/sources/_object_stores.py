"""`Stores`: obstore's clients, one for each bucket or server, shared by all loads of a Loader.

A client is a pool of connections, and what is known of the link: making one for each load would
mean a handshake for each, and learning anew how many requests pay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncload.errors import SourceError

from ._location import Location
from ._request_limit import RequestLimit
from ._storage_options import StorageOptions
from ._threads import in_thread

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

__all__ = ["Store", "Stores"]


@dataclass(frozen=True, slots=True)
class Store:
    """One bucket, container or server.

    Attributes:
        client: obstore's.
        limit: bounds the requests in flight to it.
        options: that it was made with.
        secrets: texts that no message may show.
    """

    client: S3Store | GCSStore | AzureStore | HTTPStore
    limit: RequestLimit
    options: StorageOptions
    secrets: tuple[str, ...]


class Stores:
    """The stores in use; belongs to one event loop."""

    def __init__(self) -> None:
        self._stores: dict[tuple[str, str, str], Store] = {}
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
                parsed = StorageOptions.parse(options)
                self._stores[key] = await in_thread(threads, _make, location, parsed)
            return self._stores[key]

    async def aclose(self) -> None:
        """Let go of all connections, once nothing reads through them; closing twice is fine."""
        self._closed = True
        if self._stores:
            self._stores.clear()
            await _settle()


# obstore takes 25 ms and some memory to import, which what loads from disk alone need not pay.


def _make(location: Location, options: StorageOptions) -> Store:
    from ._store_client import make_store

    return make_store(location, options)


async def _settle() -> None:
    from ._client_calls import settle

    await settle()
