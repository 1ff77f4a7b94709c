"""Threads let the loop's go first."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncload.workers._turns import await_turn, give_way


def _slice() -> str | None:
    text = Path(f"/proc/self/task/{threading.get_native_id()}/sched").read_text()
    lines = [line.partition(":") for line in text.splitlines()]
    return next((value.strip() for key, _, value in lines if key.strip() == "se.slice"), None)


def test_nothing_else_about_the_thread_changes() -> None:
    seen: list[tuple[int, int]] = []

    def run() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 3)
        for _ in range(2):
            give_way()
            seen.append((os.getpriority(os.PRIO_PROCESS, 0), _policy()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(3, _policy())] * 2


def _policy() -> int:
    return os.sched_getscheduler(0) if sys.platform.startswith("linux") else 0


def test_its_slice_is_long_where_the_kernel_shows_it() -> None:
    if not Path("/proc/self/sched").exists():
        return
    slices: list[str | None] = []

    def run() -> None:
        give_way()
        slices.append(_slice())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert slices in ([None], ["100000000"]), "kernels before 6.12 keep their own"


needs_batch = pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="Linux only")


def _found(before: Callable[[], object]) -> tuple[int, int]:
    """Return policy and niceness of a thread that awaits its turn, after what it did before."""
    found: list[tuple[int, int]] = []

    def run() -> None:
        before()
        await_turn()
        found.append((os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@needs_batch
def test_a_thread_that_awaits_its_turn_pushes_none_aside_and_is_as_nice_as_before() -> None:
    assert _found(lambda: os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 3)) == (
        os.SCHED_BATCH,
        3,
    )


@needs_batch
def test_a_policy_that_somebody_chose_stays() -> None:
    idle = os.SCHED_IDLE
    assert _found(lambda: os.sched_setscheduler(0, idle, os.sched_param(0)))[0] == idle
