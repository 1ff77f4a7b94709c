"""What small reads brought is not fetched again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from asyncload.sources._object_reader import _scatter, _split

CONTENT = bytes(range(200))


@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=6),
    st.integers(0, 100),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_known_and_missing_are_all_there_is(
    kept: list[tuple[int, int]], offset: int, lengths: list[int]
) -> None:
    """Kept reads may overlap, and each byte has one place."""
    while offset + sum(lengths) > len(CONTENT):
        lengths.pop()
    pieces = sorted((begin, CONTENT[begin : begin + length]) for begin, length in kept)
    targets = [bytearray(length) for length in lengths]
    known, missing = _split(offset, [memoryview(target) for target in targets], pieces)
    for content, buffers in known:
        assert content.nbytes == sum(buffer.nbytes for buffer in buffers)
        _scatter(content, buffers)
    fetched = set[int]()
    for begin, buffers in missing:
        length = sum(buffer.nbytes for buffer in buffers)
        assert length
        assert not fetched & set(range(begin, begin + length))
        fetched |= set(range(begin, begin + length))
        _scatter(memoryview(CONTENT)[begin : begin + length], buffers)
    there = {at for begin, content in pieces for at in range(begin, begin + len(content))}
    assert not fetched & there
    assert b"".join(targets) == CONTENT[offset : offset + sum(lengths)]
