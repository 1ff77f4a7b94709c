"""`ProcessExecutor`: threads that each have a worker process, as long as there is work.

A process has one job at a time. So if it dies, that is one job's doing or misfortune: the job runs
once more, in a new process, and no other job is concerned.
"""

from __future__ import annotations

import atexit
import functools
import os
import pickle
import threading
import weakref
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import nullcontext
from typing import Any

from asyncload.collecting import collection_held
from asyncload.cpu_time import count_as_ours
from asyncload.errors import AsyncloadError, LoaderClosed, TooLarge, WorkerCrashed
from asyncload.forks import in_each_fork

from ._job import Job, Outcome, cannot_be_sent
from ._process import WorkerDied, WorkerProcess
from ._turns import await_turn, give_way

__all__ = ["CLOSED", "ProcessExecutor"]

CLOSED = "this Loader is closed, or was while the call ran; make a new one"
_TRIES = 2
_LARGE = 1 << 20  # bytes of an answer that may be tens of thousands of objects
_PATIENCE = 1.0  # seconds for a thread to notice, at exit, that its process was killed


class ProcessExecutor(Executor):
    """Runs each `Job` in a worker process: a `concurrent.futures.Executor`.

    Processes start when a job needs one, and end when they had nothing to do for a while.

    Args:
        count: how many processes there may be.
        niceness: by how much others go first; see nice(2). It cannot be taken back without
            rights that programs seldom have, so jobs that are not urgent have an executor of
            their own.
        idle: seconds that a process may have nothing to do before it ends.

    Attributes:
        ended: whether it was shut down.
    """

    def __init__(self, count: int, *, niceness: int = 0, idle: float) -> None:
        self.niceness = niceness
        self.ended = False
        self._idle = idle
        self._count = count
        self._waiting: deque[_Call] = deque()
        self._calls: dict[Job, _Call] = {}  # those that wait, and those under way
        self._threads: list[_WorkerThread] = []
        self._free = 0  # threads that wait for a call, or are about to
        self._changed = threading.Condition()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a job, and return the future of its `Outcome`.

        Args:
            fn: a `Job`, which says what it may use up.
            args: none.
            kwargs: none.

        Raises:
            LoaderClosed: this was shut down.
            TypeError: it is no job.
        """
        if not isinstance(fn, Job) or args or kwargs:
            raise TypeError(f"takes a Job and nothing else, not {fn!r} {args} {kwargs}")
        call = _Call(fn)
        with self._changed:
            if self.ended:
                raise LoaderClosed(CLOSED)
            self._calls[fn] = call
            self._waiting.append(call)
            if self._free >= len(self._waiting):
                self._changed.notify()
            elif len(self._threads) < self._count:
                self._add_thread()
        call.future.add_done_callback(lambda _: self._calls.pop(fn, None))
        return call.future

    def start(self) -> None:
        """Start a process, if there is none; returns before it is ready."""
        self.submit(Job(os.getpid, (), None))

    def kill(self, job: Job) -> None:
        """End the process that still works on a job, for which nobody waits any more."""
        call = self._calls.get(job)
        if call is not None:
            call.kill()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = True) -> None:
        """Kill the processes, whatever they do; jobs that have not ended raise `LoaderClosed`.

        Args:
            wait: until they are gone.
            cancel_futures: makes no difference: nobody waits for jobs of an executor that ended.
        """
        del cancel_futures
        self.end(None if wait else 0)

    def end(self, patience: float | None) -> None:
        """Kill the processes, and wait until they are gone.

        Args:
            patience: seconds to wait for each; ``None`` for no bound.
        """
        with self._changed:
            self.ended = True
            waiting, threads = list(self._waiting), list(self._threads)
            self._waiting.clear()
            self._changed.notify_all()
        for call in waiting:
            call.refuse()
        for thread in threads:
            thread.kill()
        for thread in threads:
            thread.join(patience)

    def forget(self) -> None:
        """Let go of processes that belong to what this one was forked from."""
        self.ended = True
        for thread in self._threads:
            thread.forget()

    # --- for its threads ---------------------------------------------------------------------

    def _add_thread(self) -> None:
        _registry.add(self)
        thread = _WorkerThread(self)
        self._threads.append(thread)
        self._free += 1
        thread.start()

    def is_free(self) -> None:
        """Take note that a thread is about to wait for a call."""
        with self._changed:
            self._free += 1

    def next_call(self, thread: _WorkerThread) -> _Call | None:
        """Wait for a call; ``None`` if there was none for so long that the thread is to end."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._waiting or self.ended, self._idle)
            self._free -= 1
            if came and self._waiting:
                return self._waiting.popleft()
            self._threads.remove(thread)
            return None


class _Call:
    """A job on its way.

    Attributes:
        future: of its outcome.
    """

    def __init__(self, job: Job) -> None:
        self.future: Future[Outcome] = Future()
        self._job = job
        self._killed = False
        self._process: WorkerProcess | None = None
        self._changing = threading.Lock()

    def run(self, thread: _WorkerThread) -> Callable[[], None]:
        """Run the job in the process of a thread, and return what reports its outcome."""
        if not self.future.set_running_or_notify_cancel():
            return _say_nothing
        try:
            outcome = self._outcome(thread)
        except Exception as error:  # noqa: BLE001 - it is reported
            outcome = Outcome(error=error)
        return functools.partial(self.future.set_result, outcome)

    def _outcome(self, thread: _WorkerThread) -> Outcome:
        packed = self._job.packed()
        for _ in range(_TRIES):
            process = thread.process()
            self._hold(process)
            try:
                return _unpacked(process.call(packed))
            except WorkerDied as death:
                thread.end_process()
                last = death
                if self._killed:
                    break
            finally:
                self._hold(None)
        raise _verdict(last) from last

    def _hold(self, process: WorkerProcess | None) -> None:
        with self._changing:
            self._process = process

    def refuse(self) -> None:
        """Report that the executor was shut down before this began."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_result(Outcome(error=LoaderClosed(CLOSED)))

    def kill(self) -> None:
        """End the process that works on it, and have no other try."""
        self._killed = True
        with self._changing:
            if self._process is not None:
                self._process.kill()


def _say_nothing() -> None:
    pass


def _unpacked(answer: bytearray) -> Outcome:
    try:
        with collection_held() if len(answer) > _LARGE else nullcontext():
            outcome: Outcome = pickle.loads(answer)  # noqa: S301 - a worker made it
        return outcome
    except Exception as error:
        raise cannot_be_sent(error) from error


def _verdict(death: WorkerDied) -> AsyncloadError:
    if death.by == "SIGXCPU":
        return TooLarge(
            "used up the CPU time that a worker may spend on it, and may be a bomb. If it is "
            "genuine, load it with Loader(max_worker_seconds=...)."
        )
    return WorkerCrashed(
        f"the worker process died twice on this call ({death.by}). SIGKILL often is the system's "
        "out-of-memory killer; SIGSEGV or SIGABRT a bug or a damaged file."
    )


class _WorkerThread:
    """A thread with a worker process of its own.

    Args:
        executor: whose calls it takes.
    """

    def __init__(self, executor: ProcessExecutor) -> None:
        self._executor = executor
        self._process: WorkerProcess | None = None
        self._changing = threading.Lock()
        # A daemon, so that a program that ends need not wait for what a worker does.
        self._thread = threading.Thread(target=self._live, name="asyncload-workers", daemon=True)

    def start(self) -> None:
        """Begin to take calls."""
        self._thread.start()

    def _live(self) -> None:
        await_turn()
        give_way()
        count_as_ours()
        try:
            while (call := self._executor.next_call(self)) is not None:
                report = call.run(self)
                # Free before whoever waited goes on, as the next call is for this process.
                self._executor.is_free()
                report()
                del call, report  # and with them what they refer to
        finally:
            self.end_process()

    def process(self) -> WorkerProcess:
        """Return the process, started if there is none.

        Raises:
            LoaderClosed: the executor was shut down.
        """
        with self._changing:
            if self._executor.ended:
                raise LoaderClosed(CLOSED)
            if self._process is None:
                self._process = WorkerProcess(self._executor.niceness)
            return self._process

    def end_process(self) -> None:
        """End the process, and wait until it is gone."""
        with self._changing:
            process, self._process = self._process, None
        if process is not None:
            process.end()

    def kill(self) -> None:
        """Kill the process, so that whatever waits for it goes on."""
        with self._changing:
            if self._process is not None:
                self._process.kill()

    def join(self, patience: float | None) -> None:
        """Wait until the thread, and so its process, has ended."""
        self._thread.join(patience)

    def forget(self) -> None:
        """Let go of a process that belongs to what this one was forked from."""
        if self._process is not None:
            self._process.forget()
            self._process = None


class _Registry:
    """The executors of this process, for programs that end, or fork, without closing them."""

    def __init__(self) -> None:
        self._executors: weakref.WeakSet[ProcessExecutor] = weakref.WeakSet()
        self._registered = False

    def add(self, executor: ProcessExecutor) -> None:
        if not self._registered:
            self._registered = True
            atexit.register(self._end_all)
            in_each_fork(self._forget_all)
        self._executors.add(executor)

    def _end_all(self) -> None:
        for executor in list(self._executors):
            executor.end(_PATIENCE)

    def _forget_all(self) -> None:
        # A worker ends when nobody has the other end of its line: a fork is not to keep it.
        for executor in list(self._executors):
            executor.forget()
        self._executors.clear()


_registry = _Registry()
