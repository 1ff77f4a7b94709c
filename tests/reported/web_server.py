"""A web server on the loopback that notes what it was asked, and answers as a test says."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["Asked", "Reply", "Server", "ranged", "serving"]


@dataclass(frozen=True)
class Asked:
    """One request, as it came."""

    method: str
    target: str
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Reply:
    """One answer; Content-Length is added unless there is one, or ``chunked``."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    chunked: bool = False


@dataclass
class Server:
    """A running server.

    Attributes:
        url: without a slash at its end.
        asked: all requests so far.
        answer: what it does.
    """

    url: str
    answer: Callable[[Asked], Reply]
    asked: list[Asked] = field(default_factory=list)

    @property
    def received(self) -> str:
        """All that came, as one text."""
        return "\n".join(
            f"{each.method} {each.target} {sorted(each.headers.items())}" for each in self.asked
        )


def ranged(asked: Asked, body: bytes) -> Reply:
    """Answer as web servers do, with the range that is asked for."""
    headers = {"ETag": f'"{len(body)}-{sum(body[:999])}"', "Accept-Ranges": "bytes"}
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
    if found is None:
        return Reply(200, body, headers)
    start, stop = int(found[1]), min(int(found[2] or len(body)) + 1, len(body))
    said = {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(body)}"}
    return Reply(206, body[start:stop], said)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    ours: Server

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        target = self.requestline.split(" ")[1]  # in `path`, two slashes at its begin are one
        asked = Asked(self.command, target, headers)
        self.ours.asked.append(asked)
        reply = self.ours.answer(asked)
        self.send_response(reply.status)
        length = {"Transfer-Encoding": "chunked"} if reply.chunked else {
            "Content-Length": str(len(reply.body))
        }  # fmt: skip
        for name, value in {**length, **reply.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if reply.chunked:
            self.wfile.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(reply.body), reply.body))
        else:
            self.wfile.write(reply.body)

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(answer: Callable[[Asked], Reply]) -> Iterator[Server]:
    """Run a server until the block ends."""
    handler = type("Handler", (_Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        http.daemon_threads = True
        server = Server(f"http://127.0.0.1:{http.server_port}", answer)
        handler.ours = server  # type: ignore[attr-defined]
        thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            http.shutdown()
            thread.join()
