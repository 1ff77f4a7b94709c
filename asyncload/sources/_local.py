"""`LocalSource`: a file or a folder of this machine."""

from __future__ import annotations

import os

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

    async def list(self) -> list[str] | None:
        """Return the names in the folder; ``None`` for a file; see `interfaces.Source.list`."""
        try:
            return await in_thread(self._threads, _names, self._path)
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
