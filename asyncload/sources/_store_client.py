"""Makes obstore's clients: of each kind of store, with our options and retries."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from obstore import exceptions
from obstore.store import AzureStore, GCSStore, S3Store

from asyncload.errors import SourceError

from ._client_errors import translated
from ._http_client import HttpClient
from ._location import Location
from ._object_requests import Client, ObjectStore
from ._storage_options import StorageOptions
from ._store_settings import Settings

__all__ = ["make_store"]

# Each pause is between the first and three times the last, at random ("decorrelated jitter": AWS
# Architecture Blog, Exponential Backoff and Jitter). Ten take 13 s, as often more as less: with two
# times the last it would be 3 s, and a server takes longer than that to start again.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 15.0  # seconds
_GROWTH = 3
# Where clouds hand out credentials, which is not where the objects are.
_CREDENTIALS_FROM = (
    "169.254.169.254,169.254.170.2,169.254.170.23,metadata.google.internal,.amazonaws.com,"
    ".googleapis.com,.microsoftonline.com"
)


def make_store(
    location: Location,
    settings: Settings,
    options: StorageOptions,
    place: str,
    http: HttpClient,
    proxy: str | None,
) -> ObjectStore:
    """Make the store of a location; this reads files, and takes some milliseconds.

    Raises:
        SourceError: it cannot be made with these options.
    """
    secrets = (*options.secrets(), *settings.secrets())
    try:
        client = _client(location.scheme, settings, options, proxy)
    except exceptions.BaseError as error:
        failure = translated(error, location.uri, secrets=secrets)
    else:
        return ObjectStore(client, options, settings, place, secrets, http)
    raise failure


def _client(kind: str, settings: Settings, options: StorageOptions, proxy: str | None) -> Client:
    shared: dict[str, Any] = {
        "client_options": _client_options(settings, options, proxy),
        "retry_config": _retries(options),
    }
    config: Any = settings.config
    match kind:
        case "s3":
            return S3Store(settings.root, config=config, **shared)
        case "gs":
            return GCSStore(settings.root, config=config, **shared)
        case "az":
            return AzureStore(settings.root, config=config, **shared)
        case _:
            raise ValueError(f"no client of ours speaks to {kind}")


def _client_options(
    settings: Settings, options: StorageOptions, proxy: str | None
) -> dict[str, Any]:
    timeouts = options.timeouts
    chosen: dict[str, Any] = {
        "allow_http": settings.plain,
        "connect_timeout": dt.timedelta(seconds=timeouts.connect),
        "read_timeout": dt.timedelta(seconds=timeouts.read),
        "timeout": dt.timedelta(seconds=timeouts.total),
    }
    if headers := {**settings.headers, **options.headers}:
        chosen["default_headers"] = headers
    if proxy is not None:
        chosen["proxy_url"] = proxy
        chosen["proxy_excludes"] = _CREDENTIALS_FROM
    if settings.ca_file is not None:
        chosen["root_certificate"] = _read(settings.ca_file)
    return chosen


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SourceError(f"the certificates in {path!r} cannot be read: {error}") from error


def _retries(options: StorageOptions) -> dict[str, Any]:
    return {
        "max_retries": options.retries,
        "retry_timeout": dt.timedelta(seconds=options.timeouts.total),
        "backoff": {
            "init_backoff": dt.timedelta(seconds=_FIRST_PAUSE),
            "max_backoff": dt.timedelta(seconds=_LONGEST_PAUSE),
            "base": _GROWTH,
        },
    }
