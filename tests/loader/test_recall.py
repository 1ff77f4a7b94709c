"""Loads with the index cache: the same results, and never an index that is not the file's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload.events import Event, Indexed
from asyncload.formats import FORMATS
from asyncload.formats._safetensors_index import SafetensorsIndex
from asyncload.interfaces import Indexing, OpenFiles
from asyncload.loader import IndexCache, _recall
from asyncload.loader._index_entry import Entry, Key, encode
from asyncload.loader._recall import Recall, Work, _keep, _Place
from asyncload.manifest import Manifest, file_version
from asyncload.sources import forget_memory, open_source, put_memory
from asyncload.workers import Workers
from tests.equality import assert_same_model, same_bytes
from tests.zoo import save

SECOND = 1_000_000_000  # nanoseconds


@pytest.fixture(autouse=True)
def soon_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the index of what a test has just written; one test below is about that."""
    monkeypatch.setattr(_recall, "SETTLED", 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "index"


@dataclass
class Loads:
    """A Loader with a cache of its own, and whether each index came from it."""

    loader: asyncload.Loader
    cached: list[bool]

    async def inspect(self, path: Path | str) -> tuple[Manifest, bool]:
        manifest = await self.loader.inspect(path)
        return manifest, self.cached[-1]


@pytest.fixture
async def loads(folder: Path) -> AsyncIterator[Loads]:
    cached: list[bool] = []

    def observe(event: Event) -> None:
        if isinstance(event, Indexed):
            cached.append(event.cached)

    async with asyncload.Loader(executor="thread", observer=observe, index_cache=folder) as loader:
        yield Loads(loader, cached)


async def kept(path: Path, folder: Path) -> Manifest:
    """Have the index of a file in the cache: closing a Loader waits for it."""
    async with asyncload.Loader(executor="thread", index_cache=folder) as loader:
        return await loader.inspect(path)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("saved")
    archive = save("functional", folder)
    weights = folder / "model.weights.h5"
    keras.models.load_model(archive).save_weights(weights)
    plain = folder / "plain.h5"
    with h5py.File(plain, "w") as file:
        file["raw"] = np.arange(6, dtype="<f4").reshape(2, 3)
        file.create_dataset("packed", data=np.arange(999), chunks=(100,), compression="gzip")
        file.create_dataset("swapped", data=np.arange(5, dtype=">i4"))
    return {"keras": archive, "weights": weights, "h5": plain}


@pytest.fixture
def path(saved: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copy(saved["h5"], tmp_path / "m.h5"))


@pytest.mark.parametrize("kind", ["keras", "weights", "h5"])
async def test_a_hit_equals_a_miss(
    kind: str, saved: dict[str, Path], folder: Path, loads: Loads
) -> None:
    missed = await kept(saved[kind], folder)
    manifest, cached = await loads.inspect(saved[kind])
    assert cached
    assert manifest == missed
    assert list(manifest.tensors) == list(missed.tensors)
    weights = await loads.loader.load_weights(saved[kind])
    async with asyncload.Loader(executor="thread", index_cache=False) as plain:
        fresh = await plain.load_weights(saved[kind])
    assert loads.cached == [True, True]
    assert weights.keys() == fresh.keys()
    assert all(same_bytes(array, fresh[name]) for name, array in weights.items())


async def test_a_model_from_a_hit_equals_stock(
    saved: dict[str, Path], folder: Path, loads: Loads
) -> None:
    await kept(saved["keras"], folder)
    model = await loads.loader.load(saved["keras"])
    assert loads.cached == [True]
    assert_same_model(model, keras.models.load_model(saved["keras"]))


async def test_one_loader_keeps_and_finds(path: Path, folder: Path, loads: Loads) -> None:
    _, first = await loads.inspect(path)
    await _until(lambda: len(entries(folder)) == 1)
    assert (first, (await loads.inspect(path))[1]) == (False, True)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.005)


async def test_any_spelling_of_a_path_finds_it(
    path: Path, folder: Path, loads: Loads, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = await kept(path, folder)
    monkeypatch.chdir(path.parent)
    for spelling in ("m.h5", f"file://{path}", f"{path.parent}/./m.h5"):
        found, cached = await loads.inspect(spelling)
        assert cached
        assert found == replace(manifest, uri=spelling)


def rewritten(path: Path) -> None:
    path.write_bytes(path.read_bytes())


def replaced(path: Path) -> None:
    other = path.with_name("other")
    shutil.copy2(path, other)
    other.rename(path)


def rewritten_in_secret(path: Path) -> None:
    """Same size, same inode, same mtime."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_version(path.stat()) == file_version(status)


@pytest.mark.parametrize("change", [rewritten, replaced, rewritten_in_secret])
async def test_a_changed_file_is_indexed_anew(
    change: Callable[[Path], None], path: Path, folder: Path, loads: Loads
) -> None:
    await kept(path, folder)
    change(path)
    assert not (await loads.inspect(path))[1]


async def test_damage_is_a_miss_and_is_mended(path: Path, folder: Path) -> None:
    manifest = await kept(path, folder)
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    damaged = [whole[: len(whole) * tenth // 10] for tenth in range(10)]
    for data in [*damaged, b"garbage" * 99, whole[:-1] + b"?", whole + b"?"]:
        entry.write_bytes(data)
        assert await kept(path, folder) == manifest
        assert entry.read_bytes() == whole


async def test_the_entry_of_another_file_is_a_miss(
    saved: dict[str, Path], path: Path, folder: Path, loads: Loads
) -> None:
    manifest = await kept(path, folder)
    (own,) = entries(folder)
    await kept(saved["weights"], folder)
    (other,) = set(entries(folder)) - {own}
    shutil.copy(other, own)
    found, cached = await loads.inspect(path)
    assert (found, cached) == (manifest, False)


def forge(manifest: Manifest, path: Path, folder: Path) -> None:
    """Put an entry into the cache that is all right but for what it says."""
    status = path.stat()
    key = Key(f"{path}#", file_version(status), "keras-h5")  # which tells .h5 files by their name
    (entry,) = entries(folder)
    assert entry.stem == key.digest.hex()
    entry.write_bytes(encode(Entry(manifest, (status.st_ctime_ns,)), key))


@pytest.mark.parametrize(
    "lie",
    [
        {"offset": 1 << 40},
        {"offset": -5},
        {"length": 1 << 40},
        {"shape": (1 << 20, 1 << 20)},
        {"dtype": "float64"},
        {"offset": 0.5},
        {"length": "24"},
    ],
    ids=str,
)
async def test_a_forged_entry_is_an_error_and_once(
    lie: dict[str, Any], path: Path, folder: Path, loads: Loads
) -> None:
    manifest = await kept(path, folder)
    raw = replace(manifest.tensors["raw"], **lie)
    forge(replace(manifest, tensors={**manifest.tensors, "raw": raw}), path, folder)
    with pytest.raises((asyncload.Corrupt, TypeError)):
        await loads.loader.load_weights(path)
    await _until(lambda: not entries(folder))
    weights = await loads.loader.load_weights(path)
    assert loads.cached == [True, False]
    assert weights["raw"].tolist() == [[0, 1, 2], [3, 4, 5]]


async def test_what_changed_a_moment_ago_is_not_kept(path: Path, tmp_path: Path) -> None:
    async with asyncload.Loader(executor="thread", index_cache=False) as loader:
        manifest = await loader.inspect(path)
    status = path.stat()
    places = [_Place(str(path), file_version(status))]
    key, cache = Key("", "", ""), IndexCache(tmp_path / "index")
    cases = {1.9: False, 2.1: True, -5.0: False}
    for age, keeps in cases.items():
        cache.clear()
        begin = status.st_ctime_ns + int(age * SECOND)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_recall, "SETTLED", 2 * SECOND)
            _keep(cache, key, manifest, places, begin)
        assert bool(cache.files()) == keeps


async def test_a_file_changed_while_it_loads_is_not_kept(path: Path, folder: Path) -> None:
    work: list[Work] = []
    async with _indexing(path) as indexing:
        with Recall(IndexCache(folder), work.append) as recall:
            await recall.index(_format("keras-h5"), indexing)
    rewritten(path)
    for each in work:
        each()
    assert (len(work), entries(folder)) == (1, [])


async def test_nothing_is_kept_of_what_is_not_costly(
    tmp_path: Path, folder: Path, loads: Loads
) -> None:
    safetensors.numpy.save_file({"a": np.arange(3)}, tmp_path / "a.safetensors")
    np.savez(tmp_path / "a.npz", a=np.arange(3))
    for name in ("a.safetensors", "a.npz"):
        await kept(tmp_path / name, folder)
    assert not folder.exists()


async def test_nothing_is_kept_of_what_is_in_memory(path: Path, folder: Path, loads: Loads) -> None:
    uri = put_memory("m.h5", path.read_bytes())
    try:
        await kept(uri, folder)  # type: ignore[arg-type]
    finally:
        forget_memory("m.h5")
    assert not folder.exists()


async def test_nothing_is_kept_of_weights_that_are_deflated(
    saved: dict[str, Path], tmp_path: Path, folder: Path
) -> None:
    deflated = tmp_path / "m.keras"
    with (
        zipfile.ZipFile(saved["keras"]) as old,
        zipfile.ZipFile(deflated, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for name in old.namelist():
            new.writestr(name, old.read(name))
    assert (await kept(deflated, folder)).tensors
    assert not folder.exists()


async def test_it_can_be_turned_off(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    async with asyncload.Loader(executor="thread", index_cache=False) as loader:
        await loader.inspect(path)
    assert not (tmp_path / "home").exists()
    async with asyncload.Loader(executor="thread") as loader:
        await loader.inspect(path)
    assert len(entries(tmp_path / "home" / "asyncload" / "index")) == 1


async def test_where_nothing_can_be_kept_loads_go_on(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for _ in range(2):
        assert (await kept(path, tmp_path / "file" / "index")).tensors


async def test_a_load_that_failed_or_was_cancelled_keeps_nothing(
    path: Path, folder: Path, loads: Loads
) -> None:
    load = loads.loader.prefetch(path)
    with suppress(asyncload.LoaderClosed):
        async for event in load.events():
            if isinstance(event, Indexed):
                load.cancel()
    broken = path.with_name("broken.h5")
    shutil.copy(path, broken)
    with h5py.File(path) as file:
        chunk = file["packed"].id.get_chunk_info(0)
    with broken.open("r+b") as file:
        file.seek(chunk.byte_offset)
        file.write(b"\xff" * chunk.size)
    with pytest.raises((asyncload.Corrupt, asyncload.DecodeError)):
        await loads.loader.load_weights(broken)
    await loads.loader.aclose()
    assert entries(folder) == []


async def test_closing_at_once_waits_for_what_is_being_kept(
    saved: dict[str, Path], folder: Path
) -> None:
    loader = asyncload.Loader(executor="thread", index_cache=folder)
    await loader.inspect(saved["keras"])
    await loader.aclose()
    (entry,) = entries(folder)
    assert entry.suffix == ".index"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold every write to the cache up, once it has begun, until the event is set."""
    gate, replace_file = threading.Event(), os.replace

    def wait(*args: Any) -> None:
        assert gate.wait(10)
        replace_file(*args)

    monkeypatch.setattr(os, "replace", wait)
    yield gate
    gate.set()


async def _writing(folder: Path) -> None:
    await _until(lambda: any(path.suffix == ".unfinished" for path in entries(folder)))


async def test_a_load_does_not_wait_for_the_write_but_closing_does(
    path: Path, folder: Path, slow: threading.Event
) -> None:
    loader = asyncload.Loader(executor="thread", index_cache=folder)
    load = loader.prefetch(path)
    await load
    await _writing(folder)
    assert load.progress.stage == "done"
    closing = asyncio.create_task(loader.aclose())
    await asyncio.sleep(0.05)
    assert not closing.done()
    slow.set()
    await closing
    assert [entry.suffix for entry in entries(folder)] == [".index"]


async def test_the_end_of_the_loop_cancels_the_write_and_leaves_nothing_half(
    path: Path, folder: Path, slow: threading.Event
) -> None:
    loader = asyncload.Loader(executor="thread", index_cache=folder)
    await loader.inspect(path)
    await _writing(folder)
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.sleep(0.02)
    slow.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await loader.aclose()
    assert [entry.suffix for entry in entries(folder)] == [".index"]


async def test_other_loads_go_on_when_a_write_fails(
    path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, loads: Loads
) -> None:
    def fail(*args: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(_recall, "encode", fail)
    await loads.inspect(path)
    await asyncio.sleep(0.05)
    assert await loads.loader.load_weights(path)
    assert entries(folder) == []


class NoWorkers(Executor):
    def submit(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a worker was asked for")


async def test_a_hit_needs_no_worker(saved: dict[str, Path], folder: Path) -> None:
    manifest = await kept(saved["keras"], folder)
    async with asyncload.Loader(executor=NoWorkers(), index_cache=folder) as loader:
        assert await loader.inspect(saved["keras"]) == manifest
        assert (await loader.load_weights(saved["keras"])).manifest == manifest


# --- several files: no format here is costly and has several, so one is told that it is -----


class CostlyIndex(SafetensorsIndex):
    costly = True


def _format(name: str) -> Any:
    return next(item for item in FORMATS if item.name == name)


class _indexing:
    """What a format gets, on real files, with threads for workers."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._workers = Workers("thread")
        self.published: list[Any] = []

    async def __aenter__(self) -> Indexing:
        self._source = open_source(self._path, threads=self._workers.threads)
        files = OpenFiles([await self._source.open()])

        async def unpack(*args: Any) -> Any:
            raise AssertionError("nothing is deflated here")

        return Indexing(self._source, files, self._workers, unpack, self.published.append)

    async def __aexit__(self, *error: object) -> None:
        await self._source.aclose()
        await self._workers.aclose()


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    shards = {f"s-{i}.safetensors": {f"t{i}": np.arange(i + 1)} for i in range(3)}
    for name, arrays in shards.items():
        safetensors.numpy.save_file(arrays, tmp_path / name)
    index = {name: file for file, arrays in shards.items() for name in arrays}
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return path


async def recalled(path: Path, cache: IndexCache) -> tuple[Manifest, bool, Iterable[str]]:
    """Index with the cache, and keep what it wants kept."""
    work: list[Work] = []
    async with _indexing(path) as indexing:
        with Recall(cache, work.append) as recall:
            manifest = await recall.index(CostlyIndex(), indexing)
        assert indexing.files.entries() == manifest.files
        names = [reader.name for reader in indexing.files.readers]
    for each in work:
        each()
    return manifest, recall.hit, names


async def test_several_files_are_opened_again(sharded: Path, folder: Path) -> None:
    cache = IndexCache(folder)
    manifest, first, names = await recalled(sharded, cache)
    assert len(manifest.files) == 4
    assert not first
    assert await recalled(sharded, cache) == (manifest, True, names)


async def test_one_of_several_files_that_changed_is_a_miss(sharded: Path, folder: Path) -> None:
    cache = IndexCache(folder)
    await recalled(sharded, cache)
    safetensors.numpy.save_file({"t1": np.arange(20)}, sharded.with_name("s-1.safetensors"))
    manifest, hit, _ = await recalled(sharded, cache)
    assert not hit
    assert manifest.tensors["t1"].shape == (20,)
    rewritten_in_secret(sharded.with_name("s-2.safetensors"))
    assert not (await recalled(sharded, cache))[1]


async def test_one_of_several_files_that_went_is_what_the_format_says(
    sharded: Path, folder: Path
) -> None:
    cache = IndexCache(folder)
    await recalled(sharded, cache)
    sharded.with_name("s-1.safetensors").unlink()
    with pytest.raises(asyncload.NotFound, match="s-1"):
        await recalled(sharded, cache)
