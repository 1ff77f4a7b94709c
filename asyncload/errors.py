"""Every error asyncload raises on purpose, in one tree.

::

    AsyncloadError
    ├── SourceError                  the bytes could not be had
    │   ├── NotFound                 no such file or object          (also FileNotFoundError)
    │   ├── AccessDenied             not ours to read, if it exists  (also PermissionError)
    │   ├── SourceChanged            it was replaced, truncated or rewritten while being read
    │   └── TransferFailed           a read failed or ended early    (also OSError)
    ├── FormatError                  the bytes are not what they should be   (also ValueError)
    │   ├── UnknownFormat            no format of ours recognises them
    │   ├── Corrupt                  damaged, truncated or contradictory
    │   ├── Unsafe                   well formed, refused: it could run code or reach other files
    │   ├── TooLarge                 declares far more than it holds, or exceeds a worker's limits
    │   └── NotApplicable            an option asks for what its format has not   (also TypeError)
    ├── DecodeError                  a tensor's encoded bytes, or a user's decode, failed
    ├── Forked                       belongs to the process that this one was forked from
    ├── WorkerCrashed                a worker process died twice on the same job
    ├── MismatchError                weights and model do not fit: every tensor (also ValueError)
    ├── WouldOverwrite               a fetch would replace another file  (also FileExistsError)
    ├── MemoryLimitExceeded          the memory for a load cannot be had  (also MemoryError)
    ├── NotInstalled                 TensorFlow or Keras is missing  (also ModuleNotFoundError)
    ├── LoaderClosed                 the Loader was closed           (also RuntimeError)
    └── ServingError                 a ModelSlot or a ModelCache cannot do what it was asked
        ├── SlotEmpty                the slot has no model, and none is on its way
        ├── SwapRefused              the caller's own check refused the new model
        ├── SwapSuperseded           a later swap took this one's place
        ├── LeaseTimeout             leases were held for longer than was waited (also TimeoutError)
        └── ServingClosed            the slot or the cache was closed   (also RuntimeError)

Each message says which URI, which tensor where there is one, what was expected and
found, and what to do. Errors of other libraries are translated where they enter, and
kept as ``__cause__``; as ``__context__`` where ours is one of the same kind, and so says the same
(`NotFound` of a ``FileNotFoundError``). They are raised where the user awaits; the way that they
took before stands in the log, at DEBUG.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .redaction import redacted, shown
from .texts import printable, printable_lines

__all__ = [
    "AccessDenied",
    "AsyncloadError",
    "Corrupt",
    "DecodeError",
    "Forked",
    "FormatError",
    "LeaseTimeout",
    "LoaderClosed",
    "MemoryLimitExceeded",
    "MismatchError",
    "NotApplicable",
    "NotFound",
    "NotInstalled",
    "ServingClosed",
    "ServingError",
    "SlotEmpty",
    "SourceChanged",
    "SourceError",
    "SwapRefused",
    "SwapSuperseded",
    "TooLarge",
    "TransferFailed",
    "UnknownFormat",
    "Unsafe",
    "WorkerCrashed",
    "WouldOverwrite",
    "about",
]


class AsyncloadError(Exception):
    """Base of every error asyncload raises on purpose.

    Args:
        message: what was expected, what was found, and what to do; kept with control characters
            escaped, as it may quote names of a file.
        uri: the file or object concerned; kept without credentials.
        tensor: the tensor concerned, as the file names it.
    """

    def __init__(self, message: str, *, uri: str | None = None, tensor: str | None = None) -> None:
        self.message = printable_lines(redacted(message))
        super().__init__(self.message)
        self.uri = uri
        self.tensor = tensor

    @property
    def uri(self) -> str | None:
        """The file or object concerned, without credentials."""
        return self._uri

    @uri.setter
    def uri(self, uri: str | None) -> None:
        self._uri = None if uri is None else shown(uri)

    def __str__(self) -> str:
        uri = None if self.uri is None else printable(self.uri)
        where = [part for part in (uri, self.tensor and f"tensor {self.tensor!r}") if part]
        return ": ".join([*where, self.message])

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions cross from worker processes by pickle, keyword-only arguments included.
        return _rebuild, (type(self), self.message, self.uri, self.tensor)


@contextmanager
def about(uri: str) -> Iterator[None]:
    """Say in errors which file they are about, where they do not say so: workers do not know."""
    try:
        yield
    except AsyncloadError as error:
        error.uri = error.uri or uri
        raise


def _rebuild(
    kind: type[AsyncloadError], message: str, uri: str | None, tensor: str | None
) -> AsyncloadError:
    return kind(message, uri=uri, tensor=tensor)


class SourceError(AsyncloadError):
    """The bytes could not be had.

    Attributes:
        status: what a server or a store answered, as HTTP has it; ``None`` for no answer of that
            kind.
    """

    status: int | None = None

    @property
    def may_be_absent(self) -> bool:
        """Whether a file that nobody needs counts as not there, by this answer.

        Stores say 403 of what is not there to those who may not list, others 400 or 410.
        """
        if isinstance(self, NotFound):
            return True
        return self.status in (400, 403, 410)


class NotFound(SourceError, FileNotFoundError):
    """No such file or object."""


class AccessDenied(SourceError, PermissionError):
    """The store or the file system refused to let us read."""


class SourceChanged(SourceError):
    """A file was replaced, truncated or rewritten while it was being read."""


class TransferFailed(SourceError, OSError):
    """A read failed, or ended before the bytes asked for had come."""


class FormatError(AsyncloadError, ValueError):
    """The bytes are not what they should be."""


class UnknownFormat(FormatError):
    """No format known here recognises the file."""


class Corrupt(FormatError):
    """The file is damaged, truncated, or contradicts itself."""


class Unsafe(FormatError):
    """The file is well formed, and refused: loading it could run code or reach other files."""


class TooLarge(FormatError):
    """The file declares far more than it holds, or parsing it went past a worker's limits."""


class NotApplicable(FormatError, TypeError):
    """An option asks for what files of this format do not have, or the target cannot take them."""


class DecodeError(AsyncloadError):
    """Encoded bytes of a tensor, or a user's own decode function, failed."""


class WorkerCrashed(AsyncloadError):
    """A worker process died twice on the same job."""


class MismatchError(AsyncloadError, ValueError):
    """Weights and model do not fit each other; the message names every tensor."""


class WouldOverwrite(AsyncloadError, FileExistsError):
    """A file is in the place of one that is fetched, and nobody said that it may go."""


class MemoryLimitExceeded(AsyncloadError, MemoryError):
    """The memory that a load needs cannot be had."""


class NotInstalled(AsyncloadError, ModuleNotFoundError):
    """A model needs TensorFlow or Keras; the message says how to install them."""


class LoaderClosed(AsyncloadError, RuntimeError):
    """The Loader was closed before or during the call."""


class Forked(AsyncloadError, RuntimeError):
    """What is asked for belongs to the process from which this one was forked."""


class ServingError(AsyncloadError):
    """A `ModelSlot` or a `ModelCache` cannot do what it was asked."""


class SlotEmpty(ServingError):
    """The slot has no model to lease, and none is on its way."""


class SwapRefused(ServingError):
    """The caller's own check refused the new model; what it raised is the cause."""


class SwapSuperseded(ServingError):
    """A later swap of the same slot took this one's place."""


class LeaseTimeout(ServingError, TimeoutError):
    """Leases were held for longer than was waited; the message says by whom.

    Attributes:
        switched: whether the new model serves nevertheless, and only the old one's memory is not
            given back yet.
    """

    switched = False


class ServingClosed(ServingError, RuntimeError):
    """The slot or the cache was closed before or during the call."""
