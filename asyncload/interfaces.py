"""The seams between rooms: what a source, a format and a worker pool offer each other.

Rooms on one floor do not import one another; they meet here. A new store implements
`Source` and `Reader`, a new format implements `Format`.
"""

from __future__ import annotations

import builtins
import datetime as dt
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from enum import IntEnum
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self, TypeVar, runtime_checkable

from .errors import SourceError, TooLarge
from .manifest import FileEntry, Manifest, TensorEntry

__all__ = [
    "MAX_TENSORS",
    "Bounds",
    "CheckedReader",
    "Checksum",
    "Compound",
    "Format",
    "HeldReader",
    "Indexing",
    "Limits",
    "ListEntry",
    "Manners",
    "OpenFiles",
    "Placed",
    "Reader",
    "Source",
    "StreamReader",
    "Urgency",
    "WorkerPool",
    "on_demand",
]

Result = TypeVar("Result")

# Parsing this much takes about a millisecond, less than the way to a worker and back.
PARSE_IN_THREAD = 256 << 10  # bytes

MAX_TENSORS = 100_000  # the largest models have some 90,000
# DEFLATE reaches 1032:1 on zeros; weights do not.
_RATIO = 100
_RATIO_FREE = 64 << 20  # decoded bytes for which no ratio is asked


@dataclass(frozen=True, slots=True)
class ListEntry:
    """What a listing says of one file or folder.

    Attributes:
        name: of a file that the URI itself names, its own; else relative to the URI. A folder's
            ends in a slash.
        size: in bytes; ``None`` for a folder, or if the listing does not say.
        version: what the store tells contents apart by: its ETag without quotes, or of a file on
            disk what `manifest.file_version` makes of it; ``None`` for a folder.
        modified: when it was last written, in UTC; ``None`` for a folder, or if nobody knows.
    """

    name: str
    size: int | None = None
    version: str | None = None
    modified: dt.datetime | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.name.endswith("/")


class Urgency(IntEnum):
    """How urgent a load is; it may change while the load goes on. The lowest goes first."""

    DEMAND = 0  # somebody needs it now
    AWAITED = 1  # somebody waits for it who has something to go on with: a slot that swaps
    BACKGROUND = 2  # nobody waits for it yet


def on_demand() -> Urgency:
    """Return the urgency of what somebody needs now."""
    return Urgency.DEMAND


async def _go_on() -> None:
    pass


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Manners:
    """How a load behaves beside others.

    Attributes:
        urgency: tells how urgent it is by now.
        pause: awaited before each read and each job: there, a load that is not urgent waits.
        polite: tells whether jobs in other processes let all else on the machine go first by now.
    """

    urgency: Callable[[], Urgency] = on_demand
    pause: Callable[[], Awaitable[None]] = _go_on
    polite: Callable[[], bool] = _never


class Reader(Protocol):
    """One open file, pinned to the version it had when it was opened.

    Attributes:
        uri: for messages, without credentials.
        name: relative to the Source; ``""`` is the Source's own file.
        size: length in bytes.
        version: names this content; another content has another version.
        path: where another process of this machine may open the same content; ``None`` where
            it cannot. Whoever opens it compares `manifest.file_version` of its own
            descriptor with ``version``.
        parallel: how many calls of `read_into` are worth having under way at once.
    """

    uri: str
    name: str
    size: int
    version: str
    path: str | None
    parallel: int

    async def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset``: for headers and other small things.

        Raises:
            SourceChanged: the file is shorter now than when it was opened.
            TransferFailed: the read failed.
        """
        ...

    async def read_into(self, offset: int, buffers: Sequence[memoryview]) -> None:
        """Fill ``buffers`` one after the other with the bytes from ``offset``.

        The buffers stay the caller's; they are written off the loop's thread. If the call is
        cancelled, a write already under way has ended when it raises.

        Raises: as `read` does.
        """
        ...

    async def check(self) -> None:
        """Raise `SourceChanged` if the file is no longer the version that was opened."""
        ...

    async def aclose(self) -> None:
        """Close the file; closing twice is fine."""
        ...


class HeldReader(Reader, Protocol):
    """A range on its way into memory that other processes see at ``path``; reads wait for it.

    Attributes:
        version: as `manifest.memory_version` names that memory.
    """

    def present(self) -> tuple[tuple[int, int], ...]:
        """Return what has come: (first byte, the one behind the last) of stretches, in order."""
        ...

    async def expect(self, spans: Iterable[tuple[int, int]]) -> None:
        """Have (offset, length) spans come before all others, and wait until they are there.

        Raises: as `read` does.
        """
        ...

    async def more(self, nbytes: int) -> None:
        """Wait until ``nbytes`` more have come than by now, or all.

        Raises: as `read` does.
        """
        ...


@runtime_checkable
class StreamReader(Protocol):
    """A `Reader` of what a server may have no ranges of: it can be had from its begin on, whole."""

    @property
    def whole_only(self) -> bool:
        """Whether the server was found to send nothing less than the whole file.

        `Reader.read_into` then fails for what does not lie near the begin.
        """
        ...

    def stream(self) -> AsyncGenerator[tuple[int, memoryview], None]:
        """Yield (offset, bytes) from the begin to the end, in order.

        Raises: as `Reader.read` does.
        """
        ...


@dataclass(frozen=True, slots=True)
class Checksum:
    """A checksum of a whole file.

    Attributes:
        kind: ``"crc32c"``, ``"md5"`` or ``"sha256"``.
        digest: in hexadecimal digits, the most significant first.
        certain: whether it is one. An ETag may look like an MD5 and be something else.
    """

    kind: str
    digest: str
    certain: bool = True


@runtime_checkable
class CheckedReader(Protocol):
    """A `Reader` of a file that whoever keeps it may have a checksum of."""

    async def checksum(self) -> Checksum | None:
        """Return a checksum of the version that was opened, if one can be had."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A `Reader`, or a `Source`, of what lies elsewhere, and has no path here.

    Attributes:
        place: a digest of all that tells it from others: server, query, bucket, account and key,
            but nobody's credentials.
    """

    place: str


class Source(Protocol):
    """Where a URI points: one file, or a folder of files.

    Attributes:
        uri: as given, without credentials.
        name: the last part of the URI's path, by which formats recognise it.
        local: whether the bytes are on this machine's disk, where its owner put them.
    """

    uri: str
    name: str
    local: bool

    async def open(self, name: str = "") -> Reader:
        """Open a file, pinned to its present version.

        Args:
            name: ``""`` for the file that the URI names, else a file in the same folder (in the
                folder itself, where the URI names a folder), or in a folder below that:
                ``variables/variables.index``. The URI need not name anything itself: it may be
                what the names of several files begin with.

        Raises:
            NotFound, AccessDenied, TransferFailed: as they say.
            Unsafe: ``name`` would leave the folder: it is absolute, one of its parts is empty,
                ``.`` or ``..``, or it has a backslash or a NUL.
        """
        ...

    async def list(self) -> list[str] | None:
        """Return the names in the folder that the URI names; ``None`` where it names a file.

        Raises:
            NotFound: it names neither.
        """
        ...

    async def entries(self, *, recursive: bool = False) -> builtins.list[ListEntry]:
        """Return what is at the URI, sorted by name: the file itself, or what its folder has.

        Args:
            recursive: return every file below the folder, and no folders, in the place of what
                lies in it directly.

        Raises:
            NotFound: there is nothing, or it is a folder that cannot be listed.
        """
        ...

    async def aclose(self) -> None:
        """Close the source and every reader that it opened; closing twice is fine."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class WorkerPool(Protocol):
    """Where CPU is spent: worker processes, or threads."""

    @property
    def threads(self) -> Executor:
        """What runs disk reads and short calls."""
        ...

    @property
    def processes(self) -> int:
        """How many calls of `run` are worth having under way."""
        ...

    async def run(
        self, function: Callable[..., Result], *args: Any, polite: bool = False
    ) -> Result:
        """Call ``function(*args)`` in a worker, under limits on address space and CPU time.

        Args:
            function: importable by name.
            args: what pickles.
            polite: whether all else on the machine goes first.

        Raises:
            WorkerCrashed: the worker died twice on this call.
            TooLarge: the call went past the limits.
            LoaderClosed: the pool is closed.
            Exception: whatever ``function`` raised.
        """
        ...

    async def run_in_thread(self, function: Callable[..., Result], *args: Any) -> Result:
        """Call ``function(*args)`` in a thread of the pool's own: for what is short."""
        ...


@dataclass(slots=True)
class OpenFiles:
    """The files of one load, in the order in which `Manifest.files` has them."""

    readers: list[Reader] = field(default_factory=list)

    def add(self, reader: Reader) -> int:
        """Take a reader in, and return the index by which entries refer to it."""
        self.readers.append(reader)
        return len(self.readers) - 1

    def entries(self) -> tuple[FileEntry, ...]:
        """Return what goes into `Manifest.files`."""
        return tuple(FileEntry(r.name, r.size, r.version) for r in self.readers)


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a file may declare.

    Attributes:
        tensors: how many tensors (`Loader`'s ``max_tensors``); ``None`` for any number.
        memory: bytes that all loads together may have in flight: what is compressed to less than a
            hundredth may have as many, once decoded.
    """

    tensors: int | None = MAX_TENSORS
    memory: int = _RATIO_FREE

    def check_tensors(self, number: int, uri: str, what: str = "tensors") -> None:
        """Refuse so many tensors.

        Args:
            number: how many there are at least.
            uri: for messages.
            what: they are called there.

        Raises:
            TooLarge: they are more than may be.
        """
        if self.tensors is not None and number > self.tensors:
            raise TooLarge(
                f"has {number:,} {what} or more; at most {self.tensors:,} are accepted. If it is "
                "genuine, load it with Loader(max_tensors=...).",
                uri=uri,
            )

    def check_ratio(self, decoded: int, stored: int, uri: str, tensor: str | None = None) -> None:
        """Refuse what is compressed too well to be true and larger than memory.

        Args:
            decoded: bytes that a file declares.
            stored: bytes that it has for them.
            uri: for messages.
            tensor: at which they were counted.

        Raises:
            TooLarge: it is.
        """
        if decoded > max(self.memory, _RATIO_FREE + _RATIO * stored):
            raise TooLarge(
                f"declares {decoded:,} bytes and has {stored:,} stored for them: more than "
                f"{_RATIO} to 1, as a decompression bomb, and more than the {self.memory:,} bytes "
                "of memory that loads may take. If it is genuine, load it with Loader(memory=...).",
                uri=uri,
                tensor=tensor,
            )


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much the config of a Keras model may ask for, before a model is made of it.

    Attributes:
        nodes: values in the config: numbers, words, lists, objects. Long lists of numbers and words
            (vocabularies, weights) do not count. NASNetLarge has 64,000.
        seconds: CPU time that making the model's objects may take.
        state: bytes of variables of which the file has no value (metrics, above all), besides four
            times what it has.
    """

    nodes: int = 300_000
    seconds: float = 120.0
    state: int = 256 << 20  # bytes

    def __post_init__(self) -> None:
        for name in ("nodes", "seconds", "state"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} is a number, not a {type(value).__name__}")
            if not value >= 0:
                raise ValueError(f"{name} is 0 or more, not {value}; limits=None lifts all limits")

    LIFTED: ClassVar[str] = (
        "If it is genuine, load it with limits=None, which lifts all limits on what a config asks "
        "for."
    )

    @classmethod
    def remedy(cls, **more: float) -> str:
        """Return what to do about a limit, for messages.

        Args:
            more: the limit, and what would do.
        """
        wanted = ", ".join(f"{name}={value:_}" for name, value in more.items())
        return f"If it is genuine, load it with limits=asyncload.Limits({wanted}), or limits=None."


def _publish_nothing(documents: Mapping[str, bytes]) -> None:
    pass


def _read_later(tensors: Mapping[str, TensorEntry]) -> None:
    del tensors


async def _hold_nothing(file: int, offset: int, length: int) -> HeldReader:
    raise SourceError(
        f"a worker has to read {length:,} bytes at {offset:,} of file {file} of this load, which "
        "it cannot open; load it with a Loader"
    )


@dataclass(slots=True)
class Indexing:
    """What a Format works with while it indexes.

    Attributes:
        source: where the URI points.
        files: readers opened so far; ``files.readers[0]`` is the URI's own file, where it is one,
            else the file by which its format was told: a member of the folder, or the file with
            a known ending beside the prefix.
        workers: where untrusted bytes are parsed.
        publish: to be called with documents as soon as they are known, before the tensors are.
        unpack: to be called for a file that lies deflated inside another: (reader, offset,
            stored length, decoded length, CRC-32) -> a reader of the decoded bytes, which
            lives as long as the load.
        hold: to be called for a range that another process has to read, of a file that it cannot
            open: (index in ``files``, offset, length) -> a reader of that range alone, which has
            a path. The range is fetched whole, once, from now on: what ``files`` has at that
            index reads it from memory.
        found: to be called with tensors as soon as it is known where they lie, before others are:
            name -> entry, both as the manifest will have them. They may be read at once.
        bounds: what the files may declare.
        left_out: to be filled with what is there and makes no tensor: name -> why.
    """

    source: Source
    files: OpenFiles
    workers: WorkerPool
    unpack: Callable[[Reader, int, int, int, int], Awaitable[Reader]]
    publish: Callable[[Mapping[str, bytes]], None] = _publish_nothing
    hold: Callable[[int, int, int], Awaitable[HeldReader]] = _hold_nothing
    found: Callable[[Mapping[str, TensorEntry]], None] = _read_later
    bounds: Bounds = field(default_factory=Bounds)
    left_out: dict[str, str] = field(default_factory=dict)

    async def parse(self, function: Callable[..., Result], data: bytes, *args: Any) -> Result:
        """Call ``function(data, *args)`` off the loop: in a thread if ``data`` is small.

        ``function`` must be importable by name, and take time linear in the length of ``data``.
        """
        if len(data) <= PARSE_IN_THREAD:
            return await self.workers.run_in_thread(function, data, *args)
        return await self.workers.run(function, data, *args)


class Format(Protocol):
    """What bytes mean: turns the layout of files into a `Manifest`.

    A format asks readers for ranges, reads no tensor's data, and opens nothing itself.

    Attributes:
        name: short and lasting; it stands in manifests and in what the CLI prints.
        costly: whether indexing takes tens of milliseconds, as HDF5 does, so that it pays to keep
            the manifest for the next load. Its ``files`` must be all that it was made from.
    """

    name: str
    costly: bool

    def matches(self, name: str, head: bytes) -> bool:
        """Whether a file of this name, beginning with these bytes (up to 16), is of this format."""
        ...

    async def index(self, indexing: Indexing) -> Manifest:
        """Index the file at ``indexing.files.readers[0]``.

        Raises:
            FormatError: one of its kinds, as they say.
            SourceError: a file could not be read.
        """
        ...


@runtime_checkable
class Compound(Protocol):
    """A `Format` whose models are several files."""

    async def gather(self, indexing: Indexing) -> None:
        """Open every file that a load would read, and add it to ``indexing.files``.

        No more is read than what says which files these are.

        Raises: as `Format.index` does.
        """
        ...
