"""Whoever makes or changes models takes a turn, in the scopes of whoever asked for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from .quiet import quiet

__all__ = ["Scopes", "summary", "turn"]

Scopes = Callable[[], AbstractContextManager[None]]

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


def summary(error: Exception) -> str:
    """Return an error's kind and the beginning of its text, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}"
