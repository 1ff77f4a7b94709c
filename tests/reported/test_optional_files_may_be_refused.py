"""Who may not list is told 403 of what is not there: that counts only of what has to be there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import asyncload
from asyncload.errors import AsyncloadError
from tests.reported.web_server import Asked, Reply, Server, ranged, serving

# Nothing here depends on the loop.
pytestmark = pytest.mark.either_loop


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs with variables and without, and a checkpoint."""
    made = tmp_path_factory.mktemp("made")
    specification = [tf.TensorSpec([], tf.float32)]
    module = tf.Module()
    module.v = tf.Variable(3.0)
    module.f = tf.function(lambda x: {"y": x * module.v}, input_signature=specification)
    tf.saved_model.save(module, str(made / "with"), signatures=module.f)
    tf.train.Checkpoint(v=module.v).write(str(made / "ck-1"))
    bare = tf.Module()
    bare.f = tf.function(lambda x: {"y": x * 3.0}, input_signature=specification)
    tf.saved_model.save(bare, str(made / "without"), signatures=bare.f)
    for path in (made / "without" / "variables").iterdir():
        path.unlink()
    return made


@contextmanager
def refusing(folder: Path, status: int, without: str = "^$") -> Iterator[Server]:
    """Serve a folder, below ``/bucket`` and as a bucket that cannot be listed."""

    def answer(asked: Asked) -> Reply:
        name = asked.target.partition("?")[0].removeprefix("/bucket").lstrip("/")
        path = folder / name
        if "list-type" in asked.target or not path.is_file() or re.search(without, name):
            return Reply(status)
        reply = ranged(asked, path.read_bytes())
        dated = {**reply.headers, "Last-Modified": "Tue, 01 Dec 2020 00:00:00 GMT"}
        return Reply(reply.status, reply.body, dated)

    with serving(answer) as server:
        yield server


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread") as made:
        yield made


@pytest.mark.parametrize("status", [400, 403, 410])
async def test_of_a_web_server(
    status: int, folder: Path, loader: asyncload.Loader, tmp_path: Path
) -> None:
    with refusing(folder, status) as server:
        for name in ("with", "without"):
            uri = f"{server.url}/bucket/{name}/"
            served = await loader.load(uri, trusted=True, warmup=True)
            assert float(served(x=tf.constant(2.0))["y"]) == 6
            await loader.fetch(uri, tmp_path / name)
            assert (tmp_path / name / "saved_model.pb").is_file()
        weights = await loader.load_weights(f"{server.url}/bucket/ck-1")
        assert np.float32(3) in weights.values()


async def test_of_a_bucket_that_may_not_be_listed(
    folder: Path, loader: asyncload.Loader, tmp_path: Path
) -> None:
    with refusing(folder, 403) as server:
        options = {"endpoint": server.url, "region": "x", "anonymous": True}
        for name in ("with", "without"):
            uri = f"s3://bucket/{name}/"
            served = await loader.load(uri, trusted=True, storage_options=options)
            assert float(served(x=tf.constant(2.0))["y"]) == 6
            await loader.fetch(uri, tmp_path / name, storage_options=options)
            assert (tmp_path / name / "saved_model.pb").is_file()
        weights = await loader.load_weights("s3://bucket/ck-1", storage_options=options)
        assert np.float32(3) in weights.values()


async def test_of_a_slot(folder: Path, loader: asyncload.Loader) -> None:
    with refusing(folder, 403) as server:
        uri = f"{server.url}/bucket/with/"
        async with asyncload.ModelSlot(uri, loader=loader, trusted=True) as slot:
            assert float(await slot.run(lambda model: model(x=tf.constant(2.0))["y"])) == 6


@pytest.mark.parametrize(
    ("without", "named", "says"),
    [
        ("pb$", "saved_model.pb", "403"),
        ("index$", "variables.index", "missing, or may not be read"),
        ("data-", "variables.data-", "403"),
    ],
)
async def test_what_is_required(
    without: str, named: str, says: str, folder: Path, loader: asyncload.Loader
) -> None:
    with refusing(folder, 403, without) as server:
        options = {"endpoint": server.url, "region": "x", "anonymous": True}
        for uri in (f"{server.url}/bucket/with/", "s3://bucket/with/"):
            storage = options if uri.startswith("s3") else {}
            with pytest.raises(AsyncloadError, match=says) as caught:
                await loader.load(uri, trusted=True, storage_options=storage)
            assert named in str(caught.value)
