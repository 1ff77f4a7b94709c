"""`Version`: by what one version of an object is told from another."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyncload.errors import SourceChanged

if TYPE_CHECKING:
    from obstore import GetOptions

__all__ = ["Version", "changed"]


@dataclass(frozen=True, slots=True)
class Version:
    """One version of an object: what it had when it was asked for first.

    Attributes:
        size: in bytes.
        etag: as the server sent it, quotes included.
        modified: ``Last-Modified``; ``None`` if the server sent none.
        generation: the store's own number for it, where it has one.
        name: by which it is told from other versions. One without ETag and Last-Modified has a
            name that no other has, so that nothing is ever taken for the same.
    """

    size: int
    etag: str | None
    modified: dt.datetime | None
    generation: str | None
    name: str

    @classmethod
    def of(cls, meta: Mapping[str, Any]) -> Version:
        """Return the version that an answer of obstore's describes."""
        size, etag, modified = meta["size"], meta["e_tag"], meta["last_modified"]
        if modified is not None and modified.timestamp() <= 0:  # what it says for none
            modified = None
        if etag:
            name = f"{etag}-{size}"
        elif modified is not None:
            name = f"{modified.isoformat()}-{size}"
        else:
            name = f"{uuid.uuid4()}-{size}"
        return cls(size, etag or None, modified, meta["version"], name)

    @property
    def shown(self) -> str | None:
        """The ETag without its quotes, for people."""
        return None if self.etag is None else self.etag.removeprefix('"').removesuffix('"')

    def conditions(self) -> GetOptions:
        """Return what has a server refuse (412) to send any other version."""
        # A weak ETag never matches in If-Match: RFC 9110, 13.1.1.
        if self.etag is not None and not self.etag.startswith("W/"):
            return {"if_match": self.etag}
        return {} if self.modified is None else {"if_unmodified_since": self.modified}

    def is_same(self, other: Version) -> bool:
        """Whether an answer is of this version, as far as the server lets us know."""
        if self.size != other.size:
            return False
        if self.generation and other.generation and self.generation != other.generation:
            return False
        if self.etag or other.etag:
            return self.etag == other.etag
        return self.modified == other.modified


def changed(uri: str, how: str) -> SourceChanged:
    """Return the error for an object that is no longer the version that was opened."""
    return SourceChanged(f"{how} while it was being read; load it again", uri=uri)
