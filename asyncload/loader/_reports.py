"""`Reports`: what one piece of work says of itself, to observers and to the log."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from asyncload.events import (
    Event,
    FellBack,
    Finished,
    Kind,
    Observer,
    Progress,
    Started,
    Switched,
    advance,
    stamp,
)
from asyncload.texts import printable

__all__ = ["Reports", "guarded", "log"]

_logger = logging.getLogger("asyncload")
_ids = itertools.count(1)

# What a finished load is called in the log; those of other kinds are not logged.
_LOGGED: dict[Kind, str] = {"load": "load", "weights": "load of weights", "fetch": "fetch"}
# Kinds that bring all bytes of the index that they announce.
_BRINGS = frozenset(_LOGGED)


class Reports:
    """Where the events of one piece of work go; it gives them its id and its kind.

    Args:
        uri: what it is about, without credentials.
        kind: of the work. A listing tells nobody anything.
        observers: are told of each event; they spoil nothing when they fail.

    Attributes:
        load_id: of the work.
        progress: how far it is.
    """

    def __init__(self, uri: str, kind: Kind, observers: Iterable[Observer | None] = ()) -> None:
        self.uri = uri
        self.kind = kind
        self.load_id = next(_ids)
        self.progress = Progress()
        told = (guarded(each) for each in observers if kind != "list")
        self._observers = [each for each in told if each is not None]
        self._began = time.perf_counter()

    def emit(self, event: Event) -> None:
        """Report an event."""
        stamp(event, self.load_id, self.kind)
        self.progress = advance(self.progress, event)
        for observer in self._observers:
            observer(event)

    @contextmanager
    def reported(self) -> Iterator[None]:
        """Report beginning and end of what the block does."""
        self.emit(self.started())
        error: str | None = None
        try:
            yield
        except GeneratorExit:  # whoever iterated has left
            error = asyncio.CancelledError.__name__
            raise
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            self.emit(self.finished(error))

    def started(self) -> Started:
        """Return the event of its beginning."""
        event = Started(uri=self.uri)
        self._began = event.time
        return event

    def failed(self, failure: Exception) -> None:
        """Write to the log where a failure comes from, which whoever awaits is not shown."""
        if _logger.isEnabledFor(logging.DEBUG):
            _logger.debug("%s: the way of its failure", printable(self.uri), exc_info=failure)

    def finished(self, error: str | None) -> Finished:
        """Return the event of its end.

        Args:
            error: the type's name if it failed or was cancelled.
        """
        now = time.perf_counter()
        whole = self.progress.bytes_total if error is None and self.kind in _BRINGS else None
        return Finished(
            uri=self.uri,
            time=now,
            duration=now - self._began,
            nbytes=self.progress.bytes_done if whole is None else whole,
            error=error,
        )


def log(event: Event) -> None:
    """Write to the log what a program's operator wants to know; an `Observer`."""
    match event:
        case FellBack():
            _logger.warning("%s goes the slower way: %s", _shown(event), printable(event.reason))
        case Finished(outcome=outcome) if event.kind in _LOGGED:
            _logger.info(
                "%s of %s: %s after %.3f s, %s bytes%s",
                _LOGGED[event.kind],
                _shown(event),
                outcome,
                event.duration,
                f"{event.nbytes:,}",
                "" if outcome != "failed" else f" ({event.error})",
            )
        case Switched(previous=previous):
            before = "" if previous is None else f" in the place of {printable(previous)}"
            _logger.info("a slot serves %s%s", _shown(event), before)
        case _:
            pass


def _shown(event: Event) -> str:
    return printable(event.uri)


class _Guarded:
    """An observer that spoils nothing when it fails; that is logged once."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._failed = False

    def __call__(self, event: Event) -> None:
        try:
            self._observer(event)
        except Exception:
            if not self._failed:
                self._failed = True
                _logger.exception(
                    "an observer failed on %s; it is told of what follows, and its next failures "
                    "are not logged",
                    type(event).__name__,
                )


def guarded(observer: Observer | None) -> Observer | None:
    """Return an observer so that it spoils nothing when it fails.

    Raises:
        TypeError: it cannot be called.
    """
    if observer is None or isinstance(observer, _Guarded):
        return observer
    if not callable(observer):
        raise TypeError(
            f"observer is called with each event; a {type(observer).__name__} cannot be"
        )
    return _Guarded(observer)
