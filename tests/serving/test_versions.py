"""Numbered folders of versions: which there are, which are whole, which serve."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import asyncload
from asyncload.errors import (
    Corrupt,
    NotFound,
    ServingError,
    SlotEmpty,
    UnknownFormat,
)
from asyncload.serving import VersionPolicy, latest, specific
from asyncload.serving._slot import ModelSlot
from asyncload.serving._versions import numbers
from asyncload.serving._watch import Backoff
from asyncload.sources import forget_memory, put_memory
from tests.servers.rgw import Rgw
from tests.serving.models import version_of

INTERVAL = 0.02  # seconds


async def served(slot: ModelSlot) -> int:
    return await slot.run(version_of)


def error_of(slot: ModelSlot) -> str:
    return slot.status.error or ""


def copy(saved: Path, base: Path, *versions: int) -> Path:
    for version in versions:
        shutil.copytree(saved / str(version), base / str(version))
    return base


class Following:
    """A slot's watch in a task, and the versions that it has switched to."""

    def __init__(self, slot: ModelSlot, **options: Any) -> None:
        self.versions: list[int] = []
        self._slot = slot
        self._options = {"interval": INTERVAL, "limit": 4 * INTERVAL, **options}
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        async with aclosing(self._slot.watch(**self._options)) as versions:
            async for version in versions:
                self.versions.append(version)

    async def until(self, *versions: int) -> None:
        async with asyncio.timeout(20):
            while self.versions != list(versions):
                assert not self.task.done(), self.task
                await asyncio.sleep(0.005)


@asynccontextmanager
async def following(slot: ModelSlot, **options: Any) -> AsyncIterator[Following]:
    follow = Following(slot, **options)
    try:
        yield follow
    finally:
        follow.task.cancel()
        await asyncio.gather(follow.task, return_exceptions=True)


async def until_error(slot: ModelSlot, text: str) -> None:
    """Wait until a version is said not to be loaded for a reason."""
    async with asyncio.timeout(20):
        while not any(each.error and text in each.error for each in slot.versions):
            await asyncio.sleep(0.005)


# --- decisions -----------------------------------------------------------------------------


def test_numbers_are_versions() -> None:
    names = ["1", "10", "9", "assets", "3.keras", "-4", "１", "007", "7", "tmp-8", "", "9" * 30]
    assert numbers(names) == {1: "1", 9: "9", 7: "7", 10: "10"}
    assert numbers(["007"]) == {7: "007"}


def test_policies() -> None:
    found = [3, 1, 12, 7]
    assert latest().order(found) == [12, 7, 3, 1]
    assert latest().beside(12, found) == []
    assert latest(3).beside(12, found) == [7, 3]
    assert latest(2).beside(7, found) == [12]
    assert specific(3, 7, 99).order(found) == [7, 3]
    assert specific(3, 7, 99).beside(7, found) == [3]
    assert specific(7) == VersionPolicy(1, (7,))
    for wrong in ((), (-1,)):
        with pytest.raises(ValueError, match="versions"):
            specific(*wrong)
    with pytest.raises(ValueError, match="latest version"):
        latest(0)


@given(st.sets(st.integers(0, 50)), st.integers(1, 5), st.data())
def test_no_more_than_wanted_are_loaded(found: set[int], count: int, data: Any) -> None:
    serving = data.draw(st.sampled_from(sorted(found))) if found else None
    beside = latest(count).beside(serving, found)
    assert len(beside) == max(0, min(count - 1, len(found) - 1))
    assert serving not in beside
    assert all(
        each in beside for each in found if beside and each > max(beside) and each != serving
    )


def test_waits_grow_and_are_bounded() -> None:
    backoff = Backoff(0.5, 3.0)
    assert [backoff.after_failure() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert Backoff(1.0, 9.0, failures=10_000).after_failure() == 9.0


# --- at the start --------------------------------------------------------------------------


async def test_the_newest_serves(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(saved, loader=loader) as slot:
        assert await served(slot) == slot.status.version == 5
        assert [each.version for each in slot.versions] == [5]
        with pytest.raises(SlotEmpty, match=r"no version 4 loaded; it has \[5\]"):
            await slot.lease(4).__aenter__()
        with pytest.raises(NotFound, match="no version 8"):
            await slot.swap(8)
        async with following(slot):
            await asyncio.sleep(0)
            with pytest.raises(ServingError, match="watched already"):
                await anext(slot.watch())


async def test_several_are_kept(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(saved, loader=loader, version_policy=latest(3)) as slot:
        assert await served(slot) == 5
        for version in (3, 4, 5):
            async with slot.lease(version) as model:
                assert version_of(model) == version
        await slot.swap(1)
        assert await served(slot) == 1
        assert sorted(v.version or 0 for v in slot.versions if v.state == "available") == [1, 4, 5]
        begin = len(slot.versions)
        assert (await slot.rollback()).version == 5
        assert len(slot.versions) == begin, "nothing was loaded for that"
        assert await served(slot) == 5


async def test_a_specific_one(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(saved, loader=loader, version_policy=specific(2, 4, 8)) as slot:
        assert await served(slot) == 4
        async with slot.lease(2) as model:
            assert version_of(model) == 2
    with pytest.raises(NotFound, match=r"no version that is wanted.*found \[1, 2, 3, 4, 5\]"):
        async with ModelSlot(saved, loader=loader, version_policy=8):
            pass


async def test_resources_are_kept_for_one(saved: Path) -> None:
    with pytest.raises(ValueError, match="one model at a time"):
        ModelSlot(saved, policy="resource", version_policy=latest(2))


async def test_a_newest_that_is_broken_does_not_keep_others_from_serving(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    base = copy(saved, tmp_path / "base", 1, 2)
    (base / "3").mkdir()
    (base / "3" / "model.keras").write_bytes(b"PK\3\4 but no more")
    (base / "4").mkdir()
    async with ModelSlot(base, loader=loader) as slot:
        assert await served(slot) == 2
        shutil.rmtree(base / "4")
        with pytest.raises(Corrupt):
            await slot.swap(3)
    shutil.rmtree(base / "1")
    shutil.rmtree(base / "2")
    with pytest.raises(Corrupt):
        async with ModelSlot(base, loader=loader):
            pass


async def test_what_a_version_may_hold(
    loader: asyncload.Loader, saved: Path, exported: Path, tmp_path: Path
) -> None:
    base = copy(exported, tmp_path / "base", 1)
    copy(saved, base, 2)
    (base / "2" / "README.md").write_text("not a model")
    async with ModelSlot(base, loader=loader) as slot:
        assert await served(slot) == 2
        await slot.swap(1)
        assert await served(slot) == 1
        await slot.swap(base / "2" / "model.keras")
        assert slot.status.version == 2
        shutil.copy(base / "2" / "model.keras", base / "2" / "other.keras")
        with pytest.raises(UnknownFormat, match="several files"):
            await slot.swap(2)


# --- watching ------------------------------------------------------------------------------


async def test_a_new_version_is_followed(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    base = copy(saved, tmp_path / "base", 1)
    async with ModelSlot(base, loader=loader) as slot, following(slot) as follow:
        copy(saved, base, 2)
        await follow.until(2)
        assert await served(slot) == 2
        copy(saved, base, 3, 4)
        async with asyncio.timeout(20):
            while slot.status.version != 4:
                await asyncio.sleep(0.005)
        assert await served(slot) == 4


async def test_only_what_is_wanted_is_followed(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    base = copy(saved, tmp_path / "base", 1)
    options: dict[str, Any] = {"loader": loader, "version_policy": specific(1, 3)}
    async with ModelSlot(base, **options) as slot, following(slot) as follow:
        copy(saved, base, 2, 4)
        await asyncio.sleep(5 * INTERVAL)
        copy(saved, base, 3)
        await follow.until(3)


async def test_what_is_half_written_is_not_picked_up(
    loader: asyncload.Loader, saved: Path, exported: Path, tmp_path: Path
) -> None:
    base = copy(saved, tmp_path / "base", 1)
    async with ModelSlot(base, loader=loader) as slot, following(slot) as follow:
        whole = (saved / "2" / "model.keras").read_bytes()
        (base / "2").mkdir()
        await until_error(slot, "nothing in it")
        (base / "2" / "model.keras").write_bytes(whole[: len(whole) // 2])
        await until_error(slot, "Corrupt")
        assert await served(slot) == 1
        (base / "2" / "model.keras").write_bytes(whole)
        await follow.until(2)

        # A shard of the variables is missing.
        partial = tmp_path / "partial"
        shutil.copytree(exported / "3", partial)
        shard = next((partial / "variables").glob("*.data*"))
        shard.rename(tmp_path / "shard")
        partial.rename(base / "3")
        await until_error(slot, "variables.data")
        assert await served(slot) == 2
        (tmp_path / "shard").rename(base / "3" / "variables" / shard.name)
        await follow.until(2, 3)
        assert await served(slot) == 3


async def test_what_still_changes_is_not_picked_up(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    base = copy(saved, tmp_path / "base", 1)
    async with ModelSlot(base, loader=loader) as slot, following(slot, interval=0.05) as follow:
        copy(saved, base, 2)
        path = base / "2" / "model.keras"
        end = asyncio.get_running_loop().time() + 0.5
        while asyncio.get_running_loop().time() < end:
            path.touch()
            assert follow.versions == []
            await asyncio.sleep(0.002)
        await follow.until(2)


async def test_a_marker_is_waited_for(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    base = copy(saved, tmp_path / "base", 1, 2)
    (base / "1" / "_SUCCESS").touch()
    async with ModelSlot(base, loader=loader, marker="_SUCCESS") as slot, following(slot) as follow:
        assert await served(slot) == 1
        await until_error(slot, "'_SUCCESS'")
        (base / "2" / "_SUCCESS").touch()
        await follow.until(2)


async def test_failures_back_off_and_end_nothing(
    loader: asyncload.Loader, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[float] = []

    async def check(model: Any) -> None:
        if await asyncio.to_thread(version_of, model) == 2:
            tries.append(asyncio.get_running_loop().time())
            if len(tries) < 4:
                raise ValueError("not yet")

    base = copy(saved, tmp_path / "base", 1)
    slot = ModelSlot(base, loader=loader, check=check)
    async with slot, following(slot, limit=10.0) as follow:
        copy(saved, base, 2)
        await follow.until(2)
        assert await served(slot) == 2
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert len(waits) == 3
    for wait, least in zip(waits, (1, 2, 4), strict=True):
        assert wait >= least * INTERVAL
    assert caplog.text.count("SwapRefused: ") == 1, "one line for one reason"


async def test_an_older_version_comes_while_the_newest_fails(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    base = copy(saved, tmp_path / "base", 1)
    async with ModelSlot(base, loader=loader) as slot, following(slot) as follow:
        (base / "3").mkdir()
        copy(saved, base, 2)
        await follow.until(2)
        shutil.copy(saved / "3" / "model.keras", base / "3")
        await follow.until(2, 3)


async def test_the_store_is_gone_for_a_while(
    loader: asyncload.Loader, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = copy(saved, tmp_path / "base", 1)
    async with ModelSlot(base, loader=loader) as slot, following(slot) as follow:
        base.rename(tmp_path / "away")
        async with asyncio.timeout(20):
            while not error_of(slot):
                await asyncio.sleep(0.005)
        assert "NotFound" in error_of(slot)
        assert await served(slot) == 1
        copy(saved, tmp_path / "away", 2)
        (tmp_path / "away").rename(base)
        await follow.until(2)
        assert not error_of(slot)
    assert caplog.text.count("cannot look for versions") == 1


async def test_a_rollback_is_not_undone(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    base = copy(saved, tmp_path / "base", 1)
    async with ModelSlot(base, loader=loader) as slot, following(slot) as follow:
        copy(saved, base, 2)
        await follow.until(2)
        await slot.rollback()
        await asyncio.sleep(5 * INTERVAL)
        assert await served(slot) == 1
        copy(saved, base, 3)
        await follow.until(2, 3)


async def test_a_swap_of_the_caller_s_own_comes_first(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    entered = asyncio.Event()

    async def check(model: Any) -> None:
        if await asyncio.to_thread(version_of, model) == 2:
            entered.set()
            await asyncio.sleep(60)

    base = copy(saved, tmp_path / "base", 1)
    async with ModelSlot(base, loader=loader, check=check) as slot, following(slot) as follow:
        copy(saved, base, 2)
        await entered.wait()
        await slot.swap(saved / "4" / "model.keras")
        await asyncio.sleep(5 * INTERVAL)
        assert await served(slot) == 4
        copy(saved, base, 3)
        await follow.until(3)


async def test_a_slot_that_was_empty_gets_its_first_version(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    async with ModelSlot(f"{base}/", loader=loader, wait=False) as slot:
        with pytest.raises(SlotEmpty, match="NotFound"):
            await served(slot)
        async with following(slot) as follow:
            copy(saved, base, 1)
            await follow.until(1)
            assert await served(slot) == 1


async def test_a_watch_waits_for_the_first_load(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(saved, loader=loader, wait=False) as slot, following(slot) as follow:
        assert await served(slot) == 5
        await asyncio.sleep(3 * INTERVAL)
        assert follow.versions == []
        assert [each.state for each in slot.versions] == ["available"]


async def test_leases_wait_while_a_slot_tries_older_versions(
    loader: asyncload.Loader, saved: Path, tmp_path: Path
) -> None:
    async def check(model: Any) -> None:
        if await asyncio.to_thread(version_of, model) > 1:
            raise ValueError("no")

    base = copy(saved, tmp_path / "base", 1, 2, 3)
    async with ModelSlot(base, loader=loader, wait=False, check=check) as slot:
        assert await served(slot) == 1


async def test_a_watch_of_a_slot_that_closes_while_it_loads(
    loader: asyncload.Loader, saved: Path
) -> None:
    async with ModelSlot(saved, loader=loader, wait=False) as slot:
        task = Following(slot).task
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await task


async def test_the_watch_ends_with_its_slot(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(saved, loader=loader) as slot:
        task = Following(slot).task
        await asyncio.sleep(2 * INTERVAL)
    async with asyncio.timeout(5):
        await task


async def test_one_model_cannot_be_watched(loader: asyncload.Loader, saved: Path) -> None:
    async with ModelSlot(saved / "1" / "model.keras", loader=loader) as slot:
        with pytest.raises(ServingError, match="one model, and no folder"):
            await anext(slot.watch())


# --- elsewhere -----------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[str]:
    name = uuid.uuid4().hex
    yield name
    forget_memory(name)


async def test_in_memory(loader: asyncload.Loader, saved: Path, memory: str) -> None:
    def put(*versions: int) -> None:
        files = {f"{n}/model.keras": (saved / f"{n}/model.keras").read_bytes() for n in versions}
        put_memory(memory, files)

    put(1)
    slot = ModelSlot(f"memory://{memory}", loader=loader)
    async with slot, following(slot) as follow:
        assert await served(slot) == 1
        put(1, 2)
        await follow.until(2)


async def test_on_object_storage(rgw: Rgw, saved: Path, tmp_path: Path) -> None:
    rgw.make_bucket("versions")
    prefix = uuid.uuid4().hex

    def put(version: int, name: str = "model.keras") -> None:
        data = (saved / str(version) / "model.keras").read_bytes() if "model" in name else b""
        rgw.put("versions", f"{prefix}/{version}/{name}", data)

    for version in (1, 2):
        put(version)
        put(version, "done")
    options = {
        "endpoint": rgw.endpoint,
        "region": rgw.region,
        "access_key_id": rgw.access_key,
        "secret_access_key": rgw.secret_key,
        "timeouts": {"connect": 1.0, "total": 5.0},  # how long it asks a store that is gone
    }
    async with asyncload.Loader(executor="thread", storage_options=options) as loader:
        slot = ModelSlot(f"s3://versions/{prefix}/", loader=loader, marker="done")
        async with slot, following(slot) as follow:
            assert await served(slot) == 2
            put(3)
            await until_error(slot, "'done'")
            put(3, "done")
            await follow.until(3)
            rgw.kill()
            async with asyncio.timeout(60):
                while not error_of(slot):
                    assert await served(slot) == 3
                    await asyncio.sleep(0.01)
            rgw.start()
            put(4)
            put(4, "done")
            await follow.until(3, 4)
