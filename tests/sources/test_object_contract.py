"""Object storage and HTTP servers do what every Source does; on real servers."""

from __future__ import annotations

import uuid
from abc import abstractmethod
from pathlib import Path
from typing import ClassVar

import pytest

from asyncload.errors import AccessDenied, NotFound, SourceError
from asyncload.sources import open_source
from tests.contracts.source_contract import CONTENT, DEEP, FILES, SourceContract
from tests.servers.azurite import Azurite
from tests.servers.rgw import Rgw
from tests.servers.web import Web


class _Stored(SourceContract):
    """Uploads the usual files once for many tests: until one puts others in their place."""

    _prefix: ClassVar[str] = ""
    _as_usual: ClassVar[bool] = False

    @abstractmethod
    def upload(self, key: str, data: bytes) -> str:
        """Store an object; return its URI."""

    def put(self, files: dict[str, bytes], tmp_path: Path) -> str:
        kind = type(self)
        usual = files is FILES
        if not usual or not kind._as_usual:
            if usual:
                kind._prefix = uuid.uuid4().hex
            for name, data in files.items():
                self.upload(f"{kind._prefix}/{name}", data)
            kind._as_usual = usual
        return self.upload("root", b"").removesuffix("root") + kind._prefix


class TestS3(_Stored):
    @pytest.fixture(autouse=True)
    def _server(self, rgw: Rgw, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rgw = rgw
        rgw.make_bucket("contract", public=True)
        monkeypatch.setenv("AWS_ENDPOINT_URL", rgw.endpoint)
        monkeypatch.setenv("AWS_REGION", rgw.region)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", rgw.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", rgw.secret_key)

    def upload(self, key: str, data: bytes) -> str:
        self.rgw.put("contract", key, data)
        return f"s3://contract/{key}"


class TestGcs(_Stored):
    """Google's protocol, spoken by the same gateway."""

    @pytest.fixture(autouse=True)
    def _server(self, rgw: Rgw, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rgw = rgw
        rgw.make_bucket("contract", public=True)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", rgw.endpoint)

    def upload(self, key: str, data: bytes) -> str:
        self.rgw.put("contract", key, data)
        return f"gs://contract/{key}"


class TestAzure(_Stored):
    @pytest.fixture(autouse=True)
    def _server(self, azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> None:
        self.azurite = azurite
        azurite.make_container("contract")
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)

    def upload(self, key: str, data: bytes) -> str:
        self.azurite.put("contract", key, data)
        return f"az://contract/{key}"


class TestHttp(_Stored):
    """A server lists nothing, and its folders end in a slash."""

    @pytest.fixture(autouse=True)
    def _server(self, web: Web) -> None:
        self.web = web

    def upload(self, key: str, data: bytes) -> str:
        return self.web.put(key, data)

    async def test_lists_folders_only(self, folder: str) -> None:
        async with open_source(f"{folder}/model.bin") as source:
            assert await source.list() is None
        async with open_source(f"{folder}/") as source:
            with pytest.raises(NotFound, match="lists no folders"):
                await source.list()

    async def test_lists_sizes(self, folder: str) -> None:
        async with open_source(f"{folder}/") as source:
            with pytest.raises(NotFound, match="lists no folders"):
                await source.entries()

    async def test_opens_a_neighbour(self, folder: str) -> None:
        for uri in (f"{folder}/model.bin", f"{folder}/"):
            async with open_source(uri) as source:
                reader = await source.open("other.bin")
                assert (reader.uri, reader.name) == (f"{folder}/other.bin", "other.bin")
                assert await reader.read(0, reader.size) == CONTENT[::-1]

    async def test_opens_what_lies_below(self, folder: str) -> None:
        for uri in (f"{folder}/model.bin", f"{folder}/", f"{folder}/none"):
            async with open_source(uri) as source:
                reader = await source.open(DEEP)
                assert (reader.uri, reader.name) == (f"{folder}/{DEEP}", DEEP)
                assert await reader.read(0, reader.size) == CONTENT[:9]


async def test_a_password_is_sent_and_not_shown(web: Web) -> None:
    web.put("behind.bin", CONTENT)
    inner = web.private_url.removeprefix("http://")
    signed = f"http://{web.user}:{web.password}@{inner}/behind.bin?signature=verysecret"
    async with open_source(signed) as source:
        reader = await source.open()
        assert await reader.read(100, 100_000) == CONTENT[100:100_100]
    async with open_source(signed.replace(web.password, "wrongword")) as source:
        with pytest.raises(AccessDenied) as caught:
            await source.open()
    shown = _everything_shown(caught.value) + repr(source) + repr(reader) + repr(vars(reader))
    assert f"{inner}/behind.bin" in shown
    for secret in ("verysecret", "wrongword", web.password):
        assert secret not in shown


def _everything_shown(error: BaseException | None) -> str:
    """Return all texts of an error, of its causes, and of what was raised before it."""
    if error is None:
        return ""
    own = f"{error!s} {error!r} {error.args!r} {getattr(error, '__dict__', '')!r}"
    return own + _everything_shown(error.__cause__) + _everything_shown(error.__context__)


async def test_tls(web: Web) -> None:
    web.put("tls.bin", CONTENT)
    uri = f"{web.tls_url}/tls.bin"
    async with open_source(uri, options={"ca_file": str(web.ca_file)}) as source:
        assert await (await source.open()).read(7, 70_000) == CONTENT[7:70_007]
    async with open_source(uri, options={"retries": 0}) as source:
        with pytest.raises(SourceError, match="certificate"):
            await source.open()


@pytest.mark.parametrize("name", ["a b.bin", "100%.bin", "a%20b.bin", "ä+&=#?.bin", "a'(b)!.bin"])
async def test_any_key(rgw: Rgw, web: Web, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rgw.make_bucket("keys")
    rgw.put("keys", f"folder/{name}", CONTENT)
    options = {
        "endpoint": rgw.endpoint,
        "access_key_id": rgw.access_key,
        "secret_access_key": rgw.secret_key,
    }
    async with open_source(f"s3://keys/folder/{name}", options=options) as source:
        assert await source.list() is None
        assert await (await source.open()).read(0, 100_000) == CONTENT[:100_000]
    async with open_source("s3://keys/folder", options=options) as source:
        assert name in (await source.list() or [])
        assert await (await source.open(name)).read(0, 9) == CONTENT[:9]
    async with open_source(web.put(f"keys/{name}", CONTENT)) as source:
        assert await (await source.open()).read(0, 100_000) == CONTENT[:100_000]
