"""URIs: which store, which path, and how to name them in messages."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit, urlunsplit

from asyncload.errors import SourceError, Unsafe

__all__ = ["Location", "check_name", "locate", "neighbour", "normalise"]

_SUPPORTED = ("file", "memory")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


@dataclass(frozen=True, slots=True)
class Location:
    """Where a URI points.

    Attributes:
        scheme: ``"file"`` or ``"memory"``.
        path: within the store, not quoted.
        uri: for messages, without credentials.
    """

    scheme: str
    path: str
    uri: str

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
    parts = urlsplit(text)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


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
    if scheme not in _SUPPORTED:
        known = ", ".join(f"{name}://" for name in _SUPPORTED)
        raise SourceError(
            f"no store here reads {scheme}:// URIs; expected a path or one of {known}", uri=shown
        )
    parts = urlsplit(text, allow_fragments=False)
    if scheme == "memory":
        return Location(scheme, text[match.end() :].strip("/"), shown)
    if parts.netloc not in ("", "localhost"):
        raise SourceError(
            f"a file:// URI names a file of this machine, not of host {parts.netloc!r}; "
            "write three slashes: file:///path",
            uri=shown,
        )
    return Location(scheme, unquote(parts.path), shown)


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
