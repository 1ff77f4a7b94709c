"""The pool of worker processes, and how it survives the death of one of them.

A worker that dies takes its executor down, and with it every job that was on its way. The
pool is then made anew, and each of those jobs runs once more, one at a time and in a process
of its own: so the job that kills its worker is found, and the others are not harmed again.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import weakref
from concurrent.futures import BrokenExecutor, Executor
from typing import Any

from asyncload.errors import AsyncloadError, DecodeError, LoaderClosed, TooLarge, WorkerCrashed

from ._inside import enter_worker
from ._job import Job, Outcome
from ._threads import in_own_thread

__all__ = ["CLOSED", "Processes", "submit"]

CLOSED = "this Loader is closed, or was while the call ran; make a new one"

# Jobs handed to the pool beyond one for each process, so that none idles between two.
_AHEAD = 1


async def submit(executor: Executor, job: Job) -> Outcome:
    """Run a job in an executor.

    Raises:
        BrokenExecutor: the executor's processes died.
        DecodeError: the job, or its result, cannot be sent.
        LoaderClosed: the executor takes no jobs any more, or ended while the job ran.
    """
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, job)
    except (BrokenExecutor, asyncio.CancelledError):
        raise
    except RuntimeError as error:
        raise LoaderClosed(CLOSED) from error
    except Exception as error:
        raise DecodeError(
            "the function, its arguments or its result cannot be sent between processes: "
            f"{_last_line(error.__cause__ or error)}. Use what pickles, or executor='thread'."
        ) from error


def _last_line(error: BaseException) -> str:
    """Return what an error says, where it may be a traceback in quotes."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line.strip('"')), repr(error))


class Processes:
    """Worker processes, started when first needed.

    Args:
        count: how many.
        niceness: by how much others go first; see nice(2). It cannot be taken back without
            rights that programs seldom have, so jobs that are not urgent have processes of
            their own.
    """

    def __init__(self, count: int, *, niceness: int = 0) -> None:
        self._places = asyncio.Semaphore(count + _AHEAD)
        self._pool = _Pool(count, niceness)
        self._quarantine = _Quarantine(niceness)

    async def start(self) -> None:
        """Start the processes, if they are not; returns before they are ready."""
        await self._pool.running()

    async def run(self, job: Job) -> Outcome:
        """Run a job in one of the processes.

        Raises:
            WorkerCrashed: two processes died on it.
            TooLarge: they died of its CPU limit.
            DecodeError: it cannot be sent to a process.
            LoaderClosed: the processes were ended.
        """
        async with self._places:
            executor = await self._pool.running()
            try:
                return await submit(executor, job)
            except BrokenExecutor:
                self._pool.discard(executor)
        return await self._quarantine.run(job)

    async def aclose(self) -> None:
        """End the processes, at once if they work, and wait until they are gone."""
        await in_own_thread(self._stop)

    def _stop(self) -> None:
        self._pool.stop()
        self._quarantine.stop()


class _Quarantine:
    """A process for jobs on whose way a worker died, one job at a time."""

    def __init__(self, niceness: int) -> None:
        self._pool = _Pool(1, niceness)
        self._turn = asyncio.Lock()
        self._jobs = 0

    async def run(self, job: Job) -> Outcome:
        """Run a job alone; whatever happens to its process is the job's own doing."""
        self._jobs += 1
        try:
            async with self._turn:
                return await self._run_alone(job)
        finally:
            self._jobs -= 1
            if not self._jobs:
                await in_own_thread(self._pool.empty)

    async def _run_alone(self, job: Job) -> Outcome:
        executor = await self._pool.running()
        try:
            return await submit(executor, job)
        except BrokenExecutor as error:
            self._pool.discard(executor)
            raise _verdict(error) from error
        except asyncio.CancelledError:
            # The job may still run, and must not take the next one's process with it.
            self._pool.discard(executor)
            raise

    def stop(self) -> None:
        """End the process for good; called in a thread."""
        self._pool.stop()


def _verdict(error: BrokenExecutor) -> AsyncloadError:
    if "SIGXCPU" in str(error):
        return TooLarge("used up the CPU time that a worker may spend on it; refused as a bomb")
    found = str(error).partition("The exit codes of the workers are ")[2].partition("\n")[0]
    return WorkerCrashed(
        f"the worker process died twice on this call (exit codes {found or 'unknown'}). SIGKILL "
        "often is the system's out-of-memory killer; SIGSEGV or SIGABRT a bug or a damaged file."
    )


class _Pool:
    """A loky executor that is made when needed, and anew when broken.

    Args:
        count: how many processes.
        niceness: theirs.
    """

    def __init__(self, count: int, niceness: int) -> None:
        self._count = count
        self._niceness = niceness
        self._executor: Executor | None = None
        self._retired: list[Executor] = []
        self._stopped = False
        self._starting = asyncio.Lock()
        self._changing = threading.Lock()

    async def running(self) -> Executor:
        """Return the executor, its processes started.

        Raises:
            LoaderClosed: the pool was stopped.
        """
        if self._executor is not None:
            return self._executor
        async with self._starting:
            return await in_own_thread(self._start)

    def discard(self, executor: Executor) -> None:
        """Use this executor no more; it is ended when the next one starts, or with the pool."""
        if self._executor is executor:
            self._executor = None
            self._retired.append(executor)

    def empty(self) -> None:
        """End all processes; called in a thread."""
        with self._changing:
            if self._executor is not None:
                self.discard(self._executor)
            self._end_retired()

    def stop(self) -> None:
        """End all processes for good; called in a thread."""
        self._stopped = True
        self.empty()

    def _start(self) -> Executor:
        with self._changing:
            self._end_retired()
            if self._stopped:
                raise LoaderClosed(CLOSED)
            if self._executor is None:
                self._executor = _new_executor(self._count, self._niceness)
            return self._executor

    def _end_retired(self) -> None:
        while self._retired:
            _end(self._retired.pop())


def _new_executor(count: int, niceness: int) -> Executor:
    # Here, as importing loky takes 50 ms that nobody need pay who never needs a process.
    from loky import ProcessPoolExecutor
    from loky.backend import get_context

    executor: Executor = ProcessPoolExecutor(
        count,
        context=get_context("loky"),
        initializer=enter_worker,
        initargs=(os.getpid(), niceness),
    )
    executor.submit(os.getpid)
    _end_at_exit(executor)
    return executor


def _end(executor: Any) -> None:
    reader = getattr(getattr(executor, "_call_queue", None), "_reader", None)
    executor.shutdown(wait=True, kill_workers=True)
    # loky leaves a thread behind that waits until someone takes a large job from it: the workers
    # are gone, and this process only seems to listen.
    if reader is not None:
        reader.close()


# --- programs that end without closing ---------------------------------------------------

_alive: weakref.WeakSet[Any] = weakref.WeakSet()
_registered = threading.Event()


def _end_at_exit(executor: Executor) -> None:
    """Kill the executor's processes when the program ends, rather than wait for their jobs."""
    _alive.add(executor)
    if not _registered.is_set():
        _registered.set()
        # Before the interpreter joins threads, loky's among them, which wait for the jobs;
        # such callbacks run last in, first out, and loky's is in.
        getattr(threading, "_register_atexit", atexit.register)(_end_all)


def _end_all() -> None:
    for executor in list(_alive):
        executor.shutdown(wait=False, kill_workers=True)
