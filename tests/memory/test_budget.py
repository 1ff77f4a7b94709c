"""The Budget never overshoots, is fair, and survives cancellation at every moment."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncload.memory import Budget


@dataclass
class Holder:
    """A task that takes bytes, and keeps them until told to let go."""

    budget: Budget
    nbytes: int
    log: list[Holder]
    release: asyncio.Event = field(default_factory=asyncio.Event)
    holds: bool = False
    task: asyncio.Task[None] | None = None

    def start(self) -> Holder:
        self.task = asyncio.create_task(self._run())
        return self

    async def _run(self) -> None:
        async with self.budget.take(self.nbytes):
            self.holds = True
            self.log.append(self)
            try:
                await self.release.wait()
            finally:
                self.holds = False

    async def end(self) -> None:
        assert self.task is not None
        self.release.set()
        await asyncio.gather(self.task, return_exceptions=True)


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


async def test_bytes_are_held_within_the_block_only() -> None:
    budget = Budget(10)
    async with budget.take(4), budget.take(6):
        assert budget.held == 10
    assert budget.held == 0


async def test_waits_until_bytes_are_free() -> None:
    budget, log = Budget(10), list[Holder]()
    first, second = (Holder(budget, 6, log).start() for _ in range(2))
    await settle()
    assert (first.holds, second.holds, budget.held, budget.waiting) == (True, False, 6, 1)
    await first.end()
    await settle()
    assert (second.holds, budget.held, budget.waiting) == (True, 6, 0)
    await second.end()
    assert budget.held == 0


async def test_small_requests_do_not_overtake_a_large_one() -> None:
    budget, log = Budget(10), list[Holder]()
    holders = [Holder(budget, n, log).start() for n in (6, 8, 1)]
    await settle()
    assert log == holders[:1], "1 would fit, but comes after 8"
    for holder in holders:
        await holder.end()
    assert log == holders


async def test_one_larger_than_the_limit_is_admitted_alone() -> None:
    budget, log = Budget(10), list[Holder]()
    holders = [Holder(budget, n, log).start() for n in (1, 50, 1)]
    await settle()
    assert budget.held == 1
    await holders[0].end()
    await settle()
    assert budget.held == 50
    await holders[1].end()
    await holders[2].end()
    assert log == holders
    assert budget.held == 0


async def test_cancelling_the_one_in_front_lets_the_next_in() -> None:
    budget, log = Budget(10), list[Holder]()
    first, large, small = (Holder(budget, n, log).start() for n in (6, 8, 1))
    await settle()
    assert large.task is not None
    large.task.cancel()
    await settle()
    assert small.holds
    for holder in (first, small, large):
        await holder.end()
    assert budget.held == 0


async def test_cancelled_in_the_turn_in_which_it_was_admitted() -> None:
    budget, log = Budget(10), list[Holder]()
    first, second, third = (Holder(budget, n, log).start() for n in (10, 10, 10))
    await settle()
    assert second.task is not None
    async with asyncio.timeout(5):
        first.release.set()
        while budget.waiting == 2:  # the first has let go; the second does not run yet
            await asyncio.sleep(0)
        second.task.cancel()
        await settle()
        assert third.holds
        assert not second.holds
        for holder in (first, second, third):
            await holder.end()
    assert budget.held == 0


async def test_no_limit() -> None:
    budget = Budget(None)
    async with budget.take(1 << 60), budget.take(1 << 60):
        assert budget.held == 2 << 60


async def test_negative_sizes_are_errors() -> None:
    with pytest.raises(ValueError, match="negative"):
        Budget(-1)
    with pytest.raises(ValueError, match="-1"):
        async with Budget(1).take(-1):
            pass


Step = tuple[str, int]
steps = st.lists(
    st.tuples(st.sampled_from(["take", "take", "release", "cancel", "settle"]), st.integers(0, 25)),
    max_size=40,
)


@given(st.integers(0, 12), steps, st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_schedule(limit: int, schedule: list[Step], patient: bool) -> None:
    asyncio.run(_follow(limit, schedule, patient))


async def _follow(limit: int, schedule: list[Step], patient: bool) -> None:
    budget, log, holders = Budget(limit), list[Holder](), list[Holder]()

    def check() -> None:
        held = [holder for holder in holders if holder.holds]
        # Those admitted whose task has not run yet hold bytes too.
        assert budget.held >= sum(holder.nbytes for holder in held)
        alone = len(held) == 1 and budget.held == held[0].nbytes
        oversized = any(holder.nbytes == budget.held for holder in holders)
        assert budget.held <= limit or alone or oversized, "overshoots"

    for what, number in schedule:
        if what == "take":
            holders.append(Holder(budget, number, log).start())
        elif what == "settle":
            await settle()
            held = sum(holder.nbytes for holder in holders if holder.holds)
            assert budget.held == held
        elif holders:
            holder = holders[number % len(holders)]
            assert holder.task is not None
            holder.task.cancel() if what == "cancel" else holder.release.set()
            if number % 2:
                await asyncio.sleep(0)
        check()
        if patient:
            await settle()
    for holder in holders:
        holder.release.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*(h.task for h in holders if h.task), return_exceptions=True)
    assert (budget.held, budget.waiting) == (0, 0)
    order = {id(holder): index for index, holder in enumerate(holders)}
    places = [order[id(holder)] for holder in log]
    # Admitted in one turn of the loop, tasks go on in an order of the loop's own.
    assert places == sorted(places) or not patient, "first come, first served"
