"""Global heaps of HDF5 files, where the texts of attributes lie.

HDF5 1.14.6 walks a collection of the heap by the sizes that it states, and does not come back from
one that leads to itself: it would take a worker with it, and a thread for ever. So collections are
looked at before HDF5 sees them. (HDF5 File Format Specification 3.0, III.E; H5HGcache.c)
"""

from __future__ import annotations

import struct

__all__ = ["SIGNATURE", "check_collection", "stated_size"]

SIGNATURE = b"GCOL"

_HEADER = struct.Struct("<4sB3xQ")  # signature, version, size of the collection
_OBJECT = struct.Struct("<HH4xQ")  # index, 0 for free space; references; size


def stated_size(begin: bytes) -> int:
    """Return the bytes that a collection says it has, from its first 16; 0 if these are fewer."""
    return int(_HEADER.unpack_from(begin)[2]) if len(begin) >= _HEADER.size else 0


def check_collection(content: bytes) -> None:
    """Raise if a collection's objects do not follow one another to its end.

    Args:
        content: all of its bytes.

    Raises:
        ValueError: an object is smaller than its header, or larger than what is left.
    """
    position, end = _HEADER.size, len(content)
    while position + _OBJECT.size <= end:
        index, _, size = _OBJECT.unpack_from(content, position)
        # Free space counts its header in, objects do not, and are padded to eight bytes.
        taken = size if index == 0 else _OBJECT.size + (size + 7) // 8 * 8
        if not _OBJECT.size <= taken <= end - position:
            raise ValueError(
                f"the object at byte {position} of a global heap of {end} takes {taken} bytes"
            )
        position += taken
