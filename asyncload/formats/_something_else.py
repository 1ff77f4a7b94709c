"""Files that are something else than their names say: what they begin with, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["BEGINNING", "something_else"]

BEGINNING = 512  # bytes that tell what a file is; a tar archive says so in the last of them
_SHOWN = 16  # of them, in a message
_TEXT_SHOWN = 80  # of a text

_TEXT_FILE = re.compile(r"checkpoint|.*\.pbtxt", re.DOTALL)  # what formats have as plain text
_CHECKPOINT_PART = re.compile(r"(.+)(?:\.data-\d{5}-of-\d{5}|\.meta)", re.DOTALL)

_DOWNLOAD = "If a server answered with it in the place of the file, download that again."
_UNPACK = "Unpack it, and load what is in it."


@dataclass(frozen=True, slots=True)
class _Kind:
    """A kind of file.

    Attributes:
        what: its name.
        remedy: what to do if it has another name.
        begins: whether a file that begins so is of this kind.
        formats: names of those in which some file is of this kind.
        sure: whether no tensors begin so by chance.
        plain: whether any text may begin so, of whatever use.
    """

    what: str
    remedy: str
    begins: Callable[[bytes], bool]
    formats: tuple[str, ...] = ()
    sure: bool = True
    plain: bool = False


def _with(*magic: bytes, at: int = 0) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magic, at)


def _is_html(head: bytes) -> bool:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script"))


def _is_xml(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<?xml", b"<Error>"))


def _is_torch(head: bytes) -> bool:
    return head.startswith(b"PK\x03\x04") and b"/data.pkl" in head[:128]


def _is_pickle(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def _is_safetensors(head: bytes) -> bool:
    return head[8:10] == b'{"' and head[4:8] == bytes(4)


def _is_json(head: bytes) -> bool:
    return head.lstrip(b" \t\r\n")[:1] in (b"{", b"[") and _is_text(head)


def _is_text(head: bytes) -> bool:
    return bool(head) and all(32 <= each < 127 or each in b"\t\r\n" for each in head)


def _is_zeros(head: bytes) -> bool:
    return bool(head) and not any(head)


_PICKLE = "It is code, and so is not loaded. Where it came from, write its tensors as safetensors."
_HDF5_FORMATS = ("keras-h5", "keras-weights", "keras-sharded", "keras-folder")
_ZIP_FORMATS = ("keras", "npz", "keras-folder")
_JSON_FORMATS = ("safetensors-index", "keras-sharded", "keras-folder")

# The first that fits.
_KINDS = (
    _Kind(
        "a pointer of Git LFS, not the file itself",
        "Fetch the file with `git lfs pull`.",
        _with(b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com"),
    ),
    _Kind(
        "a pointer of git-annex, not the file itself",
        "Fetch the file with `git annex get`.",
        _with(b"/annex/objects/"),
    ),
    _Kind("an HTML page", _DOWNLOAD, _is_html),
    _Kind("an XML document", _DOWNLOAD, _is_xml),
    _Kind("a file of torch.save", _PICKLE, _is_torch),
    _Kind(
        "an HDF5 file",
        "Give it the ending .h5, or .weights.h5 if Keras 3 wrote weights into it.",
        _with(b"\x89HDF\r\n\x1a\n"),
        _HDF5_FORMATS,
    ),
    _Kind(
        "a ZIP archive",
        "If it is a model of Keras, give it the ending .keras; .npz if NumPy wrote it; else unpack "
        "it.",
        _with(b"PK\x03\x04", b"PK\x05\x06"),
        _ZIP_FORMATS,
        sure=False,
    ),
    _Kind("a NumPy array", "Give it the ending .npy.", _with(b"\x93NUMPY"), ("npy",)),
    _Kind(
        "a safetensors file",
        "Give it the ending .safetensors.",
        _is_safetensors,
        ("safetensors", "safetensors-index"),
        sure=False,
    ),
    _Kind("a GGUF file", "It cannot be loaded into Keras.", _with(b"GGUF"), sure=False),
    _Kind(
        "a TensorFlow Lite model",
        "It has an interpreter of its own; load what it was converted from.",
        _with(b"TFL3", at=4),
        sure=False,
    ),
    _Kind("a tar archive", _UNPACK, _with(b"ustar", at=257)),
    _Kind("compressed with gzip", "Decompress it first.", _with(b"\x1f\x8b\x08"), sure=False),
    _Kind("compressed with zstd", "Decompress it first.", _with(b"\x28\xb5\x2f\xfd"), sure=False),
    _Kind("compressed with xz", "Decompress it first.", _with(b"\xfd7zXZ\x00"), sure=False),
    _Kind("compressed with bzip2", "Decompress it first.", _with(b"BZh"), sure=False),
    _Kind("compressed with lz4", "Decompress it first.", _with(b"\x04\x22\x4d\x18"), sure=False),
    _Kind("a 7z archive", _UNPACK, _with(b"7z\xbc\xaf\x27\x1c"), sure=False),
    _Kind("a RAR archive", _UNPACK, _with(b"Rar!\x1a\x07"), sure=False),
    _Kind("a pickle", _PICKLE, _is_pickle, sure=False),
    _Kind(
        "a JSON text",
        "If it is the index of a model in several files, it ends in .safetensors.index.json or "
        ".weights.json.",
        _is_json,
        _JSON_FORMATS,
        plain=True,
    ),
    _Kind("a text", _DOWNLOAD, _is_text, plain=True),
    _Kind(
        "zeros", "A copy or a download of it has not ended: get it again.", _is_zeros, sure=False
    ),
)

# What some of their files hold begins as it likes.
_ANY_BYTES = ("checkpoint", "saved-model")


def something_else(name: str, head: bytes, form: str | None) -> str | None:
    """Return what a file is, and what to do, if it is not what its format has in such a place.

    Args:
        name: the last part of its URI's path.
        head: its first bytes, up to `BEGINNING`.
        form: name of the format that was to read it; ``None`` if none is known.
    """
    kind = next((each for each in _KINDS if each.begins(head)), None)
    if kind is not None and kind.plain and _TEXT_FILE.fullmatch(name):
        return None
    if kind is not None and form not in kind.formats and (kind.sure or form not in _ANY_BYTES):
        return f"begins with {_begin(head)!r} and is {kind.what}. {kind.remedy}"
    part = _CHECKPOINT_PART.fullmatch(name) if form is None else None
    if part is not None:
        return (
            "is one of the files of a checkpoint. Name the checkpoint by what the names of all of "
            f"them begin with: {part[1]!r}."
        )
    return None


def _begin(head: bytes) -> bytes:
    """Return what is shown: of a text its first line, which may say what is wrong."""
    if _is_text(head) and head.strip():
        return head.strip().splitlines()[0][:_TEXT_SHOWN]
    return head[:_SHOWN]
