"""Whether TensorFlow can call functions here.

Its threads do not follow a fork. In a process that was forked after TensorFlow had started, single
operations run, as the thread that asks computes them; a function waits for threads that are not
there, for ever. So it is with stock TensorFlow, and so with `predict` of Keras.
"""

from __future__ import annotations

import functools
import os
import threading

import tensorflow as tf

from asyncload.errors import Forked
from asyncload.forks import WHAT_TO_DO

__all__ = ["calls_functions", "check_calls"]

_TASKS = "/proc/self/task"  # Linux only; elsewhere nobody forks with TensorFlow
_NAMES = "tf_"  # how the names of TensorFlow's threads begin
_PATIENCE = 5.0  # seconds for a function that adds two numbers, before it counts as hanging


def check_calls(uri: str) -> None:
    """Raise `Forked` where functions would hang.

    Args:
        uri: of the SavedModel that is to be loaded.
    """
    if not calls_functions():
        raise Forked(
            f"cannot be called in this process ({os.getpid()}), which was forked after TensorFlow "
            f"had started: its threads are missing, and a call would wait for ever. {WHAT_TO_DO}",
            uri=uri,
        )


def calls_functions() -> bool:
    """Whether a function of TensorFlow ends in this process."""
    tf.config.list_logical_devices()  # starts the threads, if nobody has yet
    return _has_threads() or _tried(os.getpid())


def _has_threads() -> bool:
    try:
        return any(_name(task).startswith(_NAMES) for task in os.listdir(_TASKS))
    except FileNotFoundError:
        return True


def _name(task: str) -> str:
    try:
        with open(f"{_TASKS}/{task}/comm") as file:
            return file.read()
    except OSError:  # it has ended
        return ""


@functools.cache
def _tried(process: int) -> bool:
    """Call a function; it is left alone if it hangs."""
    del process  # what a parent found says nothing
    ended = threading.Event()

    def call() -> None:
        tf.function(lambda x: x + x, autograph=False)(tf.constant(1.0))
        ended.set()

    threading.Thread(target=call, name="tf_trial", daemon=True).start()
    return ended.wait(_PATIENCE)
