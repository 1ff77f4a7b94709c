"""`Front`: what a new lease gets: a model, a wait for one, or an error."""

from __future__ import annotations

import asyncio

from asyncload.errors import ServingClosed, SlotEmpty

from ._lease import Generation

__all__ = ["Front"]


class Front:
    """The side of a slot that leases see; of the loop's thread.

    Args:
        name: of the slot, for messages: its URI without credentials.

    Attributes:
        current: what a lease gets; ``None`` while there is nothing.
        others: models that are kept beside it, by version.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.current: Generation | None = None
        self.others: dict[int, Generation] = {}
        self.closed = False
        self._why_empty: str | None = None
        self._news = asyncio.Event()

    def serve(self, generation: Generation) -> Generation | None:
        """Give new leases this model from now on; return what served before."""
        before, self.current = self.current, generation
        self._why_empty = None
        self._tell()
        return before

    def withhold(self) -> Generation | None:
        """Let new leases wait until there is a model again; return what served."""
        before, self.current = self.current, None
        return before

    def refuse(self, why: str) -> None:
        """Let leases fail, those that wait too, until there is a model again."""
        self._why_empty = why
        self._tell()

    def expect(self) -> None:
        """Let new leases wait again after `refuse`: there may be a model soon."""
        self._why_empty = None

    def close(self) -> None:
        """Let all leases fail that do not hold a model yet."""
        self.closed = True
        self.current = None
        self.others.clear()
        self._tell()

    async def find(self, version: int | None) -> Generation:
        """Return a model, once there is one.

        Args:
            version: that of a model that is kept; ``None`` for the current one.

        Raises:
            SlotEmpty: there is none, and none is on its way.
            ServingClosed: the slot was closed.
        """
        while True:
            if self.closed:
                raise ServingClosed("this slot was closed; make a new one", uri=self._name)
            if self.current is not None:
                return self.current if version is None else self._version(version)
            if self._why_empty is not None:
                raise SlotEmpty(
                    f"has no model loaded ({self._why_empty}); swap() to one that can be loaded",
                    uri=self._name,
                )
            await self._news.wait()

    def _version(self, version: int) -> Generation:
        if self.current is not None and self.current.target.version == version:
            return self.current
        try:
            return self.others[version]
        except KeyError:
            known = sorted({*self.others, *self._current_version()})
            raise SlotEmpty(
                f"has no version {version} loaded; it has {known}. Keep more than one loaded with "
                "version_policy=latest(n), or specific(...)",
                uri=self._name,
            ) from None

    def _current_version(self) -> list[int]:
        version = None if self.current is None else self.current.target.version
        return [] if version is None else [version]

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
