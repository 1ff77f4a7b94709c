"""safetensors: a JSON header that says where each tensor lies, then the tensors, raw.

Eight bytes of little-endian header length, the header, the data, which the tensors cover
without gap or overlap (https://github.com/huggingface/safetensors, README "Format").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from asyncload.errors import Corrupt, FormatError, TooLarge
from asyncload.interfaces import Bounds, Indexing, Reader
from asyncload.manifest import Manifest, TensorEntry, numpy_dtype

from ._json import parse_json
from ._shape import array_bytes

__all__ = ["SUFFIX", "Header", "Safetensors", "read_header"]

SUFFIX = ".safetensors"
_METADATA = "__metadata__"
_LENGTH = 8  # bytes
_HEADER_LIMIT = 100_000_000  # bytes; the reference implementation's own
# Holds the header of some 500 tensors; a larger one takes a second read.
_FIRST_READ = 64 << 10  # bytes

# Names of safetensors/src/tensor.rs. PyTorch's float8_e4m3fn is called F8_E4M3 there.
_DTYPES = MappingProxyType(
    {
        "BOOL": "bool",
        "U8": "uint8",
        "I8": "int8",
        "U16": "uint16",
        "I16": "int16",
        "U32": "uint32",
        "I32": "int32",
        "U64": "uint64",
        "I64": "int64",
        "F16": "float16",
        "BF16": "bfloat16",
        "F32": "float32",
        "F64": "float64",
        "C64": "complex64",
        "F8_E4M3": "float8_e4m3fn",
        "F8_E4M3FNUZ": "float8_e4m3fnuz",
        "F8_E5M2": "float8_e5m2",
        "F8_E5M2FNUZ": "float8_e5m2fnuz",
        "F8_E8M0": "float8_e8m0fnu",
    }
)
_SUB_BYTE = ("F4", "F6_E2M3", "F6_E3M2")


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Attributes:
        tensors: name -> entry, in the header's order.
        metadata: the JSON text of ``__metadata__``; ``None`` where there is none.
    """

    tensors: dict[str, TensorEntry]
    metadata: bytes | None


class Safetensors:
    """Format of ``*.safetensors``; ``__metadata__`` becomes a document of that name."""

    name = "safetensors"
    costly = False

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name ends in ``.safetensors``, or the bytes are a length and a brace."""
        length = int.from_bytes(head[:_LENGTH], "little")
        return name.endswith(SUFFIX) or (
            head[_LENGTH : _LENGTH + 1] == b"{" and 2 <= length <= _HEADER_LIMIT
        )

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the file."""
        header = await read_header(indexing, indexing.files.readers[0], 0)
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=header.tensors,
            documents={} if header.metadata is None else {_METADATA: header.metadata},
        )


async def read_header(indexing: Indexing, reader: Reader, file: int) -> Header:
    """Read and check the header of one safetensors file.

    Args:
        indexing: what to work with.
        reader: the file.
        file: index by which entries shall refer to it.
    """
    begin = await reader.read(0, min(_FIRST_READ, reader.size))
    end = _LENGTH + _header_length(begin, reader.size, reader.uri)
    if end > len(begin):
        begin += await reader.read(len(begin), end - len(begin))
    return await indexing.parse(
        parse_header,
        begin[_LENGTH:end],
        reader.size - end,
        end,
        file,
        indexing.bounds,
        reader.uri,
    )


def _header_length(begin: bytes, size: int, uri: str) -> int:
    if size < _LENGTH:
        what = "is empty" if size == 0 else f"has {size} bytes"
        raise Corrupt(f"{what}; a safetensors file begins with {_LENGTH} of a length", uri=uri)
    length = int.from_bytes(begin[:_LENGTH], "little")
    if length > size - _LENGTH:
        raise Corrupt(
            f"states a header of {length} bytes, but only {size - _LENGTH} follow. It is truncated "
            "or no safetensors file; copy or save it again.",
            uri=uri,
        )
    if length > _HEADER_LIMIT:
        raise TooLarge(
            f"has a header of {length} bytes; the limit is {_HEADER_LIMIT}, as in safetensors "
            "itself. Save it in several files.",
            uri=uri,
        )
    return length


def parse_header(text: bytes, size: int, base: int, file: int, bounds: Bounds, uri: str) -> Header:
    """Parse and check a header.

    Args:
        text: the JSON.
        size: bytes of data behind it.
        base: offset of that data within the file.
        file: index of the file.
        bounds: what it may declare.
        uri: for messages.
    """
    raw = parse_json(text, "the header", uri)
    metadata = raw.pop(_METADATA, None)
    bounds.check_tensors(len(raw), uri)
    tensors = {name: _entry(name, value, size, base, file, uri) for name, value in raw.items()}
    _check_cover(tensors, size, base, uri)
    return Header(tensors, None if metadata is None else _metadata(metadata, uri))


def _metadata(metadata: Any, uri: str) -> bytes:
    if not isinstance(metadata, dict) or not all(isinstance(x, str) for x in metadata.values()):
        raise Corrupt(f"{_METADATA} is not an object of texts", uri=uri)
    return json.dumps(metadata).encode()


def _entry(name: str, raw: Any, size: int, base: int, file: int, uri: str) -> TensorEntry:
    def refuse(message: str, kind: type[FormatError] = Corrupt) -> NoReturn:
        raise kind(message, uri=uri, tensor=name)

    if not isinstance(raw, Mapping) or set(raw) != {"dtype", "shape", "data_offsets"}:
        refuse(f"expected dtype, shape and data_offsets in the header, found {_short(raw)}")
    shape, offsets, dtype = raw["shape"], raw["data_offsets"], raw["dtype"]
    if not _whole_numbers(shape):
        refuse(f"has the shape {_short(shape)}; expected whole numbers")
    if not _whole_numbers(offsets) or len(offsets) != 2:
        refuse(f"has the data_offsets {_short(offsets)}; expected two whole numbers")
    begin, end = offsets
    if not begin <= end <= size:
        refuse(f"lies at {begin} to {end} of {size} bytes of data: out of range or truncated")
    canonical = _DTYPES.get(dtype) if isinstance(dtype, str) else None
    if canonical is None:
        what = "of less than a byte, which NumPy cannot hold" if dtype in _SUB_BYTE else "unknown"
        refuse(
            f"has the dtype {_short(dtype)}, {what}; known are {', '.join(_DTYPES)}", FormatError
        )
    try:
        nbytes = array_bytes(shape, numpy_dtype(canonical).itemsize)
    except ValueError as error:
        refuse(f"has {error}")
    if nbytes != end - begin:
        refuse(f"{dtype} of shape {tuple(shape)} takes {nbytes} bytes, but {end - begin} are there")
    return TensorEntry(name, canonical, tuple(shape), file, base + begin, nbytes)


def _whole_numbers(value: Any) -> bool:
    # JSON's true is an int to Python.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _check_cover(tensors: Mapping[str, TensorEntry], size: int, base: int, uri: str) -> None:
    """Refuse data that two tensors share, or that belongs to none."""
    position = base
    for entry in sorted(tensors.values(), key=lambda entry: (entry.offset, entry.length)):
        if entry.offset != position:
            wrong = "overlaps the one before it" if entry.offset < position else "leaves a gap"
            raise Corrupt(
                f"begins at byte {entry.offset - base} of the data and {wrong}, which ends at "
                f"{position - base}",
                uri=uri,
                tensor=entry.name,
            )
        position += entry.length
    if position != base + size:
        raise Corrupt(
            f"holds {size} bytes of data, of which tensors cover {position - base}. It is damaged, "
            "or still being written.",
            uri=uri,
        )
