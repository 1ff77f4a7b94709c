"""The index of a file: which tensors there are, and where their bytes lie.

A Format writes a `Manifest`; the pipeline reads tensors by it; nothing here touches a
file. Manifests are immutable, and survive a trip through JSON (`to_json`, `from_json`).
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

from asyncload.texts import printable

__all__ = [
    "Chunk",
    "Chunked",
    "Deflate",
    "Encoding",
    "FileEntry",
    "Inline",
    "Manifest",
    "Part",
    "Partitioned",
    "Reorder",
    "Strings",
    "TensorEntry",
    "file_version",
    "memory_version",
    "numpy_dtype",
]

_EXTENSION_DTYPES = MappingProxyType(
    {
        name: np.dtype(getattr(ml_dtypes, name))
        for name in (
            "bfloat16",
            "float4_e2m1fn",
            "float8_e3m4",
            "float8_e4m3",
            "float8_e4m3b11fnuz",
            "float8_e4m3fn",
            "float8_e4m3fnuz",
            "float8_e5m2",
            "float8_e5m2fnuz",
            "float8_e8m0fnu",
            "int2",
            "int4",
            "uint2",
            "uint4",
        )
    }
)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy dtype for a canonical name such as ``"float32"`` or ``"bfloat16"``.

    Raises:
        TypeError: NumPy and ml_dtypes know no such dtype.
    """
    extension = _EXTENSION_DTYPES.get(name)
    return extension if extension is not None else np.dtype(name)


@lru_cache(maxsize=64)
def _itemsize(dtype: str) -> int:
    return numpy_dtype(dtype).itemsize


def file_version(status: os.stat_result) -> str:
    """Return what names the content of a local file: device, inode, size and mtime."""
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_size:x}-{status.st_mtime_ns:x}"


def memory_version(inode: int, size: int) -> str:
    """Return what names memory that a path leads to, while its content is still on its way."""
    return f"memory-{inode:x}-{size:x}"


@dataclass(frozen=True, slots=True)
class Deflate:
    """A raw DEFLATE stream (RFC 1951), as ZIP members hold it.

    Attributes:
        skip: decoded bytes before the tensor's first byte (the header of a ``.npy`` member).
        decoded: length in bytes of the whole decoded stream, ``skip`` included.
        crc32: CRC-32 of the whole decoded stream, as the ZIP directory states it.
        order: ``"C"`` or ``"F"``, the memory order of the decoded array.
        swap: whether the decoded elements have the other byte order than this machine.
    """

    skip: int
    decoded: int
    crc32: int | None = None
    order: str = "C"
    swap: bool = False


@dataclass(frozen=True, slots=True)
class Chunk:
    """One stored chunk of an HDF5 dataset.

    Attributes:
        origin: index of the chunk's first element in each dimension.
        offset: first byte within the file.
        length: bytes stored, after the filters.
        mask: bit ``i`` set means filter ``i`` of the pipeline was skipped for this chunk.
    """

    origin: tuple[int, ...]
    offset: int
    length: int
    mask: int = 0


@dataclass(frozen=True, slots=True)
class Chunked:
    """A chunked HDF5 dataset, chunks encoded by a filter pipeline.

    Attributes:
        chunk: shape of one chunk in elements; chunks at the edges are stored whole.
        filters: (HDF5 filter id, client data), in the order in which they encoded.
        chunks: the stored chunks; elements of a chunk that is not stored have the fill value.
        fill: one element's bytes for what is not stored; empty means zero.
        swap: whether elements have the other byte order than this machine.
    """

    chunk: tuple[int, ...]
    filters: tuple[tuple[int, tuple[int, ...]], ...]
    chunks: tuple[Chunk, ...]
    fill: bytes = b""
    swap: bool = False


@dataclass(frozen=True, slots=True)
class Reorder:
    """Unencoded elements in Fortran order or in the other byte order.

    Attributes:
        order: ``"C"`` or ``"F"``, the memory order in the file.
        swap: whether elements have the other byte order than this machine.
    """

    order: str = "C"
    swap: bool = False


@dataclass(frozen=True, slots=True)
class Inline:
    """The tensor's bytes stand in the index itself (HDF5 compact storage, fill values).

    Attributes:
        data: the bytes, C order, in this machine's byte order.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class Strings:
    """TensorFlow's strings: the length of each, a checksum of the lengths, then their bytes.

    Lengths are varints; the checksum is four bytes, the masked CRC32C of the lengths as
    little-endian uint32 (uint64 from 4 GiB on). The array has `bytes` for elements, dtype
    ``object``. The `TensorEntry.crc32c` of such a tensor is that of what the first checksum is
    of, then that checksum's four bytes, then the strings' bytes
    (tensorflow/core/util/tensor_bundle/tensor_bundle.cc, WriteStringTensor).
    """


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a partitioned variable: raw elements, in C order of the part itself.

    Attributes:
        origin: index of its first element in each dimension of the variable.
        shape: elements in each dimension.
        file: index into ``Manifest.files``.
        offset: first byte within the file.
        length: bytes in the file.
        crc32c: unmasked, of those bytes.
    """

    origin: tuple[int, ...]
    shape: tuple[int, ...]
    file: int
    offset: int
    length: int
    crc32c: int | None = None


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A tensor that was stored in parts, which may lie in several files.

    Attributes:
        parts: each element of the tensor belongs to exactly one of them.
    """

    parts: tuple[Part, ...]


Encoding = Deflate | Chunked | Reorder | Inline | Strings | Partitioned


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file that a Manifest refers to.

    Attributes:
        name: relative to the URI's own folder; ``""`` is the URI itself.
        size: length in bytes.
        version: what names this content (inode, size and mtime; an ETag).
    """

    name: str
    size: int
    version: str


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor's bytes lie, and what they mean.

    Attributes:
        name: as the file has it.
        dtype: canonical name, as `numpy_dtype` takes it.
        shape: elements in each dimension.
        file: index into ``Manifest.files``.
        offset: first byte within the file.
        length: bytes in the file. For `Chunked`, the sum over its chunks, and ``offset`` is
            the lowest of theirs; for `Inline`, 0; for `Partitioned`, the sum over its parts, and
            ``file`` and ``offset`` are the first one's.
        encoding: ``None`` for raw little-endian elements in C order.
        crc32c: unmasked, of the stored bytes of a raw tensor (of `Strings`, see there); ``None``
            where the file has none.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: int
    offset: int
    length: int
    encoding: Encoding | None = None
    crc32c: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded array; of `Strings`, those of the references to them."""
        return math.prod(self.shape) * _itemsize(self.dtype)

    def spans(self) -> tuple[tuple[int, int], ...]:
        """Return (offset, length) of each stored stretch of bytes, in the codec's order.

        One for each stored chunk of a `Chunked` tensor, none for `Inline` ones nor for
        `Partitioned` ones, which lie in several files; else one.
        """
        match self.encoding:
            case Inline() | Partitioned():
                return ()
            case Chunked(chunks=chunks):
                return tuple((chunk.offset, chunk.length) for chunk in chunks)
            case _:
                return ((self.offset, self.length),)


def _frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping))


@dataclass(frozen=True, slots=True, repr=False)
class Manifest:
    """The index of what a URI holds.

    Attributes:
        uri: what was indexed, without credentials.
        format: name of the Format that wrote this.
        files: the files that entries refer to by position.
        tensors: name -> entry, in the file's own order.
        documents: name -> bytes of small texts (``config.json``).
        assets: name -> entry of a one-dimensional uint8 "tensor" (vocabulary files).
        left_out: name -> why it makes no tensor (texts, records), where a file has such things
            beside tensors.
    """

    uri: str
    format: str
    files: tuple[FileEntry, ...]
    tensors: Mapping[str, TensorEntry]
    documents: Mapping[str, bytes] = field(default_factory=dict)
    assets: Mapping[str, TensorEntry] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("tensors", "documents", "assets", "left_out"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))

    @property
    def nbytes(self) -> int:
        """Bytes of all decoded tensors, assets not counted."""
        return sum(entry.nbytes for entry in self.tensors.values())

    def __repr__(self) -> str:
        count = f"{len(self.tensors):,} tensor{'s' if len(self.tensors) != 1 else ''}"
        return f"<Manifest of {printable(self.uri)}: {self.format}, {count}, {self.nbytes:,} bytes>"

    def to_json(self) -> str:
        """Return a JSON text from which `from_json` makes an equal Manifest."""
        return json.dumps(
            {
                "uri": self.uri,
                "format": self.format,
                "files": [dataclasses.astuple(file) for file in self.files],
                "tensors": [_entry_to_json(entry) for entry in self.tensors.values()],
                "documents": {name: _to_text(data) for name, data in self.documents.items()},
                "assets": [_entry_to_json(entry) for entry in self.assets.values()],
                "left_out": dict(self.left_out),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Make the Manifest that `to_json` wrote."""
        raw = json.loads(text)
        tensors = [_entry_from_json(entry) for entry in raw["tensors"]]
        assets = [_entry_from_json(entry) for entry in raw["assets"]]
        return cls(
            uri=raw["uri"],
            format=raw["format"],
            files=tuple(FileEntry(*file) for file in raw["files"]),
            tensors={entry.name: entry for entry in tensors},
            documents={name: _from_text(data) for name, data in raw["documents"].items()},
            assets={entry.name: entry for entry in assets},
            left_out=raw["left_out"],
        )


def _to_text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _from_text(text: str) -> bytes:
    return base64.b64decode(text)


def _entry_to_json(entry: TensorEntry) -> list[Any]:
    fixed = [entry.name, entry.dtype, entry.shape, entry.file, entry.offset, entry.length]
    encoding = None if entry.encoding is None else _encoding_to_json(entry.encoding)
    return [*fixed, encoding, entry.crc32c]


def _entry_from_json(raw: list[Any]) -> TensorEntry:
    name, dtype, shape, file, offset, length, encoding, crc32c = raw
    decoded = None if encoding is None else _encoding_from_json(encoding)
    return TensorEntry(name, dtype, tuple(shape), file, offset, length, decoded, crc32c)


def _encoding_to_json(encoding: Encoding) -> dict[str, Any]:
    match encoding:
        case Inline(data):
            return {"kind": "inline", "data": _to_text(data)}
        case Chunked():
            return {
                "kind": "chunked",
                "chunk": encoding.chunk,
                "filters": encoding.filters,
                "chunks": [dataclasses.astuple(chunk) for chunk in encoding.chunks],
                "fill": _to_text(encoding.fill),
                "swap": encoding.swap,
            }
        case Deflate():
            return {"kind": "deflate", **dataclasses.asdict(encoding)}
        case Reorder():
            return {"kind": "reorder", **dataclasses.asdict(encoding)}
        case Strings():
            return {"kind": "strings"}
        case Partitioned(parts):
            return {"kind": "partitioned", "parts": [dataclasses.astuple(part) for part in parts]}


def _encoding_from_json(raw: dict[str, Any]) -> Encoding:
    kind = raw.pop("kind")
    match kind:
        case "inline":
            return Inline(_from_text(raw["data"]))
        case "deflate":
            return Deflate(**raw)
        case "reorder":
            return Reorder(**raw)
        case "strings":
            return Strings()
        case "partitioned":
            return Partitioned(
                tuple(
                    Part(tuple(origin), tuple(shape), *where)
                    for origin, shape, *where in raw["parts"]
                )
            )
        case "chunked":
            return Chunked(
                chunk=tuple(raw["chunk"]),
                filters=tuple((ident, tuple(values)) for ident, values in raw["filters"]),
                chunks=tuple(
                    Chunk(tuple(origin), offset, length, mask)
                    for origin, offset, length, mask in raw["chunks"]
                ),
                fill=_from_text(raw["fill"]),
                swap=raw["swap"],
            )
        case _:
            raise ValueError(f"unknown encoding {kind!r} in a manifest")
