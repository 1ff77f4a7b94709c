"""Whoever makes or changes models takes a turn, in the scopes of whoever asked for it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TypeVar

from asyncload.forks import OwnLock, in_each_fork
from asyncload.resting import in_spells, is_resting, rest, rest_when_due
from asyncload.texts import printable

from .quiet import collect_young, quiet

__all__ = ["in_slices", "rest_in_turn", "summary", "turn", "with_rests"]

Item = TypeVar("Item")
Enter = Callable[[], AbstractContextManager[None]]

_PAUSE = 0.00002  # seconds
_SAID = 300  # characters of the beginning, and of the end, of a long text

_KERAS_SAYS_WHY = "Exception encountered:"
_KERAS_OBJECT = re.compile(r"class '(?:[\w.]+\.)?(\w+)'")

# Keras keeps its scopes and names by thread, but TensorFlow's variables are not made safely
# by two threads at once (keras IS_THREAD_SAFE, tensorflow#78338).
_one_at_a_time = OwnLock()


class _Queue:
    """Who waits for a turn."""

    urgent = 0  # how many that do not rest themselves

    @contextmanager
    def waiting(self) -> Iterator[None]:
        urgent = not is_resting()
        with _counting:
            self.urgent += urgent
        try:
            yield
        finally:
            with _counting:
                self.urgent -= urgent

    def forget(self) -> None:
        """Forget who waits: those threads stayed in the parent of this process."""
        self.urgent = 0


_queue, _counting = _Queue(), OwnLock()
in_each_fork(_queue.forget)


@contextmanager
def turn(scopes: Enter = nullcontext) -> Iterator[None]:
    """Have TensorFlow's objects for this thread alone, until the block ends, and stall no other.

    Args:
        scopes: enters those of whoever asked.
    """
    with ExitStack() as held:
        with _queue.waiting():
            held.enter_context(_one_at_a_time)
        with scopes(), quiet():
            yield


def in_slices(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, and now and then let other threads go first.

    Every operation of TensorFlow lets go of the GIL and takes it again at once, by which a thread
    that waits for it begins to wait anew, however short the switch interval is.
    """
    return in_spells(items, _give_way)


def _give_way() -> None:
    if _queue.urgent or not rest():
        time.sleep(_PAUSE)


def with_rests(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, and rest now and then, if this thread works for what is not urgent."""
    return in_spells(items, rest_in_turn)


def rest_in_turn() -> None:
    """Rest, when it is due, in the middle of something long that is not urgent."""
    if not _queue.urgent and rest_when_due():
        collect_young()


def summary(error: Exception) -> str:
    """Return an error's kind and what it says, on one line, with the part that names the reason."""
    return printable(f"{type(error).__name__}: {_reason(' '.join(str(error).split()))}")


def _reason(text: str) -> str:
    # Keras quotes the config of each object around what is wrong, and says that at the end.
    around, begin, reason = text.rpartition(_KERAS_SAYS_WHY)
    if not begin:
        return _shortened(text)
    said, objects = _shortened(reason.strip()), _KERAS_OBJECT.findall(around)
    return said if not objects or objects[-1] in said else f"{objects[-1]}: {said}"


def _shortened(text: str) -> str:
    """Leave out the middle of a long text."""
    return text if len(text) <= 2 * _SAID else f"{text[:_SAID]} [...] {text[-_SAID:]}"
