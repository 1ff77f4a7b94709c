"""NumPy's ``.npz`` archives, and single ``.npy`` arrays.

An archive is a ZIP of ``<name>.npy`` members, stored by `numpy.savez` and deflated by
`numpy.savez_compressed`. A stored member's data is read as it lies in the archive. Names are keys,
as to `numpy.load`, and no paths: nothing is written by them.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from itertools import chain

from asyncload.collecting import collection_held
from asyncload.errors import Corrupt, Unsafe
from asyncload.interfaces import Indexing
from asyncload.manifest import Manifest, TensorEntry

from . import _npy, _zip
from ._concurrent import for_each

__all__ = ["Npy", "Npz", "index_npz"]

_SUFFIX = ".npy"
# What `numpy.save` writes before the data of a usual array, and the ZIP header's extra field.
_HEAD = 256  # bytes
# The loop's thread plans the reads of so many in less than a millisecond.
_BATCH = 128  # members
_BATCHES = 4  # at a time, so that reads overlap where they are slow
_MANY = 5_000  # members of which the entries are worth no look by the garbage collector
# Where a DEFLATE stream has yielded no header after this much, it is none.
_HEAD_LIMIT = 1 << 20  # bytes

# A member's own name, or that of its array; what it is; and whether it is an array.
_Found = tuple[str, TensorEntry | _npy.NoTensor, bool]


class Npz:
    """Format of ``*.npz``: tensors are named as `numpy.load` names them.

    As there, a member that begins as an array is one, whatever its name. Others become assets.
    """

    name = "npz"
    costly = False

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name ends in ``.npz``."""
        del head  # every ZIP archive begins alike
        return name.endswith(".npz")

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the archive."""
        tensors, assets = await index_npz(indexing, 0)
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors=tensors,
            left_out=indexing.left_out,
            assets=assets,
        )


class Npy:
    """Format of ``*.npy``: one tensor, named as the file is, without the suffix."""

    name = "npy"
    costly = False

    def matches(self, name: str, head: bytes) -> bool:
        """Whether the name ends in ``.npy``, or the bytes begin as NumPy's do."""
        return name.endswith(_SUFFIX) or head.startswith(_npy.MAGIC)

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the array."""
        reader = indexing.files.readers[0]
        name = indexing.source.name
        name = name[: -len(_SUFFIX)] if name.lower().endswith(_SUFFIX) else name
        header: _npy.Header | _npy.NoTensor | int = _HEAD
        while isinstance(header, int):
            data = await reader.read(0, min(header, reader.size))
            header = await indexing.parse(_npy.parse_header, data, reader.size, reader.uri, name)
        if isinstance(header, _npy.NoTensor):
            raise header.error(reader.uri, name)
        return Manifest(
            uri=indexing.source.uri,
            format=self.name,
            files=indexing.files.entries(),
            tensors={name: _npy.entry(name, header, file=0, offset=header.length)},
        )


async def index_npz(
    indexing: Indexing, file: int, *, base: int = 0, length: int | None = None
) -> tuple[dict[str, TensorEntry], dict[str, TensorEntry]]:
    """Index an ``.npz`` archive, or one that lies as it is within a file.

    Args:
        indexing: what to work with.
        file: index of the file in ``indexing.files``.
        base: offset of the archive within the file.
        length: its length in bytes; ``None`` for all that follows.

    Returns:
        The tensors, and what else there is in it, by name in the archive's order.
    """
    reader = indexing.files.readers[file]
    archive = await _zip.open_archive(indexing, reader, base, length, paths=False)
    members = list(archive.members.values())
    batches = [members[first : first + _BATCH] for first in range(0, len(members), _BATCH)]

    async def index_batch(batch: Sequence[_zip.Member]) -> Sequence[_Found]:
        return await _index_batch(indexing, archive, batch, file)

    with collection_held() if len(members) > _MANY else nullcontext():
        found = await for_each(batches, index_batch, limit=_BATCHES)
    tensors, others, left_out = await indexing.workers.run_in_thread(_sort_out, found, reader.uri)
    indexing.left_out.update(left_out)
    return tensors, others


def _sort_out(
    batches: Iterable[Sequence[_Found]], uri: str
) -> tuple[dict[str, TensorEntry], dict[str, TensorEntry], dict[str, str]]:
    """Return the tensors and what else there is, by name, and why some arrays make no tensor.

    Raises:
        Unsafe: two members are arrays of one name.
        FormatError: there are arrays, and no tensor.
    """
    tensors: dict[str, TensorEntry] = {}
    others: dict[str, TensorEntry] = {}
    refused: dict[str, _npy.NoTensor] = {}
    for name, what, is_array in chain.from_iterable(batches):
        if is_array and (name in tensors or name in refused):
            raise Unsafe(
                f"holds two members for this array, {name!r} and {name + _SUFFIX!r}; numpy.load "
                "would return one of them. Save it again.",
                uri=uri,
                tensor=name,
            )
        if isinstance(what, _npy.NoTensor):
            refused[name] = what
        else:
            (tensors if is_array else others)[name] = what
    if refused and not tensors:
        name, reason = next(iter(refused.items()))
        raise reason.error(uri, name)
    return tensors, others, {name: reason.reason for name, reason in refused.items()}


async def _index_batch(
    indexing: Indexing, archive: _zip.Archive, members: Sequence[_zip.Member], file: int
) -> Sequence[_Found]:
    """Index some members, the begins of which are read together."""
    found: dict[str, _Found] = {}
    wanted = [(member, _HEAD) for member in members]
    while wanted:
        held = await archive.read(_zip.head(*want) for want in wanted)
        heads = [held.view(*_zip.head(*want)) for want in wanted]
        parts = [(member, len(head)) for (member, _), head in zip(wanted, heads, strict=True)]
        answers = await indexing.parse(
            _parse_heads, b"".join(heads), parts, file, archive.reader.uri
        )
        again = []
        for (member, payload), answer in zip(wanted, answers, strict=True):
            if isinstance(answer, int):
                again.append((member, max(answer, 4 * payload)))
            else:
                found[member.name] = answer
        wanted = again
    return [found[member.name] for member in members]


def _parse_heads(
    blob: bytes, members: Sequence[tuple[_zip.Member, int]], file: int, uri: str
) -> list[_Found | int]:
    """Return what each member is, or how many bytes behind its name are needed."""
    answers: list[_Found | int] = []
    position = 0
    for member, length in members:
        head = memoryview(blob)[position : position + length]
        position += length
        _zip.check_method(member, uri)
        answers.append(_entry(head, _zip.data_offset(head, member, uri), member, file, uri))
    return answers


def _entry(head: memoryview, data: int, member: _zip.Member, file: int, uri: str) -> _Found | int:
    before = data - member.header
    payload = head[before:][: member.stored]
    begin = _begin(payload, member, uri) if member.deflated else bytes(payload)
    named = member.name.endswith(_SUFFIX)
    short = len(begin) < min(len(_npy.MAGIC), member.decoded)
    if short and not named and len(payload) < min(member.stored, _HEAD_LIMIT):
        return before + len(_npy.MAGIC)
    if not named and not begin.startswith(_npy.MAGIC):
        return member.name, _zip.file_entry(member.name, member, data, file=file), False
    name = member.name.removesuffix(_SUFFIX)
    header = _npy.parse_header(begin, member.decoded, uri, name)
    if isinstance(header, _npy.NoTensor):
        return name, header, True
    if not isinstance(header, int):
        return name, _array(name, header, data, member, file), True
    if len(payload) == member.stored or len(payload) > _HEAD_LIMIT:
        raise Corrupt(
            f"ends after {len(begin)} bytes; its header takes {header}", uri=uri, tensor=name
        )
    return before + header


def _array(
    name: str, header: _npy.Header, data: int, member: _zip.Member, file: int
) -> TensorEntry:
    if not member.deflated:
        return _npy.entry(name, header, file=file, offset=data + header.length)
    span = data, member.stored
    return _npy.deflated_entry(name, header, file=file, span=span, crc32=member.crc32)


def _begin(payload: memoryview, member: _zip.Member, uri: str) -> bytes:
    try:
        return _zip.inflate(payload, min(member.decoded, _npy.HEADER_LIMIT))
    except zlib.error as error:
        raise Corrupt(f"member {member.name!r} cannot be inflated: {error}", uri=uri) from error
