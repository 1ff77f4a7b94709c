"""What texts show of URIs: nothing by which somebody could sign in, or read what is not theirs.

`shown` is for a URI, `redacted` for any text that may quote some. Every error and every event
passes through them.
"""

from __future__ import annotations

import os
import re

__all__ = ["redacted", "shown"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_QUOTED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>`]+")
_HOST = re.compile(r"(?:[^:]*|\[.*\])(?::[0-9]*)?")
_AUTHORITY_ENDS = re.compile(r"[/?#]")
_QUERY_BEGINS = re.compile(r"[?#]")

# A path of this machine, or a name in memory: any sign in it is a part of it.
_PLAIN = ("file", "memory")
# What follows the bucket is a key, and may have any sign in it, too; unless it is signed.
_CONTAINERS = ("az", "abfs", "abfss")
_STORES = ("s3", "s3a", "gs", *_CONTAINERS)
_SIGNED = re.compile(r"[?&#][^=&]*(?:sig|token|key|secret|passw|credential)[^=&]*=", re.IGNORECASE)
_HIDDEN = "***"


def shown(uri: str | os.PathLike[str]) -> str:
    """Return a URI as a text may show it: without user, password, query and fragment.

    A path comes back as it is. So does the key of an object, which may have a ``?`` or a ``#`` in
    it, unless that looks like a signature.
    """
    text = os.fsdecode(uri)
    match = _SCHEME.match(text)
    if match is None or match[1].lower() in _PLAIN:
        return text
    scheme = match[1].lower()
    return f"{scheme}://{_shown_rest(scheme, text[match.end() :])}"


def redacted(text: str) -> str:
    """Return a text with every URL in it as `shown` has it."""
    if "://" not in text:
        return text
    return _QUOTED.sub(lambda match: shown(match[0]), text)


def _shown_rest(scheme: str, rest: str) -> str:
    authority = _AUTHORITY_ENDS.split(rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    user, at, host = authority.rpartition("@")
    if not _HOST.fullmatch(host):
        # No host has such a name: a password with a sign in it that ends it was not quoted.
        return _shown_rest(scheme, rest.rpartition("@")[2]) if "@" in tail else _HIDDEN
    if at and scheme in _CONTAINERS and ":" not in user:
        host = authority  # what stands where a user would is the container
    if scheme not in _STORES or _SIGNED.search(tail):
        tail = _QUERY_BEGINS.split(tail, maxsplit=1)[0]
    return f"{host}{tail}"
