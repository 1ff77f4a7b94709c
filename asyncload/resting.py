"""Work in threads that others are to feel little of: a little work, then a rest, and so on.

Loads that are not urgent go like that. Whoever runs one says so in the context of its task
(`resting`), and work that is handed to a thread takes that context along (`carried`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from typing import ParamSpec, Protocol, TypeVar

__all__ = ["Rest", "carried", "in_spells", "is_resting", "rest", "rest_when_due", "resting"]

Params = ParamSpec("Params")
Result = TypeVar("Result")
Item = TypeVar("Item")

SPELL = 0.0005  # seconds


class Rest(Protocol):
    """Says how long to rest; called in any thread."""

    def is_wanted(self) -> bool:
        """Whether there is to be any rest at present."""
        ...

    def after(self, worked: float) -> float:
        """Return how many seconds to sleep.

        Args:
            worked: seconds of CPU time that a thread has worked since it asked before.
        """
        ...


_rest: ContextVar[Rest | None] = ContextVar("asyncload_rest", default=None)


@contextmanager
def resting(rest: Rest) -> Iterator[None]:
    """Have work rest that is begun in this context, until the block ends.

    Args:
        rest: says how long. Tasks and calls that outlive the block keep it alive.
    """
    before = _rest.get()
    _rest.set(rest)
    try:
        yield
    finally:
        # No reset by a token: a task that is destroyed before its end does this in another context.
        _rest.set(before)


class _Spell(threading.local):
    """What a thread works in a row."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.until = time.perf_counter() + SPELL
        self.began = time.thread_time()

    @property
    def is_over(self) -> bool:
        return time.perf_counter() > self.until


_spell = _Spell()


def carried(function: Callable[Params, Result]) -> Callable[Params, Result]:
    """Return the function to be called in another thread, once, in a copy of this context."""
    context = copy_context()

    def call(*args: Params.args, **kwargs: Params.kwargs) -> Result:
        _spell.begin()
        return context.run(function, *args, **kwargs)

    return call


def is_resting() -> bool:
    """Whether work here is to rest at present: if so, it had better be done bit by bit."""
    rest = _rest.get()
    return rest is not None and rest.is_wanted()


def rest() -> bool:
    """Sleep for what this thread has worked since it did so before.

    Returns:
        Whether there was anything to sleep for.
    """
    wanted = _rest.get()
    pause = 0.0 if wanted is None else wanted.after(time.thread_time() - _spell.began)
    if pause > 0:
        time.sleep(pause)
    _spell.begin()
    return pause > 0


def rest_when_due() -> bool:
    """`rest` after each spell of work; called often, between what is short.

    Returns:
        Whether it did.
    """
    return _spell.is_over and _rest.get() is not None and rest()


def in_spells(items: Iterable[Item], rest: Callable[[], object] = rest) -> Iterator[Item]:
    """Yield items, and rest after each spell of work on them."""
    for item in items:
        yield item
        if _spell.is_over:
            rest()
            _spell.begin()
