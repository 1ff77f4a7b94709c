"""Events say which load they are about, of which kind, and how it ended; so does the log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import asyncload
from asyncload.events import FellBack, Finished, Started, Switched
from asyncload.report import ProgressReporter, Timeline

NBYTES = 4000


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    save_file({"a": np.ones(1000, np.float32)}, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


@pytest.fixture
async def watched() -> AsyncIterator[tuple[asyncload.Loader, list[asyncload.Event]]]:
    seen: list[asyncload.Event] = []
    async with asyncload.Loader(executor="thread", observer=seen.append) as loader:
        yield loader, seen


def ends(events: list[asyncload.Event]) -> list[Finished]:
    return [event for event in events if isinstance(event, Finished)]


def first_bytes(data: memoryview) -> dict[str, Any]:
    return {"a": np.frombuffer(data[:4], np.uint8).copy()}


async def test_each_load_has_a_number_a_kind_and_one_end(
    watched: tuple[asyncload.Loader, list[asyncload.Event]], weights: Path, tmp_path: Path
) -> None:
    loader, seen = watched
    await loader.load(weights)
    await loader.load_weights(weights)
    await loader.inspect(weights)
    async with aclosing(loader.stream(weights)) as tensors:
        assert [name async for name, _ in tensors] == ["a"]
    async for part in loader.map_parts(first_bytes, [weights]):
        assert part.unwrap()["a"].nbytes == 4
    await loader.fetch(weights, tmp_path / "copy")

    size = weights.stat().st_size
    assert [(end.kind, end.nbytes, end.outcome) for end in ends(seen)] == [
        ("load", NBYTES, "ok"),
        ("weights", NBYTES, "ok"),
        ("inspect", 0, "ok"),
        ("weights", NBYTES, "ok"),
        ("weights", size, "ok"),
        ("fetch", size, "ok"),
    ]
    begun = {event.load_id: event for event in seen if isinstance(event, Started)}
    assert len(begun) == 6
    assert {event.load_id for event in seen} == set(begun)
    for end in ends(seen):
        begin = begun[end.load_id]
        assert end.duration == pytest.approx(end.time - begin.time)
        assert {event.kind for event in seen if event.load_id == end.load_id} == {begin.kind}


async def test_a_listing_counts_as_nothing(
    watched: tuple[asyncload.Loader, list[asyncload.Event]], weights: Path
) -> None:
    loader, seen = watched
    assert await loader.ls(weights.parent)
    assert await loader.names(weights.parent)
    with pytest.raises(asyncload.NotFound):
        await loader.ls(weights.parent / "none")
    assert seen == []


async def test_an_end_says_how_it_was(
    watched: tuple[asyncload.Loader, list[asyncload.Event]], weights: Path
) -> None:
    loader, seen = watched
    with pytest.raises(asyncload.NotFound):
        await loader.load_weights(weights.parent / "none.safetensors")
    cancelled = loader.prefetch(weights)
    await asyncio.sleep(0)
    cancelled.cancel()
    async for _ in cancelled.events():
        pass
    async with aclosing(loader.stream(weights)) as tensors:
        await anext(tensors)
    outcomes = [(end.outcome, end.error, end.nbytes) for end in ends(seen)]
    assert outcomes[0] == ("failed", "NotFound", 0)
    assert [outcome for outcome, _, _ in outcomes[1:]] == ["cancelled"] * (len(outcomes) - 1)
    assert outcomes[-1] == ("cancelled", "CancelledError", NBYTES)


async def test_who_shares_a_load_sees_its_number(
    watched: tuple[asyncload.Loader, list[asyncload.Event]], weights: Path
) -> None:
    loader, seen = watched
    own: tuple[list[asyncload.Event], list[asyncload.Event]] = ([], [])
    await asyncio.gather(*(loader.load(weights, observer=each.append) for each in own))
    assert len(ends(seen)) == 1
    assert own[0] == own[1] == seen


async def test_an_observer_of_one_call_sees_that_call(
    watched: tuple[asyncload.Loader, list[asyncload.Event]], weights: Path, tmp_path: Path
) -> None:
    loader, _ = watched
    seen: list[asyncload.Event] = []
    note = seen.append
    await loader.load(weights)
    await loader.load(weights, observer=note)
    await loader.prefetch(weights, observer=note)
    await loader.load_many([weights], observer=note)
    await loader.load_weights(weights, observer=note)
    await loader.inspect(weights, observer=note)
    async for _ in loader.stream(weights, observer=note):
        pass
    async for _ in loader.map_parts(first_bytes, [weights], observer=note):
        pass
    await loader.fetch(weights, tmp_path / "copy", observer=note)
    with pytest.raises((asyncload.AsyncloadError, TypeError)):
        await loader.load_into(object(), weights, observer=note)
    kinds = [end.kind for end in ends(seen)]
    assert kinds == ["load"] * 3 + ["weights", "inspect", "weights", "weights", "fetch", "load"]


async def test_the_default_loader_has_an_observer(weights: Path) -> None:
    seen: list[asyncload.Event] = []
    await asyncload.inspect(weights)  # a Loader that is there already
    try:
        asyncload.set_observer(seen.append)
        await asyncload.load_weights(weights)
        asyncload.set_observer(None)
        await asyncload.load_weights(weights)
    finally:
        asyncload.set_observer(None)
        await asyncload.aclose()
    assert [end.outcome for end in ends(seen)] == ["ok"]


async def test_the_log_has_one_line_for_a_load(
    watched: tuple[asyncload.Loader, list[asyncload.Event]],
    weights: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    loader, _ = watched
    with caplog.at_level(logging.INFO, "asyncload"):
        await asyncio.gather(*(loader.load(weights) for _ in range(3)))
        await loader.ls(weights)
        await loader.inspect(weights)
        with pytest.raises(asyncload.NotFound):
            await loader.load_weights(weights.parent / "a\x1b[31mb.npz")
    lines = [(record.name, record.levelname) for record in caplog.records]
    assert lines == [("asyncload", "INFO")] * 2
    assert "4,000 bytes" in caplog.messages[0]
    assert "failed" in caplog.messages[1]
    assert r"a\x1b[31mb.npz" in caplog.messages[1]


async def test_the_log_has_one_line_for_a_swap(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[asyncload.Event] = []
    async with (
        asyncload.Loader(executor="thread") as loader,
        asyncload.ModelSlot(weights, loader=loader, observer=seen.append) as slot,
    ):
        with caplog.at_level(logging.INFO, "asyncload"):
            await slot.swap(weights)
    (line,) = [each for each in caplog.records if "a slot serves" in each.message]
    assert (line.name, line.levelname) == ("asyncload", "INFO")
    assert line.message == f"a slot serves {weights} in the place of {weights}"
    switched = [event.load_id for event in seen if isinstance(event, Switched)]
    assert len(set(switched)) == 2
    assert {event.load_id for event in seen} == set(switched)


async def test_the_slower_way_is_a_warning(weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[asyncload.Event] = []
    async with asyncload.Loader(executor="thread") as loader:
        await loader.load(weights, reuse=object(), observer=seen.append)
    (fell_back,) = [event for event in seen if isinstance(event, FellBack)]
    (warning,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert fell_back.reason in warning.message
    assert warning.name == "asyncload"


async def test_an_observer_that_raises_is_reported_once(
    weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def fail(event: asyncload.Event) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("no")

    async with asyncload.Loader(executor="thread", observer=fail) as loader:
        await loader.load(weights)
        await loader.load(weights)
        assert len(caplog.records) == 1
        await loader.load_many([weights, weights, weights.parent / "w.safetensors"], observer=fail)
    assert len(caplog.records) == 2
    assert calls > 10


async def test_what_is_printed_is_short_and_drawn(weights: Path) -> None:
    timeline, bars = Timeline(), ProgressReporter()

    def both(event: asyncload.Event) -> None:
        timeline(event)
        bars(event)

    async with asyncload.Loader(executor="thread", observer=both) as loader:
        first, second = loader.prefetch(weights), loader.prefetch(weights, verify=False)
        await first
        await second
        manifest = await loader.inspect(weights)
    drawn = str(timeline).splitlines()
    assert sum("━" in line for line in drawn) == len(timeline.spans) == 5
    assert "index" in str(timeline)
    assert len({span.load_id for span in timeline.spans}) == 3
    assert repr(manifest) == f"<Manifest of {weights}: safetensors, 1 tensor, 4,000 bytes>"
    assert "\n" not in repr(manifest)
