"""Sets of byte ranges, beside sets of bytes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncload.loader._ranges import Ranges, pieces

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)))


def bytes_of(ranges: list[tuple[int, int]]) -> set[int]:
    return {at for start, stop in ranges for at in range(start, stop)}


@given(SPANS, st.integers(0, 70))
def test_a_set_of_bytes(spans: list[tuple[int, int]], size: int) -> None:
    ranges = Ranges(spans)
    found = list(ranges)
    assert bytes_of(found) == bytes_of(spans)
    assert ranges.nbytes == len(bytes_of(spans))
    edges = [edge for each in found for edge in each]
    assert edges == sorted(set(edges)), "sorted, and none touches the next"
    missing = ranges.missing(size)
    assert all(start < stop for start, stop in missing)
    assert bytes_of(missing) == set(range(size)) - bytes_of(spans)


@given(SPANS, st.integers(1, 20))
def test_pieces(spans: list[tuple[int, int]], size: int) -> None:
    ranges = list(Ranges(spans))
    cut = list(pieces(ranges, size))
    assert bytes_of(cut) == bytes_of(ranges)
    assert all(0 < stop - start <= size for start, stop in cut)
    assert sum(stop - start for start, stop in cut) == len(bytes_of(ranges))
    assert all(start // size == (stop - 1) // size for start, stop in cut)
