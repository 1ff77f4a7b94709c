"""What can go wrong on purpose, and what was seen: the types both processes share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Cut", "HttpFault", "HttpStats", "Seen", "TcpFaults", "TcpStats"]

Cut = Literal["reset", "close", "stall"]
"""How a transfer ends early: with RST, with FIN, or by silence on an open connection."""


@dataclass(frozen=True, slots=True)
class TcpFaults:
    """How a TCP proxy carries bytes; nothing is wrong by default.

    Attributes:
        latency: seconds a round trip takes longer, half of it each way; connecting takes one.
        rate: bytes per second of the link, from the server, that all connections share; 0 is
            unlimited. A small one drips: bytes go out 50 times a second.
        connection_rate: bytes per second of each connection, from the server.
        cut_after: bytes from the server after which a connection is cut, counted from its begin, or
            from when this was set.
        cut: how it is cut.
        cut_times: how many connections are cut; None is all.
        refuse: whether new connections are refused, as if nothing listened.
    """

    latency: float = 0.0
    rate: float = 0.0
    connection_rate: float = 0.0
    cut_after: int | None = None
    cut: Cut = "reset"
    cut_times: int | None = None
    refuse: bool = False


@dataclass(frozen=True, slots=True)
class TcpStats:
    """What a TCP proxy has carried.

    Attributes:
        accepted: connections so far.
        open: connections now.
        peak: most connections at one time.
        cuts: connections cut.
        bytes_down: bytes from the server handed on.
        bytes_up: bytes from clients handed on.
    """

    accepted: int
    open: int
    peak: int
    cuts: int
    bytes_down: int
    bytes_up: int


@dataclass(frozen=True, slots=True)
class HttpFault:
    """What is wrong with answers, and with which.

    Attributes:
        path: pattern (as of `fnmatch`) of the unquoted path, without its query.
        method: the request's method; ``"*"`` is any.
        skip: requests that match and pass all the same, before the first that is hit.
        times: how many requests are hit; None is all.
        delay: seconds before the answer.
        status: answered instead, with an S3 error document.
        code: of that document (such as ``ExpiredToken``); by default the usual one of the status.
        headers: set in the answer, or removed where None: ``{"ETag": None, "Retry-After": "1"}``.
            Without Content-Length the body ends with the connection.
        ignore: headers of the request not looked at, in small letters, such as ``("range",)``. Of
            signed requests to an upstream, those that are signed cannot be ignored.
        chunked: send the body in chunks, with no length said.
        body_length: answer with at most this many bytes, and say so, in Content-Range too.
        flip: offset in the object of a byte that is sent inverted.
        rate: bytes per second of the body; 0 is unlimited.
        cut_after: bytes of the body after which the connection is cut.
        cut: how it is cut.
    """

    path: str = "*"
    method: str = "GET"
    skip: int = 0
    times: int | None = None
    delay: float = 0.0
    status: int = 0
    code: str = ""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    chunked: bool = False
    body_length: int | None = None
    flip: int | None = None
    rate: float = 0.0
    cut_after: int | None = None
    cut: Cut = "reset"


@dataclass(frozen=True, slots=True)
class HttpStats:
    """How many come at once to an HTTP server.

    Attributes:
        accepted: connections so far.
        open: connections now.
        in_flight: requests being answered.
        peak_in_flight: most at one time, since the last `forget`.
    """

    accepted: int
    open: int
    in_flight: int
    peak_in_flight: int


@dataclass(slots=True)
class Seen:
    """A request that came, and what became of it.

    Attributes:
        method: GET, HEAD and so on.
        path: unquoted, without the query.
        query: as it came.
        headers: of the request, names in small letters.
        status: answered; 0 if none was.
        start: offset in the object of the body's first byte.
        sent: bytes of the body handed to the system so far.
        done: whether the answer is complete, or was given up.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    status: int = 0
    start: int = 0
    sent: int = 0
    done: bool = False
