"""`IndexCache`: a folder of small files, shared by all processes of a user.

No call here raises for what a folder can be: not there, not writable, full, or someone else's.
All of them block, and so belong in a thread.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ._index_entry import ENTRY_LIMIT

__all__ = ["IndexCache", "Kept", "surplus"]

LIMIT = 256 << 20  # bytes of all entries; about a thousand of large models

_SUFFIX = ".index"
_UNFINISHED = ".unfinished"
# What is removed has one of these names: the folder may be any that a user named.
_OURS = re.compile(rf"[0-9a-f]{{64}}(?:{_SUFFIX}|\w+{_UNFINISHED})")
_LOCK = ".lock"

_logger = logging.getLogger("asyncload")


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of the cache.

    Attributes:
        path: where it is.
        nbytes: its size.
        used: when it was last written or read, in nanoseconds since the epoch.
    """

    path: str
    nbytes: int
    used: int


def surplus(files: Iterable[Kept], limit: int) -> list[Kept]:
    """Return what has to go for the rest to have ``limit`` bytes at most: the longest unused."""
    latest = sorted(files, key=lambda file: file.used, reverse=True)
    total = 0
    for index, file in enumerate(latest):
        total += file.nbytes
        if total > limit:
            return latest[index:]
    return []


class IndexCache:
    """Bytes by the digest of their key, the longest unused of which go first.

    Args:
        folder: where; by default ``asyncload/index`` in the user's cache directory. It is made,
            for the user alone, when first written to.
        limit: bytes of all entries together.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, limit: int = LIMIT) -> None:
        self._folder = None if folder is None else Path(folder).absolute()
        self._limit = limit

    @property
    def folder(self) -> Path:
        """Where it is, whether or not it was made yet."""
        if self._folder is None:
            from platformdirs import user_cache_path

            self._folder = user_cache_path("asyncload", appauthor=False) / "index"
        return self._folder

    def read(self, digest: bytes) -> bytes | None:
        """Return an entry's bytes; ``None`` if there is none.

        What lies in its place, but is not this user's own file, is removed.
        """
        path = self._path(digest)
        try:
            return _read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._remove(path, f"cannot be used: {error}")
            return None

    def write(self, digest: bytes, data: bytes) -> None:
        """Keep an entry in the place of what has its key, and remove what is too much then."""
        if len(data) > ENTRY_LIMIT:
            _logger.debug("index cache: %d bytes are too many to keep", len(data))
            return
        try:
            self._write(self._path(digest), data)
            self._evict()
        except OSError as error:
            _logger.debug("index cache: an index could not be kept: %s", error)

    def remove(self, digest: bytes, reason: str) -> None:
        """Remove an entry that turned out to be of no use."""
        self._remove(self._path(digest), reason)

    def files(self) -> list[Kept]:
        """Return what is there."""
        try:
            with os.scandir(self.folder) as found:
                ours = [item for item in found if _OURS.fullmatch(item.name)]
        except OSError:
            return []
        files = []
        for item in ours:
            with suppress(OSError):  # another process has removed it
                status = item.stat(follow_symlinks=False)
                files.append(Kept(item.path, status.st_size, status.st_mtime_ns))
        return files

    def clear(self) -> list[Kept]:
        """Remove every entry; return what was removed.

        Raises:
            OSError: one cannot be removed.
        """
        files = self.files()
        for file in files:
            Path(file.path).unlink(missing_ok=True)
        return files

    def _path(self, digest: bytes) -> Path:
        return self.folder / f"{digest.hex()}{_SUFFIX}"

    def _remove(self, path: Path, reason: str) -> None:
        _logger.debug("index cache: %s is removed, as it %s", path, reason)
        with suppress(OSError):
            path.unlink()

    def _write(self, path: Path, data: bytes) -> None:
        # Without a home, platformdirs may know none but a relative path, which is nobody's cache.
        if not path.is_absolute():
            raise FileNotFoundError("this user has no cache directory")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, unfinished = tempfile.mkstemp(_UNFINISHED, path.stem, self.folder)  # mode 0600
        try:
            with open(descriptor, "wb", buffering=0) as file:
                remaining = memoryview(data)
                while remaining:
                    remaining = remaining[file.write(remaining) :]
            os.replace(unfinished, path)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise

    def _evict(self) -> None:
        """Remove what is too much, unless another process is about to."""
        if not surplus(self.files(), self._limit):
            return
        from filelock import FileLock, Timeout

        with suppress(Timeout), FileLock(self.folder / _LOCK, timeout=0, mode=0o600):
            for file in surplus(self.files(), self._limit):
                self._remove(Path(file.path), "was not used for the longest time")


def _read(path: Path) -> bytes:
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        _expect_own(status)
        with suppress(OSError):
            os.utime(descriptor)  # what is used stays; not every system notes it by itself
        return os.read(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def _expect_own(status: os.stat_result) -> None:
    """Raise `OSError` for a file that no process of this user wrote."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no regular file")
    if status.st_uid != os.geteuid():
        raise OSError("it belongs to another user")
    if status.st_size > ENTRY_LIMIT:
        raise OSError("it is too large")
