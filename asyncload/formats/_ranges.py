"""Small ranges of a file: neighbours are read together, and several at once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable

from asyncload.interfaces import Reader

from ._concurrent import for_each

__all__ = ["Held", "merge", "read_spans"]

# A gap this wide costs less to read over than a second read does.
_GAP = 64 << 10  # bytes
_READS = 8  # in flight at a time

Span = tuple[int, int]


class Held:
    """Ranges of a file that are in memory.

    Args:
        pieces: (offset, bytes) of each.
    """

    def __init__(self, pieces: Iterable[tuple[int, bytes]]) -> None:
        self.pieces = sorted(pieces, key=lambda piece: piece[0])
        self._starts = [offset for offset, _ in self.pieces]

    def find(self, offset: int, length: int) -> memoryview | None:
        """Return a range's bytes without copying them; ``None`` where not all are held."""
        for index in range(bisect_right(self._starts, offset) - 1, -1, -1):
            start, piece = self.pieces[index]
            if offset + length <= start + len(piece):
                return memoryview(piece)[offset - start : offset - start + length]
        return None

    def view(self, offset: int, length: int) -> memoryview:
        """Return a range's bytes, which were read before, without copying them.

        Raises:
            LookupError: they were not.
        """
        found = self.find(offset, length)
        if found is None:
            raise LookupError(f"bytes {offset} to {offset + length} were not read")
        return found


def merge(spans: Iterable[Span], gap: int = _GAP) -> list[Span]:
    """Return fewer (offset, length) spans that cover all given ones, in file order.

    Args:
        spans: what is wanted, in any order; they may overlap.
        gap: bytes between two spans up to which they become one.
    """
    merged: list[Span] = []
    for offset, length in sorted(spans):
        if merged:
            start, covered = merged[-1]
            if offset <= start + covered + gap:
                merged[-1] = start, max(covered, offset + length - start)
                continue
        merged.append((offset, length))
    return merged


async def read_spans(reader: Reader, spans: Iterable[Span], held: Held | None = None) -> Held:
    """Read (offset, length) spans that are not in ``held``; return both together.

    Raises:
        SourceError: a read failed.
    """
    known = held.pieces if held is not None else []
    missing = merge(span for span in spans if held is None or held.find(*span) is None)

    async def read(span: Span) -> tuple[int, bytes]:
        return span[0], await reader.read(*span)

    return Held([*known, *await for_each(missing, read, limit=_READS)])
