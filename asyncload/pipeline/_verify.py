"""Checksums of raw tensors, from those of their stretches as they come, in threads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from asyncload.codecs import crc32c, joined_crc32c
from asyncload.errors import Corrupt
from asyncload.manifest import TensorEntry

from ._compound import shown_name

__all__ = ["Checksums", "Stretch"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """Bytes of a raw tensor that has a checksum.

    Attributes:
        entry: the tensor.
        at: byte offset in it.
        view: the bytes.
    """

    entry: TensorEntry
    at: int
    view: memoryview


@dataclass(slots=True)
class Checksums:
    """What is known of the checksums of tensors that come in several stretches.

    Attributes:
        counts: tensor name -> stretches that it comes in.
    """

    counts: dict[str, int] = field(default_factory=dict)
    _known: defaultdict[str, list[tuple[int, int, int]]] = field(
        default_factory=lambda: defaultdict(list)
    )

    def check(self, stretches: Sequence[Stretch]) -> None:
        """Add stretches; may be called in several threads at once.

        Raises:
            Corrupt: a tensor is whole now, and has another checksum than its file says.
        """
        for stretch in stretches:
            entry = stretch.entry
            found = crc32c(stretch.view)
            if (count := self.counts[entry.name]) > 1:
                known = self._known[entry.name]
                known.append((stretch.at, stretch.view.nbytes, found))
                if len(known) < count:
                    continue
                found = _join(known)
            if found != entry.crc32c:
                raise Corrupt(
                    f"its bytes have the CRC32C {found:08x}; expected {entry.crc32c:08x}. Copy or "
                    "download the file again, or give verify=False to have them as they are.",
                    tensor=shown_name(entry),
                )


def _join(known: Sequence[tuple[int, int, int]]) -> int:
    found = 0
    for _, nbytes, checksum in sorted(known):
        found = joined_crc32c(found, checksum, nbytes)
    return found
