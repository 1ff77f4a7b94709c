"""What signs a request in goes to the server that it was meant for, and to no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

import asyncload
from asyncload.errors import AccessDenied, AsyncloadError, TransferFailed
from tests.reported.web_server import Asked, Reply, Server, ranged, serving
from tests.servers.web import Web

MODEL = save({"w": np.arange(600_000, dtype=np.float32)})
HEADERS = {"X-Api-Key": "key-1", "Cookie": "session=key-2", "X-Own": "key-3"}
SECRETS = ("key-1", "key-2", "key-3", "pass-4", "dXNlcjpwYXNzLTQ", "sign-5")


class Pair:
    """A server that redirects to another origin, and that one."""

    def __init__(self, opened: ExitStack) -> None:
        self.other = opened.enter_context(serving(lambda asked: ranged(asked, MODEL)))
        self.first = opened.enter_context(serving(self._redirect))
        self.status = 302

    def _redirect(self, asked: Asked) -> Reply:
        if asked.target.startswith("/own/"):  # to the same origin first
            return Reply(307, headers={"Location": "/m.safetensors"})
        return Reply(self.status, headers={"Location": f"{self.other.url}/other.safetensors"})

    def uri(self, path: str = "m.safetensors") -> str:
        return f"{self.first.url}/{path}?signature=sign-5".replace("http://", "http://user:pass-4@")


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ExitStack() as opened:
        yield Pair(opened)


def expect_kept(first: Server, other: Server) -> None:
    assert all(secret in first.received for secret in SECRETS if secret != "pass-4")
    assert other.asked
    assert not [secret for secret in (*SECRETS, "referer") if secret in other.received]
    assert not [each for each in other.asked if "authorization" in each.headers]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_of_loads(pair: Pair, status: int) -> None:
    pair.status = status
    options = {"headers": HEADERS, "part_size": 1 << 20}
    async with asyncload.Loader(executor="thread") as loader:
        weights = await loader.load_weights(pair.uri(), storage_options=options)
        assert np.array_equal(weights["w"], np.arange(600_000, dtype=np.float32))
        await loader.load_weights(pair.uri("own/m.safetensors"), storage_options=options)
    expect_kept(pair.first, pair.other)
    assert len({each.headers.get("x-api-key") for each in pair.first.asked}) == 1


@pytest.mark.parametrize("verify", [True, False])
async def test_of_fetches(pair: Pair, tmp_path: Path, verify: bool) -> None:
    async with asyncload.Loader(executor="thread") as loader:
        copy = await loader.fetch(
            pair.uri(), tmp_path, verify=verify, storage_options={"headers": HEADERS}
        )
    assert Path(copy).read_bytes() == MODEL
    expect_kept(pair.first, pair.other)
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*.json"))
    assert not [secret for secret in SECRETS if secret.encode() in kept]


async def test_what_comes_back_brings_nothing(pair: Pair) -> None:
    with serving(lambda _: Reply(302, headers={"Location": f"{pair.first.url}/x"})) as back:
        pair.first.answer = lambda asked: (
            ranged(asked, MODEL)
            if asked.target == "/x"
            else Reply(302, headers={"Location": f"{back.url}/"})
        )
        async with asyncload.Loader(executor="thread") as loader:
            await loader.inspect(pair.uri(), storage_options={"headers": HEADERS})
    late = [each for each in pair.first.asked if each.target == "/x"]
    assert late
    assert not [secret for secret in SECRETS for each in late if secret in str(each)]


async def test_the_other_server_wants_some(pair: Pair) -> None:
    pair.other.answer = lambda _: Reply(403)
    async with asyncload.Loader(executor="thread") as loader:
        with pytest.raises(AccessDenied, match=r"redirected to http://127\.0\.0\.1:") as caught:
            await loader.load_weights(pair.uri(), storage_options={"headers": HEADERS})
    assert not [secret for secret in SECRETS if secret in everything(caught.value)]


@pytest.mark.parametrize(
    ("location", "says"),
    [("ftp://host/x", "ftp://"), ("http://[", "no URL"), ("/m.safetensors", "more than 10 times")],
)
async def test_redirects_to_nowhere(pair: Pair, location: str, says: str) -> None:
    pair.first.answer = lambda _: Reply(302, headers={"Location": location})
    async with asyncload.Loader(executor="thread") as loader:
        with pytest.raises(TransferFailed, match=says) as caught:
            await loader.load_weights(pair.uri())
    assert not [secret for secret in SECRETS if secret in everything(caught.value)]


async def test_no_cookie_is_kept(pair: Pair) -> None:
    pair.first.answer = lambda asked: Reply(
        **{**vars(ranged(asked, MODEL)), "headers": {"Set-Cookie": "a=b", "ETag": '"1"'}}
    )
    async with asyncload.Loader(executor="thread") as loader:
        with pytest.raises(AsyncloadError):  # its answers have no Content-Range
            await loader.load_weights(f"{pair.first.url}/m.safetensors")
    assert len(pair.first.asked) > 1
    assert "cookie" not in pair.first.received


# --- stores -------------------------------------------------------------------------------

S3 = {"region": "x", "access_key_id": "AKIDNAME", "secret_access_key": "never-sent"}
STORES: dict[str, tuple[str, dict[str, object]]] = {
    "s3": ("s3://bucket/m.safetensors", {**S3, "session_token": "key-1"}),
    "az": ("az://box/m.safetensors", {"account_name": "me", "sas_token": "sv=1&sig=sign-5"}),
    "gs": ("gs://bucket/m.safetensors", {"anonymous": True}),
}


@pytest.mark.parametrize("kind", STORES)
async def test_of_stores(kind: str, pair: Pair) -> None:
    uri, own = STORES[kind]
    options = {**own, "endpoint": pair.first.url, "headers": HEADERS, "retries": 0}
    async with asyncload.Loader(executor="thread") as loader:
        for work in (
            loader.load_weights(uri, storage_options=options),
            loader.ls(f"{uri}/", storage_options=options),
        ):
            with pytest.raises(AsyncloadError, match="redirects to another server") as caught:
                await work
            assert not [secret for secret in SECRETS if secret in everything(caught.value)]
    assert "key-3" in pair.first.received
    assert pair.other.asked == []


async def test_of_a_store_that_moves_at_home(pair: Pair) -> None:
    """Redirects to the same origin are followed, and what comes by the guard is the object."""

    def answer(asked: Asked) -> Reply:
        if asked.target.startswith("/bucket"):
            return Reply(307, headers={"Location": f"/moved{asked.target}"})
        reply = ranged(asked, MODEL)
        dated = {**reply.headers, "Last-Modified": "Tue, 01 Dec 2020 00:00:00 GMT"}
        return Reply(reply.status, reply.body, dated)

    pair.first.answer = answer
    options = {**S3, "session_token": "key-1", "endpoint": pair.first.url, "part_size": 1 << 20}
    async with asyncload.Loader(executor="thread") as loader:
        weights = await loader.load_weights("s3://bucket/m.safetensors", storage_options=options)
        assert np.array_equal(weights["w"], np.arange(600_000, dtype=np.float32))


async def test_of_a_store_with_tls(web: Web) -> None:
    web.put("bucket/m.safetensors", MODEL)
    options = {
        "endpoint": web.tls_url,
        "ca_file": str(web.ca_file),
        "anonymous": True,
        "region": "x",
        "headers": HEADERS,
    }
    async with asyncload.Loader(executor="thread") as loader:
        weights = await loader.load_weights("s3://bucket/m.safetensors", storage_options=options)
        assert np.array_equal(weights["w"], np.arange(600_000, dtype=np.float32))
        with pytest.raises(AsyncloadError, match="certificate"):
            await loader.load_weights(
                "s3://bucket/m.safetensors",
                storage_options={**options, "ca_file": None, "retries": 0},
            )


# --- what is shown ------------------------------------------------------------------------


def everything(error: BaseException | None) -> str:
    """Return all texts of an error, and of those before it."""
    if error is None:
        return ""
    return f"{error} {error!r} {error.args!r} {vars(error)!r}" + "".join(
        map(everything, (error.__cause__, error.__context__))
    )


def nothing(buffer: memoryview) -> dict[str, np.ndarray]:
    return {"n": np.array([len(buffer)])}


def broken(buffer: memoryview) -> dict[str, np.ndarray]:
    raise ValueError(f"{len(buffer)} bytes")


async def test_parts_show_none(pair: Pair) -> None:
    seen: list[asyncload.events.Event] = []
    gone = "http://user:pass-4@127.0.0.1:1/m?signature=sign-5"
    async with asyncload.Loader(executor="thread", observer=seen.append) as loader:
        for decode in (nothing, broken):
            options = {"retries": 0}
            parts = loader.map_parts(decode, [pair.uri(), gone], storage_options=options)
            async for part in parts:
                shown = f"{part!r} {part} {everything(part.error)}"
                assert "127.0.0.1" in shown
                assert not [secret for secret in SECRETS if secret in shown]
    assert seen
    assert not [secret for secret in SECRETS if secret in repr(seen)]


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:pass-4@host/m?signature=sign-5#key-1",
        "http://user:pass-4/@host/m?x=sign-5",
        "http://us?er:pass-4@host/m",
        "http://user:pass-4",
        "s3://key-1:pass-4@bucket/m",
        "az://box/m?sv=1&sig=sign-5",
        "hf://key-1:pass-4@org/m?token=sign-5",
    ],
)
def test_errors_show_none(uri: str) -> None:
    error = AsyncloadError(f"cannot read {uri}: stop", uri=uri)
    assert not [secret for secret in SECRETS if secret in everything(error)]
    assert str(error).endswith("stop")
    error.uri = uri
    assert not [secret for secret in SECRETS if secret in everything(error)]


def test_events_show_none() -> None:
    quoted = "cannot read http://user:pass-4@host/m?signature=sign-5: stop"
    uri = "http://user:pass-4@host/m?signature=sign-5"
    for event in (
        asyncload.events.FellBack(uri=uri, reason=quoted),
        asyncload.events.SwapFailed(uri=uri, version=None, error=quoted),
        asyncload.events.Switched(uri=uri, version=None, previous=uri),
    ):
        assert "http://host/m" in repr(event)
        assert not [secret for secret in SECRETS if secret in repr(event)]


async def test_credentials_do_not_belong_in_a_bucket() -> None:
    with pytest.raises(AsyncloadError, match="storage_options") as caught:
        await asyncload.load_weights("s3://key-1:pass-4@bucket/m.safetensors")
    assert "pass-4" not in everything(caught.value)
