"""Server processes that end with this one."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests import leaks

__all__ = ["LOOPBACK", "Daemon", "Unavailable", "await_port", "find", "free_port"]

LOOPBACK = "127.0.0.1"
# Below the ports that systems give to outgoing connections, any of which could be taken meanwhile.
_PORTS = range(20_000, 32_000)
_SYSTEM_PATH = "/usr/sbin:/sbin"  # where Debian keeps servers, and users do not look
_START_PATIENCE = 30.0  # seconds
_LOG_TAIL = 2000  # characters of a log shown in an error


class Unavailable(Exception):
    """A server is not installed here, or does not start; says why and what to do."""


def find(command: str) -> str:
    """Return the path of the program ``command``.

    Raises:
        Unavailable: it is not installed.
    """
    path = shutil.which(command, path=os.environ.get("PATH", "") + os.pathsep + _SYSTEM_PATH)
    if path is None:
        raise Unavailable(f"{command} is not installed: run tests/servers/install.sh")
    return path


def free_port() -> int:
    """Return a loopback port that nothing listens on."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


class Daemon:
    """A server process in a session of its own: Ctrl-C at the terminal does not reach it.

    It dies with the thread that starts it, even if that is killed (on Linux, by ``setpriv``), and
    so only the main thread may. The checks for leaks do not count it.

    Args:
        command: program and arguments; the program must stay in the foreground.
        log: file that gets its output, appended.
        folder: its working directory; by default this process's own.
    """

    def __init__(self, command: Sequence[str], log: Path, folder: Path | None = None) -> None:
        self._command = [find(command[0]), *command[1:]]
        self._log = log
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Its process number, while it runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; returns at once."""
        if self.running:
            return
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("start servers in the main thread: they end with their thread")
        death = shutil.which("setpriv")
        prefix = [death, "--pdeathsig", "KILL", "--"] if death else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*prefix, *self._command],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        leaks.lasting_processes.add(self._process.pid)

    def kill(self) -> None:
        """End it at once, as a crash would, and wait for its end; twice is fine.

        With SIGKILL: nothing of it is to be kept, and Ceph takes seconds to end in order.
        """
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        leaks.lasting_processes.discard(self._process.pid)
        self._process = None

    def failure(self, what: str) -> Unavailable:
        """Return an error that says ``what`` went wrong, and what the process last said."""
        name = Path(self._command[0]).name
        tail = self._log.read_text(errors="replace")[-_LOG_TAIL:] if self._log.exists() else ""
        return Unavailable(f"{name}: {what}\n{tail}")

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready``.

        Raises:
            Unavailable: it ended, or is not ready after half a minute.
        """
        deadline = time.monotonic() + _START_PATIENCE
        while not ready():
            if not self.running:
                raise self.failure("ended before it was ready")
            if time.monotonic() > deadline:
                raise self.failure(f"not ready after {_START_PATIENCE:.0f} s")
            time.sleep(0.005)


def await_port(daemon: Daemon, port: int) -> None:
    """Wait until ``daemon`` takes connections at ``port``; raises Unavailable if it does not."""
    daemon.wait_until(lambda: _listens(port))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0
