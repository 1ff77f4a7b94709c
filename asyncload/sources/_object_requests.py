"""Requests to a store, each for one version of one object: what is asked, and what may come back.

The boundary to obstore: its errors end here, as do answers that are not what was asked for.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncGenerator, Awaitable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import obstore
from obstore import exceptions
from obstore.store import HTTPStore

from asyncload.errors import AccessDenied, SourceError, TransferFailed

from ._client_calls import call
from ._client_errors import changed, translated
from ._object_stores import Store

if TYPE_CHECKING:
    from obstore import GetOptions

__all__ = ["NoRanges", "Version", "ask", "fetch", "fetch_from_start", "list_below"]

Result = TypeVar("Result")
_PIECE = 1 << 20  # bytes of one piece of an answer that is taken as it comes


class NoRanges(Exception):
    """The server answered with the whole object where a range was asked for."""


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object: what it had when it was asked for first.

    Attributes:
        size: in bytes.
        etag: as the server sent it, quotes included.
        modified: ``Last-Modified``; ``None`` if the server sent none.
        generation: the store's own number for it, where it has one.
        name: by which it is told from other versions. One without ETag and Last-Modified has a
            name that no other has, so that nothing is ever taken for the same.
    """

    size: int
    etag: str | None
    modified: dt.datetime | None
    generation: str | None
    name: str

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Version:
        """Return the version that an answer of obstore's describes."""
        size, etag, modified = meta["size"], meta["e_tag"], meta["last_modified"]
        if modified is not None and modified.timestamp() <= 0:  # what it says for none
            modified = None
        if etag:
            name = f"{etag}-{size}"
        elif modified is not None:
            name = f"{modified.isoformat()}-{size}"
        else:
            name = f"{uuid.uuid4()}-{size}"
        return cls(size, etag or None, modified, meta["version"], name)

    def conditions(self) -> GetOptions:
        """Return what has a server refuse (412) to send any other version."""
        # A weak ETag never matches in If-Match: RFC 9110, 13.1.1.
        if self.etag is not None and not self.etag.startswith("W/"):
            return {"if_match": self.etag}
        return {} if self.modified is None else {"if_unmodified_since": self.modified}

    def is_same(self, other: Version) -> bool:
        """Whether an answer is of this version, as far as the server lets us know."""
        if self.size != other.size:
            return False
        if self.generation and other.generation and self.generation != other.generation:
            return False
        if self.etag or other.etag:
            return self.etag == other.etag
        return self.modified == other.modified


async def ask(store: Store, key: str, uri: str) -> Version:
    """Return the present version of an object.

    Raises:
        NotFound, AccessDenied, TransferFailed: as they say.
    """
    try:
        return Version.of(await _answer(store, uri, call(obstore.head_async, store.client, key)))
    except SourceError as error:
        # A URL may be signed for GET alone, and some servers know nothing else.
        if not isinstance(store.client, HTTPStore) or not _refused(error):
            raise
        refusal = error
    try:
        return await _answer(store, uri, _ask_by_get(store, key))
    except (SourceError, NoRanges):
        raise refusal from refusal.__cause__


def _refused(error: SourceError) -> bool:
    answers = ("405", "501")
    return isinstance(error, AccessDenied) or any(each in error.message for each in answers)


async def _ask_by_get(store: Store, key: str) -> Version:
    result = await call(obstore.get_async, store.client, key, options={"range": (0, 1)})
    await call(result.bytes_async)
    return Version.of(result.meta)


async def fetch(
    store: Store, key: str, version: Version, start: int, stop: int, uri: str
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
        result = await call(obstore.get_async, store.client, key, options=options)
        _expect_same(version, result, uri)
        _expect_range(result, start, stop, uri)
        return await call(result.bytes_async)

    data = await _answer(store, uri, get(), pinned=True)
    _expect_length(len(data), stop - start, uri)
    return data


async def fetch_from_start(
    store: Store, key: str, version: Version, stop: int, uri: str
) -> AsyncGenerator[tuple[int, memoryview], None]:
    """Yield (offset, bytes) from the object's begin until ``stop``, without asking for a range.

    Raises: as `fetch` does.
    """
    getting = call(obstore.get_async, store.client, key, options=version.conditions())
    result = await _answer(store, uri, getting, pinned=True)
    _expect_same(version, result, uri)
    stream = result.stream(min_chunk_size=_PIECE)
    position = 0
    while position < stop:
        try:
            piece = await _answer(store, uri, call(stream.__anext__))
        except StopAsyncIteration:
            break
        yield position, memoryview(piece)[: stop - position]
        position += len(piece)
    _expect_length(min(position, stop), stop, uri)


async def list_below(store: Store, key: str, uri: str) -> list[str]:
    """Return the paths of objects and folders right below ``key``, or of the top for ``""``."""
    listing = call(obstore.list_with_delimiter_async, store.client, key or None)
    found = await _answer(store, uri, listing)
    return [*found["common_prefixes"], *(each["path"] for each in found["objects"])]


async def _answer(
    store: Store, uri: str, request: Awaitable[Result], *, pinned: bool = False
) -> Result:
    """Await a request within the deadline, and speak of its errors in our own."""
    try:
        async with asyncio.timeout(store.options.timeouts.total):
            return await request
    except SourceError as error:
        error.uri = error.uri or uri
        raise
    except exceptions.NotSupportedError:
        unsupported = True
    except TimeoutError:
        unsupported = False
        failure: SourceError = TransferFailed(
            f"it took longer than {store.options.timeouts.total:g} s, retries included; try "
            "again, or raise storage_options['timeouts']['total']",
            uri=uri,
        )
    except (FileNotFoundError, exceptions.BaseError) as error:
        unsupported = False
        failure = translated(error, uri, secrets=store.secrets, pinned=pinned)
        # The client holds it for a while, which must not hold the frames, and with them itself.
        error.__traceback__ = None
    if unsupported:
        raise NoRanges
    raise failure


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
