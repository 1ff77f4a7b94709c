"""The process of the faulty servers, and handles of what runs in it."""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

from tests.servers.daemon import LOOPBACK, Daemon
from tests.servers.faults.settings import HttpFault, HttpStats, Seen, TcpFaults, TcpStats

__all__ = ["FaultProcess", "HttpFaults", "TcpProxy"]

_PROJECT = Path(__file__).parents[2]
_PATIENCE = 10.0  # seconds that an answer may take


class FaultProcess:
    """A running process for any number of faulty servers; a context manager that ends all."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="asyncload-faults-")
        self._socket = f"{self._folder.name}/control"
        command = [sys.executable, "-m", "tests.servers.faults", self._socket]
        self._daemon = Daemon(command, Path(self._folder.name) / "log", _PROJECT)
        try:
            self._daemon.start()
            self._daemon.wait_until(self._answers)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it and all its servers; twice is fine."""
        self._daemon.kill()
        self._folder.cleanup()

    def tcp_proxy(self, upstream: int, faults: TcpFaults | None = None) -> TcpProxy:
        """Open a proxy to the loopback port ``upstream``."""
        return TcpProxy(self, upstream, faults or TcpFaults())

    def http_faults(self, origin: Path | int, *faults: HttpFault) -> HttpFaults:
        """Open an HTTP server of the files in a folder, or in front of a server's loopback port.

        The folder takes GET and HEAD as S3 (path style, signatures not looked at) and as a web
        server. Requests reach an upstream as they came, with their signatures.
        """
        return HttpFaults(self, origin, faults)

    def ask(self, what: str, **arguments: object) -> Any:
        """Have a method of the process's control called; return what it returns."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_PATIENCE)
            connection.connect(self._socket)
            question = json.dumps({"ask": what, "arguments": arguments})
            connection.sendall(question.encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer = json.loads(lines.readline() or '{"error": "it ended"}')
        if "error" in answer:
            raise self._daemon.failure(f"{what}: {answer['error']}")
        return answer["answer"]

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self._socket) == 0


class _Handle:
    """A server in the process; a context manager that closes it.

    Attributes:
        port: where it listens.
    """

    port: int

    def __init__(self, process: FaultProcess) -> None:
        self._process = process
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def drop(self) -> None:
        """End all open connections with RST."""
        self._process.ask("drop", port=self.port)

    def close(self) -> None:
        """Refuse new connections and end the open ones; twice is fine."""
        if not self._closed:
            self._closed = True
            self._process.ask("close", port=self.port)

    def url(self, url: str) -> str:
        """Return ``url`` with this server's port in place of its own, to go through here."""
        parts = urlsplit(url)
        return urlunsplit(parts._replace(netloc=f"{parts.hostname}:{self.port}"))


class TcpProxy(_Handle):
    """A TCP proxy; see `TcpFaults` for what it does to connections.

    Attributes:
        port: where it listens.
        faults: as they are now; `set` changes them.
    """

    def __init__(self, process: FaultProcess, upstream: int, faults: TcpFaults) -> None:
        super().__init__(process)
        self.faults = faults
        self.port = process.ask("open_tcp", upstream=upstream, faults=dataclasses.asdict(faults))

    def set(self, faults: TcpFaults) -> None:
        """Carry bytes so from now on, those of open connections too."""
        self._process.ask("set_tcp", port=self.port, faults=dataclasses.asdict(faults))
        self.faults = faults

    def stats(self) -> TcpStats:
        """Return what it has carried."""
        return TcpStats(**self._process.ask("stats", port=self.port))


class HttpFaults(_Handle):
    """An HTTP server whose answers go wrong; see `HttpFault` for how.

    Attributes:
        port: where it listens.
        endpoint: ``http://127.0.0.1:PORT``.
    """

    def __init__(
        self, process: FaultProcess, origin: Path | int, faults: tuple[HttpFault, ...]
    ) -> None:
        super().__init__(process)
        folder = isinstance(origin, Path)
        self.port = process.ask(
            "open_http",
            root=str(origin) if folder else None,
            upstream=None if folder else origin,
            faults=[dataclasses.asdict(fault) for fault in faults],
        )
        self.endpoint = f"http://{LOOPBACK}:{self.port}"

    def set(self, *faults: HttpFault) -> None:
        """Replace all faults; a request is hit by the first that matches and is not used up.

        Those behind it do not count the request. What is under way goes on as it began.
        """
        described = [dataclasses.asdict(fault) for fault in faults]
        self._process.ask("set_http", port=self.port, faults=described)

    def stats(self) -> HttpStats:
        """Return how many connections and requests came at once."""
        return HttpStats(**self._process.ask("stats", port=self.port))

    def forget(self) -> None:
        """Begin the list of requests and the peak anew."""
        self._process.ask("forget", port=self.port)

    def requests(self, path: str = "*", method: str = "*") -> list[Seen]:
        """Return the requests for paths like the pattern ``path``, in the order they came."""
        seen = [Seen(**fields) for fields in self._process.ask("seen", port=self.port)]
        return [
            one
            for one in seen
            if fnmatch.fnmatchcase(one.path, path) and method in {"*", one.method}
        ]

    def bytes_sent(self, path: str = "*") -> int:
        """Return the bytes of objects sent: bodies of answers 200 and 206."""
        return sum(one.sent for one in self.requests(path) if one.status in {200, 206})

    def bytes_sent_twice(self, path: str) -> int:
        """Return how many bytes of the one object at ``path`` were sent more than once."""
        spans = sorted(
            (one.start, one.start + one.sent)
            for one in self.requests(path)
            if one.status in {200, 206} and one.sent
        )
        covered = reached = 0
        for start, end in spans:
            covered += max(0, end - max(start, reached))
            reached = max(reached, end)
        return sum(end - start for start, end in spans) - covered
