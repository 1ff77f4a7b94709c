"""Memory of dropped arrays is reused, and only of dropped ones."""

from __future__ import annotations

import mmap
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.memory import HUGE_PAGE, Arena, ArenaPool
from tests.memory.test_arena import smaps

MIB = 1 << 20


def array(arena: Arena, offset: int = 0, nbytes: int | None = None) -> np.ndarray[Any, Any]:
    return np.frombuffer(arena.view(offset, nbytes or arena.nbytes), np.uint8)


def address(arena: Arena) -> int:
    return array(arena).ctypes.data


def test_memory_is_reused_after_the_last_view() -> None:
    pool = ArenaPool(64 * MIB)
    first = Arena(8 * MIB, pool)
    where, kept = address(first), array(first, MIB, MIB)
    kept[:] = 7
    del first
    other = Arena(8 * MIB, pool)
    assert address(other) != where, "an array still lived there"
    assert pool.idle_bytes == 0
    del kept
    assert pool.idle_bytes > 8 * MIB
    again = Arena(8 * MIB, pool)
    assert address(again) == where
    assert address(again) % HUGE_PAGE == 0
    assert pool.idle_bytes == 0


def test_a_much_larger_mapping_is_not_wasted() -> None:
    pool = ArenaPool(256 * MIB)
    Arena(64 * MIB, pool)
    assert pool.take(16 * MIB) is None
    assert Arena(60 * MIB, pool).nbytes == 60 * MIB


def test_what_is_kept_is_bounded_and_the_oldest_goes_first() -> None:
    pool = ArenaPool(24 * MIB)
    arenas = [Arena(size * MIB, pool) for size in (4, 8, 12)]
    addresses = [address(arena) for arena in arenas]
    while arenas:
        arenas.pop(0)
    assert pool.idle_bytes <= 24 * MIB
    assert address(Arena(12 * MIB, pool)) == addresses[2]
    Arena(100 * MIB, pool)
    assert pool.idle_bytes <= 24 * MIB


def test_a_closed_pool_keeps_nothing() -> None:
    pool = ArenaPool(64 * MIB)
    early, late = Arena(4 * MIB, pool), Arena(4 * MIB, pool)
    del early
    pool.close()
    assert pool.idle_bytes == 0
    view = late.view(0, 10)
    del late
    view[:] = b"x" * 10
    del view
    assert pool.idle_bytes == 0


def test_arenas_that_end_in_other_threads() -> None:
    pool = ArenaPool(64 * MIB)

    def churn() -> None:
        for number in range(200):
            arena = Arena(2 * MIB + 4096 * (number % 7), pool)
            own = array(arena)
            own[:: HUGE_PAGE // 4] = threading.get_ident() % 251
            assert set(own[:: HUGE_PAGE // 4].tolist()) == {threading.get_ident() % 251}

    threads = [threading.Thread(target=churn) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pool.idle_bytes <= 64 * MIB


@given(st.lists(st.tuples(st.integers(1, 6 * MIB), st.booleans()), max_size=12))
def test_arrays_never_share_memory(steps: list[tuple[int, bool]]) -> None:
    pool = ArenaPool(16 * MIB)
    alive: list[tuple[np.ndarray[Any, Any], int]] = []
    for number, (nbytes, drop) in enumerate(steps):
        own = array(Arena(nbytes, pool))
        own[0] = own[-1] = number
        alive.append((own, number))
        del own
        if drop:
            alive.pop(0)
        for other, stamp in alive:
            assert other[0] == other[-1] == stamp


def small_pages(nbytes: int) -> mmap.mmap:
    mapping = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE)
    mapping.madvise(mmap.MADV_NOHUGEPAGE)
    np.frombuffer(mapping, np.uint8)[:: mmap.PAGESIZE] = 1  # has the system make them
    return mapping


def marked_as_free(mapping: mmap.mmap) -> int:
    kibibytes, _ = smaps(np.frombuffer(mapping, np.uint8).ctypes.data)["LazyFree"].split()
    return int(kibibytes) << 10


@contextmanager
def another_thread(interval: float) -> Iterator[list[int]]:
    """Have a thread count how often it gets the interpreter's lock."""
    turns, ended, found = [0], threading.Event(), sys.getswitchinterval()

    def take_turns() -> None:
        while not ended.is_set():
            turns[0] += 1
            time.sleep(0)

    thread = threading.Thread(target=take_turns)
    thread.start()
    sys.setswitchinterval(interval)
    try:
        yield turns
    finally:
        sys.setswitchinterval(found)
        ended.set()
        thread.join()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc is Linux")
def test_what_is_kept_is_marked_as_free_while_others_run() -> None:
    pool, most = ArenaPool(64 * MIB), 0
    for _ in range(20):  # on a busy machine the other thread may have no CPU meanwhile
        mapping = small_pages(64 * MIB)
        with another_thread(1.0) as turns:
            begin = turns[0]
            pool.give_back(mapping)
            most = max(most, turns[0] - begin)
        assert marked_as_free(mapping) >= 60 * MIB  # all but what a CPU still has in hand
        pool.take(60 * MIB)
        if most > 5:
            break
    assert most > 5
