"""A call on its way to a worker, the limits it runs under, and what came of it."""

from __future__ import annotations

import concurrent.futures
import pickle
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from asyncload.errors import AsyncloadError, DecodeError, TooLarge

__all__ = ["PARSE_LIMITS", "Job", "Limits", "Outcome", "by_value", "cannot_be_sent"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one job may use up in a worker process.

    Attributes:
        memory: bytes of private memory beyond what the worker already has; ``None`` for any number.
            Shared slabs do not count. Held on Linux only: macOS does not enforce such limits.
        cpu: seconds of CPU time; ``None`` for any number.
    """

    memory: int | None
    cpu: float | None


# A chunk of HDF5 (4 GiB at most by its format) must fit; a thousand datasets take 0.06 s.
PARSE_LIMITS = Limits(memory=4 << 30, cpu=30.0)

# CPU seconds for Python to notice that the time is up; then the kernel ends the process.
_GRACE = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call returned or raised, in a form that survives the way back.

    Attributes:
        value: what it returned.
        error: what it raised, or ``None``.
        trace: the traceback in the worker as text; empty where ``error`` still has its own.
    """

    value: Any = None
    error: Exception | None = None
    trace: str = ""

    def get(self) -> Any:
        """Return the value or raise the error, the worker's traceback as its cause."""
        if self.error is None:
            return self.value
        if self.trace:
            self.error.__cause__ = _RemoteTraceback(self.trace)
        raise self.error

    def __reduce__(self) -> tuple[Any, ...]:
        if self.error is None:
            return Outcome, (self.value,)
        # By value, as its class may be one of the caller's ``__main__``.
        return _arrived, (by_value(self.error), self.trace)


def _arrived(packed: bytes, trace: str) -> Outcome:
    return Outcome(error=pickle.loads(packed), trace=trace)  # noqa: S301 - a worker made it


class _RemoteTraceback(Exception):
    """The traceback of an error, as it was in the worker."""

    def __str__(self) -> str:
        trace = str(self.args[0])
        return f'\n"""\n{trace}"""' if "\n" in trace else trace


class Job:
    """A call that runs wherever an executor takes it: in a thread, or pickled in a process.

    Args:
        function: what to call. Pickled by value unless importable, so closures and functions
            of ``__main__`` will do.
        args: its arguments.
        limits: what it may use up, in a process; ``None`` for no limits.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], limits: Limits | None
    ) -> None:
        self._call = function, args
        self._limits = limits

    def __call__(self) -> Outcome:
        """Call in this process, without limits, which would be those of all its threads."""
        function, args = self._call
        try:
            return Outcome(function(*args))
        except BaseException as error:  # noqa: BLE001 - raised again by Outcome.get
            return Outcome(error=_harmless(error))

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled once, here: what cannot be unpickled then fails its own job and not the worker.
        return _PackedJob, (self._pack(), self._limits)

    def packed(self) -> bytes:
        """Return this call for a worker of ours.

        A worker imports nothing from the program's own folders. The user's functions may be there,
        so for the time of such a call it imports from where this process does.

        Raises:
            DecodeError: the function or its arguments cannot be sent.
        """
        path = None if self._is_ours else tuple(sys.path)
        try:
            job = _PackedJob(self._pack(), self._limits, path)
            return pickle.dumps(job, pickle.HIGHEST_PROTOCOL)
        except Exception as error:
            raise cannot_be_sent(error) from error

    @property
    def _is_ours(self) -> bool:
        module = getattr(self._call[0], "__module__", None) or ""
        return self._limits is not None and module.startswith("asyncload.")

    def _pack(self) -> bytes:
        # The C pickler is several times faster than cloudpickle on an index of a thousand chunks,
        # and all that this package's own jobs consist of is importable.
        if self._is_ours:
            return pickle.dumps(self._call, pickle.HIGHEST_PROTOCOL)
        return by_value(self._call)


class _PackedJob:
    """A `Job` that has arrived in a worker process.

    Args:
        packed: the function and its arguments.
        limits: what it may use up.
        path: ``sys.path`` for the time of the call; ``None`` for the process's own.
    """

    def __init__(
        self, packed: bytes, limits: Limits | None, path: tuple[str, ...] | None = None
    ) -> None:
        self._packed = packed
        self._limits = limits
        self._path = path

    def __call__(self) -> Outcome:
        try:
            with _importing_from(self._path), _limited(self._limits):
                function, args = pickle.loads(self._packed)  # noqa: S301 - the parent made it
                return Outcome(function(*args))
        except BaseException as error:  # noqa: BLE001 - all of it is reported
            return Outcome(error=_sendable(error), trace=_trace(error))


def _trace(error: BaseException) -> str:
    """Return where an error comes from, as text; of one raised on purpose, what it translates."""
    if not isinstance(error, AsyncloadError):
        return traceback.format_exc()
    cause = error.__cause__
    return "" if cause is None else "".join(traceback.format_exception_only(cause)).strip()


@contextmanager
def _importing_from(path: tuple[str, ...] | None) -> Iterator[None]:
    if path is None:
        yield
        return
    import cloudpickle  # noqa: F401  here, so that none beside the program takes its place

    before = sys.path[:]
    sys.path[:] = path
    try:
        yield
    finally:
        sys.path[:] = before


def by_value(what: Any) -> bytes:
    """Pickle something with the functions and classes in it that cannot be imported."""
    import cloudpickle

    packed: bytes = cloudpickle.dumps(what)
    return packed


def cannot_be_sent(error: BaseException) -> DecodeError:
    """Return the error of a call whose function, arguments or result do not pickle.

    Args:
        error: what the pickler said.
    """
    return DecodeError(
        "the function, its arguments or its result cannot be sent between processes: "
        f"{_last_line(error.__cause__ or error)}. Use what pickles, or executor='thread'."
    )


def _last_line(error: BaseException) -> str:
    """Return what an error says, where it may be a traceback in quotes."""
    lines = [line.strip() for line in str(error).splitlines()]
    return next((line for line in reversed(lines) if line.strip('"')), repr(error))


# Raised in an event loop these would end or confuse the loop rather than the job.
_CONTROL = (concurrent.futures.CancelledError, StopIteration, StopAsyncIteration)


def _harmless(error: BaseException) -> Exception:
    if isinstance(error, Exception) and not isinstance(error, _CONTROL):
        return error
    translated = DecodeError(f"the function raised {error!r}, which only ends what it runs in")
    translated.__cause__ = error
    return translated


def _sendable(error: BaseException) -> Exception:
    harmless = _harmless(error)
    try:
        if type(pickle.loads(by_value(harmless))) is type(harmless):  # noqa: S301
            return harmless
    except Exception as reason:  # noqa: BLE001 - a class of the user's may raise anything
        return DecodeError(
            f"raised {error!r}, which cannot be sent between processes ({reason}); raise an "
            "exception that pickles, with its arguments passed to super().__init__"
        )
    return DecodeError(f"raised {error!r}, which changes its type when pickled")


# --- limits ----------------------------------------------------------------------------


@contextmanager
def _limited(limits: Limits | None) -> Iterator[None]:
    # Limits and timers are the process's, and signals arrive in its main thread: where an
    # executor of the caller's runs jobs in other threads, they stay off.
    if limits is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with _limited_memory(limits.memory), _limited_cpu(limits.cpu):
            yield
    except MemoryError as error:
        if isinstance(error, AsyncloadError):
            raise
        allowed = "all" if limits.memory is None else f"the {limits.memory >> 20} MiB of"
        raise TooLarge(
            f"needs more than {allowed} memory that a worker may use on it, and may be a bomb. If "
            "it is genuine, load it with Loader(max_worker_memory=...)."
        ) from error


@contextmanager
def _limited_memory(extra: int | None) -> Iterator[None]:
    if extra is None or not sys.platform.startswith("linux"):
        yield
        return
    # Since Linux 4.7 RLIMIT_DATA counts all private writable mappings, and no shared ones.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = _private_memory() + extra
    bounds = [bound for bound in (allowed, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _private_memory() -> int:
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[5]) * resource.getpagesize()


class _TimeIsUp(BaseException):
    """Raised wherever the code happens to be; a parser that catches `ValueError` lets it pass."""


@contextmanager
def _limited_cpu(seconds: float | None) -> Iterator[None]:
    """Raise `TooLarge` once ``seconds`` of CPU are spent; kill the process if it goes on."""
    if seconds is None:
        yield
        return

    def expire(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise _TimeIsUp

    previous = signal.signal(signal.SIGPROF, expire)
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    end = int(time.process_time() + seconds + _GRACE) + 1
    bounds = [bound for bound in (end, soft, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_CPU, (min(bounds), hard))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    except _TimeIsUp as error:
        raise TooLarge(
            f"takes more than the {seconds:g} s of CPU time that a worker may spend on it, and may "
            "be a bomb. If it is genuine, load it with Loader(max_worker_seconds=...)."
        ) from error
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
        resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))
