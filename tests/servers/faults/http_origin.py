"""Where a faulty HTTP server has its answers from: a folder, or another server."""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import os
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

from tests.servers.daemon import LOOPBACK

__all__ = ["Answer", "FolderOrigin", "Origin", "Question", "UpstreamOrigin", "read_head", "refusal"]

_PIECE = 256 << 10  # bytes of a body read at once
_KEYS = 1000  # in one page of a listing, as S3 has
_CODES = {
    400: "InvalidRequest",
    403: "AccessDenied",
    404: "NoSuchKey",
    412: "PreconditionFailed",
    416: "InvalidRange",
    429: "TooManyRequests",
    500: "InternalError",
    503: "SlowDown",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A request: ``head`` as it came, names of ``headers`` in small letters, and the body."""

    method: str
    target: str
    head: bytes
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def path(self) -> str:
        """The path, unquoted, without the query."""
        return unquote(self.target.partition("?")[0])

    @property
    def query(self) -> str:
        """What follows the question mark, as it came."""
        return self.target.partition("?")[2]


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer; ``body`` yields exactly what ``headers`` say, or nothing for HEAD."""

    status: int
    headers: dict[str, str]
    body: AsyncGenerator[bytes, None]


class Origin(Protocol):
    """Answers questions."""

    async def answer(self, question: Question) -> Answer:
        """Return the right answer, but for the request's headers left out of ``question``."""
        ...


def refusal(status: int, code: str = "") -> Answer:
    """Return an answer that is an S3 error document."""
    code = code or _CODES.get(status, f"Error{status}")
    text = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>on purpose</Message></Error>'
    headers = {"Content-Type": "application/xml", "Content-Length": str(len(text))}
    return Answer(status, headers, _once(text.encode()))


async def read_head(reader: asyncio.StreamReader) -> tuple[bytes, str, dict[str, str]]:
    """Return a message's head, its first line, and its headers with small names."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return head, first, {name.strip().lower(): value.strip() for name, _, value in pairs}


class FolderOrigin:
    """Serves GET and HEAD of the files below ``root``, with ranges and conditions.

    The ETag is of the inode, the time of change (to the nanosecond) and the length. Folders right
    below ``root`` are listed as S3 lists buckets.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    async def answer(self, question: Question) -> Answer:
        path = (self._root / question.path.lstrip("/")).resolve()
        query = dict(parse_qsl(question.query))
        if query.get("list-type") == "2" and path.parent == self._root and path.is_dir():
            return list_bucket(path, query)
        if question.method not in {"GET", "HEAD"}:
            return refusal(405)
        if not path.is_relative_to(self._root) or not path.is_file():
            return refusal(404)
        file = os.open(path, os.O_RDONLY)
        found = os.fstat(file)
        headers = {
            "ETag": etag_of(found),
            "Last-Modified": email.utils.formatdate(found.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        status, start, length = _decide(question.headers, headers["ETag"], found.st_size)
        if status not in {200, 206}:
            os.close(file)
            refused = refusal(status)
            if status == 416:
                refused.headers["Content-Range"] = f"bytes */{found.st_size}"
            return refused
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{start + length - 1}/{found.st_size}"
        headers["Content-Length"] = str(length)
        if question.method == "HEAD":
            length = 0
        return Answer(status, headers, _read_file(file, start, length))


def list_bucket(bucket: Path, query: Mapping[str, str]) -> Answer:
    """Answer with one page of keys and common prefixes, at most a thousand.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html
    """
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token", "")
    found: dict[str, str | None] = {}  # key -> its file; a common prefix has none
    for folder, _, files in os.walk(bucket):
        for path in (f"{folder}/{file}" for file in files):
            key = path[len(f"{bucket}/") :]
            if key.startswith(prefix):
                rest, cut, _ = key[len(prefix) :].partition(delimiter or "\n")
                found[prefix + rest + cut] = None if cut else path
    names = sorted(name for name in found if name > after)
    page = names[:_KEYS]
    lines = [f"<IsTruncated>{str(len(names) > _KEYS).lower()}</IsTruncated>"]
    if len(names) > _KEYS:
        lines.append(f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>")
    lines += [_listed(name, found[name]) for name in page]
    text = f"<ListBucketResult>{''.join(lines)}</ListBucketResult>".encode()
    headers = {"Content-Type": "application/xml", "Content-Length": str(len(text))}
    return Answer(200, headers, _once(text))


def _listed(name: str, path: str | None) -> str:
    if path is None:
        return f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
    status = os.stat(path)
    modified = dt.datetime.fromtimestamp(status.st_mtime, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    return (
        f"<Contents><Key>{escape(name)}</Key><LastModified>{modified}</LastModified>"
        f"<ETag>{escape(etag_of(status))}</ETag><Size>{status.st_size}</Size></Contents>"
    )


def etag_of(found: os.stat_result) -> str:
    """Return the ETag of a file."""
    return f'"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}"'


def _decide(headers: Mapping[str, str], etag: str, size: int) -> tuple[int, int, int]:
    """Return status, offset and length of the answer to a GET of ``size`` bytes.

    Source: RFC 9110, sections 13 and 14.
    """
    if headers.get("if-match", etag) not in {etag, "*"}:
        return 412, 0, 0
    if headers.get("if-none-match") in {etag, "*"}:
        return 304, 0, 0
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))
    if asked is None or not any(asked.groups()):
        return 200, 0, size
    first, last = asked.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    return (206, start, end - start) if start < end else (416, 0, 0)


class UpstreamOrigin:
    """Hands requests on to the server at ``port``, as they came: signatures stay valid."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def answer(self, question: Question) -> Answer:
        reader, writer = await asyncio.open_connection(LOOPBACK, self._port, limit=1 << 20)
        try:
            lines = question.head.split(b"\r\n")[:-2]
            names = (line.partition(b":")[0].strip().lower().decode("latin-1") for line in lines)
            kept = [
                line
                for index, (line, name) in enumerate(zip(lines, names, strict=True))
                if index == 0 or (name in question.headers and name != "connection")
            ]
            writer.write(b"\r\n".join([*kept, b"Connection: close", b"", question.body]))
            await writer.drain()
            _, first, headers = await read_head(reader)
        except BaseException:
            writer.transport.abort()
            raise
        status = int(first.split()[1])
        headers.pop("connection", None)
        bodiless = question.method == "HEAD" or status in {204, 304}
        if not bodiless and "content-length" not in headers:
            body = await _read_unsized(reader, headers.pop("transfer-encoding", ""))
            headers["content-length"] = str(len(body))
            writer.transport.abort()
            return Answer(status, headers, _once(body))
        length = 0 if bodiless else int(headers["content-length"])
        return Answer(status, headers, _read_stream(reader, writer, length))


async def _once(data: bytes) -> AsyncGenerator[bytes, None]:
    yield data


async def _read_file(file: int, start: int, length: int) -> AsyncGenerator[bytes, None]:
    try:
        end = start + length
        while start < end:
            data = os.pread(file, min(_PIECE, end - start), start)
            if not data:
                raise ConnectionAbortedError("the file became shorter")
            start += len(data)
            yield data
    finally:
        os.close(file)


async def _read_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, length: int
) -> AsyncGenerator[bytes, None]:
    try:
        while length:
            data = await reader.read(min(_PIECE, length))
            if not data:
                raise ConnectionAbortedError("the upstream ended its answer early")
            length -= len(data)
            yield data
    finally:
        writer.transport.abort()


async def _read_unsized(reader: asyncio.StreamReader, encoding: str) -> bytes:
    if encoding.lower() != "chunked":
        return await reader.read()
    parts = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    return b"".join(parts)
