"""Protocol buffers on the wire: the fields of a message, without a schema.

(https://protobuf.dev/programming-guides/encoding). Parsing takes time linear in the bytes, and
copies none of them. Groups, which nothing of TensorFlow's has, are refused.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from asyncload.errors import Corrupt

__all__ = [
    "BYTES",
    "FIXED32",
    "FIXED64",
    "VARINT",
    "Value",
    "Wire",
    "as_bytes",
    "as_int",
    "as_text",
    "as_uint",
    "as_view",
    "encoded",
    "fields",
    "varint",
    "varints",
]

# Wire types.
VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5

Wire = bytes | memoryview  # of unsigned bytes
Value = int | memoryview

_FIXED64 = struct.Struct("<Q")
_FIXED32 = struct.Struct("<I")
_MORE = 0x80  # set in every byte of a varint but the last
_LAST_BYTE = 63  # shift of a varint's tenth byte, of which one bit is left


def varint(view: Wire, position: int) -> tuple[int, int]:
    """Read one varint.

    Returns:
        The number, below 2**64, and the position behind it.

    Raises:
        Corrupt: it goes past the end, or past 64 bits.
    """
    value = shift = 0
    try:
        while True:
            byte = view[position]
            position += 1
            if byte < _MORE:
                break
            value |= (byte - _MORE) << shift
            shift += 7
            if shift > _LAST_BYTE:
                raise Corrupt("has a number (varint) of more than 10 bytes; it is damaged")
    except IndexError:
        raise Corrupt("ends within a number (varint); it is truncated or damaged") from None
    if shift == _LAST_BYTE and byte > 1:
        raise Corrupt("has a number (varint) of more than 64 bits; it is damaged")
    return value | byte << shift, position


def fields(view: Wire) -> Iterator[tuple[int, int, Value]]:
    """Yield (field number, wire type, value) of each field of a message, in its order.

    Args:
        view: the message's bytes.

    Yields:
        The value of a `VARINT`, `FIXED32` or `FIXED64` is an unsigned int; that of `BYTES` a
        view of the same memory.

    Raises:
        Corrupt: the message is truncated or malformed; it names no URI.
    """
    view = memoryview(view)
    position, end = 0, len(view)
    while position < end:
        tag = view[position]
        if tag < _MORE:  # nearly always: a call takes longer than all the rest
            position += 1
        else:
            tag, position = varint(view, position)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise Corrupt(f"has a field of number {number}, which no message has; it is damaged")
        if wire == VARINT:
            value, position = varint(view, position)
            yield number, wire, value
        elif wire == BYTES:
            if position < end and (length := view[position]) < _MORE:
                position += 1
            else:
                length, position = varint(view, position)
            start, position = position, position + length
            _expect_within(position, end, number)
            yield number, wire, view[start:position]
        elif wire in (FIXED64, FIXED32):
            layout = _FIXED64 if wire == FIXED64 else _FIXED32
            start, position = position, position + layout.size
            _expect_within(position, end, number)
            yield number, wire, layout.unpack_from(view, start)[0]
        else:
            raise Corrupt(f"has a field {number} of the unknown wire type {wire}; it is damaged")


def _expect_within(stop: int, end: int, number: int) -> None:
    if stop > end:
        raise Corrupt(
            f"has a field {number} that ends at byte {stop} of {end}; it is truncated or damaged"
        )


def encoded(number: int, content: Wire) -> tuple[bytes, Wire]:
    """Return a string, bytes or message field on the wire: what stands before it, and itself."""
    return _encoded_varint(number << 3 | BYTES) + _encoded_varint(len(content)), content


def _encoded_varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    written.append(value)
    return bytes(written)


def as_view(value: Value) -> memoryview:
    """Return the bytes of a string, bytes or message field.

    Raises:
        Corrupt: the field is a number.
    """
    if isinstance(value, int):
        raise Corrupt("has a number where bytes belong; it is damaged")
    return value


def as_bytes(value: Value) -> bytes:
    """Return a copy of the bytes of a field; raises as `as_view` does."""
    return bytes(as_view(value))


def as_text(value: Value) -> str:
    """Return the text of a string field.

    Raises:
        Corrupt: the field is a number, or no UTF-8.
    """
    try:
        return str(as_view(value), "utf-8")
    except UnicodeDecodeError as error:
        raise Corrupt(f"has a text that is no UTF-8 ({error.reason}); it is damaged") from error


def as_uint(value: Value) -> int:
    """Return the value of an unsigned, bool or enum field.

    Raises:
        Corrupt: the field has bytes.
    """
    if not isinstance(value, int):
        raise Corrupt("has bytes where a number belongs; it is damaged")
    return value


def as_int(value: Value) -> int:
    """Return the value of an int32 or int64 field, which may be negative; raises as `as_uint`."""
    number = as_uint(value)
    return number - (1 << 64) if number >> 63 else number


def varints(value: Value) -> list[int]:
    """Return the unsigned numbers that one field adds to a repeated one, packed or not.

    Raises:
        Corrupt: the packed numbers are truncated or malformed.
    """
    if isinstance(value, int):
        return [value]
    numbers = []
    position = 0
    while position < len(value):
        number, position = varint(value, position)
        numbers.append(number)
    return numbers
