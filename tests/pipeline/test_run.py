"""The pipeline on real files: whole, aligned, read-only, in time, and gone when dropped."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import psutil
import pytest

from asyncload.errors import Corrupt, DecodeError, MemoryLimitExceeded, SourceChanged
from asyncload.manifest import Manifest, TensorEntry
from asyncload.memory import ALIGNMENT
from asyncload.pipeline import Pipeline, unpack
from tests.pipeline.files import Array, FileMaker, Opened, opened

MIB = 1 << 20
CHANCE = np.random.default_rng(5)


def floats(*shape: int) -> Array:
    return CHANCE.random(shape, dtype=np.float32)


def all_kinds(path: Path, file: int = 0) -> FileMaker:
    """Write a file with every encoding, small and large, with gaps between."""
    made = _all_kinds(file)
    maker = FileMaker(path, file, made.content[:], made.entries[:], dict(made.expected))
    maker.write()
    return maker


@cache
def _all_kinds(file: int) -> FileMaker:
    maker, mark = FileMaker(Path(), file), f"{file}/"
    maker.raw(f"{mark}small", floats(3, 5))
    maker.deflated(f"{mark}deflated", floats(70, 11))
    maker.gap(100)
    maker.raw(f"{mark}after a gap", floats(7))
    maker.gap(200_000)
    maker.raw(f"{mark}far", np.arange(9, dtype=np.int64))
    maker.raw(f"{mark}scalar", np.array(3.5))
    maker.raw(f"{mark}none", np.empty((0, 4), np.float16))
    maker.raw(f"{mark}bfloat16", floats(40).astype(ml_dtypes.bfloat16))
    maker.raw(f"{mark}float8", floats(41).astype(ml_dtypes.float8_e4m3fn))
    maker.raw(f"{mark}bool", CHANCE.random(33) < 0.5)
    maker.raw(f"{mark}complex", (floats(8) + 1j * floats(8)).astype(np.complex64))
    maker.raw(f"{mark}large", floats(5 * MIB))
    maker.fortran(f"{mark}fortran", floats(30, 40))
    maker.swapped(f"{mark}swapped", floats(1_500, 1_000))
    maker.inline(f"{mark}inline", np.arange(12, dtype=np.int16).reshape(3, 4))
    maker.chunked(f"{mark}chunked", floats(100, 30), (32, 16))
    maker.chunked(f"{mark}in bands", floats(2_000, 1_000), (150, 400))
    maker.chunked(f"{mark}bands with holes", floats(2_000, 1_000), (150, 400), holes=3, fill=7.5)
    maker.chunked(f"{mark}at home", floats(50, 100_000), (50, 3_000), holes=5, fill=2.0)
    maker.chunked(f"{mark}home of zeros", floats(50, 100_000), (50, 3_000), holes=2)
    maker.chunked(f"{mark}unwritten", floats(20, 20), (10, 10), holes=1, fill=1.0)
    maker.deflated(f"{mark}deflated home", floats(5 * MIB))
    return maker


def as_bytes(array: Array) -> Array:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def check(arrays: dict[str, Array], expected: dict[str, Array]) -> None:
    assert list(arrays) == list(expected)
    for name, array in arrays.items():
        wanted = expected[name]
        assert (array.dtype, array.shape) == (wanted.dtype, wanted.shape), name
        assert np.array_equal(as_bytes(array), as_bytes(wanted)), name
        assert array.__array_interface__["data"][0] % ALIGNMENT == 0 or not array.size, name
        assert array.flags.c_contiguous
        assert not array.flags.writeable
        if array.size:
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_every_encoding(tmp_path: Path, executor: str) -> None:
    makers = [all_kinds(tmp_path / f"{index}", index) for index in range(2)]
    async with opened(*makers, executor=executor) as load:
        seen: list[str] = []
        for _ in range(2):  # the second time with slabs that hold other tensors' bytes
            seen.clear()
            arrays = await load.pipeline(on_tensor=lambda entry: seen.append(entry.name)).run()
            check(arrays, load.expected)
            assert sorted(seen) == sorted(arrays)
            del arrays


async def test_nothing_at_all(tmp_path: Path) -> None:
    maker = FileMaker(tmp_path / "a")
    maker.write()
    async with opened(maker) as load:
        assert await load.pipeline().run() == {}
        assert load.pipeline().staging == 0


async def test_some_of_them(tmp_path: Path) -> None:
    maker = all_kinds(tmp_path / "a")
    async with opened(maker) as load:
        names = ["0/large", "0/chunked", "0/small"]
        arrays = await load.pipeline(names).run()
        check(arrays, {name: load.expected[name] for name in ("0/small", "0/large", "0/chunked")})
        with pytest.raises(ValueError, match="'nobody'"):
            load.pipeline(["nobody"])


async def test_two_names_for_the_same_bytes(tmp_path: Path) -> None:
    maker = FileMaker(tmp_path / "a")
    maker.raw("one", floats(1000))
    maker.chunked("two", floats(100, 10), (30, 10))
    for name in ("one", "two"):
        same = next(entry for entry in maker.entries if entry.name == name)
        maker.entries.append(replace(same, name=f"{name} again"))
        maker.expected[f"{name} again"] = maker.expected[name]
    maker.write()
    async with opened(maker) as load:
        check(await load.pipeline().run(), load.expected)


async def test_stream(tmp_path: Path) -> None:
    maker = all_kinds(tmp_path / "a")
    async with opened(maker) as load:
        arrays = {name: array async for name, array in load.pipeline().stream()}
        check({name: arrays[name] for name in load.expected}, load.expected)


async def test_a_stream_that_is_left_early_stops(tmp_path: Path) -> None:
    maker = all_kinds(tmp_path / "a")
    async with opened(maker) as load:
        async with aclosing(load.pipeline().stream()) as tensors:
            async for name, _ in tensors:
                assert name in load.expected
                break
        check(await load.pipeline().run(), load.expected)


async def test_a_streamed_tensor_is_freed_when_it_is_dropped(tmp_path: Path) -> None:
    """The pipeline holds no tensor that it has handed over."""
    maker = FileMaker(tmp_path / "a")
    for index in range(6):
        maker.raw(str(index), np.full(64 * MIB // 4, index, np.float32))
    maker.write()
    maker.expected.clear()
    maker.content.clear()
    gc.collect()
    async with opened(maker) as load:
        before, peak = resident(), 0
        async for _name, array in load.pipeline().stream():
            assert array.size
            del array
            peak = max(peak, resident() - before)
        assert peak < 320 * MIB, "some of 384"
    assert resident() - before < 40 * MIB


async def test_assets(tmp_path: Path) -> None:
    maker = FileMaker(tmp_path / "a")
    words = np.frombuffer(b"the\na\nof\n", np.uint8)
    maker.raw("weights", floats(5))
    maker.raw("vocabulary.txt", words)
    maker.deflated("deep/er.txt", words.repeat(3), skip=0)
    maker.raw("empty.txt", words[:0])
    maker.write()
    async with opened(maker) as load:
        tensors = {"weights": load.manifest.tensors["weights"]}
        assets = {key: e for key, e in load.manifest.tensors.items() if key != "weights"}
        manifest = Manifest("uri", "test", load.files.entries(), tensors, assets=assets)
        heard: list[TensorEntry] = []
        pipeline = Pipeline(
            manifest,
            load.files,
            workers=load.workers,
            slabs=load.slabs,
            on_tensor=heard.append,
        )
        found = await pipeline.assets()
        assert found == {name: load.expected[name].tobytes() for name in assets}
        assert not heard
        assert list(await pipeline.run()) == ["weights"]
        assert await load.pipeline().assets() == {}


# --- memory ------------------------------------------------------------------------------


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


async def falls_to(nbytes: int) -> None:
    """Wait for memory to go: a thread may yet be on its way to drop its last reference."""
    async with asyncio.timeout(5):
        while resident() > nbytes:
            await asyncio.sleep(0.01)


async def test_memory_is_the_tensors_own_and_goes_with_them(tmp_path: Path) -> None:
    maker = FileMaker(tmp_path / "a")
    for index in range(4):
        maker.raw(f"{index}", np.full(12 * MIB, index, np.float32))
        maker.raw(f"small {index}", np.full(1000, index, np.float32))
    maker.write()
    maker.expected.clear()
    maker.content.clear()
    gc.collect()
    gc.disable()
    try:
        async with opened(maker) as load:
            before = resident()
            arrays = await load.pipeline().run()
            nbytes = load.manifest.nbytes
            assert 0.9 * nbytes < resident() - before < 1.05 * nbytes + 16 * MIB
            kept = arrays["3"]
            arrays.clear()
            await falls_to(before + 64 * MIB)
            assert kept[0] == kept[-1] == 3
            del kept
            await falls_to(before + 16 * MIB)
    finally:
        gc.enable()


async def test_staging_bounds_the_shared_memory(tmp_path: Path) -> None:
    maker = FileMaker(tmp_path / "a")
    for index in range(12):
        maker.chunked(f"{index}", np.full((2_000, 1_000), index, np.float32), (100, 1_000))
    maker.write()
    async with opened(maker) as load:
        pipeline = load.pipeline()
        assert pipeline.staging == 48 * MIB
        peak = 0
        base = psutil.virtual_memory().shared

        def look(entry: TensorEntry) -> None:
            nonlocal peak
            peak = max(peak, psutil.virtual_memory().shared - base)

        for array in (await load.pipeline(on_tensor=look).run()).values():
            assert array.size
        assert peak <= pipeline.staging + 16 * MIB  # other programs share memory too


async def test_more_memory_than_there_is(tmp_path: Path) -> None:
    maker = FileMaker(tmp_path / "a")
    maker.raw("t", floats(4))
    maker.write()
    with maker.path.open("r+b") as file:
        file.truncate(1 << 43)  # sparse
    maker.entries[0] = TensorEntry("t", "uint8", (1 << 43,), 0, 0, 1 << 43)
    async with opened(maker) as load:
        limit = psutil.virtual_memory().total
        if limit < 1 << 43:
            with pytest.raises(MemoryLimitExceeded) as caught:
                await load.pipeline().run()
            assert caught.value.uri == "the.uri"


# --- what goes wrong ---------------------------------------------------------------------


def damage(maker: FileMaker, name: str) -> None:
    entry = next(entry for entry in maker.entries if entry.name == name)
    offset, length = entry.spans()[0]
    maker.content[offset + length // 2 : offset + length] = bytes(length - length // 2)
    maker.write()


@pytest.mark.parametrize("executor", ["thread", "process"])
@pytest.mark.parametrize("name", ["0/deflated", "0/chunked", "0/in bands", "0/at home"])
async def test_damaged(tmp_path: Path, name: str, executor: str) -> None:
    maker = all_kinds(tmp_path / "a")
    damage(maker, name)
    async with opened(maker, executor=executor) as load:
        with pytest.raises((Corrupt, DecodeError)) as caught:
            await load.pipeline().run()
        assert caught.value.tensor == name
        assert caught.value.uri == str(maker.path)
        names = [one for one in load.expected if one != name]
        check(await load.pipeline(names).run(), {one: load.expected[one] for one in names})


async def test_an_entry_beyond_the_file(tmp_path: Path) -> None:
    maker = all_kinds(tmp_path / "a")
    async with opened(maker) as load:
        wrong = replace(load.manifest.tensors["0/small"], offset=1 << 40)
        manifest = replace(load.manifest, tensors={"0/small": wrong})
        with pytest.raises(Corrupt, match="fetch the file again") as caught:
            await Pipeline(manifest, load.files, workers=load.workers, slabs=load.slabs).run()
        assert (caught.value.uri, caught.value.tensor) == ("the.uri", "0/small")


def truncate(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(10_000_000)


def rewrite(path: Path) -> None:
    content = path.read_bytes()
    with path.open("r+b") as file:
        file.write(bytes(len(content)))


def replace_whole(path: Path) -> None:
    path.with_name("new").write_bytes(path.read_bytes())
    path.with_name("new").rename(path)


CHANGES: list[Callable[[Path], Any]] = [truncate, rewrite, replace_whole, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
async def test_changed_after_it_was_indexed(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    maker = all_kinds(tmp_path / "a")
    async with opened(maker) as load:
        await asyncio.sleep(0.02)  # file systems keep time in steps of up to 10 ms
        change(maker.path)
        with pytest.raises(SourceChanged) as caught:
            await load.pipeline().run()
        assert caught.value.uri == str(maker.path)


@pytest.mark.parametrize("change", CHANGES)
async def test_changed_while_it_was_read(tmp_path: Path, change: Callable[[Path], Any]) -> None:
    maker = all_kinds(tmp_path / "a")
    async with opened(maker) as load:
        await asyncio.sleep(0.02)
        done: list[str] = []

        def at_the_third(entry: TensorEntry) -> None:
            done.append(entry.name)
            if len(done) == 3:
                change(maker.path)

        with pytest.raises(SourceChanged) as caught:
            await load.pipeline(on_tensor=at_the_third).run()
        assert caught.value.uri == str(maker.path)


async def test_a_stream_says_so_at_its_end(tmp_path: Path) -> None:
    maker = FileMaker(tmp_path / "a")
    maker.raw("one", floats(100))
    maker.write()
    async with opened(maker) as load:
        tensors = load.pipeline().stream()
        assert (await anext(tensors))[0] == "one"
        truncate(maker.path)
        maker.path.unlink()
        with pytest.raises((SourceChanged, StopAsyncIteration)):
            await anext(tensors)


async def test_indexed_in_another_version(tmp_path: Path) -> None:
    maker = all_kinds(tmp_path / "a")
    async with opened(maker) as load:
        old = replace(load.manifest.files[0], version="another")
        manifest = replace(load.manifest, files=(old,))
        with pytest.raises(SourceChanged, match="after it was indexed"):
            await Pipeline(manifest, load.files, workers=load.workers, slabs=load.slabs).run()


async def test_an_observer_that_raises_ends_the_load(tmp_path: Path) -> None:
    maker = all_kinds(tmp_path / "a")

    def refuse(entry: TensorEntry) -> None:
        raise RuntimeError("no")

    async with opened(maker) as load:
        with pytest.raises(RuntimeError, match="no"):
            await load.pipeline(on_tensor=refuse).run()
        check(await load.pipeline().run(), load.expected)


# --- cancellation ------------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_cancelled_at_every_stage(tmp_path: Path, executor: str) -> None:
    """By turns of the loop, by time, and by tensors done; the pool and its slabs go on working."""
    maker = all_kinds(tmp_path / "a")
    async with opened(maker, executor=executor) as load:
        check(await load.pipeline().run(), load.expected)  # workers are up, slabs are warm
        gc.collect()
        before = resident()
        for turns in range(0, 60, 4):
            task = asyncio.create_task(load.pipeline().run())
            for _ in range(turns):
                await asyncio.sleep(0)
            await cancel(task)
        for milliseconds in range(0, 60, 5):
            task = asyncio.create_task(load.pipeline().run())
            await asyncio.sleep(milliseconds / 1000)
            await cancel(task)
        gc.collect()
        assert resident() - before < 80 * MIB
        check(await load.pipeline().run(), load.expected)


async def cancel(task: asyncio.Task[Any]) -> None:
    begin = time.perf_counter()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled() or not task.exception()
    assert time.perf_counter() - begin < 1


async def test_cancelled_as_each_tensor_completes(tmp_path: Path) -> None:
    maker = all_kinds(tmp_path / "a")
    async with opened(maker) as load:
        for stop in range(1, len(maker.entries) + 1, 3):
            task = asyncio.create_task(_run_until(load, stop))
            await asyncio.gather(task, return_exceptions=True)
            assert task.cancelled()
        check(await load.pipeline().run(), load.expected)


async def _run_until(load: Opened, stop: int) -> None:
    """Run, and be cancelled when ``stop`` tensors are complete."""
    done: list[str] = []
    task = asyncio.current_task()
    assert task is not None

    def count(entry: TensorEntry) -> None:
        done.append(entry.name)
        if len(done) == stop:
            task.cancel()

    await load.pipeline(on_tensor=count).run()
    await asyncio.sleep(0)  # where a run of which all tensors were complete is cancelled


async def test_many_at_once_share_the_pool(tmp_path: Path) -> None:
    maker = all_kinds(tmp_path / "a")
    async with opened(maker) as load:
        tasks = [asyncio.create_task(load.pipeline().run()) for _ in range(4)]
        await asyncio.sleep(0.01)
        tasks[1].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for index, result in enumerate(results):
            if index == 1:
                assert isinstance(result, asyncio.CancelledError | dict)
            else:
                assert isinstance(result, dict)
                check(result, load.expected)


# --- files within files ------------------------------------------------------------------


@pytest.mark.parametrize("executor", ["thread", "process"])
async def test_unpacked(tmp_path: Path, executor: str) -> None:
    maker = FileMaker(tmp_path / "a")
    inner = CHANCE.integers(0, 50, 3 * MIB, dtype=np.uint8)
    maker.deflated("inner", inner, skip=0)
    maker.write()
    (entry,) = maker.entries
    async with opened(maker, executor=executor) as load:
        outer = load.files.readers[0]
        crc = getattr(entry.encoding, "crc32", 0)
        where = (outer, entry.offset, entry.length, inner.nbytes)
        reader = await unpack(*where, crc, workers=load.workers)
        try:
            assert reader.size == inner.nbytes
            assert await reader.read(5, 100) == inner.tobytes()[5:105]
            await reader.check()
            assert reader.path is not None
            assert Path(reader.path).read_bytes() == inner.tobytes()
        finally:
            await reader.aclose()
        assert not Path(reader.path).exists()
        with pytest.raises((Corrupt, DecodeError)) as caught:
            await unpack(*where, crc ^ 1, workers=load.workers)
        assert caught.value.uri == outer.uri


# --- the loop ----------------------------------------------------------------------------


async def test_the_loop_is_not_held_up(tmp_path: Path) -> None:
    """Steps of the loop take microseconds, however many and large the tensors are."""
    maker = FileMaker(tmp_path / "a")
    for index in range(2000):
        maker.raw(f"small {index}", floats(50))
    maker.raw("large", np.zeros(40 * MIB, np.float32))
    maker.write()
    async with opened(maker) as load:
        await load.pipeline().run()  # what happens once, as imports
        gc.collect()
        gc.disable()  # what other tests have made is not the load's to collect
        try:
            assert await _longest_step(load.pipeline().run()) < 0.005
        finally:
            gc.enable()


async def _longest_step(work: Awaitable[object]) -> float:
    """Return the longest step of the loop meanwhile, in seconds of its thread's CPU time."""
    loop, spent, over = asyncio.get_running_loop(), list[float](), False

    def tick() -> None:
        # CPU time of this thread: waiting for a busy machine does not count.
        spent.append(time.thread_time())
        if not over:
            loop.call_soon(tick)

    tick()
    await work
    over = True
    return max(b - a for a, b in pairwise(spent))
