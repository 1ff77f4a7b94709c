"""A TCP proxy that delays, limits, cuts and refuses.

Half-closed connections are not carried: when a client ends its side, both end, as with HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from tests.servers.daemon import LOOPBACK
from tests.servers.faults.link import Link, abort, piece, sleep_until
from tests.servers.faults.settings import TcpFaults, TcpStats

__all__ = ["TcpServer"]

_BUFFER = 1 << 20  # bytes read ahead of a connection
_UNDERWAY = 32  # pieces on their way at once, in each direction of a connection
_GRACE = 0.02  # seconds that the client gets to take what came before a reset


class TcpServer:
    """Listens at `port`, and carries each connection to ``upstream`` (a loopback port)."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self.faults = TcpFaults()
        self.link = Link()
        self.bytes_up = self.bytes_down = 0
        self.cuts = 0
        self.cuts_left: int | None = None
        self._accepted = self._peak = 0
        self._connections: dict[_Connection, asyncio.Task[object]] = {}
        self._listener: asyncio.Server | None = None

    async def set(self, faults: TcpFaults) -> None:
        """Carry bytes so from now on, those of open connections too."""
        self.faults, self.link.rate = faults, faults.rate
        self.cuts_left = faults.cut_times
        for connection in self._connections:
            connection.delivered = 0
        if faults.refuse:
            self._stop_listening()
        elif self._listener is None:
            self._listener = await asyncio.start_server(
                self._accept, LOOPBACK, self.port, limit=_BUFFER, backlog=1024
            )
            self.port = self._listener.sockets[0].getsockname()[1]

    async def stats(self) -> TcpStats:
        """Return what was carried."""
        return TcpStats(
            accepted=self._accepted,
            open=len(self._connections),
            peak=self._peak,
            cuts=self.cuts,
            bytes_down=self.bytes_down,
            bytes_up=self.bytes_up,
        )

    async def drop(self) -> None:
        """End all open connections with RST."""
        for connection, task in list(self._connections.items()):
            abort(connection.writer)
            task.cancel()

    async def close(self) -> None:
        """Refuse new connections, and end the open ones."""
        self._stop_listening()
        await self.drop()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, task = _Connection(self, reader, writer), asyncio.current_task()
        assert task is not None
        self._connections[connection] = task
        self._accepted += 1
        self._peak = max(self._peak, len(self._connections))
        try:
            await connection.carry()
        except asyncio.CancelledError:  # dropped, which ends this connection alone
            pass
        except OSError:
            abort(writer)
        finally:
            del self._connections[connection]
            writer.close()


class _Connection:
    def __init__(
        self, server: TcpServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.writer = writer
        self.delivered = 0  # bytes from the server, since the faults were set
        self._server = server
        self._reader = reader
        self._link = Link()

    async def carry(self) -> None:
        """Carry both ways until either side ends."""
        await asyncio.sleep(self._server.faults.latency)
        reader, writer = await asyncio.open_connection(
            LOOPBACK, self._server.upstream, limit=_BUFFER
        )
        ways = [
            asyncio.create_task(self._carry_up(self._underway(self._reader, down=False), writer)),
            asyncio.create_task(self._carry_down(self._underway(reader, down=True))),
        ]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in ways:
                task.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            writer.transport.abort()

    async def _carry_up(
        self, pieces: AsyncGenerator[bytes, None], writer: asyncio.StreamWriter
    ) -> None:
        async with contextlib.aclosing(pieces):
            async for data in pieces:
                writer.write(data)
                await writer.drain()
                self._server.bytes_up += len(data)

    async def _carry_down(self, pieces: AsyncGenerator[bytes, None]) -> None:
        async with contextlib.aclosing(pieces):
            async for data in pieces:
                left = self._until_cut()
                await self._deliver(data[:left])
                if left is not None and left <= len(data):
                    await self._cut()
                    return

    async def _deliver(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()
        self.delivered += len(data)
        self._server.bytes_down += len(data)

    def _until_cut(self) -> int | None:
        faults = self._server.faults
        if faults.cut_after is None or self._server.cuts_left == 0:
            return None
        return max(0, faults.cut_after - self.delivered)

    async def _cut(self) -> None:
        server = self._server
        server.cuts += 1
        if server.cuts_left is not None:
            server.cuts_left -= 1
        if server.faults.cut == "stall":
            await asyncio.Event().wait()
        if server.faults.cut == "reset":
            await asyncio.sleep(_GRACE)
            abort(self.writer)

    async def _underway(
        self, reader: asyncio.StreamReader, *, down: bool
    ) -> AsyncGenerator[bytes, None]:
        """Yield what ``reader`` gives when it has come over the link, in order."""
        clock = asyncio.get_running_loop().time
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDERWAY)

        async def fill() -> None:
            data = b"-"
            while data:
                try:
                    data = await reader.read(self._piece(down))
                except OSError:
                    data = b""
                if down:
                    await self._pass_link(len(data))
                await line.put((clock() + self._server.faults.latency / 2, data))

        filling = asyncio.create_task(fill())
        try:
            while True:
                due, data = await line.get()
                await sleep_until(due)
                if not data:
                    return
                yield data
        finally:
            filling.cancel()
            await asyncio.gather(filling, return_exceptions=True)

    def _piece(self, down: bool) -> int:
        faults = self._server.faults
        return piece(faults.rate, faults.connection_rate) if down else piece()

    async def _pass_link(self, size: int) -> None:
        now = asyncio.get_running_loop().time()
        self._link.rate = self._server.faults.connection_rate
        own = self._link.reserve(size, now)
        await sleep_until(max(own, self._server.link.reserve(size, now)))
