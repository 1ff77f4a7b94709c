"""Versions of a model: numbered folders below one base, as TensorFlow Serving has them.

``base/1/``, ``base/2/`` and so on each hold a SavedModel, or one file of a model. Which of them
are wanted is a `VersionPolicy`; whether one is whole, is seen by looking at it twice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from asyncload.errors import NotFound, UnknownFormat
from asyncload.formats import FOLDERS, FORMATS
from asyncload.loader._loader import Loader
from asyncload.manifest import FileEntry

from ._lease import Target

__all__ = ["Base", "Look", "VersionPolicy", "latest", "numbers", "specific"]

_INDEXES = (".weights.json", ".safetensors.index.json")  # which name the files beside them
_DIGITS = 18  # of a version: what fits into 64 bits, as TensorFlow Serving's do


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which versions are wanted, made by `latest` or `specific`.

    Attributes:
        count: how many are loaded at most.
        only: the versions that are wanted; ``None`` for any.
    """

    count: int
    only: tuple[int, ...] | None = None

    def order(self, versions: Iterable[int]) -> list[int]:
        """Return those that are wanted, the best one, which is to serve, first."""
        wanted = [each for each in versions if self.only is None or each in self.only]
        return sorted(wanted, reverse=True)

    def beside(self, serving: int | None, versions: Iterable[int]) -> list[int]:
        """Return those that stay loaded beside the one that serves."""
        return [each for each in self.order(versions) if each != serving][: self.count - 1]


def latest(count: int = 1) -> VersionPolicy:
    """Want the ``count`` newest versions: the newest serves, the others stay loaded beside it.

    Raises:
        ValueError: less than one.
    """
    if count < 1:
        raise ValueError(f"at least the latest version is wanted, not {count} of them")
    return VersionPolicy(count)


def specific(*versions: int) -> VersionPolicy:
    """Want these versions alone: the newest of them serves, the others stay loaded beside it.

    Raises:
        ValueError: none is named, or a negative one.
    """
    if not versions or min(versions) < 0:
        raise ValueError(f"name the versions that are wanted, as specific(7); not {versions}")
    return VersionPolicy(len(set(versions)), tuple(sorted(set(versions))))


def numbers(names: Iterable[str]) -> dict[int, str]:
    """Return version -> name of the folders whose names are numbers.

    ``3`` and ``003`` are one version; the shorter name is taken.
    """
    found: dict[int, str] = {}
    for name in sorted(names, key=len):
        if name.isascii() and name.isdigit() and len(name.lstrip("0")) <= _DIGITS:
            found.setdefault(int(name), name)
    return found


@dataclass(frozen=True, slots=True)
class Look:
    """A version as it was seen once: two that are equal, some time apart, are one whole version.

    Attributes:
        target: what is to be loaded.
        files: all that a load reads, with their sizes and versions.
    """

    target: Target
    files: tuple[FileEntry, ...]


class Base:
    """A folder of numbered versions.

    Args:
        uri: the folder.
        loader: reads it.
        marker: name of a file that each version has once it is whole; ``None`` for none.
        storage_options: as the Loader takes them.
    """

    def __init__(
        self,
        uri: str,
        loader: Loader,
        *,
        marker: str | None,
        storage_options: Mapping[str, Any] | None,
    ) -> None:
        self._whole = uri
        self._uri = uri.rstrip("/")
        self._loader = loader
        self._marker = marker
        self._storage = storage_options

    async def names(self) -> list[str] | None:
        """Return what is in the folder; ``None`` if it is a file.

        Raises:
            SourceError: it cannot be listed.
        """
        return await self._list(self._whole)

    async def versions(self) -> dict[int, str]:
        """Return version -> name of its folder, of all that are there.

        Raises:
            SourceError: the folder cannot be listed.
        """
        return numbers(await self._list(self._uri) or ())

    def target(self, version: int, name: str | None = None) -> Target:
        """Return the folder of a version."""
        return Target(f"{self._uri}/{version if name is None else name}", version)

    def version_of(self, uri: str) -> int | None:
        """Return the version that a URI names: that of the folder in the base which it is in."""
        if not uri.startswith(f"{self._uri}/"):
            return None
        name = uri[len(self._uri) + 1 :].partition("/")[0]
        return next(iter(numbers([name])), None)

    async def find(self, folder: Target) -> Target:
        """Return what is to be loaded of a version's folder: the folder itself, or a file in it.

        Raises:
            NotFound: its marker is not there (yet), or it has nothing to load.
            UnknownFormat: it has several things, and none that names the others.
        """
        names = await self._list(f"{folder.uri}/")
        if self._marker is not None and (names is None or self._marker not in names):
            raise NotFound(
                f"has no file {self._marker!r}, which says that a version is whole: wait for it, "
                "or look for another with marker=",
                uri=folder.shown,
            )
        if names is None or any(member in names for member, _ in FOLDERS):
            return folder
        return Target(f"{folder.uri}/{_only_model(names, folder.shown)}", folder.version)

    async def look(self, folder: Target) -> Look:
        """Look at a version, without reading its tensors.

        Raises:
            SourceError, FormatError: it is not whole, or not yet, or damaged.
        """
        target = await self.find(folder)
        manifest = await self._loader.inspect(
            target.uri, kind="watch", storage_options=self._storage
        )
        return Look(target, manifest.files)

    async def _list(self, uri: str) -> list[str] | None:
        return await self._loader.names(uri, storage_options=self._storage)


def _only_model(names: Collection[str], uri: str) -> str:
    known = [name for name in names if _is_loadable(name)]
    indexes = [name for name in known if name.lower().endswith(_INDEXES)]
    found = indexes or known
    if not found:
        raise NotFound("has nothing in it that can be loaded (yet)", uri=uri)
    if len(found) > 1:
        raise UnknownFormat(
            f"has several files that can be loaded ({', '.join(sorted(found)[:3])}); a version is "
            "one SavedModel, or one file of a model",
            uri=uri,
        )
    return found[0]


def _is_loadable(name: str) -> bool:
    return any(each.matches(name.lower(), b"") for each in FORMATS)
