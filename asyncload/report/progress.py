"""`ProgressReporter`: a live bar for each load."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from asyncload.events import (
    BytesWritten,
    Event,
    FellBack,
    Finished,
    Progress,
    StageStarted,
    TensorReady,
    advance,
)
from asyncload.texts import printable

__all__ = ["ProgressReporter"]

_REFRESH = 10  # frames a second
_NAME = 24  # columns; the bar takes what the rest leaves
_BAR = 24  # columns, where there is no terminal, and so no width
_ANY_WIDTH = 100_000  # columns, more than any row takes


@dataclass(frozen=True, slots=True)
class _Row:
    """One load as the bar shows it; times as in `Event.time`.

    Of a fetch, ``kept`` are the bytes that an earlier one had brought, which make no rate.
    """

    began: float
    progress: Progress = field(default_factory=Progress)
    read_began: float | None = None
    latest: float | None = None
    ended: float | None = None
    error: str | None = None
    fell_back: bool = False
    kept: int = 0


class ProgressReporter:
    """An `Observer` that draws a bar for each load: bytes, rate, stage and time.

    Give it to ``Loader(observer=...)``, or call it with the events of a `Load`, and draw while
    it is entered as a context manager. Taking an event in only notes it; a thread of Rich's own
    draws, so the loop never waits for a terminal. On what is not a terminal the bars
    are printed once, at the end.

    Args:
        console: where to draw; standard error by default.
        transient: wipe the bars off the terminal at the end.
    """

    def __init__(self, *, console: Console | None = None, transient: bool = False) -> None:
        self._console = Console(stderr=True) if console is None else console
        if console is None and not self._console.is_terminal:
            self._console = Console(stderr=True, width=_ANY_WIDTH)  # each load on one line
        self._transient = transient
        self._rows: dict[tuple[str, int], _Row] = {}
        self._live: Live | None = None

    def __call__(self, event: Event) -> None:
        """Note an event."""
        key = event.uri, event.load_id
        row = self._rows.get(key)
        if row is None or row.ended is not None:
            self._forget(event.uri)
            row = _Row(began=event.time)
        self._rows[key] = _after(row, event)

    def _forget(self, uri: str) -> None:
        """Drop the bars of loads of a URI that have ended, as another one begins."""
        ended = [key for key, row in self._rows.items() if key[0] == uri and row.ended is not None]
        for key in ended:
            del self._rows[key]

    def __enter__(self) -> Self:
        self._live = Live(
            console=self._console,
            get_renderable=self.__rich__,
            refresh_per_second=_REFRESH,
            transient=self._transient,
        )
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
            if not self._console.is_terminal and not self._transient:
                self._console.line()  # Rich ends the line on terminals only

    def __rich__(self) -> Table:
        """Return the bars as they stand."""
        whole = not self._console.is_terminal
        table = Table.grid(padding=(0, 1), expand=not whole)
        table.add_column(no_wrap=not whole, overflow="fold")
        table.add_column(ratio=None if whole else 1, min_width=8, max_width=_BAR if whole else None)
        for _ in range(4):
            table.add_column(no_wrap=True)
        now = time.perf_counter()
        # A copy: the loop's thread adds rows while Rich's thread draws them.
        for (uri, _), row in list(self._rows.items()):
            table.add_row(
                _name(uri, whole=whole),
                _bar(row),
                _bytes(row),
                _rate(row),
                _stage(row),
                _elapsed(row, now),
            )
        return table


def _after(row: _Row, event: Event) -> _Row:
    row = replace(row, progress=advance(row.progress, event))
    match event:
        case StageStarted(stage="read" | "fetch"):
            return replace(row, read_began=event.time)
        case BytesWritten(fetched=False):
            return replace(row, kept=row.kept + event.nbytes)
        case TensorReady() | BytesWritten():
            return replace(row, latest=event.time)
        case FellBack():
            return replace(row, fell_back=True)
        case Finished(error=error):
            return replace(row, ended=event.time, error=error)
        case _:
            return row


def _name(uri: str, *, whole: bool) -> Text:
    name = printable(uri)
    fits = whole or len(name) <= _NAME
    return Text(name if fits else "…" + name[1 - _NAME :], style="bold")


def _bar(row: _Row) -> ProgressBar:
    total = row.progress.bytes_total
    if row.error is not None:
        return ProgressBar(
            total=max(total or 0, 1),
            completed=row.progress.bytes_done,
            complete_style="red",
        )
    if not total and row.ended is None:
        return ProgressBar(total=None, pulse=True, animation_time=time.monotonic())
    done = row.progress.bytes_done if total else 1
    return ProgressBar(total=total or 1, completed=done)


def _bytes(row: _Row) -> str:
    total = row.progress.bytes_total
    return f"{decimal(row.progress.bytes_done)} / {'?' if total is None else decimal(total)}"


def _rate(row: _Row) -> str:
    if row.read_began is None or row.latest is None or row.latest <= row.read_began:
        return ""
    fetched = row.progress.bytes_done - row.kept
    return f"{decimal(int(fetched / (row.latest - row.read_began)))}/s"


def _stage(row: _Row) -> Text:
    if row.error is not None:
        return Text(row.error, style="red")
    if row.progress.stage == "done":
        return Text("done (slower way)" if row.fell_back else "done", style="green")
    return Text(row.progress.stage, style="cyan")


def _elapsed(row: _Row, now: float) -> str:
    return f"{(row.ended if row.ended is not None else now) - row.began:.2f} s"
