"""Signed requests to an S3 endpoint, by the standard library alone.

Not the client under test, and nothing stays open behind it: each request has a connection of its
own. Signatures are AWS's version 4
(https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

__all__ = ["Response", "S3Client", "exchange"]

_REGION = "us-east-1"
_UNSIGNED = "UNSIGNED-PAYLOAD"
_TIMEOUT = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: status, headers with small letters, and the whole body."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(
    host: str,
    method: str,
    path: str,
    headers: Mapping[str, str],
    body: bytes | memoryview = b"",
    *,
    connection: http.client.HTTPConnection | None = None,
) -> Response:
    """Send one HTTP request and return the answer, whatever its status.

    Args:
        host: host and port.
        method: GET, PUT and so on.
        path: path and query, quoted.
        headers: what to send beside Host and Content-Length.
        body: what to send.
        connection: used, and left open; otherwise one is opened and closed.
    """
    used = connection or http.client.HTTPConnection(host, timeout=_TIMEOUT)
    try:
        used.request(method, path, body if len(body) else None, dict(headers))
        answer = used.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, names, answer.read())
    finally:
        if connection is None:
            used.close()


class S3Client:
    """Path-style requests to one endpoint.

    Args:
        endpoint: such as ``http://127.0.0.1:9000``.
        access_key: names the user.
        secret_key: signs.
    """

    def __init__(self, endpoint: str, access_key: str, secret_key: str) -> None:
        self.host = urlsplit(endpoint).netloc
        self._access_key = access_key
        self._secret_key = secret_key

    def request(
        self,
        method: str,
        bucket: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | memoryview = b"",
        connection: http.client.HTTPConnection | None = None,
    ) -> Response:
        """Send one signed request; arguments as `exchange` takes them, path and query unquoted."""
        path = quote(f"/{bucket}/{key}" if key else f"/{bucket}")
        pairs = sorted((query or {}).items())
        text = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
        signed = {**(headers or {}), **self._signature(method, path, text)}
        target = f"{path}?{text}" if text else path
        return exchange(self.host, method, target, signed, body, connection=connection)

    def _signature(self, method: str, path: str, query: str) -> dict[str, str]:
        stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{_REGION}/s3/aws4_request"
        names = "host;x-amz-content-sha256;x-amz-date"
        canonical = (
            f"{method}\n{path}\n{query}\nhost:{self.host}\nx-amz-content-sha256:{_UNSIGNED}\n"
            f"x-amz-date:{stamp}\n\n{names}\n{_UNSIGNED}"
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        key = f"AWS4{self._secret_key}".encode()
        for part in [*scope.split("/"), f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}"]:
            key = hmac.digest(key, part.encode(), "sha256")
        return {
            "x-amz-date": stamp,
            "x-amz-content-sha256": _UNSIGNED,
            "authorization": f"AWS4-HMAC-SHA256 Credential={self._access_key}/{scope}, "
            f"SignedHeaders={names}, Signature={key.hex()}",
        }
