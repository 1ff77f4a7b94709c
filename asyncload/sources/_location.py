"""URIs: which store, which path, and how to name them in messages."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit

from asyncload.errors import SourceError, Unsafe

__all__ = [
    "SCHEMES",
    "Location",
    "check_name",
    "file_path",
    "locate",
    "neighbour",
    "normalise",
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


@dataclass(frozen=True, slots=True)
class Location:
    """Where a URI points.

    Attributes:
        scheme: the kind of store, a value of `SCHEMES`.
        path: within the store, not quoted; of a remote one without a slash at either end.
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
        """The last part of the path."""
        return self.path.rstrip("/").rpartition("/")[2]


def normalise(uri: str | os.PathLike[str]) -> str:
    """Return the URI as a text for messages: without user, password, query and fragment.

    A path comes back as it is.
    """
    text = os.fspath(uri)
    if _SCHEME.match(text) is None:
        return text
    if not (parts := urlsplit(text)).netloc:  # a path of this machine, or a name in memory
        return urlunsplit((parts.scheme, "", parts.path, "", ""))
    user, _, host = parts.netloc.rpartition("@")
    if parts.scheme in ("abfs", "abfss") and user and ":" not in user:
        host = parts.netloc  # what stands where a user would is the container
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def scheme_of(uri: str | os.PathLike[str]) -> str | None:
    """Return what is written before ``://``, in lower case; ``None`` for a path."""
    match = _SCHEME.match(os.fspath(uri))
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
    text = os.fspath(uri)
    if not isinstance(text, str):
        raise TypeError(f"a URI is a text or a pathlib.Path, not {text!r}")
    match = _SCHEME.match(text)
    if match is None:
        return Location("file", text, text)
    shown = normalise(text)
    scheme = match[1].lower()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise SourceError(
            f"no store here reads {scheme}:// URIs; expected a path or one of {known}", uri=shown
        )
    rest = text[match.end() :]
    if scheme == "memory":
        return Location(scheme, rest.strip("/"), shown)
    if SCHEMES[scheme] == "http":
        return _on_a_server(text, shown)
    if scheme != "file":
        return _in_a_store(SCHEMES[scheme], rest, shown)
    parts = urlsplit(text, allow_fragments=False)
    if parts.netloc not in ("", "localhost"):
        raise SourceError(
            f"a file:// URI names a file of this machine, not of host {parts.netloc!r}; "
            "write three slashes: file:///path",
            uri=shown,
        )
    return Location(scheme, unquote(parts.path), shown)


def _in_a_store(kind: str, rest: str, shown: str) -> Location:
    """Take apart what follows ``s3://``: no sign in a key has a meaning, nor is it quoted."""
    root, _, key = rest.partition("/")
    if not root:
        raise SourceError(
            "names no bucket; expected one between the slashes, as in s3://bucket/key", uri=shown
        )
    return Location(kind, key.strip("/"), shown, root, key.endswith("/") or not key)


def _on_a_server(text: str, shown: str) -> Location:
    parts = urlsplit(text)
    if not parts.hostname:
        raise SourceError("names no host; expected https://host/path", uri=shown)
    root = urlunsplit((parts.scheme, parts.netloc, "/", parts.query, ""))
    path = unquote(parts.path)
    return Location("http", path.strip("/"), shown, root, path.endswith("/") or not path)


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
