"""A slot's model is leased, and swapped while it serves."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest

import asyncload
from asyncload.errors import (
    Corrupt,
    LeaseTimeout,
    NotFound,
    ServingClosed,
    ServingError,
    SlotEmpty,
    SwapRefused,
    SwapSuperseded,
)
from asyncload.events import Event, Retired, SwapFailed, Switched
from asyncload.serving._slot import ModelSlot
from tests.serving.models import ONES, version_of

POLICIES = ["availability", "resource"]


def model_of(base: Path, version: int) -> Path:
    return base / str(version) / "model.keras"


async def served(slot: ModelSlot) -> int:
    return await slot.run(version_of)


@pytest.mark.parametrize("policy", POLICIES)
async def test_swaps(loader: asyncload.Loader, saved: Path, policy: Any) -> None:
    async with ModelSlot(model_of(saved, 1), loader=loader, policy=policy) as slot:
        assert await served(slot) == 1
        for version in (2, 3, 1):
            before = slot.status.uri
            swapped = await slot.swap(model_of(saved, version))
            assert swapped.uri == str(model_of(saved, version)) == slot.status.uri
            assert swapped.previous == before
            assert swapped.superseded is None
            assert await served(slot) == version
        assert slot.status.ready
        assert [each.state for each in slot.versions] == ["end"] * 3 + ["available"]
        assert [each.serving for each in slot.versions] == [False] * 3 + [True]
        assert slot.versions[-1].nbytes == 4 * 4 * (4 * 2 + 2)
    assert slot.status.closed


@pytest.mark.parametrize("policy", POLICIES)
async def test_signatures(loader: asyncload.Loader, exported: Path, policy: Any) -> None:
    async with ModelSlot(exported, loader=loader, policy=policy, version_policy=2) as slot:
        assert await served(slot) == 2
        await slot.swap(3)
        assert await served(slot) == 3


async def test_the_default_loader(saved: Path) -> None:
    async with ModelSlot(model_of(saved, 1)) as slot:
        assert await served(slot) == 1
    await asyncload.aclose()


async def test_a_leased_model_stays(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(model_of(saved, 1), loader=loader) as slot:
        lease = slot.lease()
        async with lease as old:
            swap = asyncio.ensure_future(slot.swap(model_of(saved, 2)))
            while await served(slot) == 1:
                await asyncio.sleep(0.001)
            async with slot.lease() as new:
                assert version_of(old) == 1
                assert version_of(new) == 2
                assert [each.state for each in slot.versions] == ["unloading", "available"]
                assert [each.leases for each in slot.versions] == [1, 1]
            assert lease.uri == str(model_of(saved, 1))
            assert not swap.done(), "it waits for the last lease"
        await swap
        assert lease.uri is None


async def test_events(loader: asyncload.Loader, saved: Path, tmp_path: Path) -> None:
    events: list[Event] = []
    async with ModelSlot(saved, loader=loader, version_policy=1, observer=events.append) as slot:
        await slot.swap(2)
        with pytest.raises(NotFound):
            await slot.swap(tmp_path / "none.keras")
    first, second, retired, failed, last = events
    one, two = (str(model_of(saved, version)) for version in (1, 2))
    assert isinstance(first, Switched)
    assert (first.uri, first.version, first.previous) == (one, 1, None)
    assert isinstance(second, Switched)
    assert (second.uri, second.version, second.previous) == (two, 2, one)
    assert isinstance(retired, Retired)
    assert (retired.uri, retired.version, retired.nbytes) == (one, 1, 160)
    assert isinstance(failed, SwapFailed)
    assert failed.error.startswith("NotFound: ")
    assert isinstance(last, Retired)
    assert last.version == 2


async def test_a_failing_observer_spoils_nothing(loader: asyncload.Loader, saved: Path) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("no")

    async with ModelSlot(saved, loader=loader, observer=fail) as slot:
        assert await served(slot) == 5


async def test_rollback(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(saved, loader=loader, version_policy=2) as slot:
        with pytest.raises(ServingError, match="no model served"):
            await slot.rollback()
        await slot.swap(3)
        await slot.swap(4)
        assert (await slot.rollback()).version == 3
        assert (await slot.rollback()).version == 2
        assert await served(slot) == 2
        with pytest.raises(ServingError, match="no model served"):
            await slot.rollback()


async def test_what_is_needed_now_is_loaded_on_demand(
    loader: asyncload.Loader, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    priorities = []
    prefetch = loader.prefetch

    def noting(uri: Any, **options: Any) -> Any:
        priorities.append(options["priority"])
        return prefetch(uri, **options)

    monkeypatch.setattr(loader, "prefetch", noting)
    async with ModelSlot(model_of(saved, 1), loader=loader) as slot:
        await slot.swap(model_of(saved, 2))
        await slot.swap(model_of(saved, 3), priority="demand")
        await slot.rollback()
        assert await served(slot) == 2
        with pytest.raises(ValueError, match="priority"):
            await slot.swap(model_of(saved, 3), priority="soon")  # type: ignore[arg-type]
        assert await served(slot) == 2
    assert priorities == ["demand", "background", "demand", "demand"]


async def test_a_rollback_that_fails_can_be_tried_again(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(model_of(saved, 1).read_bytes())
    async with ModelSlot(path, loader=loader) as slot:
        await slot.swap(model_of(saved, 2))
        path.rename(tmp_path / "away")
        with pytest.raises(NotFound):
            await slot.rollback()
        assert await served(slot) == 2
        (tmp_path / "away").rename(path)
        await slot.rollback()
        assert await served(slot) == 1


# --- what goes wrong -----------------------------------------------------------------------


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_a_corrupt_version(
    loader: asyncload.Loader, saved: Path, tmp_path: Path, policy: Any
) -> None:
    broken = tmp_path / "broken.keras"
    broken.write_bytes(model_of(saved, 2).read_bytes()[:-500])
    async with ModelSlot(model_of(saved, 1), loader=loader, policy=policy) as slot:
        with pytest.raises(Corrupt):
            await slot.swap(broken)
        assert await served(slot) == 1
        assert (slot.status.error or "").startswith("Corrupt: ")
        assert slot.versions[-1].state == "available" or slot.versions[-2].state == "available"
        await slot.swap(model_of(saved, 2))
        assert slot.status.error is None


async def test_another_architecture(
    loader: asyncload.Loader, saved: Path, wide: Path, policy: Any
) -> None:
    async with ModelSlot(model_of(saved, 1), loader=loader, policy=policy) as slot:
        await slot.swap(wide)
        assert await served(slot) == 9
        await slot.swap(model_of(saved, 2))
        assert await served(slot) == 2


async def test_a_version_that_the_check_refuses(
    loader: asyncload.Loader, saved: Path, policy: Any
) -> None:
    async def check(model: Any) -> None:
        if await asyncio.to_thread(version_of, model) == 3:
            raise ValueError("three is not good")

    async with ModelSlot(model_of(saved, 1), loader=loader, policy=policy, check=check) as slot:
        with pytest.raises(SwapRefused, match="three is not good") as caught:
            await slot.swap(model_of(saved, 3))
        assert isinstance(caught.value.__cause__, ValueError)
        assert await served(slot) == 1
        await slot.swap(model_of(saved, 2))
        assert await served(slot) == 2


async def test_cancelled_midway(loader: asyncload.Loader, saved: Path, policy: Any) -> None:
    entered = asyncio.Event()

    async def check(model: Any) -> None:
        if await asyncio.to_thread(version_of, model) == 2:
            entered.set()
            await asyncio.sleep(60)

    async with ModelSlot(model_of(saved, 1), loader=loader, policy=policy, check=check) as slot:
        swap = asyncio.create_task(slot.swap(model_of(saved, 2)))
        await entered.wait()
        swap.cancel()
        with pytest.raises(asyncio.CancelledError):
            await swap
        assert await served(slot) == 1
        await slot.swap(model_of(saved, 3))
        assert await served(slot) == 3


async def test_cancelled_at_any_moment(loader: asyncload.Loader, saved: Path, policy: Any) -> None:
    async with ModelSlot(model_of(saved, 1), loader=loader, policy=policy) as slot:
        for turn in range(8):
            swap = asyncio.create_task(slot.swap(model_of(saved, 2)))
            await asyncio.sleep(turn * 0.004)
            swap.cancel()
            await asyncio.wait([swap])
            assert await served(slot) in (1, 2)
        await slot.swap(model_of(saved, 3))
        assert await served(slot) == 3


async def test_the_later_of_two_swaps_wins(
    loader: asyncload.Loader, saved: Path, policy: Any
) -> None:
    async with ModelSlot(model_of(saved, 1), loader=loader, policy=policy) as slot:
        early = [asyncio.create_task(slot.swap(model_of(saved, n))) for n in (2, 3)]
        await asyncio.sleep(0.01)
        swapped = await slot.swap(model_of(saved, 4))
        assert await served(slot) == 4
        assert swapped.superseded == str(model_of(saved, 3))
        assert swapped.previous == str(model_of(saved, 1))
        for task in early:
            with pytest.raises(SwapSuperseded, match="later swap"):
                await task
        assert (await slot.rollback()).uri == str(model_of(saved, 1))


async def test_a_lease_held_for_ever(loader: asyncload.Loader, saved: Path, policy: Any) -> None:
    async with ModelSlot(
        model_of(saved, 1), loader=loader, policy=policy, lease_timeout=0.1
    ) as slot:
        leased, end = asyncio.Event(), asyncio.Event()

        async def hold() -> int:
            async with slot.lease() as model:
                leased.set()
                await end.wait()
                return version_of(model)

        holder = asyncio.create_task(hold(), name="the-one-that-holds")
        await leased.wait()
        with pytest.raises(LeaseTimeout, match="task 'the-one-that-holds' for 0") as caught:
            await slot.swap(model_of(saved, 2))
        assert isinstance(caught.value, TimeoutError)
        switched = policy == "availability"
        assert caught.value.switched == switched
        assert await served(slot) == (2 if switched else 1)
        end.set()
        assert await holder == 1
        await slot.swap(model_of(saved, 3))
        assert await served(slot) == 3
        assert {each.state for each in slot.versions} == {"end", "available"}


async def test_a_swap_within_an_own_lease_is_refused(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(model_of(saved, 1), loader=loader) as slot:
        async with slot.lease():
            with pytest.raises(RuntimeError, match="a lease"):
                await slot.swap(model_of(saved, 2))
        await slot.swap(model_of(saved, 2))


async def test_what_cannot_be_loaded_again_leaves_the_slot_empty(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    path = tmp_path / "m.keras"
    path.write_bytes(model_of(saved, 1).read_bytes())

    async def check(model: Any) -> None:
        path.unlink(missing_ok=True)
        if await asyncio.to_thread(version_of, model) == 2:
            raise ValueError("no")

    slot = ModelSlot(path, loader=loader, policy="resource", check=check)
    async with slot:
        with pytest.raises(SwapRefused) as caught:
            await slot.swap(model_of(saved, 2))
        assert "the slot is empty" in "".join(caught.value.__notes__)
        assert not slot.status.ready
        with pytest.raises(SlotEmpty, match="NotFound"):
            await served(slot)
        swap = asyncio.create_task(slot.swap(model_of(saved, 3)))
        await asyncio.sleep(0)
        assert await served(slot) == 3, "it waits for the swap that is under way"
        await swap


async def test_closed_with_leases_out(loader: asyncload.Loader, saved: Path) -> None:
    slot = ModelSlot(model_of(saved, 1), loader=loader)
    end = asyncio.Event()

    async def hold() -> int:
        async with slot.lease() as model:
            await end.wait()
            return version_of(model)

    async with slot:
        holder = asyncio.create_task(hold())
        await asyncio.sleep(0)
        swap = asyncio.create_task(slot.swap(model_of(saved, 2)))
        asyncio.get_running_loop().call_later(0.05, end.set)
    assert await holder == 1, "leaving the slot waits for it"
    with pytest.raises(ServingClosed):
        await swap
    for refused in (served(slot), slot.swap(model_of(saved, 3)), slot.rollback()):
        with pytest.raises(ServingClosed):
            await refused
    await slot.aclose()


async def test_closed_while_a_lease_is_held_for_ever(
    loader: asyncload.Loader, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    end = asyncio.Event()
    async with ModelSlot(model_of(saved, 1), loader=loader, lease_timeout=0.05) as slot:

        async def hold() -> int:
            async with slot.lease() as model:
                await end.wait()
                return version_of(model)

        holder = asyncio.create_task(hold(), name="slow")
        await asyncio.sleep(0)
    assert "task 'slow'" in caplog.text
    end.set()
    assert await holder == 1, "its model outlives the slot"


async def test_closed_within_an_own_lease(loader: asyncload.Loader, saved: Path) -> None:
    slot = ModelSlot(model_of(saved, 1), loader=loader)
    async with slot, slot.lease() as model:
        await slot.aclose()
        assert version_of(model) == 1


async def test_the_first_model_cannot_be_loaded(loader: asyncload.Loader, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        async with ModelSlot(tmp_path / "none.keras", loader=loader):
            pytest.fail("entered")


async def test_without_waiting(loader: asyncload.Loader, saved: Path, tmp_path: Path) -> None:
    async with ModelSlot(model_of(saved, 1), loader=loader, wait=False) as slot:
        assert not slot.status.ready
        assert await served(slot) == 1
    async with ModelSlot(tmp_path / "none.keras", loader=loader, wait=False) as slot:
        with pytest.raises(SlotEmpty, match=r"none\.keras"):
            await served(slot)
        assert (slot.status.error or "").startswith("NotFound")
        await slot.swap(model_of(saved, 2))
        assert await served(slot) == 2


async def test_the_loader_was_closed(saved: Path) -> None:
    async with asyncload.Loader(executor="thread") as loader:
        slot = ModelSlot(model_of(saved, 1), loader=loader)
        await slot.__aenter__()
    with pytest.raises(asyncload.LoaderClosed):
        await slot.swap(model_of(saved, 2))
    assert await served(slot) == 1
    await slot.aclose()


async def test_misuse(loader: asyncload.Loader, saved: Path) -> None:
    slot = ModelSlot(model_of(saved, 1), loader=loader)
    with pytest.raises(RuntimeError, match="enter the slot"):
        await slot.swap(model_of(saved, 2))
    async with slot:
        with pytest.raises(RuntimeError, match="once"):
            await slot.__aenter__()
        with pytest.raises(ServingError, match="one model"):
            await slot.swap(3)
        lease = slot.lease()
        async with lease:
            with pytest.raises(RuntimeError, match="held already"):
                await lease.__aenter__()
            assert "test_misuse" in repr(lease) or "Task-" in repr(lease)
            assert "leased by task" in repr(slot)
    with pytest.raises(ValueError, match="policy"):
        ModelSlot(saved, policy="some")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="version_policy"):
        ModelSlot(saved, version_policy="oldest")  # type: ignore[arg-type]


# --- leases --------------------------------------------------------------------------------


async def test_run_holds_its_lease_until_the_thread_has_ended(
    loader: asyncload.Loader, saved: Path
) -> None:
    begun, end = threading.Event(), threading.Event()

    def slow(model: Any) -> None:
        begun.set()
        end.wait(10)

    async with ModelSlot(model_of(saved, 1), loader=loader) as slot:
        call = asyncio.create_task(slot.run(slow))
        await asyncio.to_thread(begun.wait)
        call.cancel()
        await asyncio.sleep(0.01)
        assert slot.status.leases == 1
        assert not call.done()
        end.set()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert slot.status.leases == 0


async def test_run_raises_what_the_function_raises(loader: asyncload.Loader, saved: Path) -> None:
    def fail(model: Any, text: str) -> None:
        raise LookupError(text)

    async with ModelSlot(model_of(saved, 1), loader=loader) as slot:
        with pytest.raises(LookupError, match="that"):
            await slot.run(fail, "that")
        assert slot.status.leases == 0


async def test_run_has_threads_of_the_slot_which_end_with_it(
    loader: asyncload.Loader, saved: Path
) -> None:
    asked: ContextVar[str] = ContextVar("asked")

    def look(model: Any, seconds: float) -> tuple[threading.Thread, bool, str]:
        time.sleep(seconds)
        waits = not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) == os.SCHED_BATCH
        return threading.current_thread(), waits, asked.get()

    asked.set("in the caller's context")
    async with ModelSlot(model_of(saved, 1), loader=loader, threads=2) as slot:
        found = await asyncio.gather(*(slot.run(look, 0.05) for _ in range(6)))
        threads = {thread for thread, _, _ in found}
        assert len(threads) == 2
        assert all(waits for _, waits, _ in found)
        assert {context for _, _, context in found} == {"in the caller's context"}
    for thread in threads:
        await asyncio.to_thread(thread.join, 10)
        assert not thread.is_alive()


@pytest.mark.parametrize("threads", [0, -1])
def test_a_slot_without_threads_is_refused(saved: Path, threads: int) -> None:
    with pytest.raises(ValueError, match=f"threads must be 1 or more, not {threads}"):
        ModelSlot(saved, threads=threads)


@pytest.mark.parametrize("policy", POLICIES)
async def test_many_tasks_lease_while_models_swap(
    loader: asyncload.Loader, saved: Path, policy: Any
) -> None:
    """No request fails, and each is answered by one version, as its lease says."""
    ended = False
    answers: list[int] = []

    async def ask(slot: ModelSlot) -> None:
        while not ended:
            lease = slot.lease()
            async with lease as model:
                version = await asyncio.to_thread(version_of, model)
                assert str(model_of(saved, version)) == lease.uri
            answers.append(version)

    async with ModelSlot(model_of(saved, 1), loader=loader, policy=policy) as slot:
        tasks = [asyncio.create_task(ask(slot)) for _ in range(4)]
        for turn in range(5):
            await slot.swap(model_of(saved, turn % 5 + 1))
        ended = True
        await asyncio.gather(*tasks)
    assert set(answers) >= {1, 2, 3}


async def test_a_lease_is_cheap(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(model_of(saved, 1), loader=loader) as slot:
        best = 1.0
        for _ in range(20):
            begin = time.perf_counter()
            for _ in range(100):
                async with slot.lease():
                    pass
            best = min(best, (time.perf_counter() - begin) / 100)
        assert best < 20e-6, "seconds"
        async with slot.lease() as model:
            assert model(ONES).shape == (1, 8)
