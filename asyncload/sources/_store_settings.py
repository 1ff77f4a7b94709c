"""How each store is reached: from options, or else as the store's own tools read the environment.

What obstore reads from the environment by itself is left to it. Added here is what it does not:
endpoints without TLS, the profiles of the AWS files, Azure's connection string, the emulator's
address of Google's clients.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

from asyncload.errors import SourceError

from ._aws_profile import read_profile
from ._location import Location
from ._storage_options import StorageOptions

__all__ = [
    "Settings",
    "azure_settings",
    "gcs_settings",
    "http_settings",
    "s3_settings",
    "settings_of",
]

_PLAIN = "http://"
_CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"
# What the `az` command reads -> what obstore calls it.
_AZURE_NAMES = {
    "AZURE_STORAGE_ACCOUNT": "account_name",
    "AZURE_STORAGE_KEY": "account_key",
    "AZURE_STORAGE_SAS_TOKEN": "sas_token",
}
_FOLLOWING = ("AWS_SESSION_TOKEN", "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
_AZURE_CREDENTIALS = ("account_key", "sas_token", "bearer_token", "client_secret", "access_key")


@dataclass(frozen=True, slots=True)
class Settings:
    """What obstore's store is made with.

    Attributes:
        root: bucket, container, or URL of the server.
        config: as obstore names things.
        plain: whether it may be reached without TLS, because it was named so.
        ca_file: path of certificates to trust.
        headers: sent with each request.
    """

    root: str = field(repr=False)
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)
    plain: bool = False
    ca_file: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def guarded(self, options: StorageOptions) -> str | None:
        """Return the endpoint that nothing of a request may leave, if it is none of the provider's.

        What `Authorization` says goes nowhere else anyway; what headers, session tokens and signed
        URLs say would.
        """
        endpoints = (
            value
            for name, value in self.config.items()
            if isinstance(value, str) and ("endpoint" in name or name == "base_url")
        )
        endpoint = next(endpoints, None) or _first("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")
        follows = options.headers or any("token" in name or "sas" in name for name in self.config)
        if endpoint and (follows or _first(*_FOLLOWING)):
            return endpoint
        return None

    def secrets(self) -> list[str]:
        """Return the texts in it that no message may show."""
        secret = ("key", "secret", "token", "password")
        return [
            value
            for name, value in self.config.items()
            if isinstance(value, str) and value and any(part in name for part in secret)
        ]


def _first(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _ca_file(options: StorageOptions, *names: str) -> str | None:
    return options.ca_file or _first(*names, "SSL_CERT_FILE")


def s3_settings(bucket: str, options: StorageOptions) -> Settings:
    """Return the settings of an S3 bucket: options, then environment, then profile.

    Sources: https://docs.aws.amazon.com/sdkref/latest/guide/settings-reference.html
    """
    config = dict(options.config)
    profile: Mapping[str, str] = {}
    if not {"access_key_id", "aws_access_key_id"} & set(config) and not (
        options.profile is None and _first("AWS_ACCESS_KEY_ID")
    ):
        profile = read_profile(options.profile or _first("AWS_PROFILE", "AWS_DEFAULT_PROFILE"))
    endpoint = (
        options.endpoint
        or _first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
        or profile.get("endpoint_url")
    )
    region = options.region or _first("AWS_REGION", "AWS_DEFAULT_REGION") or profile.get("region")
    if options.anonymous is not None:
        config["skip_signature"] = options.anonymous
    elif profile.get("aws_access_key_id"):
        config.update(
            {name: profile[name] for name in profile if name.startswith("aws_") and profile[name]}
        )
    if endpoint:
        config["aws_endpoint_url_s3"] = endpoint  # before what the environment says
    if region:
        config["region"] = region
    plain = (endpoint or "").startswith(_PLAIN)
    return Settings(bucket, config, plain, _ca_file(options, "AWS_CA_BUNDLE"))


def gcs_settings(bucket: str, options: StorageOptions) -> Settings:
    """Return the settings of a bucket of Google Cloud Storage.

    ``STORAGE_EMULATOR_HOST`` names, as for Google's own clients, a server that wants no
    credentials: https://cloud.google.com/python/docs/reference/storage/latest
    """
    config = dict(options.config)
    emulator = _first("STORAGE_EMULATOR_HOST")
    anonymous = options.anonymous
    endpoint = options.endpoint
    if emulator and endpoint is None:
        endpoint = emulator if "://" in emulator else _PLAIN + emulator
        anonymous = True if anonymous is None else anonymous
    if endpoint:
        config["base_url"] = endpoint.rstrip("/")
    if anonymous is not None:
        config["skip_signature"] = anonymous
    return Settings(bucket, config, (endpoint or "").startswith(_PLAIN), _ca_file(options))


def azure_settings(root: str, options: StorageOptions) -> Settings:
    """Return the settings of a container of Azure Blob Storage.

    Args:
        root: ``container``, or ``container@account.dfs.core.windows.net`` as abfs:// has it.
        options: as given; ``connection_string`` is taken apart.
    """
    container, _, host = root.partition("@")
    config = dict(options.config)
    text = config.pop("connection_string", None)
    given = text or (None if _says_who(config) else _first(_CONNECTION_STRING))
    found = _connection_string(given) if given else {}
    if not given and not _says_who(config):
        found = {name: value for key, name in _AZURE_NAMES.items() if (value := _first(key))}
    config = found | config
    if host:
        config["account_name"] = host.partition(".")[0]
    if options.endpoint:
        config["endpoint"] = options.endpoint
    if options.anonymous is not None:
        config["skip_signature"] = options.anonymous
        if options.anonymous:
            config = {name: config[name] for name in config if name not in _AZURE_CREDENTIALS}
    endpoint = config.get("endpoint") or _first("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT") or ""
    return Settings(container, config, endpoint.startswith(_PLAIN), _ca_file(options))


def _says_who(config: Mapping[str, Any]) -> bool:
    return any(name.removeprefix("azure_storage_") in _AZURE_CREDENTIALS for name in config)


def _connection_string(text: str) -> dict[str, str]:
    """Take an Azure connection string apart.

    Source: https://learn.microsoft.com/azure/storage/common/storage-configure-connection-string
    """
    parts = dict(part.split("=", 1) for part in text.split(";") if "=" in part)
    if "UseDevelopmentStorage" in parts:
        raise SourceError(
            "UseDevelopmentStorage names an emulator without its address; give the connection "
            "string that the emulator prints"
        )
    account = parts.get("AccountName", "")
    suffix = parts.get("EndpointSuffix", "core.windows.net")
    scheme = parts.get("DefaultEndpointsProtocol", "https")
    endpoint = parts.get("BlobEndpoint") or f"{scheme}://{account}.blob.{suffix}"
    found = {
        "account_name": account,
        "account_key": parts.get("AccountKey", ""),
        "sas_token": parts.get("SharedAccessSignature", "").removeprefix("?"),
        "endpoint": endpoint.rstrip("/"),
    }
    return {name: value for name, value in found.items() if value}


def http_settings(url: str, options: StorageOptions) -> Settings:
    """Return the settings of a server of files."""
    if options.config:
        names = ", ".join(map(repr, options.config))
        raise SourceError(f"storage_options has {names}, which an HTTP server does not take")
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    headers = {"Authorization": _basic(user)} if user else {}
    plain = parts.scheme == "http"
    root = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return Settings(root, {}, plain, _ca_file(options, "REQUESTS_CA_BUNDLE"), headers)


def _basic(user: str) -> str:
    """Return the header of a user and password that a URL names, quoted: RFC 7617."""
    return "Basic " + base64.b64encode(unquote_to_bytes(user)).decode()


_SETTINGS: Mapping[str, Callable[[str, StorageOptions], Settings]] = {
    "s3": s3_settings,
    "gs": gcs_settings,
    "az": azure_settings,
    "http": http_settings,
}


def settings_of(location: Location, options: StorageOptions) -> Settings:
    """Return the settings of a location's store; this may read files.

    Raises:
        SourceError: there can be none with these options.
    """
    try:
        return _SETTINGS[location.scheme](location.root, options)
    except SourceError as error:
        error.uri = location.uri
        raise
