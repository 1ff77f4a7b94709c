"""`Opening`: what a slot begins with: one model, or the best version of a folder of versions."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from asyncload.errors import (
    NotFound,
    ServingClosed,
    ServingError,
    SourceError,
    SwapSuperseded,
    UnknownFormat,
)
from asyncload.formats import PROGRAMS, detect_folder
from asyncload.redaction import shown

from ._lease import Target
from ._ledger import describe
from ._swaps import Swaps
from ._versions import Base, VersionPolicy, numbers

__all__ = ["Opening"]

_SETTLE = 0.1  # seconds between two looks at a version
_logger = logging.getLogger("asyncload")


class Opening:
    """Finds out what a slot's URI names, and loads the first model.

    Args:
        uri: as given.
        base: the folder that it may be.
        policy: which versions are wanted.
        swaps: load and serve.
    """

    def __init__(self, uri: str, base: Base, policy: VersionPolicy, swaps: Swaps) -> None:
        self._uri = uri
        self._shown = shown(uri).rstrip("/")
        self._base = base
        self._policy = policy
        self._swaps = swaps

    async def base(self) -> Base | None:
        """Return the folder of versions that the URI names; ``None`` if it names a model."""
        try:
            names = await self._base.names()
        except SourceError as error:
            if not error.may_be_absent:
                raise
            # A checkpoint's prefix, what an HTTP server has, or a folder that is yet to come.
            remote = self._uri.lower().startswith(("http://", "https://"))
            return self._base if self._uri.endswith("/") and not remote else None
        return None if names is None or _is_model(names) else self._base

    async def load_one(self) -> None:
        """Serve the model that the URI names.

        Raises: as `Swaps.run` does.
        """
        await self._swaps.run(Target(self._uri))

    async def load_versions(self) -> None:
        """Serve the best version, and load the others that are wanted beside it.

        Raises: what the newest version raised, if none can be served.
        """
        found = await self._base.versions()
        serving = await self._serve_best(found)
        for version in self._policy.beside(serving, found):
            await self._load_beside(self._base.target(version, found[version]))

    async def _serve_best(self, found: dict[int, str]) -> int:
        """Serve the newest version that is whole, can be loaded, and passes the check."""
        errors: list[Exception] = []
        for version in self._policy.order(found):
            try:
                target = await self._settled(self._base.target(version, found[version]))
                await self._swaps.run(target, more=True)
            except (ServingClosed, SwapSuperseded):
                raise
            except Exception as error:  # noqa: BLE001 - an older one may do; raised if none does
                why = describe(error)
                _logger.warning("a slot does not open with version %d: %s", version, why)
                errors.append(error)
            else:
                return version
        if errors:
            raise errors[0]
        raise NotFound(
            "has no version that is wanted: expected folders named by numbers, such as "
            f"{self._shown}/1; found {sorted(found) or 'none'}",
            uri=self._shown,
        )

    async def _settled(self, folder: Target) -> Target:
        """Return what is to be loaded of a version, looked at twice."""
        first = await self._base.look(folder)
        await asyncio.sleep(_SETTLE)
        if await self._base.look(folder) != first:
            raise ServingError("is still being written; it is not loaded yet", uri=folder.shown)
        return first.target

    async def _load_beside(self, folder: Target) -> None:
        try:
            await self._swaps.beside(await self._base.find(folder))
        except ServingClosed:
            raise
        except Exception as error:  # noqa: BLE001 - the one that serves is there
            why = describe(error)
            _logger.warning("a slot does not keep version %s: %s", folder.version, why)


def _is_model(names: Iterable[str]) -> bool:
    """Whether a folder with these names is one model, and not a folder of versions."""
    listed = list(names)
    try:
        detect_folder(listed, uri="")
    except UnknownFormat:
        return False
    return not numbers(listed) or any(name in listed for name in PROGRAMS)
