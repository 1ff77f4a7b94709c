"""What became of each model that a slot was to load, for `ModelSlot.status` and ``versions``."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal

from asyncload.events import Event, Observer
from asyncload.loader._reports import guarded, log
from asyncload.texts import printable_lines

from ._lease import Generation, Target

__all__ = ["Entry", "Ledger", "SlotStatus", "State", "Swapped", "VersionStatus"]

# As TensorFlow Serving names them (tensorflow_serving/apis/get_model_status.proto).
State = Literal["start", "loading", "available", "unloading", "end"]

_ENDED = 16  # that are remembered


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """What became of one model that a slot was to load.

    Attributes:
        uri: without credentials.
        version: its number, if it has one.
        state: ``"start"``: it was seen, and not yet whole, or waits for its turn; ``"loading"``;
            ``"available"``: to be leased; ``"unloading"``: leases still hold it; ``"end"``: it was
            dropped, or did not come to be.
        serving: whether it is what `ModelSlot.lease` gives.
        leases: how many hold it.
        nbytes: of its tensors; 0 until it is loaded, and again when it was dropped.
        error: why it did not come to be, or is not loaded yet: the type's name and its message.
    """

    uri: str
    version: int | None
    state: State
    serving: bool = False
    leases: int = 0
    nbytes: int = 0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """A slot at one moment.

    Attributes:
        ready: whether a lease would get a model at once.
        uri: what serves, without credentials.
        version: its number, if it has one.
        leases: of all models of the slot.
        swapping_to: what a swap under way is to bring; ``None`` if there is none.
        error: what the last load, swap or look for versions failed with, if it did: the type's
            name and its message. ``None`` again after a success.
        closed: whether the slot was closed.
    """

    ready: bool
    uri: str | None
    version: int | None
    leases: int
    swapping_to: str | None
    error: str | None
    closed: bool


@dataclass(frozen=True, slots=True)
class Swapped:
    """A swap that was made.

    Attributes:
        uri: what serves now, without credentials.
        version: its number, if it has one.
        previous: what served before; ``None`` if nothing did.
        superseded: what an earlier swap was to bring, whose place this one took; ``None`` if there
            was none.
    """

    uri: str
    version: int | None
    previous: str | None
    superseded: str | None


@dataclass(slots=True, eq=False)
class Entry:
    """One line of the ledger."""

    target: Target
    state: State = "start"
    generation: Generation | None = None
    load_id: int = 0
    error: str | None = None

    def status(self, serving: Generation | None) -> VersionStatus:
        """Return it for users."""
        generation = self.generation
        return VersionStatus(
            self.target.shown,
            self.target.version,
            self.state,
            serving=generation is not None and generation is serving,
            leases=0 if generation is None else len(generation.leases),
            nbytes=0 if generation is None else generation.nbytes,
            error=self.error,
        )


class Ledger:
    """The models of one slot, in the order in which they were asked for.

    Args:
        observer: is told of the slot's events, as the log is.
    """

    def __init__(self, observer: Observer | None) -> None:
        self._observer = guarded(observer)
        self._living: dict[Entry, None] = {}  # in the order in which they came
        self._ended: deque[Entry] = deque(maxlen=_ENDED)
        self.error: str | None = None

    def begin(self, target: Target) -> Entry:
        """Note that something is to be loaded."""
        entry = Entry(target)
        self._living[entry] = None
        return entry

    def end(self, entry: Entry, error: BaseException | None = None) -> None:
        """Note that it was dropped, or why it did not come to be."""
        if entry not in self._living:
            return
        del self._living[entry]
        entry.state, entry.generation = "end", None
        if error is not None:
            entry.error = self.error = describe(error)
        self._ended.append(entry)

    def forget(self, entry: Entry) -> None:
        """Strike out what needed no load."""
        self._living.pop(entry, None)

    def entry_of(self, generation: Generation) -> Entry | None:
        """Return the line of a model that has not ended."""
        return next((each for each in self._living if each.generation is generation), None)

    def emit(self, event: Event) -> None:
        """Report an event."""
        log(event)
        if self._observer is not None:
            self._observer(event)

    @property
    def living(self) -> list[Entry]:
        """What has not ended."""
        return list(self._living)

    def statuses(self, serving: Generation | None) -> tuple[VersionStatus, ...]:
        """Return all for users: those that ended, and those that live."""
        return tuple(entry.status(serving) for entry in [*self._ended, *self.living])


def describe(error: BaseException) -> str:
    """Return an error's type and message, for a status, an event or a log.

    They are kept: an error would keep its frames, and with them models and connections.
    """
    return printable_lines(f"{type(error).__name__}: {error}")
