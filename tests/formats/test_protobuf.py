"""The wire format, beside TensorFlow's own messages."""

from __future__ import annotations

import time

import pytest
from google.protobuf import descriptor_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework import attr_value_pb2, tensor_shape_pb2

from asyncload.errors import Corrupt
from asyncload.formats.protobuf import (
    BYTES,
    FIXED32,
    FIXED64,
    VARINT,
    as_bytes,
    as_int,
    as_text,
    as_uint,
    as_view,
    fields,
    varint,
    varints,
)

INT64 = st.integers(-(1 << 63), (1 << 63) - 1)


def encoded(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=3))
def test_varints_round(number: int, behind: bytes) -> None:
    content = encoded(number)
    assert varint(content + behind, 0) == (number, len(content))
    assert varint(memoryview(b"xx" + content), 2) == (number, 2 + len(content))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "ends within"),
        (b"\x80", "ends within"),
        (b"\xff" * 9, "ends within"),
        (b"\xff" * 10, "more than 10 bytes"),
        (b"\xff" * 9 + b"\x02", "more than 64 bits"),
    ],
)
def test_varints_that_are_none(content: bytes, says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        varint(content, 0)


@given(st.lists(st.tuples(INT64, st.text(max_size=5)), max_size=5))
def test_a_message_equals_the_stock_parse(dims: list[tuple[int, str]]) -> None:
    message = tensor_shape_pb2.TensorShapeProto()
    for size, name in dims:
        message.dim.add(size=size, name=name)
    found = []
    for number, wire, value in fields(message.SerializeToString()):
        assert (number, wire) == (2, BYTES)
        dim = {inner: each for inner, _, each in fields(as_view(value))}
        found.append((as_int(dim.get(1, 0)), as_text(dim.get(2, memoryview(b"")))))
    assert found == dims


@given(st.lists(INT64, max_size=9), st.floats(width=32, allow_nan=False), st.binary(max_size=9))
def test_every_wire_type(numbers: list[int], single: float, content: bytes) -> None:
    attribute = attr_value_pb2.AttrValue()
    attribute.list.i.extend(numbers)  # packed
    packed = [v for _, _, v in fields(attribute.list.SerializeToString())]
    assert [as_int(number) for value in packed for number in varints(value)] == numbers
    message = attr_value_pb2.AttrValue(f=single)
    assert [(n, w) for n, w, _ in fields(message.SerializeToString())] == [(4, FIXED32)]
    option = descriptor_pb2.UninterpretedOption(
        double_value=single, negative_int_value=-5, string_value=content
    )
    parsed = {n: (w, v) for n, w, v in fields(option.SerializeToString())}
    assert parsed[6][0] == FIXED64
    assert parsed[5] == (VARINT, (1 << 64) - 5)
    assert as_int(parsed[5][1]) == -5
    assert as_bytes(parsed[7][1]) == content


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"\x0a\x05abc", "ends at byte 7 of 5"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "truncated"),
        (b"\x09abc", "ends at byte 9 of 4"),
        (b"\x0dabc", "ends at byte 5 of 4"),
        (b"\x08", "ends within"),
        (b"\x0b", "wire type 3"),
        (b"\x0e", "wire type 6"),
        (b"\x00\x00", "number 0"),
        (b"\xff\xff\xff\xff\x7f", "field of number"),
    ],
)
def test_messages_that_are_none(content: bytes, says: str) -> None:
    with pytest.raises(Corrupt, match=says):
        list(fields(content))


def test_values_of_the_other_kind() -> None:
    with pytest.raises(Corrupt, match="bytes belong"):
        as_view(5)
    with pytest.raises(Corrupt, match="number belongs"):
        as_uint(memoryview(b"x"))
    with pytest.raises(Corrupt, match="UTF-8"):
        as_text(memoryview(b"\xff"))
    assert varints(7) == [7]


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_fields_or_corrupt(content: bytes) -> None:
    try:
        found = list(fields(content))
    except Corrupt:
        return
    assert sum(len(value) for _, _, value in found if not isinstance(value, int)) <= len(content)


def test_time_is_linear() -> None:
    message = b"\x08\x01" * 200_000
    begin = time.perf_counter()
    assert sum(1 for _ in fields(message)) == 200_000
    assert time.perf_counter() - begin < 2
