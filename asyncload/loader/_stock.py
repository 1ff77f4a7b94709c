"""The files of a load as a path on disk, for loaders that read nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.to_thread

from asyncload.interfaces import Reader, Source

__all__ = ["checkpoint_on_disk", "on_disk", "own_path", "temporary_folder"]

_INDEX_SUFFIX = ".index"
_COPY = 8 << 20  # bytes read at a time


@asynccontextmanager
async def on_disk(source: Source, readers: Sequence[Reader]) -> AsyncIterator[str]:
    """Give the path of what a URI names; valid until the block ends.

    Files that are not on disk under their own names are copied to a temporary folder. The others
    are compared with what was opened before and after they are used.

    Args:
        source: where the URI points.
        readers: its files; the first one is the URI's own, or that by which its folder is known.

    Raises:
        SourceChanged: a file is not, or no longer, the version that was opened.
    """
    own = own_path(source, readers[0])
    if own is not None:
        await _check(readers)
        yield own
        await _check(readers)
        return
    async with temporary_folder() as temporary:
        path = anyio.Path(temporary) / source.name
        folder = path if readers[0].name else path.parent
        for reader in readers:
            await _copy(reader, folder / reader.name if reader.name else path)
        yield str(path)


@asynccontextmanager
async def checkpoint_on_disk(source: Source, readers: Sequence[Reader]) -> AsyncIterator[str]:
    """Give the prefix of a checkpoint's files; valid until the block ends.

    Args:
        source: where the URI points.
        readers: its files; its index is among them.
    """
    index = next(each for each in readers if (each.name or source.name).endswith(_INDEX_SUFFIX))
    if source.local and index.path is not None:
        await _check(readers)
        yield index.path.removesuffix(_INDEX_SUFFIX)
        await _check(readers)
        return
    async with temporary_folder() as temporary:
        folder = anyio.Path(temporary)
        for reader in readers:
            await _copy(reader, folder / (reader.name or source.name))
        yield str(folder / (index.name or source.name).removesuffix(_INDEX_SUFFIX))


def own_path(source: Source, first: Reader) -> str | None:
    """Return the path itself, where the URI names a file or folder of this machine."""
    if first.path is None:
        return None
    path, name = os.path.split(first.path) if first.name else (first.path, "")
    return path if name == first.name and os.path.basename(path) == source.name else None


@asynccontextmanager
async def temporary_folder() -> AsyncIterator[str]:
    """Give an empty folder of this user's alone, and remove it when the block ends."""
    folder = await anyio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix="asyncload-"))
    try:
        yield folder
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(partial(shutil.rmtree, folder, ignore_errors=True))


async def _check(readers: Sequence[Reader]) -> None:
    for reader in readers:
        await reader.check()


async def _copy(reader: Reader, path: anyio.Path) -> None:
    await path.parent.mkdir(parents=True, exist_ok=True)
    async with await path.open("wb") as file:
        for offset in range(0, reader.size, _COPY):
            await file.write(await reader.read(offset, min(_COPY, reader.size - offset)))
