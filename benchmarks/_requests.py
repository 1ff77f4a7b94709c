"""Requests at 70 % of what the machine can answer, second by second, and what became of them."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from _undisturbed import stolen_seconds

from asyncload.cpu_time import program_seconds, usable_cpus

__all__ = ["AT_ONCE", "Answers", "Ask", "Requests", "p99"]

SHARE = 0.7  # of the machine's capacity that requests take
AT_ONCE = 2  # requests that are computed at once
LEAD = 1.0  # seconds of requests before anything is measured or loaded
STEP = 0.05  # seconds between two looks at what an answer costs
LOOKS = 5  # steps over which the cost is taken
FEW = 10  # answers that say too little of their cost

Ask = Callable[[], Awaitable[Any]]


@dataclass(slots=True)
class Answers:
    """What became of requests.

    Attributes:
        waits: seconds from when each was due to its answer.
        failures: how many got none.
        span: seconds from the first that was due to the last answer.
        worked: seconds of this process's CPU time meanwhile.
        stolen: seconds that the host gave to other machines, in the mean of CPUs.
    """

    waits: list[float] = field(default_factory=list)
    failures: int = 0
    span: float = 0.0
    worked: float = 0.0
    stolen: float = 0.0

    def begin(self) -> None:
        """Forget what came before: it was not to be measured."""
        self.waits.clear()
        self.span = -time.perf_counter()
        self.worked = -time.process_time()
        self.stolen = -stolen_seconds()

    def end(self) -> None:
        """Have come to the last answer."""
        self.span += time.perf_counter()
        self.worked += time.process_time()
        self.stolen += stolen_seconds()

    def add(self, other: Answers) -> None:
        """Take in what became of others."""
        self.waits += other.waits
        self.failures += other.failures
        self.span += other.span
        self.worked += other.worked
        self.stolen += other.stolen

    @property
    def rate(self) -> float:
        """Answers a second, until the last one."""
        return len(self.waits) / self.span

    @property
    def busy(self) -> float:
        """The part of all CPUs that this process had."""
        return self.worked / self.span / usable_cpus()

    @property
    def taken(self) -> float:
        """The part of all CPUs that the host gave to other machines."""
        return self.stolen / self.span

    @property
    def p99(self) -> float:
        """Milliseconds."""
        return p99(self.waits)

    def __str__(self) -> str:
        """Say what is looked at first."""
        return (
            f"{self.rate:.0f} answers/s, p99 {self.p99:.1f} ms,"
            f" CPUs {self.busy:.0%} busy, {self.taken:.2%} stolen"
        )


def p99(waits: Sequence[float]) -> float:
    """Return the 99th percentile of seconds, in milliseconds; NaN of none."""
    return sorted(waits)[int(len(waits) * 0.99)] * 1e3 if waits else math.nan


class Cost:
    """The CPU time of one answer, over the last quarter of a second, loading threads apart."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._looks: deque[tuple[float, int]] = deque(maxlen=LOOKS + 1)

    async def follow(self, answers: Answers) -> None:
        """Keep up with what answers cost."""
        while True:
            self._look(len(answers.waits))
            await asyncio.sleep(STEP)

    def _look(self, answered: int) -> None:
        self._looks.append((program_seconds() or time.process_time(), answered))
        worked, came = (b - a for a, b in zip(self._looks[0], self._looks[-1], strict=True))
        if came >= FEW:  # fewer, and less than none, where the answers began anew
            self.seconds = worked / came


class Requests:
    """Asks so often that answers keep 70 % of the CPUs busy.

    What a machine that others share can do falls by a third within seconds, and 70 % of what it
    could do before is more than it can do then: requests queue up, whatever loads beside them. So
    the rate follows the CPU time of an answer.

    Args:
        ask: asks once.
    """

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    async def _cost(self) -> Cost:
        """Ask a few times, one after the other, for a first idea of what an answer costs."""
        worked = time.process_time()
        for _ in range(FEW):
            await self._ask()
        return Cost((time.process_time() - worked) / FEW)

    @asynccontextmanager
    async def coming(self) -> AsyncIterator[Answers]:
        """Ask, whether answers come or not, until the block ends."""
        answers, cost, ended = Answers(), await self._cost(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            following = group.create_task(cost.follow(answers))
            group.create_task(self._ask_on(group, answers, cost, ended))
            try:
                await asyncio.sleep(LEAD)
                answers.begin()
                yield answers
            finally:
                following.cancel()
                ended.set()
        answers.end()

    async def _ask_on(
        self, group: asyncio.TaskGroup, answers: Answers, cost: Cost, ended: asyncio.Event
    ) -> None:
        places, cpus = asyncio.Semaphore(AT_ONCE), SHARE * usable_cpus()
        due = time.perf_counter()
        while not ended.is_set():
            group.create_task(self._one(due, answers, places))
            due += cost.seconds / cpus
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ended.wait(), max(0.0, due - time.perf_counter()))

    async def _one(self, due: float, answers: Answers, places: asyncio.Semaphore) -> None:
        try:
            async with places:
                await self._ask()
        except Exception as error:  # noqa: BLE001 - counted
            answers.failures += 1
            print("failed:", type(error).__name__, error)
        else:
            answers.waits.append(time.perf_counter() - due)
