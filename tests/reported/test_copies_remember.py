"""A copy is what its original is: a program from elsewhere stays one, and links lead nowhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import tensorflow as tf

import asyncload
from asyncload.errors import Unsafe
from tests.reported.web_server import Asked, Reply, Server, ranged, serving


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    module = tf.Module()
    module.v = tf.Variable(3.0)
    specification = [tf.TensorSpec([], tf.float32)]
    module.f = tf.function(lambda x: {"y": x * module.v}, input_signature=specification)
    folder = tmp_path_factory.mktemp("made") / "program"
    tf.saved_model.save(module, str(folder), signatures=module.f)
    return folder


@pytest.fixture
def server(program: Path) -> Iterator[Server]:
    def answer(asked: Asked) -> Reply:
        path = program / asked.target.lstrip("/")
        return ranged(asked, path.read_bytes()) if path.is_file() else Reply(404)

    with serving(answer) as made:
        yield made


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as made:
        yield made


async def test_a_program_from_elsewhere(
    server: Server, loader: asyncload.Loader, tmp_path: Path
) -> None:
    fetched = await loader.fetch(f"{server.url}/", tmp_path / "copy")
    again = await loader.fetch(fetched, tmp_path / "again")
    (tmp_path / "link").symlink_to(tmp_path / "copy")
    shutil.copytree(tmp_path / "copy", tmp_path / "copied")
    written = tmp_path / "copied" / "saved_model.pb"
    written.write_bytes(written.read_bytes())
    for path in (fetched, again, tmp_path / "link", tmp_path / "copied"):
        for whole in (False, True):
            with pytest.raises(Unsafe, match=rf"a copy of {server.url}/.*trusted=True"):
                await loader.load(path, whole=whole)
    served = await loader.load(fetched, trusted=True)
    assert float(served(x=tf.constant(2.0))["y"]) == 6
    assert list(await loader.load_weights(again)) == list(
        await loader.load_weights(server.url + "/")
    )


async def test_versions_below_what_was_fetched(
    server: Server, loader: asyncload.Loader, tmp_path: Path
) -> None:
    await loader.fetch(f"{server.url}/", tmp_path / "copy")
    below = tmp_path / "models"
    shutil.copytree(tmp_path / "copy", below / "1", ignore=shutil.ignore_patterns(".asyncload"))
    await loader.load(below / "1")  # notes that are not there say nothing
    (note,) = (
        path
        for path in (tmp_path / "copy" / ".asyncload").glob("*.json")
        if json.loads(path.read_text())["name"] == "saved_model.pb"
    )
    assert json.loads(note.read_text())["origin"] == f"{server.url}/saved_model.pb"
    everything = await loader.fetch(tmp_path / "copy", below / "2")
    with pytest.raises(Unsafe):
        await loader.load(everything)
    await loader.fetch(below, tmp_path / "all", overwrite=True)
    with pytest.raises(Unsafe):
        await loader.load(tmp_path / "all" / "2")


async def test_what_was_in_memory(program: Path, loader: asyncload.Loader, tmp_path: Path) -> None:
    paths = [path for path in program.rglob("*") if path.is_file()]
    files = {str(path.relative_to(program)): path.read_bytes() for path in paths}
    uri = asyncload.sources.put_memory("program", files)
    try:
        fetched = await loader.fetch(uri, tmp_path / "copy")
        for each in (uri, fetched):
            with pytest.raises(Unsafe, match="trusted=True"):
                await loader.load(each)
    finally:
        asyncload.sources.forget_memory("program")


async def test_notes_of_earlier_releases(
    server: Server, loader: asyncload.Loader, tmp_path: Path
) -> None:
    fetched = await loader.fetch(f"{server.url}/", tmp_path / "copy")
    for path in (tmp_path / "copy" / ".asyncload").glob("*.json"):
        note = json.loads(path.read_text())
        del note["origin"]
        path.write_text(json.dumps({**note, "identity": note["identity"][:3]}))
    with pytest.raises(Unsafe, match="a copy of"):
        await loader.load(fetched)


async def test_damaged_notes(program: Path, loader: asyncload.Loader, tmp_path: Path) -> None:
    for number, text in enumerate(("", "[]", "3", "{}", '{"origin": 3}', '{"identity": []}')):
        copy = tmp_path / f"{number}"
        await loader.fetch(program, copy)
        for path in (copy / ".asyncload").glob("*.json"):
            path.write_text(text)
        assert await loader.load(copy)


async def test_what_was_made_here(program: Path, loader: asyncload.Loader, tmp_path: Path) -> None:
    fetched = await loader.fetch(program, tmp_path / "copy")
    served = await loader.load(fetched)
    assert float(served(x=tf.constant(2.0))["y"]) == 6


# --- links --------------------------------------------------------------------------------


async def test_links_that_leave(loader: asyncload.Loader, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("mine")
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "secret").write_text("mine")
    for name, target in (("file", "secret"), ("folder", "beside")):
        source = tmp_path / f"with-{name}"
        source.mkdir()
        (source / "readme").write_text("a")
        (source / name).symlink_to(tmp_path / target)
        with pytest.raises(Unsafe, match="follow_links=True"):
            await loader.fetch(source, tmp_path / f"to-{name}")
        copied = [path.read_text() for path in (tmp_path / f"to-{name}").glob("[a-z]*")]
        assert "mine" not in copied
        await loader.fetch(source, tmp_path / f"all-{name}", follow_links=True)
        assert "mine" in [p.read_text() for p in (tmp_path / f"all-{name}").rglob("[a-z]*")
                          if p.is_file()]  # fmt: skip


async def test_links_that_stay(loader: asyncload.Loader, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "..data").mkdir(parents=True)
    (source / "..data" / "m").write_text("a")
    (source / "m").symlink_to("..data/m")
    (tmp_path / "named").symlink_to(source)
    (tmp_path / "file").symlink_to(source / "m")
    copy = await loader.fetch(tmp_path / "named", tmp_path / "to")
    assert (Path(copy) / "m").read_text() == "a"
    copy = await loader.fetch(tmp_path / "file", tmp_path / "one")
    assert Path(copy).read_text() == "a"


async def test_shards_that_leave(loader: asyncload.Loader, tmp_path: Path) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"mine")
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.safetensors").symlink_to(tmp_path / "secret.safetensors")
    index = {"metadata": {}, "weight_map": {"w": "a.safetensors"}}
    (source / "m.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(Unsafe, match="outside of the folder"):
        await loader.fetch(source / "m.safetensors.index.json", tmp_path / "to")
    assert not (tmp_path / "to" / "a.safetensors").exists()
