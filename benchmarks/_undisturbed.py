"""Which seconds were the machine's own: in the others, the host ran other machines on its CPUs.

A virtual machine waits for a CPU then, for 100 ms and more, whatever it runs: every answer and the
loop are late. Linux counts that time ("steal", proc_stat(5)); elsewhere nothing is left out.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

__all__ = ["Mark", "stolen_seconds", "undisturbed"]

TAKEN = 0.02  # of all CPUs: what the host takes in a second that is left out


@dataclass(frozen=True, slots=True)
class Mark:
    """What there was at one moment.

    Attributes:
        at: seconds of a clock.
        stolen: seconds that the host had given to others, in the mean of CPUs.
        answers: how many there were.
        lags: how many there were.
    """

    at: float
    stolen: float
    answers: int
    lags: int


def stolen_seconds() -> float:
    """Return for how long, in the mean of CPUs, one had work and the host ran another machine."""
    return getattr(psutil.cpu_times(), "steal", 0.0) / (os.cpu_count() or 1)


def undisturbed(marks: Sequence[Mark]) -> Iterator[tuple[Mark, Mark]]:
    """Yield begin and end of each span in which the host took nothing, nor in the one before it.

    What it took in the one before has left a queue.

    Args:
        marks: a second apart.
    """
    before = False
    for begin, end in itertools.pairwise(marks):
        disturbed = end.stolen - begin.stolen > TAKEN * (end.at - begin.at)
        if not disturbed and not before:
            yield begin, end
        before = disturbed
