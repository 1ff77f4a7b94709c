"""One worker process, and the line to it."""

from __future__ import annotations

import json
import multiprocessing.spawn
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asyncload.errors import WorkerCrashed

from ._line import receive, send
from ._safe_path import safe_path

__all__ = ["WorkerDied", "WorkerProcess"]

_PACKAGE = Path(__file__).parents[1]
_BOOT = Path(__file__).with_name("_boot.py")
# Milliseconds between two looks for a worker that is gone, though what it started holds its line.
_LOOK = 1000
_REMEDY = "Loader(executor='thread') needs no worker processes"


class WorkerDied(Exception):
    """The process ended before it answered.

    Attributes:
        code: its exit code, or minus the number of the signal that ended it.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    @property
    def by(self) -> str:
        """What ended it, in words: ``SIGKILL``, or ``exit code 3``."""
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"signal {-self.code}"


class WorkerProcess:
    """A process that runs one job at a time; one thread at a time may call it.

    Args:
        niceness: by how much others go first; see nice(2).

    Raises:
        WorkerCrashed: the system refuses to start it.
    """

    def __init__(self, niceness: int) -> None:
        self._ready = False
        self._niceness = niceness
        self._line, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = _start(theirs.fileno())
            except OSError as error:
                self._line.close()
                raise WorkerCrashed(
                    f"a worker process cannot be started ({error}); {_REMEDY}"
                ) from error

    def call(self, packed: bytes) -> bytearray:
        """Have a packed job run, and return its packed outcome.

        Raises:
            WorkerDied: the process ended first.
            WorkerCrashed: it never began to take jobs.
        """
        try:
            if not self._ready:
                self._greet()
            send(self._line, packed)
            return self._answer()
        except (EOFError, OSError):
            raise self._death() from None

    def _greet(self) -> None:
        told = {"path": safe_path(), "package": str(_PACKAGE), "niceness": self._niceness}
        send(self._line, json.dumps(told).encode())
        self._answer()
        self._ready = True

    def _answer(self) -> bytearray:
        poll = select.poll()
        poll.register(self._line, select.POLLIN)
        while not poll.poll(_LOOK):
            if self._process.poll() is not None:
                raise EOFError
        return receive(self._line)

    def _death(self) -> Exception:
        self.end()
        died = WorkerDied(self._process.returncode)
        if self._ready or died.code < 0:
            return died
        return WorkerCrashed(
            f"a worker process ended while it started ({died.by}; it says why on standard error). "
            f"It was started as {_python()!r}; multiprocessing.set_executable() chooses another "
            f"interpreter, and {_REMEDY}"
        )

    def kill(self) -> None:
        """Kill the process; `call` then raises `WorkerDied`. Any thread may do this."""
        self._process.kill()

    def end(self) -> None:
        """Kill the process, and wait until it is gone; ending twice is fine."""
        self._process.kill()
        self._process.wait()
        self._line.close()

    def forget(self) -> None:
        """Let go of a process that is not this one's child, but that of what forked this one."""
        self._line.close()
        self._process.returncode = 0  # nobody signals it, or waits for it, from here


def _start(descriptor: int) -> subprocess.Popen[bytes]:
    command = [_python(), *_interpreter_options(), "-P", str(_BOOT), str(descriptor)]
    with _without_ctrl_c():
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(descriptor,))


def _python() -> str:
    return os.fsdecode(multiprocessing.spawn.get_executable() or sys.executable)


def _interpreter_options() -> list[str]:
    given = {
        "-I": sys.flags.isolated,
        "-E": sys.flags.ignore_environment,
        "-s": sys.flags.no_user_site,
        "-S": sys.flags.no_site,
        "-B": sys.flags.dont_write_bytecode,
    }
    return [option for option, is_given in given.items() if is_given]


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Have what this thread starts be deaf to SIGINT until it says otherwise."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
