"""The user's own decode: what Pool, Process + Queue and as_completed did, and better."""

from __future__ import annotations

import asyncio
import concurrent.futures
import multiprocessing
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import asyncload
from asyncload import DecodeError, NotFound, PartResult, WorkerCrashed

Arrays = dict[str, np.ndarray[Any, Any]]


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(processes=2) as made:
        yield made


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(6):
        path = tmp_path / f"section-{number}.bin"
        path.write_bytes(np.full(10_000 + number, number, "<i4").tobytes())
        paths.append(path)
    return paths


def integers(buffer: memoryview) -> Arrays:
    values = np.frombuffer(buffer, "<i4")
    return {"values": values, "double": values.astype("float64") * 2}


async def collect(
    loader: asyncload.Loader, decode: Callable[[memoryview], Any], uris: list[Path]
) -> dict[int, PartResult]:
    return {result.index: result async for result in loader.map_parts(decode, uris)}


async def test_every_part_is_decoded(loader: asyncload.Loader, parts: list[Path]) -> None:
    results = await collect(loader, integers, parts)
    assert sorted(results) == list(range(6))
    for number, result in results.items():
        assert result.uri == os.fspath(parts[number])
        arrays = result.unwrap()
        assert arrays["values"].tolist() == [number] * (10_000 + number)
        assert arrays["double"].dtype == np.float64
        assert not arrays["values"].flags.writeable
        assert arrays["double"].ctypes.data % 64 == 0


async def test_it_runs_in_other_processes(loader: asyncload.Loader, parts: list[Path]) -> None:
    def where(buffer: memoryview) -> Arrays:
        return {"pid": np.array(os.getpid()), "size": np.array(len(buffer))}

    results = await collect(loader, where, parts)
    pids = {int(result.unwrap()["pid"]) for result in results.values()}
    assert os.getpid() not in pids
    assert {int(result.unwrap()["size"]) for result in results.values()} == {
        path.stat().st_size for path in parts
    }


async def test_closures_go_along(loader: asyncload.Loader, parts: list[Path]) -> None:
    offset = 100
    results = await collect(
        loader, lambda buffer: {"x": np.frombuffer(buffer, "<i4") + offset}, parts[:1]
    )
    assert results[0].unwrap()["x"][0] == 100


async def test_one_broken_part_spoils_no_other(
    loader: asyncload.Loader, parts: list[Path], tmp_path: Path
) -> None:
    def picky(buffer: memoryview) -> Arrays:
        values = np.frombuffer(buffer, "<i4")
        if values[0] == 2:
            raise ArithmeticError("section 2 is broken")
        return {"x": values}

    results = await collect(loader, picky, [*parts, tmp_path / "absent.bin"])
    assert isinstance(results[2].error, DecodeError)
    assert "section 2 is broken" in str(results[2].error)
    assert "section-2.bin" in str(results[2].error)
    assert isinstance(results[2].error.__cause__, ArithmeticError)
    assert isinstance(results[6].error, NotFound)
    assert all(results[i].error is None for i in (0, 1, 3, 4, 5))
    with pytest.raises(DecodeError):
        results[2].unwrap()


async def test_a_decode_that_kills_its_worker(loader: asyncload.Loader, parts: list[Path]) -> None:
    def fatal(buffer: memoryview) -> Arrays:
        values = np.frombuffer(buffer, "<i4")
        if values[0] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"x": values}

    results = await collect(loader, fatal, parts)
    assert isinstance(results[3].error, WorkerCrashed)
    assert all(results[i].error is None for i in (0, 1, 2, 4, 5))


@pytest.mark.parametrize("wrong", [[1, 2], None, {"x": [object()]}, {1: np.zeros(2)}])
async def test_what_is_no_mapping_of_arrays_is_an_error(
    loader: asyncload.Loader, parts: list[Path], wrong: Any
) -> None:
    results = await collect(loader, lambda _: wrong, parts[:1])
    assert isinstance(results[0].error, DecodeError)
    assert "decode has to return" in str(results[0].error)


async def test_any_dtype_and_shape(loader: asyncload.Loader, parts: list[Path]) -> None:
    def many(buffer: memoryview) -> Arrays:
        return {
            "bf16": np.arange(6).astype(ml_dtypes.bfloat16).reshape(2, 3),
            "bool": np.array([True, False]),
            "empty": np.zeros((0, 4)),
            "scalar": np.array(3.5, "float32"),
            "complex": np.array([1 + 2j]),
            "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
            "strided": np.arange(10)[::2],
        }

    arrays = (await collect(loader, many, parts[:1]))[0].unwrap()
    for name, expected in many(memoryview(b"")).items():
        assert arrays[name].dtype == np.asarray(expected).dtype
        assert arrays[name].shape == np.asarray(expected).shape
        assert np.array_equal(arrays[name], expected)


async def test_an_empty_part(loader: asyncload.Loader, tmp_path: Path) -> None:
    (tmp_path / "empty.bin").touch()
    results = await collect(loader, lambda b: {"n": np.array(len(b))}, [tmp_path / "empty.bin"])
    assert results[0].unwrap()["n"] == 0


async def test_left_early_stops_the_rest(loader: asyncload.Loader, parts: list[Path]) -> None:
    async with aclosing(loader.map_parts(integers, parts * 20)) as results:
        async for _ in results:
            break
    await asyncio.sleep(0.05)
    assert loader._resources.budget.held == 0
    assert len(await collect(loader, integers, parts)) == 6


@pytest.mark.parametrize("kind", ["thread", "ThreadPoolExecutor", "ProcessPoolExecutor"])
async def test_on_other_executors(kind: str, parts: list[Path]) -> None:
    executors: dict[str, Callable[[], Any]] = {
        "thread": lambda: "thread",
        "ThreadPoolExecutor": lambda: concurrent.futures.ThreadPoolExecutor(2),
        "ProcessPoolExecutor": lambda: concurrent.futures.ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn")
        ),
    }
    executor = executors[kind]()
    async with asyncload.Loader(executor=executor) as loader:
        results = await collect(loader, integers, parts)
    assert all(result.error is None for result in results.values())
    if not isinstance(executor, str):
        executor.shutdown()
