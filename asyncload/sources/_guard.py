"""`Guard`: a proxy on the loopback that lets a client reach one server, and no other.

obstore follows redirects by itself, and takes along what is no `Authorization`: the caller's
headers, session tokens, and the signature in a URL, as `Referer`. It does so by a proxy if it has
one. This one refuses whatever leads to another origin before a byte of the request gets there.
TLS stays between the client and the server: of that, only encrypted bytes pass here.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

from ._redirects import origin

__all__ = ["OTHER_ORIGIN", "Guard"]

# Misdirected Request: RFC 9110, 15.5.20.
OTHER_ORIGIN = 421

_HEAD = 64 << 10  # bytes of a request before its body, of which it has none: all are GET or HEAD
# How a connection may end; a cancelled one is this proxy's end, and streams would log it.
_ENDS = (
    OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError,
)  # fmt: skip
_PIECE = 256 << 10  # bytes that are passed on at a time
_FIRST = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.1\r\n")
_REFUSAL = b"HTTP/1.1 %d Misdirected Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Guard:
    """A running proxy; belongs to one loop. `start` makes it.

    Attributes:
        url: by which a client knows it.
    """

    def __init__(self, server: asyncio.Server, url: str) -> None:
        self.url = url
        self._server = server

    @classmethod
    async def start(cls, allowed: str) -> Guard:
        """Start a proxy to the origin of a URL alone."""
        scheme, host, port = origin(allowed)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(*_ENDS):
                await _Connection(reader, writer, (scheme, host, port)).run()
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", limit=_HEAD)
        return cls(server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")

    def close(self) -> None:
        """Take no more connections; those that are open end with their tasks."""
        self._server.close()


class _Connection:
    """One connection of the client, and the one to the server that belongs to it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        allowed: tuple[str, str, int],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._allowed = allowed

    async def run(self) -> None:
        """Pass on what the client asks of the server, until one of them closes."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        target = self._target(head)
        if target is None:
            self._writer.write(_REFUSAL % OTHER_ORIGIN)
            return
        _, host, port = self._allowed
        reader, writer = await asyncio.open_connection(host, port)
        try:
            if target == b"":
                self._writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
                asking = asyncio.ensure_future(_pass(self._reader, writer))
            else:
                asking = asyncio.ensure_future(self._ask(head, writer))
            answering = asyncio.ensure_future(_pass(reader, self._writer))
            try:
                await asyncio.wait([asking, answering], return_when=asyncio.FIRST_COMPLETED)
            finally:
                asking.cancel()
                answering.cancel()
                await asyncio.gather(asking, answering, return_exceptions=True)
        finally:
            writer.close()

    def _target(self, head: bytes) -> bytes | None:
        """Return the path that is asked for, ``b""`` for a tunnel, ``None`` for another server."""
        found = _FIRST.match(head)
        if found is None:
            return None
        method, target = found[1], found[2].decode("latin-1")
        tunnel = method == b"CONNECT"
        try:
            if origin(f"https://{target}" if tunnel else target) != self._allowed:
                return None
        except ValueError:
            return None
        if tunnel:
            return b""
        return b"/" + found[2].split(b"/", 3)[3] if found[2].count(b"/") > 2 else b"/"

    async def _ask(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        """Pass on requests without TLS, each of which is judged anew."""
        while (target := self._target(head)) is not None:
            writer.write(head.replace(_FIRST.match(head)[2], target, 1))  # type: ignore[index]
            await writer.drain()
            head = await self._reader.readuntil(b"\r\n\r\n")
        self._writer.write(_REFUSAL % OTHER_ORIGIN)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()
