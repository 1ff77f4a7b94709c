"""Which listed objects only mark folders. Pure.

Tools make empty objects whose keys end in a slash, for folders to be shown. The client does not
show that slash, so they look like empty files in a listing of all objects. A listing of one folder
tells the two apart: there, marks are folders.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from asyncload.interfaces import ListEntry

__all__ = ["folders_in_doubt", "marks_in"]


def folders_in_doubt(entries: Sequence[ListEntry], key: str) -> list[str]:
    """Return the folders, of all objects listed, in which an entry may be a mark.

    One that has entries below is known to be a mark, or to be left out as one. So is that of the
    folder ``key``, which was listed.
    """
    with_entries = {key, *(_parent(entry.name) for entry in entries)}
    empty = [each.name for each in entries if not each.size and each.name not in with_entries]
    return sorted({_parent(name) for name in empty})


def marks_in(listed: Iterable[ListEntry]) -> set[str]:
    """Return the names of marks in a listing of one folder: folders, and no object besides."""
    names = {entry.name for entry in listed}
    return {name.rstrip("/") for name in names if name.endswith("/") and name[:-1] not in names}


def _parent(name: str) -> str:
    return name.rpartition("/")[0]
