"""Single flight: one load for all who ask for the same while it is under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from asyncload.events import Event, Finished
from asyncload.interfaces import Source, Urgency

from ._load import Load
from ._options import Priority
from ._reports import Reports
from ._retained import Retained
from ._sightings import Sightings

__all__ = ["Flight", "Flights"]

Result = TypeVar("Result")


class Flight(Load[Any]):
    """A load that is under way for any number of `Load`s, its passengers.

    It is as urgent as the most urgent of them, and is cancelled when the last of them leaves.

    Attributes:
        sightings: the files that it opened.
    """

    def __init__(
        self,
        work: Callable[[Any], Awaitable[Any]],
        reports: Reports,
        urgency_changed: Callable[[], None],
    ) -> None:
        super().__init__(work, reports)
        self.sightings = Sightings()
        self._passengers: list[Load[Any]] = []
        self._told: list[Load[Any]] = []  # those that stay
        self._urgency_changed = urgency_changed

    @property
    def urgency(self) -> Urgency:
        """How urgent it is by now."""
        return min((each.urgency for each in self._passengers), default=Urgency.BACKGROUND)

    @property
    def retained(self) -> Sequence[Retained]:
        """Those of all passengers."""
        return [retained for each in self._passengers for retained in each.retained]

    @asynccontextmanager
    async def carrying(self, passenger: Load[Any]) -> AsyncIterator[None]:
        """Have a passenger on board until the block ends.

        If the last one leaves, the block ends when the work has.
        """
        self._passengers.append(passenger)
        passenger.watch(self._urgency_changed)
        self._urgency_changed()
        try:
            yield
        finally:
            passenger.watch(None)
            self._passengers.remove(passenger)
            if passenger in self._told:
                self._told.remove(passenger)
            self._urgency_changed()
            if not self._passengers and not self.done():
                self.cancel()
                await self.over()

    async def land(self, passenger: Load[Any]) -> Any:
        """Wait for the result, without a say in whether the work goes on.

        Args:
            passenger: on board; it sees all events from the first on.
        """
        passenger.reports.load_id = self.reports.load_id
        for event in self._events:
            _report(passenger, event)
        self._told.append(passenger)
        return await asyncio.shield(self._future)

    def emit(self, event: Event) -> None:
        """Report an event, to the passengers too."""
        super().emit(event)
        for passenger in self._told:
            _report(passenger, event)

    def _fail(self, failure: Exception) -> None:
        super()._fail(failure)
        if not self._future.cancelled():
            self._future.exception()  # whether anybody took note of it is seen at the passengers


def _report(passenger: Load[Any], event: Event) -> None:
    if isinstance(event, Finished):
        passenger.ends_with(event)
    else:
        passenger.emit(event)


class Flights:
    """The flights under way.

    Args:
        start: runs a load.
    """

    def __init__(self, start: Callable[[Load[Any]], None]) -> None:
        self._start = start
        self._flying: dict[Hashable, Flight] = {}

    def board(
        self,
        reports: Reports,
        key: Hashable,
        take_off: Callable[[], Flight],
        look: Callable[[], Source],
        priority: Priority,
    ) -> Load[Any]:
        """Return a load that joins the flight of this key, or begins it.

        What it gets is never older than what stands at the URI now: it joins a flight only if what
        that has opened so far is what stands there still.

        Args:
            reports: of the load by itself; its events are those of the flight.
            key: equal for what may be shared.
            take_off: makes the flight, if there is none to join.
            look: opens the URI's source once more, to compare.
            priority: how urgent it is.
        """

        async def follow(load: Load[Any]) -> Any:
            while True:
                flight, joins = self._find(key, take_off)
                async with flight.carrying(load):
                    if not joins or await _is_current(flight, look):
                        return await flight.land(load)
                if self._flying.get(key) is flight:
                    del self._flying[key]

        load: Load[Any] = Load(follow, reports, priority=priority, joins=True)
        self._start(load)
        return load

    def _find(self, key: Hashable, take_off: Callable[[], Flight]) -> tuple[Flight, bool]:
        """Return the flight of a key, and whether it was under way already."""
        flight = self._flying.get(key)
        if flight is not None and not flight.done():
            return flight, True
        flight = self._flying[key] = take_off()

        def landed(_: object, flight: Flight = flight) -> None:
            if self._flying.get(key) is flight:
                del self._flying[key]

        flight.add_done_callback(landed)
        self._start(flight)
        return flight, False


async def _is_current(flight: Flight, look: Callable[[], Source]) -> bool:
    if not flight.sightings:
        return True
    async with look() as source:
        return await flight.sightings.are_current(source)
