"""What a load reports while it runs, and a `ModelSlot` while it serves.

Events are frozen, cheap, and carry the time at which they were made. An `Observer` sees
each of them on the loop's thread and must return at once; `Load.events()` gives the same
ones to a task. Progress bars, timelines and metrics consume events and nothing else.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from .redaction import redacted, shown

__all__ = [
    "BytesWritten",
    "Event",
    "FellBack",
    "Finished",
    "Indexed",
    "Kind",
    "Observer",
    "Outcome",
    "Paced",
    "Progress",
    "Retired",
    "StageEnded",
    "StageStarted",
    "Started",
    "SwapFailed",
    "Switched",
    "TensorReady",
    "advance",
    "stamp",
]

# What an event is about. ``"load"``: models, and new values for objects (`load_into`);
# ``"weights"``: tensors alone (`load_weights`, `stream`, `map_parts`); ``"watch"``: a slot that
# looks at a version. A ``"list"`` (`ls`) has no events, not even a beginning and an end.
Kind = Literal["load", "weights", "inspect", "list", "fetch", "watch"]
Outcome = Literal["ok", "failed", "cancelled"]

_QUOTING = ("reason", "error", "previous")  # fields of events that may quote URLs
_CANCELLED = "CancelledError"  # as `Finished.error` names it


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events.

    Attributes:
        uri: the load concerned, without credentials.
        time: `time.perf_counter` seconds at which it happened.
        load_id: a number that all events of one load have, and those of no other in this process.
            Those who share a load see its events with its number. A slot's events have that of the
            load that brought the model.
        kind: of the load.
    """

    uri: str
    time: float = field(default_factory=time.perf_counter)
    load_id: int = 0
    kind: Kind = "load"

    def __post_init__(self) -> None:
        object.__setattr__(self, "uri", shown(self.uri))
        for name in _QUOTING:
            text = getattr(self, name, None)
            if isinstance(text, str) and "://" in text:
                object.__setattr__(self, name, redacted(text))


def stamp(event: Event, load_id: int, kind: Kind) -> None:
    """Say of an event that nobody has seen yet which load it is about."""
    if not event.load_id:
        object.__setattr__(event, "load_id", load_id)
        object.__setattr__(event, "kind", kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started(Event):
    """The load has begun."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Indexed(Event):
    """The Manifest is known.

    Attributes:
        format: name of the Format.
        tensors: how many tensors will be read.
        nbytes: their decoded bytes.
        cached: whether it came from the index cache.
    """

    format: str
    tensors: int
    nbytes: int
    cached: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStarted(Event):
    """A stage has begun: ``"index"``, ``"read"``, ``"build"``, ``"bind"``, ``"warm-up"``.

    Of a fetch: ``"index"``, ``"wait"`` for another one into the same folder, ``"fetch"``.
    """

    stage: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StageEnded(Event):
    """A stage has ended.

    Attributes:
        stage: as in `StageStarted`.
        error: the type's name if it failed, else ``None``.
    """

    stage: str
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorReady(Event):
    """A tensor is whole in memory.

    Attributes:
        name: as the file has it.
        nbytes: its decoded bytes.
    """

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BytesWritten(Event):
    """Bytes of a file that is fetched are in the folder.

    Attributes:
        name: of the file, below the folder.
        nbytes: how many.
        fetched: whether they were fetched just now, or lay there from an earlier fetch.
    """

    name: str
    nbytes: int
    fetched: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FellBack(Event):
    """The fast way could not be taken; the slower one gives the same result.

    Attributes:
        reason: why, in a sentence.
    """

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced(Event):
    """A load in the background goes faster or slower, as the program's own work allows.

    Attributes:
        pace: from 0.03 to 1. While the program leaves half of the CPUs, the part of its time that
            each thread of the load works: 0.6 and more. Beside a busier program, the share of one
            CPU that all loads in the background may take. 1 for a load that somebody awaits.
        stall: seconds, the longest for which loads held the loop up of late.
    """

    pace: float
    stall: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished(Event):
    """The load has ended.

    Attributes:
        duration: seconds since `Started`.
        nbytes: decoded bytes that it brought into memory, or a fetch into its folder: of all
            tensors if it ended well, of those that had come if not. An index alone counts 0.
        error: the type's name if it failed or was cancelled, else ``None``.
    """

    duration: float = 0.0
    nbytes: int = 0
    error: str | None = None

    @property
    def outcome(self) -> Outcome:
        """How it ended."""
        if self.error is None:
            return "ok"
        return "cancelled" if self.error == _CANCELLED else "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched(Event):
    """A slot gives new leases another model from now on: the one of ``uri``.

    Attributes:
        version: its number, if it has one.
        previous: URI of the model that served before, without credentials; ``None`` for the first.
    """

    version: int | None
    previous: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retired(Event):
    """The last lease of a model that a slot no longer serves has ended, and it was dropped.

    Attributes:
        version: its number, if it has one.
        nbytes: of its tensors.
    """

    version: int | None
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SwapFailed(Event):
    """A slot could not bring a model, and serves what it served before.

    Attributes:
        version: its number, if it has one.
        error: the type's name, and its message.
    """

    version: int | None
    error: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of how far a load is.

    Attributes:
        stage: the stage begun last; ``"waiting"`` before any, ``"done"`` after the last.
        bytes_done: decoded bytes that are whole in memory; of a fetch, bytes in the folder.
        bytes_total: the same in all; ``None`` until the index is known.
        tensors_done: tensors that are whole in memory.
        tensors_total: tensors in all; ``None`` until the index is known.
        pace: from 0.03 to 1, how fast a load in the background goes; see `Loader`.
    """

    stage: str = "waiting"
    bytes_done: int = 0
    bytes_total: int | None = None
    tensors_done: int = 0
    tensors_total: int | None = None
    pace: float = 1.0


def advance(progress: Progress, event: Event) -> Progress:
    """Return the progress after an event."""
    match event:
        case StageStarted(stage="index"):  # anew, if a file was replaced
            return Progress(stage="index", pace=progress.pace)
        case StageStarted(stage=stage):
            return replace(progress, stage=stage)
        case Indexed():
            return replace(progress, bytes_total=event.nbytes, tensors_total=event.tensors)
        case TensorReady():
            return replace(
                progress,
                bytes_done=progress.bytes_done + event.nbytes,
                tensors_done=progress.tensors_done + 1,
            )
        case BytesWritten():
            return replace(progress, bytes_done=progress.bytes_done + event.nbytes)
        case Paced(pace=pace):
            return replace(progress, pace=pace)
        case Finished():
            return replace(progress, stage="done")
        case _:
            return progress


class Observer(Protocol):
    """Anything callable with an `Event`; called on the loop's thread, must not block."""

    def __call__(self, event: Event, /) -> None:
        """Take notice of one event."""
        ...
