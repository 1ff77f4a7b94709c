"""Carry faulty servers, as told over a Unix socket: one JSON line asks, one answers.

python -m tests.servers.faults SOCKET
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from tests.servers.faults.http import HttpServer
from tests.servers.faults.http_origin import FolderOrigin, UpstreamOrigin
from tests.servers.faults.settings import HttpFault, TcpFaults
from tests.servers.faults.tcp import TcpServer

_LINE = 64 << 20  # bytes that a question or an answer may take


class _Control:
    """What can be asked: the methods with public names."""

    def __init__(self) -> None:
        self._servers: dict[int, TcpServer | HttpServer] = {}

    async def open_tcp(self, upstream: int, faults: dict[str, Any]) -> int:
        server = TcpServer(upstream)
        await server.set(TcpFaults())
        self._servers[server.port] = server
        await server.set(TcpFaults(**faults))
        return server.port

    async def open_http(
        self, root: str | None, upstream: int | None, faults: list[dict[str, Any]]
    ) -> int:
        origin = FolderOrigin(Path(root)) if root else UpstreamOrigin(upstream or 0)
        server = HttpServer(origin)
        await server.listen()
        self._servers[server.port] = server
        await server.set([HttpFault(**fault) for fault in faults])
        return server.port

    async def set_tcp(self, port: int, faults: dict[str, Any]) -> None:
        server = self._servers[port]
        assert isinstance(server, TcpServer)
        await server.set(TcpFaults(**faults))

    async def set_http(self, port: int, faults: list[dict[str, Any]]) -> None:
        await self._http(port).set([HttpFault(**fault) for fault in faults])

    async def stats(self, port: int) -> dict[str, int]:
        return dataclasses.asdict(await self._servers[port].stats())

    async def seen(self, port: int) -> list[dict[str, Any]]:
        return [dataclasses.asdict(seen) for seen in await self._http(port).seen()]

    async def forget(self, port: int) -> None:
        await self._http(port).forget()

    async def drop(self, port: int) -> None:
        await self._servers[port].drop()

    async def close(self, port: int) -> None:
        await self._servers.pop(port).close()

    def _http(self, port: int) -> HttpServer:
        server = self._servers[port]
        assert isinstance(server, HttpServer)
        return server


async def _answer(
    control: _Control, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    question = json.loads(await reader.readline() or "null")
    if question is not None:  # else a look whether this process is ready
        method: Callable[..., Awaitable[object]] = getattr(control, question["ask"])
        try:
            answer = {"answer": await method(**question["arguments"])}
        except Exception as error:  # noqa: BLE001 - raised again where it was asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()
    writer.close()


async def _serve(path: str) -> None:
    control = _Control()
    server = await asyncio.start_unix_server(
        lambda reader, writer: _answer(control, reader, writer), path, limit=_LINE
    )
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
