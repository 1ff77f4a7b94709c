"""The death of a worker costs at most the job that caused it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from asyncload.errors import TooLarge, WorkerCrashed
from asyncload.workers import Limits, Workers

from .test_workers import opened

MIB = 1 << 20


def _dies_at_first(marks: Path) -> Callable[[], str]:
    def die_at_first() -> str:
        mark = marks / "died"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return "alive"

    return die_at_first


def _counting(marks: Path, fatal: int = signal.SIGKILL) -> Callable[[], None]:
    def die() -> None:
        (marks / f"died-{os.getpid()}").touch()
        os.kill(os.getpid(), fatal)

    return die


async def test_a_job_whose_worker_was_killed_runs_once_more(tmp_path: Path) -> None:
    async with opened(processes=1) as workers:
        assert await workers.run(_dies_at_first(tmp_path)) == "alive"
        assert await workers.run(abs, -1) == 1


async def test_two_deaths_are_the_job_s_own(tmp_path: Path) -> None:
    async with opened(processes=1) as workers:
        with pytest.raises(WorkerCrashed, match="SIGKILL"):
            await workers.run(_counting(tmp_path))
        assert await workers.run(abs, -1) == 1
    assert len(list(tmp_path.iterdir())) == 2


async def test_a_worker_killed_from_outside_spoils_nothing() -> None:
    def slow(index: int) -> int:
        time.sleep(0.1)
        return index

    async with opened(processes=2) as workers:
        victim = await workers.run(os.getpid)
        calls = [asyncio.ensure_future(workers.run(slow, index)) for index in range(8)]
        await asyncio.sleep(0.05)
        os.kill(victim, signal.SIGKILL)
        assert await asyncio.gather(*calls) == list(range(8))


async def test_poison_spoils_no_other_job(tmp_path: Path) -> None:
    def slow(index: int, payload: bytes) -> int:
        time.sleep(0.02)
        return index

    large = bytes(2 * MIB)  # more than a pipe holds, so that sending is under way as well
    async with opened(processes=2) as workers:
        poison = [workers.run(_counting(tmp_path)) for _ in range(2)]
        good = [workers.run(slow, index, large) for index in range(10)]
        outcomes = await asyncio.gather(*poison, *good, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes[:2]] == [WorkerCrashed] * 2
    assert outcomes[2:] == list(range(10))


async def test_a_call_cancelled_in_its_second_try_does_not_hold_up_the_next(tmp_path: Path) -> None:
    def hang_second_time() -> None:
        mark = tmp_path / "mark"
        if mark.exists():
            (tmp_path / "hangs").touch()
            time.sleep(60)
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    async with opened(processes=1) as workers:
        call = asyncio.ensure_future(workers.run(hang_second_time))
        while not (tmp_path / "hangs").exists():
            await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        begin = time.perf_counter()
        (tmp_path / "again").mkdir()
        assert await workers.run(_dies_at_first(tmp_path / "again")) == "alive"
        assert time.perf_counter() - begin < 10


# --- limits ------------------------------------------------------------------------------


@pytest.mark.skipif("sys.platform != 'linux'", reason="only Linux enforces memory limits")
async def test_a_job_that_takes_too_much_memory_is_refused() -> None:
    def take(size: int) -> int:
        return len(bytearray(size))

    async with opened(processes=1) as workers:
        worker = await workers.run(os.getpid)
        with pytest.raises(TooLarge, match="64 MiB"):
            await workers.run(take, 256 * MIB, limits=Limits(memory=64 * MIB, cpu=60))
        assert await workers.run(take, 16 * MIB, limits=Limits(64 * MIB, 60)) == 16 * MIB
        assert await workers.run(take, 256 * MIB, limits=None) == 256 * MIB
        assert await workers.run(os.getpid) == worker


async def test_shared_memory_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "slab"
    with path.open("wb") as file:
        file.truncate(256 * MIB)

    def touch() -> int:
        import mmap

        with path.open("r+b") as opened_file, mmap.mmap(opened_file.fileno(), 0) as mapped:
            return len(mapped)

    async with opened(processes=1) as workers:
        assert await workers.run(touch, limits=Limits(64 * MIB, 60)) == 256 * MIB


async def test_a_job_that_takes_too_long_is_refused() -> None:
    def spin() -> None:
        while True:
            pass

    async with opened(processes=1) as workers:
        worker = await workers.run(os.getpid)
        with pytest.raises(TooLarge, match=r"0\.2 s of CPU"):
            await workers.run(spin, limits=Limits(1 << 30, cpu=0.2))
        assert await workers.run(os.getpid) == worker
        # The clock of the next job starts anew.
        await workers.run(_busy_for(0.15), limits=Limits(1 << 30, cpu=0.3))
        await workers.run(_busy_for(0.15), limits=Limits(1 << 30, cpu=0.3))


def _busy_for(seconds: float) -> Callable[[], None]:
    def be_busy() -> None:
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    return be_busy


def test_a_job_deaf_to_its_limit_is_killed_twice() -> None:
    """Takes five seconds, so on one loop only."""

    def spin_deaf() -> None:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        while True:
            pass

    async def run() -> None:
        async with opened(processes=1) as workers:
            with pytest.raises(TooLarge, match="CPU time"):
                await workers.run(spin_deaf, limits=Limits(1 << 30, cpu=0.1))
            assert await workers.run(abs, -1) == 1

    asyncio.run(run())


async def test_threads_are_not_limited() -> None:
    async with opened("thread", processes=1) as workers:
        assert await workers.run(len, bytes(MIB), limits=Limits(memory=1, cpu=1e-9)) == MIB


async def test_many_workers_at_once_share_nothing() -> None:
    first, second = Workers(processes=1), Workers(processes=1)
    try:
        with pytest.raises(WorkerCrashed):
            await first.run(os._exit, 3)
        assert await second.run(abs, -1) == 1
    finally:
        await first.aclose()
        assert await second.run(abs, -2) == 2
        await second.aclose()
