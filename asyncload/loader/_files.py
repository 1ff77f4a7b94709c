"""What a `Loader` does with files as they are: list them, and copy them to this machine."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from asyncload.events import Kind, Observer
from asyncload.interfaces import ListEntry

from ._brief import brief
from ._fetch import Fetched, FetchOptions
from ._flow import Flow
from ._load import Load
from ._options import OnChange

__all__ = ["Files"]

Result = TypeVar("Result")
URI = str | os.PathLike[str]


class Files(ABC):
    """These methods of `Loader`, which starts loads."""

    @abstractmethod
    def _start(
        self,
        uri: URI,
        work: Callable[[Flow], Awaitable[Result]],
        *,
        kind: Kind,
        storage_options: Mapping[str, Any] | None = None,
        on_change: OnChange = "error",
        observer: Observer | None = None,
    ) -> Load[Result]:
        """Start work on what is at a URI."""

    @brief
    async def ls(
        self,
        uri: URI,
        *,
        recursive: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> list[ListEntry]:
        """List what is at a URI: the file that it names, or what the folder has.

        Args:
            uri: as `load` takes it, or any folder. HTTP servers list no folders.
            recursive: list every file below the folder, and no folders.
            storage_options: as `load` takes them.

        Returns:
            Name, size, version and time of each, sorted by name.

        Raises:
            SourceError: it cannot be listed.
        """
        return await self._start(
            uri,
            lambda flow: flow.entries(recursive=recursive),
            kind="list",
            storage_options=storage_options,
        )

    @brief
    async def fetch(
        self,
        uri: URI,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
        verify: bool = True,
        follow_links: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        on_change: OnChange = "error",
        observer: Observer | None = None,
    ) -> Fetched:
        """Copy what a load of a URI would read into a folder of this machine.

        That is a file; a map of weights, and its shards; a checkpoint's index and shards; all of a
        SavedModel's folder. Of another folder, it is every file below. Files appear in their places
        when they are complete, those of one model together. What was fetched before stays:
        after an interruption, only what is missing is fetched if the version is the same.
        Notes about that are kept in a folder ``.asyncload`` beside the files. They also say where
        the files are from: a copy of a SavedModel from elsewhere needs ``trusted=True``, as that
        does. Two fetches into one folder wait for each other.

        Args:
            uri: as `load` takes it, or any folder that can be listed.
            folder: where to; made if it is not there. Nothing is written outside of it, nor
                through links in it.
            overwrite: replace files that are there and differ.
            verify: compare what came with the checksum that the store states, where one can be
                had: an ETag of S3 that is an MD5, and headers of HTTP servers (``x-goog-hash``,
                ``Content-MD5``, ``Repr-Digest``, ``x-amz-checksum-*``).
            follow_links: copy what links of a local folder lead to outside of it, too. Whoever made
                the folder chose what they lead to: any file that you may read.
            storage_options: as `load` takes them.
            on_change: as `load` takes it.
            observer: as `load` takes it.

        Returns:
            The files. It is a path itself, to be given to `load`.

        Raises:
            SourceError: the bytes could not be had, or not be written.
            FormatError: what says which files there are is not what it should be.
                One that links to what lies outside of its folder is `Unsafe`.
            WouldOverwrite: another file is in the place of one, or another version.
            LoaderClosed: the Loader is, or was, closed.
        """
        options = FetchOptions(os.fsdecode(folder), overwrite, verify, follow_links)
        return await self._start(
            uri,
            lambda flow: flow.fetch(options),
            kind="fetch",
            storage_options=storage_options,
            on_change=on_change,
            observer=observer,
        )
