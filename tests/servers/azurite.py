"""Azurite: Azure Blob storage as Microsoft's own emulator speaks it."""

from __future__ import annotations

import base64
import email.utils
import hmac
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit

from tests.servers.daemon import LOOPBACK, Daemon, Unavailable, await_port, free_port
from tests.servers.s3 import Response, exchange

__all__ = ["Azurite"]

_PROGRAM = (
    Path(__file__).parents[2] / ".cache/servers/azurite/node_modules/azurite/dist/src/blob/main.js"
)
_API = "2021-12-02"
# The one account it has, with the key that its documentation publishes.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Azurite:
    """A running Azurite; a context manager that ends it.

    Attributes:
        endpoint: ``http://127.0.0.1:PORT/ACCOUNT``.
        port: of the endpoint.
        account: the account's name.
        key: the account's key, in Base64.
        connection_string: as ``AZURE_STORAGE_CONNECTION_STRING`` takes it.

    Raises:
        Unavailable: it is not installed, or does not start.
    """

    def __init__(self) -> None:
        if not _PROGRAM.exists():
            raise Unavailable("Azurite is not installed: run tests/servers/install.sh")
        self.port = free_port()
        self.account, self.key = _ACCOUNT, _KEY
        self.endpoint = f"http://{LOOPBACK}:{self.port}/{_ACCOUNT}"
        self.connection_string = (
            f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};"
            f"BlobEndpoint={self.endpoint};"
        )
        self._folder = tempfile.TemporaryDirectory(prefix="asyncload-azurite-")
        command = [
            "node", str(_PROGRAM), "--blobHost", LOOPBACK, "--blobPort", str(self.port),
            "--location", self._folder.name, "--silent", "--skipApiVersionCheck",
            "--disableTelemetry",
        ]  # fmt: skip
        try:
            self._daemon = Daemon(command, Path(self._folder.name) / "azurite.log")
            self._daemon.start()
            await_port(self._daemon, self.port)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it and remove its files; twice is fine."""
        if hasattr(self, "_daemon"):
            self._daemon.kill()
        self._folder.cleanup()

    def request(
        self,
        method: str,
        container: str,
        key: str = "",
        *,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Response:
        """Send any request, signed with the account's key; return the answer whatever its status.

        Source: https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key
        """
        path = quote(f"/{_ACCOUNT}/{container}/{key}".rstrip("/"))
        pairs = sorted((query or {}).items())
        sent = {
            **(headers or {}),
            "x-ms-date": email.utils.formatdate(usegmt=True),
            "x-ms-version": _API,
        }
        sent["Authorization"] = f"SharedKey {_ACCOUNT}:" + _sign(method, path, pairs, sent, body)
        text = "&".join(f"{quote(name)}={quote(value)}" for name, value in pairs)
        target = f"{path}?{text}" if text else path
        return exchange(urlsplit(self.endpoint).netloc, method, target, sent, body)

    def make_container(self, name: str, *, public: bool = False) -> str:
        """Make a container, or find it there; return its name.

        Args:
            name: small letters, digits, hyphens.
            public: let everybody read and list it.
        """
        access = {"x-ms-blob-public-access": "container"} if public else {}
        answer = self.request("PUT", name, query={"restype": "container"}, headers=access)
        if answer.status != 409:
            _check(answer)
        return name

    def put(self, container: str, key: str, data: bytes) -> str:
        """Write a blob; return its ETag, with its quotes.

        Args:
            container: that exists.
            key: the blob's name.
            data: its content, of at most 256 MiB.
        """
        headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
        return _check(self.request("PUT", container, key, headers=headers, body=data)).headers[
            "etag"
        ]

    def delete(self, container: str, key: str) -> None:
        """Remove a blob."""
        _check(self.request("DELETE", container, key))

    def url(self, container: str, key: str) -> str:
        """Return where plain HTTP finds a blob, which a public container allows."""
        return f"{self.endpoint}/{container}/{quote(key)}"


def _sign(
    method: str,
    path: str,
    query: list[tuple[str, str]],
    headers: Mapping[str, str],
    body: bytes,
) -> str:
    given = {name.lower(): value for name, value in headers.items()}
    standard = [
        "content-encoding", "content-language", "content-length", "content-md5", "content-type",
        "date", "if-modified-since", "if-match", "if-none-match", "if-unmodified-since", "range",
    ]  # fmt: skip
    given["content-length"] = str(len(body)) if body else ""
    lines = [method, *(given.get(name, "") for name in standard)]
    lines += [f"{name}:{given[name]}" for name in sorted(given) if name.startswith("x-ms-")]
    lines += [f"/{_ACCOUNT}{path}", *(f"{name}:{value}" for name, value in query)]
    digest = hmac.digest(base64.b64decode(_KEY), "\n".join(lines).encode(), "sha256")
    return base64.b64encode(digest).decode()


def _check(answer: Response) -> Response:
    if answer.status >= 300:
        raise AssertionError(f"Azurite answered {answer.status}: {answer.body[:500]!r}")
    return answer
