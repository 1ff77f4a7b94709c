"""The check for leaks finds what it is there to find."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import pytest

from tests import conftest
from tests.leaks import leaked, snapshot


def test_nothing_is_nothing() -> None:
    assert leaked(snapshot(), patience=0) == []


def test_thread() -> None:
    before, end = snapshot(), threading.Event()
    thread = threading.Thread(target=end.wait, name="a-lost-thread")
    thread.start()
    assert leaked(before, patience=0.05) == ["threads: a-lost-thread"]
    end.set()
    assert leaked(before) == []


def test_child_process() -> None:
    before = snapshot()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        lines = leaked(before, patience=0.05)
        assert any(line.startswith(f"children: {child.pid} ") for line in lines)
        child.kill()
    assert leaked(before) == []


def test_descriptor(tmp_path: Path) -> None:
    before = snapshot()
    descriptor = os.open(tmp_path / "file", os.O_CREAT | os.O_RDONLY)
    assert any(line.startswith("descriptors: ") for line in leaked(before, patience=0.05))
    os.close(descriptor)
    assert leaked(before) == []


def test_shared_memory() -> None:
    before = snapshot()
    segment = SharedMemory(create=True, size=4096)
    lines = leaked(before, patience=0.05)
    segment.close()
    segment.unlink()
    # Elsewhere than on Linux its descriptor is all that can be seen of it.
    kind = "segments: mapping /dev/shm/" if sys.platform == "linux" else "descriptors: "
    assert any(line.startswith(kind) for line in lines)
    assert leaked(before) == []


async def test_task() -> None:
    task = asyncio.create_task(asyncio.sleep(60), name="a-lost-task")
    assert [found.get_name() for found in conftest._running()] == ["a-lost-task"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert conftest._running() == []


async def test_both_loops(request: pytest.FixtureRequest) -> None:
    kind = type(asyncio.get_running_loop()).__module__.split(".")[0]
    assert kind in request.node.name
    assert asyncio.get_running_loop().get_debug()
