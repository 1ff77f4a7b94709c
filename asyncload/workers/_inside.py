"""What a worker process does: one job after the other, until the parent is gone."""

from __future__ import annotations

import importlib
import os
import pickle
import queue
import resource
import signal
import socket
import threading

from ._job import Outcome, by_value, cannot_be_sent
from ._line import receive, send

__all__ = ["serve"]

# What the first index or decode would import; done while the parent still reads.
_PRELOAD = ("numpy", "h5py", "ml_dtypes", "isal.isal_zlib")


def serve(line: socket.socket, niceness: int) -> None:
    """Run the jobs that arrive, and answer each; never returns.

    Args:
        line: what jobs arrive through, and answers leave.
        niceness: by how much others go first, from 0 to 19; for its I/O as well, as Linux has it.
    """
    os.nice(niceness)
    _leave_ctrl_c_to_the_parent()
    # A job past its CPU limit is killed by a signal that would leave a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    jobs: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(line, jobs), name="asyncload-line", daemon=True).start()
    _answer(line, b"ready")
    for name in _PRELOAD:
        importlib.import_module(name)
    while True:
        _answer(line, _run(jobs.get()))


def _leave_ctrl_c_to_the_parent() -> None:
    # It reaches the whole process group; the parent decides what it means. Until here it was
    # blocked, so that none could end this process while it started.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _listen(line: socket.socket, jobs: queue.SimpleQueue[bytearray]) -> None:
    """Take in jobs; end this process when the parent has ended, however it did."""
    try:
        while True:
            jobs.put(receive(line))
    except (EOFError, OSError):
        os._exit(1)


def _answer(line: socket.socket, message: bytes) -> None:
    try:
        send(line, message)
    except OSError:  # nobody is left to hear it
        os._exit(1)


def _run(packed: bytearray) -> bytes:
    job = pickle.loads(packed)  # noqa: S301 - the parent made it
    outcome: Outcome = job()
    try:
        return _sendable(outcome)
    except Exception as error:  # noqa: BLE001 - what the user's function returned may raise any
        return _sendable(Outcome(error=cannot_be_sent(error)))


def _sendable(outcome: Outcome) -> bytes:
    # The C pickler is several times faster than cloudpickle, and nearly always enough.
    try:
        return pickle.dumps(outcome, pickle.HIGHEST_PROTOCOL)
    except Exception:  # noqa: BLE001 - by value, or not at all
        return by_value(outcome)
