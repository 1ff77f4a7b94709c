"""By what kept objects are told apart: digests that hold no credentials."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import re
from urllib.parse import urlsplit, urlunsplit

from asyncload.redaction import shown

from ._location import Location
from ._object_version import Version
from ._storage_options import StorageOptions
from ._store_settings import Settings, settings_of

__all__ = ["digest_of", "is_lasting", "place_of", "placed"]

FORM = 3  # to be counted up when kept files get another form

# Parameters by which a URL is signed, for a while: those that tell that it is, all of which must be
# there, and those that go with them. Without the first, a server may mean anything by the others.
# S3 and Google (version 4), both (version 2), CloudFront, Azure.
_SIGNING = (
    ({"x-amz-signature"}, re.compile(r"x-amz-.+")),
    ({"x-goog-signature"}, re.compile(r"x-goog-.+")),
    ({"awsaccesskeyid", "signature"}, re.compile(r"awsaccesskeyid|signature|expires|x-amz-.+")),
    ({"googleaccessid", "signature"}, re.compile(r"googleaccessid|signature|expires")),
    ({"key-pair-id", "signature"}, re.compile(r"key-pair-id|signature|expires|policy")),
    ({"sv", "sig"}, re.compile(r"s[veptrsi]|sig|sip|spr|srt|sdd|skoid|sks|skt|ske|sktid|skv")),
)
# What of a store's settings says where it is, and not who asks.
_WHERE = re.compile(r"(?:^|_)(?:endpoint|base_url|account_name|region|use_emulator)")
# By other headers a server may choose what it sends.
_WHO = re.compile(r"auth|cookie|key|token|secret|passw|credential|sign|^user-agent$", re.IGNORECASE)
_AZURE_ACCOUNT = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
_AZURE_ENDPOINT = ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT")

# As in the index cache: what is written to twice within one tick of its file system's clock keeps
# its times, and with them the ETag that most servers make of these.
_SETTLED = dt.timedelta(seconds=2)


def place_of(location: Location, options: StorageOptions) -> str:
    """Return what names a bucket, container or server in all the world; this may read files.

    Raises:
        SourceError: the store's settings cannot be had.
    """
    return placed(location, settings_of(location, options), options)


def placed(location: Location, settings: Settings, options: StorageOptions) -> str:
    """Return what `place_of` does, of settings that are known."""
    if location.scheme == "http":
        chosen = sorted((k.lower(), v) for k, v in options.headers.items() if not _WHO.search(k))
        return json.dumps([FORM, "http", _unsigned(settings.root), chosen])
    where = {
        name: shown(str(value))
        for name, value in settings.config.items()
        if _WHERE.search(name) and isinstance(value, str | bool)
    }
    if location.scheme == "az":
        where |= _from_environment(settings)
    return json.dumps([FORM, location.scheme, location.root, sorted(where.items())])


def _from_environment(settings: Settings) -> dict[str, str]:
    """Return what obstore reads for itself, where the settings do not say."""
    found = {}
    for name, variables in (("account_name", _AZURE_ACCOUNT), ("endpoint", _AZURE_ENDPOINT)):
        value = next((os.environ[each] for each in variables if os.environ.get(each)), None)
        if value and not any(name in key for key in settings.config):
            found[name] = shown(value)
    return found


def _unsigned(url: str) -> str:
    """Return a URL without what signs it; what is left is as it was, byte for byte."""
    parts = urlsplit(url)
    query = parts.query.split("&")
    names = [pair.partition("=")[0].lower() for pair in query]
    signing = [pattern for proof, pattern in _SIGNING if proof.issubset(names)]
    kept = [
        pair
        for pair, name in zip(query, names, strict=True)
        if not any(pattern.fullmatch(name) for pattern in signing)
    ]
    return urlunsplit(parts._replace(query="&".join(kept)))


def digest_of(place: str, path: str, version: Version | None = None) -> bytes:
    """Return 32 bytes that name an object, or one version of it.

    Args:
        place: as `place_of` has it.
        path: of the object there.
        version: of it; ``None`` for what is kept of the path whatever its version.
    """
    parts = [place, path]
    if version is not None:
        modified = None if version.modified is None else version.modified.isoformat()
        parts += [str(version.size), f"{version.etag} {modified} {version.generation}"]
    return hashlib.sha256(json.dumps(parts).encode()).digest()


def is_lasting(version: Version, scheme: str, now: dt.datetime) -> bool:
    """Whether no other content will ever have this version.

    A weak ETag promises no equal bytes (RFC 9110, 8.8.1), and a server's files may change twice
    within a second, after which their times are as they were.

    Args:
        version: of the object.
        scheme: the kind of its store.
        now: in UTC.
    """
    strong = version.etag is not None and not version.etag.startswith("W/")
    if version.modified is None:
        return strong
    if scheme != "http":
        return strong
    return version.modified < now - _SETTLED
