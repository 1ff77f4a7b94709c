"""URIs: which store, which path, and how to name them in messages."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from asyncload.errors import SourceError, Unsafe
from asyncload.redaction import shown

from ._redirects import exact

__all__ = [
    "SCHEMES",
    "Location",
    "check_name",
    "expect_reachable",
    "file_path",
    "locate",
    "neighbour",
    "scheme_of",
]

# What is written before "://" -> the kind of store that reads it.
SCHEMES = {
    "file": "file",
    "memory": "memory",
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
    "http": "http",
    "https": "http",
}
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Location:
    """Where a URI points.

    Attributes:
        scheme: the kind of store, a value of `SCHEMES`.
        path: within the store; of a remote one the key, byte for byte: of a server as its URL
            quotes it, from its first slash on; else not quoted. Without the slash that a folder
            ends in.
        uri: for messages, without credentials.
        root: of a remote store: its bucket, its container with the account if that was named, or
            the server's URL with the query that all its paths take. It may hold credentials.
        folder: whether the URI ends in a slash, and so can name nothing but a folder.
    """

    scheme: str
    path: str
    uri: str
    root: str = field(default="", repr=False)
    folder: bool = False

    @property
    def name(self) -> str:
        """The last part of the path, not quoted."""
        last = self.path.rstrip("/").rpartition("/")[2]
        return unquote(last) if self.scheme == "http" else last

    def key_of(self, name: str, *, folder: bool) -> str:
        """Return the key of ``name`` in this folder, or in the folder of this object."""
        if self.scheme == "http":
            name = quote(name)
        if folder:
            return f"{self.path}/{name}" if self.path or self.scheme == "http" else name
        parent, slash, _ = self.path.rpartition("/")
        return f"{parent}{slash}{name}"


def scheme_of(uri: str | os.PathLike[str]) -> str | None:
    """Return what is written before ``://``, in lower case; ``None`` for a path."""
    match = _SCHEME.match(os.fsdecode(uri))
    return None if match is None else match[1].lower()


def file_path(uri: str | os.PathLike[str]) -> str | None:
    """Return the path of a file or folder of this machine; ``None`` for what lies elsewhere."""
    if scheme_of(uri) not in (None, "file"):
        return None
    return locate(uri).path


def locate(uri: str | os.PathLike[str]) -> Location:
    """Take a URI, or a path, apart.

    Raises:
        SourceError: no store here has such URIs.
        TypeError: neither a text nor a path.
    """
    text = os.fsdecode(uri)
    match = _SCHEME.match(text)
    if match is None:
        return Location("file", text, text)
    scheme = match[1].lower()
    text = _SCHEME.sub(f"{scheme}://", text, count=1)
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise SourceError(
            f"no store here reads {scheme}:// URIs; expected a path or one of {known}", uri=text
        )
    rest = text[match.end() :]
    if scheme == "memory":
        return Location(scheme, rest.strip("/"), shown(text))
    if SCHEMES[scheme] == "http":
        return _on_a_server(text)
    if scheme != "file":
        return _in_a_store(SCHEMES[scheme], rest, text)
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise SourceError(
            f"a file:// URI names a file of this machine, not of host {host!r}; "
            "write three slashes: file:///path",
            uri=text,
        )
    return Location(scheme, unquote(slash + path), shown(text))


def _in_a_store(kind: str, rest: str, uri: str) -> Location:
    """Take apart what follows ``s3://``: no sign in a key has a meaning, nor is it quoted."""
    root, _, key = rest.partition("/")
    if not root:
        raise SourceError(
            "names no bucket; expected one between the slashes, as in s3://bucket/key", uri=uri
        )
    user, at, _ = root.rpartition("@")
    if at and (kind != "az" or ":" in user):
        raise SourceError(
            "has credentials in it; pass them as storage_options={...}, or by the environment",
            uri=uri,
        )
    folder = not key or key.endswith("/")
    path = key if key == "/" else key.removesuffix("/")
    return Location(kind, path, shown(uri), root, folder)


def _on_a_server(url: str) -> Location:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # what has no such form has no address
        parts.port  # noqa: B018  is judged when it is asked for
    except ValueError as error:
        raise SourceError(f"is no URL: {error}", uri=url) from error
    if not parts.hostname:
        raise SourceError("names no host; expected https://host/path", uri=url)
    if _CONTROL.search(url):
        raise SourceError("has a control sign in it, which no URL has; quote it", uri=url)
    root = urlunsplit((parts.scheme, parts.netloc, "/", exact(parts.query), ""))
    path = exact(parts.path)
    folder = not path or path.endswith("/")
    return Location("http", path.removesuffix("/"), shown(url), root, folder)


def expect_reachable(location: Location) -> None:
    """Make sure that the client asks for this key, and not for another that it takes for the same.

    Raises:
        SourceError: it does not.
    """
    parts = location.path.split("/")
    if location.scheme == "http":
        left_out: tuple[str, ...] = (".", "..")
        parts = [unquote(part) for part in parts]
    else:
        left_out = ("", ".", "..") if location.path else ()
    if any(part in left_out for part in parts):
        raise SourceError(
            "has a part in its path that is empty, '.' or '..', which clients and servers leave "
            "out: the bytes of another object could come; rename it",
            uri=location.uri,
        )


def check_name(name: str, *, uri: str) -> None:
    """Make sure that a name which a file gave us stays in that file's own folder, or below.

    Raises:
        Unsafe: it does not, or may not on another system.
    """
    leaves = any(part in ("", ".", "..") for part in name.split("/"))
    if leaves or "\\" in name or "\0" in name:
        raise Unsafe(
            f"names another file as {name!r}; expected a file of the same folder, or of one "
            "below it. Do not load this unless you know why it reaches elsewhere.",
            uri=uri,
        )


def neighbour(path: str, name: str, *, folder: bool) -> str:
    """Return the path or URI of ``name`` in the folder ``path``, or in the folder of that file."""
    parent = path.rstrip("/") if folder else path.rpartition("/")[0]
    return f"{parent}/{name}" if parent or path.startswith("/") else name
