"""Which stretches of a range are there, or still to come; and how much to ask for next: pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from itertools import pairwise

__all__ = ["PartSize", "Stretch", "Stretches", "blocks", "pieces"]

Stretch = tuple[int, int]  # first byte, and the one behind the last

# Requests begin and end at multiples of this, so that no block that a worker reads (16 KiB) comes
# in two parts; what is asked for out of turn has so many bytes at least.
_BLOCK = 64 << 10

_SMALL, _LARGE = 1 << 20, 8 << 20  # bytes of one request
_SHORT = 0.25  # seconds that a request may well take: long beside a late turn of the loop
_LONG = 0.6  # seconds that none need take
_ROUND_TRIPS = 3.0  # the shortest time that requests take, in which at most a third is waste
_GROWTH = 2.0


class Stretches:
    """Stretches that neither overlap nor touch, in order.

    Args:
        stretches: to begin with.
    """

    def __init__(self, stretches: Iterable[Stretch] = ()) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        for begin, end in stretches:
            self.add(begin, end)

    def __iter__(self) -> Iterator[Stretch]:
        return zip(tuple(self._begins), tuple(self._ends), strict=True)

    def __bool__(self) -> bool:
        return bool(self._begins)

    def add(self, begin: int, end: int) -> None:
        """Take a stretch in, together with those that it overlaps or touches."""
        if begin >= end:
            return
        first, last = bisect_left(self._ends, begin), bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last] = [begin]
        self._ends[first:last] = [end]

    def remove(self, begin: int, end: int) -> None:
        """Take a stretch out, as far as it is in."""
        first, last = bisect_right(self._ends, begin), bisect_left(self._begins, end)
        if begin >= end or first >= last:
            return
        edges = [(self._begins[first], begin), (end, self._ends[last - 1])]
        left = [(start, stop) for start, stop in edges if start < stop]
        self._begins[first:last] = [start for start, _ in left]
        self._ends[first:last] = [stop for _, stop in left]

    def within(self, begin: int, end: int) -> list[Stretch]:
        """Return what of a stretch is in."""
        first, last = bisect_right(self._ends, begin), bisect_left(self._begins, end)
        found = zip(self._begins[first:last], self._ends[first:last], strict=True)
        return [(max(begin, start), min(end, stop)) for start, stop in found]

    def missing(self, size: int) -> list[Stretch]:
        """Return what is not in of the bytes from 0 to ``size``."""
        gaps = zip([0, *self._ends], [*self._begins, size], strict=True)
        return [(begin, min(end, size)) for begin, end in gaps if begin < min(end, size)]

    @property
    def nbytes(self) -> int:
        """How many bytes are in."""
        return sum(self._ends) - sum(self._begins)

    def covers(self, begin: int, end: int) -> bool:
        """Whether all of a stretch is in."""
        index = bisect_right(self._begins, begin) - 1
        return begin >= end or (index >= 0 and end <= self._ends[index])


def blocks(spans: Iterable[tuple[int, int]], length: int) -> Stretches:
    """Return (offset, length) spans of a range of ``length`` bytes, widened to whole blocks."""
    wide = Stretches()
    for offset, size in spans:
        begin = offset // _BLOCK * _BLOCK
        wide.add(begin, min(-(-(offset + size) // _BLOCK) * _BLOCK, length))
    return wide


def pieces(stretches: Iterable[Stretch], size: int) -> Iterator[Stretch]:
    """Cut stretches into pieces of at most ``size`` bytes, cut where multiples of ``size`` are."""
    for begin, end in stretches:
        cuts = [begin, *range(begin - begin % size + size, end, size), end]
        yield from pairwise(cuts)


class PartSize:
    """Decides how many bytes to ask for at once, where what comes is wanted as it comes.

    Requests under way share the link, and so end together: the larger they are, the longer nothing
    is whole. The smaller they are, the more round trips they cost. Near the end they get small, so
    that little is left to do when the last one ends.

    Args:
        parallel: requests under way at once.
    """

    def __init__(self, parallel: int) -> None:
        self._parallel = parallel
        self._size = 2.0 * _SMALL
        self._shortest = float("inf")

    def next(self, left: int) -> int:
        """Return the bytes to ask for, of ``left`` that nobody has asked for yet."""
        share = left // (2 * self._parallel)
        size = max(_SMALL, min(int(self._size), share))
        return min(left, size // _BLOCK * _BLOCK)

    def ended(self, nbytes: int, seconds: float) -> None:
        """Take note of how long a request took."""
        self._shortest = min(self._shortest, seconds)
        target = min(max(_SHORT, _ROUND_TRIPS * self._shortest), _LONG)
        wanted = nbytes * target / max(seconds, 1e-6)
        self._size = min(max(_SMALL, min(wanted, self._size * _GROWTH)), _LARGE)
