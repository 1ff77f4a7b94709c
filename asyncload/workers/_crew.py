"""Threads that each have a worker process: started when there is work, ended when there is none.

A process has one job at a time. So if it dies, that is one job's doing or misfortune: the job runs
once more, in a new process, and no other job is concerned.
"""

from __future__ import annotations

import atexit
import functools
import pickle
import threading
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import nullcontext

from asyncload.collecting import collection_held
from asyncload.cpu_time import count_as_ours
from asyncload.errors import AsyncloadError, LoaderClosed, TooLarge, WorkerCrashed
from asyncload.forks import in_each_fork

from ._job import Job, Outcome, cannot_be_sent
from ._process import WorkerDied, WorkerProcess
from ._turns import await_turn, give_way

__all__ = ["CLOSED", "Call", "Crew"]

CLOSED = "this Loader is closed, or was while the call ran; make a new one"
_TRIES = 2
_LARGE = 1 << 20  # bytes of an answer that may be tens of thousands of objects
_PATIENCE = 1.0  # seconds for a thread to notice, at exit, that its process was killed

Report = Callable[[Outcome], None]


class Call:
    """A job on its way, and who is told of its outcome.

    Args:
        job: what is to be done.
        report: called with the outcome, in another thread.
    """

    def __init__(self, job: Job, report: Report) -> None:
        self._job = job
        self._report = report
        self._given_up = False
        self._process: WorkerProcess | None = None
        self._changing = threading.Lock()

    def run(self, member: Member) -> Callable[[], None]:
        """Run the job in the process of a member of the crew, and return what reports of it."""
        if self._given_up:
            return _say_nothing
        try:
            outcome = self._outcome(member)
        except Exception as error:  # noqa: BLE001 - it is reported
            outcome = Outcome(error=error)
        return functools.partial(self._report, outcome)

    def _outcome(self, member: Member) -> Outcome:
        packed = self._job.packed()
        for _ in range(_TRIES):
            process = member.process()
            self._hold(process)
            try:
                answer = process.call(packed)
                break
            except WorkerDied as death:
                member.bury()
                last = death
                if self._given_up:
                    raise _verdict(last) from last
            finally:
                self._hold(None)
        else:
            raise _verdict(last) from last
        return _unpacked(answer)

    def _hold(self, process: WorkerProcess | None) -> None:
        with self._changing:
            self._process = process

    def refuse(self) -> None:
        """Report that the crew was ended before this began."""
        self._report(Outcome(error=LoaderClosed(CLOSED)))

    def drop(self) -> None:
        """Have it not begin, if it has not: nobody waits for it any more."""
        self._given_up = True

    def kill(self) -> None:
        """End the process that still works on it."""
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


class Member:
    """A thread of a crew, with a process of its own.

    Args:
        crew: whose calls it takes.
    """

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
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
            while (call := self._crew.next_call(self)) is not None:
                report = call.run(self)
                # Free before whoever waited goes on, as the next call is for this process.
                self._crew.is_free()
                report()
                del call, report  # and with them what they refer to
        finally:
            self.bury()

    def process(self) -> WorkerProcess:
        """Return the process, started if there is none.

        Raises:
            LoaderClosed: the crew was ended.
        """
        with self._changing:
            if self._crew.ended:
                raise LoaderClosed(CLOSED)
            if self._process is None:
                self._process = WorkerProcess(self._crew.niceness)
            return self._process

    def bury(self) -> None:
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


class Crew:
    """Takes calls in their order, each in a worker process.

    Args:
        count: how many processes there may be.
        niceness: theirs.
        idle: seconds that a process may have nothing to do before it ends.

    Attributes:
        ended: whether `end` was called.
    """

    def __init__(self, count: int, niceness: int, idle: float) -> None:
        self.niceness = niceness
        self._idle = idle
        self.ended = False
        self._count = count
        self._calls: deque[Call] = deque()
        self._members: list[Member] = []
        self._free = 0  # members that wait for a call, or are about to
        self._changed = threading.Condition()

    def submit(self, call: Call) -> None:
        """Queue a call.

        Raises:
            LoaderClosed: the crew was ended.
        """
        with self._changed:
            if self.ended:
                raise LoaderClosed(CLOSED)
            self._calls.append(call)
            if self._free >= len(self._calls):
                self._changed.notify()
            elif len(self._members) < self._count:
                self._hire()

    def _hire(self) -> None:
        _registry.add(self)
        member = Member(self)
        self._members.append(member)
        self._free += 1
        member.start()

    def is_free(self) -> None:
        """Take note that a member is about to wait for a call."""
        with self._changed:
            self._free += 1

    def next_call(self, member: Member) -> Call | None:
        """Wait for a call; ``None`` if there was none for so long that the member is to end."""
        with self._changed:
            came = self._changed.wait_for(lambda: self._calls or self.ended, self._idle)
            self._free -= 1
            if came and self._calls:
                return self._calls.popleft()
            self._members.remove(member)
            return None

    def end(self, patience: float | None = None) -> None:
        """Kill the processes, whatever they do, and wait until they are gone.

        Args:
            patience: seconds to wait for each; ``None`` for no bound.
        """
        with self._changed:
            self.ended = True
            calls, members = list(self._calls), list(self._members)
            self._calls.clear()
            self._changed.notify_all()
        for call in calls:
            call.refuse()
        for member in members:
            member.kill()
        for member in members:
            member.join(patience)

    def forget(self) -> None:
        """Let go of processes that belong to what this one was forked from."""
        self.ended = True
        for member in self._members:
            member.forget()


class _Registry:
    """The crews of this process, for programs that end, or fork, without closing them."""

    def __init__(self) -> None:
        self._crews: weakref.WeakSet[Crew] = weakref.WeakSet()
        self._registered = False

    def add(self, crew: Crew) -> None:
        if not self._registered:
            self._registered = True
            atexit.register(self._end_all)
            in_each_fork(self._forget_all)
        self._crews.add(crew)

    def _end_all(self) -> None:
        for crew in list(self._crews):
            crew.end(_PATIENCE)

    def _forget_all(self) -> None:
        # A worker ends when nobody has the other end of its line: a fork is not to keep it.
        for crew in list(self._crews):
            crew.forget()
        self._crews.clear()


_registry = _Registry()
