"""`LocalSource`: a file or a folder of this machine."""

from __future__ import annotations

import os
from concurrent.futures import Executor
from types import TracebackType
from typing import Self

from asyncload.errors import SourceError

from ._errors import translated
from ._location import Location, check_name, neighbour
from ._reader import LocalReader
from ._threads import in_thread

__all__ = ["LocalSource"]


class LocalSource:
    """A file or a folder of this machine. See `interfaces.Source`.

    Args:
        location: where it is.
        threads: where reads run; ``None`` for the loop's default executor.
    """

    def __init__(self, location: Location, threads: Executor | None = None) -> None:
        self.uri = location.uri
        self.name = location.name
        self._path = location.path
        self._threads = threads
        self._readers: list[LocalReader] = []
        self._closed = False

    async def open(self, name: str = "") -> LocalReader:
        """Open a file; see `interfaces.Source.open`."""
        path, uri = self._path, self.uri
        if name:
            check_name(name, uri=self.uri)
            folder = await self._is_folder()
            path = os.path.join(path if folder else os.path.dirname(path), name)
            uri = neighbour(uri, name, folder=folder)
        if self._closed:
            raise SourceError("this source was closed; open it again", uri=self.uri)
        reader = await LocalReader.open(path, uri=uri, name=name, threads=self._threads)
        self._readers.append(reader)
        return reader

    async def list(self) -> list[str] | None:
        """Return the names in the folder; ``None`` for a file; see `interfaces.Source.list`."""
        try:
            return await in_thread(self._threads, _names, self._path)
        except (OSError, ValueError) as error:
            raise translated(error, self.uri) from error

    async def aclose(self) -> None:
        """Close the source and its readers; closing twice is fine."""
        self._closed = True
        for reader in self._readers:
            reader.close_soon()
        for reader in self._readers:
            await reader.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _is_folder(self) -> bool:
        return await in_thread(self._threads, os.path.isdir, self._path)


def _names(path: str) -> list[str] | None:
    try:
        return sorted(os.listdir(path))
    except NotADirectoryError:
        os.stat(path)  # "file/more" is no folder either, and not there
        return None
