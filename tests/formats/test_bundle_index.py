"""Indexes of checkpoints whose blocks are whole, and whose entries are anything."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asyncload.errors import AsyncloadError, Corrupt, TooLarge
from asyncload.formats._bundle_index import parse_index
from asyncload.formats._ordered_code import slice_key
from asyncload.interfaces import Bounds
from asyncload.manifest import Part, Partitioned, Strings
from tests.formats.memory import index
from tests.formats.tables import HEADER, block, bundle, entry, field, shape, table


def part(*extents: tuple[int, int]) -> bytes:
    """Return a TensorSliceProto as a field of an entry."""
    return field(7, b"".join(field(1, field(1, at) + field(2, size)) for at, size in extents))


GOOD = {
    b"a": entry(),
    b"s": entry(7, (2,), 8, 10),
    b"p": entry(1, (3,), 0, 0, more=part((0, 2)) + part((2, 1))),
    slice_key(b"p", [(0, 2)]): entry(1, (2,), 20, 8),
    slice_key(b"p", [(2, 1)]): entry(1, (1,), 28, 4),
}


def test_what_was_forged_is_read() -> None:
    tensors = index(bundle(GOOD)).tensors
    assert list(tensors) == ["a", "p", "s"]
    assert (tensors["a"].dtype, tensors["a"].shape, tensors["a"].encoding) == (
        "float32",
        (2,),
        None,
    )
    assert tensors["s"].encoding == Strings()
    encoding = tensors["p"].encoding
    assert isinstance(encoding, Partitioned)
    crcs = [each.crc32c for each in encoding.parts]
    assert encoding.parts == (
        Part((0,), (2,), 1, 20, 8, crcs[0]),
        Part((2,), (1,), 1, 28, 4, crcs[1]),
    )


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.binary(max_size=9), st.integers(0, 40), st.booleans())
def test_any_entry_is_an_error_of_ours_or_within_its_shard(
    key: bytes, damage: bytes, at: int, longer: bool
) -> None:
    value = bytearray(GOOD[key])
    value[at : at if longer else at + len(damage)] = damage
    with suppress(AsyncloadError):
        manifest = index(bundle({**GOOD, key: bytes(value)}))
        for tensor in manifest.tensors.values():
            assert tensor.nbytes <= 64 or isinstance(tensor.encoding, Strings)
            for offset, length in tensor.spans():
                assert 0 <= offset <= offset + length <= 64


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.binary(max_size=12), st.binary(max_size=40), max_size=6))
def test_any_table_is_an_index_or_an_error_of_ours(items: dict[bytes, bytes]) -> None:
    content = table(block({b"": HEADER, **dict(sorted(items.items()))}))
    with suppress(AsyncloadError):
        parse_index(content, Bounds(), "x")


@pytest.mark.parametrize("wrong", ["a part in parts", "another shape", "another dtype"])
def test_parts_that_do_not_fit(wrong: str) -> None:
    key = slice_key(b"p", [(0, 2)])
    value = {
        "a part in parts": entry(1, (2,), 20, 8, more=part((0, 2))),
        "another shape": entry(1, (1,), 20, 4),
        "another dtype": entry(3, (2,), 20, 8),
    }[wrong]
    with pytest.raises(Corrupt, match=r"another dtype or shape|refers to") as caught:
        index(bundle({**GOOD, key: value}))
    assert caught.value.tensor in ("p", None)


def test_parts_in_every_corner_take_no_time() -> None:
    count = 1_100  # a diagonal: the grid of their borders has a million cells
    extents = [((n, 1), (n, 1)) for n in range(count)]
    whole = field(1, 1) + field(2, shape(count, count)) + b"".join(part(*e) for e in extents)
    parts = {slice_key(b"p", e): entry(1, (1, 1), 4 * n, 4) for n, e in enumerate(extents)}
    begin = time.perf_counter()
    with pytest.raises(TooLarge, match="irregularly"):
        index(bundle({b"p": whole, **parts}, size=4 * count))
    assert time.perf_counter() - begin < 1
