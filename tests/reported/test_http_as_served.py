"""Web servers as they are: compressed, without lengths, without HEAD, without ranges."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import asyncload
from asyncload.errors import NotFound, SourceError, TransferFailed
from tests.reported.web_server import Asked, Reply, ranged, serving

VALUES = np.arange(400_000, dtype=np.float32)
MODEL = save({"w": VALUES})


@pytest.fixture
async def loader() -> AsyncIterator[asyncload.Loader]:
    async with asyncload.Loader(executor="thread", storage_options={"retries": 1}) as made:
        yield made


def heads(asked: Asked, reply: Reply) -> Reply:
    """Answer GET as usual, and HEAD like this."""
    return reply if asked.method == "HEAD" else ranged(asked, MODEL)


HEADS = {
    "no-length": Reply(headers={"Content-Length": None}),
    "chunked": Reply(chunked=True),
    "zero": Reply(),
    "gzip": Reply(headers={"Content-Encoding": "gzip", "Content-Length": "17"}),
    "400": Reply(400),
    "401": Reply(401),
    "403": Reply(403),
    "405": Reply(405),
    "501": Reply(501),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
async def test_head_is_no_help(head: Reply, loader: asyncload.Loader, tmp_path: Path) -> None:
    with serving(lambda asked: heads(asked, head)) as server:
        uri = f"{server.url}/m.safetensors"
        assert np.array_equal((await loader.load_weights(uri))["w"], VALUES)
        (entry,) = await loader.ls(uri)
        assert entry.size == len(MODEL)
        copy = await loader.fetch(uri, tmp_path)
        assert Path(copy).read_bytes() == MODEL


async def test_an_empty_file(loader: asyncload.Loader, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.target != "/empty.bin":
            return Reply(404)
        if "range" in asked.headers:
            return Reply(416, headers={"Content-Range": "bytes */0"})
        return Reply()

    with serving(answer) as server:
        copy = await loader.fetch(f"{server.url}/empty.bin", tmp_path)
        assert Path(copy).read_bytes() == b""


async def test_what_get_says_counts(loader: asyncload.Loader) -> None:
    with (
        serving(lambda asked: Reply(405 if asked.method == "HEAD" else 404)) as server,
        pytest.raises(NotFound),
    ):
        await loader.load_weights(f"{server.url}/m.safetensors")


@pytest.mark.parametrize("host", ["h:abc", "127.0.0.1:99999", "[::1", "...", "a" * 300])
async def test_what_is_no_url(host: str, loader: asyncload.Loader) -> None:
    with pytest.raises(SourceError, match="is no URL"):
        await loader.load_weights(f"http://{host}/m.safetensors")
    with (
        serving(lambda _: Reply(302, headers={"Location": f"http://{host}/"})) as server,
        pytest.raises(TransferFailed),
    ):
        await loader.load_weights(f"{server.url}/m.safetensors")


# --- compressed ---------------------------------------------------------------------------


async def test_compressed_whatever_was_asked(loader: asyncload.Loader, tmp_path: Path) -> None:
    packed = gzip.compress(MODEL, 1)

    def answer(asked: Asked) -> Reply:
        reply = ranged(asked, packed)
        return replace(reply, headers={**reply.headers, "Content-Encoding": "gzip"})

    with serving(answer) as server:
        uri = f"{server.url}/m.safetensors"
        for work in (loader.load_weights(uri), loader.fetch(uri, tmp_path), loader.ls(uri)):
            with pytest.raises(TransferFailed, match="Content-Encoding: gzip"):
                await work
    assert [path for path in tmp_path.rglob("*.safetensors*") if path.is_file()] == []


async def test_compressed_all_of_a_sudden(loader: asyncload.Loader, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        reply = ranged(asked, MODEL)
        packed = asked.method == "GET"
        return replace(
            reply, headers={**reply.headers, **({"Content-Encoding": "br"} if packed else {})}
        )

    with serving(answer) as server:
        for work in (
            loader.load_weights(f"{server.url}/m.safetensors"),
            loader.fetch(f"{server.url}/m.safetensors", tmp_path),
        ):
            with pytest.raises(TransferFailed, match="Content-Encoding: br"):
                await work
    assert not (tmp_path / "m.safetensors").exists()


async def test_compressed_for_those_who_ask(loader: asyncload.Loader, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        if "gzip" in asked.headers.get("accept-encoding", "gzip"):
            return Reply(200, gzip.compress(MODEL, 1), {"Content-Encoding": "gzip"})
        return ranged(asked, MODEL)

    with serving(answer) as server:
        uri = f"{server.url}/m.safetensors"
        assert np.array_equal((await loader.load_weights(uri))["w"], VALUES)
        assert Path(await loader.fetch(uri, tmp_path)).read_bytes() == MODEL


# --- no lengths, no ranges ----------------------------------------------------------------


async def test_nobody_says_how_long(loader: asyncload.Loader) -> None:
    with (
        serving(lambda _: Reply(body=MODEL, chunked=True)) as server,
        pytest.raises(TransferFailed, match="does not say how long"),
    ):
        await loader.load_weights(f"{server.url}/m.safetensors")


async def test_ranges_are_ignored(loader: asyncload.Loader, tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        del asked
        return Reply(body=MODEL, headers={"ETag": '"1"'})

    with serving(answer) as server:
        uri = f"{server.url}/m.safetensors"
        options = {"part_size": 1 << 20}
        assert np.array_equal(
            (await loader.load_weights(uri, storage_options=options))["w"], VALUES
        )
        copy = await loader.fetch(uri, tmp_path, storage_options=options)
        assert Path(copy).read_bytes() == MODEL


async def test_ranges_come_in_chunks(loader: asyncload.Loader) -> None:
    def answer(asked: Asked) -> Reply:
        return replace(ranged(asked, MODEL), chunked=asked.method == "GET")

    with serving(answer) as server:
        weights = await loader.load_weights(f"{server.url}/m.safetensors")
        assert np.array_equal(weights["w"], VALUES)
