"""A TCP proxy that delays, limits, cuts and refuses.

Half-closed connections are not carried: when a client ends its side, both end, as with HTTP. On
plain sockets, which costs half the time of streams: at 200 MB/s it must not be felt.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

from tests.servers.daemon import LOOPBACK
from tests.servers.faults.link import Link, piece, reset_when_closed, sleep_until
from tests.servers.faults.settings import TcpFaults, TcpStats

__all__ = ["TcpServer"]

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
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._accepting: asyncio.Task[None] | None = None

    async def set(self, faults: TcpFaults) -> None:
        """Carry bytes so from now on, those of open connections too."""
        self.faults, self.link.rate = faults, faults.rate
        self.cuts_left = faults.cut_times
        for connection in self._connections:
            connection.delivered = 0
        if faults.refuse:
            await self._stop_accepting()
        elif self._accepting is None:
            listener = socket.create_server((LOOPBACK, self.port), backlog=1024)
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self._accepting = asyncio.create_task(self._accept(listener))

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
        tasks = []
        for connection, task in self._connections.items():
            reset_when_closed(connection.client)
            task.cancel()
            tasks.append(task)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Refuse new connections, and end the open ones."""
        await self._stop_accepting()
        await self.drop()

    async def _stop_accepting(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
            self._accepting = None

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = await asyncio.get_running_loop().sock_accept(listener)
                connection = _Connection(self, client)
                self._connections[connection] = asyncio.create_task(self._serve(connection))
                self._accepted += 1
                self._peak = max(self._peak, len(self._connections))

    async def _serve(self, connection: _Connection) -> None:
        with connection.client:
            try:
                await connection.carry()
            except OSError:
                reset_when_closed(connection.client)
            finally:
                del self._connections[connection]


class _Connection:
    """One connection of a client; who made it closes ``client``."""

    def __init__(self, server: TcpServer, client: socket.socket) -> None:
        self.client = client
        self.delivered = 0  # bytes from the server, since the faults were set
        self._server = server
        self._link = Link()
        self._loop = asyncio.get_running_loop()

    async def carry(self) -> None:
        """Carry both ways until either side ends."""
        await asyncio.sleep(self._server.faults.latency)
        with socket.socket() as upstream:
            upstream.setblocking(False)
            await self._loop.sock_connect(upstream, (LOOPBACK, self._server.upstream))
            for end in (self.client, upstream):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ways = [
                asyncio.create_task(self._carry_up(upstream)),
                asyncio.create_task(self._carry_down(upstream)),
            ]
            try:
                done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in ways:
                    task.cancel()
                await asyncio.gather(*ways, return_exceptions=True)

    async def _carry_up(self, upstream: socket.socket) -> None:
        async with contextlib.aclosing(self._underway(self.client, down=False)) as pieces:
            async for data in pieces:
                await self._loop.sock_sendall(upstream, data)
                self._server.bytes_up += len(data)

    async def _carry_down(self, upstream: socket.socket) -> None:
        async with contextlib.aclosing(self._underway(upstream, down=True)) as pieces:
            async for data in pieces:
                left = self._until_cut()
                await self._deliver(data if left is None else data[:left])
                if left is not None and left <= len(data):
                    await self._cut()
                    return

    async def _deliver(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.client, data)
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
            reset_when_closed(self.client)

    async def _underway(self, origin: socket.socket, *, down: bool) -> AsyncGenerator[bytes, None]:
        """Yield what ``origin`` sends when it has come over the link, in order."""
        line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_UNDERWAY)
        filling = asyncio.create_task(self._fill(line, origin, down=down))
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

    async def _fill(
        self, line: asyncio.Queue[tuple[float, bytes]], origin: socket.socket, *, down: bool
    ) -> None:
        """Put what ``origin`` sends on the line, with when it arrives; nothing is its end."""
        while True:
            faults = self._server.faults
            size = piece(faults.rate, faults.connection_rate) if down else piece()
            try:
                data = await self._loop.sock_recv(origin, size)
            except OSError:
                data = b""
            if down:
                await self._pass_link(len(data))
            latency = self._server.faults.latency  # which may have changed meanwhile
            await line.put((self._loop.time() + latency / 2, data))
            if not data:
                return

    async def _pass_link(self, size: int) -> None:
        now = self._loop.time()
        self._link.rate = self._server.faults.connection_rate
        own = self._link.reserve(size, now)
        await sleep_until(max(own, self._server.link.reserve(size, now)))
