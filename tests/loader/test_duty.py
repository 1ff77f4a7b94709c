"""What loads in the background take of the CPUs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncload.cpu_time import count_as_ours, count_native, program_seconds, usable_cpus
from asyncload.loader._duty import LEAST, Busyness, Duty, share_beside

SHARES = st.floats(0, 1)


@given(SHARES, SHARES)
def test_the_busier_the_program_the_smaller_the_share(one: float, other: float) -> None:
    less, more = sorted((one, other))
    assert LEAST <= share_beside(more) <= share_beside(less) <= 1


def test_an_idle_program_leaves_all() -> None:
    assert share_beside(0) == share_beside(0.1) == 1
    assert share_beside(0.7) == share_beside(1) == LEAST


def work(seconds: float) -> None:
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_threads_share_what_there_is(share: float) -> None:
    duty, spell, spells = Duty(), 0.002, 20

    def turns() -> None:
        for _ in range(spells):
            work(spell)
            time.sleep(duty.rest(spell, share))

    begin = time.perf_counter()
    threads = [threading.Thread(target=turns) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - begin
    assert 3 * spells * spell / took <= share * 1.3


def test_each_thread_has_a_share_of_its_own_time() -> None:
    duty, rests = Duty(), []

    def turn() -> None:
        duty.rest(1, 0.6, each=True)  # some that are owed, of this thread alone
        rests.append(duty.rest(0, 0.6, each=True))

    thread = threading.Thread(target=turn)
    thread.start()
    thread.join()
    assert rests == [0.05]
    assert duty.rest(0, 0.6, each=True) == 0


def test_what_is_owed_is_rested_for_at_the_share_of_the_moment() -> None:
    duty = Duty()
    assert duty.rest(0.01, LEAST) == 0.05
    assert duty.rest(0, 0.9) < 0.02


def test_a_rest_that_was_too_long_is_made_up_for() -> None:
    duty = Duty()
    assert duty.rest(0.01, 0.5, each=True) > 0
    time.sleep(0.1)
    assert duty.rest(0.01, 0.5, each=True) == 0  # it had 0.05 to work in meanwhile
    assert duty.rest(0.05, 0.5, each=True) > 0  # no more than 0.02 are made up for


def test_all_of_a_cpu_needs_no_rest() -> None:
    assert Duty().rest(10, 1) == 0


def test_little_work_adds_up_before_it_is_rested_for() -> None:
    duty = Duty()
    rests = [duty.rest(0.00001, 0.1) for _ in range(20)]
    assert rests[0] == 0
    assert max(rests) > 0


@given(st.floats(0, 1e6), st.floats(LEAST, 0.999))
def test_no_rest_is_long(worked: float, share: float) -> None:
    duty = Duty()
    assert 0 <= duty.rest(worked, share) <= 0.05
    assert 0 <= duty.rest(worked, share) <= 0.05


def test_a_long_stretch_is_rested_for_bit_by_bit() -> None:
    duty, share, stretch = Duty(), 0.1, 0.02
    begin = time.perf_counter()
    time.sleep(duty.rest(stretch, share))
    while (rest := duty.rest(0, share)) > 0:
        time.sleep(rest)
    assert stretch / share - stretch <= time.perf_counter() - begin <= stretch / share + 0.05


def test_no_stretch_is_rested_for_without_end() -> None:
    duty = Duty()
    duty.rest(1e6, LEAST)
    time.sleep(0.51)
    assert duty.rest(0, LEAST) == 0


def test_a_program_that_does_something_is_taken_for_a_busy_one_until_more_is_known() -> None:
    busyness = Busyness(1)
    busyness.begin()
    begin = time.process_time(), time.perf_counter()
    shares, does_something = [], []
    for _ in range(5):
        work(0.004)
        time.sleep(0.006)
        shares.append(busyness.share())
        spent = (time.process_time() - begin[0]) / (time.perf_counter() - begin[1])
        does_something.append(spent > 0.2)  # not so beside neighbours that have the CPUs
    assert all(
        share == LEAST for share, does in zip(shares[:3], does_something, strict=False) if does
    )
    assert busyness.is_known
    assert shares[-1] > LEAST


def test_a_program_that_does_nothing_is_known_to_at_once() -> None:
    busyness = Busyness(1)
    busyness.begin()
    time.sleep(0.01)
    assert busyness.share() == 1
    assert not busyness.is_known


def test_the_program_is_as_busy_as_its_threads() -> None:
    busyness = Busyness(2)
    busyness.begin()
    begin = time.process_time(), time.perf_counter()
    work(0.2)
    found = busyness.sample()
    spent = (time.process_time() - begin[0]) / (time.perf_counter() - begin[1])
    assert found == pytest.approx(spent / 2, rel=0.2)


def test_only_what_is_recent_counts() -> None:
    busyness = Busyness(1)
    busyness.begin()
    work(0.2)
    busyness.sample()
    for _ in range(6):
        time.sleep(0.01)
        found = busyness.sample()
    assert found < 0.3


def leaves_half(busyness: Busyness, doing: Callable[[float], None]) -> bool:
    doing(0.02)
    busyness.share()
    return busyness.leaves_half


def test_who_leaves_half_does_so_for_a_while() -> None:
    busyness = Busyness(0.1)  # whatever else the machine does, this thread has more than that
    busyness.begin()
    assert all(leaves_half(busyness, time.sleep) for _ in range(6))
    while leaves_half(busyness, work):
        pass
    assert busyness.sample() > 0.5
    while not leaves_half(busyness, time.sleep):
        pass


def test_what_fast_loads_put_off_is_looked_at_while_they_hardly_go() -> None:
    busyness = Busyness(0.1)
    busyness.begin()
    while not leaves_half(busyness, time.sleep):
        pass
    shares: list[float] = []
    while not shares or busyness.leaves_half:
        work(0.02)
        shares.append(busyness.share())
    assert shares[-1] == LEAST
    time.sleep(0.02)
    assert busyness.share() == LEAST  # a little later, the program may do nothing
    while not leaves_half(busyness, time.sleep):
        pass
    assert busyness.share() == 1


def test_threads_of_ours_are_not_the_program() -> None:
    with ThreadPoolExecutor(1, initializer=count_as_ours) as threads:
        threads.submit(int).result()
        begin, all_of_it = program_seconds(), time.process_time()
        threads.submit(work, 0.2).result()
        assert begin is not None
        assert time.process_time() - all_of_it >= 0.2
        assert (program_seconds() or 0) - begin < 0.1
    before = program_seconds()
    assert before is not None
    assert (program_seconds() or 0) >= before  # that they ended takes nothing back


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no numbers to name clocks by")
def test_native_threads_of_ours_are_not_the_program() -> None:
    with ThreadPoolExecutor(1) as threads:
        count_native([threads.submit(threading.get_native_id).result()])
        begin, all_of_it = program_seconds(), time.process_time()
        threads.submit(work, 0.2).result()
        assert begin is not None
        assert time.process_time() - all_of_it >= 0.2
        assert (program_seconds() or 0) - begin < 0.1


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no numbers to name clocks by")
def test_threads_of_the_clients_of_stores_are_not_the_program() -> None:
    code = (
        "import asyncio, time, obstore\n"
        "from asyncload.cpu_time import loading_seconds, native_threads\n"
        "from asyncload.sources._client_calls import call\n"
        "from obstore.store import MemoryStore\n"
        "asyncio.run(call(obstore.put_async, MemoryStore(), 'a', b'x'))\n"
        "clocks = [~thread << 3 | 6 for thread in native_threads('tokio-rt-worker')]\n"
        "worked = sum(map(time.clock_gettime, clocks))\n"
        "assert 0 < worked <= loading_seconds()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_there_is_a_cpu() -> None:
    has_affinity = hasattr(os, "sched_getaffinity")
    most = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    assert 1 <= usable_cpus() <= most
