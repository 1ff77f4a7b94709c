"""`ObjectStore`: one bucket or container, and the requests that are made to it.

The boundary to obstore: its errors end here, as do answers that are not what was asked for.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
from collections.abc import AsyncGenerator, Awaitable, Mapping
from typing import Any, TypeVar

import obstore
from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from asyncload.errors import NotFound, SourceError, TransferFailed
from asyncload.interfaces import Checksum, ListEntry

from ._client_calls import call
from ._client_errors import translated
from ._folder_marks import folders_in_doubt, marks_in
from ._http_client import HttpClient, trusting
from ._object_stores import NoRanges
from ._object_version import Version, changed
from ._redirects import Request
from ._request_limit import RequestLimit
from ._stated import etag_md5, is_no_md5
from ._storage_options import StorageOptions
from ._store_settings import Settings

__all__ = ["Client", "ObjectStore"]

Client = S3Store | GCSStore | AzureStore
Result = TypeVar("Result")
_PIECE = 1 << 20  # bytes of one piece of an answer that is taken as it comes
_SIGNED_FOR = dt.timedelta(minutes=1)
_LISTINGS = 4  # times that a listing is begun anew at most
_PAUSE = (0.05, 0.5)  # seconds before that
_PAGE = 1000  # objects handed over at once, as many as stores list in one answer


class ObjectStore:
    """One bucket or container. See `_object_stores.Store`.

    Args:
        client: obstore's.
        options: that it was made with.
        settings: that it was made with, too.
        place: see `_object_stores.Store`.
        secrets: texts that no message may show.
        http: asks for what obstore does not hand out.
    """

    def __init__(
        self,
        client: Client,
        options: StorageOptions,
        settings: Settings,
        place: str,
        secrets: tuple[str, ...],
        http: HttpClient,
    ) -> None:
        self.place = place
        self._http = http
        self._tls = None if settings.ca_file is None else trusting(settings.ca_file)
        self._settings = settings
        self.limit = RequestLimit(options.concurrency)
        self.options = options
        self._client = client
        self._secrets = secrets

    async def ask(self, key: str, uri: str) -> Version:
        """Return the present version of an object.

        Raises:
            NotFound, AccessDenied, TransferFailed: as they say.
        """
        return Version.of(await self._answer(uri, call(obstore.head_async, self._client, key)))

    async def fetch(
        self, key: str, version: Version, start: int, stop: int, uri: str
    ) -> obstore.Bytes:
        """Fetch bytes ``start`` to ``stop`` (exclusive) of a version.

        Returns:
            The client's own buffer, which is the caller's, and read-only.

        Raises:
            SourceChanged: there is another version now, or none.
            NoRanges: the server sends only whole objects.
            AccessDenied, TransferFailed: as they say.
        """

        async def get() -> obstore.Bytes:
            options = version.conditions()
            options["range"] = (start, stop)
            result = await call(obstore.get_async, self._client, key, options=options)
            _expect_same(version, result, uri)
            _expect_range(result, start, stop, uri)
            return await call(result.bytes_async)

        data = await self._answer(uri, get(), pinned=True)
        _expect_length(len(data), stop - start, uri)
        return data

    async def fetch_from_start(
        self, key: str, version: Version, stop: int, uri: str
    ) -> AsyncGenerator[tuple[int, memoryview], None]:
        """Yield (offset, bytes) from the object's begin until ``stop``, without asking for a range.

        Raises: as `fetch` does.
        """
        getting = call(obstore.get_async, self._client, key, options=version.conditions())
        result = await self._answer(uri, getting, pinned=True)
        _expect_same(version, result, uri)
        stream = result.stream(min_chunk_size=_PIECE)
        position = 0
        while position < stop:
            try:
                piece = await self._answer(uri, call(stream.__anext__))
            except StopAsyncIteration:
                break
            yield position, memoryview(piece)[: stop - position]
            position += len(piece)
        _expect_length(min(position, stop), stop, uri)

    async def checksum(self, key: str, version: Version) -> Checksum | None:
        """Return what the store states of a version; see `_object_stores.Store.checksum`."""
        etag = etag_md5(version.etag)
        if etag is None or not isinstance(self._client, S3Store):
            return None
        if not self._settings.config.get("skip_signature"):
            signing = call(obstore.sign_async, self._client, "HEAD", key, _SIGNED_FOR)
            try:
                url = await self._answer(self._settings.root, signing)
            except SourceError:
                return etag
            if is_no_md5(await self._stated(url)):
                return None
        return etag

    async def _stated(self, url: str) -> Mapping[str, str]:
        request = Request(url, {}, {**self._settings.headers, **self.options.headers})
        return await self._http.run(self._http.headers(request, tls=self._tls))

    async def list_below(self, key: str, uri: str, *, recursive: bool = False) -> list[ListEntry]:
        """Return the objects and folders below ``key``; see `_object_stores.Store.list_below`."""
        for _ in range(min(self.options.retries, _LISTINGS)):
            try:
                return await self._list(key, uri, recursive)
            except TransferFailed as error:
                # The client asks anew for a page that is refused, but not for one that is cut.
                if "response body" not in str(error.__cause__):
                    raise
            await asyncio.sleep(random.uniform(*_PAUSE))  # noqa: S311  no secret
        return await self._list(key, uri, recursive)

    async def _list(self, key: str, uri: str, recursive: bool) -> list[ListEntry]:
        if not recursive:
            return await self._list_one(key, uri)
        entries = await self._list_all(key, uri)
        marks: set[str] = set()
        for folder in folders_in_doubt(entries, key):
            marks |= marks_in(await self._list_one(folder, uri))
        files = [entry for entry in entries if entry.size or entry.name not in marks]
        return list({entry.name: entry for entry in files}.values())  # its mark has a file's name

    async def _list_one(self, key: str, uri: str) -> list[ListEntry]:
        listing = call(obstore.list_with_delimiter_async, self._client, key or None)
        # Page after page, each within the client's own deadline.
        found = await self._answer(uri, listing, bounded=False)
        folders = [ListEntry(f"{path.rstrip('/')}/") for path in found["common_prefixes"]]
        return [*folders, *map(_listed, found["objects"])]

    async def _list_all(self, key: str, uri: str) -> list[ListEntry]:
        async def begin() -> Any:
            return obstore.list(self._client, key or None, chunk_size=_PAGE)

        pages = await self._answer(uri, begin())
        entries: list[ListEntry] = []
        while True:
            try:
                page = await self._answer(uri, call(pages.__anext__))
            except StopAsyncIteration:
                return entries
            entries += map(_listed, page)

    async def _answer(
        self, uri: str, request: Awaitable[Result], *, pinned: bool = False, bounded: bool = True
    ) -> Result:
        """Await a request within the deadline, and speak of its errors in our own."""
        try:
            async with asyncio.timeout(self.options.timeouts.total if bounded else None):
                return await request
        except SourceError as error:
            error.uri = error.uri or uri
            raise
        except exceptions.NotSupportedError:
            unsupported = True
        except TimeoutError:
            unsupported = False
            failure: SourceError = TransferFailed(
                f"it took longer than {self.options.timeouts.total:g} s with all its tries; try "
                "again, or raise storage_options['timeouts']['total']",
                uri=uri,
            )
        except ValueError as error:  # for a part of the path that is "..", say
            unsupported = False
            failure = NotFound(f"no object can have this name: {error}", uri=uri)
            error.__traceback__ = None  # as below
        except (FileNotFoundError, exceptions.BaseError) as error:
            unsupported = False
            failure = translated(error, uri, secrets=self._secrets, pinned=pinned)
            # The client holds it for a while, which must not hold the frames, and with them itself.
            error.__traceback__ = None
        if unsupported:
            raise NoRanges
        raise failure


def _listed(meta: Mapping[str, Any]) -> ListEntry:
    version = Version.of(meta)
    return ListEntry(meta["path"], version.size, version.shown, version.modified)


def _expect_same(version: Version, result: obstore.GetResult, uri: str) -> None:
    if not version.is_same(Version.of(result.meta)):
        raise changed(uri, "was replaced")


def _expect_range(result: obstore.GetResult, start: int, stop: int, uri: str) -> None:
    if tuple(result.range) != (start, stop):
        first, last = result.range
        raise TransferFailed(
            f"bytes {start:,} to {stop:,} were asked for, but {first:,} to {last:,} came; the "
            "server, or a cache before it, does ranges wrongly",
            uri=uri,
        )


def _expect_length(got: int, wanted: int, uri: str) -> None:
    if got != wanted:
        raise TransferFailed(
            f"{wanted:,} bytes were asked for, but {got:,} came; try again", uri=uri
        )
