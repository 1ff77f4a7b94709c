"""`HttpStore`: one web server, and the requests that are made to it."""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import urlsplit, urlunsplit

import numpy as np

from asyncload.errors import AccessDenied, NotFound, SourceError, TransferFailed
from asyncload.interfaces import Checksum, ListEntry

from ._answers import by_status, code_in
from ._http_client import FAILURES, Answer, HttpClient, trusting
from ._http_errors import passes, unanswered
from ._object_stores import NoRanges
from ._object_version import Version, changed
from ._redirects import Request, origin
from ._request_limit import RequestLimit
from ._stated import checksum_in
from ._storage_options import StorageOptions
from ._store_settings import Settings

__all__ = ["HttpStore"]

_PIECE = 1 << 20  # bytes of one piece of an answer that is taken as it comes
_ERROR_BODY = 4096  # bytes of an answer that is an error, to find its code in
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.1, 15.0, 3  # seconds; see `_store_client`
_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_WHOLE = re.compile(r"/(\d+)$")


class HttpStore:
    """One web server. See `_object_stores.Store`.

    Args:
        client: that all stores share.
        settings: root URL, with the query that all its paths take, and private headers.
        options: as given.
        place: see `_object_stores.Store`.
    """

    def __init__(
        self, client: HttpClient, settings: Settings, options: StorageOptions, place: str
    ) -> None:
        self.place = place
        self.limit = RequestLimit(options.concurrency)
        self.options = options
        self._client = client
        self._root = urlsplit(settings.root)
        self._private = {**settings.headers, **options.headers}
        self._tls = None if settings.ca_file is None else trusting(settings.ca_file)

    # --- what readers ask for ------------------------------------------------------------

    async def ask(self, key: str, uri: str) -> Version:
        """Return the present version of a file; see `_object_stores.Store.ask`."""
        return await self._client.run(self._ask(key, uri))

    async def fetch(
        self, key: str, version: Version, start: int, stop: int, uri: str
    ) -> memoryview:
        """Fetch bytes of a version; see `_object_stores.Store.fetch`."""
        return await self._client.run(self._fetch(key, version, start, stop, uri))

    async def fetch_from_start(
        self, key: str, version: Version, stop: int, uri: str
    ) -> AsyncGenerator[tuple[int, memoryview], None]:
        """Yield bytes of a version, and ask for no range; see `_object_stores.Store`."""
        pieces = _gathered(self._bytes(key, version, 0, stop, uri, ranged=False))
        position = 0
        try:
            while piece := await self._client.run(anext(pieces, b"")):
                yield position, memoryview(piece)[: stop - position]
                position += len(piece)
        finally:
            await self._client.run(pieces.aclose())

    async def checksum(self, key: str, version: Version) -> Checksum | None:
        """Return what the server states of a version; see `_object_stores.Store.checksum`."""
        asking = self._client.headers(self._request(key, {}), tls=self._tls)
        headers = await self._client.run(asking)
        same = version.etag is not None and headers.get("etag") == version.etag
        return checksum_in(headers) if same else None

    async def list_below(self, key: str, uri: str, *, recursive: bool = False) -> list[ListEntry]:
        """Raise `NotFound`: web servers have no way to list that all share."""
        del key, recursive
        raise NotFound("an HTTP server lists no folders; check the URL, or name a file", uri=uri)

    # --- in the client's thread ----------------------------------------------------------

    async def _ask(self, key: str, uri: str) -> Version:
        async with self._deadline(uri):
            try:
                return await self._ask_by_head(key, uri)
            except (SourceError, _SaysNoLength) as error:
                if not isinstance(error, _SaysNoLength) and not _refuses_head(error):
                    raise
            return await self._ask_by_get(key, uri)

    async def _ask_by_head(self, key: str, uri: str) -> Version:
        async with self._answered("HEAD", key, {}, uri) as answer:
            headers = answer.headers
            length = headers.get("content-length", "")
            # Some say 0 of whatever they would have to make first.
            if not length.isdecimal() or length == "0" or _encoding(headers):
                raise _SaysNoLength
            return _version(headers, int(length))

    async def _ask_by_get(self, key: str, uri: str) -> Version:
        async with self._answered("GET", key, {"Range": "bytes=0-0"}, uri, empty=True) as answer:
            headers = answer.headers
            _expect_plain(headers, uri)
            length = headers.get("content-length", "")
            if answer.status in (206, 416):  # the latter of a file without a first byte
                found = _WHOLE.search(headers.get("content-range", ""))
                length = found[1] if found else ""
            if not length.isdecimal():
                raise TransferFailed(
                    "its server does not say how long it is; copy it to disk by other means, or "
                    "have it served with Content-Length (nginx, any object storage)",
                    uri=uri,
                )
            return _version(headers, int(length))

    async def _fetch(
        self, key: str, version: Version, start: int, stop: int, uri: str
    ) -> memoryview:
        data = np.empty(stop - start, np.uint8).data
        position = 0
        bytes_wanted = self._bytes(key, version, start, stop, uri, ranged=True)
        async with self._deadline(uri), aclosing(bytes_wanted) as pieces:
            async for piece in pieces:
                data[position : position + len(piece)] = piece
                position += len(piece)
        return data

    async def _bytes(
        self, key: str, version: Version, start: int, stop: int, uri: str, *, ranged: bool
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """Yield bytes ``start`` to ``stop``; what is cut goes on where it was.

        Args:
            key: of the file.
            version: of it.
            start: the first byte.
            stop: the one behind the last.
            uri: for messages.
            ranged: whether nothing but a range will do.

        Raises: as `_object_stores.Store.fetch` does.
        """
        pauses = _Pauses(self.options)
        position = start
        while position < stop:
            sent = _conditions(version)
            if ranged or position:
                sent["Range"] = f"bytes={position}-{stop - 1}"
            failure = None
            try:
                async with self._answered("GET", key, sent, uri, pinned=True) as answer:
                    skipped = _begin(answer, version, position, stop, uri, ranged=ranged)
                    async for piece in answer.body.iter_any():
                        if position == stop:
                            return
                        wanted = memoryview(piece)[skipped : skipped + stop - position]
                        skipped -= min(skipped, len(piece))
                        if wanted:
                            yield wanted
                            position += len(wanted)
                            pauses.begin()
            except FAILURES as error:
                if isinstance(error, SourceError):
                    raise
                failure = unanswered(error, uri)
            if position < stop:
                await pauses.pause(failure or _cut(position - start, stop - start, uri))

    @asynccontextmanager
    async def _answered(
        self,
        method: str,
        key: str,
        headers: Mapping[str, str],
        uri: str,
        *,
        pinned: bool = False,
        empty: bool = False,
    ) -> AsyncIterator[Answer]:
        """Give an answer that is no error, be it after some that are.

        Args:
            method: of the request.
            key: of the file.
            headers: of the request.
            uri: for messages.
            pinned: whether a version was asked for that had been there.
            empty: whether a range that lies outside is an answer, too.
        """
        pauses = _Pauses(self.options)
        async with AsyncExitStack() as open_answer:
            while True:
                try:
                    sending = self._client.send(
                        method,
                        self._request(key, headers),
                        tls=self._tls,
                        timeouts=self.options.timeouts,
                    )
                    answer = await open_answer.enter_async_context(sending)
                    if answer.status < 300 or (empty and answer.status == 416):
                        break
                    failure = await self._error(answer, uri, pinned)
                    await open_answer.aclose()
                    if not passes(answer.status):
                        pauses.give_up()
                except FAILURES as error:
                    failure = unanswered(error, uri)
                    if isinstance(error, ValueError):  # BadRedirect, or a host that has no form
                        pauses.give_up()
                await pauses.pause(failure)
            yield answer

    def _request(self, key: str, headers: Mapping[str, str]) -> Request:
        return Request(urlunsplit(self._root._replace(path=key)), headers, self._private)

    async def _error(self, answer: Answer, uri: str, pinned: bool) -> SourceError:
        body = await answer.body.read(_ERROR_BODY)
        code = code_in(body.decode("utf-8", "replace"))
        error = by_status(answer.status, code, uri, pinned=pinned)
        asked, answered = urlunsplit(self._root), answer.request.url
        if isinstance(error, AccessDenied) and origin(asked) != origin(answered):
            scheme, host, port = origin(answered)
            error.message += (
                f". It was redirected to {scheme}://{host}:{port}, where no credentials are sent "
                "that were meant for this server; name that URL if they are meant for it"
            )
        return error

    @asynccontextmanager
    async def _deadline(self, uri: str) -> AsyncIterator[None]:
        total = self.options.timeouts.total
        try:
            async with asyncio.timeout(total):
                yield
        except TimeoutError:
            raise TransferFailed(
                f"it took longer than {total:g} s with all its tries; try again, or raise "
                "storage_options['timeouts']['total']",
                uri=uri,
            ) from None


class _SaysNoLength(Exception):
    """An answer to HEAD that does not say how long the file is."""


class _Pauses:
    """How often a request is sent again, and after which pause ("decorrelated jitter")."""

    def __init__(self, options: StorageOptions) -> None:
        self._most = options.retries
        self._total = options.timeouts.total
        self.begin()

    def begin(self) -> None:
        """Count from here: bytes have come."""
        self._left = self._most
        self._last = 0.0
        self._deadline = asyncio.get_running_loop().time() + self._total

    def give_up(self) -> None:
        """Send it not again."""
        self._left = 0

    async def pause(self, failure: SourceError) -> None:
        """Wait for the next time; raise the failure if there is none."""
        self._last = min(
            random.uniform(_FIRST_PAUSE, max(self._last * _GROWTH, _FIRST_PAUSE)),  # noqa: S311
            _LONGEST_PAUSE,
        )
        if not self._left or asyncio.get_running_loop().time() + self._last > self._deadline:
            raise failure
        self._left -= 1
        await asyncio.sleep(self._last)


def _refuses_head(error: SourceError) -> bool:
    # A URL may be signed for GET alone, and some servers know nothing else.
    return error.status in (400, 403, 405, 501) or isinstance(error, AccessDenied)


def _encoding(headers: Mapping[str, str]) -> str:
    encoding = headers.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _expect_plain(headers: Mapping[str, str], uri: str) -> None:
    if encoding := _encoding(headers):
        raise TransferFailed(
            f"its server sends it compressed (Content-Encoding: {encoding}), though asked not to, "
            "and so without ranges; have it stored, or served, as it is",
            uri=uri,
        )


def _version(headers: Mapping[str, str], size: int) -> Version:
    modified = None
    try:
        modified = parsedate_to_datetime(headers.get("last-modified", ""))
        modified = modified if modified.tzinfo else modified.replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        pass
    return Version.of(
        {
            "size": size,
            "e_tag": headers.get("etag"),
            "last_modified": modified,
            "version": None,
        }
    )


def _conditions(version: Version) -> dict[str, str]:
    """Return the headers that have a server refuse (412) to send any other version."""
    conditions = version.conditions()
    if etag := conditions.get("if_match"):
        return {"If-Match": etag}
    if since := conditions.get("if_unmodified_since"):
        return {"If-Unmodified-Since": format_datetime(since.astimezone(dt.UTC), usegmt=True)}
    return {}


def _begin(
    answer: Answer, version: Version, start: int, stop: int, uri: str, *, ranged: bool
) -> int:
    """Judge an answer by its headers; return how many of its bytes lie before ``start``.

    Raises:
        SourceChanged: it is another version's.
        NoRanges: it is the whole file, where a part is wanted.
        TransferFailed: it is another range's, or compressed.
    """
    headers = answer.headers
    _expect_plain(headers, uri)
    length = headers.get("content-length", "")
    size = int(length) if length.isdecimal() else version.size
    begin, end = 0, size
    if answer.status == 206:
        found = _RANGE.fullmatch(headers.get("content-range", ""))
        if found is None:
            raise _wrong_range(start, stop, headers.get("content-range", "nothing"), uri)
        begin, end = int(found[1]), int(found[2]) + 1
        size = version.size if found[3] == "*" else int(found[3])
    if not version.is_same(_version(headers, size)):
        raise changed(uri, "was replaced")
    if answer.status == 206:
        if (begin, end) != (start, stop):
            raise _wrong_range(start, stop, f"{begin:,} to {end:,}", uri)
    elif ranged and (start, stop) != (0, size):
        raise NoRanges
    return start - begin


def _wrong_range(start: int, stop: int, came: str, uri: str) -> TransferFailed:
    return TransferFailed(
        f"bytes {start:,} to {stop:,} were asked for, but {came[:100]} came; the server, or a "
        "cache before it, does ranges wrongly; load a copy from disk",
        uri=uri,
    )


def _cut(got: int, wanted: int, uri: str) -> TransferFailed:
    return TransferFailed(f"{wanted:,} bytes were asked for, but {got:,} came; try again", uri=uri)


async def _gathered(
    pieces: AsyncGenerator[bytes | memoryview, None],
) -> AsyncGenerator[bytes, None]:
    """Yield what comes in pieces that are worth handing over to another thread."""
    held = bytearray()
    async with aclosing(pieces):
        async for piece in pieces:
            held += piece
            if len(held) >= _PIECE:
                yield bytes(held)
                held.clear()
    if held:
        yield bytes(held)
