"""``memory://`` files: bytes that the program itself put there, under a name.

They are held in anonymous files of the system, so that worker processes can read them by a path,
and so that a load reads them as it reads files on disk.
"""

from __future__ import annotations

import builtins
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from weakref import finalize

from asyncload.errors import NotFound
from asyncload.forks import OwnLock
from asyncload.interfaces import ListEntry
from asyncload.manifest import file_version

from ._base import MachineSource
from ._location import check_name, neighbour
from ._reader import LocalReader

__all__ = ["MemorySource", "forget_memory", "put_memory"]

Bytes = bytes | bytearray | memoryview

_lock = OwnLock()
_files: dict[str, _MemoryFile] = {}  # by path below memory://


class _MemoryFile:
    """One file; it ends when nothing refers to it any more."""

    def __init__(self, data: Bytes) -> None:
        descriptor, self.path, remove = _anonymous_file()
        finalize(self, _remove, descriptor, remove)
        _write(descriptor, memoryview(data).cast("B"))


def put_memory(name: str, files: Bytes | Mapping[str, Bytes]) -> str:
    """Make bytes loadable by a ``memory://`` URI, in the place of what has that name.

    Args:
        name: of one file, or of a folder; slashes are fine, and so is a ``memory://`` URI.
        files: the file's bytes, or the folder's files by name, which may have folders before it
            (``variables/variables.index``). They are copied.

    Returns:
        The URI, ``memory://<name>``; files of a folder are at ``memory://<name>/<file>``.
    """
    name = name.removeprefix("memory://").strip("/")
    if isinstance(files, Mapping):
        for file in files:
            check_name(file, uri=f"memory://{name}")
        made = {f"{name}/{file}": _MemoryFile(data) for file, data in files.items()}
    else:
        made = {name: _MemoryFile(files)}
    with _lock:
        _drop(name)
        _files.update(made)
    return f"memory://{name}"


def forget_memory(name: str) -> None:
    """Drop a file or a folder of `put_memory`; loads that have opened it go on."""
    with _lock:
        _drop(name.removeprefix("memory://").strip("/"))


def _drop(name: str) -> None:
    for path in [path for path in _files if path == name or path.startswith(f"{name}/")]:
        del _files[path]


class MemorySource(MachineSource):
    """A file or a folder of `put_memory`. See `interfaces.Source`.

    Args:
        location: where it is.
        threads: where reads run; ``None`` for the loop's default executor.
    """

    local = False  # the program put it there, and had it from anywhere

    async def open(self, name: str = "") -> LocalReader:
        """Open a file; see `interfaces.Source.open`."""
        path, uri = self._path, self.uri
        if name:
            check_name(name, uri=uri)
            folder = self._is_folder()
            path = neighbour(path, name, folder=folder)
            uri = neighbour(uri, name, folder=folder)
        file = _files.get(path)
        if file is None:
            raise NotFound("no such file in memory; put_memory() makes one", uri=uri)
        return await self._open(file.path, uri=uri, name=name, owner=file)

    async def list(self) -> builtins.list[str] | None:
        """Return the names in the folder; ``None`` for a file; see `interfaces.Source.list`."""
        with _lock:
            if self._path in _files:
                return None
        return sorted({path.partition("/")[0] for path in self._below()})

    async def entries(self, *, recursive: bool = False) -> builtins.list[ListEntry]:
        """Return what is there; see `interfaces.Source.entries`."""
        file = _files.get(self._path)
        if file is not None:
            return [_entry(self.name, file)]
        below = self._below()
        if recursive:
            return [_entry(name, file) for name, file in sorted(below.items())]
        found = {}
        for name, file in below.items():
            first, slash, _ = name.partition("/")
            found[first + slash] = ListEntry(f"{first}/") if slash else _entry(first, file)
        return sorted(found.values(), key=lambda entry: entry.name)

    def _below(self) -> dict[str, _MemoryFile]:
        """Return the files below the folder, by their names in it."""
        prefix = f"{self._path}/"
        with _lock:
            below = {
                path[len(prefix) :]: file
                for path, file in _files.items()
                if path.startswith(prefix)
            }
        if not below:
            raise NotFound("nothing in memory has this name; put_memory() gives it", uri=self.uri)
        return below

    def _is_folder(self) -> bool:
        with _lock:
            return any(path.startswith(f"{self._path}/") for path in _files)


def _entry(name: str, file: _MemoryFile) -> ListEntry:
    status = os.stat(file.path)
    return ListEntry(name, status.st_size, file_version(status))


def _anonymous_file() -> tuple[int, str, str | None]:
    if hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd"):
        descriptor = os.memfd_create("asyncload", os.MFD_CLOEXEC)
        return descriptor, f"/proc/{os.getpid()}/fd/{descriptor}", None
    descriptor, path = tempfile.mkstemp(prefix="asyncload-")
    return descriptor, path, path


def _remove(descriptor: int, path: str | None) -> None:
    os.close(descriptor)
    if path is not None:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _write(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
