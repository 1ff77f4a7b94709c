"""The long lists in JSON, taken out of it and parsed bit by bit.

The parser of `json` holds the GIL from the first element of a list to the last one: half a second
for a vocabulary of some million words. So lists of numbers and words are parsed in pieces, and
what is left of the text is short.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ._turn import with_rests

__all__ = ["LongList", "long_lists", "put_back"]

_SHORT = 1 << 20  # bytes of a text that is parsed as a whole: 10 ms
_TAKEN = 10_000  # elements that are taken at once
_PIECE = 1 << 16  # bytes of a list that are parsed at once
_TEXT = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_SCALAR = rb"(?:" + _TEXT + rb"|-?\d[\d.eE+-]*+|true|false|null|NaN|-?Infinity)"
_ELEMENTS = re.compile(rb"(?:\s*" + _SCALAR + rb"\s*,)+", re.DOTALL)
_LAST = re.compile(rb"\s*" + _SCALAR + rb"\s*\]", re.DOTALL)
_TO_A_LIST = re.compile(rb'(?:[^"\[]++|' + _TEXT + rb")*+", re.DOTALL)
_PLACE = "\0asyncload list"  # no file has a zero byte in a key by chance, and it decides nothing


class LongList(list[Any]):
    """A list of numbers and texts that is shown, made an array of, and dropped bit by bit.

    Keras puts configs into the texts of its errors; each of the three would hold the GIL for tenths
    of a second.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"[... {len(self):,} elements ...]"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        parts = [self[start : start + _TAKEN] for start in range(0, len(self), _TAKEN)]
        # Of other elements, the array's dtype may depend on all of them.
        if dtype is not None or not all(type(each) is str for part in parts for each in part):
            return np.array(list(self), dtype)
        arrays = [np.array(part) for part in parts]
        # By parts, as NumPy holds the GIL when it copies texts.
        made = np.empty(len(self), max(each.dtype for each in arrays))
        for start, each in zip(range(0, len(self), _TAKEN), arrays, strict=True):
            made[start : start + _TAKEN] = each
        return made

    def __del__(self) -> None:
        while self:
            del self[-_TAKEN:]


def long_lists(text: bytes) -> tuple[bytes, list[LongList]]:
    """Return JSON with objects in the place of long lists of numbers and texts, and these lists.

    Args:
        text: in UTF-8. Where it is no JSON, what is returned is none either.

    Raises:
        ValueError: a part of it is no JSON.
    """
    if len(text) <= _SHORT:
        return text, []
    kept: list[bytes] = []
    lists: list[LongList] = []
    for piece in with_rests(_pieces(text)):
        if isinstance(piece, bytes):
            kept.append(piece)
        else:
            kept.append(json.dumps({_PLACE: len(lists)}).encode())
            lists.append(piece)
    return b"".join(kept), lists


def put_back(parsed: Mapping[str, Any], lists: list[LongList]) -> Any:
    """Return the list in whose place an object is, or else the object itself.

    Raises:
        ValueError: it stands for a list that is not there.
    """
    place = parsed.get(_PLACE)
    if place is None:
        return parsed
    if type(place) is not int or not 0 <= place < len(lists):
        raise ValueError(f"a key is {_PLACE!r}")
    return lists[place]


def _pieces(text: bytes) -> Iterator[bytes | LongList]:
    """Yield the text in pieces, and long lists."""
    at = 0
    while at < len(text):
        end = _within(_TO_A_LIST, text, at)
        if end == at and text[at : at + 1] == b"[":
            found, end = _list_at(text, at + 1)
            if found is not None:
                yield found
                at = end
                continue
            end = at + 1
        elif end == at:  # a text longer than a piece, or damage
            end = _end_of_text(text, at)
        yield text[at:end]
        at = end


def _within(pattern: re.Pattern[bytes], text: bytes, at: int) -> int:
    match = pattern.match(text, at, at + _PIECE)
    return at if match is None else match.end()


def _end_of_text(text: bytes, at: int) -> int:
    end = at + 1
    while (end := text.find(b'"', end)) >= 0:
        escapes = 0
        while text[end - 1 - escapes] == ord("\\"):
            escapes += 1
        end += 1
        if escapes % 2 == 0:
            return end
    return len(text)


def _list_at(text: bytes, at: int) -> tuple[LongList | None, int]:
    """Parse a list of scalars that is longer than a piece, and return where it ends."""
    if _within(_ELEMENTS, text, at) - at < _PIECE // 2:
        return None, at
    found = LongList()
    while (end := _within(_ELEMENTS, text, at)) > at:
        found += json.loads(b"[" + text[at : end - 1] + b"]")
        at = end
    last = _LAST.match(text, at, at + _PIECE)
    if last is None:  # lists among its elements, or a text longer than a piece
        return None, at
    found += json.loads(b"[" + last[0])
    return found, last.end()
