"""Following the newest version: looks, and the times between them. It never ends by a failure."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

from asyncload.errors import LeaseTimeout, LoaderClosed, ServingClosed, SwapSuperseded

from ._lease import Target
from ._ledger import Entry, Ledger, Swapped, describe
from ._versions import Base, Look, VersionPolicy

__all__ = ["Backoff", "Watch"]

_logger = logging.getLogger("asyncload")


@dataclass(slots=True)
class Backoff:
    """How long to wait after failures in a row.

    Attributes:
        first: seconds after the first one; twice as long after each more.
        limit: seconds at most.
        failures: in a row, so far.
    """

    first: float
    limit: float
    failures: int = 0

    def after_failure(self) -> float:
        """Count a failure, and return how long to wait."""
        self.failures += 1
        # The exponent is bounded, too: there is no float of 2 ** 1024.
        return min(self.limit, self.first * 2.0 ** min(self.failures - 1, 64))


@dataclass(slots=True)
class _Seen:
    """What is known of a version that has not been switched to."""

    entry: Entry
    backoff: Backoff
    look: Look | None = None
    not_before: float = 0.0  # seconds of the loop's clock
    reason: str | None = field(default=None)


class Watch:
    """Follows the versions of a base.

    Args:
        base: the folder.
        policy: which of them are wanted.
        swap: switches to a version.
        ledger: where it is noted.
        interval: seconds between looks.
        limit: seconds to wait at most, after failures.
        served: returns the newest version that has served; nothing up to it is new. ``None`` if
            none has.
        closing: set when the slot is closed.
    """

    def __init__(
        self,
        base: Base,
        policy: VersionPolicy,
        swap: Callable[[Target], Awaitable[Swapped]],
        ledger: Ledger,
        *,
        interval: float,
        limit: float,
        served: Callable[[], int | None],
        closing: asyncio.Event,
    ) -> None:
        self._base = base
        self._policy = policy
        self._swap = swap
        self._ledger = ledger
        self._interval = interval
        self._limit = max(limit, interval)
        self._served = served
        self._closing = closing
        self._passed = -1  # the newest version that a swap of somebody else's took the place of
        self._seen: dict[int, _Seen] = {}
        self._listing = Backoff(interval, self._limit)

    async def follow(self) -> AsyncGenerator[int, None]:
        """Yield each version once it serves; ends when the slot is closed.

        Raises:
            LoaderClosed: the slot's Loader was closed.
        """
        try:
            while not self._closing.is_set():
                try:
                    version = await self._turn()
                except ServingClosed:
                    return
                except LoaderClosed:
                    raise
                except Exception as error:  # noqa: BLE001 - noted, and tried again
                    await self._pause(self._note_listing(error))
                    continue
                if self._listing.failures:
                    self._listing.failures, self._ledger.error = 0, None
                if version is None:
                    await self._pause(self._interval)
                else:
                    yield version
        finally:
            for seen in self._seen.values():
                self._ledger.forget(seen.entry)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _turn(self) -> int | None:
        """Look once; return the version that was switched to, if one was."""
        found = await self._base.versions()
        newest = self._served()
        known = self._passed if newest is None else max(newest, self._passed)
        fresh = [version for version in self._policy.order(found) if version > known]
        self._forget_all_but(fresh)
        now = asyncio.get_running_loop().time()
        for version in fresh:
            folder = self._base.target(version, found[version])
            seen = self._seen.get(version) or self._begin(version, folder)
            due = now >= seen.not_before
            if due and await self._is_whole(folder, seen) and await self._switch(version, seen):
                return version
        return None

    def _begin(self, version: int, folder: Target) -> _Seen:
        backoff = Backoff(self._interval, self._limit)
        self._seen[version] = _Seen(self._ledger.begin(folder), backoff)
        return self._seen[version]

    def _forget_all_but(self, versions: list[int]) -> None:
        for version in [each for each in self._seen if each not in versions]:
            self._ledger.forget(self._seen.pop(version).entry)

    async def _is_whole(self, folder: Target, seen: _Seen) -> bool:
        """Look at a version; whether it looks as it did before."""
        try:
            look = await self._base.look(folder)
        except (ServingClosed, LoaderClosed):
            raise
        except Exception as error:  # noqa: BLE001 - half of anything may look like anything
            seen.look = None
            self._wait(seen, error)
            return False
        before, seen.look = seen.look, look
        if before != look:
            seen.entry.error = "was not seen twice alike yet" if before is None else "still changes"
        return before == look

    async def _switch(self, version: int, seen: _Seen) -> bool:
        if seen.look is None:
            return False
        try:
            await self._swap(seen.look.target)
        except LeaseTimeout as error:
            if not error.switched:
                self._wait(seen, error)
                return False
            _logger.warning("%s", describe(error))
        except (ServingClosed, LoaderClosed):
            raise
        except SwapSuperseded:
            self._passed = version
            return False
        except Exception as error:  # noqa: BLE001 - noted, and tried again
            self._wait(seen, error)
            return False
        self._ledger.forget(self._seen.pop(version).entry)
        return True

    def _wait(self, seen: _Seen, error: Exception) -> None:
        """Note why a version is not there, and when it is looked at again."""
        wait = seen.backoff.after_failure()
        seen.not_before = asyncio.get_running_loop().time() + wait
        reason = describe(error)
        if reason != seen.reason:
            _logger.warning("a slot cannot switch to a version yet, and tries again: %s", reason)
        seen.reason = reason
        seen.entry.error = f"{reason} (tried again in {wait:.3g} s)"

    def _note_listing(self, error: Exception) -> float:
        """Note that the base could not be looked at; return when it is looked at again."""
        wait = self._listing.after_failure()
        why = self._ledger.error = describe(error)
        if self._listing.failures == 1:
            _logger.warning("a slot cannot look for versions, and tries again: %s", why)
        return wait
