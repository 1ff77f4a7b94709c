"""`CacheFolder`: a bounded folder of files that all processes of a user share.

All calls block, and so belong in a thread.
"""

from __future__ import annotations

import logging
import os
import re
import stat
import tempfile
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["UNFINISHED", "CacheFolder", "Kept", "expect_own", "surplus"]

UNFINISHED = ".unfinished"
_LOCK = ".lock"
_SECTOR = 512  # bytes; the unit of st_blocks on every system

_logger = logging.getLogger("asyncload")


@dataclass(frozen=True, slots=True)
class Kept:
    """A file of a cache.

    Attributes:
        path: where it is.
        nbytes: that it takes; of one with holes, without these.
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


class CacheFolder:
    """Files by name, the longest unused of which go first.

    Args:
        folder: where; ``None`` for one in the user's cache directory. It is made, for the user
            alone, when first written to.
        title: of that one; and what log lines call it.
        ours: what the names of its finished files match. Nothing else in the folder is touched: it
            may be any that a user named.
        limit: bytes of all files together.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None, *, title: str, ours: str, limit: int
    ) -> None:
        self._folder = None if folder is None else Path(folder).absolute()
        self._title = title
        self._ours = re.compile(rf"(?:{ours})(?:\w+{re.escape(UNFINISHED)})?")
        self._limit = limit

    @property
    def folder(self) -> Path:
        """Where it is, whether or not it was made yet."""
        if self._folder is None:
            from platformdirs import user_cache_path

            self._folder = user_cache_path("asyncload", appauthor=False) / self._title
        return self._folder

    def files(self) -> list[Kept]:
        """Return what is there."""
        try:
            with os.scandir(self.folder) as found:
                ours = [item for item in found if self._ours.fullmatch(item.name)]
        except OSError:
            return []
        files = []
        for item in ours:
            with suppress(OSError):  # another process has removed it
                status = item.stat(follow_symlinks=False)
                files.append(Kept(item.path, _taken(status), status.st_mtime_ns))
        return files

    def clear(self) -> list[Kept]:
        """Remove every file; return what was removed.

        Raises:
            OSError: one cannot be removed.
        """
        files = self.files()
        for file in files:
            Path(file.path).unlink(missing_ok=True)
        return files

    def make(self) -> None:
        """Make the folder, if it is not there.

        Raises:
            OSError: it cannot be made.
        """
        # Without a home, platformdirs may know none but a relative path, which is nobody's cache.
        if not self.folder.is_absolute():
            raise FileNotFoundError("this user has no cache directory")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def read_file(self, name: str, most: int) -> bytes | None:
        """Return a file's bytes; ``None`` if there is none, or it cannot be read.

        What lies in its place, but is not this user's own file, is removed.

        Args:
            name: of the file.
            most: bytes that it may have.
        """
        path = self.folder / name
        try:
            return _read(path, most)
        except FileNotFoundError:
            return None
        except OSError as error:
            self.drop(name, f"cannot be used: {error}")
            return None

    def write_file(self, name: str, data: bytes) -> None:
        """Put a file in the place of the one of its name, at once and whole.

        Raises:
            OSError: it cannot be written.
        """
        self.make()
        descriptor, unfinished = tempfile.mkstemp(UNFINISHED, name, self.folder)  # mode 0600
        try:
            with open(descriptor, "wb", buffering=0) as file:
                remaining = memoryview(data)
                while remaining:
                    remaining = remaining[file.write(remaining) :]
            os.replace(unfinished, self.folder / name)
        except BaseException:
            with suppress(OSError):
                os.unlink(unfinished)
            raise

    def drop(self, name: str, reason: str) -> None:
        """Remove a file that is of no use, if it is there."""
        path = self.folder / name
        _logger.debug("%s cache: %s is removed, as it %s", self._title, path, reason)
        with suppress(OSError):
            path.unlink()

    def evict(self, promised: int = 0, spare: Collection[str] = ()) -> None:
        """Remove what is too much, unless another process is about to.

        Args:
            promised: bytes that are to have room beside the files.
            spare: paths of files that stay, and are counted in ``promised``.

        Raises:
            OSError: the folder cannot be written to.
        """
        if not self._surplus(promised, spare):
            return
        from filelock import FileLock, Timeout

        with suppress(Timeout), FileLock(self.folder / _LOCK, timeout=0, mode=0o600):
            for file in self._surplus(promised, spare):
                self.drop(os.path.basename(file.path), "was not used for the longest time")

    def _surplus(self, promised: int, spare: Collection[str]) -> list[Kept]:
        files = [file for file in self.files() if file.path not in spare]
        return surplus(files, self._limit - promised)


def _taken(status: os.stat_result) -> int:
    return min(status.st_size, status.st_blocks * _SECTOR or status.st_size)


def _read(path: Path, most: int) -> bytes:
    # Without O_NONBLOCK, opening a pipe waits for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        expect_own(status)
        if status.st_size > most:
            raise OSError("it is too large")
        with suppress(OSError):
            os.utime(descriptor)  # what is used stays; not every system notes it by itself
        return os.read(descriptor, status.st_size)
    finally:
        os.close(descriptor)


def expect_own(status: os.stat_result) -> None:
    """Raise `OSError` for a file that no process of this user wrote."""
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is no regular file")
    if status.st_uid != os.geteuid():
        raise OSError("it belongs to another user")
