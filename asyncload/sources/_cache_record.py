"""`Record`: which files the last load of a URI found, each at which version; for `offline`.

Files of one load go together, so they are kept together: of one load each, no two versions are
ever mixed.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field

__all__ = ["RECORD_LIMIT", "KeptFile", "Record"]

RECORD_LIMIT = 16 << 20  # bytes; parsed in a thread


@dataclass(frozen=True, slots=True)
class KeptFile:
    """One file, of which there is an entry.

    Attributes:
        size: in bytes.
        version: as its Reader had it.
        digest: of its entry, in hexadecimal digits.
    """

    size: int
    version: str
    digest: str


@dataclass(slots=True)
class Record:
    """What was found at a URI.

    Attributes:
        names: what the folder had; ``None`` for what is no folder, or was not listed.
        files: by name, as `interfaces.Source.open` takes it.
    """

    names: list[str] | None = None
    files: dict[str, KeptFile] = field(default_factory=dict)

    def after(self, earlier: Record | None) -> Record:
        """Return this with what an earlier record has beside it, if no file differs."""
        if earlier is None or any(
            earlier.files.get(name, file) != file for name, file in self.files.items()
        ):
            return self
        names = earlier.names if self.names is None else self.names
        return Record(names, {**earlier.files, **self.files})

    def encode(self) -> bytes:
        """Return it as bytes: a checksum, and JSON."""
        text = json.dumps(asdict(self), sort_keys=True).encode()
        return b"%08x\n" % zlib.crc32(text) + text

    @classmethod
    def decode(cls, data: bytes) -> Record | None:
        """Return what `encode` made bytes of; ``None`` for anything else."""
        checksum, _, text = data.partition(b"\n")
        if not text or checksum != b"%08x" % zlib.crc32(text):
            return None
        try:
            document = json.loads(text)
            files = {name: KeptFile(**file) for name, file in document["files"].items()}
            return cls(document["names"], files)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
