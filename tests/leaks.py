"""What a test may leave behind: nothing. Snapshots of what the process holds, compared."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

__all__ = ["Held", "lasting_processes", "leaked", "snapshot"]

# Processes, by number, that serve more than one test (tests/servers); with what they start, they
# are not counted. Who starts one adds it here, and takes it out when it ended.
lasting_processes: set[int] = set()

# The resource tracker of multiprocessing, which tests use, lives as long as the program.
_TRACKERS = ("resource_tracker",)
# TensorFlow and NumPy start these once, at first use, and keep them.
_LASTING_THREADS = ("pydevd", "tf_", "Profiler", "pytest_timeout")
_PROC = Path("/proc/self")
# Seconds. On a busy machine, a build that nobody waits for takes long to end. A test that leaves
# nothing behind does not wait.
_PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Held:
    """What the process holds at one moment: identity -> how to name it in a message."""

    threads: dict[int, str] = field(default_factory=dict)
    children: dict[int, str] = field(default_factory=dict)
    descriptors: dict[str, str] = field(default_factory=dict)
    segments: dict[str, str] = field(default_factory=dict)


def snapshot() -> Held:
    """Return what the process holds now, but for what lives as long as the program."""
    return Held(_threads(), _children(), _descriptors(), _segments())


def leaked(before: Held, *, patience: float = _PATIENCE) -> list[str]:
    """Return a line for each thing held now and not ``before``, once it had time to go.

    Args:
        before: what was held when the test began.
        patience: seconds that threads and processes get to end.
    """
    deadline = time.monotonic() + patience
    while lines := _difference(before, snapshot()):
        gc.collect()
        if time.monotonic() > deadline:
            return lines
        time.sleep(0.02)
    return []


def _difference(before: Held, now: Held) -> list[str]:
    lines: list[str] = []
    for kind in ("threads", "children", "descriptors", "segments"):
        old, new = getattr(before, kind), getattr(now, kind)
        lines += [f"{kind}: {new[key]}" for key in new.keys() - old.keys()]
    return sorted(lines)


def _threads() -> dict[int, str]:
    return {
        thread.ident or 0: thread.name
        for thread in threading.enumerate()
        if not thread.name.startswith(_LASTING_THREADS)
    }


def _children() -> dict[int, str]:
    found = {}
    for child in _descendants(psutil.Process()):
        try:
            command = " ".join(child.cmdline()) or child.name()
        except psutil.NoSuchProcess:
            continue
        except psutil.ZombieProcess:
            command = "a zombie: nobody waited for it"
        if not any(tracker in command for tracker in _TRACKERS):
            found[child.pid] = f"{child.pid} {command[:120]}"
    return found


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    """Return all that ``process`` started, directly or not, but for what lasts."""
    found = process.children(recursive=True)
    parents = {}
    for child in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            parents[child.pid] = child.ppid()
    lasting = set(lasting_processes)
    while more := {pid for pid, parent in parents.items() if parent in lasting} - lasting:
        lasting |= more
    return [child for child in found if child.pid not in lasting]


def _descriptors() -> dict[str, str]:
    if not _PROC.exists():
        count = psutil.Process().num_fds()
        return {str(index): f"one of {count} descriptors" for index in range(count)}
    found = {}
    lasting = _tracker_descriptors()
    for name in os.listdir(_PROC / "fd"):
        try:
            target = os.readlink(_PROC / "fd" / name)
        except OSError:  # the descriptor of the listing itself
            continue
        if int(name) not in lasting and not target.startswith(("/dev/", "/proc/", "/sys/")):
            found[f"{name} {target}"] = f"{name} -> {target}"
    return found


def _tracker_descriptors() -> set[int]:
    module = sys.modules.get("multiprocessing.resource_tracker")
    return set() if module is None else {module._resource_tracker._fd}


def _segments() -> dict[str, str]:
    """Return shared memory: what this process maps, and what bears its number in /dev/shm."""
    found = {}
    shm = Path("/dev/shm")
    if shm.exists():
        mark = f"-{os.getpid()}-"
        found = {name: f"/dev/shm/{name}" for name in os.listdir(shm) if mark in name}
    if _PROC.exists():
        for line in (_PROC / "maps").read_text().splitlines():
            address, *_, path = line.split(maxsplit=5)
            if path.startswith(("/memfd:", "/dev/shm/")) and "sem." not in path:
                found[f"{address} {path}"] = f"mapping {path}"
    return found
