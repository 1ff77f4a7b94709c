"""Which bytes of a file are here, and which are to be fetched; ends are exclusive."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

__all__ = ["Range", "Ranges", "pieces"]

Range = tuple[int, int]


class Ranges:
    """A set of bytes, as sorted ranges that do not touch.

    Args:
        ranges: to begin with, in any order.
    """

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for each in ranges:
            self.add(*each)

    def add(self, start: int, stop: int) -> None:
        """Take the bytes from ``start`` to ``stop`` in."""
        if start >= stop:
            return
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last], self._stops[first:last] = [start], [stop]

    def missing(self, size: int) -> list[Range]:
        """Return what is not in it of the bytes from 0 to ``size``."""
        gaps = zip([0, *self._stops], [*self._starts, size], strict=True)
        return [(start, min(stop, size)) for start, stop in gaps if start < min(stop, size)]

    @property
    def nbytes(self) -> int:
        """How many bytes are in it."""
        return sum(self._stops) - sum(self._starts)

    def __iter__(self) -> Iterator[Range]:
        return iter(list(zip(self._starts, self._stops, strict=True)))


def pieces(ranges: Iterable[Range], size: int) -> Iterator[Range]:
    """Cut ranges into pieces of at most ``size`` bytes, cut where multiples of ``size`` are."""
    for start, stop in ranges:
        cuts = [start, *range(start - start % size + size, stop, size), stop]
        yield from pairwise(cuts)
