"""What keeps CPUs busy: the program's own threads, and neighbours on the machine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from asyncload.cpu_time import usable_cpus
from asyncload.loader import _pace

__all__ = ["busy_neighbours", "busy_program"]

_PART = 0.05  # of one CPU: a thread that wants one has that, whatever else the machine does


@contextmanager
def busy_program() -> Iterator[None]:
    """Keep the CPUs busy, and not the interpreter, as seen by Loaders that are made meanwhile.

    They may use a part of one CPU, as in a small container, so that the others' work on this
    machine makes no difference.
    """
    ended = threading.Event()

    def spin() -> None:
        data = bytes(1 << 20)
        while not ended.is_set():
            hashlib.sha256(data)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_pace, "allowed_cpus", lambda: _PART)
            yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def busy_neighbours() -> Iterator[None]:
    """Have two other processes want each CPU."""
    spin = [sys.executable, "-c", "while True: pass"]
    neighbours = [subprocess.Popen(spin) for _ in range(2 * usable_cpus())]
    try:
        yield
    finally:
        for each in neighbours:
            each.kill()
            each.wait()
