"""What a worker process of ours does besides running jobs."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import threading
import time

__all__ = ["enter_worker"]

# Seconds between two looks for the parent.
_PARENT_CHECK = 0.5

# What the first index or decode would import; done while the parent still reads.
_PRELOAD = ("numpy", "h5py", "ml_dtypes", "isal.isal_zlib")


def enter_worker(parent: int, niceness: int) -> None:
    """Prepare this process; called once in it, before its first job.

    Args:
        parent: the process that this one serves, and with which it ends.
        niceness: by how much others go first, from 0 to 19; for its I/O as well, as Linux has it.
    """
    os.nice(niceness)
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A job past its CPU limit is killed by a signal that would leave a core file.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    threading.Thread(target=_follow, args=(parent,), name="asyncload-watch", daemon=True).start()
    _keep_shared_memory_uncounted()
    for name in _PRELOAD:
        importlib.import_module(name)


def _follow(parent: int) -> None:
    """End this process when its parent has ended, however it did."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK)
    os._exit(1)


def _keep_shared_memory_uncounted() -> None:
    # loky replaces workers that have grown; mapped slabs look like growth to it.
    executor = sys.modules.get("loky.process_executor")
    if executor is not None:
        vars(executor)["_MAX_MEMORY_LEAK_SIZE"] = sys.maxsize
