"""Sources that other packages bring: an entry point for each scheme.

A package declares, in its ``pyproject.toml``::

    [project.entry-points."asyncload.sources"]
    hf = "package.module:open_source"

and ``open_source(uri, *, threads, options)`` returns an `interfaces.Source`: ``threads`` is where
blocking calls should run, ``options`` are the ``storage_options``.
"""

from __future__ import annotations

import builtins
import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import Executor
from importlib.metadata import entry_points
from typing import Any, Protocol

from asyncload.closing import Closing
from asyncload.errors import FormatError, SourceError
from asyncload.interfaces import ListEntry, Reader, Source
from asyncload.redaction import shown

from ._location import SCHEMES
from ._threads import in_thread

__all__ = ["GROUP", "EntryPointSource"]

GROUP = "asyncload.sources"


class OpenSource(Protocol):
    """What an entry point names."""

    def __call__(
        self, uri: str, *, threads: Executor | None, options: Mapping[str, Any]
    ) -> Source: ...


class EntryPointSource(Closing):
    """A source of another package, which is looked up when it is first used.

    Args:
        uri: as given.
        scheme: of the URI.
        threads: where packages are searched, and blocking calls of the source run.
        options: ``storage_options``.
    """

    local = False

    def __init__(
        self,
        uri: str | os.PathLike[str],
        scheme: str,
        threads: Executor | None,
        options: Mapping[str, Any],
    ) -> None:
        self.uri = shown(uri)
        self.name = self.uri.rstrip("/").rpartition("/")[2]
        self._given = os.fsdecode(uri)
        # Only what reads it knows what of it has no meaning: all of it tells objects apart, then.
        told = repr((self._given, sorted(options.items())))
        self.place = hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()
        self._scheme = scheme
        self._threads = threads
        self._options = options
        self._source: Source | None = None

    async def open(self, name: str = "") -> Reader:
        """Open a file; see `interfaces.Source.open`."""
        return await (await self._get()).open(name)

    async def list(self) -> builtins.list[str] | None:
        """Return the names in the folder; see `interfaces.Source.list`."""
        return await (await self._get()).list()

    async def entries(self, *, recursive: bool = False) -> builtins.list[ListEntry]:
        """Return what is at the URI; see `interfaces.Source.entries`.

        A source that cannot say so, as it was written before there was this method, is asked for
        names, and each of these is opened.

        Raises:
            SourceError: such a source has a folder, and all below it is wanted.
        """
        source = await self._get()
        if hasattr(source, "entries"):
            return await source.entries(recursive=recursive)
        names = await source.list()
        if names is None:
            return [await _opened(source, "", self.name)]
        if recursive:
            raise SourceError(
                f"what reads {self._scheme}:// lists only names, not what lies in folders below; "
                "name the files that you want",
                uri=self.uri,
            )
        return [await _opened(source, name, name) for name in sorted(names)]

    async def aclose(self) -> None:
        """Close the source, if it was ever used."""
        if self._source is not None:
            await self._source.aclose()

    async def _get(self) -> Source:
        if self._source is None:
            make = await in_thread(self._threads, _find, self._scheme, self.uri)
            self._source = make(self._given, threads=self._threads, options=self._options)
        return self._source


async def _opened(source: Source, name: str, shown: str) -> ListEntry:
    """Return what a file says of itself; what cannot be opened is taken for a folder."""
    try:
        reader = await source.open(name)
    except (SourceError, FormatError):
        if not name:
            raise
        return ListEntry(f"{shown}/")
    try:
        return ListEntry(shown, reader.size, reader.version)
    finally:
        await reader.aclose()


def _find(scheme: str, uri: str) -> OpenSource:
    found = entry_points(group=GROUP, name=scheme)
    if len(found) == 1:
        make: OpenSource = next(iter(found)).load()
        return make
    if found:
        packages = ", ".join(sorted(point.dist.name for point in found if point.dist is not None))
        raise SourceError(f"several packages read {scheme}:// URIs: {packages}; keep one", uri=uri)
    known = ", ".join(f"{name}://" for name in SCHEMES)
    raise SourceError(
        f"no store here reads {scheme}:// URIs; expected a path or one of {known}, or a package "
        f"that brings one as an entry point of {GROUP!r}",
        uri=uri,
    )
