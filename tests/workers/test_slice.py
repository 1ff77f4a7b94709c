"""The threads that read give way to the loop's."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from asyncload.workers._slice import give_way


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
