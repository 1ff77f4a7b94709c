"""`Loader.fetch`: what a load would read, in a folder; whole, of one version, and nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import asyncload
from asyncload.errors import (
    Corrupt,
    NotFound,
    SourceChanged,
    SourceError,
    TransferFailed,
    Unsafe,
    WouldOverwrite,
)
from asyncload.events import BytesWritten, Indexed, StageStarted
from asyncload.loader import _fetch
from asyncload.loader._fetch_choice import Choice, Wanted
from asyncload.loader._fetch_folder import Folder, Identity
from asyncload.sources import OWN, open_source
from tests.equality import same_bytes
from tests.formats import checkpoints
from tests.formats.test_keras_sharded import save as save_sharded
from tests.loader.fetched import CONTENT, MIB, QUICK, files, s3, serve
from tests.materialize.saved_models import exported
from tests.servers.fault_process import HttpFaults
from tests.servers.faults.settings import HttpFault
from tests.servers.plugin import MakeHttpFaults
from tests.servers.rgw import Rgw
from tests.servers.web import Web


@dataclass
class Place:
    """Files on disk, and what serves them."""

    root: Path
    server: HttpFaults
    kind: str

    def uri(self, name: str) -> str:
        """Return the URI of a file or folder below `root`."""
        if self.kind == "local":
            return str(self.root / name)
        if self.kind == "s3":
            return f"s3://{self.root.name}/{name}"
        # A server's folder ends in a slash.
        return f"{self.server.endpoint}/{self.root.name}/{name}" + (
            "/" if (self.root / name).is_dir() else ""
        )

    @property
    def options(self) -> dict[str, Any]:
        if self.kind == "s3":
            return {"endpoint": self.server.endpoint, "region": "x", "anonymous": True, **QUICK}
        return QUICK if self.kind == "http" else {}


@pytest.fixture(params=["local", "s3", "http"])
def place(request: pytest.FixtureRequest, http_faults: MakeHttpFaults, tmp_path: Path) -> Place:
    root = tmp_path / "store" / "bucket"
    root.mkdir(parents=True)
    return Place(root, http_faults(tmp_path / "store"), request.param)


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "m"
    exported(folder)
    return folder


@pytest.fixture
async def loader(tmp_path: Path) -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread", index_cache=False) as made:
        yield made


# --- what is copied -----------------------------------------------------------------------


async def test_a_file(place: Place, loader: asyncload.Loader, tmp_path: Path) -> None:
    (place.root / "m.bin").write_bytes(CONTENT)
    (place.root / "other.bin").write_bytes(b"other")
    to = tmp_path / "new" / "to"
    fetched = await loader.fetch(place.uri("m.bin"), to, storage_options=place.options)
    assert files(to) == {"m.bin": CONTENT}
    assert os.fspath(fetched) == fetched.path == str(to / "m.bin")
    (file,) = fetched.files
    assert (file.name, file.path, file.size) == ("m.bin", fetched.path, len(CONTENT))
    assert fetched.nbytes == fetched.fetched == len(CONTENT)


async def test_an_empty_file(place: Place, loader: asyncload.Loader, tmp_path: Path) -> None:
    (place.root / "empty").touch()
    await loader.fetch(place.uri("empty"), tmp_path / "to", storage_options=place.options)
    assert files(tmp_path / "to") == {"empty": b""}


def shards(root: Path) -> dict[str, Any]:
    """Write sharded safetensors into a folder, beside a file that is none of theirs."""
    arrays = {f"t{i}": np.arange(100_000, dtype=np.float32) + i for i in range(6)}
    for shard in range(3):
        part = {name: arrays[name] for name in list(arrays)[shard::3]}
        safetensors.numpy.save_file(part, root / f"s{shard}.safetensors")
    index = {name: f"s{i % 3}.safetensors" for i, name in enumerate(arrays)}
    (root / "m.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (root / "s9.safetensors").write_bytes(b"of another model")
    return arrays


async def test_safetensors_in_shards(
    place: Place, loader: asyncload.Loader, tmp_path: Path
) -> None:
    arrays = shards(place.root)
    uri = place.uri("m.safetensors.index.json")
    fetched = await loader.fetch(uri, tmp_path / "to", storage_options=place.options)
    expected = files(place.root)
    del expected["s9.safetensors"]
    assert files(tmp_path / "to") == expected
    assert fetched.files[-1].name == "m.safetensors.index.json"
    loaded = await loader.load_weights(fetched)
    assert all(same_bytes(loaded[name], arrays[name]) for name in arrays)


async def test_keras_shards_are_not_read_to_be_found(
    place: Place, loader: asyncload.Loader, tmp_path: Path
) -> None:
    save_sharded(place.root / "m.weights.json")
    uri = place.uri("m.weights.json")
    fetched = await loader.fetch(uri, tmp_path / "to", storage_options=place.options)
    assert files(tmp_path / "to") == files(place.root)
    assert place.kind == "local" or place.server.bytes_sent("*.h5") == sum(
        path.stat().st_size for path in place.root.glob("*.h5")
    )
    assert set(await loader.load_weights(fetched)) == set(
        await loader.load_weights(place.root / "m.weights.json")
    )


async def test_a_checkpoint(place: Place, loader: asyncload.Loader, tmp_path: Path) -> None:
    arrays = {"a": np.arange(10.0), "b": np.ones((3, 4), np.float32)}
    for prefix in ("ckpt-1", "ckpt-2"):
        checkpoints.save(place.root / "run" / prefix, arrays)
    checkpoints.state(place.root / "run", "ckpt-2", "ckpt-1")
    latest = {"ckpt-2.index", "ckpt-2.data-00000-of-00001"}
    options = place.options
    fetched = await loader.fetch(place.uri("run/ckpt-2"), tmp_path / "a", storage_options=options)
    assert set(files(tmp_path / "a")) == latest
    assert fetched.path == str(tmp_path / "a" / "ckpt-2")
    assert set(await loader.load_weights(fetched)) == set(arrays)
    fetched = await loader.fetch(place.uri("run"), tmp_path / "b", storage_options=options)
    assert set(files(tmp_path / "b")) == {*latest, "checkpoint"}
    assert set(await loader.load_weights(fetched)) == set(arrays)


async def test_a_saved_model(
    place: Place, saved_model: Path, loader: asyncload.Loader, tmp_path: Path
) -> None:
    shutil.copytree(saved_model, place.root / "m")
    (place.root / "m" / "assets.extra").mkdir()
    (place.root / "m" / "assets.extra" / "notes.txt").write_text("for people")
    uri = place.uri("m")
    fetched = await loader.fetch(uri, tmp_path / "to", storage_options=place.options)
    expected = files(place.root / "m")
    if place.kind == "http":  # which lists nothing, so there is what a load reads
        expected = {
            name: data
            for name, data in expected.items()
            if name == "saved_model.pb" or name.startswith(("variables/", "assets/"))
        }
    assert files(tmp_path / "to") == expected
    assert (fetched.path, fetched.files[-1].name) == (str(tmp_path / "to"), "saved_model.pb")
    assert set(await loader.load_weights(fetched)) == set(
        await loader.load_weights(place.root / "m")
    )


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
async def test_a_folder_that_is_no_model(
    place: Place, loader: asyncload.Loader, tmp_path: Path
) -> None:
    below = place.root / "f"
    for i in range(40):
        path = below / f"{i % 7}" / f"{i}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % i)
    (below / "large.bin").write_bytes(CONTENT)
    (below / "a b%ü.txt").write_bytes(b"quoted")
    (below / OWN).mkdir()
    (below / OWN / "lock").write_bytes(b"of an earlier fetch")
    uri = place.uri("f")
    fetched = await loader.fetch(uri, tmp_path / "to", storage_options=place.options)
    assert files(tmp_path / "to") == files(below)
    assert len(fetched.files) == 42
    assert [entry.name for entry in await loader.ls(tmp_path / "to")] == sorted(
        [OWN + "/", *(f"{i}/" for i in range(7)), "a b%ü.txt", "large.bin"]
    )


async def test_what_is_not_there(place: Place, loader: asyncload.Loader, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await loader.fetch(place.uri("none"), tmp_path / "to", storage_options=place.options)
    (place.root / "m.safetensors.index.json").write_text('{"weight_map": {"a": "s"}}')
    uri = place.uri("m.safetensors.index.json")
    with pytest.raises(NotFound, match="the shard 's'"):
        await loader.fetch(uri, tmp_path / "to", storage_options=place.options)
    (place.root / "m.safetensors.index.json").write_text("rubbish")
    with pytest.raises(Corrupt):
        await loader.fetch(uri, tmp_path / "to", storage_options=place.options)
    assert not (tmp_path / "to").exists()


async def test_marks_of_folders(rgw: Rgw, loader: asyncload.Loader, tmp_path: Path) -> None:
    rgw.make_bucket("fetch")
    for key in ("f/", "f/a", "f/sub/", "f/sub/b", "f/lonely/"):
        rgw.put("fetch", key, b"" if key.endswith("/") else b"x")
    await loader.fetch("s3://fetch/f", tmp_path / "to", storage_options=s3(rgw))
    assert files(tmp_path / "to") == {"a": b"x", "sub/b": b"x"}


async def test_a_file_that_is_a_folder_too(
    rgw: Rgw, loader: asyncload.Loader, tmp_path: Path
) -> None:
    rgw.make_bucket("both")
    rgw.put("both", "f/a", b"file")
    rgw.put("both", "f/a/b", b"below it")
    with pytest.raises(SourceError, match="'a' as a file and as a folder"):
        await loader.fetch("s3://both/f", tmp_path / "to", storage_options=s3(rgw))


async def test_a_server_without_ranges(web: Web, loader: asyncload.Loader, tmp_path: Path) -> None:
    web.put("whole/m.bin", CONTENT)
    uri, to = f"{web.norange_url}/whole/m.bin", tmp_path / "to"
    assert (await loader.fetch(uri, to, storage_options=QUICK)).fetched == len(CONTENT)
    assert files(to) == {"m.bin": CONTENT}
    assert (await loader.fetch(uri, to, storage_options=QUICK)).fetched == 0


# --- what is there already ----------------------------------------------------------------


async def test_nothing_is_fetched_twice(
    http_faults: MakeHttpFaults, loader: asyncload.Loader, tmp_path: Path
) -> None:
    server = serve(http_faults, tmp_path)
    uri, to = f"{server.endpoint}/m.bin", tmp_path / "to"
    first = await loader.fetch(uri, to, storage_options=QUICK)
    sent = server.bytes_sent()
    assert len(CONTENT) <= sent < len(CONTENT) + 100_000  # the format is told by the first bytes
    second = await loader.fetch(uri, to, storage_options=QUICK)
    assert server.bytes_sent() - sent < 100_000
    assert (second.fetched, second.files[0].version) == (0, first.files[0].version)
    (to / "m.bin").unlink()
    assert (await loader.fetch(uri, to, storage_options=QUICK)).fetched == len(CONTENT)


@pytest.mark.parametrize("name", ["m.bin", "m.keras"])
async def test_after_a_failure_only_the_rest_is_fetched(
    name: str, http_faults: MakeHttpFaults, loader: asyncload.Loader, tmp_path: Path
) -> None:
    server = serve(http_faults, tmp_path)
    (tmp_path / "store" / "m.bin").rename(tmp_path / "store" / name)
    uri, to = f"{server.endpoint}/{name}", tmp_path / "to"
    to_tell = 1 if name == "m.bin" else 0  # requests to tell the format by its first bytes
    server.set(HttpFault(skip=to_tell + 3, status=403))  # three of six parts
    options = {**QUICK, "concurrency": 1}
    with pytest.raises(asyncload.AccessDenied):
        await loader.fetch(uri, to, storage_options=options)
    assert files(to) == {}
    server.set()
    server.forget()
    fetched = await loader.fetch(uri, to, storage_options=options)
    assert files(to) == {name: CONTENT}
    assert fetched.fetched == 3 * MIB
    assert server.bytes_sent() < 3 * MIB + 100_000
    assert sorted(path.suffix for path in (to / OWN).iterdir()) == ["", ".json"]


async def test_after_a_cancel_only_the_rest_is_fetched(
    http_faults: MakeHttpFaults, loader: asyncload.Loader, tmp_path: Path
) -> None:
    server = serve(http_faults, tmp_path, HttpFault(skip=4, rate=10_000.0))
    uri, to = f"{server.endpoint}/m.bin", tmp_path / "to"
    options = {**QUICK, "concurrency": 1}
    task = asyncio.create_task(loader.fetch(uri, to, storage_options=options))
    while len(server.requests("*", "GET")) < 5:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    server.set()
    assert (await loader.fetch(uri, to, storage_options=options)).fetched == 3 * MIB
    assert files(to) == {"m.bin": CONTENT}


async def test_another_version_begins_anew(
    http_faults: MakeHttpFaults, loader: asyncload.Loader, tmp_path: Path
) -> None:
    server = serve(http_faults, tmp_path, HttpFault(skip=4, status=403))
    uri, to = f"{server.endpoint}/m.bin", tmp_path / "to"
    with pytest.raises(asyncload.AccessDenied):
        await loader.fetch(uri, to, storage_options={**QUICK, "concurrency": 1})
    server.set()
    (tmp_path / "store" / "m.bin").write_bytes(CONTENT[::-1])
    assert (await loader.fetch(uri, to, storage_options=QUICK)).fetched == len(CONTENT)
    assert files(to) == {"m.bin": CONTENT[::-1]}


@pytest.mark.parametrize("suffix", [".part.json", ".json"])
async def test_damaged_notes_are_none(
    suffix: str, http_faults: MakeHttpFaults, loader: asyncload.Loader, tmp_path: Path
) -> None:
    server = serve(http_faults, tmp_path)
    uri = f"{server.endpoint}/m.bin"
    for damage in ("rubbish", "[]", '{"identity": 5}'):
        to = tmp_path / f"to {damage}"
        server.set(HttpFault(skip=4, status=403))
        with pytest.raises(asyncload.AccessDenied):
            await loader.fetch(uri, to, storage_options={**QUICK, "concurrency": 1})
        server.set()
        (part,) = (to / OWN).glob("*.part")
        part.with_suffix(suffix).write_text(damage)
        await loader.fetch(uri, to, storage_options=QUICK)
        assert files(to) == {"m.bin": CONTENT}


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
async def test_what_differs_is_not_overwritten(
    place: Place, loader: asyncload.Loader, tmp_path: Path
) -> None:
    (place.root / "m.bin").write_bytes(CONTENT)
    uri, to, options = place.uri("m.bin"), tmp_path / "to", place.options
    to.mkdir()
    (to / "m.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(WouldOverwrite, match="--force") as caught:
        await loader.fetch(uri, to, storage_options=options)
    assert isinstance(caught.value, FileExistsError)
    assert caught.value.uri == str(to / "m.bin")
    assert files(to) == {"m.bin": CONTENT[::-1]}
    await loader.fetch(uri, to, overwrite=True, storage_options=options)
    assert files(to) == {"m.bin": CONTENT}
    # A newer version is another file, too; and what somebody wrote to is no longer ours.
    (place.root / "m.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(WouldOverwrite):
        await loader.fetch(uri, to, storage_options=options)
    (place.root / "m.bin").write_bytes(CONTENT)
    await loader.fetch(uri, to, overwrite=True, storage_options=options)
    with (to / "m.bin").open("ab") as file:
        file.write(b"more")
    with pytest.raises(WouldOverwrite):
        await loader.fetch(uri, to, storage_options=options)
    (to / "m.bin").unlink()
    (to / "m.bin").mkdir()
    with pytest.raises(WouldOverwrite, match="is a folder"):
        await loader.fetch(uri, to, overwrite=True, storage_options=options)


async def test_an_md5_tells_that_it_is_the_same(
    rgw: Rgw, loader: asyncload.Loader, tmp_path: Path
) -> None:
    rgw.make_bucket("fetch")
    rgw.put("fetch", "m.bin", CONTENT)
    to = tmp_path / "to"
    to.mkdir()
    (to / "m.bin").write_bytes(CONTENT)  # brought by other means
    fetched = await loader.fetch("s3://fetch/m.bin", to, storage_options=s3(rgw))
    assert fetched.fetched == 0
    (to / "m.bin").write_bytes(CONTENT[:-1] + b"!")
    with pytest.raises(WouldOverwrite):
        await loader.fetch("s3://fetch/m.bin", to, storage_options=s3(rgw))


async def test_a_folder_onto_itself(loader: asyncload.Loader, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(CONTENT)
    assert (await loader.fetch(tmp_path, tmp_path)).fetched == 0
    assert files(tmp_path) == {"m.bin": CONTENT}


# --- versions -----------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
async def test_a_model_is_of_one_time(place: Place, tmp_path: Path) -> None:
    shards(place.root)
    old = files(place.root)
    uri, to = place.uri("m.safetensors.index.json"), tmp_path / "to"
    replaced: list[str] = []

    def replace(event: asyncload.Event) -> None:
        if isinstance(event, BytesWritten) and event.name == "s0.safetensors" and not replaced:
            replaced.append(event.name)  # the first shard has come, and is replaced
            shutil.copy(place.root / "s1.safetensors", tmp_path / "new")
            os.replace(tmp_path / "new", place.root / "s0.safetensors")

    async with asyncload.Loader(executor="thread", observer=replace) as loader:
        with pytest.raises(SourceChanged):
            await loader.fetch(uri, to, storage_options=place.options)
        assert files(to) == {}
        replaced.clear()
        (place.root / "s0.safetensors").write_bytes(old["s0.safetensors"])
        await loader.fetch(uri, to, storage_options=place.options, on_change="restart")
    new = {**old, "s0.safetensors": old["s1.safetensors"]}
    del new["s9.safetensors"]
    assert files(to) == new


# --- one after the other, and what is reported --------------------------------------------


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
async def test_fetches_into_one_folder_wait(
    place: Place, loader: asyncload.Loader, tmp_path: Path
) -> None:
    for name in "ab":
        (place.root / f"{name}.bin").write_bytes(CONTENT[: 3 * MIB])
    uris = [place.uri(f"{name}.bin") for name in "aba"]
    fetches = [loader.fetch(uri, tmp_path / "to", storage_options=place.options) for uri in uris]
    await asyncio.gather(*fetches)
    assert files(tmp_path / "to") == files(place.root)


async def test_events(http_faults: MakeHttpFaults, tmp_path: Path) -> None:
    server = serve(http_faults, tmp_path, HttpFault(skip=4, status=403))
    uri, events = f"{server.endpoint}/m.bin", list[asyncload.Event]()
    options = {**QUICK, "concurrency": 1}
    async with asyncload.Loader(executor="thread", observer=events.append) as loader:
        with pytest.raises(asyncload.AccessDenied):
            await loader.fetch(uri, tmp_path / "to", storage_options=options)
        events.clear()
        server.set()
        await loader.fetch(uri, tmp_path / "to", storage_options=options)
    stages = [event.stage for event in events if isinstance(event, StageStarted)]
    assert stages == ["index", "wait", "fetch"]
    (indexed,) = (event for event in events if isinstance(event, Indexed))
    assert (indexed.format, indexed.nbytes) == ("files", len(CONTENT))
    written = [event for event in events if isinstance(event, BytesWritten)]
    assert [event.nbytes for event in written if not event.fetched] == [3 * MIB]
    assert sum(event.nbytes for event in written) == len(CONTENT)


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
async def test_memory_is_bounded(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fetch, "PIECES_AT_ONCE", 2)
    for name in range(3):
        (place.root / f"{name}.bin").write_bytes(CONTENT)
    made: list[int] = []
    buffer = _fetch._buffer

    def counted(nbytes: int) -> memoryview:
        made.append(nbytes)
        return buffer(nbytes)

    monkeypatch.setattr(_fetch, "_buffer", counted)
    async with asyncload.Loader(executor="thread", memory=4 * MIB) as loader:
        uris = [place.uri(f"{name}.bin") for name in range(3)]
        for uri in uris:
            await loader.fetch(uri, tmp_path / "to", storage_options=place.options)
    assert files(tmp_path / "to") == files(place.root)
    assert len(made) <= 2 * len(uris)


async def test_listed_sizes_are_not_believed(tmp_path: Path) -> None:
    """A file may have grown since it was listed, and some sources list no sizes at all."""
    (tmp_path / "m.bin").write_bytes(CONTENT)
    choice = Choice("files", (Wanted("m.bin", "", 5),), "m.bin")
    async with open_source(tmp_path / "m.bin") as source:
        options = _fetch.FetchOptions(str(tmp_path / "to"))
        fetch = _fetch.Fetch(source, choice, options, emit=print, piece=MIB)
        async with fetch.opened():
            fetched = await fetch.run()
    assert fetched.nbytes == len(CONTENT)
    assert files(tmp_path / "to") == {"m.bin": CONTENT}


# --- nothing outside ----------------------------------------------------------------------


@pytest.mark.parametrize("place", ["local", "s3"], indirect=True)
async def test_links_in_the_folder_are_not_followed(
    place: Place, saved_model: Path, loader: asyncload.Loader, tmp_path: Path
) -> None:
    shutil.copytree(saved_model, place.root / "m")
    outside, to = tmp_path / "outside", tmp_path / "to"
    outside.mkdir()
    to.mkdir()
    (to / "variables").symlink_to(outside)
    with pytest.raises(Unsafe, match="link"):
        await loader.fetch(place.uri("m"), to, storage_options=place.options)
    assert list(outside.iterdir()) == []
    (to / "variables").unlink()
    (outside / "precious").write_text("mine")
    (to / "saved_model.pb").symlink_to(outside / "precious")
    with pytest.raises(WouldOverwrite):
        await loader.fetch(place.uri("m"), to, storage_options=place.options)
    await loader.fetch(place.uri("m"), to, overwrite=True, storage_options=place.options)
    assert (outside / "precious").read_text() == "mine"
    assert not (to / "saved_model.pb").is_symlink()
    shutil.rmtree(to)
    to.mkdir()
    (to / OWN).symlink_to(outside)
    with pytest.raises(TransferFailed, match="Not a directory"):
        await loader.fetch(place.uri("m"), to, storage_options=place.options)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//b", ".", "..", "a\\b", "a\0"])
def test_names_that_lead_outside(name: str, tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "to"))
    folder.open()
    try:
        with pytest.raises(Unsafe):
            folder.present(name)
        part = folder.begin(name, Identity("uri", 0, "1"))
        with pytest.raises(Unsafe):
            folder.finish(part, replace=True)
        part.close()
    finally:
        folder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["to"]


async def test_a_uri_whose_name_leads_outside(
    web: Web, loader: asyncload.Loader, tmp_path: Path
) -> None:
    web.put("x.bin", b"x")
    for name in ("..%5cx.bin", "a/%2e%2e"):
        with pytest.raises((SourceError, Unsafe)):
            await loader.fetch(f"{web.url}/{name}", tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
async def test_a_folder_that_is_not_ours(loader: asyncload.Loader, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"x")
    (tmp_path / "to").mkdir(mode=0o500)
    with pytest.raises(asyncload.AccessDenied, match="write there"):
        await loader.fetch(tmp_path / "m.bin", tmp_path / "to")


async def test_a_folder_that_is_a_file(loader: asyncload.Loader, tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"x")
    with pytest.raises(TransferFailed):
        await loader.fetch(tmp_path / "m.bin", tmp_path / "m.bin")
