"""Where copies come from: the notes that a fetch leaves beside the files that it has brought.

A folder that was fetched into has a folder `OWN` with a note for each file, by a digest of its
name. A copy is what its original is: a program from elsewhere does not become one's own by lying
on this machine's disk, nor by being written to, moved with its folder, or copied once more.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress

__all__ = ["NOTE", "OWN", "note_name", "origin_of"]

OWN = ".asyncload"
NOTE = ".json"
_LIMIT = 1 << 20  # bytes of a note


def note_name(name: str, suffix: str) -> str:
    """Return the name of what is noted of a file, by its name below the folder."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:32] + suffix


def origin_of(path: str) -> str | None:
    """Return the URI that a file is a copy of; ``None`` for one that was made here. Blocks."""
    folder, name = os.path.split(os.path.realpath(path))
    while True:
        if os.path.isdir(os.path.join(folder, OWN)):
            origin = _noted(os.path.join(folder, OWN, note_name(name, NOTE)))
            if origin is not None:
                return origin
        parent, last = os.path.split(folder)
        if parent == folder:
            return None
        folder, name = parent, f"{last}/{name}"


def _noted(path: str) -> str | None:
    with suppress(OSError, ValueError, LookupError, TypeError), open(path, "rb") as file:
        note = json.loads(file.read(_LIMIT))
        # Earlier notes have no origin, but say where the file was fetched from.
        origin = note["origin"] if "origin" in note else note["identity"][0]
        return origin if isinstance(origin, str) and "://" in origin else None
    return None
