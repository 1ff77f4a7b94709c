"""ZIP archives from anywhere: the few bytes that locate a member are read, and none believed.

The directory is parsed by `zipfile`, as Keras and NumPy do, over the end of the file alone.
What they let pass is checked here: names that leave the folder, members with two names,
links, encryption, duplicates, members that overlap, and local headers that contradict the
directory (APPNOTE.TXT 6.3.10, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT).
"""

from __future__ import annotations

import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from asyncload.errors import Corrupt, FormatError, TooLarge, Unsafe
from asyncload.interfaces import Bounds, Indexing, Reader
from asyncload.manifest import Deflate, TensorEntry

from ._ranges import Held, read_spans

__all__ = [
    "MAGIC",
    "Archive",
    "Directory",
    "Member",
    "check_method",
    "content",
    "data_offset",
    "file_entry",
    "head",
    "inflate",
    "open_archive",
    "whole",
]

MAGIC = b"PK\x03\x04"

# The end record, behind it a comment of up to 64 KiB, before it a directory of a few members.
_TAIL = 68 << 10  # bytes
_DIRECTORY_LIMIT = 4 << 20  # bytes, and for each member that there may be:
_ENTRY_LIMIT = 160  # bytes; 46 are no name

_LOCAL = struct.Struct("<4s5H3L2H")  # APPNOTE 4.3.7
_EXTRA_LIMIT = 0xFFFF  # bytes; the extra field's length has 16 bits

_ENCRYPTED = 0x1 | 0x40 | 0x2000
_SIZES_FOLLOW = 0x8
_UTF8 = 0x800
_IN_ZIP64 = 0xFFFFFFFF

_FIELD = struct.Struct("<HH")  # APPNOTE 4.5.1: what an extra field is, and its length
_UNICODE_PATH = 0x7075  # APPNOTE 4.6.9
_PATH_HEADER = 5  # bytes before the name in it: a version and a checksum
_PART_LIMIT = 255  # bytes of a file's name; ext4, XFS and APFS take no more
_PATH_LIMIT = 2048  # bytes of a path; half of what Linux takes, for the folder in front of it
_FOLDER_LIMIT = 100  # folders around a file: each is made on disk, and a file may have thousands


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive, as the directory has it.

    Attributes:
        name: as the directory has it. Where the archive was opened with ``paths``, it is a path,
            ``/`` between its parts, and safe to join to a folder.
        header: offset of its local header within the outermost file.
        limit: offset at which something else begins.
        stored: bytes in the archive.
        decoded: bytes of the file.
        crc32: of the decoded bytes.
        method: 0 stored, 8 deflate (APPNOTE 4.4.5).
        raw_name: its name as the local header must repeat it.
    """

    name: str
    header: int
    limit: int
    stored: int
    decoded: int
    crc32: int
    method: int
    raw_name: bytes

    @property
    def deflated(self) -> bool:
        """Whether the data is a DEFLATE stream, rather than the bytes themselves."""
        return self.method == zipfile.ZIP_DEFLATED


Directory = Mapping[str, Member]


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive whose directory is known.

    Attributes:
        reader: the file that holds it.
        members: name -> member, in the directory's order; folders are left out.
        held: the end of the file, as far as it was read.
    """

    reader: Reader
    members: Directory
    held: Held

    async def read(self, spans: Iterable[tuple[int, int]]) -> Held:
        """Return the bytes of (offset, length) spans, which are read where they are not held."""
        return await read_spans(self.reader, spans, self.held)


def whole(member: Member) -> tuple[int, int]:
    """Return an (offset, length) span that holds a member's local header and all its data."""
    return head(member, _EXTRA_LIMIT + member.stored)


def head(member: Member, payload: int = 0) -> tuple[int, int]:
    """Return an (offset, length) span of a local header and ``payload`` bytes behind its name.

    It ends where something else begins, as early as that may be.
    """
    length = _LOCAL.size + len(member.raw_name) + payload
    return member.header, min(length, member.limit - member.header)


async def open_archive(
    indexing: Indexing,
    reader: Reader,
    base: int = 0,
    length: int | None = None,
    *,
    paths: bool = True,
) -> Archive:
    """Read and check the directory of an archive.

    Args:
        indexing: what to work with.
        reader: the file that holds it.
        base: its offset in that file.
        length: its length in bytes; ``None`` for all that follows.
        paths: whether members are files, which may be written below a folder. If not, their
            names are no more than keys.

    Raises:
        Corrupt, Unsafe, TooLarge: it is no archive, or one to refuse.
    """
    size = reader.size - base if length is None else length
    start = max(0, size - _TAIL)
    while True:
        tail = await reader.read(base + start, size - start)
        found = await indexing.parse(
            parse_directory, tail, start, base, paths, indexing.bounds, reader.uri
        )
        if not isinstance(found, int):
            return Archive(reader, found, Held([(base + start, tail)]))
        _check_length(size - found, indexing.bounds, reader.uri)
        start = found


def _check_length(length: int, bounds: Bounds, uri: str) -> None:
    if bounds.tensors is None:
        return
    most = _TAIL + _DIRECTORY_LIMIT + _ENTRY_LIMIT * bounds.tensors
    if length > most:
        raise TooLarge(
            f"the ZIP directory takes {length:,} bytes; at most {most:,} are accepted. Put fewer "
            "files into the archive, or load it with Loader(max_tensors=...).",
            uri=uri,
        )


# --- the directory: pure functions of the bytes -------------------------------------------


class _Earlier(Exception):
    """Bytes before those at hand are needed, from ``start`` on."""

    def __init__(self, start: int) -> None:
        super().__init__(start)
        self.start = start


class _Tail:
    """A file of which only the end is at hand."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data = memoryview(data)
        self._start = start
        self._size = start + len(data)
        self._position = 0

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        position = origin[whence] + offset
        if position < 0:
            raise OSError("seek before the file's start")
        self._position = position
        return position

    def read(self, length: int | None = -1) -> bytes:
        if self._position < self._start:
            raise _Earlier(self._position)
        first = self._position - self._start
        last = len(self._data) if length is None or length < 0 else first + length
        found = bytes(self._data[first:last])
        self._position += len(found)
        return found


def parse_directory(
    data: bytes, start: int, base: int, paths: bool, bounds: Bounds, uri: str
) -> dict[str, Member] | int:
    """Parse an archive's directory from its last bytes.

    Args:
        data: the bytes of the archive from ``start`` to its end.
        start: offset of ``data`` within the archive.
        base: offset of the archive within its file.
        paths: as `open_archive` takes it.
        bounds: what it may declare.
        uri: for messages.

    Returns:
        The members, offsets within the file; or, where ``data`` does not reach back to the
        directory's begin, the lesser ``start`` that is needed.
    """
    try:
        with zipfile.ZipFile(_Tail(data, start)) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except _Earlier as earlier:
        return earlier.start
    except (
        zipfile.BadZipFile,
        NotImplementedError,
        OSError,
        ValueError,
        struct.error,
        Warning,  # of an empty name, where the program has warnings raised
    ) as error:
        raise Corrupt(_no_archive(start + len(data), error), uri=uri) from error
    bounds.check_tensors(len(infos), uri, "members")
    members = _members(infos, base, end, paths, uri)
    _check_ratio(members.values(), bounds, uri)
    return members


def _no_archive(size: int, error: Exception) -> str:
    if size == 0:
        return "is empty; expected a ZIP archive. Copy or save the file again."
    return (
        f"is no whole ZIP archive ({error}): the directory at the end of its {size} bytes "
        "cannot be read. It may be truncated; copy or save it again."
    )


def _members(
    infos: Sequence[zipfile.ZipInfo], base: int, end: int, paths: bool, uri: str
) -> dict[str, Member]:
    members: dict[str, Member] = {}
    for info, limit in _with_limits(infos, end, uri):
        member = _member(info, base, limit, uri)
        if paths:
            _check_path(info, uri)
        _check_only_name(info, uri)
        if info.flag_bits & _ENCRYPTED:
            raise Unsafe(f"member {member.name!r} is encrypted, which is not supported", uri=uri)
        if member.name in members:
            raise Unsafe(f"holds two members named {member.name!r}", uri=uri)
        members[member.name] = member
    files = {name: each for name, each in members.items() if not _is_folder(each)}
    if paths:
        _check_tree(files, uri)
    return files


def _is_folder(member: Member) -> bool:
    return member.name.endswith("/") and not member.decoded


def _with_limits(
    infos: Sequence[zipfile.ZipInfo], end: int, uri: str
) -> Iterator[tuple[zipfile.ZipInfo, int]]:
    """Yield each member with the offset where the next thing begins; none may overlap."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    starts = [info.header_offset for info in ordered]
    limits: dict[int, int] = {}
    for info, limit in zip(ordered, [*starts, end][1:], strict=True):
        if info.header_offset < 0:
            raise Corrupt(f"member {info.orig_filename!r} begins before the file", uri=uri)
        if info.header_offset + _LOCAL.size + info.compress_size > limit:
            raise Unsafe(
                f"member {info.orig_filename!r} overlaps what follows it: its {info.compress_size} "
                f"bytes begin at {info.header_offset}, the next thing at {limit}",
                uri=uri,
            )
        limits[id(info)] = limit
    for info in infos:
        yield info, limits[id(info)]


def _check_path(info: zipfile.ZipInfo, uri: str) -> None:
    """Refuse a member that is no file, or that could be written elsewhere or nowhere."""
    name = info.orig_filename
    parts = name.removesuffix("/").split("/")
    outside = "\\" in name or "\0" in name or ":" in parts[0] or {"", ".", ".."} & set(parts)
    if outside or (name.endswith("/") and info.file_size):
        raise Unsafe(
            f"member {name!r} is not a plain relative path: it could name a file elsewhere",
            uri=uri,
        )
    lengths = [len(part.encode()) for part in parts]
    if max(lengths) > _PART_LIMIT or sum(lengths) + len(parts) > _PATH_LIMIT:
        raise Unsafe(
            f"member {name[:40]!r}... has a name of {len(name)} characters, too long for a file; "
            f"at most {_PART_LIMIT} bytes are possible between two slashes, and {_PATH_LIMIT} in "
            "all. Rename the layer or the asset, and save again.",
            uri=uri,
        )
    if len(parts) > _FOLDER_LIMIT:
        raise Unsafe(
            f"member {name[:40]!r}... is in {len(parts) - 1} folders, one in the other; at most "
            f"{_FOLDER_LIMIT - 1} are accepted. Save the model again, with fewer models in models.",
            uri=uri,
        )
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise Unsafe(f"member {name!r} is a link or a device, not a file", uri=uri)


def _check_only_name(info: zipfile.ZipInfo, uri: str) -> None:
    """Refuse a member with a second name: what is checked would not be what is used."""
    name = info.orig_filename
    others = {info.filename, *_unicode_names(info.extra)} - {name}
    if others:
        raise Unsafe(
            f"member {name!r} has a second name, {min(others)!r}, in its Unicode Path field or "
            "before a NUL. Write the archive again, with one name for each member.",
            uri=uri,
        )


def _unicode_names(extra: bytes) -> Iterator[str]:
    """Yield the names in Unicode Path fields, of which `zipfile` takes one from Python 3.12 on.

    Whether the checksum in the field fits the other name makes no difference: other programs may
    not compare it.
    """
    while len(extra) >= _FIELD.size:
        kind, length = _FIELD.unpack_from(extra)
        if kind == _UNICODE_PATH and length > _PATH_HEADER:
            yield extra[_FIELD.size + _PATH_HEADER : _FIELD.size + length].decode(errors="replace")
        extra = extra[_FIELD.size + length :]


def _check_tree(members: Iterable[str], uri: str) -> None:
    """Refuse a file that would have to be a folder as well."""
    # Sorted so, what lies below a name follows it at once.
    for parent, child in pairwise(sorted(name.split("/") for name in members)):
        if child[: len(parent)] == parent:
            raise Unsafe(
                f"member {'/'.join(parent)!r} is a file, and the folder of {'/'.join(child)!r}; "
                "save it again.",
                uri=uri,
            )


def _member(info: zipfile.ZipInfo, base: int, limit: int, uri: str) -> Member:
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        raise Corrupt(
            f"member {info.orig_filename!r} is stored as it is, in {info.compress_size} bytes, and "
            f"said to have {info.file_size}",
            uri=uri,
        )
    return Member(
        name=info.orig_filename,
        header=base + info.header_offset,
        limit=base + limit,
        stored=info.compress_size,
        decoded=info.file_size,
        crc32=info.CRC,
        method=info.compress_type,
        raw_name=info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437"),
    )


def _check_ratio(members: Collection[Member], bounds: Bounds, uri: str) -> None:
    compressed = [each for each in members if each.method != zipfile.ZIP_STORED]
    decoded = sum(member.decoded for member in compressed)
    bounds.check_ratio(decoded, sum(member.stored for member in compressed), uri)


# --- members: pure functions of the bytes -------------------------------------------------


def data_offset(head: bytes | memoryview, member: Member, uri: str) -> int:
    """Return where a member's data begins within the outermost file.

    Args:
        head: bytes from the member's local header on, at least all of that header.
        member: what the directory says, which the header must repeat.
        uri: for messages.
    """
    wrong = _contradiction(head, member)
    if wrong is not None:
        raise Corrupt(
            f"the local header of member {member.name!r} {wrong}. The archive is damaged; copy "
            "or save it again.",
            uri=uri,
        )
    name_length, extra_length = _LOCAL.unpack_from(head)[-2:]
    data = _LOCAL.size + int(name_length) + int(extra_length)
    if member.header + data + member.stored > member.limit:
        raise Unsafe(
            f"the {member.stored} bytes of member {member.name!r} overlap what follows it", uri=uri
        )
    return member.header + data


def _contradiction(head: bytes | memoryview, member: Member) -> str | None:
    fields = _LOCAL.unpack_from(head)
    signature, _, flags, method, _, _, crc32, stored, decoded, name_length, _ = fields
    if signature != MAGIC:
        return f"begins with {bytes(signature)!r} instead of {MAGIC!r}"
    expected = member.raw_name
    if name_length != len(expected) or head[_LOCAL.size : _LOCAL.size + name_length] != expected:
        return "has another name than the directory"
    if flags & _ENCRYPTED or method != member.method:
        return "has another method or encryption than the directory"
    if flags & _SIZES_FOLLOW:
        return None
    sizes_agree = stored in (member.stored, _IN_ZIP64) and decoded in (member.decoded, _IN_ZIP64)
    return None if sizes_agree and crc32 == member.crc32 else "has another size or checksum"


def check_method(member: Member, uri: str) -> None:
    """Refuse a member that is neither stored nor deflated."""
    if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise FormatError(
            f"member {member.name!r} is compressed by method {member.method}; only "
            "stored and deflated ones can be read. Save it without compression.",
            uri=uri,
        )


def inflate(stored: bytes | memoryview, limit: int) -> bytes:
    """Return the first bytes, at most ``limit``, of the file that a DEFLATE stream holds.

    Raises:
        zlib.error: the stream is damaged.
    """
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(stored, limit) if limit else b""


def content(data: memoryview, member: Member, uri: str) -> bytes:
    """Return a small member's bytes, decoded and compared with their checksum.

    Args:
        data: the bytes that are stored in the archive.
        member: what the directory says.
        uri: for messages.
    """
    try:
        # One byte more than declared, so that a stream which holds more is noticed.
        found = inflate(data, member.decoded + 1) if member.deflated else bytes(data)
    except zlib.error as error:
        raise Corrupt(f"member {member.name!r} cannot be inflated: {error}", uri=uri) from error
    if len(found) != member.decoded or zlib.crc32(found) != member.crc32:
        raise Corrupt(
            f"member {member.name!r} is not the {member.decoded} bytes with the checksum that the "
            "directory states. The archive is damaged; copy or save it again.",
            uri=uri,
        )
    return found


def file_entry(name: str, member: Member, data: int, *, file: int) -> TensorEntry:
    """Return the entry of a member's bytes, as they are.

    Args:
        name: the entry's.
        member: what the directory says.
        data: offset of the member's data within the file.
        file: index of that file.
    """
    encoding = Deflate(0, member.decoded, member.crc32) if member.deflated else None
    return TensorEntry(name, "uint8", (member.decoded,), file, data, member.stored, encoding)
