"""Whoever has the turn rests for what is not urgent, but not while somebody urgent waits for it."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from asyncload.materialize._turn import in_slices, turn, with_rests
from asyncload.resting import SPELL, carried, resting
from tests.materialize.test_quiet import Node

SPELLS, PAUSE = 50, 0.1


class Long:
    """A `Rest` that makes of 50 spells five seconds."""

    def is_wanted(self) -> bool:
        return True

    def after(self, worked: float) -> float:
        del worked
        return PAUSE


def work() -> None:
    until = time.thread_time() + 2 * SPELL
    while time.thread_time() < until:
        pass


Ways = Callable[[Iterable[int]], Iterator[int]]


@pytest.mark.parametrize("way", [in_slices, with_rests])
def test_it_rests_unless_somebody_urgent_waits(way: Ways) -> None:
    has_begun = threading.Event()

    def slowly() -> float:
        begin = time.perf_counter()
        with turn():
            for number in way(range(SPELLS)):
                work()
                if number == 2:
                    has_begun.set()
        return time.perf_counter() - begin

    def urgently() -> None:
        with turn():
            pass

    with ThreadPoolExecutor(2) as threads:
        with resting(Long()):
            slow = threads.submit(carried(slowly))
        assert has_begun.wait(10)
        threads.submit(urgently).result()
        assert 2 * PAUSE <= slow.result() < SPELLS * PAUSE / 2


def test_garbage_goes_while_a_long_turn_rests() -> None:
    """A turn that builds a model beside a busy program may take half a minute."""

    def slowly() -> bool:
        with turn():
            nodes = [Node() for _ in range(20_000)]
            last = weakref.ref(nodes.pop())
            nodes.clear()
            for _ in with_rests(range(2)):
                work()
            return last() is None

    with ThreadPoolExecutor(1) as threads, resting(Long()):
        assert threads.submit(carried(slowly)).result()


def test_who_rests_waits_for_who_rests() -> None:
    has_begun = threading.Event()

    def slowly() -> float:
        begin = time.perf_counter()
        with turn():
            for _ in in_slices(range(5)):
                work()
                has_begun.set()
        return time.perf_counter() - begin

    with ThreadPoolExecutor(2) as threads, resting(Long()):
        one = threads.submit(carried(slowly))
        assert has_begun.wait(10)
        other = threads.submit(carried(slowly))
        assert one.result() >= 4 * PAUSE
        assert other.result() >= 4 * PAUSE
