"""Control groups of Linux: what a container leaves a process of memory and CPUs.

A process is in one group of each hierarchy, and what the groups above it may use bounds it, too.
Version 2 has one hierarchy for all (Documentation/admin-guide/cgroup-v2.rst), version 1 one for
each controller (cgroup-v1/memory.rst, scheduler/sched-bwc.rst); many systems have both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["cpu_quota", "memory_left"]

_PROCESS = Path("/proc/self")
# What is in use without what can be dropped at once: pages of files that were read and not again.
_V1_REUSABLE, _V2_REUSABLE = "total_inactive_file", "inactive_file"


def memory_left(process: Path = _PROCESS) -> int | None:
    """Return the bytes of memory that the groups of a process leave it to take.

    Args:
        process: its folder in ``/proc``.

    Returns:
        The least that any of its groups has left below its limits, 0 at least; ``None`` if no group
        has a limit.
    """
    left = []
    for group in _groups("memory", process):
        limits = (
            *_numbers(group / "memory.max"),
            *_numbers(group / "memory.high"),
            *_numbers(group / "memory.limit_in_bytes"),
        )
        if limits:
            left.append(max(0, min(limits) - _memory_in_use(group)))
    return min(left, default=None)


def cpu_quota(process: Path = _PROCESS) -> float | None:
    """Return how many CPUs' time the groups of a process give it; ``None`` for all that there are.

    Args:
        process: its folder in ``/proc``.
    """
    quotas = []
    for group in _groups("cpu", process):
        of_version_1 = [*_words(group / "cpu.cfs_quota_us"), *_words(group / "cpu.cfs_period_us")]
        match _words(group / "cpu.max") or of_version_1:
            case [quota, period] if quota.isdecimal() and period.isdecimal():
                if int(quota) and int(period):
                    quotas.append(int(quota) / int(period))
    return min(quotas, default=None)


def _memory_in_use(group: Path) -> int:
    used = (*_numbers(group / "memory.current"), *_numbers(group / "memory.usage_in_bytes"), 0)[0]
    words = _words(group / "memory.stat")
    counts = dict(zip(words[::2], words[1::2], strict=False))
    reusable = counts.get(_V1_REUSABLE) or counts.get(_V2_REUSABLE) or "0"
    return max(0, used - (int(reusable) if reusable.isdecimal() else 0))


def _numbers(path: Path) -> Iterator[int]:
    """Yield the number that a file holds, if it holds one."""
    match _words(path):
        case [word] if word.isdecimal():
            yield int(word)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, ValueError):  # it is not there, as at the top; or it is no text
        return []


def _groups(controller: str, process: Path) -> Iterator[Path]:
    """Yield the folders of the groups that a process is in, each before the one above it."""
    paths = dict(_own_paths(controller, process))
    for kind, root, mount in _mounts(controller, process):
        path = paths.get(kind)
        if path is None:
            continue
        # A group outside of what is mounted is shown as the top of it, as in most containers.
        inside = os.path.relpath(path, root) if _is_below(path, root) else "."
        group = mount / inside
        yield group
        while group != mount:
            group = group.parent
            yield group


def _is_below(path: str, root: str) -> bool:
    return ".." not in path.split("/") and f"{path}/".startswith(f"{root.rstrip('/')}/")


def _own_paths(controller: str, process: Path) -> Iterator[tuple[str, str]]:
    """Yield the kind of each hierarchy, and the path of the process's group in it: cgroups(7)."""
    for line in _lines(process / "cgroup"):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            yield "cgroup2", path
        elif controller in controllers.split(","):
            yield "cgroup", path


def _mounts(controller: str, process: Path) -> Iterator[tuple[str, str, Path]]:
    """Yield each hierarchy that is mounted: kind, top as the kernel names it, folder."""
    for line in _lines(process / "mountinfo"):  # proc_pid_mountinfo(5)
        before, _, after = line.partition(" - ")
        match before.split(), after.split():
            case [_, _, _, root, mount, *_], [kind, _, options]:
                if kind == "cgroup2" or (kind == "cgroup" and controller in options.split(",")):
                    yield kind, root, Path(mount)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except (OSError, ValueError):  # no Linux
        return []
