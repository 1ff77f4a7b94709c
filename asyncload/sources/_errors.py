"""What the system says about files, in our own errors."""

from __future__ import annotations

import errno
import os

from asyncload.errors import AccessDenied, NotFound, SourceError, TransferFailed

__all__ = ["translated"]


def translated(error: OSError | ValueError, uri: str) -> SourceError:
    """Return our own error for what a call of `os` raised on the file at ``uri``."""
    if isinstance(error, ValueError):  # a NUL in the path
        return NotFound(f"no file can have this name ({error})", uri=uri)
    reason = os.strerror(error.errno) if error.errno else str(error)
    if isinstance(error, PermissionError):
        return AccessDenied(f"{reason}; let the user of this process read it", uri=uri)
    if (
        isinstance(error, FileNotFoundError | NotADirectoryError)
        or error.errno == errno.ENAMETOOLONG
    ):
        remedy = f"check the path (working folder: {_folder()})"
        if uri.startswith("~"):
            remedy = "write the home folder out: os.path.expanduser(path)"
        return NotFound(f"{reason}; {remedy}", uri=uri)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        remedy = "raise the limit (ulimit -n), or load fewer at once"
        return TransferFailed(f"{reason}; {remedy}", uri=uri)
    return TransferFailed(f"the system could not read it: {reason}; check the disk", uri=uri)


def _folder() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "removed"
