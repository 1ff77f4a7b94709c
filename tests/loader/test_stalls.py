"""Which of the loop's stalls loads are blamed for."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.loader._stalls import Passed, Stalls, caused

LATE, USUAL, INTERVAL = 0.010, 0.005, 0.00005
# A thread that loads held the interpreter's lock all the time, on one of two CPUs.
LOCKED = Passed(worked=0.0, queued=0.0, switches=100, loaded=0.015, spare=0.015)

SECONDS = st.floats(0, 1)
PASSED = st.builds(Passed, SECONDS, SECONDS, st.integers(0, 1000), SECONDS, SECONDS)


def blamed(passed: Passed, late: float = LATE) -> float:
    return caused(late, passed, usual=USUAL, interval=INTERVAL)


def test_a_load_that_holds_the_lock_is_blamed() -> None:
    assert blamed(LOCKED) == pytest.approx(LATE)


def test_loads_that_have_all_cpus_are_blamed() -> None:
    crowded = Passed(worked=0.0, queued=LATE, switches=1, loaded=0.030, spare=0.0)
    assert blamed(crowded) == pytest.approx(LATE)


@pytest.mark.parametrize(
    ("why", "passed"),
    [
        ("a handler that computes", replace(LOCKED, worked=LATE)),
        ("a call that blocks", replace(LOCKED, switches=2)),
        ("processes that have the CPUs", replace(LOCKED, queued=LATE)),
        ("the one who held the lock had no CPU", replace(LOCKED, loaded=USUAL)),
    ],
)
def test_what_others_do_is_not_blamed_on_loads(why: str, passed: Passed) -> None:
    assert blamed(passed) < 0.001, why


@given(SECONDS, PASSED)
def test_nobody_is_blamed_for_more_than_there_was(late: float, passed: Passed) -> None:
    assert 0 <= blamed(passed, late) <= max(late + passed.queued, 0)
    assert blamed(passed, late) <= passed.loaded


def test_who_loads_nothing_holds_nobody_up() -> None:
    with Stalls(2) as stalls:
        for wait in (lambda: time.sleep(0.02), lambda: sum(range(1_000_000))):
            wait()
            assert stalls.caused(0.02, 0.0) == 0
