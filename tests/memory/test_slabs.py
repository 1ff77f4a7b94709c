"""Slabs: found by workers, never mistaken for another, reused, and gone when they should be."""

from __future__ import annotations

import dataclasses
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

import numpy as np
import psutil
import pytest

from asyncload.errors import DecodeError, MemoryLimitExceeded
from asyncload.memory import (
    REUSED_UP_TO,
    SharedSlab,
    SlabHandle,
    SlabPool,
    _slabs,
    attach,
    slab_size,
)

MIB = 1 << 20

WORKER = """
import pickle, sys
from asyncload.errors import DecodeError
from asyncload.memory import attach
while header := sys.stdin.buffer.read(4):
    handle = pickle.loads(sys.stdin.buffer.read(int.from_bytes(header, "little")))
    try:
        with attach(handle) as view:
            found = bytes(view[:5])
            view[:5] = b"reply"
    except DecodeError as error:
        found = b"gone:" + str(error).encode()
    sys.stdout.buffer.write(len(found).to_bytes(4, "little") + found)
    sys.stdout.buffer.flush()
"""


class Worker:
    """Another process that attaches slabs on demand."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def attach(self, handle: SlabHandle) -> bytes:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        packed = pickle.dumps(handle)
        self.process.stdin.write(len(packed).to_bytes(4, "little") + packed)
        self.process.stdin.flush()
        length = int.from_bytes(self.process.stdout.read(4), "little")
        return self.process.stdout.read(length)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture(params=["memfd", "temporary file"])
def backing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to make a slab; the second is that of systems other than Linux."""
    if request.param == "temporary file":
        monkeypatch.setattr(_slabs, "_HAS_MEMFD", False)
    return str(request.param)


def test_another_process_sees_the_same_bytes(backing: str) -> None:
    slab = SharedSlab(1000, reusable=True)
    slab.view[:5] = b"hello"
    with Worker() as worker:
        assert worker.attach(slab.handle) == b"hello"
        assert bytes(slab.view[:5]) == b"reply"
        assert worker.attach(slab.handle) == b"reply", "mapped once, seen twice"
    slab.close()


def test_a_closed_slab_is_not_found(backing: str) -> None:
    slab = SharedSlab(1000)
    slab.close()
    slab.close()
    assert slab.closed
    with Worker() as worker:
        assert worker.attach(slab.handle).startswith(b"gone:")
    with pytest.raises(DecodeError, match="gone"), attach(slab.handle):
        pass
    with pytest.raises(ValueError, match="closed"):
        _ = slab.view


def test_a_reused_descriptor_is_never_taken_for_the_slab() -> None:
    """The number in the path may stand for another slab by the time that a worker opens it."""
    old = SharedSlab(1000)
    handle = old.handle
    old.close()
    slabs = [SharedSlab(1000) for _ in range(3)]
    assert handle.path in [slab.handle.path for slab in slabs], "the number was reused"
    with Worker() as worker:
        assert worker.attach(handle).startswith(b"gone:")
        for slab in slabs:
            assert bytes(slab.view[:5]) == bytes(5)
            assert worker.attach(slab.handle) == bytes(5)
            slab.close()


def test_a_slab_of_another_size_is_refused() -> None:
    slab = SharedSlab(1000)
    wrong = dataclasses.replace(slab.handle, size=4096)
    with pytest.raises(DecodeError, match="gone"), attach(wrong):
        pass
    slab.close()


def test_nobody_can_shrink_one_under_us() -> None:
    if not hasattr(os, "memfd_create"):
        return
    slab = SharedSlab(100_000)
    descriptor = os.open(slab.handle.path, os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
    slab.close()


def test_the_process_that_made_it_attaches_without_another_mapping() -> None:
    slab = SharedSlab(1000)
    with attach(slab.handle) as view:
        view[0] = 9
        assert np.shares_memory(np.frombuffer(view, np.uint8), np.frombuffer(slab.view, np.uint8))
    assert slab.view[0] == 9
    slab.close()


def test_an_array_outlives_the_slab_and_frees_the_memory(backing: str) -> None:
    gc.disable()
    try:
        before = shared()
        slab = SharedSlab(32 * MIB)
        array = np.frombuffer(slab.view, np.float32)
        array[:] = 2
        slab.close()
        del slab
        assert array.sum(dtype=np.float64) == 2 * 8 * MIB
        assert shared() - before > 30 * MIB
        del array
        assert shared() - before < 2 * MIB
    finally:
        gc.enable()


def test_one_that_was_forgotten_ends_by_itself(backing: str) -> None:
    path = Path(SharedSlab(1000).handle.path)
    gc.collect()
    assert not path.exists()


def test_nothing_is_left_after_a_kill() -> None:
    script = (
        "import os, sys; from asyncload.memory import SharedSlab; slab = SharedSlab(1 << 20)\n"
        "slab.view[:] = bytes(1 << 20); print(slab.handle.path, flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdin is not None
    path = Path(child.stdout.readline().strip())
    assert path.exists()
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdin.close()
    child.stdout.close()
    assert sys.platform != "linux" or not path.exists()


@pytest.mark.parametrize("nbytes", [1 << 62, 1 << 70])
def test_the_impossible_is_refused(backing: str, nbytes: int) -> None:
    with pytest.raises(MemoryLimitExceeded, match="refused"):
        SharedSlab(nbytes)


# --- the pool ----------------------------------------------------------------------------


def test_a_slab_is_reused_by_size_class() -> None:
    pool = SlabPool()
    first = pool.lease(3 * MIB)
    assert first.nbytes == slab_size(3 * MIB) == 4 * MIB
    pool.give_back(first)
    assert pool.idle_bytes == 4 * MIB
    assert pool.lease(4 * MIB) is first
    assert pool.lease(4 * MIB) is not first
    assert pool.idle_bytes == 0
    pool.close()


def test_a_discarded_slab_is_never_reused() -> None:
    pool = SlabPool()
    first = pool.lease(100)
    pool.discard(first)
    assert first.closed
    second = pool.lease(100)
    assert second is not first
    pool.give_back(second)
    pool.close()
    assert second.closed


def test_large_slabs_are_exact_and_not_kept() -> None:
    pool = SlabPool()
    slab = pool.lease(REUSED_UP_TO + 1)
    assert slab.nbytes == slab_size(slab.nbytes) == REUSED_UP_TO + 1
    assert not slab.handle.reusable
    pool.give_back(slab)
    assert slab.closed
    assert pool.idle_bytes == 0


def test_what_is_kept_is_bounded() -> None:
    pool = SlabPool()
    slabs = [pool.lease(REUSED_UP_TO) for _ in range(6)]
    for slab in slabs:
        pool.give_back(slab)
    assert pool.idle_bytes == 64 * MIB
    assert [slab.closed for slab in slabs] == [False] * 4 + [True] * 2
    pool.close()
    assert all(slab.closed for slab in slabs)


def test_a_slab_that_comes_back_after_close_is_closed() -> None:
    pool = SlabPool()
    slab = pool.lease(100)
    pool.close()
    pool.close()
    pool.give_back(slab)
    assert slab.closed


def test_a_worker_keeps_only_so_many_mappings() -> None:
    """It maps slabs that it may see again, and lets the oldest go."""
    mappings = _slabs._Mappings()
    slabs = [SharedSlab(REUSED_UP_TO, reusable=True) for _ in range(12)]
    views = [mappings.get(slab.handle) for slab in slabs]
    assert len(mappings._mapped) == 8
    assert mappings.get(slabs[-1].handle) is views[-1]
    assert mappings.get(slabs[0].handle) is not views[0]
    assert len(mappings._mapped) == 8
    del mappings, views
    for slab in slabs:
        slab.close()


def test_threads_attach_at_once() -> None:
    mappings = _slabs._Mappings()
    slabs = [SharedSlab(256 << 10, reusable=True) for _ in range(4)]
    wrong: list[int] = []

    def run(index: int) -> None:
        for turn in range(200):
            view = mappings.get(slabs[(index + turn) % 4].handle)
            if len(view) != 256 << 10:
                wrong.append(turn)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(mappings._mapped) == 4
    mappings._mapped.clear()
    for slab in slabs:
        slab.close()


def shared() -> int:
    info = psutil.Process().memory_info()
    return int(getattr(info, "shared", info.rss))
