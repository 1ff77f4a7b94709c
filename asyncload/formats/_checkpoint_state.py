"""A folder's ``checkpoint`` file, a CheckpointState as text: which checkpoint is the latest.

(tensorflow/python/training/checkpoint_state.proto)
"""

from __future__ import annotations

import re
from posixpath import normpath

from asyncload.errors import AsyncloadError, Corrupt, TooLarge, Unsafe
from asyncload.interfaces import Indexing, Reader

__all__ = ["STATE_FILE", "latest", "read_state"]

STATE_FILE = "checkpoint"
_LIMIT = 16 << 20  # bytes

_LATEST = re.compile(
    rb"""^[ \t]*model_checkpoint_path[ \t]*:[ \t]*
    (?:"(?P<double>(?:[^"\\\n]|\\[^\n])*)"|'(?P<single>(?:[^'\\\n]|\\[^\n])*)')""",
    re.MULTILINE | re.VERBOSE,
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


async def read_state(indexing: Indexing, reader: Reader) -> str:
    """Return the prefix of the latest checkpoint, relative to the folder that ``reader`` is in.

    Raises:
        Corrupt: the file names none.
        Unsafe: it names one of another folder.
        TooLarge: it is far too large for such a file.
    """
    if reader.size > _LIMIT:
        raise TooLarge(f"has {reader.size} bytes; the limit is {_LIMIT}", uri=reader.uri)
    text = await reader.read(0, reader.size)
    folders = [place.rpartition("/")[0] for place in (reader.uri, reader.path) if place]
    try:
        path = await indexing.parse(latest, text)
    except AsyncloadError as error:
        error.uri = reader.uri
        raise
    return _within(path, folders, reader.uri)


def latest(text: bytes) -> str:
    """Return the path that a state file names as ``model_checkpoint_path``.

    Raises:
        Corrupt: there is none.
    """
    match = _LATEST.search(text)
    if match is None:
        raise Corrupt(
            'names no checkpoint: expected a line such as model_checkpoint_path: "ckpt-12". Give '
            "the prefix of a checkpoint in this folder instead."
        )
    quoted = match["double"] if match["double"] is not None else match["single"]
    path = _ESCAPE.sub(_unescape, quoted)
    try:
        return path.decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"names a checkpoint in no UTF-8: {path[:80]!r}") from error


def _unescape(match: re.Match[bytes]) -> bytes:
    if match["octal"]:
        return bytes([int(match["octal"], 8) & 0xFF])
    if match["hex"]:
        return bytes([int(match["hex"], 16)])
    return _SIGNS.get(match["sign"], match["sign"])


def _within(path: str, folders: list[str], uri: str) -> str:
    folder, _, prefix = path.rpartition("/")
    same = {normpath(each) if each else "/" for each in folders} | {"."}
    leaves = prefix in ("", ".", "..") or "\\" in prefix or "\0" in prefix
    if leaves or normpath(folder if folder or not path.startswith("/") else "/") not in same:
        raise Unsafe(
            f"names {path!r} as the latest checkpoint, which is not in its folder. If it was moved "
            "here, give its prefix instead.",
            uri=uri,
        )
    return prefix
