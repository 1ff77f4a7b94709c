"""`Timeline`: when each stage of a load ran, and how much of them ran side by side."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asyncload.events import Event, Finished, StageEnded, StageStarted

__all__ = ["Span", "Timeline"]

_WIDTH = 40  # columns of the drawing
_TEXT_WIDTH = 80  # columns, with what stands beside it


@dataclass(frozen=True, slots=True)
class Span:
    """One stage of one load.

    Attributes:
        uri: the load concerned.
        load_id: its number.
        stage: as `StageStarted` names it.
        begin: `time.perf_counter` seconds.
        end: exclusive, the same clock.
        error: the type's name if the stage failed.
    """

    uri: str
    stage: str
    begin: float
    end: float
    error: str | None = None
    load_id: int = 0

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return self.end - self.begin


class Timeline:
    """An `Observer` that keeps when stages began and ended.

    One may watch several loads; `spans` tells them apart by their URI and their number. Printed,
    with Rich or without, it draws a line for each stage.
    """

    def __init__(self) -> None:
        self._open: dict[tuple[str, int, str], float] = {}
        self._spans: list[Span] = []

    def __call__(self, event: Event) -> None:
        """Note an event."""
        match event:
            case StageStarted(stage=stage):
                self._open[event.uri, event.load_id, stage] = event.time
            case StageEnded(stage=stage):
                self._close(event, stage, event.error)
            case Finished():
                own = (event.uri, event.load_id)
                for stage in [key[2] for key in self._open if key[:2] == own]:
                    self._close(event, stage, event.error)
            case _:
                pass

    def _close(self, event: Event, stage: str, error: str | None) -> None:
        begin = self._open.pop((event.uri, event.load_id, stage), None)
        if begin is not None:
            self._spans.append(Span(event.uri, stage, begin, event.time, error, event.load_id))

    @property
    def spans(self) -> tuple[Span, ...]:
        """The stages that have ended, in the order in which they began."""
        return tuple(sorted(self._spans, key=lambda span: (span.begin, span.end)))

    @property
    def busy(self) -> float:
        """Seconds of all stages, added up."""
        return sum(span.seconds for span in self._spans)

    @property
    def elapsed(self) -> float:
        """Seconds in which at least one stage ran."""
        return _covered((span.begin, span.end) for span in self._spans)

    @property
    def hidden(self) -> float:
        """Seconds that running stages side by side saved: `busy` less `elapsed`."""
        return self.busy - self.elapsed

    def overlap(self, one: str, other: str) -> float:
        """Return the seconds in which stage ``one`` and stage ``other`` both ran."""
        ones = [(span.begin, span.end) for span in self._spans if span.stage == one]
        others = [(span.begin, span.end) for span in self._spans if span.stage == other]
        return _covered(ones) + _covered(others) - _covered([*ones, *others])

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, times in seconds from the first stage's begin."""
        origin = min((span.begin for span in self._spans), default=0.0)
        spans = [
            {**asdict(span), "begin": span.begin - origin, "end": span.end - origin}
            for span in self.spans
        ]
        return {"spans": spans, "busy": self.busy, "elapsed": self.elapsed, "hidden": self.hidden}

    def __str__(self) -> str:
        """Return the drawing as text."""
        console = Console(file=io.StringIO(), width=_TEXT_WIDTH)
        with console.capture() as drawn:
            console.print(self)
        return "\n".join(line.rstrip() for line in drawn.get().splitlines())

    def __rich__(self) -> Table:
        """Return a drawing: a line for each stage, its place on a common scale."""
        spans = self.spans
        table = Table.grid(padding=(0, 2))
        origin = min((span.begin for span in spans), default=0.0)
        whole = max((span.end for span in spans), default=1.0) - origin or 1.0
        for span in spans:
            first = round((span.begin - origin) / whole * _WIDTH)
            last = max(first + 1, round((span.end - origin) / whole * _WIDTH))
            bar = Text(" " * first + "━" * (last - first), style="red" if span.error else "cyan")
            bar.pad_right(_WIDTH + 1 - last)
            table.add_row(span.stage, bar, f"{span.seconds * 1e3:,.0f} ms")
        saved = self.hidden / self.busy if self.busy else 0.0
        table.add_row("", f"{saved:.0%} of the work ran beside other work", "")
        return table


def _covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals."""
    total, reach = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reach))
        reach = max(reach, end)
    return total
