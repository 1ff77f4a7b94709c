"""What the benchmarks share: turns, the loop's stall, peak memory, bandwidth, and the report."""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# Before anything imports TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import psutil
from rich.console import Console
from rich.table import Table

__all__ = [
    "CACHE",
    "Options",
    "PeakMemory",
    "Report",
    "alternate",
    "copy_bandwidth",
    "options",
    "read_all",
    "seconds",
]

CACHE = Path(__file__).resolve().parent.parent / ".cache" / "bench"

Way = Callable[[], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asked for; ``peer`` is the interpreter that has a peer installed."""

    quick: bool
    json: Path | None
    rounds: int
    peer: str | None = None


def options(description: str, *, peer: str | None = None) -> Options:
    """Parse the options that every benchmark takes.

    Args:
        description: shown by ``--help``.
        peer: name of a peer that lives in an environment of its own, if there is one.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    parser.add_argument("--quick", action="store_true", help="small inputs, two rounds")
    parser.add_argument("--rounds", type=int, help="turns for each way (5; quick: 2)")
    if peer is not None:
        parser.add_argument(
            f"--{peer}", dest="peer", metavar="PYTHON", help=f"an interpreter that has {peer}"
        )
    given = parser.parse_args()
    rounds = given.rounds or (2 if given.quick else 5)
    CACHE.mkdir(parents=True, exist_ok=True)
    return Options(given.quick, given.json, rounds, getattr(given, "peer", None))


async def seconds(way: Way) -> tuple[float, Any]:
    """Return how long one call took, and what it returned."""
    begin = time.perf_counter()
    result = await way()
    return time.perf_counter() - begin, result


async def alternate(ways: Mapping[str, Way], rounds: int) -> dict[str, list[float]]:
    """Call every way in turn, ``rounds`` times; return the seconds of each call.

    What a call returned is dropped, and the garbage of one way collected, before the next begins.
    """
    took: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            gc.collect()
            elapsed, result = await seconds(way)
            del result
            took[name].append(elapsed)
    gc.collect()
    return took


def read_all(paths: Sequence[Path]) -> int:
    """Bring files into the page cache; return their bytes."""
    total = 0
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while block := file.read(16 << 20):
                total += len(block)
    return total


def copy_bandwidth(nbytes: int = 256 << 20, threads: int = 2, rounds: int = 5) -> float:
    """Return bytes a second that ``threads`` threads copy into memory already touched."""
    source, target = np.ones(nbytes, np.uint8), np.ones(nbytes, np.uint8)
    cuts = np.linspace(0, nbytes, threads + 1, dtype=np.int64)
    parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(cuts)]

    def copy(part: slice) -> None:
        np.copyto(target[part], source[part])

    best = float("inf")
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            begin = time.perf_counter()
            list(pool.map(copy, parts))
            best = min(best, time.perf_counter() - begin)
    return nbytes / best


class PeakMemory:
    """Measures resident memory of this process and its children while it is entered.

    On Linux this process' own peak is the kernel's (VmHWM), and so exact; of the children, what
    they share with nobody is sampled. Elsewhere both are sampled.

    Attributes:
        peak: bytes above what was held on entry; known on leaving.
    """

    def __init__(self, interval: float = 0.005) -> None:
        self.peak = 0
        self._interval = interval
        self._end = threading.Event()
        self._own = self._children = self._own_base = self._children_base = 0
        self._thread = threading.Thread(target=self._sample, name="peak-memory", daemon=True)

    def __enter__(self) -> Self:
        gc.collect()
        if sys.platform == "linux":
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew: proc(5)
        self._own_base, self._children_base = _own_memory(), _children_memory()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end.set()
        self._thread.join()
        self._look()
        self.peak = self._own - self._own_base + self._children - self._children_base

    def _sample(self) -> None:
        while not self._end.wait(self._interval):
            self._look()

    def _look(self) -> None:
        self._own = max(self._own, _own_memory())
        self._children = max(self._children, _children_memory())


def _own_memory() -> int:
    """Return the highest resident set size on Linux, the present one elsewhere."""
    if sys.platform != "linux":
        return int(psutil.Process().memory_info().rss)
    return _field(Path("/proc/self/status"), "VmHWM:")


def _children_memory() -> int:
    """Return the children's memory, without what they share on Linux."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            if sys.platform == "linux":
                rollup = Path(f"/proc/{child.pid}/smaps_rollup")
                total += _field(rollup, "Private_Clean:") + _field(rollup, "Private_Dirty:")
            else:
                total += child.memory_info().rss
        except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
            continue  # it ended between the listing and the look
    return total


def _field(path: Path, name: str) -> int:
    line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) << 10


class Report:
    """Figures with the least that is asked of them, as a table and as JSON.

    Args:
        title: of the benchmark.
        given: the command line.
    """

    def __init__(self, title: str, given: Options) -> None:
        self._given = given
        self._table = Table(title=title, title_justify="left")
        for heading in ("what", "figure", "asked", ""):
            self._table.add_column(heading, justify="left" if heading == "what" else "right")
        self._figures: list[dict[str, Any]] = []
        self._runs: dict[str, Any] = {}

    def runs(self, name: str, took: Mapping[str, Sequence[float]]) -> None:
        """Keep the seconds of every call, for the JSON, and show the best of each."""
        self._runs[name] = {way: list(times) for way, times in took.items()}
        for way, times in took.items():
            self._table.add_row(f"{name}: {way}", f"{min(times):.3f} s", "", "")

    def figure(self, what: str, value: float, unit: str, *, at_least: float) -> None:
        """Add a figure that should be ``at_least`` so large."""
        self._add(what, value, unit, f"≥ {at_least:.4g}", value >= at_least)

    def bound(self, what: str, value: float, unit: str, *, at_most: float) -> None:
        """Add a figure that should be ``at_most`` so large."""
        self._add(what, value, unit, f"≤ {at_most:.4g}", value <= at_most)

    def note(self, what: str, value: float, unit: str) -> None:
        """Add a figure of which nothing is asked."""
        self._add(what, value, unit, "", None)

    def _add(self, what: str, value: float, unit: str, asked: str, met: bool | None) -> None:
        self._figures.append(
            {"what": what, "value": value, "unit": unit, "asked": asked, "met": met}
        )
        verdict = {True: "[green]met[/]", False: "[red]not met[/]", None: ""}[met]
        self._table.add_row(what, f"{value:.2f} {unit}", asked, verdict)

    def finish(self) -> None:
        """Print the table, and write the JSON if a file was named."""
        Console().print(self._table)
        if self._given.json is not None:
            document = {
                "machine": _machine(),
                "quick": self._given.quick,
                "rounds": self._given.rounds,
                "figures": self._figures,
                "seconds": self._runs,
            }
            self._given.json.write_text(json.dumps(document, indent=2) + "\n")


def _machine() -> dict[str, Any]:
    packages = ("numpy", "h5py", "safetensors", "tensorflow", "keras", "uvloop")
    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }
