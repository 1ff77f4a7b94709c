"""Sources: where bytes come from.

`open_source` takes a path, a ``file://`` or a ``memory://`` URI. A source opens files, each
pinned to the version it has, and readers read ranges of them; neither knows what the bytes mean.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from asyncload.interfaces import Source

from ._local import LocalSource
from ._location import Location, locate, normalise
from ._memory import MemorySource, forget_memory, put_memory
from ._reader import LocalReader

__all__ = [
    "LocalReader",
    "LocalSource",
    "MemorySource",
    "forget_memory",
    "normalise",
    "open_source",
    "put_memory",
]

_SOURCES: Mapping[str, Callable[[Location, Executor | None], Source]] = {
    "file": LocalSource,
    "memory": MemorySource,
}


def open_source(uri: str | os.PathLike[str], *, threads: Executor | None = None) -> Source:
    """Return the source that a URI names; nothing is touched before its methods are called.

    Args:
        uri: a path, ``file://`` or ``memory://``.
        threads: where blocking reads run; ``None`` for the loop's default executor.

    Raises:
        SourceError: no store here has such URIs; says which ones do.
    """
    location = locate(uri)
    return _SOURCES[location.scheme](location, threads)
