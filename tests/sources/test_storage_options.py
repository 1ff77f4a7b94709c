"""How a store is reached: options, then the environment as the store's own tools read it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asyncload.errors import SourceError
from asyncload.redaction import shown
from asyncload.sources import StorageOptions
from asyncload.sources._aws_profile import read_profile
from asyncload.sources._location import locate
from asyncload.sources._store_settings import (
    Settings,
    azure_settings,
    gcs_settings,
    http_settings,
    s3_settings,
)

VARIABLES = ("AWS_", "AZURE_", "GOOGLE_", "STORAGE_", "SSL_CERT", "REQUESTS_")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith(VARIABLES):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def s3(**options: Any) -> Settings:
    return s3_settings("bucket", StorageOptions.parse(options))


def azure(root: str = "box", **options: Any) -> Settings:
    return azure_settings(root, StorageOptions.parse(options))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"part_size": -1}, "part_size"),
        ({"retries": 1.5}, "retries"),
        ({"endpoint": 7}, "endpoint"),
        ({"anonymous": "yes"}, "anonymous"),
        ({"headers": [("a", "b")]}, "headers"),
        ({"headers": {"a b": "c"}}, "'a b'"),
        ({"headers": {"a": "b\nc: d"}}, "of one line"),
        ({"headers": {"a": 3}}, "of one line"),
        ({"timeouts": {"conect": 1}}, "conect.*'connect', 'read', 'total'"),
        ({"timeouts": {"read": 0}}, "seconds above 0"),
        ({"timeouts": {"read": "5s"}}, "seconds above 0"),
    ],
)
def test_what_options_cannot_be(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        StorageOptions.parse(options)


def test_options_show_no_secret() -> None:
    secret = {"secret_access_key": "hidden-1", "headers": {"X-Token": "hidden-2"}}
    options = StorageOptions.parse(secret)
    settings = s3(**secret)
    assert "hidden" not in repr(options) + repr(settings)
    assert set(options.secrets()) == {"hidden-1", "hidden-2"}
    assert "hidden-1" in settings.secrets()


# --- S3 -----------------------------------------------------------------------------------


def test_s3_from_options() -> None:
    settings = s3(endpoint="http://host:1", region="r", access_key_id="a", secret_access_key="b")
    assert settings.plain
    assert settings.config == {
        "aws_endpoint_url_s3": "http://host:1",
        "region": "r",
        "access_key_id": "a",
        "secret_access_key": "b",
    }
    assert not s3(endpoint="https://host").plain
    assert s3(anonymous=True).config == {"skip_signature": True}


def test_s3_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://general:1")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/ca.pem")
    assert s3().config["aws_endpoint_url_s3"] == "http://general:1"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://own:1")
    assert s3().config["aws_endpoint_url_s3"] == "http://own:1"
    assert s3(endpoint="https://mine").config["aws_endpoint_url_s3"] == "https://mine"
    assert s3().ca_file == "/ca.pem"
    assert s3(ca_file="/other.pem").ca_file == "/other.pem"


def test_profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(
        "[default]\nregion = one\n[profile other]\nregion=two\nendpoint_url=http://there:1\n"
    )
    (tmp_path / ".aws/credentials").write_text(
        "[default]\naws_access_key_id = d\naws_secret_access_key = ds%\n"
        "[other]\naws_access_key_id = o\naws_secret_access_key = os\naws_session_token = ot\n"
    )
    found = s3().config
    assert (found["region"], found["aws_secret_access_key"]) == ("one", "ds%")
    monkeypatch.setenv("AWS_PROFILE", "other")
    found = s3().config
    assert (found["region"], found["aws_session_token"]) == ("two", "ot")
    assert found["aws_endpoint_url_s3"] == "http://there:1"
    assert s3(profile="default").config["aws_access_key_id"] == "d"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "from the environment")
    assert "aws_access_key_id" not in s3().config  # obstore reads it there
    with pytest.raises(SourceError, match="no profile 'none'"):
        s3(profile="none")


@pytest.mark.parametrize("content", ["no section\n", "[a]\nx=1\n[a]\n", "[a]\nsecret\xff"])
def test_damaged_profiles_show_nothing(content: str, tmp_path: Path) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/credentials").write_bytes(content.encode("latin-1"))
    with pytest.raises(SourceError, match="cannot be read") as caught:
        read_profile(None)
    assert "secret" not in str(caught.value)


# --- GCS, Azure, HTTP ---------------------------------------------------------------------


def test_gcs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert gcs_settings("b", StorageOptions()).config == {}
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "localhost:9")
    settings = gcs_settings("b", StorageOptions())
    assert settings.config == {"base_url": "http://localhost:9", "skip_signature": True}
    assert settings.plain
    settings = gcs_settings("b", StorageOptions.parse({"endpoint": "https://own/"}))
    assert settings.config == {"base_url": "https://own"}


def test_azure_connection_strings(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=a2V5==;EndpointSuffix=x.net"
    expected = {
        "account_name": "me",
        "account_key": "a2V5==",
        "endpoint": "https://me.blob.x.net",
    }
    assert azure(connection_string=text).config == expected
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    assert azure().config == expected
    assert azure(account_name="you", account_key="b").config["account_name"] == "you"
    sas = "BlobEndpoint=http://127.0.0.1:1/me;SharedAccessSignature=?sv=1&sig=2;AccountName=me"
    settings = azure(connection_string=sas)
    assert settings.plain
    assert settings.config["sas_token"] == "sv=1&sig=2"
    with pytest.raises(SourceError, match="emulator"):
        azure(connection_string="UseDevelopmentStorage=true")


def test_azure_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT", "me")
    monkeypatch.setenv("AZURE_STORAGE_KEY", "key")
    assert azure().config == {"account_name": "me", "account_key": "key"}
    assert azure(anonymous=True).config == {"account_name": "me", "skip_signature": True}
    settings = azure("box@other.dfs.core.windows.net")
    assert (settings.root, settings.config["account_name"]) == ("box", "other")


def test_http() -> None:
    settings = http_settings("http://us%40er:p%3Aw@host:1/?sig=1", StorageOptions())
    assert settings.root == "http://host:1/?sig=1"
    assert settings.headers == {"Authorization": "Basic dXNAZXI6cDp3"}
    with pytest.raises(SourceError, match="'region_name'"):
        http_settings("http://host/", StorageOptions.parse({"region_name": "x"}))


# --- URIs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "scheme", "root", "path", "folder"),
    [
        ("s3://b/a/m.keras", "s3", "b", "a/m.keras", False),
        ("s3a://b/a%20?#/", "s3", "b", "a%20?#", True),
        ("gs://b", "gs", "b", "", True),
        ("az://box/m", "az", "box", "m", False),
        ("abfss://box@me.dfs.core.windows.net/m", "az", "box@me.dfs.core.windows.net", "m", False),
        ("https://h:1/a%20b?sig=1#x", "http", "https://h:1/?sig=1", "/a%20b", False),
        ("http://u:p@h/", "http", "http://u:p@h/", "", True),
    ],
)
def test_located(uri: str, scheme: str, root: str, path: str, folder: bool) -> None:
    place = locate(uri)
    assert (place.scheme, place.root, place.path, place.folder) == (scheme, root, path, folder)
    assert "sig=1" not in repr(place)
    assert "u:p" not in repr(place)


@pytest.mark.parametrize("uri", ["s3:///key", "http:///path", "gs://"])
def test_nowhere(uri: str) -> None:
    with pytest.raises(SourceError, match="names no"):
        locate(uri)


def test_a_container_is_no_credential() -> None:
    assert shown("abfs://box@me.dfs.core.windows.net/m?sig=1") == (
        "abfs://box@me.dfs.core.windows.net/m"
    )
