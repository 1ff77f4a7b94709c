"""Which bytes have come, and how many to ask for next."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asyncload.pipeline._stretches import PartSize, Stretches, blocks, pieces

SIZE = 40
span = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE))


@given(st.lists(st.tuples(st.booleans(), span), max_size=30), span)
def test_like_a_set_of_bytes(
    changes: list[tuple[bool, tuple[int, int]]], asked: tuple[int, int]
) -> None:
    stretches, there = Stretches(), set[int]()
    for add, (begin, end) in changes:
        (stretches.add if add else stretches.remove)(begin, end)
        there = there | set(range(begin, end)) if add else there - set(range(begin, end))
    found = list(stretches)
    assert {byte for begin, end in found for byte in range(begin, end)} == there
    assert all(begin < end for begin, end in found)
    assert all(one[1] < next_one[0] for one, next_one in pairwise(found))
    assert bool(stretches) == bool(there)
    wanted = set(range(*asked))
    assert stretches.covers(*asked) == (wanted <= there)
    within = [byte for begin, end in stretches.within(*asked) for byte in range(begin, end)]
    assert within == sorted(wanted & there)


def test_blocks_are_whole_and_end_with_the_range() -> None:
    block = 64 << 10
    found = list(blocks([(1, 1), (block, 1), (5 * block + 7, 10)], 5 * block + 9))
    assert found == [(0, 2 * block), (5 * block, 5 * block + 9)]


def drive(rate: float, round_trip: float, size: int, parallel: int = 12) -> list[int]:
    """Fetch ``size`` bytes over a link that requests share; return what each asked for."""
    parts, asked, left = PartSize(parallel), list[int](), size
    while left:
        asked.append(parts.next(left))
        left -= asked[-1]
        parts.ended(asked[-1], round_trip + asked[-1] * parallel / rate)
    return asked


def test_large_parts_where_the_link_is_fast() -> None:
    assert max(drive(5e9, 0.001, 2 << 30)) == 8 << 20


def test_small_parts_where_it_is_slow() -> None:
    assert max(drive(20e6, 0.02, 1 << 30)) == 2 << 20  # the first; then less


def test_large_parts_where_it_is_long() -> None:
    assert max(drive(1e9, 0.2, 4 << 30)) == 8 << 20


def test_small_parts_near_the_end() -> None:
    asked = drive(200e6, 0.02, 300 << 20)
    assert max(asked[-12:]) <= 1 << 20
    assert sum(asked) == 300 << 20


@given(st.integers(1, 1 << 33))
def test_always_something(left: int) -> None:
    assert 0 < PartSize(12).next(left) <= left


SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)))


def bytes_of(stretches: list[tuple[int, int]]) -> set[int]:
    return {at for start, stop in stretches for at in range(start, stop)}


@given(SPANS, st.integers(0, 70))
def test_what_is_missing(spans: list[tuple[int, int]], size: int) -> None:
    stretches = Stretches(spans)
    found = list(stretches)
    assert bytes_of(found) == bytes_of(spans)
    assert stretches.nbytes == len(bytes_of(spans))
    edges = [edge for each in found for edge in each]
    assert edges == sorted(set(edges)), "sorted, and none touches the next"
    missing = stretches.missing(size)
    assert all(start < stop for start, stop in missing)
    assert bytes_of(missing) == set(range(size)) - bytes_of(spans)


@given(SPANS, st.integers(1, 20))
def test_pieces(spans: list[tuple[int, int]], size: int) -> None:
    stretches = list(Stretches(spans))
    cut = list(pieces(stretches, size))
    assert bytes_of(cut) == bytes_of(stretches)
    assert all(0 < stop - start <= size for start, stop in cut)
    assert sum(stop - start for start, stop in cut) == len(bytes_of(stretches))
    assert all(start // size == (stop - 1) // size for start, stop in cut)
