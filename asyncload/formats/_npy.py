"""The header of a ``.npy`` file, versions 1 to 3 (NEP 1, numpy/lib/_format_impl.py).

NumPy's own reader evaluates the header as Python source, which on hostile bytes can exhaust
the interpreter's stack or print warnings. The few forms that a header of plain
numbers can have are matched here instead, in linear time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from asyncload.errors import Corrupt, FormatError, TooLarge, Unsafe
from asyncload.manifest import Deflate, Reorder, TensorEntry, numpy_dtype

from ._shape import array_bytes

__all__ = ["MAGIC", "Header", "NoTensor", "deflated_entry", "entry", "parse_header"]

MAGIC = b"\x93NUMPY"

_LENGTH_AT = 8  # bytes: magic, major and minor version
_LENGTH_BYTES = {1: 2, 2: 4, 3: 4}  # by major version
# Headers of plain arrays take 128 bytes; NumPy itself refuses more than 10,000 by default.
HEADER_LIMIT = 64 << 10  # bytes

_FIELD = re.compile(
    r"""\s*(?P<quote>['"])(?P<key>\w+)(?P=quote)\s*:\s*
    (?:['"](?P<text>[^'"]*)['"]|(?P<flag>True|False)|\((?P<shape>[\dL,\s]*)\))
    \s*(?:,|(?=\}))""",
    re.VERBOSE | re.ASCII,
)
_CLOSE = re.compile(r"\s*\}\s*", re.ASCII)
_NUMBER = re.compile(r"\d{1,19}L?", re.ASCII)  # Python 2 wrote the L
_DTYPE = re.compile(r"[<>|=]?(?:[biufcSUV]\d{1,9}|[mM]8(?:\[\d{0,6}[a-zA-Z]{1,2}\])?)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says.

    Attributes:
        length: bytes before the data.
        dtype: canonical name.
        shape: elements in each dimension.
        nbytes: bytes of the data.
        order: ``"C"`` or ``"F"``.
        swap: whether the elements have the other byte order than this machine.
    """

    length: int
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    order: str
    swap: bool


@dataclass(frozen=True, slots=True)
class NoTensor:
    """Why an array has elements that make no tensor, and the error that says so of it alone."""

    reason: str
    kind: type[FormatError]

    def error(self, uri: str, tensor: str) -> FormatError:
        """Return the error to raise where this is all that there is."""
        return self.kind(self.reason, uri=uri, tensor=tensor)


def entry(name: str, header: Header, *, file: int, offset: int) -> TensorEntry:
    """Return the entry of an array whose data lies as it is at ``offset`` of the file."""
    plain = header.order == "C" and not header.swap
    encoding = None if plain else Reorder(header.order, header.swap)
    return TensorEntry(name, header.dtype, header.shape, file, offset, header.nbytes, encoding)


def deflated_entry(
    name: str, header: Header, *, file: int, span: tuple[int, int], crc32: int
) -> TensorEntry:
    """Return the entry of an array in a DEFLATE stream.

    Args:
        name: the entry's.
        header: what the decoded stream begins with.
        file: index of the file.
        span: (offset, length) of the stream.
        crc32: of the whole decoded stream.
    """
    decoded = header.length + header.nbytes
    encoding = Deflate(header.length, decoded, crc32, header.order, header.swap)
    return TensorEntry(name, header.dtype, header.shape, file, *span, encoding)


def parse_header(data: bytes, size: int, uri: str, tensor: str) -> Header | NoTensor | int:
    """Parse the header at the beginning of ``data``.

    Args:
        data: the first bytes of a ``.npy`` file, as many as are at hand.
        size: length in bytes of that file.
        uri: for messages.
        tensor: for messages.

    Returns:
        The header; or why it makes no tensor; or, where ``data`` ends within it, how many bytes
        are needed.

    Raises:
        Corrupt, TooLarge, FormatError: it is none, or none that is known.
    """
    try:
        found = _parse(data, size)
    except _Elements as refused:
        return NoTensor(str(refused), refused.kind)
    except _Refused as refused:
        raise refused.kind(str(refused), uri=uri, tensor=tensor) from refused
    except (ValueError, TypeError) as error:
        raise Corrupt(f"has a .npy header with {error}", uri=uri, tensor=tensor) from error
    if not isinstance(found, int) and found.length + found.nbytes != size:
        raise Corrupt(
            f"has {size - found.length} bytes of data; {found.dtype} of shape {found.shape} takes "
            f"{found.nbytes}. The file is truncated, or holds more than one array.",
            uri=uri,
            tensor=tensor,
        )
    return found


class _Refused(Exception):
    def __init__(self, message: str, kind: type[FormatError] = Corrupt) -> None:
        super().__init__(message)
        self.kind = kind


class _Elements(_Refused):
    """The header is well formed, and the elements are none that a tensor has."""


def _parse(data: bytes, size: int) -> Header | int:
    if data[: len(MAGIC)] != MAGIC[: len(data)] or size < _LENGTH_AT:
        found = "it is empty" if size == 0 else f"it begins with {data[: len(MAGIC)]!r}"
        raise _Refused(f"is no .npy file: expected {MAGIC!r} at its begin, {found}. Save it again.")
    if len(data) < _LENGTH_AT:
        return _LENGTH_AT
    width = _LENGTH_BYTES.get(data[6])
    if width is None or data[7]:
        version = f"{data[6]}.{data[7]}"
        raise _Refused(f"is .npy version {version}; known are 1.0, 2.0 and 3.0", FormatError)
    begin = _LENGTH_AT + width
    if len(data) < begin <= size:
        return begin
    length = begin + int.from_bytes(data[_LENGTH_AT:begin], "little")
    if length > size:
        raise _Refused(f"is truncated: its header takes {length} bytes, the file has {size}")
    if length > HEADER_LIMIT:
        raise _Refused(
            f"has a header of {length} bytes; at most {HEADER_LIMIT} fit, and NumPy itself takes "
            "10,000. Save it again, with numpy.save.",
            TooLarge,
        )
    if len(data) < length:
        return length
    return _header(length, data[begin:length].decode("utf-8" if data[6] == 3 else "latin1"))


def _header(length: int, text: str) -> Header:
    fields = _fields(text)
    if set(fields) != {"descr", "fortran_order", "shape"}:
        raise ValueError(f"the fields {sorted(fields)}; expected descr, fortran_order and shape")
    descr, fortran, sizes = fields["descr"], fields["fortran_order"], fields["shape"]
    if descr["text"] is None or fortran["flag"] is None or sizes["shape"] is None:
        raise ValueError("values of other types than text, truth and tuple")
    dtype = _dtype(descr["text"])
    shape = _shape(sizes["shape"])
    nbytes = array_bytes(shape, dtype.itemsize)
    flat = sum(size != 1 for size in shape) < 2
    order = "F" if fortran["flag"] == "True" and not flat else "C"
    return Header(length, _canonical(dtype), shape, nbytes, order, not dtype.isnative)


def _fields(text: str) -> dict[str, re.Match[str]]:
    fields: dict[str, re.Match[str]] = {}
    position = 1 if text.startswith("{") else len(text)
    while (match := _FIELD.match(text, position)) is not None:
        if match["key"] in fields:
            raise ValueError(f"two fields {match['key']!r}")
        fields[match["key"]] = match
        position = match.end()
    if _CLOSE.fullmatch(text, position) is None:
        if re.match(r"\s*['\"]descr['\"]\s*:\s*[\[(]", text[position:], re.ASCII):
            raise _Elements(
                "is an array of records; only arrays of one type of number or text can be read. "
                "Save each field as an array of its own.",
                FormatError,
            )
        raise ValueError(f"something unreadable at {text[position : position + 20]!r}")
    return fields


def _shape(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 1 and parts[0]:
        raise ValueError(f"a number for a shape, ({text})")
    if not parts[-1]:
        parts.pop()
    if not all(_NUMBER.fullmatch(part) for part in parts):
        raise ValueError(f"a shape of ({text[:80]})")
    return tuple(int(part.removesuffix("L")) for part in parts)


def _dtype(text: str) -> np.dtype[Any]:
    if text.lstrip("<>|=") in ("O", "O8", "O4"):
        raise _Elements(
            "holds Python objects, which are pickled: reading them could run code. Save arrays "
            "of numbers, one for each object.",
            Unsafe,
        )
    if _DTYPE.fullmatch(text) is None:
        raise ValueError(f"a dtype {text[:40]!r} that is not known")
    dtype = np.dtype(text)
    if dtype.itemsize == 0:
        raise _Elements(f"has elements of no bytes, dtype {text!r}", FormatError)
    return dtype


def _canonical(dtype: np.dtype[Any]) -> str:
    native = dtype.newbyteorder("=")
    try:
        return native.name if numpy_dtype(native.name) == native else native.str
    except TypeError:  # texts and void have names that NumPy does not take
        return native.str
