"""What belongs to one process, and is of no use in those that are forked from it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from weakref import WeakSet

from asyncload.errors import Forked

__all__ = ["WHAT_TO_DO", "Origin", "OwnLock", "in_each_fork"]

WHAT_TO_DO = (
    "Load after the fork: in the application's lifespan, or in gunicorn's post_fork; or start "
    "processes by 'spawn'"
)


class Origin:
    """The process that something was made in.

    Args:
        what: how errors call what was made: ``"this Loader"``.
    """

    __slots__ = ("_process", "_what")

    def __init__(self, what: str) -> None:
        self._what = what
        self._process = os.getpid()

    @property
    def is_here(self) -> bool:
        """Whether it was made in this process."""
        return self._process == os.getpid()

    def check(self, uri: str | None = None) -> None:
        """Raise `Forked` in any other process.

        Args:
            uri: what it is about.
        """
        if not self.is_here:
            raise Forked(
                f"{self._what} belongs to process {self._process}, from which this one "
                f"({os.getpid()}) was forked: its threads stayed there, so nothing would ever "
                f"answer. {WHAT_TO_DO}",
                uri=uri,
            )


def in_each_fork(function: Callable[[], None]) -> None:
    """Have a function called in every process that is forked from this one, as it begins."""
    if hasattr(os, "register_at_fork"):  # Windows knows no forks
        os.register_at_fork(after_in_child=function)


class OwnLock:
    """A lock that is free in a forked process, whichever thread of the parent held it.

    The same thread may take it several times.
    """

    __slots__ = ("__weakref__", "_lock")

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _locks.add(self)

    def free(self) -> None:
        """Forget who held it; called in a forked process."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_locks: WeakSet[OwnLock] = WeakSet()


def _free_all() -> None:
    for lock in list(_locks):
        lock.free()


in_each_fork(_free_all)
