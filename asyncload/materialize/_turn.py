"""Whoever makes or changes models takes a turn, in the scopes of whoever asked for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

from .quiet import quiet

__all__ = ["Scopes", "in_slices", "summary", "turn"]

Item = TypeVar("Item")
Scopes = Callable[[], AbstractContextManager[None]]

_SLICE = 0.0005  # seconds
_PAUSE = 0.00002

# Keras keeps its scopes and names by thread, but TensorFlow's variables are not made safely
# by two threads at once (keras IS_THREAD_SAFE, tensorflow#78338).
_one_at_a_time = threading.RLock()


@contextmanager
def turn(scopes: Scopes = nullcontext) -> Iterator[None]:
    """Have TensorFlow's objects for this thread alone, until the block ends, and stall no other.

    Args:
        scopes: enters the Keras scopes of whoever asked.
    """
    with _one_at_a_time, scopes(), quiet():
        yield


def in_slices(items: Iterable[Item]) -> Iterator[Item]:
    """Yield items, and now and then let other threads go first.

    Every operation of TensorFlow lets go of the GIL and takes it again at once, by which a thread
    that waits for it begins to wait anew, however short the switch interval is.
    """
    until = time.perf_counter() + _SLICE
    for item in items:
        yield item
        if time.perf_counter() > until:
            time.sleep(_PAUSE)
            until = time.perf_counter() + _SLICE


def summary(error: Exception) -> str:
    """Return an error's kind and the beginning of its text, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
