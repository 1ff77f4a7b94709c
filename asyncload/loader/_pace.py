"""`Pace`: how fast loads in the background go, so that others are not held up."""

from __future__ import annotations

import asyncio
import math
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context

from asyncload.cpu_time import allowed_cpus
from asyncload.events import Paced
from asyncload.interfaces import Urgency
from asyncload.materialize.quiet import Attention, responsive
from asyncload.resting import resting

from ._duty import HALF, LEAST, Busyness, Duty
from ._load import Load
from ._stalls import Stalls

__all__ = ["MAX_STALL_MS", "Pace", "next_pace"]

MAX_STALL_MS = 2.0  # a loop that has nothing to do is below, one that answers seldom above

_INTERVAL = 0.005  # seconds between two looks at the loop
_LOOKS = 4  # looks, after which the pace is set anew
_WINDOW = 20  # looks without a stall, after which it may go faster
_SLOWER, _FASTER = 0.6, 0.1  # factor, and step: slow down at once, speed up with care
_STEP = 0.004  # seconds that a read takes, or a job; what the pause between two is measured by
_PATIENCE = 0.1  # seconds for which one step makes way for loads on demand, however many follow
_FRESH = 0.1  # seconds for which what was found of the program and the loop holds
_MUCH = 0.5  # share that a program leaves which is idle enough for threads to switch often


def next_pace(pace: float, stall: float, most: float, least: float = LEAST) -> float:
    """Return the pace that the loop allows after a look at it.

    Args:
        pace: so far, from 0.03 to 1.
        stall: the longest of late that loads have caused, seconds.
        most: that is allowed, seconds.
        least: the pace that no stall goes below.
    """
    if stall > most:
        return max(least, pace * _SLOWER)
    return min(1.0, max(least, pace) + _FASTER)


class Pace:
    """Has loads that are not urgent take little of what others want, too.

    They make way for loads on demand, but take a step now and then, so that they end even if
    there is always one on demand. While the program leaves half of the CPUs, each of their threads
    works six tenths of the time and more. Beside a busier program, all of them together take a
    share of one CPU only, the smaller the busier it is. They go slower while they hold the loop up.
    What other processes do slows nothing. All that is measured only while there are such loads.

    Args:
        max_stall_ms: that loads may hold the loop up at most; ``None`` to go on whatever it does,
            and however busy the program is.

    Attributes:
        value: the pace: that share, from 0.03 to 1.
    """

    def __init__(self, max_stall_ms: float | None = MAX_STALL_MS) -> None:
        if max_stall_ms is not None and max_stall_ms <= 0:
            raise ValueError(f"max_stall_ms has to be more than 0, not {max_stall_ms}")
        self.value = 1.0
        self._most = None if max_stall_ms is None else max_stall_ms / 1000
        self._cpus = allowed_cpus()
        self._allowed = 1.0  # by the loop's stalls
        self._stall = 0.0  # seconds, by which the pace was set
        self._left = 1.0  # share that the program leaves
        self._busyness = Busyness(self._cpus)
        self._duty = Duty()
        self._loads: set[Load[object]] = set()
        self._watchers = 0  # how much is under way that is not urgent
        self._watching: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._looked = -math.inf  # when the program was looked at

    @contextmanager
    def kept(self, load: Load[object] | None) -> Iterator[None]:
        """Count a load as under way, in whose task this is, until the block ends.

        Args:
            load: which; ``None`` for one on demand that nobody watches.
        """
        if load is None:
            with responsive():
                yield
            return
        self._loads.add(load)
        self._tell(load)
        try:
            with self._resting(_urgency_of(load)):
                yield
        finally:
            self._loads.discard(load)

    @contextmanager
    def errand(self) -> Iterator[None]:
        """Have what is done in this block go as a load in the background does."""
        with self._resting(lambda: Urgency.BACKGROUND):
            yield

    @contextmanager
    def _resting(self, urgency: Callable[[], Urgency]) -> Iterator[None]:
        paced = self._most is not None and urgency() is not Urgency.DEMAND
        with resting(_Rest(self, urgency)), self._watched() if paced else responsive():
            yield

    async def step(self, urgency: Callable[[], Urgency]) -> None:
        """Wait until a load may take its next step: at once if it is on demand."""
        if urgency() is Urgency.DEMAND:
            return
        if self._watching is not None:
            await self._known.wait()
        until = time.perf_counter() + _PATIENCE
        while self._is_demand_under_way() and time.perf_counter() < until:
            await asyncio.sleep(_INTERVAL)
            if urgency() is Urgency.DEMAND:
                return
        if self._watching is not None and self.value < 1:
            await asyncio.sleep(_STEP * (1 / self.value - 1))

    def rest(self, urgency: Urgency, worked: float) -> float:
        """Return how many seconds a thread is to rest; of any thread.

        Args:
            urgency: of what it works for.
            worked: seconds of its CPU time.
        """
        each = self._busyness.leaves_half
        return self._duty.rest(worked, self.share(urgency), each=each)

    def share(self, urgency: Urgency) -> float:
        """Return the share of one CPU that work may take at present; of any thread."""
        if urgency is Urgency.DEMAND or self._is_demand_under_way():
            return 1.0  # whoever is waited for does not rest
        # What was found of the program holds no longer than somebody looks at it.
        return 1.0 if self._watching is None else self.value

    def gives_way(self, urgency: Urgency) -> bool:
        """Whether work in other processes is to give way to all else on the machine.

        That is to the machine's other programs, too: only beside a busy program of our own.
        """
        paced = self._watching is not None and urgency is not Urgency.DEMAND
        return paced and not self._busyness.leaves_half

    def _is_demand_under_way(self) -> bool:
        return any(load.urgency is Urgency.DEMAND for load in tuple(self._loads))

    # --- the loop and the program ----------------------------------------------------------

    @contextmanager
    def _watched(self) -> Iterator[None]:
        self._watchers += 1
        if self._watching is None:
            # Not in the context of the load: the task would keep it alive, and others' work rest.
            self._watching = asyncio.create_task(
                self._watch(), name="asyncload-pace", context=Context()
            )
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers and self._watching is not None:
                self._watching.cancel()
                self._watching = None

    async def _watch(self) -> None:
        """Measure how long the loop stalls, and how busy the program is, and set the pace."""
        if time.perf_counter() - self._looked > _FRESH:
            self._known.clear()
            self._allowed = 1.0
            self._busyness.begin()
        held_up: deque[float] = deque(maxlen=_WINDOW)
        try:
            with Attention() as attention, Stalls(self._cpus) as stalls:
                while True:
                    attention.pay(self._left >= _MUCH)
                    for _ in range(_LOOKS if self._busyness.is_known else 1):
                        begin = time.perf_counter()
                        await asyncio.sleep(_INTERVAL)
                        late = time.perf_counter() - begin - _INTERVAL
                        held_up.append(stalls.caused(late, self.value * _INTERVAL))
                    self._set(held_up)
        finally:
            self._known.set()  # whoever waits for it goes on without

    def _set(self, held_up: deque[float]) -> None:
        most, stall = self._most or math.inf, max(held_up)
        self._left = self._busyness.share()
        least = HALF if self._busyness.leaves_half else LEAST
        if stall > most or len(held_up) == held_up.maxlen:
            self._allowed = next_pace(self._allowed, stall, most, least)
            held_up.clear()
        pace = max(least, min(self._allowed, self._left))
        self._known.set()
        self._looked = time.perf_counter()
        if pace != self.value:
            self.value, self._stall = pace, stall
        self.urgency_changed()

    def urgency_changed(self) -> None:
        """Tell loads how fast they go now that some may be on demand."""
        for load in tuple(self._loads):
            self._tell(load)

    def _tell(self, load: Load[object]) -> None:
        """Tell a load how fast it goes, if that has changed."""
        pace = 1.0 if load.urgency is Urgency.DEMAND else self.value
        if pace != load.progress.pace:
            load.emit(Paced(uri=load.uri, pace=pace, stall=self._stall))


def _urgency_of(load: Load[object]) -> Callable[[], Urgency]:
    # Contexts live on in whatever was begun in them: they must not keep what was loaded.
    reference = weakref.ref(load)

    def urgency() -> Urgency:
        living = reference()
        return Urgency.DEMAND if living is None else living.urgency

    return urgency


class _Rest:
    """See `asyncload.resting.Rest`."""

    def __init__(self, pace: Pace, urgency: Callable[[], Urgency]) -> None:
        self._pace = pace
        self._urgency = urgency

    def is_wanted(self) -> bool:
        return self._pace.share(self._urgency()) < 1

    def after(self, worked: float) -> float:
        return self._pace.rest(self._urgency(), worked)
