"""The bar shows what the events say, and never makes the loop wait."""

from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from asyncload.events import (
    BytesWritten,
    Event,
    FellBack,
    Finished,
    Indexed,
    StageEnded,
    StageStarted,
    Started,
    TensorReady,
)
from asyncload.report import ProgressReporter

URI = "models/b.keras"


def draw(*events: Event, terminal: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=160, force_terminal=terminal)
    with ProgressReporter(console=console) as reporter:
        for event in events:
            reporter(event)
    return out.getvalue()


def reading(done: int = 1) -> list[Event]:
    return [
        Started(uri=URI, time=10.0),
        StageStarted(uri=URI, stage="index", time=10.0),
        StageEnded(uri=URI, stage="index", time=10.5),
        Indexed(uri=URI, format="keras", tensors=4, nbytes=8_000_000, time=10.5),
        StageStarted(uri=URI, stage="read", time=10.5),
        *(
            TensorReady(uri=URI, name=str(index), nbytes=2_000_000, time=11.0 + index)
            for index in range(done)
        ),
    ]


def test_bytes_rate_and_stage() -> None:
    text = draw(*reading(1))
    assert "b.keras" in text
    assert "2.0 MB / 8.0 MB" in text
    assert "4.0 MB/s" in text
    assert "read" in text


def test_what_an_earlier_fetch_brought_makes_no_rate() -> None:
    text = draw(
        Started(uri=URI, time=10.0),
        Indexed(uri=URI, format="files", tensors=0, nbytes=8_000_000, time=10.5),
        StageStarted(uri=URI, stage="fetch", time=10.5),
        BytesWritten(uri=URI, name="a", nbytes=5_000_000, fetched=False, time=10.6),
        BytesWritten(uri=URI, name="a", nbytes=1_000_000, fetched=True, time=11.0),
    )
    assert "6.0 MB / 8.0 MB" in text
    assert "2.0 MB/s" in text


def test_before_the_index_the_total_is_unknown() -> None:
    assert "0 bytes / ?" in draw(Started(uri=URI), terminal=True)


def test_done_says_done_and_how_long() -> None:
    text = draw(*reading(4), Finished(uri=URI, time=14.25))
    assert "8.0 MB / 8.0 MB" in text
    assert "done" in text
    assert "4.25 s" in text


def test_the_slower_way_is_said() -> None:
    text = draw(*reading(4), FellBack(uri=URI, reason="a layer refused"), Finished(uri=URI))
    assert "done (slower way)" in text


def test_an_error_is_named() -> None:
    assert "Corrupt" in draw(*reading(2), Finished(uri=URI, error="Corrupt"))


def test_a_long_uri_keeps_its_end() -> None:
    uri = "folder/" * 12 + "model.keras"
    on_terminal = draw(Started(uri=uri), terminal=True)
    assert "…" in on_terminal
    assert "model.keras" in on_terminal
    assert uri in draw(Started(uri=uri))


def test_a_uri_loaded_again_begins_anew() -> None:
    text = draw(*reading(4), Finished(uri=URI, time=14.0), *reading(1))
    assert "2.0 MB / 8.0 MB" in text


def test_several_loads_have_a_line_each() -> None:
    text = draw(Started(uri="a.keras"), Started(uri="b.npz"))
    assert len([line for line in text.splitlines() if "keras" in line or "npz" in line]) == 2


def test_events_are_taken_while_the_terminal_stands_still() -> None:
    stuck = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text: str, /) -> int:
            if threading.current_thread() is not threading.main_thread():
                stuck.wait(10)
            return super().write(text)

    console = Console(file=Stuck(), width=160, force_terminal=True)
    with ProgressReporter(console=console) as reporter:
        time.sleep(0.25)
        begin = time.perf_counter()
        for event in reading(4):
            reporter(event)
        took = time.perf_counter() - begin
        stuck.set()
    assert took < 0.1


def test_left_by_an_error_the_drawing_thread_ends() -> None:
    console = Console(file=io.StringIO(), force_terminal=True)
    with pytest.raises(KeyError), ProgressReporter(console=console):
        raise KeyError
