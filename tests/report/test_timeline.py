"""The timeline adds up."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from asyncload.events import Finished, StageEnded, StageStarted
from asyncload.report import Timeline

URI = "m.keras"


def timeline(*stages: tuple[str, float, float]) -> Timeline:
    made = Timeline()
    for stage, begin, end in stages:
        made(StageStarted(uri=URI, stage=stage, time=begin))
        made(StageEnded(uri=URI, stage=stage, time=end))
    return made


def test_side_by_side() -> None:
    made = timeline(("index", 0, 1), ("read", 1, 4), ("build", 2, 6), ("bind", 6, 7))
    assert made.busy == pytest.approx(9)
    assert made.elapsed == pytest.approx(7)
    assert made.hidden == pytest.approx(2)
    assert made.overlap("read", "build") == pytest.approx(2)
    assert made.overlap("read", "bind") == 0


def test_nothing_yet() -> None:
    made = Timeline()
    assert (made.busy, made.elapsed, made.hidden) == (0, 0, 0)
    assert made.as_dict()["spans"] == []


def test_a_failed_load_ends_its_open_stages() -> None:
    made = Timeline()
    made(StageStarted(uri=URI, stage="read", time=1.0))
    made(StageStarted(uri="other", stage="read", time=1.0))
    made(Finished(uri=URI, error="Corrupt", time=3.0))
    (span,) = made.spans
    assert (span.uri, span.stage, span.seconds, span.error) == (URI, "read", 2.0, "Corrupt")


def test_an_end_without_a_begin_is_passed_over() -> None:
    made = Timeline()
    made(StageEnded(uri=URI, stage="read"))
    assert made.spans == ()


def test_json_begins_at_zero() -> None:
    raw = json.loads(json.dumps(timeline(("read", 5, 6), ("build", 5.5, 7)).as_dict()))
    assert [(span["stage"], span["begin"], span["end"]) for span in raw["spans"]] == [
        ("read", 0, 1),
        ("build", 0.5, 2),
    ]


def test_drawing_has_a_line_for_each_stage() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(timeline(("read", 0, 1), ("build", 0.5, 1.5)))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "read" in text
    assert "build" in text
    assert "25% of the work ran beside other work" in text


STAGES = st.lists(
    st.tuples(st.sampled_from(["read", "build", "bind"]), st.integers(0, 50), st.integers(0, 50))
)


@given(STAGES)
def test_union_agrees_with_counting(stages: list[tuple[str, int, int]]) -> None:
    spans = [(stage, float(begin), float(begin + length)) for stage, begin, length in stages]
    made = timeline(*spans)
    ticks = {t for _, begin, end in spans for t in range(int(begin), int(end))}
    assert made.elapsed == pytest.approx(len(ticks))
    assert made.hidden >= -1e-9
