"""One load's dealings with the index cache: what was indexed before is not indexed again."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import anyio

from asyncload.errors import FormatError, SourceError
from asyncload.interfaces import Format, Indexing, Placed, Reader, Source
from asyncload.manifest import Manifest, file_version

from ._index_cache import IndexCache
from ._index_entry import ENTRY_LIMIT, Entry, Key, Unusable, decode, encode, is_lasting

__all__ = ["Recall", "Work"]

Work = Callable[[], None]

# A file that is written to twice within one tick of its file system's clock keeps its times, and
# so its version. Ticks are 2 s at most (FAT), so what changed longer ago than that before it was
# indexed has other times once it changes again.
SETTLED = 2_000_000_000  # nanoseconds

_logger = logging.getLogger("asyncload")


@dataclass(frozen=True, slots=True)
class _Place:
    """A file that was opened: its path on this machine if it has one, and its version."""

    path: str | None
    version: str


class Recall:
    """Enter it for the time of one load, and let it index.

    An index is kept once its load has ended well, in spare time. One whose load failed, whatever
    for, is dropped, and the next load indexes anew.

    Args:
        cache: where indexes are kept; ``None`` for nowhere.
        spare_time: takes work to be done in a thread when the load is over.

    Attributes:
        hit: whether the manifest came from the cache.
    """

    def __init__(self, cache: IndexCache | None, spare_time: Callable[[Work], None]) -> None:
        self.hit = False
        self._cache = cache
        self._spare_time = spare_time
        self._keep: Work | None = None
        self._drop: Work | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and self._keep is not None:
            self._spare_time(self._keep)
        elif isinstance(error, Exception) and self._drop is not None:
            self._spare_time(self._drop)

    async def index(self, chosen: Format, indexing: Indexing) -> Manifest:
        """Return the index from the cache, or else as the format makes it.

        Documents are published before this returns, as by `Format.index`.

        Raises: as `Format.index` does.
        """
        cache, own = self._cache, indexing.files.readers[0]
        if cache is None or not chosen.costly or indexing.source.uri.startswith("memory://"):
            return await chosen.index(indexing)
        begin = time.time_ns()
        key = _key(chosen, indexing.source, own)
        if key is None:
            return await chosen.index(indexing)
        entry = await indexing.workers.run_in_thread(_look_up, cache, key, _place(own))
        if entry is not None and await _reopen(entry, indexing):
            self.hit = True
            self._drop = functools.partial(cache.remove, key.digest, "was of no use to a load")
            indexing.publish(entry.manifest.documents)
            return replace(entry.manifest, uri=indexing.source.uri)
        manifest = await chosen.index(indexing)
        if await indexing.workers.run_in_thread(is_lasting, manifest):
            places = [_place(reader) for reader in indexing.files.readers]
            self._keep = functools.partial(_keep, cache, key, manifest, places, begin)
        return manifest


def _key(chosen: Format, source: Source, own: Reader) -> Key | None:
    """Return what to know an index by; ``None`` if nothing tells its file from all others."""
    places = [each.place for each in (own, source) if isinstance(each, Placed)]
    if own.path is None and not places:
        return None
    location = places[0] if own.path is None else os.path.normpath(own.path)
    # Of a folder, the file by which it is known has a name.
    return Key(f"{location}#{own.name}", own.version, chosen.name)


def _place(reader: Reader) -> _Place:
    return _Place(reader.path, reader.version)


def _look_up(cache: IndexCache, key: Key, own: _Place) -> Entry | None:
    """Return the entry for a file, if there is one that can be used."""
    data = cache.read(key.digest)
    if data is None:
        return None
    try:
        entry = decode(data, key)
    except Unusable as error:
        cache.remove(key.digest, str(error))
        return None
    first = replace(entry.manifest, files=entry.manifest.files[:1])
    return entry if _unchanged(Entry(first, entry.changed[:1]), [own]) else None


async def _reopen(entry: Entry, indexing: Indexing) -> bool:
    """Open the files that an index refers to, beside the first; return whether it fits them."""
    names = [file.name for file in entry.manifest.files[1:]]
    if not names:
        return True
    readers: dict[int, Reader] = {}

    async def reopen(index: int, name: str) -> None:
        try:
            readers[index] = await indexing.source.open(name)
        except (SourceError, FormatError):  # not there, or not to be opened
            group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for index, name in enumerate(names):
            group.start_soon(reopen, index, name)
    if len(readers) < len(names):
        return False
    others = [readers[index] for index in range(len(names))]
    places = [_place(reader) for reader in (indexing.files.readers[0], *others)]
    if not await indexing.workers.run_in_thread(_unchanged, entry, places):
        return False
    for reader in others:
        indexing.files.add(reader)
    return True


def _unchanged(entry: Entry, places: Sequence[_Place]) -> bool:
    versions = [file.version for file in entry.manifest.files]
    return versions == [place.version for place in places] and entry.changed == _changed(places)


def _changed(places: Sequence[_Place]) -> tuple[int | None, ...] | None:
    """Return when the system last changed each file; ``None`` if one is no longer what was opened.

    Beside the version, as writers may set a file's mtime to what it was, but not its ctime.
    """
    times: list[int | None] = []
    for place in places:
        if place.path is None:
            times.append(None)
            continue
        try:
            status = os.stat(place.path)
        except OSError:
            return None
        if file_version(status) != place.version:
            return None
        times.append(status.st_ctime_ns)
    return tuple(times)


def _keep(
    cache: IndexCache, key: Key, manifest: Manifest, places: Sequence[_Place], begin: int
) -> None:
    """Keep an index, if its files are still what they were when indexing began.

    Args:
        cache: where.
        key: what to know it by.
        manifest: the index.
        places: the files that it refers to.
        begin: when indexing began, in nanoseconds since the epoch.
    """
    try:
        documents = sum(map(len, manifest.documents.values()))
        if documents > ENTRY_LIMIT:
            _logger.debug("index cache: %d bytes of documents are too many to keep", documents)
            return
        changed = _changed(places)
        if changed is None or any(when and when > begin - SETTLED for when in changed):
            _logger.debug("index cache: %s changed a moment ago, and is not kept", manifest.uri)
            return
        cache.write(key.digest, encode(Entry(manifest, changed), key))
    except Exception:
        # It runs beside other loads, which must not fail for it.
        _logger.debug("index cache: %s is not kept", manifest.uri, exc_info=True)
