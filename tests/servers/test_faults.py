"""The faulty servers do what they are told, and count what they did."""

from __future__ import annotations

import http.client
import random
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.servers.fault_process import FaultProcess
from tests.servers.faults.settings import Cut, HttpFault, TcpFaults
from tests.servers.plugin import MakeHttpFaults, MakeTcpProxy
from tests.servers.rgw import Rgw
from tests.servers.s3 import Response, S3Client, exchange
from tests.servers.web import Web

CONTENT = random.Random(5).randbytes(1_000_000)
PATH = "/bucket/a.bin"
PATIENCE = 2.0  # seconds that the end of a connection may take to be seen, on a busy machine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "files" / "bucket" / "a.bin"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    return tmp_path / "files"


def get(port: int, path: str = PATH, method: str = "GET", **headers: str) -> Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return exchange(f"127.0.0.1:{port}", method, path, names)


@contextmanager
def begun(port: int, path: str = PATH) -> Iterator[http.client.HTTPResponse]:
    """Ask, and read nothing of the body yet."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        connection.request("GET", path)
        yield connection.getresponse()


def read_all(answer: http.client.HTTPResponse) -> bytes:
    """Return what comes before the connection is reset."""
    parts = []
    try:
        while part := answer.read1(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        parts.append(b"")
        return b"".join(parts)
    raise AssertionError("it was not reset")


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "too late"
        time.sleep(0.005)


# --- the TCP proxy -----------------------------------------------------------------------


def test_tcp_carries_all_and_counts(web: Web, tcp_proxy: MakeTcpProxy) -> None:
    web.put("tcp.bin", CONTENT)
    proxy = tcp_proxy(web.port)
    assert proxy.url(f"{web.url}/tcp.bin") == f"http://127.0.0.1:{proxy.port}/tcp.bin"
    assert get(proxy.port, "/tcp.bin").body == CONTENT
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: get(proxy.port, "/tcp.bin").body, range(4)))
    assert answers == [CONTENT] * 4
    eventually(lambda: proxy.stats().open == 0)
    stats = proxy.stats()
    assert (stats.accepted, stats.cuts) == (5, 0)
    assert 5 * len(CONTENT) < stats.bytes_down < 5 * len(CONTENT) + 5_000
    assert 0 < stats.bytes_up < 5_000


def test_tcp_latency_is_of_round_trips_not_of_bytes(web: Web, tcp_proxy: MakeTcpProxy) -> None:
    web.put("large.bin", CONTENT * 16)
    proxy = tcp_proxy(web.port, TcpFaults(latency=0.1))
    began = time.monotonic()
    assert get(proxy.port, "/large.bin").body == CONTENT * 16
    # One to connect, one to ask; sixteen megabytes follow one another without waiting.
    assert 0.199 < time.monotonic() - began < 2.0


def test_tcp_rate_is_shared(web: Web, tcp_proxy: MakeTcpProxy) -> None:
    web.put("tcp.bin", CONTENT)
    proxy = tcp_proxy(web.port, TcpFaults(rate=10e6))

    def seconds_for_four() -> float:
        began = time.monotonic()
        with ThreadPoolExecutor(4) as threads:
            list(threads.map(lambda _: get(proxy.port, "/tcp.bin"), range(4)))
        return time.monotonic() - began

    shared = seconds_for_four()
    assert 0.38 < shared < 2.0
    proxy.set(TcpFaults(connection_rate=10e6))
    assert 0.09 < seconds_for_four() < shared


def test_tcp_drips(web: Web, tcp_proxy: MakeTcpProxy) -> None:
    web.put("tcp.bin", CONTENT)
    proxy = tcp_proxy(web.port, TcpFaults(rate=2_000))
    with closing(socket.create_connection(("127.0.0.1", proxy.port))) as client:
        client.settimeout(0.3)  # never silent for so long
        client.sendall(b"GET /tcp.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        pieces = [client.recv(1 << 16) for _ in range(10)]
    assert max(map(len, pieces)) < 200


@pytest.mark.parametrize("cut", ["reset", "close"])
def test_tcp_cuts_so_many_connections(web: Web, tcp_proxy: MakeTcpProxy, cut: Cut) -> None:
    web.put("tcp.bin", CONTENT)
    proxy = tcp_proxy(web.port, TcpFaults(cut_after=500_000, cut=cut, cut_times=2))
    error = ConnectionResetError if cut == "reset" else http.client.IncompleteRead
    for _ in range(2):
        with pytest.raises(error):
            get(proxy.port, "/tcp.bin")
    assert get(proxy.port, "/tcp.bin").body == CONTENT
    assert proxy.stats().cuts == 2


def test_tcp_stall_ends_when_the_client_leaves(web: Web, tcp_proxy: MakeTcpProxy) -> None:
    web.put("tcp.bin", CONTENT)
    proxy = tcp_proxy(web.port, TcpFaults(cut_after=500_000, cut="stall"))
    with closing(socket.create_connection(("127.0.0.1", proxy.port))) as client:
        client.sendall(b"GET /tcp.bin HTTP/1.1\r\nHost: x\r\n\r\n")
        client.settimeout(0.2)
        received = 0
        while received < 500_000:
            received += len(client.recv(1 << 20))
        with pytest.raises(TimeoutError):
            client.recv(1)
        assert (received, proxy.stats().open) == (500_000, 1)
    eventually(lambda: proxy.stats().open == 0)


def test_tcp_refuses_and_drops(web: Web, tcp_proxy: MakeTcpProxy) -> None:
    web.put("tcp.bin", CONTENT)
    proxy = tcp_proxy(web.port, TcpFaults(rate=100_000))
    with begun(proxy.port, "/tcp.bin") as answer:
        proxy.set(TcpFaults(refuse=True))
        with pytest.raises(ConnectionRefusedError):
            get(proxy.port, "/tcp.bin")
        proxy.drop()
        read_all(answer)
    proxy.set(TcpFaults())
    assert get(proxy.port, "/tcp.bin").body == CONTENT
    proxy.close()
    with pytest.raises(ConnectionRefusedError):
        get(proxy.port, "/tcp.bin")


# --- the HTTP server: right answers ------------------------------------------------------


def test_http_serves_a_folder(folder: Path, http_faults: MakeHttpFaults) -> None:
    server = http_faults(folder)
    whole = get(server.port)
    etag = whole.headers["etag"]
    assert (whole.status, whole.body) == (200, CONTENT)
    head = get(server.port, method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "1000000")
    ranges = {"bytes=5-9": (5, 10), "bytes=999990-": (999_990, 1_000_000), "bytes=-7": (-7, None)}
    for asked, (start, end) in ranges.items():
        part = get(server.port, Range=asked, If_Match=etag)
        assert (part.status, part.body) == (206, CONTENT[start:end])
    assert get(server.port, Range="bytes=1000000-").status == 416
    assert get(server.port, If_None_Match=etag).status == 304
    for outside in ("/bucket/none", "/bucket", "/../../../../etc/passwd"):
        assert get(server.port, outside).status == 404
    (folder / "bucket" / "a.bin").write_bytes(CONTENT[::-1])
    assert get(server.port, If_Match=etag).status == 412
    assert get(server.port).headers["etag"] != etag


def test_http_counts_what_was_fetched_and_what_twice(
    folder: Path, http_faults: MakeHttpFaults
) -> None:
    server = http_faults(folder)
    for start, end in ((0, 99), (100, 199), (150, 249), (180, 189), (500, 599)):
        get(server.port, Range=f"bytes={start}-{end}")
    get(server.port, "/bucket/none")
    assert [one.status for one in server.requests("/bucket/*", "GET")] == [206] * 5 + [404]
    assert server.requests(PATH)[1].headers["range"] == "bytes=100-199"
    assert (server.bytes_sent(PATH), server.bytes_sent_twice(PATH)) == (410, 60)
    assert server.stats().peak_in_flight == 1
    server.forget()
    assert server.requests() == []


def test_http_keeps_connections(folder: Path, http_faults: MakeHttpFaults) -> None:
    server = http_faults(folder, HttpFault(status=503, times=1), HttpFault(chunked=True, times=1))
    with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
        statuses = []
        for method in ("GET", "GET", "HEAD", "GET"):
            connection.request(method, PATH)
            answer = connection.getresponse()
            statuses.append(answer.status)
            answer.read()
    assert statuses == [503, 200, 200, 200]
    assert server.stats().accepted == 1


def test_http_in_front_of_s3(rgw: Rgw, http_faults: MakeHttpFaults) -> None:
    bucket = rgw.make_bucket("behind")
    etag = rgw.put(bucket, "a b.bin", CONTENT)
    server = http_faults(rgw.port, HttpFault(path="*/a b.bin", status=503, times=1))
    client = S3Client(server.endpoint, rgw.access_key, rgw.secret_key)
    headers = {"Range": "bytes=100-299", "If-Match": etag}
    assert client.request("GET", bucket, "a b.bin", headers=headers).status == 503
    part = client.request("GET", bucket, "a b.bin", headers=headers)
    assert (part.status, part.body, part.headers["etag"]) == (206, CONTENT[100:300], etag)
    assert client.request("PUT", bucket, "new.bin", body=b"written").status == 200
    assert client.request("GET", bucket, "new.bin").body == b"written"
    assert b"new.bin" in client.request("GET", bucket, query={"list-type": "2"}).body
    assert (server.bytes_sent("*/a b.bin"), server.requests("*/a b.bin")[1].start) == (200, 100)


# --- the HTTP server: faults -------------------------------------------------------------


def test_http_statuses(folder: Path, http_faults: MakeHttpFaults) -> None:
    server = http_faults(
        folder,
        HttpFault(path="/bucket/*", status=503, skip=1, times=2),
        HttpFault(status=429, headers={"Retry-After": "1"}, times=1),
        HttpFault(status=400, code="ExpiredToken", times=1),
    )
    answers = [get(server.port) for _ in range(4)]
    assert [answer.status for answer in answers] == [429, 503, 503, 400]
    assert answers[0].headers["retry-after"] == "1"
    assert b"<Code>SlowDown</Code>" in answers[1].body
    assert b"<Code>ExpiredToken</Code>" in answers[3].body
    assert get(server.port).body == CONTENT


def test_http_cuts_bodies(folder: Path, http_faults: MakeHttpFaults) -> None:
    server = http_faults(folder, HttpFault(cut_after=300_000))
    with begun(server.port) as answer:
        assert read_all(answer) == CONTENT[:300_000]
    server.set(HttpFault(cut_after=300_000, cut="close"))
    with pytest.raises(http.client.IncompleteRead) as caught:
        get(server.port)
    assert caught.value.partial == CONTENT[:300_000]
    server.set(HttpFault(cut_after=300_000, cut="stall"))
    with begun(server.port) as answer:
        assert answer.read(300_000) == CONTENT[:300_000]
        assert server.stats().in_flight == 1
    eventually(lambda: server.stats().open == 0)
    assert server.bytes_sent(PATH) == 900_000


def test_http_wrong_answers(folder: Path, http_faults: MakeHttpFaults) -> None:
    asked = "bytes=10-99"
    server = http_faults(folder, HttpFault(ignore=("range",)))
    ignored = get(server.port, Range=asked)
    assert (ignored.status, ignored.body) == (200, CONTENT)
    server.set(HttpFault(headers={"Content-Range": "bytes 5-94/1000000", "ETag": None}))
    wrong = get(server.port, Range=asked)
    assert wrong.headers["content-range"] == "bytes 5-94/1000000"
    assert "etag" not in wrong.headers
    server.set(HttpFault(skip=1, headers={"ETag": '"new"'}))
    assert [get(server.port).headers["etag"] == '"new"' for _ in range(2)] == [False, True]
    server.set(HttpFault(body_length=50))
    short = get(server.port, Range=asked)
    assert (short.body, short.headers["content-range"]) == (CONTENT[10:60], "bytes 10-59/1000000")
    server.set(HttpFault(flip=20))
    flipped = get(server.port, Range=asked).body
    assert [at for at in range(90) if flipped[at] != CONTENT[10 + at]] == [10]


def test_http_bodies_without_length(folder: Path, http_faults: MakeHttpFaults) -> None:
    server = http_faults(folder, HttpFault(chunked=True))
    chunked = get(server.port)
    assert (chunked.body, "content-length" in chunked.headers) == (CONTENT, False)
    server.set(HttpFault(headers={"Content-Length": None}))
    closed = get(server.port)
    assert (closed.body, closed.headers["connection"]) == (CONTENT, "close")


def test_http_slow_answers(folder: Path, http_faults: MakeHttpFaults) -> None:
    server = http_faults(folder, HttpFault(delay=0.2, rate=5e6))
    began = time.monotonic()
    assert get(server.port).body == CONTENT
    assert 0.39 < time.monotonic() - began < 2.0
    server.set(HttpFault(delay=60.0))
    with closing(socket.create_connection(("127.0.0.1", server.port))) as client:
        client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        eventually(lambda: server.stats().in_flight == 1)
    eventually(lambda: server.stats().open == 0)


def test_wrong_names_are_told(fault_process: FaultProcess) -> None:
    with pytest.raises(Exception, match="KeyError"):
        fault_process.ask("stats", port=1)
