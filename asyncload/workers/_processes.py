"""Worker processes, as the event loop sees them."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import BrokenExecutor, Executor

from asyncload.errors import LoaderClosed

from ._crew import CLOSED, Call, Crew
from ._job import Job, Outcome, cannot_be_sent
from ._threads import in_own_thread

__all__ = ["CLOSED", "Processes", "submit"]

# Seconds that a job goes on after its caller was cancelled. Most are over by then, and a new
# process would cost more; one that hangs must not keep others waiting.
_GRACE = 1.0


async def submit(executor: Executor, job: Job) -> Outcome:
    """Run a job in an executor of the caller's, or in threads.

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
        raise cannot_be_sent(error) from error


class Processes:
    """Worker processes, each started when needed, and ended when idle.

    Args:
        count: how many at most.
        idle: seconds that each may have nothing to do before it ends.
        niceness: by how much others go first; see nice(2). It cannot be taken back without
            rights that programs seldom have, so jobs that are not urgent have processes of
            their own.
    """

    def __init__(self, count: int, *, idle: float, niceness: int = 0) -> None:
        self._crew = Crew(count, niceness, idle)

    def start(self) -> None:
        """Start a process, if there is none; returns before it is ready."""
        self._crew.submit(Call(Job(os.getpid, (), None), _ignore))

    async def run(self, job: Job) -> Outcome:
        """Run a job in one of the processes.

        Raises:
            WorkerCrashed: two processes died on it, or none can be started.
            TooLarge: they died of its CPU limit.
            DecodeError: it cannot be sent to a process.
            LoaderClosed: the processes were ended.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        call = Call(job, lambda outcome: _hand_over(loop, future, outcome))
        self._crew.submit(call)
        try:
            return await future
        except asyncio.CancelledError:
            call.drop()
            loop.call_later(_GRACE, call.kill)
            raise

    async def aclose(self) -> None:
        """End the processes, at once if they work, and wait until they are gone."""
        await in_own_thread(self._crew.end)

    def end(self) -> None:
        """End the processes of a loop that is closed, and wait until they are gone."""
        self._crew.end()


def _ignore(outcome: Outcome) -> None:
    del outcome


def _hand_over(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[Outcome], outcome: Outcome
) -> None:
    def settle() -> None:
        if not future.done():
            future.set_result(outcome)

    try:
        loop.call_soon_threadsafe(settle)
    except RuntimeError:  # the loop is closed, and with it whoever waited
        return
