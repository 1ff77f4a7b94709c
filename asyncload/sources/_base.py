"""What sources of this machine have in common: readers that they opened, and have to close."""

from __future__ import annotations

from concurrent.futures import Executor

from asyncload.closing import Closing
from asyncload.errors import SourceError

from ._location import Location
from ._reader import LocalReader

__all__ = ["MachineSource"]


class MachineSource(Closing):
    """A source whose files the system can open by a path.

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

    async def _open(self, path: str, *, uri: str, name: str, owner: object = None) -> LocalReader:
        """Open the file at ``path``; `aclose` closes it."""
        if self._closed:
            raise SourceError("this source was closed; open it again", uri=self.uri)
        reader = await LocalReader.open(
            path, uri=uri, name=name, threads=self._threads, owner=owner
        )
        self._readers.append(reader)
        return reader

    async def aclose(self) -> None:
        """Close the source and its readers; closing twice is fine."""
        self._closed = True
        for reader in self._readers:
            reader.close_soon()
        for reader in self._readers:
            await reader.aclose()
