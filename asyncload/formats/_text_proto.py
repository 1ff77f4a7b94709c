"""Protocol buffers as text: the strings in a message, without a schema.

(https://protobuf.dev/reference/protobuf/textformat-spec). Reading takes time linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from asyncload.errors import Corrupt

__all__ = ["strings", "unescaped"]

_TOKEN = re.compile(
    rb"""
    (?P<space>[\s,;:]+|\#[^\n]*)
    |(?P<name>[\w.+-]+|\[[A-Za-z_][\w./-]*\])
    |"(?P<double>(?:[^"\\\n]|\\[^\n])*)"
    |'(?P<single>(?:[^'\\\n]|\\[^\n])*)'
    |(?P<open>[{<])
    |(?P<close>[}>])
    |(?P<list>[\[\]])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(rb"\\(?:(?P<octal>[0-7]{1,3})|x(?P<hex>[0-9a-fA-F]{1,2})|(?P<sign>.))")
_SIGNS = {
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"n": b"\n",
    b"r": b"\r",
    b"t": b"\t",
    b"v": b"\v",
}
_DEPTH = 200  # messages within messages


def strings(text: bytes) -> Iterator[tuple[tuple[bytes, ...], bytes]]:
    """Yield (names of the fields that lead to it, value) of each string, in order.

    A field of an ``Any`` that is written out is named after its type: ``[type.example/pkg.Kind]``.

    Raises:
        Corrupt: it is no such text; names no URI.
    """
    path: list[bytes] = []
    name, position = b"", 0
    while position < len(text):
        token = _TOKEN.match(text, position)
        if token is None:
            raise Corrupt(f"is no text of a protocol buffer at byte {position:,}; copy it again")
        position = token.end()
        match token.lastgroup:
            case "name":
                name = token["name"]
            case "double" | "single":
                yield (*path, name), unescaped(token[token.lastgroup])
            case "open":
                path.append(name)
                if len(path) > _DEPTH:
                    raise Corrupt(f"has more than {_DEPTH} messages within each other")
            case "close" if not path:
                raise Corrupt(f"closes a message that is not open, at byte {position - 1:,}")
            case "close":
                path.pop()
    if path:
        raise Corrupt("ends within a message; it is truncated")


def unescaped(quoted: bytes) -> bytes:
    """Return what stands between quotes, with its escapes resolved."""
    return _ESCAPE.sub(_unescape, quoted)


def _unescape(match: re.Match[bytes]) -> bytes:
    if match["octal"]:
        return bytes([int(match["octal"], 8) & 0xFF])
    if match["hex"]:
        return bytes([int(match["hex"], 16)])
    return _SIGNS.get(match["sign"], match["sign"])
