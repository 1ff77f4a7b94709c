"""A URI names one object: that comes, or a refusal, and never another object's bytes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import asyncload
from asyncload.errors import AsyncloadError, NotFound, TransferFailed
from asyncload.sources import open_source
from tests.reported.web_server import Asked, Reply, ranged, serving
from tests.servers.azurite import Azurite
from tests.servers.rgw import Rgw

# Nothing here depends on the loop.
pytestmark = pytest.mark.either_loop

# What careless clients take for one another.
PLAIN = ("x", "a/b", "b", "a", "ab", "a b")
EXACT = [
    "a%2Fb", "a%20b", "a?b", "a#b", "x ", " x", "a/ ", "a+b", "a\\b", "x..", ".x", "ä", "a%zz", "%",
    "x\u00a0", "a&b=c", "[x]", "a:b", "a;b",
]  # fmt: skip
REFUSED = ["/x", "//x", "a//b", "a/./b", "a/../b", "./x", "../x", "x/..", "a\tb", "a\nb", "x/", "/"]


async def read(uri: str, options: Mapping[str, Any]) -> bytes:
    async with open_source(uri, options=options) as source:
        reader = await source.open()
        return await reader.read(0, reader.size)


@pytest.fixture(scope="module")
def s3(rgw: Rgw) -> dict[str, Any]:
    rgw.make_bucket("exact", public=True)
    for key in (*PLAIN, *EXACT, "/x", "a//b", "a/./b", "x/"):
        rgw.put("exact", key, f"own {key}".encode())
    return {
        "endpoint": rgw.endpoint,
        "region": rgw.region,
        "access_key_id": rgw.access_key,
        "secret_access_key": rgw.secret_key,
    }


@pytest.fixture(scope="module")
def az(azurite: Azurite) -> dict[str, Any]:
    azurite.make_container("exact")
    for key in (*PLAIN, *EXACT, "/x", "a//b"):
        azurite.put("exact", key, f"own {key}".encode())
    return {"connection_string": azurite.connection_string}


async def expect_exact(kind: str, options: Mapping[str, Any]) -> None:
    for key in EXACT:
        assert await read(f"{kind}://exact/{key}", options) == f"own {key}".encode()
    for key in REFUSED:
        with pytest.raises(AsyncloadError):
            print(key, await read(f"{kind}://exact/{key}", options))


async def test_in_s3(s3: dict[str, Any]) -> None:
    await expect_exact("s3", s3)


async def test_in_google_storage(rgw: Rgw, s3: dict[str, Any]) -> None:
    del s3
    await expect_exact("gs", {"endpoint": rgw.endpoint, "anonymous": True})


async def test_in_azure(az: dict[str, Any]) -> None:
    await expect_exact("az", az)


async def test_listings_say_what_they_cannot(s3: dict[str, Any]) -> None:
    async with open_source("s3://exact/a/", options=s3) as source:
        with pytest.raises(TransferFailed, match="makes no path"):
            await source.entries(recursive=True)


# --- web servers --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "//x", "/a//b", "/a%2Fb", "/a%252Fb", "/x%20", "/a%3Fb", "/a;b=c", "/a+b", "/x%2e", "/%7Ex",
        "/a%26b", "/a%2fb", "/a%5Cb", "/m.bin?a=%2F&b=c+d&&e", "/m?a?b",
    ],
)  # fmt: skip
async def test_paths_are_sent_as_they_are(path: str) -> None:
    with serving(lambda asked: ranged(asked, asked.target.encode())) as server:
        assert await read(f"{server.url}{path}", {}) == path.encode()
        assert {each.target for each in server.asked} == {path}


@pytest.mark.parametrize(
    ("path", "sent"),
    [("/a b", "/a%20b"), ("/ä", "/%C3%A4"), ("/100%.bin", "/100%25.bin"), ("/x#part", "/x")],
)
async def test_paths_that_are_not_quoted(path: str, sent: str) -> None:
    with serving(lambda asked: ranged(asked, asked.target.encode())) as server:
        assert await read(f"{server.url}{path}", {}) == sent.encode()


@pytest.mark.parametrize("path", ["/a/../b", "/./x", "/%2e%2e/x", "/a/.", "/a\tb", "/a\nb"])
async def test_paths_that_are_refused(path: str) -> None:
    with serving(lambda asked: ranged(asked, asked.target.encode())) as server:
        with pytest.raises(AsyncloadError):
            await read(f"{server.url}{path}", {})
        assert server.asked == []


async def test_neighbours() -> None:
    shard = save({"w": np.zeros(3, np.float32)})
    index = {"metadata": {}, "weight_map": {"w": "a%20b?.safetensors"}}
    wanted = "/f%2F//a%2520b%3F.safetensors"

    def answer(asked: Asked) -> Reply:
        if asked.target == wanted:
            return ranged(asked, shard)
        if asked.target.endswith(".json"):
            return ranged(asked, json.dumps(index).encode())
        return Reply(404)

    with serving(answer) as server:
        async with asyncload.Loader(executor="thread") as loader:
            uri = f"{server.url}/f%2F//m.safetensors.index.json"
            assert list(await loader.load_weights(uri)) == ["w"]


# --- this machine -------------------------------------------------------------------------


async def test_on_this_machine(tmp_path: Path) -> None:
    for name in ("a", "a?b", "a#b", "a%20b", "x "):
        (tmp_path / name).write_bytes(f"own {name}".encode())
        assert await read(f"{tmp_path}/{name}", {}) == f"own {name}".encode()
    for name in ("a?b", "a#b", "x "):
        assert await read(f"file://{tmp_path}/{name}", {}) == f"own {name}".encode()
    assert await read(f"file://{tmp_path}/a%2520b", {}) == b"own a%20b"
    with pytest.raises(NotFound):
        await read(f"file://{tmp_path}/a?c", {})
