"""ZIP archives of any kind, valid or not: every field can be forged."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Forged:
    """A member; what is ``None`` is as it should be."""

    name: bytes
    content: bytes = b""
    method: int = 0
    flags: int = 0
    attributes: int = 0
    header: int | None = None  # offset that the directory states
    stored: int | None = None
    decoded: int | None = None
    crc32: int | None = None
    extra: bytes = b""  # in the local header
    directory_extra: bytes = b""
    local_name: bytes | None = None
    local_method: int | None = None
    local_flags: int | None = None
    local_stored: int | None = None
    local_crc32: int | None = None
    signature: bytes = b"PK\x03\x04"


def _or(value: int | None, otherwise: int) -> int:
    return otherwise if value is None else value


def forge(members: Sequence[Forged], *, comment: bytes = b"", between: bytes = b"") -> bytes:
    """Write an archive; ``between`` stands between the members and the directory."""
    body, directory = bytearray(), bytearray()
    for member in members:
        content = member.content
        if member.method == 8:
            deflate = zlib.compressobj(wbits=-15)
            content = deflate.compress(content) + deflate.flush()
        crc32 = _or(member.crc32, zlib.crc32(member.content))
        stored = _or(member.stored, len(content))
        decoded = _or(member.decoded, len(member.content))
        name = member.name if member.local_name is None else member.local_name
        header = _or(member.header, len(body))
        body += member.signature + struct.pack(
            "<5H3L2H",
            20,
            _or(member.local_flags, member.flags),
            _or(member.local_method, member.method),
            0,
            0x21,
            _or(member.local_crc32, crc32),
            _or(member.local_stored, stored),
            decoded,
            len(name),
            len(member.extra),
        )
        body += name + member.extra + content
        directory += b"PK\x01\x02" + struct.pack(
            "<6H3L5H2L",
            20 | 3 << 8,  # made on Unix, where attributes tell links from files
            20,
            member.flags,
            member.method,
            0,
            0x21,
            crc32,
            stored,
            decoded,
            len(member.name),
            len(member.directory_extra),
            0,
            0,
            0,
            member.attributes,
            header,
        )
        directory += member.name + member.directory_extra
    begin = len(body) + len(between)
    count = len(members)
    end = struct.pack("<4H2LH", 0, 0, count, count, len(directory), begin, len(comment))
    return bytes(body + between + directory) + b"PK\x05\x06" + end + comment
