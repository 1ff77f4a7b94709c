"""`Launcher`: begins loads, by themselves or for all who ask for the same."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, TypeVar

from asyncload.errors import SourceChanged
from asyncload.events import Kind, Observer
from asyncload.redaction import shown

from ._flights import Flight, Flights
from ._flow import Flow
from ._host import Host
from ._load import Load
from ._options import OnChange, Priority, check_priority
from ._reports import Reports, guarded, log
from ._resources import Resources

__all__ = ["Launcher"]

Result = TypeVar("Result")
URI = str | os.PathLike[str]

_TRIES = 3  # loads of a file that changes each time, before that is an error


class Launcher:
    """Begins loads.

    Args:
        host: where they run.
        resources: what they share.
        observer: is told of their events, as the log is.
    """

    def __init__(self, host: Host, resources: Resources, observer: Observer | None) -> None:
        self._host = host
        self._resources = resources
        self._observers = [log, guarded(observer)]
        self._flights = Flights(host.start)

    def reports(self, uri: URI, kind: Kind, observer: Observer | None) -> Reports:
        """Return what tells observers of one piece of work.

        Args:
            uri: as given.
            kind: of the work.
            observer: the caller's, told besides the Loader's.
        """
        return Reports(shown(uri), kind, [*self._observers, observer])

    def start(
        self,
        uri: URI,
        work: Callable[[Flow], Awaitable[Result]],
        *,
        kind: Kind,
        storage: Mapping[str, Any],
        on_change: OnChange = "error",
        priority: Priority = "demand",
        observer: Observer | None = None,
    ) -> Load[Result]:
        """Start a load that is shared with nobody.

        Args:
            uri: as given.
            work: what to do.
            kind: of the work.
            storage: all ``storage_options``.
            on_change: as `Loader.load` takes it.
            priority: as `Loader.load` takes it.
            observer: as `Loader.load` takes it.
        """
        tries = _tries(on_change)
        check_priority(priority)

        async def follow(load: Load[Result]) -> Result:
            flow = functools.partial(Flow, uri, self._resources, storage, load)
            return await _persist(tries, lambda: work(flow()))

        load = Load(follow, self.reports(uri, kind, observer), priority=priority)
        load.watch(self._resources.urgency_changed)
        self._host.start(load)
        return load

    def share(
        self,
        uri: URI,
        work: Callable[[Flow], Awaitable[Result]],
        *,
        kind: Kind,
        key: Hashable,
        storage: Mapping[str, Any],
        on_change: OnChange,
        priority: Priority,
        observer: Observer | None,
    ) -> Load[Result]:
        """Start a load, or join one under way that is the same.

        Args:
            uri: as given.
            work: what to do, if there is none to join.
            kind: of the work.
            key: equal for loads that are the same.
            storage: all ``storage_options``.
            on_change: as `Loader.load` takes it.
            priority: as `Loader.load` takes it.
            observer: as `Loader.load` takes it.
        """
        tries = _tries(on_change)
        check_priority(priority)
        resources = self._resources

        async def follow(flight: Flight) -> Result:
            def attempt() -> Awaitable[Result]:
                flight.sightings.clear()
                return work(Flow(uri, resources, storage, flight, sightings=flight.sightings))

            return await _persist(tries, attempt)

        return self._flights.board(
            Reports(shown(uri), kind, [observer]),
            key,
            lambda: Flight(follow, self.reports(uri, kind, None), resources.urgency_changed),
            lambda: resources.source(uri, storage),
            priority,
        )


async def _persist(tries: int, attempt: Callable[[], Awaitable[Result]]) -> Result:
    """Make attempts until one finds no file replaced, or is the last."""
    for _ in range(tries - 1):
        with contextlib.suppress(SourceChanged):
            return await attempt()
    return await attempt()


def _tries(on_change: str) -> int:
    if on_change not in ("error", "restart"):
        raise ValueError(f"on_change is 'error' or 'restart', not {on_change!r}")
    return _TRIES if on_change == "restart" else 1
