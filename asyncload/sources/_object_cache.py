"""`ObjectCache`: objects of stores on this machine's disk, shared by all processes of a user."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import suppress

from asyncload.cache_folder import CacheFolder

from ._cache_entry import CacheEntry
from ._cache_record import RECORD_LIMIT, Record

__all__ = ["CACHE_BYTES", "ObjectCache"]

CACHE_BYTES = 20 << 30  # of all files together: a few large models

_OBJECT, _RECORD = ".object", ".record"

_logger = logging.getLogger("asyncload")


class ObjectCache(CacheFolder):
    """Versions of objects, the longest unused of which go first.

    No call raises for what a folder can be: not there, not writable, full, or someone else's. The
    first time that nothing can be written there, a warning says so; from then on it is read alone.
    All methods block.

    Args:
        folder: where; by default ``asyncload/objects`` in the user's cache directory. It is made,
            for the user alone, when first written to.
        limit: bytes of all files together.
        offline: whether nothing but this is asked.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        limit: int = CACHE_BYTES,
        *,
        offline: bool = False,
    ) -> None:
        ours = rf"[0-9a-f]{{64}}(?:{_OBJECT}|{_RECORD})"
        super().__init__(folder, title="objects", ours=ours, limit=limit)
        self.offline = offline
        self._writer: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._promised: dict[str, list[int]] = {}  # path -> bytes of each entry that is open
        self._broken = False

    @property
    def writer(self) -> Executor:
        """The thread in which entries are written: what it waits for, no read waits for."""
        if self._writer is None:
            self._writer = ThreadPoolExecutor(1, thread_name_prefix="asyncload-cache")
        return self._writer

    def close(self) -> None:
        """End its thread."""
        if self._writer is not None:
            self._writer.shutdown()

    # --- objects -----------------------------------------------------------------------

    def open_entry(self, digest: bytes, size: int) -> CacheEntry | None:
        """Open the entry of a version, or begin one; `release` closes it.

        Returns:
            ``None`` if there can be none: it would be too large, or the folder cannot be used.
        """
        path = self.folder / f"{digest.hex()}{_OBJECT}"
        create = not self._broken and self._promise(str(path), size)
        entry = None
        try:
            if create:
                self.make()
            entry = CacheEntry.open(path, digest, size, create=create)
            if create:
                with self._lock:
                    promised, spare = self._all_promised(), frozenset(self._promised)
                self.evict(promised, spare)
        except OSError as error:
            if entry is None:
                self._refuse(error)
        if entry is None:
            self._forget(str(path), size)
        return entry

    def open_kept(self, digest: bytes, size: int) -> CacheEntry | None:
        """Open the entry of a version, if there is one; `release` closes it."""
        path = self.folder / f"{digest.hex()}{_OBJECT}"
        try:
            return CacheEntry.open(path, digest, size, create=False)
        except OSError:
            return None

    def release(self, entry: CacheEntry | None) -> None:
        """Close an entry, and remove what is too much."""
        if entry is None:
            return
        entry.close()
        self._forget(str(entry.path), entry.size)
        if not self.offline:
            with self._lock:
                promised, spare = self._all_promised(), frozenset(self._promised)
            with suppress(OSError):
                self.evict(promised, spare)

    def write(self, entry: CacheEntry, first: int, buffers: Sequence[memoryview]) -> bool:
        """Add blocks to an entry, as `CacheEntry.write` does; return whether they are there now."""
        if not entry.writable or self._broken:
            return False
        try:
            entry.write(first, buffers)
        except OSError as error:
            entry.writable = False
            self._refuse(error)
            with suppress(OSError):  # a full disk is not to be kept full
                entry.path.unlink()
        return entry.writable

    def _promise(self, path: str, size: int) -> bool:
        """Keep room for an entry; return whether there can be."""
        with self._lock:
            again = path in self._promised
            if not again and self._all_promised() + size > self._limit:
                _logger.debug("object cache: there is no room for %d bytes", size)
                return False
            self._promised.setdefault(path, []).append(size)
            return True

    def _forget(self, path: str, size: int) -> None:
        with self._lock:
            if size in (sizes := self._promised.get(path, [])):
                sizes.remove(size)
            if not sizes:
                self._promised.pop(path, None)

    def _all_promised(self) -> int:
        return sum(sizes[0] for sizes in self._promised.values())

    def _refuse(self, error: OSError) -> None:
        with self._lock:
            first, self._broken = not self._broken, True
        if first:
            _logger.warning(
                "what is fetched is kept in %s no longer, which cannot be written to: %s; make "
                "room there, or give Loader another cache_dir, or cache='off'",
                self.folder,
                error,
            )

    # --- records -----------------------------------------------------------------------

    def record(self, digest: bytes) -> Record | None:
        """Return what was kept of a URI, if anything was."""
        data = self.read_file(f"{digest.hex()}{_RECORD}", RECORD_LIMIT)
        return None if data is None else Record.decode(data)

    def keep_record(self, digest: bytes, record: Record) -> None:
        """Keep what was found at a URI."""
        if self._broken:
            return
        earlier = self.record(digest)
        merged = record.after(earlier)
        if merged == earlier:
            return
        data = merged.encode()
        if len(data) > RECORD_LIMIT:
            return
        try:
            self.write_file(f"{digest.hex()}{_RECORD}", data)
        except OSError as error:
            self._refuse(error)
