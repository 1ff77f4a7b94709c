"""An entry of the index cache: a manifest as bytes, and which file it is the index of. Pure.

An entry is a header, the manifest as JSON in short lines, and its documents as they are::

    8 bytes  magic
    32       digest of the `Key`
    4        CRC-32 of all that follows
    8        length of the JSON
             one line: when files changed, names and lengths of documents
             one line: files and assets
             lines of tensors
             documents, one after the other

Numbers are little-endian. JSON, and no pickle: an entry is data, whoever wrote it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from typing import get_args

from asyncload.manifest import (
    Chunk,
    Chunked,
    Encoding,
    FileEntry,
    Inline,
    Manifest,
    TensorEntry,
    numpy_dtype,
)

__all__ = ["ENTRY_LIMIT", "Entry", "Key", "Unusable", "decode", "encode", "is_lasting"]

# To be counted up when the meaning of a manifest changes, and its fields do not.
SCHEMA = 2
ENTRY_LIMIT = 16 << 20  # bytes; read and parsed in a thread, 2 ms for each 100 KB of tensors

_MAGIC = b"asyncidx"
_HEADER = struct.Struct("<8s32sI")
_LENGTH = struct.Struct("<Q")
# json.loads holds the GIL for a whole line: lines end at the first weight, which takes 0.03 ms,
# and no entry may have the second, 1 ms. A raw tensor weighs 1, about 80 bytes.
_LINE, _HEAVIEST = 64, 4096

_DAMAGE = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError, RecursionError,
    struct.error,
)  # fmt: skip


class Unusable(ValueError):
    """The bytes are no entry for this key: damaged, cut short, or of something else."""


@dataclass(frozen=True, slots=True)
class Key:
    """What an entry is the index of.

    Attributes:
        location: absolute path, or `Placed.place`.
        version: of the file by which the URI is known, as its Reader has it.
        format: name of the Format that indexed it.
    """

    location: str
    version: str
    format: str

    @property
    def digest(self) -> bytes:
        """32 bytes that no other key has, nor this one in another release."""
        text = json.dumps([self.location, self.version, self.format, _form()])
        return hashlib.sha256(text.encode("ascii")).digest()


@functools.cache
def _form() -> str:
    """Return what names the form of entries: other fields, or another release, are another."""
    kinds = (Manifest, FileEntry, TensorEntry, Chunk, *get_args(Encoding))
    names = [[kind.__name__, *(field.name for field in fields(kind))] for kind in kinds]
    try:
        release = version("asyncload")
    except PackageNotFoundError:
        release = ""
    # Manifests say what has another byte order than this machine; homes are shared by several.
    return json.dumps([SCHEMA, release, sys.byteorder, names])


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept.

    Attributes:
        manifest: the index.
        changed: when the system last changed each of its files (``st_ctime_ns``); ``None`` for
            those of a store, whose versions say enough.
    """

    manifest: Manifest
    changed: tuple[int | None, ...]


def is_lasting(manifest: Manifest) -> bool:
    """Whether a later load can open every file that the manifest refers to, by its name.

    What was inflated out of another file cannot be opened. Tensors of thousands of chunks are not
    kept either, as they take long to parse.
    """
    names = [file.name for file in manifest.files]
    entries = itertools.chain(manifest.tensors.items(), manifest.assets.items())
    return "" not in names[1:] and all(
        name == entry.name and _weight(entry) < _HEAVIEST for name, entry in entries
    )


def _weight(entry: TensorEntry) -> int:
    match entry.encoding:
        case Chunked(chunks=chunks):
            return 1 + len(chunks)
        case Inline(data):
            return 1 + len(data) // 64
        case _:
            return 1


def encode(entry: Entry, key: Key) -> bytes:
    """Return the bytes to keep."""
    manifest = entry.manifest
    documents = [(name, len(data)) for name, data in manifest.documents.items()]
    first = json.dumps({"changed": entry.changed, "documents": documents})
    text = "\n".join([first, *_lines(manifest)]).encode("ascii")
    body = b"".join([_LENGTH.pack(len(text)), text, *manifest.documents.values()])
    return _HEADER.pack(_MAGIC, key.digest, zlib.crc32(body)) + body


def _lines(manifest: Manifest) -> Iterator[str]:
    yield replace(manifest, tensors={}, documents={}).to_json()
    line: dict[str, TensorEntry] = {}
    weight = 0
    for entry in manifest.tensors.values():
        line[entry.name] = entry
        weight += _weight(entry)
        if weight >= _LINE:
            yield Manifest("", "", (), line).to_json()
            line, weight = {}, 0
    yield Manifest("", "", (), line).to_json()


def decode(data: bytes, key: Key) -> Entry:
    """Return what `encode` made bytes of.

    Raises:
        Unusable: they are not what it made for this key.
    """
    if len(data) < _HEADER.size:
        raise Unusable("is cut short")
    magic, digest, checksum = _HEADER.unpack_from(data)
    if (magic, digest) != (_MAGIC, key.digest):
        raise Unusable("is of another file, or of another release")
    body = memoryview(data)[_HEADER.size :]
    if zlib.crc32(body) != checksum:
        raise Unusable("is damaged")
    try:
        return _decode(body)
    except _DAMAGE as error:
        raise Unusable(f"is damaged: {error!r}") from error


def _decode(body: memoryview) -> Entry:
    (length,) = _LENGTH.unpack_from(body)
    begin = _LENGTH.size + length
    first, *lines = bytes(body[_LENGTH.size : begin]).split(b"\n")
    head = json.loads(first)
    base, *parts = (Manifest.from_json(line.decode("ascii")) for line in lines)
    tensors: dict[str, TensorEntry] = {}
    for part in parts:
        tensors |= part.tensors
    documents = {}
    for name, nbytes in head["documents"]:
        documents[name] = bytes(body[begin : begin + nbytes])
        begin += nbytes
    manifest = replace(base, tensors=tensors, documents=documents)
    _check(manifest)
    return Entry(manifest, tuple(head["changed"]))


def _check(manifest: Manifest) -> None:
    """Make sure that entries refer to what there can be; the rest is the pipeline's to check."""
    names = [file.name for file in manifest.files]
    if not all(isinstance(name, str) for name in names) or "" in names[1:]:
        raise Unusable("names files that cannot be opened")
    entries = [*manifest.tensors.values(), *manifest.assets.values()]
    if not {entry.file for entry in entries} <= set(range(len(names))):
        raise Unusable("refers to files that it does not name")
    if any(numpy_dtype(name).hasobject for name in {entry.dtype for entry in entries}):
        raise Unusable("has elements that are no bytes")
