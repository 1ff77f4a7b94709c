"""A folder's ``checkpoint`` file, a CheckpointState as text: which checkpoint is the latest.

(tensorflow/python/training/checkpoint_state.proto)
"""

from __future__ import annotations

import re
from posixpath import dirname, isabs, join, normpath, realpath

from asyncload.errors import AsyncloadError, Corrupt, TooLarge, Unsafe
from asyncload.interfaces import Indexing, Reader

from ._text_proto import unescaped

__all__ = ["STATE_FILE", "latest", "read_state"]

STATE_FILE = "checkpoint"
_LIMIT = 16 << 20  # bytes

_LATEST = re.compile(
    rb"""^[ \t]*model_checkpoint_path[ \t]*:[ \t]*
    (?:"(?P<double>(?:[^"\\\n]|\\[^\n])*)"|'(?P<single>(?:[^'\\\n]|\\[^\n])*)')""",
    re.MULTILINE | re.VERBOSE,
)


async def read_state(indexing: Indexing, reader: Reader) -> str:
    """Return the prefix of the latest checkpoint, relative to the folder that ``reader`` is in.

    Programs write absolute paths, and folders are reached through links: on this machine, resolved
    paths are compared.

    Raises:
        Corrupt: the file names none.
        Unsafe: it names one that is neither in that folder nor below it.
        TooLarge: it is far too large for such a file.
    """
    if reader.size > _LIMIT:
        raise TooLarge(f"has {reader.size} bytes; the limit is {_LIMIT}", uri=reader.uri)
    text = await reader.read(0, reader.size)
    try:
        path = await indexing.parse(latest, text)
    except AsyncloadError as error:
        error.uri = reader.uri
        raise
    own = reader.path if indexing.source.local else None
    prefix = await indexing.workers.run_in_thread(_within, path, reader.uri, own)
    if prefix is None:
        raise Unsafe(
            f"names {path!r} as the latest checkpoint, which is neither in its folder nor below. "
            "If it was moved here, give its prefix instead.",
            uri=reader.uri,
        )
    return prefix


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
    path = unescaped(quoted)
    try:
        return path.decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"names a checkpoint in no UTF-8: {path[:80]!r}") from error


def _within(path: str, uri: str, own: str | None) -> str | None:
    """Return a path relative to the state file's folder; ``None`` if it leads elsewhere.

    Args:
        path: as the state file has it.
        uri: of the state file.
        own: path of the state file, on this machine.
    """
    folder, _, name = path.rpartition("/")
    if name in ("", ".", "..") or "\\" in path or "\0" in path:
        return None
    if not isabs(path) and "://" not in path:
        return _below(path, ".")
    inside = _below(path, dirname(uri))
    if inside is None and own is not None:
        resolved = join(realpath(folder or "/"), name)
        inside = _below(path, dirname(own)) or _below(resolved, realpath(dirname(own)))
    return inside


def _below(path: str, folder: str) -> str | None:
    path, folder = normpath(path), normpath(folder)
    if folder == ".":
        return None if isabs(path) or path.split("/")[0] == ".." else path
    start = folder.rstrip("/") + "/"
    return path[len(start) :] if path.startswith(start) else None
