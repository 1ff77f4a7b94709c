"""What one URL or bucket gave is never taken for another's, however alike the two are."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import h5py
import numpy as np
import pytest

import asyncload
from tests.reported.web_server import Asked, Reply, ranged, serving

OLD = {"Last-Modified": "Tue, 01 Dec 2020 00:00:00 GMT", "ETag": '"same"'}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Two files of one length, the index of which differs."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("one", "two"):
        with h5py.File(folder / name, "w") as file:
            file[name] = np.full(9, len(name) + (name == "two"), np.float32)
    found = {name: (folder / name).read_bytes() for name in ("one", "two")}
    assert len({len(data) for data in found.values()}) == 1
    return found


def alike(asked: Asked, body: bytes) -> Reply:
    reply = ranged(asked, body)
    return Reply(reply.status, reply.body, {**reply.headers, **OLD})


def loader(folder: Path) -> asyncload.Loader:
    return asyncload.Loader(
        executor="thread", index_cache=folder / "index", cache="read", cache_dir=folder / "objects"
    )


async def names(loader: asyncload.Loader, uri: str, **options: object) -> list[str]:
    return list(await loader.load_weights(uri, storage_options=options))


async def test_by_query(files: dict[str, bytes], tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        return alike(asked, files[parse_qs(urlsplit(asked.target).query)["model"][0]])

    with serving(answer) as server:
        for _ in range(2):
            async with loader(tmp_path) as made:
                for name in files:
                    assert await names(made, f"{server.url}/m.h5?model={name}") == [name]


async def test_what_only_signs_is_no_difference(files: dict[str, bytes], tmp_path: Path) -> None:
    seen: list[asyncload.events.Event] = []
    with serving(lambda asked: alike(asked, files["one"])) as server:
        for signature in "ab":
            made = asyncload.Loader(executor="thread", index_cache=tmp_path, observer=seen.append)
            async with made:
                signed = f"X-Amz-Signature={signature}&X-Amz-Date={signature}"
                assert await names(made, f"{server.url}/m.h5?{signed}") == ["one"]
    indexed = [each for each in seen if isinstance(each, asyncload.events.Indexed)]
    assert [each.cached for each in indexed] == [False, True]


async def test_by_header(files: dict[str, bytes], tmp_path: Path) -> None:
    with serving(lambda asked: alike(asked, files[asked.headers["x-model"]])) as server:
        async with loader(tmp_path) as made:
            for name in files:
                headers = {"X-Model": name}
                assert await names(made, f"{server.url}/m.h5", headers=headers) == [name]


async def test_by_endpoint(files: dict[str, bytes], tmp_path: Path) -> None:
    with (
        serving(lambda asked: alike(asked, files["one"])) as one,
        serving(lambda asked: alike(asked, files["two"])) as two,
    ):
        async with loader(tmp_path) as made:
            for server, name in ((one, "one"), (two, "two")):
                options = {"endpoint": server.url, "region": "x", "anonymous": True}
                assert await names(made, "s3://bucket/m.h5", **options) == [name]


async def test_by_account(files: dict[str, bytes], tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        return alike(asked, files[asked.target.split("/")[1]])

    with serving(answer) as server:
        async with loader(tmp_path) as made:
            for name in files:
                options = {
                    "endpoint": f"{server.url}/{name}",
                    "account_name": name,
                    "anonymous": True,
                }
                assert await names(made, "az://box/m.h5", **options) == [name]


async def test_copies_by_query(files: dict[str, bytes], tmp_path: Path) -> None:
    def answer(asked: Asked) -> Reply:
        return alike(asked, files[parse_qs(urlsplit(asked.target).query)["model"][0]])

    with serving(answer) as server:
        async with loader(tmp_path / "caches") as made:
            for name in files:
                copy = await made.fetch(
                    f"{server.url}/m.h5?model={name}", tmp_path / "copy", overwrite=True
                )
                assert Path(copy).read_bytes() == files[name]
