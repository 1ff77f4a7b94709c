"""The folder that files are fetched into: what is there, what is half there, and who fetches.

Beside the files lies a folder ``.asyncload`` with three files for each, named after a digest of its
name: ``.part``, its bytes as they come; ``.part.json``, which of them have come, of which version;
and ``.json``, of a file that is complete, which version it is. Only what has reached the disk is
noted, so that neither a killed process nor a power failure makes a note untrue.

All calls block. Nothing is written outside of the folder, links in it are not followed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

from asyncload.codecs import crc32c
from asyncload.errors import AccessDenied, AsyncloadError, TransferFailed, Unsafe, WouldOverwrite
from asyncload.manifest import file_version
from asyncload.pipeline import Stretch, Stretches
from asyncload.sources import NOTE, OWN, check_name, note_name

__all__ = ["Folder", "Identity", "Part", "Record", "would_overwrite"]

_BLOCK = 4 << 20  # bytes read at a time
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems that have none
_flush = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which content a file has, or is to have.

    Attributes:
        uri: where it is from.
        size: in bytes.
        version: as its reader says.
        place: what tells it from all others, if it has no path on this machine.
        origin: what it is a copy of, if it was not made on this machine.
    """

    uri: str
    size: int
    version: str
    place: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """What is noted of a complete file.

    Attributes:
        identity: the content that was fetched.
        file: the file's own version, which changes if somebody writes to it.
    """

    identity: Identity
    file: str


class Part:
    """A file on its way; `Folder.begin` makes it.

    Attributes:
        name: of the file, below the folder.
        identity: the content that is fetched.
        done: which bytes have come.
    """

    def __init__(self, name: str, identity: Identity, descriptor: int, done: Stretches) -> None:
        self.name = name
        self.identity = identity
        self.done = done
        self._descriptor = descriptor

    @property
    def descriptor(self) -> int:
        """Of the open file."""
        return self._descriptor

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Folder:
    """A folder that files are fetched into; made if it is not there.

    Args:
        path: where it is.

    Raises: every method, what the system says as a `TransferFailed` or `AccessDenied`.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._root = self._own = self._lock = -1

    # --- its life ------------------------------------------------------------------------

    def open(self) -> None:
        """Make the folder and what is ours in it."""
        with _translated(self.path):
            os.makedirs(self.path, exist_ok=True)
            self._root = os.open(self.path, _DIRECTORY)
            self._own = _enter(self._root, OWN, create=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock = os.open("lock", flags, 0o666, dir_fd=self._own)

    def try_lock(self) -> bool:
        """Return whether nobody else fetches into the folder; if so, nobody can until `close`."""
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return True

    def close(self) -> None:
        """Let others fetch into it; closing twice is fine."""
        for descriptor in (self._lock, self._own, self._root):
            if descriptor >= 0:
                os.close(descriptor)
        self._root = self._own = self._lock = -1

    # --- what is there -------------------------------------------------------------------

    def place(self, name: str) -> str:
        """Return the path of a file in it."""
        return os.path.join(self.path, name)

    def present(self, name: str) -> os.stat_result | None:
        """Return the status of what has this name, be it a link; ``None`` for nothing.

        Raises:
            WouldOverwrite: it is a folder.
        """
        with _translated(self.place(name)), self._parent(name) as (parent, last):
            if parent is None:
                return None
            try:
                status = os.stat(last, dir_fd=parent, follow_symlinks=False)
            except FileNotFoundError:
                return None
        if stat.S_ISDIR(status.st_mode):
            raise WouldOverwrite(
                "is a folder, where a file would be written; fetch into another folder",
                uri=self.place(name),
            )
        return status

    def md5(self, name: str) -> str:
        """Return the MD5 of a file that is there, in hexadecimal digits."""
        with _translated(self.place(name)), self._parent(name) as (parent, last):
            descriptor = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            try:
                return _digest(descriptor, "md5")
            finally:
                os.close(descriptor)

    def digest(self, part: Part, kind: str) -> str:
        """Return the checksum of a file that has come whole, as `Checksum.digest` has it."""
        with _translated(self.place(part.name)):
            return _digest(part.descriptor, kind)

    def record(self, name: str) -> Record | None:
        """Return what is noted of a complete file, if anything is."""
        noted = self._read_note(name, NOTE)
        try:
            return None if noted is None else Record(Identity(*noted["identity"]), noted["file"])
        except (KeyError, TypeError):
            return None

    def write_record(self, name: str, identity: Identity, file: str) -> None:
        """Note that a file is complete."""
        self._write_note(name, NOTE, identity, file=file)

    # --- what is on its way --------------------------------------------------------------

    def begin(self, name: str, identity: Identity) -> Part:
        """Open what there is of a file, or begin it anew if it is not of this content."""
        with _translated(self.place(name)):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(note_name(name, ".part"), flags, 0o666, dir_fd=self._own)
            try:
                done = Stretches()
                if os.fstat(descriptor).st_size == identity.size:
                    done = Stretches(self._noted(name, identity))
                else:
                    os.ftruncate(descriptor, 0)
                    os.ftruncate(descriptor, identity.size)
            except BaseException:
                os.close(descriptor)
                raise
        return Part(name, identity, descriptor, done)

    def write(self, part: Part, offset: int, data: memoryview) -> None:
        """Write bytes to their place in a file that is on its way."""
        with _translated(self.place(part.name)):
            while data:
                written = os.pwrite(part.descriptor, data, offset)
                offset, data = offset + written, data[written:]

    def _noted(self, name: str, identity: Identity) -> list[Stretch]:
        noted = self._read_note(name, ".part.json") or {}
        try:
            if Identity(*noted["identity"]) == identity:
                done = [(int(start), int(stop)) for start, stop in noted["done"]]
                if all(0 <= start <= stop <= identity.size for start, stop in done):
                    return done
        except (KeyError, TypeError, ValueError):
            pass
        return []

    def save(self, part: Part, done: list[Stretch]) -> None:
        """Note which bytes have come, once they have reached the disk."""
        with _translated(self.place(part.name)):
            _flush(part.descriptor)
        self._write_note(part.name, ".part.json", part.identity, done=done)

    def discard(self, part: Part) -> None:
        """Forget what has come of a file; the next fetch of it begins anew."""
        with _translated(self.place(part.name)):
            for suffix in (".part.json", ".part"):
                with suppress(FileNotFoundError):
                    os.unlink(note_name(part.name, suffix), dir_fd=self._own)

    def finish(self, part: Part, *, replace: bool) -> None:
        """Put a file that has come whole in its place.

        Args:
            part: the file.
            replace: whether what may be in its place goes.

        Raises:
            WouldOverwrite: something is in its place, and has to stay.
        """
        if self.present(part.name) is not None and not replace:
            raise would_overwrite(self.place(part.name))
        with _translated(self.place(part.name)):
            _flush(part.descriptor)
            # Before the file is there: a file without its record would be taken for another.
            self.write_record(part.name, part.identity, file_version(os.fstat(part.descriptor)))
            with self._parent(part.name, create=True) as (parent, last):
                source = note_name(part.name, ".part")
                os.rename(source, last, src_dir_fd=self._own, dst_dir_fd=parent)
            with suppress(FileNotFoundError):
                os.unlink(note_name(part.name, ".part.json"), dir_fd=self._own)

    # --- notes ---------------------------------------------------------------------------

    def _read_note(self, name: str, suffix: str) -> dict[str, Any] | None:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(note_name(name, suffix), flags, dir_fd=self._own)
            with open(descriptor, "rb") as file:
                noted = json.load(file)
        except (OSError, ValueError):  # none, or damaged, which is as good as none
            return None
        return noted if isinstance(noted, dict) else None

    def _write_note(self, name: str, suffix: str, identity: Identity, **more: object) -> None:
        fields = tuple(asdict(identity).values())
        origin = identity.origin  # by its own name, for those who read nothing else
        text = json.dumps({"name": name, "identity": fields, "origin": origin, **more})
        own, unfinished = note_name(name, suffix), note_name(name, f"{suffix}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with _translated(self.place(name)):
            descriptor = os.open(unfinished, flags, 0o666, dir_fd=self._own)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(text)
            os.rename(unfinished, own, src_dir_fd=self._own, dst_dir_fd=self._own)

    # --- folders below -------------------------------------------------------------------

    @contextmanager
    def _parent(self, name: str, *, create: bool = False) -> Iterator[tuple[int | None, str]]:
        """Give a descriptor of the folder that a file is in, and its name there.

        ``None`` where there is no such folder.
        """
        check_name(name, uri=self.path)
        *folders, last = name.split("/")
        descriptor: int | None = os.dup(self._root)
        try:
            for folder in folders:
                if descriptor is None:
                    break
                above, descriptor = descriptor, None
                try:
                    descriptor = _enter(above, folder, create=create)
                except FileNotFoundError:
                    descriptor = None
                except NotADirectoryError as error:
                    raise Unsafe(
                        f"would be written through {folder!r}, which is a link or a file; remove "
                        "that, or fetch into another folder",
                        uri=self.place(name),
                    ) from error
                finally:
                    os.close(above)
            yield descriptor, last
        finally:
            if descriptor is not None:
                os.close(descriptor)


def would_overwrite(path: str) -> WouldOverwrite:
    """Return the error for a file that is in the way."""
    return WouldOverwrite(
        "is there already, and is not known to be the same; pass overwrite=True (--force) to "
        "replace it, or fetch into another folder",
        uri=path,
    )


def _enter(above: int, name: str, *, create: bool) -> int:
    flags = _DIRECTORY | os.O_NOFOLLOW
    if create:
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=above)
    try:
        return os.open(name, flags, dir_fd=above)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from error
        raise


def _digest(descriptor: int, kind: str) -> str:
    """Return the checksum of an open file; what adds it up lets other threads run meanwhile."""
    sum32, hashed = 0, None if kind == "crc32c" else hashlib.new(kind, usedforsecurity=False)
    offset = 0
    while data := os.pread(descriptor, _BLOCK, offset):
        offset += len(data)
        if hashed is None:
            sum32 = crc32c(data, sum32)
        else:
            hashed.update(data)
    return f"{sum32:08x}" if hashed is None else hashed.hexdigest()


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Say in our own errors what the system says of writing to ``path``."""
    try:
        yield
    except AsyncloadError:  # some are an OSError, too
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        if isinstance(error, PermissionError):
            message = f"{reason}; let the user of this process write there"
            raise AccessDenied(message, uri=path) from error
        raise TransferFailed(
            f"could not be written: {reason}; what was fetched stays, so repair that and fetch "
            "again",
            uri=path,
        ) from error
