"""`HttpClient`: requests over HTTP, in a thread of their own, with the redirects in our hands.

Everything but its life runs on the loop of that thread, so that neither parsing nor copying of what
comes takes time of the caller's loop.
"""

from __future__ import annotations

import asyncio
import functools
import ssl
import urllib.request
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_exceptions import ClientError
from yarl import URL

from asyncload.errors import SourceError

from ._guard import Guard
from ._loop_thread import LoopThread
from ._redirects import MOST, STATUSES, BadRedirect, Request
from ._storage_options import Timeouts

__all__ = ["FAILURES", "Answer", "HttpClient", "Tls", "trusting"]

Result = TypeVar("Result")
Tls = ssl.SSLContext | None

# What a request may end in beside an answer.
FAILURES = (ClientError, OSError, TimeoutError, ValueError)  # the last for what is no URL

_STATED = 5.0  # seconds; what does not answer states nothing
_LINE = 64 << 10  # bytes of one header: signed URLs of redirects have thousands
_BUFFER = 1 << 20  # bytes that come before anybody wants them
# Compressed, a file has no ranges.
_OWN = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "asyncload"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server says before the bytes.

    Attributes:
        status: the last one, of no redirect.
        headers: names in small letters.
        request: whose answer it is: what the last redirect asked for.
        body: the bytes, to be taken within the block.
    """

    status: int
    headers: dict[str, str]
    request: Request
    body: aiohttp.StreamReader


class HttpClient:
    """A pool of connections; of one loop. No cookie is kept, nothing is read from ``.netrc``."""

    def __init__(self) -> None:
        self._sessions: list[aiohttp.ClientSession] = []  # none or one
        self._guards: list[Guard] = []
        close = functools.partial(_close, self._sessions, self._guards)
        self._thread = LoopThread("asyncload-http", close)

    async def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the client's thread; see `LoopThread.run`."""
        return await self._thread.run(work)

    async def aclose(self) -> None:
        """Close all connections, and end the thread; closing twice is fine."""
        await self._thread.aclose()

    def end_soon(self) -> None:
        """Do so without waiting for it, where no loop runs any more."""
        self._thread.end_soon()

    async def guard(self, allowed: str) -> str | None:
        """Return the URL of a proxy that leads to the origin of ``allowed`` and nowhere else.

        It lives as long as the client. ``None`` where the environment names a proxy already: then
        that decides what can be reached.
        """
        if _proxy(allowed) is not None:
            return None
        return await self.run(self._start_guard(allowed))

    async def _start_guard(self, allowed: str) -> str:
        guard = await Guard.start(allowed)
        self._guards.append(guard)
        return guard.url

    @asynccontextmanager
    async def send(
        self, method: str, request: Request, *, tls: Tls, timeouts: Timeouts
    ) -> AsyncIterator[Answer]:
        """Give the answer to a request, redirects followed; in the client's thread.

        Raises: one of `FAILURES`.
        """
        limits = aiohttp.ClientTimeout(
            total=None, sock_connect=timeouts.connect, sock_read=timeouts.read
        )
        for _ in range(MOST + 1):
            async with self._opened().request(
                method,
                URL(request.url, encoded=True),
                headers={**request.private, **_OWN, **request.headers},
                allow_redirects=False,
                proxy=_proxy(request.url),
                timeout=limits,
                ssl=True if tls is None else tls,
            ) as response:
                location = response.headers.get("Location")
                if response.status not in STATUSES or location is None:
                    headers = {name.lower(): value for name, value in response.headers.items()}
                    yield Answer(response.status, headers, request, response.content)
                    return
            request = request.redirected(location)
        raise BadRedirect(f"it redirects more than {MOST} times")

    async def headers(self, request: Request, *, tls: Tls) -> dict[str, str]:
        """Return the headers of the answer to HEAD; none if it fails. In the client's thread."""
        limits = Timeouts(connect=_STATED, read=_STATED)
        try:
            async with (
                asyncio.timeout(_STATED),
                self.send("HEAD", request, tls=tls, timeouts=limits) as answer,
            ):
                return answer.headers if answer.status < 300 else {}
        except FAILURES:
            return {}

    def _opened(self) -> aiohttp.ClientSession:
        if not self._sessions:
            session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                read_bufsize=_BUFFER,
                max_line_size=_LINE,
                max_field_size=_LINE,
            )
            self._sessions.append(session)
        return self._sessions[0]


async def _close(sessions: list[aiohttp.ClientSession], guards: list[Guard]) -> None:
    for guard in guards:
        guard.close()
    for session in sessions:
        await session.close()


def trusting(ca_file: str) -> ssl.SSLContext:
    """Return what trusts the certificates in a file, beside the usual ones.

    Raises:
        SourceError: they cannot be read.
    """
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(ca_file)
    except OSError as error:
        raise SourceError(f"the certificates in {ca_file!r} cannot be read: {error}") from error
    return context


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for a URL."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
