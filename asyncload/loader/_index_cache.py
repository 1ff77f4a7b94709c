"""`IndexCache`: indexes by the digest of their key.

No call here raises for what a folder can be: not there, not writable, full, or someone else's.
All of them block, and so belong in a thread.
"""

from __future__ import annotations

import logging
import os
from typing import Self

from asyncload.cache_folder import CacheFolder, Kept

from ._index_entry import ENTRY_LIMIT

__all__ = ["IndexCache", "Kept"]

LIMIT = 256 << 20  # bytes of all entries; about a thousand of large models

_SUFFIX = ".index"

_logger = logging.getLogger("asyncload")


class IndexCache(CacheFolder):
    """Bytes by the digest of their key, the longest unused of which go first.

    Args:
        folder: where; by default ``asyncload/index`` in the user's cache directory. It is made,
            for the user alone, when first written to.
        limit: bytes of all entries together.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, limit: int = LIMIT) -> None:
        super().__init__(folder, title="index", ours=rf"[0-9a-f]{{64}}{_SUFFIX}", limit=limit)

    @classmethod
    def chosen(cls, choice: bool | str | os.PathLike[str]) -> Self | None:
        """Return the cache that `Loader` was asked for: the user's own, none, or a folder."""
        if isinstance(choice, bool):
            return cls() if choice else None
        return cls(choice)

    def read(self, digest: bytes) -> bytes | None:
        """Return an entry's bytes; ``None`` if there is none.

        What lies in its place, but is not this user's own file, is removed.
        """
        return self.read_file(_name(digest), ENTRY_LIMIT)

    def write(self, digest: bytes, data: bytes) -> None:
        """Keep an entry in the place of what has its key, and remove what is too much then."""
        if len(data) > ENTRY_LIMIT:
            _logger.debug("index cache: %d bytes are too many to keep", len(data))
            return
        try:
            self.write_file(_name(digest), data)
            self.evict()
        except OSError as error:
            _logger.debug("index cache: an index could not be kept: %s", error)

    def remove(self, digest: bytes, reason: str) -> None:
        """Remove an entry that turned out to be of no use."""
        self.drop(_name(digest), reason)


def _name(digest: bytes) -> str:
    return f"{digest.hex()}{_SUFFIX}"
