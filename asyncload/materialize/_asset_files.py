"""Assets on disk, for code that takes no bytes but the path of a file."""

from __future__ import annotations

from pathlib import Path

from asyncload.errors import SourceError, Unsafe

__all__ = ["write_asset"]


def write_asset(folder: Path, name: str, content: bytes, *, uri: str) -> Path:
    """Write a file below a folder, and return its path.

    Formats have looked at the name. It is looked at here again, where it is used: a manifest may
    come from anywhere, a cache for one.

    Args:
        folder: which is there.
        name: path below it, ``/`` between its parts.
        content: of the file.
        uri: for messages.

    Raises:
        Unsafe: the name leads out of the folder.
        SourceError: the file cannot be written.
    """
    if "\0" in name or {"", ".", ".."} & set(name.split("/")):
        raise Unsafe(f"the asset {name!r} is not a plain relative path", uri=uri)
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise Unsafe(f"the asset {name!r} would leave its folder", uri=uri)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SourceError(
            f"the asset {name[:80]!r} cannot be written to {folder} ({reason}), from which the "
            "model reads it. Make room there, or set TMPDIR to another folder.",
            uri=uri,
        ) from error
    return path
