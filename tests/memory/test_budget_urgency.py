"""Who gets memory first, what is kept, and that nobody waits for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.interfaces import Urgency
from asyncload.memory import Budget, Kept

LIMIT = 100


@dataclass
class Taker:
    """Someone who holds bytes until it is told to end."""

    budget: Budget
    nbytes: int
    urgency: Urgency

    def __post_init__(self) -> None:
        self.admitted = False
        self._end = asyncio.Event()
        self.task = asyncio.create_task(self._hold())

    async def _hold(self) -> None:
        async with self.budget.take(self.nbytes, lambda: self.urgency):
            self.admitted = True
            try:
                await self._end.wait()
            finally:
                self.admitted = False

    def promote(self) -> None:
        self.urgency = Urgency.DEMAND
        self.budget.reconsider()

    async def end(self) -> None:
        self._end.set()
        await asyncio.wait([self.task])


class Owner:
    """Keeps memory, and can do without what is idle."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.idle: list[Kept] = []
        self.used: list[Kept] = []
        budget.reclaimable(self.reclaim)

    def reclaim(self, nbytes: int) -> None:
        while self.idle and nbytes > 0:
            kept = self.idle.pop()
            nbytes -= kept.nbytes
            kept.release()

    def let_go(self) -> None:
        if self.used:
            self.idle.append(self.used.pop())
            self.budget.reconsider()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_most_urgent_is_next() -> None:
    budget = Budget(LIMIT)
    first = Taker(budget, LIMIT, Urgency.DEMAND)
    order = [Urgency.BACKGROUND, Urgency.AWAITED, Urgency.DEMAND]
    waiting = [Taker(budget, LIMIT, urgency) for urgency in order]
    await settle()
    before = first
    for taker in reversed(waiting):
        admitted = [each.admitted for each in (before, taker)]
        assert admitted == [True, False]
        await before.end()
        await settle()
        before = taker
    assert before.admitted
    await before.end()


async def test_who_is_promoted_goes_first() -> None:
    budget = Budget(LIMIT)
    first = Taker(budget, LIMIT, Urgency.DEMAND)
    one, other = (Taker(budget, LIMIT, Urgency.BACKGROUND) for _ in range(2))
    await settle()
    other.promote()
    await first.end()
    await settle()
    assert (one.admitted, other.admitted) == (False, True)
    await other.end()
    await one.end()


async def test_only_demand_has_idle_memory_reclaimed() -> None:
    budget = Budget(LIMIT)
    owner = Owner(budget)
    owner.idle = [budget.keep(60)]
    later = Taker(budget, 60, Urgency.BACKGROUND)
    await settle()
    assert (later.admitted, budget.kept) == (False, 60)
    later.promote()
    await settle()
    assert (later.admitted, budget.kept) == (True, 0)
    await later.end()


async def test_one_that_is_too_large_is_admitted_alone() -> None:
    budget = Budget(LIMIT)
    kept = budget.keep(50)
    large = Taker(budget, 10 * LIMIT, Urgency.AWAITED)
    await settle()
    assert large.admitted
    await large.end()
    kept.release()
    assert budget.held == 0


async def test_an_owner_that_fails_is_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    budget = Budget(LIMIT)

    def fail(nbytes: int) -> None:
        raise RuntimeError("it cannot")

    end = budget.reclaimable(fail)
    kept = budget.keep(LIMIT)
    one = Taker(budget, 10, Urgency.DEMAND)
    await settle()
    assert one.admitted
    assert "could not be reclaimed" in caplog.text
    end()
    kept.release()
    await one.end()


def test_kept_bytes_are_corrected_and_given_back_once() -> None:
    budget = Budget(LIMIT)
    kept = budget.keep(10)
    kept.resize(30)
    assert budget.held == 30
    kept.release()
    kept.release()
    assert (budget.held, kept.nbytes) == (0, 0)
    with pytest.raises(ValueError, match="released"):
        kept.resize(1)


SIZES = st.integers(0, 150)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), SIZES, st.sampled_from(Urgency)),
        st.tuples(st.just("keep"), SIZES),
        st.tuples(st.sampled_from(["end", "cancel", "promote", "let_go"]), st.integers(0, 5)),
    ),
    max_size=25,
)


@given(STEPS)
def test_whatever_happens_it_adds_up_and_everybody_gets_in(
    steps: list[tuple[str, int] | tuple[str, int, Urgency]],
) -> None:
    asyncio.run(follow(steps))


async def follow(steps: list[tuple[str, int] | tuple[str, int, Urgency]]) -> None:
    budget = Budget(LIMIT)
    owner = Owner(budget)
    takers: list[Taker] = []
    for step in steps:
        await act(step, budget, owner, takers)
        await settle()
        takers = [taker for taker in takers if not taker.task.done()]
        check(budget, owner, takers)
    while owner.used:
        owner.let_go()
    while takers:  # each that ends lets another in, whatever was kept
        await settle()
        takers = [taker for taker in takers if not taker.task.done()]
        holding = [taker for taker in takers if taker.admitted]
        if (
            takers and not holding
        ):  # nobody waits for what is left, and what is kept is not asked for
            assert all(taker.urgency is Urgency.BACKGROUND for taker in takers)
            assert owner.idle
            owner.reclaim(10 * LIMIT * len(owner.idle))
            continue
        for taker in holding:
            await taker.end()
            takers.remove(taker)
    owner.reclaim(10**9)
    assert (budget.held, budget.waiting) == (0, 0)


async def act(
    step: tuple[str, int] | tuple[str, int, Urgency],
    budget: Budget,
    owner: Owner,
    takers: list[Taker],
) -> None:
    name, number = step[0], step[1]
    if name == "take":
        assert len(step) == 3
        takers.append(Taker(budget, number, step[2]))
    elif name == "keep":
        owner.used.append(budget.keep(number))
    elif name == "let_go":
        owner.let_go()
    elif takers:
        taker = takers[number % len(takers)]
        acts: dict[str, Callable[[], object]] = {
            "cancel": taker.task.cancel,
            "promote": taker.promote,
            "end": taker._end.set,
        }
        acts[name]()


def check(budget: Budget, owner: Owner, takers: list[Taker]) -> None:
    holding = [taker for taker in takers if taker.admitted]
    assert budget.in_flight == sum(taker.nbytes for taker in holding)
    assert budget.kept == sum(kept.nbytes for kept in (*owner.idle, *owner.used))
    assert budget.waiting == len(takers) - len(holding)
    # Nobody who is wanted waits while nothing is in flight.
    if not budget.in_flight and not holding:
        assert all(taker.urgency is Urgency.BACKGROUND for taker in takers)
