"""`LocalSource`: a file or a folder of this machine."""

from __future__ import annotations

import builtins
import datetime as dt
import os
import stat
from collections.abc import Iterator

from asyncload.interfaces import ListEntry
from asyncload.manifest import file_version

from ._base import MachineSource
from ._errors import translated
from ._location import check_name, neighbour
from ._reader import LocalReader
from ._threads import in_thread

__all__ = ["LocalSource"]


class LocalSource(MachineSource):
    """A file or a folder of this machine. See `interfaces.Source`.

    Args:
        location: where it is.
        threads: where reads run; ``None`` for the loop's default executor.
    """

    local = True

    async def open(self, name: str = "") -> LocalReader:
        """Open a file; see `interfaces.Source.open`."""
        path, uri = self._path, self.uri
        if name:
            check_name(name, uri=self.uri)
            folder = await self._is_folder()
            path = os.path.join(path if folder else os.path.dirname(path), name)
            uri = neighbour(uri, name, folder=folder)
        return await self._open(path, uri=uri, name=name)

    async def list(self) -> builtins.list[str] | None:
        """Return the names in the folder; ``None`` for a file; see `interfaces.Source.list`."""
        try:
            return await in_thread(self._threads, _names, self._path)
        except (OSError, ValueError) as error:
            raise translated(error, self.uri) from error

    async def entries(self, *, recursive: bool = False) -> builtins.list[ListEntry]:
        """Return what is there; see `interfaces.Source.entries`. Links are followed."""
        try:
            return await in_thread(self._threads, _entries, self._path, self.name, recursive)
        except (OSError, ValueError) as error:
            raise translated(error, self.uri) from error

    async def _is_folder(self) -> bool:
        return await in_thread(self._threads, os.path.isdir, self._path)


def _names(path: str) -> list[str] | None:
    try:
        return sorted(os.listdir(path))
    except NotADirectoryError:
        os.stat(path)  # "file/more" is no folder either, and not there
        return None


def _entries(path: str, name: str, recursive: bool) -> list[ListEntry]:
    status = os.stat(path)
    if not stat.S_ISDIR(status.st_mode):
        return [_entry(name, status)]
    found = _below(path, "", frozenset({_identity(status)})) if recursive else _within(path)
    return sorted(found, key=lambda entry: entry.name)


def _within(path: str) -> Iterator[ListEntry]:
    with os.scandir(path) as items:
        for item in items:
            status = _status(item)
            if status is not None and stat.S_ISDIR(status.st_mode):
                yield ListEntry(f"{item.name}/")
            else:
                yield _entry(item.name, status)


def _below(path: str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[ListEntry]:
    """Yield every file below a folder; ``above`` has the folders that it lies in, itself too."""
    with os.scandir(path) as items:
        for item in items:
            status = _status(item)
            if status is None or not stat.S_ISDIR(status.st_mode):
                yield _entry(prefix + item.name, status)
            elif (own := _identity(status)) not in above:  # else a link leads back up
                yield from _below(item.path, f"{prefix}{item.name}/", above | {own})


def _status(item: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return item.stat()
    except OSError:  # a link to nothing, or removed meanwhile
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _entry(name: str, status: os.stat_result | None) -> ListEntry:
    if status is None:
        return ListEntry(name)
    modified = dt.datetime.fromtimestamp(status.st_mtime, dt.UTC)
    return ListEntry(name, status.st_size, file_version(status), modified)
