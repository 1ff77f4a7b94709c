"""An HTTP/1.1 server whose answers go wrong as it is told, and that notes what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fnmatch
import http.client
import re
from collections.abc import AsyncGenerator

from tests.servers.daemon import LOOPBACK
from tests.servers.faults.http_origin import Answer, Origin, Question, read_head, refusal
from tests.servers.faults.link import Link, piece, reset_when_closed, sleep_until
from tests.servers.faults.settings import HttpFault, HttpStats, Seen

__all__ = ["HttpServer"]

_GRACE = 0.02  # seconds that the client gets to take what came before a reset
_LOOK = 0.01  # seconds between looks whether a client that waits has left
_NO_FAULT = HttpFault()


class _Left(Exception):
    """The connection is over."""


@dataclasses.dataclass(slots=True)
class _Rule:
    fault: HttpFault
    matched: int = 0


class HttpServer:
    """Answers from ``origin`` at `port`, but for the faults."""

    def __init__(self, origin: Origin) -> None:
        self.port = 0
        self._origin = origin
        self._rules: list[_Rule] = []
        self._seen: list[Seen] = []
        self._connections: dict[asyncio.StreamWriter, asyncio.Task[object]] = {}
        self._accepted = self._in_flight = self._peak = 0
        self._listener: asyncio.Server | None = None

    async def listen(self) -> None:
        self._listener = await asyncio.start_server(
            self._accept, LOOPBACK, 0, limit=1 << 20, backlog=1024
        )
        self.port = self._listener.sockets[0].getsockname()[1]

    async def set(self, faults: list[HttpFault]) -> None:
        """Replace all faults; a request is hit by the first that matches and is not used up.

        Those behind it do not count the request.
        """
        self._rules = [_Rule(fault) for fault in faults]

    async def seen(self) -> list[Seen]:
        """Return all requests since the last `forget`."""
        return self._seen

    async def forget(self) -> None:
        """Begin the list of requests and the peak anew."""
        self._seen, self._peak = [], self._in_flight

    async def stats(self) -> HttpStats:
        """Return how many come at once."""
        return HttpStats(
            accepted=self._accepted,
            open=len(self._connections),
            in_flight=self._in_flight,
            peak_in_flight=self._peak,
        )

    async def drop(self) -> None:
        """End all open connections with RST."""
        for writer, task in list(self._connections.items()):
            _abort(writer)
            task.cancel()

    async def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
        await self.drop()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections[writer] = task
        self._accepted += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (_Left, asyncio.CancelledError, asyncio.IncompleteReadError):
            pass
        except OSError:
            _abort(writer)
        finally:
            del self._connections[writer]
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Serve one request; return whether the connection goes on."""
        question = await _read_question(reader)
        fault = self._fault_for(question)
        question = dataclasses.replace(
            question,
            headers={k: v for k, v in question.headers.items() if k not in fault.ignore},
        )
        seen = Seen(question.method, question.path, question.query, dict(question.headers))
        self._seen.append(seen)
        self._in_flight += 1
        self._peak = max(self._peak, self._in_flight)
        try:
            await _wait(reader, fault.delay)
            if fault.status:
                answer = refusal(fault.status, fault.code)
            else:
                answer = await self._origin.answer(question)
            return await _Sending(reader, writer, question, fault, seen).send(answer)
        finally:
            self._in_flight -= 1
            seen.done = True

    def _fault_for(self, question: Question) -> HttpFault:
        for rule in self._rules:
            fault = rule.fault
            if fault.method not in {question.method, "*"}:
                continue
            if not fnmatch.fnmatchcase(question.path, fault.path):
                continue
            rule.matched += 1
            used = rule.matched - fault.skip
            if used > 0 and (fault.times is None or used <= fault.times):
                return fault
        return _NO_FAULT


class _Sending:
    """One answer on its way."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        question: Question,
        fault: HttpFault,
        seen: Seen,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._question = question
        self._fault = fault
        self._seen = seen
        self._has_body = self._chunked = False

    async def send(self, answer: Answer) -> bool:
        """Send it, with its faults; return whether the connection can go on."""
        async with contextlib.aclosing(answer.body):
            self._has_body = self._question.method != "HEAD" and answer.status not in {204, 304}
            self._chunked = self._has_body and self._fault.chunked
            headers = self._change(answer)
            lasts = not self._has_body or self._chunked or "content-length" in headers
            lasts = lasts and self._question.headers.get("connection", "").lower() != "close"
            headers["connection"] = "keep-alive" if lasts else "close"
            phrase = http.client.responses.get(answer.status, "Unknown")
            lines = [f"HTTP/1.1 {answer.status} {phrase}"]
            lines += [f"{name}: {value}" for name, value in headers.items()]
            self._writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
            if self._has_body:
                await self._send_body(answer.body)
            await self._writer.drain()
            return lasts

    def _change(self, answer: Answer) -> dict[str, str]:
        """Return the headers to send, and note what is sent."""
        fault = self._fault
        headers = {name.lower(): value for name, value in answer.headers.items()}
        place = re.fullmatch(r"bytes (\d+)-(\d+)/(.*)", headers.get("content-range", ""))
        self._seen.status = answer.status
        self._seen.start = int(place[1]) if place else 0
        if fault.body_length is not None:
            length = min(fault.body_length, int(headers["content-length"]))
            headers["content-length"] = str(length)
            if place:
                end = int(place[1]) + length - 1
                headers["content-range"] = f"bytes {place[1]}-{end}/{place[3]}"
        if self._chunked:
            headers.pop("content-length", None)
            headers["transfer-encoding"] = "chunked"
        for name, value in fault.headers.items():
            if value is None:
                headers.pop(name.lower(), None)
            else:
                headers[name.lower()] = value
        return headers

    async def _send_body(self, body: AsyncGenerator[bytes, None]) -> None:
        fault, link = self._fault, Link(self._fault.rate)
        async for data in self._pieces(body):
            left = None if fault.cut_after is None else fault.cut_after - self._seen.sent
            await self._send_piece(data[:left], link)
            if left is not None and left <= len(data):
                await self._cut()
        if self._chunked:
            self._writer.write(b"0\r\n\r\n")

    async def _pieces(self, body: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        size, left = piece(self._fault.rate), self._fault.body_length
        offset = self._seen.start
        async for data in body:
            changed = _flip(data, self._fault.flip, offset)[:left]
            offset += len(data)
            left = None if left is None else left - len(changed)
            for at in range(0, len(changed), size):
                yield changed[at : at + size]

    async def _send_piece(self, data: bytes, link: Link) -> None:
        await sleep_until(link.reserve(len(data), asyncio.get_running_loop().time()))
        if data and self._chunked:
            self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))
        else:
            self._writer.write(data)
        await self._writer.drain()
        if self._reader.at_eof():
            raise _Left
        self._seen.sent += len(data)

    async def _cut(self) -> None:
        if self._fault.cut == "stall":
            await _wait(self._reader, None)
        if self._fault.cut == "reset":
            await asyncio.sleep(_GRACE)
            _abort(self._writer)
        raise _Left


async def _read_question(reader: asyncio.StreamReader) -> Question:
    head, first, headers = await read_head(reader)
    method, target, _ = first.split()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Question(method, target, head, headers, body)


def _abort(writer: asyncio.StreamWriter) -> None:
    peer = writer.get_extra_info("socket")
    if peer is not None and not writer.transport.is_closing():
        reset_when_closed(peer)
    writer.transport.abort()


async def _wait(reader: asyncio.StreamReader, seconds: float | None) -> None:
    """Wait, for ever if None; raises _Left when the client goes meanwhile."""
    clock = asyncio.get_running_loop().time
    end = None if seconds is None else clock() + seconds
    while end is None or clock() < end:
        if reader.at_eof() or reader.exception() is not None:
            raise _Left
        await asyncio.sleep(_LOOK if end is None else min(_LOOK, max(0.0, end - clock())))


def _flip(data: bytes, place: int | None, offset: int) -> bytes:
    """Return ``data``, which begins at ``offset``, with the byte at ``place`` inverted."""
    if place is None or not offset <= place < offset + len(data):
        return data
    at = place - offset
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]
