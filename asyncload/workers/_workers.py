"""`Workers`: where the other rooms have their work done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from asyncload.cpu_time import count_as_ours, usable_cpus
from asyncload.errors import LoaderClosed, WorkerCrashed
from asyncload.resting import carried

from ._executor import CLOSED, ProcessExecutor
from ._job import PARSE_LIMITS, Job, Limits, Outcome, cannot_be_sent
from ._threads import in_own_thread
from ._turns import await_turn, give_way

__all__ = ["Workers"]

Result = TypeVar("Result")

# Threads for reads: one for each CPU, as more would only move them between CPUs (a fifth slower,
# measured on 2) and hold the loop's thread up; two at least for the disk, four saturate memory.
_THREADS = 2, 4
_IDLE = 60.0  # seconds
# Seconds that a job goes on after its caller was cancelled. Most are over by then, and a new
# process would cost more; one that hangs must not keep others waiting.
_GRACE = 1.0
_NICENESS = 10  # of processes for what is not urgent: a tenth of a CPU that others want too


class Workers:
    """Worker processes for what costs CPU, and threads for what waits or is short.

    Both start when first needed. Close it with `aclose`; what was not closed ends with the
    program, however that ends.

    Args:
        executor: ``"process"``: processes of our own; ``"thread"``: threads instead, for code
            that must not start processes; else the caller's own executor, which stays open.
        processes: how many processes (or threads instead of them); by default one for each
            CPU that this process may use. Each starts when it is needed.
        idle: seconds without work after which a process ends.
        limits: what a call of `run` may use up, where it does not say otherwise.

    Attributes:
        threads: runs disk reads and short parses.
        processes: how many calls of `run` are worth having under way, one for each CPU in use.
    """

    def __init__(
        self,
        executor: Literal["process", "thread"] | Executor = "process",
        *,
        processes: int | None = None,
        idle: float = _IDLE,
        limits: Limits = PARSE_LIMITS,
    ) -> None:
        if processes is not None and processes < 1:
            raise ValueError(f"processes must be 1 or more, not {processes}")
        self.processes = processes or usable_cpus()
        least, most = _THREADS
        self.threads = ThreadPoolExecutor(
            min(max(usable_cpus(), least), most),
            thread_name_prefix="asyncload-io",
            initializer=_enter_thread,
        )
        self._own_threads = [self.threads]
        self._limits = limits
        self._backend = self._choose(executor, idle)
        self._polite = ProcessExecutor(self.processes, idle=idle, niceness=_NICENESS)
        self._closed = False
        self._closing = asyncio.Lock()

    def _choose(self, executor: str | Executor, idle: float) -> Executor:
        match executor:
            case "process":
                return ProcessExecutor(self.processes, idle=idle)
            case "thread":
                threads = ThreadPoolExecutor(
                    self.processes,
                    thread_name_prefix="asyncload-work",
                    initializer=count_as_ours,
                )
                self._own_threads.append(threads)
                return threads
            case Executor():
                return executor
            case _:
                raise ValueError(
                    f"executor must be 'process', 'thread' or a concurrent.futures.Executor, "
                    f"not {executor!r}"
                )

    async def start(self) -> None:
        """Start a process ahead of need, without waiting until it is ready.

        Raises:
            LoaderClosed: this was closed.
        """
        self._check_open()
        if isinstance(self._backend, ProcessExecutor):
            self._backend.start()

    async def run(
        self,
        function: Callable[..., Result],
        *args: Any,
        limits: Limits | Literal["usual"] | None = "usual",
        polite: bool = False,
    ) -> Result:
        """Call ``function(*args)`` in a worker.

        If the worker dies (of a signal, or for want of memory), the call is made once more.
        If the caller is cancelled, a call that has begun goes on, and its result is dropped.

        Args:
            function: any callable; closures and functions of ``__main__`` are sent by value.
            args: what pickles; nothing large, as it all goes through a pipe.
            limits: what the call may use up, by default what this was made with; ``None`` for the
                user's own functions. Threads know no limits.
            polite: whether all else on the machine goes first: then it runs in processes of lower
                priority, which start when first needed. Other executors know no priority.

        Raises:
            WorkerCrashed: the worker died twice on this call.
            TooLarge: the call went past the limits.
            DecodeError: the function, its arguments or its exception cannot be sent.
            LoaderClosed: this was closed, or was while the call ran.
            Exception: whatever ``function`` raised; if it ran in another process, its traceback
                there is the ``__cause__``.
        """
        self._check_open()
        job = Job(function, args, self._limits if limits == "usual" else limits)
        if isinstance(self._backend, ProcessExecutor):
            outcome = await _run_in_process(self._polite if polite else self._backend, job)
        else:
            outcome = await _run_in(self._backend, job)
        result: Result = outcome.get()
        return result

    async def run_in_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call ``function(*args)`` in one of `threads`: for what is short.

        Raises:
            LoaderClosed: this was closed.
            Exception: whatever ``function`` raised.
        """
        self._check_open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, carried(function), *args)

    def _check_open(self) -> None:
        if self._closed:
            raise LoaderClosed(CLOSED)

    async def aclose(self) -> None:
        """End processes and threads, and wait until they are gone; closing twice is fine.

        Calls under way in processes raise `LoaderClosed`; those in threads are waited for.
        """
        self._closed = True
        async with self._closing:
            await in_own_thread(self._end)

    def _end(self) -> None:
        self._end_processes()
        for threads in self._own_threads:
            threads.shutdown(wait=True, cancel_futures=True)

    def _end_processes(self) -> None:
        if isinstance(self._backend, ProcessExecutor):
            self._backend.shutdown()
            self._polite.shutdown()

    def abandon(self) -> None:
        """End processes and threads of a loop that is closed; any thread may do this."""
        self._closed = True
        self._end_processes()
        for threads in self._own_threads:
            threads.shutdown(wait=False, cancel_futures=True)


def _enter_thread() -> None:
    await_turn()
    give_way()
    count_as_ours()


async def _run_in_process(executor: ProcessExecutor, job: Job) -> Outcome:
    loop = asyncio.get_running_loop()
    try:
        return await loop.run_in_executor(executor, job)
    except asyncio.CancelledError:
        loop.call_later(_GRACE, executor.kill, job)
        raise


async def _run_in(executor: Executor, job: Job) -> Outcome:
    """Run a job in an executor of the caller's, or in threads."""
    try:
        return await asyncio.get_running_loop().run_in_executor(executor, job)
    except asyncio.CancelledError:
        raise
    except BrokenExecutor as error:
        raise WorkerCrashed(
            f"a worker of the executor that was given to this Loader died: {error}. Its owner "
            "must replace it; a Loader can do so only for workers of its own."
        ) from error
    except RuntimeError as error:
        raise LoaderClosed(CLOSED) from error
    except Exception as error:
        raise cannot_be_sent(error) from error
