"""The index of a TensorBundle, parsed: which tensors there are, and in which shard.

(tensorflow/core/protobuf/tensor_bundle.proto; tensorflow/core/util/tensor_bundle)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from asyncload.codecs import unmasked
from asyncload.errors import AsyncloadError, Corrupt, FormatError, TooLarge
from asyncload.interfaces import Bounds
from asyncload.manifest import numpy_dtype

from ._leveldb import read_table
from ._ordered_code import PART_KEY, slice_key
from ._shape import array_bytes
from .protobuf import Value, as_bytes, as_int, as_uint, as_view, fields

__all__ = ["STRING", "BundleIndex", "Stored", "parse_index"]

STRING = "object"  # the dtype of string tensors

# tensorflow/core/framework/types.proto. Quantised types are plain integers to NumPy, and to
# CheckpointReader.get_tensor.
_DTYPES = MappingProxyType(
    {
        1: "float32",
        2: "float64",
        3: "int32",
        4: "uint8",
        5: "int16",
        6: "int8",
        7: STRING,
        8: "complex64",
        9: "int64",
        10: "bool",
        11: "int8",  # qint8
        12: "uint8",  # quint8
        13: "int32",  # qint32
        14: "bfloat16",
        15: "int16",  # qint16
        16: "uint16",  # quint16
        17: "uint16",
        18: "complex128",
        19: "float16",
        22: "uint32",
        23: "uint64",
        24: "float8_e5m2",
        25: "float8_e4m3fn",
        26: "float8_e4m3fnuz",
        27: "float8_e4m3b11fnuz",
        28: "float8_e5m2fnuz",
        29: "int4",
        30: "uint4",
        31: "int2",
        32: "uint2",
        33: "float4_e2m1fn",
    }
)
_UNREADABLE = MappingProxyType({20: "DT_RESOURCE", 21: "DT_VARIANT"})
_STRINGS_LEAST = 4  # bytes of a string tensor without strings: the checksum of no lengths
_LITTLE = 0  # BundleHeaderProto.Endianness
_VERSION = 1  # of bundles; there has been no other
_WHOLE = -1
_RANK = 254  # tensorflow/core/framework/tensor_shape.h, MaxDimensions
_CELLS = 1 << 20  # stretches between the borders of parts: a thousand parts in each of two axes

# (first element, number of elements or `_WHOLE`) in each dimension
Extents = tuple[tuple[int, int], ...]


class Stored(NamedTuple):
    """One stretch of stored bytes.

    Attributes:
        dtype: canonical name, `STRING` for strings.
        shape: elements in each dimension.
        shard: number of the data file.
        offset: first byte in it.
        length: bytes.
        crc32c: unmasked.
        parts: (index of the first element, part) of each part of a partitioned variable, whose
            own offset and length say nothing.
    """

    dtype: str
    shape: tuple[int, ...]
    shard: int
    offset: int
    length: int
    crc32c: int
    parts: tuple[tuple[tuple[int, ...], Stored], ...] = ()


class BundleIndex(NamedTuple):
    """What an index file says.

    Attributes:
        shards: how many data files the checkpoint has.
        tensors: name -> where it is, in the index' order.
    """

    shards: int
    tensors: dict[str, Stored]


class _Message(NamedTuple):
    """A BundleEntryProto as it is."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    length: int
    crc32c: int
    slices: tuple[Extents, ...]


def parse_index(table: bytes, bounds: Bounds, uri: str, expanding: bool = False) -> BundleIndex:
    """Parse and check the content of an index file, in linear time.

    Args:
        table: the content.
        bounds: what it may declare.
        uri: for messages.
        expanding: expand what is compressed, which belongs in a worker.

    Raises:
        CompressedTable: something is, without ``expanding``.
        Corrupt: it is damaged, or contradicts itself; names the tensor.
        FormatError: of a version, a byte order or a dtype that cannot be read.
        TooLarge: it declares more than is possible.
    """
    try:
        return _parse(memoryview(table), bounds, uri, expanding)
    except AsyncloadError as error:
        error.uri = uri
        raise


def _parse(table: memoryview, bounds: Bounds, uri: str, expanding: bool) -> BundleIndex:
    items = read_table(table, expanding=expanding)
    key, header = next(items, (None, table))
    if key != b"":
        raise Corrupt("has no header; it is no checkpoint's index, or damaged")
    shards = _shards(header)
    shapes: dict[bytes, tuple[int, ...]] = {}
    messages = {key: _message(key, value, shapes) for key, value in items}
    bounds.check_tensors(sum(not key.startswith(PART_KEY) for key in messages), uri)
    parts = {key: message for key, message in messages.items() if key.startswith(PART_KEY)}
    tensors = {}
    for key, message in messages.items():
        if key in parts:
            continue
        name = _name(key)
        try:
            tensors[name] = _stored(key, message, messages)
        except AsyncloadError as error:
            error.tensor = name
            raise
    if len(parts) != sum(len(message.slices) for message in messages.values()):
        raise Corrupt("has parts of tensors that no tensor refers to; the index is damaged")
    return BundleIndex(shards, tensors)


def _shards(header: memoryview) -> int:
    values: dict[int, Value] = {number: value for number, _, value in fields(header)}
    shards = as_int(values.get(1, 0))
    if shards < 1:
        raise Corrupt(f"states {shards} data files; a checkpoint has at least one")
    if as_uint(values.get(2, _LITTLE)) != _LITTLE:
        raise FormatError(
            "was written by a machine of the other byte order (big endian), which is not "
            "supported; save it again on a little-endian one"
        )
    version = {
        number: value for number, _, value in fields(as_view(values.get(3, memoryview(b""))))
    }
    needed = as_int(version.get(2, 0))
    if needed > _VERSION:
        raise FormatError(
            f"needs a reader of checkpoint version {needed}; this one knows {_VERSION}. Update "
            "asyncload."
        )
    return shards


def _name(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"has a tensor whose name is no UTF-8: {key[:80]!r}") from error


# --- messages ----------------------------------------------------------------------------


def _message(key: bytes, content: memoryview, shapes: dict[bytes, tuple[int, ...]]) -> _Message:
    """Parse a BundleEntryProto; ``shapes`` keeps those that were parsed: most come again."""
    dtype = shard = offset = length = checksum = 0
    shape: tuple[int, ...] = ()
    slices: list[Extents] = []
    try:
        for number, _, value in fields(content):
            match number:
                case 1:
                    dtype = as_uint(value)
                case 2:
                    stored = as_bytes(value)
                    shape = shapes.get(stored) or shapes.setdefault(stored, _shape(stored))
                case 3:
                    shard = as_int(value)
                case 4:
                    offset = as_int(value)
                case 5:
                    length = as_int(value)
                case 6:
                    checksum = as_uint(value)
                case 7:
                    slices.append(_extents(as_view(value)))
    except AsyncloadError as error:
        error.tensor = key.decode(errors="replace")
        raise
    return _Message(dtype, shape, shard, offset, length, checksum, tuple(slices))


def _shape(content: bytes) -> tuple[int, ...]:
    sizes = []
    for number, _, value in fields(content):
        if number == 2:
            inner = {n: v for n, _, v in fields(as_view(value))}
            sizes.append(as_int(inner.get(1, 0)))
        elif number == 3 and value:
            raise Corrupt("has a shape of unknown rank; a stored tensor has a known one")
    if len(sizes) > _RANK:
        raise Corrupt(f"has a shape of {len(sizes)} dimensions; TensorFlow has at most {_RANK}")
    return tuple(sizes)


def _extents(content: memoryview) -> Extents:
    """Return what a TensorSliceProto says: where no length is, the whole dimension is meant."""
    extents = []
    for number, _, value in fields(content):
        if number == 1:
            inner = {n: v for n, _, v in fields(as_view(value))}
            size = as_int(inner[2]) if 2 in inner else _WHOLE
            extents.append((as_int(inner.get(1, 0)), size))
    return tuple(extents)


# --- tensors -----------------------------------------------------------------------------


def _stored(key: bytes, message: _Message, messages: Mapping[bytes, _Message]) -> Stored:
    dtype = _DTYPES.get(message.dtype)
    if dtype is None:
        name = _UNREADABLE.get(message.dtype, str(message.dtype))
        raise FormatError(
            f"has the dtype {name}, of which there is no array. Save the checkpoint without it, or "
            "restore it with TensorFlow."
        )
    if message.slices:
        return _partitioned(key, dtype, message, messages)
    _check_length(dtype, message)
    return Stored(
        dtype,
        message.shape,
        message.shard,
        message.offset,
        message.length,
        unmasked(message.crc32c),
    )


def _check_length(dtype: str, message: _Message) -> None:
    needed = _nbytes(dtype, message.shape)
    if dtype == STRING:
        least = prod(message.shape) + _STRINGS_LEAST
        if message.length < least:
            raise Corrupt(
                f"has {message.length} bytes for strings of shape {message.shape}; they take at "
                f"least {least}"
            )
    elif message.length != needed:
        raise Corrupt(
            f"{dtype} of shape {message.shape} takes {needed} bytes, but {message.length} are there"
        )


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    if any(size < 0 for size in shape):
        raise Corrupt(f"has the shape {shape}; expected no negative sizes")
    try:
        return array_bytes(shape, numpy_dtype(dtype).itemsize)
    except ValueError as error:
        raise TooLarge(f"has {error}") from error


def _partitioned(
    key: bytes, dtype: str, message: _Message, messages: Mapping[bytes, _Message]
) -> Stored:
    if dtype == STRING:
        raise FormatError("is a string tensor stored in parts, which is not supported")
    _nbytes(dtype, message.shape)
    if len(set(message.slices)) < len(message.slices):
        raise Corrupt("has a part twice; the index is damaged")
    parts = tuple(_part(key, dtype, message, messages, extents) for extents in message.slices)
    _check_cover(message.shape, parts)
    first = parts[0][1]
    length = sum(part.length for _, part in parts)
    return Stored(dtype, message.shape, first.shard, first.offset, length, 0, parts)


def _part(
    key: bytes,
    dtype: str,
    message: _Message,
    messages: Mapping[bytes, _Message],
    extents: Extents,
) -> tuple[tuple[int, ...], Stored]:
    shape = message.shape
    if len(extents) != len(shape):
        raise Corrupt(f"has a part of {len(extents)} dimensions, but the shape {shape}")
    origin = tuple(start for start, _ in extents)
    sizes = tuple(
        whole if size == _WHOLE else size for (_, size), whole in zip(extents, shape, strict=True)
    )
    for start, size, whole in zip(origin, sizes, shape, strict=True):
        if start < 0 or size < 0 or start + size > whole:
            raise Corrupt(f"has a part at {origin} of shape {sizes}, outside its shape {shape}")
    part = messages.get(slice_key(key, extents))
    if part is None:
        raise Corrupt(f"its part at {origin} of shape {sizes} is not in the index")
    if part.slices or part.dtype != message.dtype or part.shape != sizes:
        raise Corrupt(f"its part at {origin} is of another dtype or shape than {dtype} {sizes}")
    _check_length(dtype, part)
    checksum = unmasked(part.crc32c)
    return origin, Stored(dtype, sizes, part.shard, part.offset, part.length, checksum)


def _check_cover(shape: tuple[int, ...], parts: Sequence[tuple[tuple[int, ...], Stored]]) -> None:
    """Make sure that each element belongs to exactly one part.

    Marks the cells of the grid that the parts' borders make, each once.
    """
    spans = list(_spans(shape, parts))
    borders = [sorted({0, size}.union(*axis)) for size, axis in zip(shape, spans, strict=True)]
    cells = [len(axis) - 1 for axis in borders]
    if prod(cells) > _CELLS:
        raise TooLarge(f"has {len(parts)} parts that lie too irregularly to be put together")
    places = [{at: index for index, at in enumerate(axis)} for axis in borders]
    covered = np.zeros(cells, bool)
    for number in range(len(parts)):
        ends = [axis[number] for axis in spans]
        cell = tuple(
            slice(place[start], place[stop])
            for place, (start, stop) in zip(places, ends, strict=True)
        )
        if covered[cell].any():
            raise Corrupt("has parts that overlap; the index is damaged")
        covered[cell] = True
    if not covered.all():
        raise Corrupt("has parts that leave some of it out; the checkpoint is not whole")


def _spans(
    shape: tuple[int, ...], parts: Sequence[tuple[tuple[int, ...], Stored]]
) -> Iterator[list[tuple[int, int]]]:
    """Yield, for each dimension, where each part begins and ends."""
    for axis in range(len(shape)):
        yield [(origin[axis], origin[axis] + part.shape[axis]) for origin, part in parts]
