"""Garbage collector and switch interval come back as they were."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator

import pytest

from asyncload.materialize.quiet import (
    OFTEN,
    SELDOM,
    Attention,
    collect_young,
    quiet,
    responsive,
)
from asyncload.resting import resting


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    interval = sys.getswitchinterval()
    yield
    gc.enable()
    gc.unfreeze()
    sys.setswitchinterval(interval)


def test_holds_the_collector_and_restores_it() -> None:
    before = sys.getswitchinterval()
    with quiet():
        assert not gc.isenabled()
        assert sys.getswitchinterval() < before
    assert gc.isenabled()
    assert sys.getswitchinterval() == pytest.approx(before)


def test_what_rests_leaves_the_interval() -> None:
    class Rest:
        def is_wanted(self) -> bool:
            return True

        def after(self, worked: float) -> float:
            return worked

    before = sys.getswitchinterval()
    with resting(Rest()), quiet():
        assert not gc.isenabled()
        assert sys.getswitchinterval() == before
    assert gc.isenabled()


def test_attention_goes_on_and_off_and_ends_with_its_block() -> None:
    before = sys.getswitchinterval()
    with Attention() as attention:
        assert sys.getswitchinterval() == pytest.approx(SELDOM)
        for wanted in (True, True, False, False, True):
            attention.pay(wanted)
            assert sys.getswitchinterval() == pytest.approx(OFTEN if wanted else SELDOM)
    assert sys.getswitchinterval() == pytest.approx(before)


def test_the_shortest_interval_that_anybody_wants_is_set() -> None:
    with responsive(), Attention(), responsive():
        assert sys.getswitchinterval() == pytest.approx(OFTEN)
    sys.setswitchinterval(SELDOM / 2)
    with Attention():
        assert sys.getswitchinterval() == pytest.approx(SELDOM / 2)
    assert sys.getswitchinterval() == pytest.approx(SELDOM / 2)


_SETTLED = """
import os, threading
from asyncload.materialize.quiet import settle

def run():
    settle()
    print(os.sched_getscheduler(0) == os.SCHED_BATCH)

ours = os.listdir("/proc/self/task")
thread = threading.Thread(target=run)
thread.start()
mine = str(thread.native_id)
thread.join()
theirs = set(os.listdir("/proc/self/task")) - {*ours, mine}
print(len(theirs) > 0, {os.sched_getscheduler(int(each)) for each in theirs} == {os.SCHED_OTHER})
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only")
def test_a_thread_settles_and_tensorflows_pools_do_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SETTLED], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["True", "True", "True"], done.stderr


def test_overlapping_blocks_restore_with_the_last() -> None:
    first, second = quiet(), quiet()
    with first:
        second.__enter__()
    assert not gc.isenabled()
    second.__exit__(None, None, None)
    assert gc.isenabled()


def test_a_disabled_collector_stays_disabled() -> None:
    gc.disable()
    with quiet():
        pass
    assert not gc.isenabled()


def test_a_shorter_interval_is_left_alone() -> None:
    sys.setswitchinterval(1e-5)
    with quiet():
        assert sys.getswitchinterval() == pytest.approx(1e-5)


def test_young_objects_do_not_bring_a_collection_at_the_end() -> None:
    collections: list[str] = []
    gc.callbacks.append(lambda phase, _: collections.append(phase))
    try:
        with quiet():
            kept: list[list[int]] = [[] for _ in range(50_000)]
        more: list[list[int]] = [[] for _ in range(100)]
    finally:
        gc.callbacks.pop()
    assert kept
    assert more
    assert collections == []


class Node:
    """One that refers to itself: nothing but the collector gets rid of it."""

    def __init__(self) -> None:
        self.me = self


def test_garbage_of_a_program_goes_while_the_collector_is_held() -> None:
    with quiet():
        before = weakref.ref(Node())
        old = [Node() for _ in range(20_000)]
        collect_young()
        assert before() is None
        found = [weakref.ref(node) for node in old]
        del old
        young = [weakref.ref(Node()) for _ in range(20_000)]
        collect_young()
        assert not any(node() for node in young)
        assert all(node() for node in found), "what is old was looked at, which takes long"


def test_a_little_garbage_is_not_looked_for() -> None:
    with quiet():
        collect_young()
        node = weakref.ref(Node())
        collect_young()
        assert node() is not None


def test_a_program_that_collects_for_itself_is_left_alone() -> None:
    gc.collect()
    gc.disable()
    with quiet():
        node = weakref.ref(Node())
        kept = [Node() for _ in range(20_000)]
        collect_young()
        assert kept
        assert node() is not None


def test_objects_that_the_program_froze_stay_frozen() -> None:
    gc.freeze()
    frozen = gc.get_freeze_count()
    with quiet():
        kept: list[list[int]] = [[] for _ in range(1000)]
    assert kept
    assert gc.get_freeze_count() >= frozen


def test_an_error_restores_too() -> None:
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert gc.isenabled()


def test_many_threads() -> None:
    def enter() -> None:
        for _ in range(200):
            with quiet():
                pass

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert gc.isenabled()
