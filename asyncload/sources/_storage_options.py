"""`StorageOptions`: what ``storage_options={}`` may say, checked, and its defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

__all__ = ["StorageOptions", "Timeouts"]

PART = 8 << 20  # bytes of one request

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a store may take, in seconds.

    Attributes:
        connect: until a connection is there.
        read: between two pieces of an answer: what stalls for longer is cut, and asked for again.
        total: for one request and all its retries.
    """

    connect: float = 5.0
    read: float = 15.0
    total: float = 120.0

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ValueError(f"timeouts[{each.name!r}] is seconds above 0, not {value!r}")


@dataclass(frozen=True, slots=True)
class StorageOptions:
    """How a store is reached; `StorageOptions.parse` makes it.

    Attributes:
        endpoint: URL of the service, where it is not the provider's own.
        region: of the bucket (S3).
        profile: of the AWS files to read (S3).
        anonymous: send no credentials.
        headers: sent with each request.
        ca_file: path of certificates (PEM) that are trusted beside the usual ones.
        timeouts: see `Timeouts`.
        retries: how often a request is sent again at most.
        concurrency: requests in flight at once; ``None`` for as many as the link rewards.
        part_size: bytes of one request.
        config: whatever else obstore's store of this kind takes, credentials among it.
    """

    endpoint: str | None = field(default=None, repr=False)  # may have a password
    region: str | None = None
    profile: str | None = None
    anonymous: bool | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: int = 10
    concurrency: int | None = None
    part_size: int = PART
    config: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> StorageOptions:
        """Return the options that a mapping has.

        Raises:
            ValueError: one has a value that it cannot have; ``config`` is judged by the store.
        """
        known = {each.name for each in fields(cls)} - {"config"}
        own = {name: value for name, value in options.items() if name in known}
        config = {name: value for name, value in options.items() if name not in known}
        _expect(own, str, "endpoint", "region", "profile", "ca_file")
        _expect(own, bool, "anonymous")
        _expect(own, Mapping, "headers", "timeouts")
        for name in ("concurrency", "part_size", "retries"):
            value, least = own.get(name), 0 if name == "retries" else 1
            if value is not None and (type(value) is not int or value < least):
                raise ValueError(f"storage_options[{name!r}] is {least} or more, not {value!r}")
        if "headers" in own:
            _expect_headers(own["headers"] or {})
        if "timeouts" in own:
            own["timeouts"] = _timeouts(own["timeouts"])
        return cls(**{k: v for k, v in own.items() if v is not None}, config=config)

    def secrets(self) -> list[str]:
        """Return the texts in it that no message may show."""
        values = [*self.headers.values(), *self.config.values()]
        return [value for value in values if isinstance(value, str) and len(value) > 3]


def _expect(own: Mapping[str, Any], kind: type, *names: str) -> None:
    for name in names:
        value = own.get(name)
        if value is not None and not isinstance(value, kind):
            found = type(value).__name__  # the value may be a secret
            raise ValueError(f"storage_options[{name!r}] is a {kind.__name__}, not a {found}")


def _expect_headers(headers: Mapping[Any, Any]) -> None:
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"storage_options['headers'] has {name!r}, which is no header's name")
        if not isinstance(value, str) or _CONTROL.search(value):  # which may be a secret
            raise ValueError(f"storage_options['headers'][{name!r}] is a text of one line")


def _timeouts(given: Mapping[str, Any]) -> Timeouts:
    known = [each.name for each in fields(Timeouts)]
    if unknown := [name for name in given if name not in known]:
        raise ValueError(
            f"storage_options['timeouts'] has {', '.join(map(repr, unknown))}; expected "
            f"{', '.join(map(repr, known))}, in seconds"
        )
    return Timeouts(**given)
